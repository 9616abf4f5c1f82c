"""One writer and many readers of a catalogue, in processes of their own: no reader meets a lock."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.storage import catalogue_work as work
from tspace_core.errors import WriterBusyError
from tspace_core.storage import catalogue_lock
from tspace_core.storage.catalogue import Catalogue
from tspace_core.storage.catalogue_lock import only_writer
from tspace_core.storage.lake import Lake

CLEAN = multiprocessing.get_context("forkserver")
CLEAN.set_forkserver_preload(["tests.storage.catalogue_work", "duckdb"])  # imported once for all processes
READERS, REFRESHES = 3, 8
COUNT = "SELECT count(*) FROM episodes"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    found = Lake(tmp_path / "lake")
    work.store(found, 0)
    return found


@pytest.fixture
def catalogue(lake: Lake, tmp_path: Path) -> Catalogue:
    found = Catalogue(tmp_path / "c.duckdb", lake)
    found.refresh()
    return found


@pytest.fixture
def started() -> Iterator[Callable[..., ForkServerProcess]]:
    """Starts a process; all of them are ended and waited for."""
    with ExitStack() as stack:

        def start(target: Callable[..., None], *arguments: Any, **named: Any) -> ForkServerProcess:
            process = CLEAN.Process(target=target, args=arguments, kwargs=named, daemon=True)
            process.start()
            stack.callback(process.join, work.LONGEST_S)
            stack.callback(process.kill)
            return process

        yield start


def leftovers(path: Path) -> list[str]:
    return sorted(item.name for item in path.parent.iterdir() if ".tmp" in item.name or ".wal" in item.name)


def received(pipe: Any) -> Any:
    assert pipe.poll(work.LONGEST_S), "the other process said nothing"
    return pipe.recv()


def test_readers_never_fail_and_each_answer_is_of_one_refresh(
    lake: Lake, catalogue: Catalogue, started: Callable[..., ForkServerProcess]
) -> None:
    written, changed, stop = CLEAN.Value("i", 0), CLEAN.Condition(), CLEAN.Event()
    pipes = []
    for _ in range(READERS):
        mine, theirs = CLEAN.Pipe()
        started(work.read_in_loop, Path(str(lake.root)), catalogue.path, written, changed, stop, theirs)
        pipes.append(mine)
    for number in range(1, REFRESHES + 1):
        work.store(lake, number)
        assert catalogue.refresh().number == number + 1
        with changed:
            written.value = number
            changed.notify_all()
    stop.set()
    with changed:
        changed.notify_all()
    answers = [received(pipe) for pipe in pipes]
    assert all(isinstance(count, int) for count in answers), answers
    assert leftovers(catalogue.path) == []
    assert catalogue.query(COUNT).item() == work.PIECES * (REFRESHES + 1)


@pytest.mark.parametrize("mode", ["read", "write"])
def test_another_program_that_has_the_file_open_stops_nobody(
    lake: Lake, catalogue: Catalogue, started: Callable[..., ForkServerProcess], mode: str
) -> None:
    ready, go_on = CLEAN.Event(), CLEAN.Event()
    mine, theirs = CLEAN.Pipe()
    started(work.hold, catalogue.path, mode=mode, ready=ready, go_on=go_on, say=theirs)
    assert ready.wait(work.LONGEST_S)
    assert catalogue.query(COUNT).item() == work.PIECES
    work.store(lake, 1)
    assert catalogue.refresh().number >= 1
    assert catalogue.query(COUNT).item() == 2 * work.PIECES
    go_on.set()
    assert received(mine) == ([(work.PIECES,)], [(work.PIECES,)]), "it goes on with what it opened"
    assert catalogue.query(COUNT).item() == 2 * work.PIECES


@pytest.mark.parametrize("at", ["make_tables", "insert_read", "chmod"])
def test_a_writer_killed_in_mid_refresh_leaves_the_catalogue_before(
    lake: Lake, catalogue: Catalogue, started: Callable[..., ForkServerProcess], at: str
) -> None:
    work.store(lake, 1)
    before, reached = catalogue.path.read_bytes(), CLEAN.Event()
    process = started(work.stop_in_refresh, Path(str(lake.root)), catalogue.path, at, reached)
    assert reached.wait(work.LONGEST_S)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(work.LONGEST_S)
    assert catalogue.path.read_bytes() == before and leftovers(catalogue.path), "killed while it wrote"
    assert catalogue.query(COUNT).item() == work.PIECES
    done = catalogue.refresh()
    assert (done.number, done.files_read) == (2, 2), "the new episode's manifest and training log"
    assert catalogue.query(COUNT).item() == 2 * work.PIECES
    assert leftovers(catalogue.path) == []


def test_a_second_writer_waits_for_the_first_but_not_for_ever(
    lake: Lake, catalogue: Catalogue, started: Callable[..., ForkServerProcess]
) -> None:
    ready, go_on = CLEAN.Event(), CLEAN.Event()
    started(work.keep_locked, catalogue.path, ready, go_on)
    assert ready.wait(work.LONGEST_S)
    with pytest.raises(WriterBusyError, match=r"for longer than 0\.05 s.*wait until it is done"):
        catalogue.refresh(wait_s=0.05)
    mine, theirs = CLEAN.Pipe()
    begun = CLEAN.Event()
    started(work.refresh, Path(str(lake.root)), catalogue.path, theirs, begun)
    assert begun.wait(work.LONGEST_S) and not mine.poll(0)
    assert catalogue.query(COUNT).item() == work.PIECES, "readers do not wait for a writer"
    go_on.set()
    found = received(mine)
    assert (found.number, found.files_read) == (1, 0), "there was nothing new"


def test_a_wait_that_was_given_up_holds_no_lock(
    catalogue: Catalogue, started: Callable[..., ForkServerProcess]
) -> None:
    ready, go_on = CLEAN.Event(), CLEAN.Event()
    holder = started(work.keep_locked, catalogue.path, ready, go_on)
    assert ready.wait(work.LONGEST_S)
    with pytest.raises(WriterBusyError):
        catalogue.refresh(wait_s=0.0)
    go_on.set()
    holder.join(work.LONGEST_S)
    assert catalogue.refresh(wait_s=work.LONGEST_S).number == 1


class Interrupted(threading.Event):
    """Ctrl-C comes while it is waited for."""

    def wait(self, timeout: float | None = None) -> bool:
        raise KeyboardInterrupt


def test_a_wait_that_was_interrupted_holds_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "it.lock"
    with only_writer(path, "it", wait_s=0.0), monkeypatch.context() as patch:
        patch.setattr(
            catalogue_lock,
            "threading",
            SimpleNamespace(Event=Interrupted, Lock=threading.Lock, Thread=threading.Thread),
        )
        with pytest.raises(KeyboardInterrupt), only_writer(path, "it", wait_s=work.LONGEST_S):
            pass
    with only_writer(path, "it", wait_s=work.LONGEST_S):
        assert path.exists()
