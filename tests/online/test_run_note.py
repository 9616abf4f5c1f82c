"""A run's note in the lake, from begin to end."""

import threading
import time
from pathlib import Path

import pytest

from tspace_core.config import load_vehicle
from tspace_core.online import run_note
from tspace_core.online.run_note import RunNote
from tspace_core.storage.lake import Lake
from tspace_core.storage.online_runs import runs_between
from tspace_core.supervision import Supervisor

TRUCK = load_vehicle("twin_remote")
YEAR_NS = 365 * 86_400 * 10**9


def spans(lake: Lake) -> list[tuple[int, int]]:
    now = time.time_ns()
    return runs_between(lake, TRUCK.id, now - YEAR_NS, now + YEAR_NS)


def test_a_run_is_noted_from_its_begin_to_its_stop(tmp_path: Path) -> None:
    lake, before = Lake(tmp_path), time.time_ns()
    supervisor = Supervisor("test")
    note = RunNote(lake, TRUCK, "run-1")
    ((begun, presumed),) = spans(lake)
    assert before <= begun <= time.time_ns() < presumed, "a run that goes on is not over yet"
    supervisor.start("run_note", lambda: note.keep(supervisor))
    supervisor.stop("exit")
    assert supervisor.join(30.0) == []
    ((_, ended),) = spans(lake)
    assert begun <= ended <= time.time_ns()


def test_a_lake_that_is_gone_ends_no_drive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run_note, "EVERY_S", 0.01)
    note, supervisor = RunNote(Lake(tmp_path), TRUCK, "run-1"), Supervisor("test")
    tried = threading.Event()

    def fails(*arguments: object) -> None:
        tried.set()
        message = "No space left on device"
        raise OSError(28, message)

    monkeypatch.setattr(run_note, "touch_run", fails)
    monkeypatch.setattr(run_note, "close_run", fails)
    supervisor.start("run_note", lambda: note.keep(supervisor))
    assert tried.wait(30.0)
    assert supervisor.cause is None
    supervisor.stop("exit")
    assert supervisor.join(30.0) == []
    assert supervisor.error is None
    assert "No space left" in caplog.text
