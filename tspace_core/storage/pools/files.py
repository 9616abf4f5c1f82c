"""Pools of files: a folder a vehicle and day, a file an episode, a manifest a log; on a disk or in a bucket.

::

    <area>/vehicle=<vehicle>/date=<date>/<log>.<12 hex digits>.<piece>.<suffix>
    <area>/vehicle=<vehicle>/date=<date>/<log>.episodes.json      names the visible ones

What is stored gets names that nobody has had before, so that no writer removes what another has just written.
"""

import os
import secrets
import shutil
from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tspace_core.config.settings import settings
from tspace_core.errors import (
    ObjectAccessError,
    ObjectExistsError,
    ObjectMissingError,
    ObjectServerError,
    PoolError,
    RecordError,
    SchemaVersionError,
    StorageError,
    WriterBusyError,
)
from tspace_core.objects.path import AnyPath, S3Path, any_path, local_copy
from tspace_core.objects.transfer import side_by_side
from tspace_core.records.episode import Episode, RecordFlag
from tspace_core.storage.episodes_stage import episode_entry
from tspace_core.storage.lake import EPISODES_SUFFIX, Lake
from tspace_core.storage.pools import manifests
from tspace_core.storage.pools.entry import Entry
from tspace_core.storage.pools.index import EpisodeIndex, index_file
from tspace_core.storage.pools.manifests import Content
from tspace_core.storage.pools.pool import Counts, GoneError, Pool, refuse_other
from tspace_core.storage.pools.query import Query
from tspace_core.storage.pools.sampling import Rows
from tspace_core.storage.unit_of_work import UnitOfWork, read_together
from tspace_core.storage.writer import Writer

T = TypeVar("T")
_TRIES = 50
_PAUSE_S = 0.02
_LOOKS = 5


@dataclass
class _Spooled:
    """An episode on this disk, about to be stored."""

    path: Path
    digest: str
    entry: Content


@dataclass
class _Manifest:
    """A manifest about to be replaced."""

    path: AnyPath
    before: Content | None
    seen: str | None
    add: list[_Spooled] = field(default_factory=list)
    drop: set[str] = field(default_factory=set)
    """Names of files."""

    @property
    def changed(self) -> bool:
        return bool(self.add or self.drop)


