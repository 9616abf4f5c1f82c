"""An index of the episodes of a file-based pool, on this machine: SQLite, kept up with the manifests.

It is a cache. Each look compares it with the store first: on a disk with the times of the folders (a manifest
is replaced by a rename, which changes its folder), in a bucket with a listing's ETags; only what has changed
is read. So it is never stale, may be deleted at any time, and is made anew where it is damaged or of another
version. Where it cannot be written, or the store is not there at all, it is kept in memory.
"""

import hashlib
import json
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from tspace_core.errors import SchemaVersionError
from tspace_core.objects.path import AnyPath, S3Path
from tspace_core.objects.transfer import side_by_side
from tspace_core.records.meta import EpisodeMeta
from tspace_core.storage.pools.entry import Entry, layout_mark
from tspace_core.storage.pools.manifest_scan import ManifestScan, Place, scope_of
from tspace_core.storage.pools.manifests import Content
from tspace_core.storage.pools.query import Query

T = TypeVar("T")
VERSION = 1
"""To be raised with the tables."""
_WAIT_S = 60.0
_OWN = ("episode_id", "segment", "log_key", "energy_wh", "distance_m", "duration_s", "end_reason")
"""Meta fields that tell one episode from another; the rest is kept once for all that share it."""
_TABLES = """
CREATE TABLE state (token TEXT, changes INTEGER);
CREATE TABLE folders (folder TEXT PRIMARY KEY, vehicle TEXT, stamp TEXT) WITHOUT ROWID;
CREATE TABLE manifests (id INTEGER PRIMARY KEY, folder TEXT, name TEXT, vehicle TEXT, stamp TEXT,
                        UNIQUE (folder, name));
CREATE TABLE common (id INTEGER PRIMARY KEY, meta TEXT UNIQUE);
CREATE TABLE episodes (manifest INTEGER, episode_id TEXT, vehicle_id TEXT, driver_id TEXT, site_id TEXT,
                       agent TEXT, start_ns INTEGER, end_ns INTEGER, records INTEGER, invalid INTEGER,
                       state_dim INTEGER, layout TEXT, file TEXT, digest TEXT, common INTEGER, own TEXT);
CREATE INDEX of_manifest ON episodes (manifest);
CREATE INDEX by_id ON episodes (episode_id);
CREATE INDEX by_start ON episodes (start_ns);
CREATE INDEX by_vehicle ON episodes (vehicle_id, start_ns);
CREATE INDEX by_driver ON episodes (driver_id, start_ns);
"""
_KNOWN = (
    "episode_id", "vehicle_id", "driver_id", "site_id", "agent", "start_ns", "end_ns", "records", "invalid",
    "state_dim",
)  # fmt: skip
_SELECT = (
    f"SELECT {', '.join(_KNOWN)}, layout, folder, file, digest, common, own FROM episodes "  # noqa: S608
    "JOIN manifests ON manifests.id = manifest "
)

Together = Callable[[Callable[[], "_Changes"]], "_Changes"]
"""Does a read during which nothing becomes visible half-way."""


class _Changes(NamedTuple):
    folders: dict[str, str | None]
    """New stamps; None: the folder is gone."""
    manifests: dict[Place, tuple[str, Content] | None]
    """New stamps and contents; None: the manifest is gone."""


