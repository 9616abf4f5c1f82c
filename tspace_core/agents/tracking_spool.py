"""What training told its tracker, on this disk before anything is sent: lines of JSON, and pictures.

::

    <data_dir>/tracking/
        local-<time>-<random>/      a run, until its tracking store has all of it
            events.jsonl            start, metrics, figure and finish, in their order
            state.json              how far it was sent, and the run's id in the store
            refused.jsonl           what the store does not take, with the reason
            figures/0001/<name>     pictures

Only whole lines count: what a killed writer left of a line is cut off by the next one. One process writes a
run and one sends it, not always the same; locks on files see to that, and die with their process.
"""

import fcntl
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tspace_core.errors import StorageError
from tspace_core.storage.files import atomic_write, sync, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_log = logging.getLogger(__name__)

LOCAL = "local-"
"""Ids of runs that a store has not given an id yet begin with this."""
SYNC_S = 1.0
"""Lines are at the operating system at once, and on the disk after this time at the latest."""
EVENTS, STATE, REFUSED, FIGURES = "events.jsonl", "state.json", "refused.jsonl", "figures"


class SpoolState(BaseModel):
    """How far a run was sent."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sent: int = 0
    """Bytes of the events that the store has."""
    run_id: str | None = None
    """In the store; None: it has none yet."""
    attempted: bool = False
    """Whether a run may have been made there, though nobody heard its id."""
    gone: str | None = None
    """A run that was removed from the store, and for which another one was made."""


@dataclass(frozen=True)
class Event:
    """One line; ``end`` is the number of bytes up to and with it."""

    kind: str
    values: Mapping[str, Any]
    end: int


class SpooledRun:
    """One run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def key(self) -> str:
        """The run's id until a store has given it one, and its tag there."""
        return self.folder.name

    @property
    def state(self) -> SpoolState:
        """How far it was sent; one that cannot be read says: not at all (what is sent twice counts once)."""
        try:
            return SpoolState.model_validate_json((self.folder / STATE).read_bytes())
        except FileNotFoundError:
            return SpoolState()
        except ValidationError:
            _log.warning("%s is damaged: the run is sent from its beginning", self.folder / STATE)
            return SpoolState(attempted=True)

    def keep(self, state: SpoolState) -> None:
        """Note how far it was sent."""
        write_text(self.folder / STATE, state.model_dump_json())

    def events(self, begin: int = 0) -> Iterator[Event]:
        """The whole lines from a byte on; one that is no JSON is left out, with a word in the log."""
        with suppress_missing(self.folder / EVENTS) as file:
            if file is None:
                return
            file.seek(begin)
            end = begin
            for line in file:
                if not line.endswith(b"\n"):
                    return
                end += len(line)
                try:
                    values = json.loads(line)
                    yield Event(values.pop("event"), values, end)
                except (ValueError, KeyError, AttributeError):
                    _log.warning("%s: a damaged line before byte %d", self.folder / EVENTS, end)
                    yield Event("damaged", {"line": line.decode(errors="replace")}, end)

    def first(self) -> Mapping[str, Any] | None:
        """What the run began with; None: nothing."""
        return next((event.values for event in self.events() if event.kind == "start"), None)

    def refuse(self, event: Event, reason: str) -> None:
        """Put aside what the store will never take."""
        line = json.dumps({"event": event.kind, **event.values, "reason": reason})
        with (self.folder / REFUSED).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

    @property
    def pending(self) -> int:
        """Bytes of whole lines that are not sent."""
        with suppress_missing(self.folder / EVENTS) as file:
            if file is None:
                return 0
            file.seek(self.state.sent)
            return file.read().rfind(b"\n") + 1

    @contextmanager
    def locked(self, name: str) -> Iterator[bool]:
        """Hold ``name`` of this run, if nobody else does; yields whether it is held."""
        try:
            file = (self.folder / f"{name}.lock").open("w")
        except FileNotFoundError:  # sent and removed meanwhile
            yield False
            return
        with file:
            yield _lock(file) and self.folder.is_dir()