class FilePool(Pool):
    """Episodes as files; a kind of file gives ``area``, ``suffix`` and how it is written and read.

    Args:
        root: lake, or its root: a folder or ``s3://bucket/prefix``.
        writer: a unit of work that what is stored and deleted becomes visible with; each log can be changed
            once in it. Default: each call is a unit of its own.
    """

    area: str
    suffix: str
    kind: str

    def __init__(self, root: Lake | AnyPath | str, *, writer: Writer | None = None) -> None:
        super().__init__()
        self.lake = root if isinstance(root, Lake) else Lake(root)
        self._writer = writer
        self._folder = self.lake.root / self.area
        self._index = EpisodeIndex(
            index_file(self.lake.local, self._folder),
            self._folder,
            partial(read_together, self.lake),
            self._invalid_of,
        )

    def __str__(self) -> str:
        return f"{self.kind}:{self.lake.root}"

    @abstractmethod
    def _write_file(self, path: Path, episode: Episode) -> None:
        """Write an episode to a path on this disk."""

    @abstractmethod
    def _read_file(self, path: AnyPath) -> Episode:
        """Read the episode of a file."""

    def _read_times_and_flags(self, path: Path) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """(n,) times and (n,) flags of a file on this disk."""
        episode = self._read_file(path)
        return episode.times[:-1], episode.flags

    @abstractmethod
    def _read_rows(self, path: Path, rows: NDArray[np.int64]) -> Rows:
        """Rows of a file on this disk, ascending."""

    def read(self, episode_id: str) -> Episode:
        """An episode, bit for bit as it was stored.

        Raises:
            GoneError: there is none of this id.
            PoolError: its file is missing or damaged.
        """
        for look in range(_LOOKS):
            path = self._path_of(episode_id)
            try:
                return self._from(path, episode_id, self._read_episode)
            except GoneError:
                if look == _LOOKS - 1:
                    raise
        raise AssertionError

    def close(self) -> None:
        """Close the index; the pool can be used on."""
        self._index.close()

    def _entries(self, query: Query) -> list[Entry]:
        return self._index.find(query)

    def _known_counts(self, query: Query) -> Counts | None:
        found = self._index.count(query)
        return None if found is None else Counts(*found)

    def _version(self, query: Query) -> Hashable:
        return self._index.version(query)

    def _times_and_flags(self, entry: Entry) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        read = self._read_times_and_flags
        return self._from(any_path(entry.place), entry.episode_id, lambda path: read(local_copy(path)))

    def _rows(self, entry: Entry, rows: NDArray[np.int64]) -> Rows:
        read = self._read_rows
        return self._from(any_path(entry.place), entry.episode_id, lambda path: read(local_copy(path), rows))

    def _read_ahead(self, wanted: list[tuple[Entry, NDArray[np.int64]]]) -> None:
        """Fetch the files of a draw from a bucket side by side; what fails here fails again when read."""
        if isinstance(self.lake.root, S3Path) and len(wanted) > 1:

            def fetch(place: str) -> None:
                with suppress(StorageError):
                    local_copy(any_path(place))

            side_by_side(fetch, [entry.place for entry, _ in wanted])

    # Reading

    def _path_of(self, episode_id: str) -> AnyPath:
        key = episode_id.rpartition("#")[0]
        try:
            manifest = manifests.manifest_of(self.lake, self.area, key)
        except StorageError as error:
            message = (
                f"{self} holds no episode {episode_id!r}: an id has the form <vehicle>/<date>/<log>#<piece>"
            )
            raise PoolError(message) from error
        content, _ = manifests.read_manifest(manifest)
        for entry in content["episodes"] if content else ():
            if entry["meta"]["episode_id"] == episode_id:
                return manifest.parent / str(entry["file"])
        message = f"{self} holds no episode {episode_id!r}: look what there is with `tspace episodes`"
        raise GoneError(message)

    def _read_episode(self, path: AnyPath) -> Episode:
        return self._read_file(path)

    def _from(self, path: AnyPath, episode_id: str, read: Callable[[AnyPath], T]) -> T:
        """Read from an episode's file; where that fails, say why."""
        try:
            return read(path)
        except (ObjectAccessError, ObjectServerError, SchemaVersionError):
            raise
        except (StorageError, RecordError, OSError, ValueError, LookupError, EOFError) as error:
            # The file may have been replaced or deleted, by whoever may do so, since it was looked up.
            self._index.forget("/".join(path.parts[-3:-1]))
            if self._path_of(episode_id) != path:
                message = f"{path} of episode {episode_id!r} was replaced meanwhile: look again"
                raise GoneError(message) from error
            gone = isinstance(error, ObjectMissingError) or not path.is_file()
            what = "is gone" if gone else f"is damaged ({error})"
            message = (
                f"episode {episode_id!r} of {self} cannot be read: {path}, which its manifest names, {what}; "
                "bring the file back, run the stage of its log again, or delete the episode and store it "
                "again; the other episodes can be used"
            )
            raise PoolError(message) from error

    def _invalid_of(self, path: AnyPath) -> int | None:
        """Zeroed records of a file whose manifest does not tell them; None: it cannot be read."""
        try:
            flags = self._read_times_and_flags(local_copy(path))[1]
        except (ObjectAccessError, ObjectServerError):
            raise
        except (StorageError, RecordError, OSError, ValueError, LookupError):
            return None
        return int(np.count_nonzero(flags & int(RecordFlag.ZEROED)))

    # Writing

    def _store(self, episodes: Iterator[tuple[Episode, str]]) -> int:
        with self._spool() as folder:
            spooled: dict[str, list[_Spooled]] = {}
            for number, (episode, mark) in enumerate(episodes):
                found = self._spooled(folder / f"{number}", episode, mark)
                spooled.setdefault(episode.meta.log_key, []).append(found)
            return self._repeated(lambda: self._plan_store(spooled), "store")

    @contextmanager
    def _spool(self) -> Iterator[Path]:
        """A folder for encoded episodes: they are written once, however often the manifests must be."""
        root = self.lake.root
        parent = settings().s3.cache_dir if isinstance(root, S3Path) else root
        folder = parent / f".pool.{os.getpid()}-{secrets.token_hex(4)}.tmp"
        try:
            folder.mkdir(parents=True)
            yield folder
        except OSError as error:
            message = (
                f"nothing was stored in {self}: {error}; make room or correct the rights, then store again"
            )
            raise StorageError(message) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _spooled(self, path: Path, episode: Episode, mark: str) -> _Spooled:
        self._write_file(path, episode)
        entry = episode_entry(path, episode)
        return _Spooled(path, mark, {**entry, "pool": True})

    def _repeated(self, plan: Callable[[], list[_Manifest]], doing: str) -> int:
        """Do what a plan says; again, where somebody else has changed a manifest meanwhile."""
        pause = Event()
        for attempt in range(_TRIES):
            changes = plan()
            count = sum(len(change.add) + len(change.drop) for change in changes)
            if not count:
                return 0
            try:
                with self._unit(doing) as unit:
                    self._write(unit, changes)
            except (ObjectExistsError, WriterBusyError):
                if self._writer is not None or attempt == _TRIES - 1:
                    raise
                pause.wait(_PAUSE_S * secrets.randbelow(attempt + 2))
            else:
                return count
        raise AssertionError

    def _unit(self, doing: str) -> AbstractContextManager[Writer]:
        if self._writer is not None:
            return nullcontext(self._writer)
        return UnitOfWork(self.lake, name=f"{doing} in {self.kind} pool")

    def _plan_store(self, spooled: dict[str, list[_Spooled]]) -> list[_Manifest]:
        changes = []
        for key, items in spooled.items():
            path = manifests.manifest_of(self.lake, self.area, key)
            before, seen = manifests.read_manifest(path)
            known = {entry["meta"]["episode_id"]: entry for entry in before["episodes"]} if before else {}
            change = _Manifest(path, before, seen)
            for item in items:
                stored = known.get(item.entry["meta"]["episode_id"])
                if stored is None or not self._is_same(stored, item):
                    change.add.append(item)
            if change.changed:
                changes.append(change)
        return changes

    def _is_same(self, stored: Content, item: _Spooled) -> bool:
        """Refuse another content; False: what was stored has been deleted since its manifest was read."""
        if stored.get("digest") == item.digest:
            return True
        try:
            there = self.read(stored["meta"]["episode_id"])
        except GoneError:
            return False
        refuse_other(str(self), there, self._read_file(item.path))
        return True

    def _delete(self, entries: list[Entry]) -> int:
        # By their files: what has taken the place of an episode since it was found may match no more.
        wanted: dict[AnyPath, set[str]] = {}
        for entry in entries:
            path = manifests.manifest_of(self.lake, self.area, entry.episode_id.rpartition("#")[0])
            wanted.setdefault(path, set()).add(entry.place.rpartition("/")[2])

        def plan() -> list[_Manifest]:
            changes = []
            for path, names in wanted.items():
                before, seen = manifests.read_manifest(path)
                there = before["episodes"] if before else []
                files = {str(entry["file"]) for entry in there if entry["file"] in names}
                changes.append(_Manifest(path, before, seen, drop=files))
            return [change for change in changes if change.changed]

        return self._repeated(plan, "delete")

    def _write(self, unit: Writer, changes: list[_Manifest]) -> None:
        """Files first, then the manifests that name them, at last what no manifest names any more."""
        texts = []
        for change in changes:
            folder, log = change.path.parent, change.path.name.removesuffix(EPISODES_SUFFIX)
            left = [
                entry
                for entry in (change.before or {}).get("episodes", [])
                if entry["file"] not in change.drop
            ]
            for item in change.add:
                name = f"{log}.{secrets.token_hex(6)}.{len(left):04d}{self.suffix}"
                with unit.file(folder / name, if_absent=True) as temporary:
                    _copy(item.path, temporary)
                left.append({**item.entry, "file": name})
            left.sort(key=lambda entry: str(entry["meta"]["episode_id"]))
            texts.append((change, manifests.with_episodes(self.lake, change.path, change.before, left)))
        for change, text in texts:
            unit.text(change.path, text, if_absent=change.before is None, seen=change.seen)
        for change in changes:
            unit.remove(*(change.path.parent / name for name in sorted(change.drop)))


def _copy(source: Path, target: Path) -> None:
    with suppress(OSError):
        os.link(source, target)  # the file is written once
        return
    shutil.copyfile(source, target)
