"""Episodes as documents of MongoDB, and queries in its words.

``episodes``, one document an episode::

    {_id, batch, episode_id, vehicle, driver, site, agent, start: <date>, end: <date>, start_ns, end_ns,
     records, valid, invalid, state_dim, action_dim, layout, digest, first, meta: {...}, deleting: [...]}

``records``, one document a record, and one for the last observation, which has no action, first_row, reward
and flags::

    {_id: "<batch>:<k>", batch, k, episode_id, time: <date>, time_ns, state: [...], action: [68 numbers],
     first_row, reward, flags}

The records of an episode are k = first, first + 1, ..., first + records of its batch. Dates are for people
(MongoDB's have ms); what is exact is ``*_ns``, int64 ns UTC. A float32 is stored as the double of the same
value. What is not finite, which only meta information may hold, is "NaN", "Infinity" or "-Infinity": servers
differ in what they make of NaN.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np

from tspace_core.errors import PoolError
from tspace_core.records.episode import Episode
from tspace_core.records.json_codec import plain_meta
from tspace_core.records.meta import EpisodeMeta
from tspace_core.records.policy import ACTION_DIM
from tspace_core.storage.pools.entry import Entry, layout_mark, zeroed
from tspace_core.storage.pools.query import Query
from tspace_core.storage.pools.sampling import Rows

SCHEMA_VERSION = 1
"""To be raised when the same content is stored in another way."""

EPISODE_INDEXES: tuple[tuple[str, ...], ...] = (
    ("episode_id",), ("batch",), ("vehicle", "start_ns"), ("driver", "start_ns"), ("site", "start_ns"),
    ("agent", "start_ns"), ("start_ns",), ("deleting",),
)  # fmt: skip
RECORD_INDEXES: tuple[tuple[str, ...], ...] = (("time",),)
RECORD_KEY = ("batch", "k")
"""Unique."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INT64 = np.iinfo(np.int64)
_TABLES = ("units", "substitutes")
"""Fields of the meta information with names of their own, which may be none of BSON's."""


class Span(NamedTuple):
    """Where an episode's documents are."""

    key: Any
    """``_id`` of its own."""
    batch: str
    first: int
    """k of its first record."""
    records: int

    def first_records(self, count: int) -> dict[str, Any]:
        """A filter for its first records; ``records`` + 1 is all of it."""
        return {"batch": self.batch, "k": {"$gte": self.first, "$lt": self.first + count}}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Span":
        """That of an episode's document."""
        return cls(document["_id"], document["batch"], int(document["first"]), int(document["records"]))


@dataclass(frozen=True)
class MongoEntry(Entry):
    """An episode's document without its meta information.

    Attributes:
        key: its ``_id``.
        batch: of its records.
        first: k of its first record.
    """

    key: Any = None
    batch: str = ""
    first: int = 0

    @property
    def span(self) -> Span:
        """Where its documents are."""
        return Span(self.key, self.batch, self.first, self.records)


def episode_document(episode: Episode, digest: str, batch: str, first: int) -> dict[str, Any]:
    """The document of an episode.

    Args:
        episode: which.
        digest: of its content.
        batch: whose records hold its own.
        first: k of its first record.
    """
    meta, invalid = plain_meta(episode.meta), zeroed(episode)
    start_ns, end_ns = int(episode.times[0]), int(episode.times[-1])
    layout = layout_mark(meta)
    for name in _TABLES:
        meta[name] = _table(meta[name])
    return {
        "batch": batch,
        "episode_id": episode.meta.episode_id,
        "vehicle": episode.meta.vehicle_id,
        "driver": episode.meta.driver_id,
        "site": episode.meta.site_id,
        "agent": episode.meta.action_source,
        "start": _date(start_ns),
        "end": _date(end_ns),
        "start_ns": start_ns,
        "end_ns": end_ns,
        "records": len(episode),
        "valid": len(episode) - invalid,
        "invalid": invalid,
        "state_dim": episode.state_dim,
        "action_dim": ACTION_DIM,
        "layout": layout,
        "digest": digest,
        "first": first,
        "meta": meta,
    }


def record_documents(episode: Episode, batch: str, first: int) -> Iterator[dict[str, Any]]:
    """The n + 1 documents of an episode's records and its last observation."""
    numbers = zip(
        episode.actions.tolist(),
        episode.rows.tolist(),
        episode.rewards.tolist(),
        episode.flags.tolist(),
        strict=True,
    )
    for k, (time_ns, state) in enumerate(
        zip(episode.times.tolist(), episode.states.tolist(), strict=True), first
    ):
        document = {
            "_id": record_key(batch, k),
            "batch": batch,
            "k": k,
            "episode_id": episode.meta.episode_id,
            "time": _date(time_ns),
            "time_ns": time_ns,
            "state": state,
        }
        own = next(numbers, None)
        if own is not None:
            document |= dict(zip(("action", "first_row", "reward", "flags"), own, strict=True))
        yield document


def record_key(batch: str, k: int) -> str:
    """``_id`` of a record."""
    return f"{batch}:{k}"