class EpisodeIndex:
    """Finds the episodes below ``area`` (``.../vehicle=<v>/date=<d>/<log>.episodes.json``).

    Args:
        path: the index file; None keeps it in memory.
        area: folder of the pool's episodes.
        together: does the reads that belong together.
        invalid_of: counts the zeroed records of an episode file whose manifest does not tell them; None: it
            cannot be read now.
    """

    def __init__(
        self,
        path: Path | None,
        area: AnyPath,
        together: Together,
        invalid_of: Callable[[AnyPath], int | None],
    ) -> None:
        self._path = path
        self._area = area
        self._scan = ManifestScan(area)
        self._together = together
        self._invalid_of = invalid_of
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._process = os.getpid()
        self._nothing = False
        """Whether the open index is of a store that is not there: a look at a wrong path makes no folders."""

    def find(self, query: Query) -> list[Entry]:
        """The episodes that ``query.fits``, as the store is now.

        Raises:
            PoolError: a manifest is damaged.
            ObjectError: the bucket cannot be read.
        """
        return self._look(query, partial(self._select, query))

    def version(self, query: Query) -> Hashable:
        """Another value after each change of the store that the query can touch."""
        return self._look(query, lambda db: tuple(db.execute("SELECT token, changes FROM state").fetchone()))

    def count(self, query: Query) -> tuple[int, int] | None:
        """Episodes with a matching record, and matching records; None: their files must be looked at."""
        if query.after is not None or query.before is not None or not _is_exact(query):
            return None
        matching = {None: "records", True: "records - invalid", False: "invalid"}[query.valid]
        where, values = _where(query)
        more = f"{where} AND" if where else "WHERE"
        text = f"SELECT count(*), coalesce(sum({matching}), 0) FROM episodes {more} {matching} > 0"  # noqa: S608
        return self._look(query, lambda db: tuple(db.execute(text, values).fetchone()))

    def forget(self, folder: str) -> None:
        """Read a folder's manifests anew at the next look: one of them is not what its times said.

        Args:
            folder: below the pool's, ``vehicle=<v>/date=<d>``.
        """
        with self._lock, suppress(sqlite3.Error):
            db = self._open()
            with _transaction(db, "BEGIN IMMEDIATE"):
                _distrust(db, folder)

    def close(self) -> None:
        """Close the file; a later look opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _look(self, query: Query, read: Callable[[sqlite3.Connection], T]) -> T:
        """Bring the index up to date as far as the query can touch it, and read it in the same instant."""
        with self._lock:
            try:
                return self._look_once(query, read)
            except sqlite3.Error as error:
                self._give_up(error)
            try:
                return self._look_once(query, read)
            except sqlite3.Error:
                self._path = None
                self.close()
            return self._look_once(query, read)

    def _look_once(self, query: Query, read: Callable[[sqlite3.Connection], T]) -> T:
        db, scope = self._open(), scope_of(query)
        with _transaction(db, "BEGIN"):
            # What is compared and what is read are one snapshot, whatever other processes do meanwhile.
            if not self._outdated(db, scope):
                return read(db)
        with _transaction(db, "BEGIN IMMEDIATE"):
            self._apply(db, self._together(partial(self._changes, db, scope)))
            return read(db)

    def _give_up(self, error: sqlite3.Error) -> None:
        """Leave a damaged file, or one that cannot be used; it is a cache."""
        self.close()
        if isinstance(error, sqlite3.OperationalError) or self._path is None:
            self._path = None  # locked for long, or not writable
            return
        with suppress(OSError):
            for end in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + end).unlink(missing_ok=True)

    def _open(self) -> sqlite3.Connection:
        if self._process != os.getpid():  # a connection does not survive a fork
            self._connection, self._process = None, os.getpid()
        nothing = isinstance(self._area, Path) and not self._area.is_dir()
        if self._connection is not None and self._nothing and not nothing:
            self.close()
        if self._connection is None:
            self._connection, self._nothing = self._connect(nothing=nothing), nothing
        return self._connection

    def _connect(self, *, nothing: bool) -> sqlite3.Connection:
        if self._path is not None and not nothing:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            except OSError:
                self._path = None
        place = ":memory:" if self._path is None or nothing else str(self._path)
        db = sqlite3.connect(place, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            if _version_of(db) != VERSION:
                with _transaction(db, "BEGIN IMMEDIATE"):
                    _make_tables(db)
        except BaseException:
            db.close()
            raise
        return db

    # Comparison with the store

    def _outdated(self, db: sqlite3.Connection, scope: list[str] | None) -> bool:
        if isinstance(self._area, S3Path):
            return self._known_manifests(db, scope) != self._scan.listed(scope)
        known = self._known_folders(db, scope)
        return "" in known.values() or known != self._scan.folders(scope)

    def _changes(self, db: sqlite3.Connection, scope: list[str] | None) -> _Changes:
        folders: dict[str, str | None] = {}
        if isinstance(self._area, S3Path):
            known, there = self._known_manifests(db, scope), self._scan.listed(scope)
        else:
            before, now = self._known_folders(db, scope), self._scan.folders(scope)
            folders = {name: stamp for name, stamp in now.items() if not stamp or before.get(name) != stamp}
            folders |= dict.fromkeys(before.keys() - now.keys())
            known = self._known_manifests(db, [f"{folder}/" for folder in folders])
            there = {}
            for folder, stamp in folders.items():
                there.update(self._scan.manifests_in(folder) if stamp is not None else {})
        new = [place for place, stamp in there.items() if not stamp or known.get(place) != stamp]
        contents = self._scan.read_all(new)
        found: dict[Place, tuple[str, Content] | None] = {
            place: None if content is None else (there[place], content) for place, content in contents.items()
        }
        found |= dict.fromkeys(known.keys() - there.keys())
        return _Changes(folders, found)

    def _known_folders(self, db: sqlite3.Connection, scope: list[str] | None) -> dict[str, str]:
        return dict(_scoped(db, "SELECT folder, stamp FROM folders", scope))

    def _known_manifests(self, db: sqlite3.Connection, scope: list[str] | None) -> dict[Place, str]:
        rows = _scoped(db, "SELECT folder, name, stamp FROM manifests", scope)
        return {(folder, name): stamp for folder, name, stamp in rows}

    # Changes of the index

    def _apply(self, db: sqlite3.Connection, changes: _Changes) -> None:
        for folder, stamp in changes.folders.items():
            if stamp is None:
                db.execute("DELETE FROM folders WHERE folder = ?", (folder,))
            else:
                row = (folder, folder.split("/")[0], stamp)
                db.execute("INSERT OR REPLACE INTO folders VALUES (?, ?, ?)", row)
        self._count_zeroed(changes)
        for place, found in changes.manifests.items():
            if not self._replace(db, place, found):
                _distrust(db, place[0])

    def _replace(self, db: sqlite3.Connection, place: Place, found: tuple[str, Content] | None) -> bool:
        """Take what a manifest says now; False: not all could be told, so it is to be read again."""
        known = db.execute("SELECT id FROM manifests WHERE folder = ? AND name = ?", place).fetchone()
        before: list[Any] = []
        if known is not None:
            before = db.execute(f"{_SELECT} WHERE manifest = ? ORDER BY episodes.rowid", known).fetchall()
            db.execute("DELETE FROM episodes WHERE manifest = ?", known)
            if found is None:
                db.execute("DELETE FROM manifests WHERE id = ?", known)
        number, told = None, True
        if found is not None:
            vehicle = place[0].split("/")[0]
            row = (known[0] if known else None, *place, vehicle, found[0])
            number = db.execute("INSERT OR REPLACE INTO manifests VALUES (?, ?, ?, ?, ?)", row).lastrowid
            rows = [_row(db, number, entry) for entry in found[1]["episodes"]]
            told = all(entry["invalid"] is not None for entry in found[1]["episodes"])
            db.executemany(f"INSERT INTO episodes VALUES ({', '.join('?' * 16)})", rows)  # noqa: S608
        after = db.execute(f"{_SELECT} WHERE manifest = ? ORDER BY episodes.rowid", (number,)).fetchall()
        if before != after:
            db.execute("UPDATE state SET changes = changes + 1")
        return told

    def _count_zeroed(self, changes: _Changes) -> None:
        """Add what manifests written before pools do not tell; of a bucket several files at a time."""
        lacking = [
            (place[0], entry)
            for place, found in changes.manifests.items()
            for entry in (found[1]["episodes"] if found else ())
            if entry.get("invalid") is None
        ]
        paths = [self._area / folder / entry["file"] for folder, entry in lacking]
        far = isinstance(self._area, S3Path)
        counts = side_by_side(self._invalid_of, paths) if far else map(self._invalid_of, paths)
        for (_, entry), count in zip(lacking, counts, strict=True):
            entry["invalid"] = count

    def _select(self, query: Query, db: sqlite3.Connection) -> list[Entry]:
        where, values = _where(query)
        commons: dict[int, str] = {}
        found = []
        for row in db.execute(f"{_SELECT} {where} ORDER BY start_ns, episode_id", values):
            *known, layout, folder, file, mark, common, own = row
            if common not in commons:
                commons[common] = db.execute("SELECT meta FROM common WHERE id = ?", (common,)).fetchone()[0]
            load = partial(_meta, commons[common], own)
            place = f"{self._area}/{folder}/{file}"
            found.append(
                Entry(
                    **dict(zip(_KNOWN, known, strict=True)),
                    layout=layout,
                    place=place,
                    digest=mark,
                    load_meta=load,
                )
            )
        return found


def index_file(local: Path, area: AnyPath) -> Path:
    """Where the index of a pool's folder lies on this machine."""
    mark = hashlib.sha256(str(area).encode()).hexdigest()[:12]
    return local / "index" / f"{area.name}-{mark}.v{VERSION}.sqlite"


