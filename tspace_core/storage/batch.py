"""Batches: the same work for many partitions, each a unit of work, in parallel and resumable.

::

    <lake>/batches/<name>/<partition>.json    the partition is done; in the same commit as what it produced
           metrics/<name>/<unit id>.json      its numbers, likewise

What is done is not done again: a batch that was stopped, killed or partly failed goes on when it is run
again. A partition that fails costs only itself; nothing of it is visible.
"""

import json
import multiprocessing
import os
import pickle
import re
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import quote

from tspace_core.errors import ObjectExistsError, StorageError
from tspace_core.objects.path import AnyPath
from tspace_core.storage.files import read_version
from tspace_core.storage.folders import file_sizes
from tspace_core.storage.lake import Lake
from tspace_core.storage.unit_of_work import UnitOfWork, finish_units
from tspace_core.storage.writer import Writer

Work = Callable[[Lake, str, Writer], Mapping[str, Any]]
BATCHES = "batches"
STOP_S = 30.0
"""Processes that were told to stop are killed after this time, s; nothing of their partitions is visible."""
_TELL_S = 0.5
"""They are told again after this time, s: Python overlooks a signal that comes as a system call begins."""
_ONE_THREAD = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "POLARS_MAX_THREADS",
)
_NAME = re.compile(r"\w[\w.\-]*")
_starting = threading.Lock()


@dataclass(frozen=True)
class BatchReport:
    """What became of the partitions of a batch.

    Attributes:
        name: of the batch.
        done: partitions done now, in the order in which they ended.
        skipped: partitions that were done before, or by someone else meanwhile.
        failed: what went wrong, by partition; they are tried again by the next run.
    """

    name: str
    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def run_batch(
    lake: Lake,
    name: str,
    partitions: Sequence[str],
    work: Work,
    *,
    workers: int = 1,
    again: bool = False,
    tell: Callable[[str], object] = lambda line: None,
) -> BatchReport:
    """Do ``work`` for each partition that is not done.

    Args:
        lake: that the work reads and writes.
        name: of the batch: one word of letters, digits and ``_.-``; other work needs another name.
        partitions: any texts; each once.
        work: is given the lake, a partition and the unit's writer, through which everything goes that it
            writes; returns the partition's numbers as strict JSON. With several workers it is a function at
            the top of a module.
        workers: processes of one thread each; 1 does the work in this process.
        again: do what is done already once more.
        tell: is told each partition that has ended.

    Raises:
        StorageError: the name or the work cannot be used, or the lake cannot be written.
        KeyboardInterrupt: it was stopped; what was done is done, and the next run goes on.
    """
    if not _NAME.fullmatch(name) or workers < 1:
        message = (
            f"batch {name!r} with {workers} workers: the name must be one word of letters, digits and _.-, "
            "and there must be at least one worker"
        )
        raise StorageError(message)
    finish_units(lake)
    report, wanted = BatchReport(name), list(dict.fromkeys(partitions))
    known = set() if again else {path.name for path in file_sizes(lake.root / BATCHES / name, "*.json")}
    todo = deque(item for item in wanted if _mark(lake, name, item).name not in known)
    left = set(todo)
    report.skipped.extend(item for item in wanted if item not in left)
    job = _Job(str(lake.root), lake.local, name, work, again)
    book = _Book(report, len(todo), tell)
    try:
        if workers == 1:
            for item in todo:
                book.enter(item, *_one(lake, job, item))
        elif todo:
            _Workers(job, todo, book).run(min(workers, len(todo)))
    except BaseException:
        tell(f"{name}: stopped, {book.ended} of {book.total} partitions have ended; run it again to go on")
        raise
    return report


@dataclass(frozen=True)
class _Job:
    """What a worker needs to know."""

    root: str
    local: Path
    name: str
    work: Work
    again: bool


class _Book:
    """Keeps the report."""

    def __init__(self, report: BatchReport, total: int, tell: Callable[[str], object]) -> None:
        self.total, self.ended = total, 0
        self._report, self._tell = report, tell

    def enter(self, partition: str, outcome: str, detail: str) -> None:
        """Note how a partition ended."""
        self.ended += 1
        if outcome == "failed":
            self._report.failed[partition] = detail
        else:
            (self._report.done if outcome == "done" else self._report.skipped).append(partition)
        text = f": {detail}" if detail else ""
        self._tell(f"{self._report.name}: {self.ended} of {self.total}, {partition} {outcome}{text}")


