"""A run shows that it lives."""

import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tspace_core.online import heartbeat
from tspace_core.online.heartbeat import beat, beat_until_stopped, read_heartbeat
from tspace_core.supervision import Supervisor

PATIENCE_S = 60.0


def test_a_beat_says_who_what_and_when(tmp_path: Path) -> None:
    before = datetime.now(UTC)
    beat(tmp_path / "v", "twin_truck", "run-1", "episode 4", 4)
    found = read_heartbeat(tmp_path / "v")
    assert found is not None
    assert (found.vehicle_id, found.run_id, found.pid) == ("twin_truck", "run-1", os.getpid())
    assert (found.state, found.episode) == ("episode 4", 4)
    assert before <= found.at <= datetime.now(UTC)
    assert found.age_s(found.at + timedelta(seconds=7)) == 7.0


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff", b'{"pid": 1}'])
def test_what_is_no_beat_is_none(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / heartbeat.FILE).write_bytes(content)
    assert read_heartbeat(tmp_path) is None


def test_it_beats_until_the_run_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "EVERY_S", 0.01)
    beaten = threading.Event()
    looks: list[None] = []

    def look() -> tuple[str, int]:
        looks.append(None)
        if len(looks) >= 3:
            beaten.set()
        return f"look {len(looks)}", len(looks)

    with Supervisor("test") as supervisor:
        supervisor.start(
            "heartbeat", lambda: beat_until_stopped(supervisor, tmp_path, "twin_truck", "r", look)
        )
        assert beaten.wait(PATIENCE_S)
    assert supervisor.unfinished == []
    found = read_heartbeat(tmp_path)
    assert found is not None
    assert found.episode == len(looks)


def test_a_disk_that_is_full_for_a_beat_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(heartbeat, "EVERY_S", 0.01)
    tried = threading.Event()

    def full(path: Path, text: str) -> None:
        tried.set()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(heartbeat, "write_text", full)
    with Supervisor("test") as supervisor:
        supervisor.start(
            "heartbeat", lambda: beat_until_stopped(supervisor, tmp_path, "twin_truck", "r", lambda: ("", 0))
        )
        assert tried.wait(PATIENCE_S)
        assert not supervisor.stopping.is_set()
    assert "no heartbeat written" in caplog.text
