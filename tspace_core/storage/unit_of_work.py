"""Units of work: what a step produces becomes visible together, or not at all.

::

    with UnitOfWork(lake, name="batch night 7") as unit:
        store_online_episode(lake, vehicle, key, episodes, writer=unit)
        unit.metrics("night", {"episodes": 7})

Everything is staged, durable but invisible, until the block ends. Then one record, ``units/<id>.json``, is
written: with it the unit is committed, without it nothing of it has happened. What it says is then done,
which takes moments, and the record goes. Where the writer dies in between, the next unit, ``finish_units``,
``read_together`` or ``tspace doctor --repair`` does the rest. What a writer had staged that died before goes
in the same way: on a disk when it is dead, in a bucket when it was not heard of for a day.

Who reads one store sees its old state or its new one. Who reads two that belong together uses
``read_together``. What is written outside of units at the same place and moment is not held up: where it
comes between the look at a condition and the replacement, the unit's version is put aside below
``quarantine/units`` and ObjectExistsError says so.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Any, Self, TypeVar

from tspace_core.errors import ObjectExistsError, StorageError, UnitOfWorkError, WriterBusyError
from tspace_core.objects.path import AnyPath, S3Path
from tspace_core.storage import unit_bucket, unit_disk
from tspace_core.storage.lake import Lake
from tspace_core.storage.unit_log import Operation, new_id, records_in, way_of

T = TypeVar("T")

METRICS = "metrics"
_READS = 50
_PAUSE_S = 0.02
_NAME = re.compile(r"\w[\w.\-]*")
_current: ContextVar[str | None] = ContextVar("unit_of_work", default=None)


class UnitOfWork:
    """A ``Writer`` whose files and folders become visible together at the end of its block.

    An exception discards all of it. Threads may write into one unit side by side; each place once.

    Args:
        lake: that all of it belongs to.
        name: what it is, for people who find it in a message.
    """

    def __init__(self, lake: Lake, *, name: str = "") -> None:
        self.id = new_id()
        self.name = name or "unnamed"
        self.lake = lake
        self._unit: unit_disk.DiskUnit | unit_bucket.BucketUnit
        if isinstance(lake.root, S3Path):
            self._unit = unit_bucket.BucketUnit(lake.root, self.id, self.name)
        else:
            self._unit = unit_disk.DiskUnit(lake.root, self.id, self.name)
        self._numbers = itertools.count()
        self._operations: list[Operation] = []
        self._places: set[str] = set()
        self._at_end = ExitStack()
        self._open = False

    def __enter__(self) -> Self:
        """Begin; what others left unfinished is finished first.

        Raises:
            UnitOfWorkError: another unit is open here, or what was committed before cannot be finished.
            StorageError: the lake cannot be written.
        """
        other = _current.get()
        if other is not None:
            message = (
                f"the unit of work {self.name!r} is begun inside of {other!r}: units are not nested; give "
                "the open one as the writer"
            )
            raise UnitOfWorkError(message)
        with self._our_errors():
            self._unit.begin()
        _current.set(self.name)
        self._open = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Commit, or discard after an exception.

        Raises:
            ObjectExistsError: what was to be replaced or new is not as it was; nothing is visible.
            WriterBusyError: another unit is just replacing the same in a bucket; nothing is visible.
            UnitOfWorkError: it is committed and not all of it is visible yet; the message says what to do.
            StorageError: the lake cannot be written; nothing is visible.
        """
        self._open = False
        _current.set(None)
        with self._at_end:
            self._end(error)

    def at_end(self, call: Callable[[], object]) -> None:
        """Let something be called when this unit has ended, in whatever way: what it writes is then decided.

        Raises:
            UnitOfWorkError: it is not open.
        """
        if not self._open:
            message = f"the unit of work {self.name!r} is not open: write inside of its block"
            raise UnitOfWorkError(message)
        self._at_end.callback(call)

    def _end(self, error: BaseException | None) -> None:
        if error is not None or not self._operations:
            self._unit.discard()
            if isinstance(error, OSError):
                raise self._lost(error) from error
            return
        try:
            with self._our_errors():
                aside = self._unit.commit(self._operations)
        except BaseException:
            self._unit.discard()
            raise
        if aside:
            raise ObjectExistsError("; ".join(aside))

    @contextmanager
    def _our_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._lost(error) from error

    def _lost(self, error: OSError) -> StorageError:
        return StorageError(
            f"nothing of the unit of work {self.name!r} is visible in {self.lake.root} ({error}): make room "
            "or correct the rights, then do the same again"
        )

    @contextmanager
    def file(self, path: AnyPath, *, if_absent: bool = False, seen: str | None = None) -> Iterator[Path]:
        """Yield a path on this disk; what is written there becomes ``path`` when the unit is committed.

        Raises:
            UnitOfWorkError: the unit is not open, has this place already, or it is outside of the lake.
            StorageError: nothing was written; in a bucket: it cannot be staged.
            OSError: it cannot be staged, for example because the disk is full.
        """
        with self._place(path) as way, self._unit.stage_file(next(self._numbers), way) as (temporary, found):
            yield temporary
            if not temporary.is_file():
                message = f"nothing was written for {path}: the writer must write to the path it was given"
                raise StorageError(message)
        self._operations.append(found.model_copy(update={"if_absent": if_absent, "seen": seen}))

    def text(self, path: AnyPath, text: str, *, if_absent: bool = False, seen: str | None = None) -> None:
        """Let ``path`` hold ``text`` (UTF-8) when the unit is committed."""
        with self._place(path) as way:
            found = self._unit.stage_text(next(self._numbers), way, text)
        self._operations.append(found.model_copy(update={"if_absent": if_absent, "seen": seen}))

    @contextmanager
    def directory(self, path: AnyPath) -> Iterator[Path]:
        """Yield a folder on this disk to fill; it becomes ``path``, which must not exist, at the commit.

        In a bucket it must hold a ``manifest.json``.
        """
        with self._place(path) as way, self._unit.stage_folder(next(self._numbers), way) as (folder, found):
            yield folder
        self._operations.append(found)

    def remove(self, *paths: AnyPath) -> None:
        """Remove files and folders at the commit, after all else; what is not there is no error."""
        for path in paths:
            with self._place(path) as way:
                self._operations.append(Operation(do="remove", path=way))

    def metrics(self, name: str, values: Mapping[str, Any]) -> None:
        """Keep numbers of this unit, once a name: ``metrics/<name>/<unit id>.json``.

        Args:
            name: of the series; one word of letters, digits and ``_.-``.
            values: JSON by name; no number may be NaN or infinite, unknown is None.

        Raises:
            StorageError: the name or a value cannot be kept.
        """
        if not _NAME.fullmatch(name):
            message = f"metrics name {name!r} must be one word of letters, digits and _.-"
            raise StorageError(message)
        note = {"name": name, "unit": self.id, "work": self.name, "at": datetime.now(UTC).isoformat()}
        try:
            text = json.dumps({**note, "values": dict(values)}, indent=1, allow_nan=False)
        except (TypeError, ValueError) as error:
            message = f"metrics {name!r} of {self.name!r} are no strict JSON ({error}): give None for unknown"
            raise StorageError(message) from error
        self.text(self.lake.root / METRICS / name / f"{self.id}.json", text, if_absent=True)

    @contextmanager
    def _place(self, path: AnyPath) -> Iterator[str]:
        """The way of a place that this unit writes, for once."""
        if not self._open:
            message = f"the unit of work {self.name!r} is not open: write {path} inside of its block"
            raise UnitOfWorkError(message)
        way = way_of(self.lake.root, path)
        if way in self._places:
            message = f"{path} is written twice in the unit of work {self.name!r}: end the unit in between"
            raise UnitOfWorkError(message)
        self._places.add(way)
        try:
            yield way
        except BaseException:
            self._places.discard(way)
            raise