def _mark(lake: Lake, name: str, partition: str) -> AnyPath:
    return lake.root / BATCHES / name / f"{quote(partition, safe='')}.json"


def _one(lake: Lake, job: _Job, partition: str) -> tuple[str, str]:
    """Do one partition; its outcome and what is to be said of it."""
    begun, mark = monotonic(), _mark(lake, job.name, partition)
    try:
        seen = read_version(mark)[1] if mark.is_file() else None
        if seen is not None and not job.again:
            return "skipped", "done by someone else meanwhile"
        with UnitOfWork(lake, name=f"batch {job.name}, partition {partition}") as unit:
            values = dict(job.work(lake, partition, unit))
            seconds = round(monotonic() - begun, 3)
            note = {"partition": partition, "unit": unit.id, "at": datetime.now(UTC).isoformat()}
            # Two runs of one batch: the later one of a partition gives way, with all it wrote.
            unit.text(mark, json.dumps(note, indent=1), if_absent=seen is None, seen=seen)
            unit.metrics(job.name, {**values, "partition": partition, "seconds": seconds})
    except ObjectExistsError as error:
        if not job.again and mark.is_file():
            return "skipped", "done by someone else meanwhile"
        return "failed", str(error)
    except Exception as error:
        # Whatever is wrong with one partition, the others are still to be done.
        known = isinstance(error, (StorageError, OSError))
        return "failed", str(error) if known else f"{type(error).__name__}: {error}"
    return "done", f"{seconds:g} s"


class _Workers:
    """Processes that do partitions, fed one at a time; one that dies is replaced."""

    def __init__(self, job: _Job, todo: deque[str], book: _Book) -> None:
        self._job, self._todo, self._book = job, todo, book
        self._busy: dict[Connection, tuple[SpawnProcess, str]] = {}

    def run(self, workers: int) -> None:
        """Do all; KeyboardInterrupt and errors stop the processes, and nothing of what they do is visible."""
        try:
            for _ in range(workers):
                self._start()
            while self._busy:
                for ready in wait(list(self._busy)):
                    assert isinstance(ready, Connection)
                    self._ended(ready)
        finally:
            self._stop()

    def _start(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(theirs, self._job), name=f"batch {self._job.name}", daemon=True
        )
        try:
            with _one_thread():
                process.start()
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            message = (
                f"{self._job.work!r} cannot be given to another process ({error}): "
                "put it at the top of a module, or use one worker"
            )
            raise StorageError(message) from error
        finally:
            theirs.close()
        self._feed(ours, process)

    def _feed(self, connection: Connection, process: SpawnProcess) -> None:
        if not self._todo:
            with suppress(OSError):
                connection.send(None)
            process.join(STOP_S)
            connection.close()
            return
        partition = self._todo.popleft()
        self._busy[connection] = (process, partition)
        with suppress(OSError):  # it has died: noticed at the next look
            connection.send(partition)

    def _ended(self, connection: Connection) -> None:
        process, partition = self._busy.pop(connection)
        try:
            outcome, detail = connection.recv()
        except (EOFError, OSError):
            process.join(STOP_S)
            connection.close()
            code = process.exitcode
            how = f"killed by signal {-code}" if code is not None and code < 0 else f"ended with {code}"
            self._book.enter(partition, "failed", f"its process was {how}")
            if self._todo:
                self._start()
            return
        self._book.enter(partition, outcome, detail)
        self._feed(connection, process)

    def _stop(self) -> None:
        deadline = monotonic() + STOP_S
        processes = [process for process, _ in self._busy.values()]
        while (alive := [process for process in processes if process.is_alive()]) and monotonic() < deadline:
            for process in alive:
                process.terminate()
            wait([process.sentinel for process in alive], _TELL_S)
        for connection, (process, _) in self._busy.items():
            process.kill()
            process.join()
            connection.close()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Processes started in this block use one thread each: there are as many of them as are wanted."""
    with _starting:
        before = {name: os.environ.get(name) for name in _ONE_THREAD}
        os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _serve(connection: Connection, job: _Job) -> None:
    """A worker's whole life."""

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # told again, while it clears up
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who started it says when to stop
    signal.signal(signal.SIGTERM, stop)
    lake = Lake(job.root, local=job.local)
    with suppress(KeyboardInterrupt, EOFError, OSError):
        while (partition := connection.recv()) is not None:
            connection.send(_one(lake, job, partition))
