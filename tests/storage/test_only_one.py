"""What only one process may do: refused with its number, free again however it ends."""

import multiprocessing
import os
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tspace_core.errors import WriterBusyError
from tspace_core.storage.only_one import only_one

PATIENCE_S = 60.0


def busy(holder: str) -> WriterBusyError:
    return WriterBusyError(f"held by {holder}")


def _hold(path: str, told: Connection) -> None:
    with only_one(Path(path), busy):
        told.send("held")
        told.recv()


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.lock"
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_hold, args=(str(path), theirs))
    process.start()
    assert ours.poll(PATIENCE_S)
    with pytest.raises(WriterBusyError, match=f"held by {process.pid}$"), only_one(path, busy):
        pass
    process.kill()
    process.join()
    with only_one(path, busy):
        assert path.read_text() == str(os.getpid())


def test_a_process_excludes_itself_and_lets_go_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with pytest.raises(KeyError), only_one(path, busy):
        with pytest.raises(WriterBusyError, match=f"held by {os.getpid()}$"), only_one(path, busy):
            pass
        raise KeyError
    with only_one(path, busy):
        assert path.exists()
