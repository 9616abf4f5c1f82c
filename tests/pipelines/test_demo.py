"""The demo: its plan, its lines, and the whole of it (slow)."""

import io
import re
import threading
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tspace_core.storage.lake import Lake
from tspace_pipelines import demo
from tspace_pipelines.progress import Progress


def test_the_plan_has_every_driver_with_and_without_exploration() -> None:
    plan = demo.drives()
    assert {(drive.driver, drive.exploring) for drive in plan} == {
        (driver, exploring) for driver in demo.DRIVERS for exploring in (False, True)
    }
    for what in ("name", "seed", "start"):
        assert len({getattr(drive, what) for drive in plan}) == len(plan), what


class Told(io.StringIO):
    """A stream that tells when a text was written to it."""

    def __init__(self, awaited: str) -> None:
        super().__init__()
        self._awaited = awaited
        self.seen = threading.Event()

    def write(self, text: str) -> int:
        if self._awaited in text:
            self.seen.set()
        return super().write(text)


def test_a_long_step_is_named_again() -> None:
    stream = Told("still at: a long step")
    with Progress(stream, silence_s=0.01) as progress:
        progress.begin("a long step")
        assert stream.seen.wait(60.0)
    assert re.match(r"\[ +\d+ s\] a long step\n", stream.getvalue())


def test_lines_come_within_the_silence_a_person_bears() -> None:
    from tspace_pipelines.progress import SILENCE_S

    assert SILENCE_S * 9 / 8 < 10.0


def test_a_wrong_setting_ends_with_one_clear_line(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "VEHICLE", "no_such_truck")
    assert demo.main() == 1
    assert "no vehicle named 'no_such_truck'" in capsys.readouterr().out


def test_ctrl_c_ends_with_a_clear_word(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*words: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "_record", stopped)
    assert demo.main() == 130
    assert "stopped" in capsys.readouterr().out.splitlines()[-1]
    assert not list(data_dir.rglob("*.blf"))


def stamps(folder: Path) -> dict[Path, int]:
    """Times of change of all logs and tables."""
    found = [path for path in folder.rglob("*") if path.suffix in (".parquet", ".blf")]
    return {path: path.stat().st_mtime_ns for path in found}


@pytest.mark.slow
def test_the_whole_demo_twice(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(PROJECT))
    assert demo.main() == 0
    first = capsys.readouterr().out
    times = [int(time) for time in re.findall(r"^\[ *(\d+) s\]", first, flags=re.MULTILINE)]
    assert max(later - earlier for earlier, later in pairwise(times)) <= 10
    report = tmp_path / "out" / "demo" / "report.html"
    assert str(report) in first and "policy" in report.read_text()

    lake = Lake(data_dir)
    assert len(lake.raw_logs()) == len(demo.drives())
    content = stamps(data_dir)
    assert demo.main() == 0
    assert "agent and report are up to date" in capsys.readouterr().out
    assert stamps(data_dir) == content
    assert len(list(lake.replay(demo.VEHICLE).iterdir())) == 1
