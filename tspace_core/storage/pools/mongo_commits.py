"""How calls of a MongoDB pool become visible: one document a call, numbered without a gap.

``batches`` is the log of commits::

    {_id: <batch>, number: 1, 2, 3, ..., kind: "store" | "delete" | "void", at: <date>, episodes}

A plain server has no transactions, but it writes one document as a whole and keeps an index unique. So what
a call stores is sent first, under a batch that nobody sees; the document in ``batches`` makes all of it
visible. Two writers cannot take the same number: who comes second looks again at what the first has stored. A
reader takes the highest number first and believes nothing beyond it: it sees each call as a whole.

Deleting works the same way: the episodes are marked with a batch of kind ``delete``, which takes effect with
its document; their records are removed after that. A batch of kind ``void`` will never be stored: the number
of a writer that is dead is taken from it for good.

``writing`` has a document for each call at work, whose ``alive_ns`` is set again every few seconds; what a
killed one left behind is found by it (``leftovers``).
"""

import os
import socket
import threading
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from tspace_core.storage.pools.mongo_client import is_duplicate

if TYPE_CHECKING:
    from tspace_core.storage.pools.mongo_client import Documents

STORE, DELETE, VOID = "store", "delete", "void"
CHUNK = 1000
"""Ids in one command."""
_ALIVE_S = 10.0


class Commit(NamedTuple):
    """A document of ``batches``."""

    number: int
    kind: str


class Leftover(NamedTuple):
    """A call that is not finished."""

    batch: str
    kind: str
    alive: datetime
    by: str


class Commits:
    """The log of commits of one database. Commits never change, so what was read once is kept."""

    def __init__(self, database: "Documents") -> None:
        self._batches = database["batches"]
        self._writing = database["writing"]
        self._known: dict[str, Commit] = {}
        self._lock = threading.Lock()

    def create_indexes(self) -> None:
        """Let numbers be unique."""
        self._batches.create_index([("number", 1)], unique=True)

    def latest(self) -> int:
        """The highest number; 0: there is none."""
        found = self._batches.find_one({}, {"number": 1}, sort=[("number", -1)])
        return int(found["number"]) if found else 0

    def since(self, number: int) -> list[tuple[str, Commit]]:
        """Commits beyond a number, in order."""
        found = self._batches.find({"number": {"$gt": number}}).sort([("number", 1)])
        return [(item["_id"], Commit(int(item["number"]), item["kind"])) for item in found]

    def look_up(self, batches: Iterable[str]) -> dict[str, Commit]:
        """The commits of those batches that have one."""
        wanted = set(batches)
        with self._lock:
            missing = sorted(wanted - self._known.keys())
        for start in range(0, len(missing), CHUNK):
            chunk = missing[start : start + CHUNK]
            found = self._batches.find({"_id": {"$in": chunk}}, {"number": 1, "kind": 1})
            commits = {item["_id"]: Commit(int(item["number"]), item["kind"]) for item in found}
            with self._lock:
                self._known |= commits
        with self._lock:
            return {batch: self._known[batch] for batch in wanted if batch in self._known}

    def visible(self, documents: Sequence[dict[str, Any]], number: int) -> list[dict[str, Any]]:
        """Those documents of episodes that a reader sees who looks at commits up to a number."""
        named = {item["batch"] for item in documents}
        commits = self.look_up(named.union(*(item.get("deleting", ()) for item in documents)))

        def effective(batch: str, kind: str) -> bool:
            commit = commits.get(batch)
            return commit is not None and commit.kind == kind and commit.number <= number

        return [
            item
            for item in documents
            if effective(item["batch"], STORE)
            and not any(effective(batch, DELETE) for batch in item.get("deleting", ()))
        ]

    def try_commit(self, batch: str, number: int, kind: str, episodes: int = 0) -> bool:
        """Commit as a number; False: that number is taken.

        Raises:
            VoidedError: the batch was declared dead, or is committed already.
            PyMongoError: it is not known whether it is committed.
        """
        document = {"_id": batch, "number": number, "kind": kind, "episodes": episodes, "at": _now()}
        try:
            self._batches.insert_one(document)
        except Exception as error:
            if not is_duplicate(error):
                raise
            commit = self.look_up([batch]).get(batch)
            if commit is None:
                return False
            if commit != (number, kind):
                raise VoidedError(commit) from error
        return True

    def void(self, batch: str) -> Commit:
        """Take care that a batch is never committed; what it is now: ``VOID``, or what it already was."""
        while True:
            try:
                if self.try_commit(batch, self.latest() + 1, VOID):
                    return self.look_up([batch])[batch]
            except VoidedError as error:
                return error.commit

    def begin(self, batch: str, kind: str) -> "Alive":
        """Say that a call is at work."""
        document = {"_id": batch, "kind": kind, "begun": _now(), "alive_ns": time.time_ns(), "by": _me()}
        self._writing.insert_one(document)
        # A number, as not every server keeps a date that is set later a date.
        return Alive(lambda: self._writing.update_one({"_id": batch}, {"$set": {"alive_ns": time.time_ns()}}))

    def end(self, batch: str) -> None:
        """Say that a call is finished and has left nothing."""
        self._writing.delete_one({"_id": batch})

    def leftovers(self) -> list[Leftover]:
        """Calls that are at work, or whose process was killed."""
        found = self._writing.find({}).sort([("_id", 1)])
        return [Leftover(item["_id"], item["kind"], _heard_of(item), item["by"]) for item in found]


class VoidedError(Exception):
    """The batch has a commit already; never leaves the pool."""

    def __init__(self, commit: Commit) -> None:
        super().__init__(f"committed as {commit.number}, {commit.kind}")
        self.commit = commit


class Alive:
    """Says from time to time that a call is at work."""

    def __init__(self, say: Any) -> None:
        self._say = say
        self._said = time.monotonic()

    def __call__(self) -> None:
        """Say it if the last time was a while ago."""
        if time.monotonic() - self._said > _ALIVE_S:
            self._say()
            self._said = time.monotonic()


def _now() -> datetime:
    return datetime.now(UTC)


def _heard_of(document: dict[str, Any]) -> datetime:
    """The last sign of life; earlier versions of tspace kept it as a date."""
    if "alive_ns" in document:
        return _instant(document["alive_ns"])
    alive: datetime = document["alive"]
    return alive if alive.tzinfo else alive.replace(tzinfo=UTC)


def _instant(ns: int) -> datetime:
    return datetime.fromtimestamp(ns / 1e9, UTC)


def _me() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"
