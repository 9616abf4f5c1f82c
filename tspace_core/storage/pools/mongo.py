"""Episodes in MongoDB: documents that people can query, with the contract of every pool.

Layout: ``mongo_documents`` (episodes, records), ``mongo_commits`` (what makes them visible). ``pool`` has one
document: schema_version, the tspace that made it, and longest_ns, how long the longest episode lasts.

Reads and writes go to the primary, by majority; what ``store`` returned from is on disk.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from tspace_core import __version__
from tspace_core.errors import PoolError, RecordError, SchemaVersionError
from tspace_core.records.episode import Episode
from tspace_core.records.meta import EpisodeMeta
from tspace_core.storage.pools import mongo_documents as documents
from tspace_core.storage.pools.entry import Entry
from tspace_core.storage.pools.mongo_client import connect, pool_errors
from tspace_core.storage.pools.mongo_commits import CHUNK, Commits, Leftover
from tspace_core.storage.pools.mongo_documents import SCHEMA_VERSION, MongoEntry, record_key
from tspace_core.storage.pools.mongo_sweep import leftovers, sweep
from tspace_core.storage.pools.mongo_writer import MongoWriter, delete_entries
from tspace_core.storage.pools.pool import GoneError, Pool
from tspace_core.storage.pools.query import Query
from tspace_core.storage.pools.sampling import Rows

T = TypeVar("T")

_LOOKS = 20
_METAS = 2048
"""Parsed meta information kept."""
_LIGHT = {"meta": 0}
_POOL = "pool"


class MongoPool(Pool):
    """A pool in one database of a MongoDB server; nothing is sent before the first call.

    Args:
        database: its name; None: the one that the URI names.
        uri: ``mongodb://user:password@host:port``; None: ``TSPACE_MONGODB_URI``.

    Raises:
        ConfigError: no URI is known, it is none of MongoDB, or no database is named.
    """

    def __init__(self, database: str | None = None, uri: str | None = None) -> None:
        super().__init__()
        self._client, self._database = connect(database, uri)
        self._commits = Commits(self._database)
        self._checked = False
        self._indexed = False
        self._metas: OrderedDict[Any, EpisodeMeta] = OrderedDict()
        self._ahead: dict[str, dict[str, Any]] = {}

    def __str__(self) -> str:
        return f"mongodb:{self._database.name}"

    def read(self, episode_id: str) -> Episode:
        """An episode, bit for bit as it was stored.

        Raises:
            GoneError: there is none of this id.
            PoolError: it is damaged.
            PoolServerError, PoolAccessError: the server is gone, or refuses.
        """
        with pool_errors(str(self), f"reading episode {episode_id!r}"):
            found = self._visible({"episode_id": episode_id}, None)
            if not found:
                message = f"{self} holds no episode {episode_id!r}; find() tells which there are"
                raise GoneError(message)
            entry = self._entry(found[0])
            parts = self._range(entry, entry.records + 1, None)
            meta = documents.meta_of(found[0], str(self))
        return self._made(entry, lambda: documents.episode_of(entry, meta, parts))

    def close(self) -> None:
        """Close the connections; closing again is no error."""
        self._client.close()

    def leftovers(self, older_than_s: float = 3600.0) -> list[Leftover]:
        """Calls whose process has not been heard of for so long; see ``sweep``."""
        with pool_errors(str(self), "looking for what killed writers left behind"):
            self._check()
            return leftovers(self._commits, older_than_s)

    def sweep(self, older_than_s: float = 3600.0) -> list[str]:
        """Finish or remove what killed writers left behind, none of which is visible.

        A writer that was only slow is told by ``PoolError`` that nothing of its call was stored.

        Args:
            older_than_s: how long a writer must not have been heard of; those at work say so every 10 s.

        Returns:
            What was done, a line each.
        """
        with pool_errors(str(self), "removing what killed writers left behind"):
            self._check()
            return sweep(str(self), self._database, self._commits, older_than_s)

    def _store(self, episodes: Iterator[tuple[Episode, str]]) -> int:
        first = next(episodes, None)
        if first is None:
            return 0
        with pool_errors(str(self), "preparing to store episodes", "nothing was stored"):
            self._check()
            self._prepare()
        writer = MongoWriter(str(self), self._database, self._commits, self._stored, self.read)
        return writer.store(first, episodes)

    def _entries(self, query: Query) -> list[Entry]:
        with pool_errors(str(self), f"looking for {query}"):
            self._check()
            longest = self._longest if query.after is not None else lambda: 0
            found = self._visible_by(lambda: documents.episode_filter(query, longest()), _LIGHT)
            return [self._entry(item) for item in found]

    def _times_and_flags(self, entry: Entry) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        mine = cast("MongoEntry", entry)
        with pool_errors(str(self), f"reading times of episode {entry.episode_id!r}"):
            parts = self._range(mine, entry.records, {"_id": 0, "k": 1, "time_ns": 1, "flags": 1})
        return self._made(
            mine,
            lambda: (
                np.array([part["time_ns"] for part in parts], np.int64),
                np.array([part["flags"] for part in parts], np.uint8),
            ),
        )

    def _rows(self, entry: Entry, rows: NDArray[np.int64]) -> Rows:
        mine = cast("MongoEntry", entry)
        keys = [record_key(mine.batch, mine.first + row) for row in rows.tolist()]
        with pool_errors(str(self), f"reading records of episode {entry.episode_id!r}"):
            found = {key: self._ahead[key] for key in keys if key in self._ahead}
            found |= self._by_key([key for key in keys if key not in found])
            if len(found) < len(keys):
                self._fail_incomplete(mine, len(keys), len(found))
        return self._made(
            mine, lambda: documents.rows_of_documents([found[key] for key in keys], entry.state_dim)
        )

    def _read_ahead(self, wanted: list[tuple[Entry, NDArray[np.int64]]]) -> None:
        """Fetch what a draw needs of hundreds of episodes in a few commands; kept until the next draw."""
        mine = [(cast("MongoEntry", entry), rows) for entry, rows in wanted]
        keys = [record_key(entry.batch, entry.first + row) for entry, rows in mine for row in rows.tolist()]
        with pool_errors(str(self), "reading records"):
            self._ahead = self._by_key(keys)
            unknown = [entry.key for entry, _ in mine if entry.key not in self._metas]
            for start in range(0, len(unknown), CHUNK):
                chosen = {"_id": {"$in": unknown[start : start + CHUNK]}}
                for item in self._database["episodes"].find(chosen, {"meta": 1}):
                    self._keep(item["_id"], documents.meta_of(item, str(self)))

    def _delete(self, entries: list[Entry]) -> int:
        return delete_entries(
            str(self), self._database, self._commits, [cast("MongoEntry", entry) for entry in entries]
        )

    def _version(self, query: Query) -> int:
        with pool_errors(str(self), "looking for changes"):
            return self._commits.latest()

    def _stored(self, ids: Sequence[str]) -> dict[str, str]:
        """Digests of those episodes that are stored, by their ids."""
        found = self._visible({"episode_id": documents.one_of(ids)}, {"meta": 0})
        return {item["episode_id"]: item["digest"] for item in found}

    def _visible(self, wanted: dict[str, Any], fields: dict[str, int] | None) -> list[dict[str, Any]]:
        self._check()
        return self._visible_by(lambda: wanted, fields)

    def _visible_by(
        self, wanted: Callable[[], dict[str, Any]], fields: dict[str, int] | None
    ) -> list[dict[str, Any]]:
        """Documents of episodes as they were at one number of the log of commits.

        Args:
            wanted: makes the filter; called when the number is known, so that it is of no earlier state.
            fields: of the documents.
        """
        for _ in range(_LOOKS):
            number = self._commits.latest()
            found = list(self._database["episodes"].find(wanted(), fields))
            visible = self._commits.visible(found, number)
            # What is removed for good was deleted by a commit: without one since, all of it was still there.
            if not any(commit.kind == "delete" for _, commit in self._commits.since(number)):
                return visible
        message = f"{self}: episodes are deleted faster than they can be looked at; wait until that is done"
        raise PoolError(message)

    def _longest(self) -> int:
        found = self._database[_POOL].find_one({"_id": _POOL}, {"longest_ns": 1})
        return int(found["longest_ns"]) if found else 0

    def _entry(self, document: dict[str, Any]) -> MongoEntry:
        key = document["_id"]
        if "meta" in document:
            self._keep(key, documents.meta_of(document, str(self)))
        return documents.entry_of(document, str(self), lambda: self._meta(key))

    def _meta(self, key: Any) -> EpisodeMeta:
        if key not in self._metas:
            with pool_errors(str(self), "reading meta information"):
                found = self._database["episodes"].find_one({"_id": key}, {"meta": 1})
            if found is None:
                message = f"{self}: episode document {key} has been deleted since it was found"
                raise GoneError(message)
            self._keep(key, documents.meta_of(found, str(self)))
        return self._metas[key]

    def _keep(self, key: Any, meta: EpisodeMeta) -> None:
        self._metas[key] = meta
        while len(self._metas) > _METAS:
            self._metas.popitem(last=False)

    def _range(self, entry: MongoEntry, count: int, fields: dict[str, int] | None) -> list[dict[str, Any]]:
        """The first records of an episode, in order."""
        wanted = entry.span.first_records(count)
        cursor = self._database["records"].find(wanted, fields).sort([("batch", 1), ("k", 1)])
        found = list(cursor)
        if [item.get("k") for item in found] != list(range(entry.first, entry.first + count)):
            self._fail_incomplete(entry, count, len(found))
        return found

    def _by_key(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for start in range(0, len(keys), CHUNK):
            wanted = {"_id": {"$in": list(keys[start : start + CHUNK])}}
            found |= {item["_id"]: item for item in self._database["records"].find(wanted)}
        return found

    def _fail_incomplete(self, entry: MongoEntry, wanted: int, found: int) -> None:
        if self._visible({"_id": entry.key}, {"_id": 1, "batch": 1, "deleting": 1}):
            message = (
                f"{self}: episode {entry.episode_id!r} is damaged, {found} of {wanted} records of batch "
                f"{entry.batch} from {entry.first} on are there: delete it, then store it again"
            )
            raise PoolError(message)
        message = f"{self}: episode {entry.episode_id!r} has been deleted since it was found"
        raise GoneError(message)

    def _made(self, entry: MongoEntry, make: Callable[[], T]) -> T:
        try:
            return make()
        except (KeyError, TypeError, ValueError, OverflowError, RecordError) as error:
            message = (
                f"{self}: episode {entry.episode_id!r} is damaged ({type(error).__name__}: {error}), its "
                f"records are those of batch {entry.batch} from {entry.first} on: delete it, then store it "
                "again"
            )
            raise PoolError(message) from error

    def _check(self) -> None:
        """Look once whether this database is one of ours."""
        if self._checked:
            return
        pool = self._database[_POOL]
        found = pool.find_one({"_id": _POOL})
        if found is None:
            holds = self._database["episodes"].find_one({}, {"_id": 1}) is not None
            found = pool.find_one({"_id": _POOL})
            if found is None and holds:
                message = (
                    f"{self} holds a collection `episodes` that tspace did not make: choose another "
                    "database, for example mongodb:tspace"
                )
                raise PoolError(message)
        if found is None:
            return
        version = found.get("schema_version")
        if version != SCHEMA_VERSION:
            made_by = found.get("made_by", "something else")
            newer = isinstance(version, int) and version > SCHEMA_VERSION
            message = (
                f"{self} has schema version {version!r}, made by {made_by}; this is tspace {__version__} "
                f"with version {SCHEMA_VERSION}: "
            ) + (
                "use the newer tspace"
                if newer
                else f"`tspace convert {self} parquet:DIR` of the tspace that made it, then `tspace convert "
                "parquet:DIR mongodb:OTHER` of this one migrate it"
            )
            raise SchemaVersionError(message)
        self._checked = True

    def _prepare(self) -> None:
        """Make what a database needs before the first episode."""
        if self._indexed:
            return
        from pymongo import IndexModel

        self._database[_POOL].update_one(
            {"_id": _POOL},
            {
                "$setOnInsert": {
                    "schema_version": SCHEMA_VERSION,
                    "made_by": f"tspace {__version__}",
                    "longest_ns": 0,
                }
            },
            upsert=True,
        )
        self._commits.create_indexes()
        self._database["episodes"].create_indexes(
            [IndexModel([(name, 1) for name in fields]) for fields in documents.EPISODE_INDEXES]
        )
        self._database["records"].create_indexes(
            [
                *(IndexModel([(name, 1) for name in fields]) for fields in documents.RECORD_INDEXES),
                IndexModel([(name, 1) for name in documents.RECORD_KEY], unique=True),
            ]
        )
        self._indexed = True