@contextmanager
def suppress_missing(path: Path) -> Iterator[IO[bytes] | None]:
    """The file, open for reading, or None where it is not there."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        yield None
        return
    with file:
        yield file


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class SpoolWriter:
    """Writes one run; holds it until ``close``.

    What cannot be written (a full disk) is kept in memory and tried again with the next line: training
    must not end because of it.
    """

    def __init__(self, run: SpooledRun, lock: IO[str]) -> None:
        self.run = run
        self._lock = lock
        self._waiting: list[bytes] = []
        self._told = False
        self._synced = time.monotonic()
        self._figures = len(list((run.folder / FIGURES).glob("*")))
        self._file = (run.folder / EVENTS).open("ab", buffering=0)
        self._cut_torn_line()
        sync(run.folder)

    def _cut_torn_line(self) -> None:
        path = self.run.folder / EVENTS
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            _log.warning("%s: %d bytes of a line that was never finished", path, len(content) - whole)
            self._file.truncate(whole)

    def add(self, event: str, values: Mapping[str, Any], *, durable: bool = False) -> None:
        """Write one line; ``durable``: wait until it is on the disk."""
        line = json.dumps({"event": event, **values}, default=str)
        self._waiting.append(line.encode() + b"\n")
        try:
            # Of a line that was written in part, the rest is still to be written.
            while self._waiting:
                written = self._file.write(self._waiting[0])
                self._waiting[0] = self._waiting[0][written:]
                if not self._waiting[0]:
                    self._waiting.pop(0)
            if durable or time.monotonic() - self._synced >= SYNC_S:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            if not self._told:
                _log.warning("%s: %s; what is tracked waits in memory", self.run.folder, error)
            self._told = True

    def figure(self, figure: "Figure", name: str) -> None:
        """Keep a picture."""
        self._figures += 1
        place = Path(FIGURES, f"{self._figures:04d}", Path(name).name)
        try:
            with atomic_write(self.run.folder / place) as temporary:
                figure.savefig(temporary, format=place.suffix.lstrip(".") or "png")
        except OSError as error:
            _log.warning("%s: the picture %s cannot be kept: %s", self.run.folder, name, error)
            return
        self.add("figure", {"path": str(place), "name": name}, durable=True)

    @property
    def complete(self) -> bool:
        """Whether all that was told is written."""
        return not self._waiting

    def close(self) -> None:
        """Let others write the run."""
        if not self.complete:
            _log.warning("%s: the last %d lines could not be written", self.run.folder, len(self._waiting))
        self._file.close()
        self._lock.close()


class Spool:
    """All runs that are not sent in full, ``<data_dir>/tracking``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def runs(self) -> list[SpooledRun]:
        """In the order in which they began."""
        if not self.folder.is_dir():
            return []
        return [SpooledRun(path) for path in sorted(self.folder.iterdir()) if path.name.startswith(LOCAL)]

    def writer(self, resume: str | None = None) -> SpoolWriter:
        """Begin to write a run, or go on with one that is known by its id, here or in the store.

        Raises:
            StorageError: the folder cannot be written.
        """
        try:
            with self._structure():
                run = self._find(resume) or self._new(resume)
                lock = (run.folder / "writer.lock").open("w")
                if not _lock(lock):
                    lock.close()
                    _log.warning("%s is written by another process: this one is kept beside it", run.folder)
                    run = self._new(None)
                    lock = (run.folder / "writer.lock").open("w")
                    _lock(lock)
                return SpoolWriter(run, lock)
        except OSError as error:
            message = (
                f"{self.folder}: what is tracked cannot be kept there ({error}); make room, or correct it"
            )
            raise StorageError(message) from error

    def _find(self, resume: str | None) -> SpooledRun | None:
        if resume is None:
            return None
        for run in self.runs():
            if run.key == resume or run.state.run_id == resume:
                return run
        return None

    def _new(self, key: str | None) -> SpooledRun:
        if key is None or not key.startswith(LOCAL):
            key = f"{LOCAL}{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{secrets.token_hex(4)}"
        folder = self.folder / Path(key).name
        folder.mkdir(parents=True)
        sync(self.folder)
        return SpooledRun(folder)

    def remove(self, run: SpooledRun) -> bool:
        """Remove a run, unless somebody writes it or it is not sent in full; whether it is gone."""
        with self._structure(), run.locked("writer") as mine:
            if not mine or run.pending or (run.folder / REFUSED).is_file():
                return False
            gone = run.folder.with_name(f".{run.key}.sent")
            run.folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
        return True

    @contextmanager
    def _structure(self) -> Iterator[None]:
        """Nobody else makes or removes runs meanwhile."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