def entry_of(document: Mapping[str, Any], place: str, load_meta: Callable[[], EpisodeMeta]) -> MongoEntry:
    """What the document of an episode says.

    Raises:
        PoolError: the document is damaged.
    """
    try:
        return MongoEntry(
            episode_id=document["episode_id"],
            vehicle_id=document["vehicle"],
            driver_id=document["driver"],
            site_id=document["site"],
            agent=document["agent"],
            start_ns=int(document["start_ns"]),
            end_ns=int(document["end_ns"]),
            records=int(document["records"]),
            invalid=int(document["invalid"]),
            state_dim=int(document["state_dim"]),
            layout=document["layout"],
            place=f"{place}.episodes {document['_id']}",
            digest=document["digest"],
            load_meta=load_meta,
            key=document["_id"],
            batch=document["batch"],
            first=int(document["first"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        message = (
            f"{place}.episodes {document.get('_id')} is no episode ({type(error).__name__}: {error}): remove "
            "that document, then store the episode again"
        )
        raise PoolError(message) from error


def meta_of(document: Mapping[str, Any], place: str) -> EpisodeMeta:
    """The meta information in the document of an episode.

    Raises:
        PoolError: it is damaged.
    """
    try:
        meta = dict(document["meta"])
        for name in _TABLES:
            if isinstance(meta.get(name), list):
                meta[name] = {item["name"]: item["value"] for item in meta[name]}
        return EpisodeMeta.model_validate_json(json.dumps(meta))
    except (KeyError, TypeError, ValueError) as error:
        message = (
            f"{place}.episodes {document.get('_id')} has no valid meta information ({type(error).__name__}): "
            "delete that episode, then store it again"
        )
        raise PoolError(message) from error


def episode_of(entry: MongoEntry, meta: EpisodeMeta, documents: Sequence[Mapping[str, Any]]) -> Episode:
    """The episode of its n + 1 records in order.

    Raises:
        KeyError, TypeError, ValueError, RecordError: they are damaged.
    """
    n = entry.records
    inside = documents[:n]
    return Episode(
        states=_floats([document["state"] for document in documents], (n + 1, entry.state_dim)),
        actions=_floats([document["action"] for document in inside], (n, ACTION_DIM)),
        rows=np.array([document["first_row"] for document in inside], np.int32),
        rewards=_floats([document["reward"] for document in inside], (n,)),
        times=np.array([document["time_ns"] for document in documents], np.int64),
        flags=np.array([document["flags"] for document in inside], np.uint8),
        meta=meta,
    )


def rows_of_documents(documents: Sequence[Mapping[str, Any]], state_dim: int) -> Rows:
    """Some rows of an episode; of its last observation all but the state is 0.

    Raises:
        KeyError, TypeError, ValueError: they are damaged.
    """
    n, nothing = len(documents), [0.0] * ACTION_DIM
    return Rows(
        _floats([document["state"] for document in documents], (n, state_dim)),
        _floats([document.get("action", nothing) for document in documents], (n, ACTION_DIM)),
        _floats([document.get("reward", 0.0) for document in documents], (n,)),
        _floats([document.get("first_row", 0) for document in documents], (n,)),
    )


def episode_filter(query: Query, longest_ns: int) -> dict[str, Any]:
    """The episodes that may have a matching record, in MongoDB's words.

    Args:
        query: what is wanted.
        longest_ns: no episode lasts longer, ns. So a range of time bounds the starts from both sides, and an
            index on them serves it.
    """
    wanted: dict[str, Any] = {}
    for name, values in (
        ("vehicle", query.vehicles),
        ("driver", query.drivers),
        ("site", query.sites),
        ("agent", query.agents),
        ("episode_id", query.episodes),
    ):
        if values:
            wanted[name] = one_of(values)
    starts = [
        ("$gte", query.started_from_ns),
        ("$gte", None if query.after_ns is None else query.after_ns - longest_ns),
        ("$lt", query.started_before_ns),
        ("$lt", query.before_ns),
    ]
    _bound(wanted, "start_ns", starts)
    _bound(wanted, "end_ns", [("$gt", query.after_ns)])
    _bound(wanted, "records", [("$gte", query.length_from), ("$lte", query.length_to)])
    if query.valid is not None:
        _bound(wanted, "valid" if query.valid else "invalid", [("$gt", 0)])
    return wanted


def one_of(values: Sequence[str]) -> Any:
    """One of several values; a single one as itself, which every server answers by an index."""
    different = sorted(set(values))
    return different[0] if len(different) == 1 else {"$in": different}


def _bound(wanted: dict[str, Any], name: str, limits: list[tuple[str, int | None]]) -> None:
    """Add limits, the narrowest of each kind; beyond int64 is what int64 ends with."""
    found: dict[str, int] = {}
    for operator, limit in limits:
        if limit is not None:
            possible = min(max(limit, int(_INT64.min)), int(_INT64.max))
            narrower = max if operator in ("$gte", "$gt") else min
            found[operator] = narrower(found.get(operator, possible), possible)
    if found:
        wanted[name] = found


def _table(table: Mapping[str, str]) -> Any:
    """A table as sub-document, or as a list of its rows where a name is none of BSON's."""
    if all(name and "\0" not in name and "." not in name and name[0] != "$" for name in table):
        return dict(table)
    return [{"name": name, "value": value} for name, value in table.items()]


def _date(time_ns: int) -> datetime:
    return _EPOCH + timedelta(microseconds=time_ns // 1000)


def _floats(values: Sequence[Any], shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    found = np.array(values, np.float64)
    if found.shape != shape:
        message = f"numbers of shape {found.shape}, expected {shape}"
        raise ValueError(message)
    return found.astype(np.float32)