def finish_units(lake: Lake, *, silent_s: float | None = None) -> list[str]:
    """Do what was committed and not done, discard what was not committed by writers that are dead.

    Args:
        lake: whose units.
        silent_s: who has not been heard of for this time is taken for dead, s, default: a day; only in a
            bucket, on a disk the dead are known.

    Returns:
        What was done, a line each.

    Raises:
        UnitOfWorkError: a record is damaged, or what it says cannot be done now.
        StorageError: the lake cannot be written.
    """
    if isinstance(lake.root, S3Path):
        return unit_bucket.finish(lake.root, unit_bucket.ABANDONED_S if silent_s is None else silent_s)
    try:
        return unit_disk.finish(lake.root)
    except OSError as error:
        message = f"the units of work of {lake.root} cannot be finished ({error}): correct the rights"
        raise StorageError(message) from error


def read_together(lake: Lake, read: Callable[[], T]) -> T:
    """Read what several stores hold while no unit of work becomes visible in between.

    Args:
        lake: that is read.
        read: does it; called again where a unit became visible meanwhile.

    Raises:
        WriterBusyError: units were committed all the time.
        UnitOfWorkError: what a dead writer has committed cannot be finished.
    """
    root, pause = lake.root, Event()
    for attempt in range(_READS):
        if _pending(root):
            finish_units(lake, silent_s=float("inf"))
        before = _last_token(root)
        try:
            found = read()
        except (StorageError, OSError):
            # What was named may have been replaced under the reader's hands.
            if _pending(root) or _last_token(root) != before:
                continue
            raise
        # The records first: a unit that is done changes the token before its record goes.
        if not _pending(root) and _last_token(root) == before:
            return found
        pause.wait(_PAUSE_S * attempt)
    if isinstance(root, Path):
        with unit_disk.locked(root):
            unit_disk.finish_locked(root)
            return read()
    message = f"units of work became visible in {root} during each of {_READS} reads: try again later"
    raise WriterBusyError(message)


def _pending(root: AnyPath) -> bool:
    if isinstance(root, S3Path):
        return bool(unit_bucket.pending(root))
    return bool(records_in(root))


def _last_token(root: AnyPath) -> str:
    return unit_bucket.last_token(root) if isinstance(root, S3Path) else unit_disk.last_token(root)