def _row(db: sqlite3.Connection, number: int | None, entry: Content) -> tuple[Any, ...]:
    meta = entry["meta"]
    own = json.dumps({name: meta[name] for name in _OWN if name in meta})
    common = json.dumps({name: value for name, value in meta.items() if name not in _OWN}, sort_keys=True)
    db.execute("INSERT OR IGNORE INTO common (meta) VALUES (?)", (common,))
    shared = db.execute("SELECT id FROM common WHERE meta = ?", (common,)).fetchone()[0]
    return (
        number, meta["episode_id"], meta["vehicle_id"], meta["driver_id"], meta["site_id"],
        meta["action_source"], entry["start_ns"], entry["end_ns"], entry["records"],
        entry["invalid"] or 0,
        meta["window"] * len(meta["signals"]), layout_mark(meta), entry["file"], entry.get("digest", ""),
        shared, own,
    )  # fmt: skip


def _distrust(db: sqlite3.Connection, folder: str) -> None:
    """Take no stamp of a folder for its present state."""
    db.execute("UPDATE folders SET stamp = '' WHERE folder = ?", (folder,))
    db.execute("UPDATE manifests SET stamp = '' WHERE folder = ?", (folder,))


def _version_of(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _make_tables(db: sqlite3.Connection) -> None:
    found = _version_of(db)
    if found == VERSION:  # another process was faster
        return
    if found != 0:
        message = f"an index of version {found}"
        raise sqlite3.DatabaseError(message)
    for statement in _TABLES.split(";"):
        db.execute(statement)
    db.execute("INSERT INTO state VALUES (?, 0)", (secrets.token_hex(8),))
    db.execute(f"PRAGMA user_version = {VERSION}")


@contextmanager
def _transaction(db: sqlite3.Connection, begin: str) -> Iterator[None]:
    db.execute(begin)
    try:
        yield
    except BaseException:
        with suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _scoped(db: sqlite3.Connection, select: str, scope: list[str] | None) -> Iterable[tuple[Any, ...]]:
    if scope is None:
        return db.execute(select)
    vehicles = json.dumps([beginning.rstrip("/") for beginning in scope if "/date=" not in beginning])
    folders = json.dumps([beginning.rstrip("/") for beginning in scope if "/date=" in beginning])
    where = "vehicle IN (SELECT value FROM json_each(?)) OR folder IN (SELECT value FROM json_each(?))"
    return db.execute(f"{select} WHERE {where}", (vehicles, folders))


def _where(query: Query) -> tuple[str, list[Any]]:
    """What narrows without a look at the episode files; ``Query.fits`` decides."""
    clauses: list[str] = []
    values: list[Any] = []
    for column, wanted in (
        ("episodes.vehicle_id", query.vehicles),
        ("driver_id", query.drivers),
        ("site_id", query.sites),
        ("agent", query.agents),
        ("episode_id", query.episodes),
    ):
        if wanted:
            clauses.append(f"{column} IN (SELECT value FROM json_each(?))")  # noqa: S608
            values.append(json.dumps(wanted))
    for condition, limit in _limits(query):
        if _is_known_to_sqlite(limit):
            clauses.append(condition)
            values.append(limit)
    return f"WHERE {' AND '.join(clauses)}" if clauses else "", values


def _is_exact(query: Query) -> bool:
    """Whether ``_where`` leaves none of the limits to ``Query.fits``."""
    return all(_is_known_to_sqlite(limit) for _, limit in _limits(query))


def _limits(query: Query) -> list[tuple[str, int]]:
    possible = (
        ("start_ns >= ?", query.started_from_ns),
        ("start_ns < ?", query.started_before_ns),
        ("end_ns > ?", query.after_ns),
        ("start_ns < ?", query.before_ns),
        ("records >= ?", query.length_from),
        ("records <= ?", query.length_to),
    )
    return [(condition, limit) for condition, limit in possible if limit is not None]


def _is_known_to_sqlite(number: int) -> bool:
    return abs(number) < 1 << 63


def _meta(common: str, own: str) -> EpisodeMeta:
    found = {**json.loads(common), **json.loads(own)}
    try:
        return EpisodeMeta.model_validate(found)
    except ValidationError as error:
        fields = ", ".join(sorted({str(item["loc"][0]) for item in error.errors()}))
        message = (
            f"episode {found['episode_id']!r} was stored by tspace {found.get('software_version')} "
            f"with other meta information (fields {fields}): run its log's stage again, `tspace ingest` with "
            "the log, or `tspace convert` with that version to Avro and with this one back"
        )
        raise SchemaVersionError(message) from error
