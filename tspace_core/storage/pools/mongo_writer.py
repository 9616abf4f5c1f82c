"""Calls of a MongoDB pool that write: first what nobody sees, then the one document that makes it visible."""

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import chain
from typing import TYPE_CHECKING, Any

from tspace_core.errors import PoolError, PoolServerError
from tspace_core.records.episode import Episode
from tspace_core.storage.pools import mongo_documents as documents
from tspace_core.storage.pools.mongo_client import pool_errors
from tspace_core.storage.pools.mongo_commits import CHUNK, DELETE, STORE, VOID, Alive, Commits, VoidedError
from tspace_core.storage.pools.mongo_documents import MongoEntry, Span
from tspace_core.storage.pools.pool import GoneError, refuse_other

if TYPE_CHECKING:
    from tspace_core.storage.pools.mongo_client import Documents

_RECORDS = 1000
"""Documents of records in one command."""
_EPISODES = 64
"""Episodes that are looked up in one command; memory holds that many."""
_INT64_MAX = (1 << 63) - 1
_LEFT = "nothing of it is stored; what was sent is seen by nobody, `tspace doctor --repair` removes it"


class MongoWriter:
    """One call of ``store``.

    Args:
        place: the pool, for messages.
        database: where.
        commits: its log.
        stored: gives the digests of those episodes that are stored, by their ids.
        read: reads one.
    """

    def __init__(
        self,
        place: str,
        database: "Documents",
        commits: Commits,
        stored: Callable[[Sequence[str]], dict[str, str]],
        read: Callable[[str], Episode],
    ) -> None:
        self._place = place
        self._records, self._episodes = database["records"], database["episodes"]
        self._pool = database["pool"]
        self._commits = commits
        self._stored, self._read = stored, read
        self._batch = new_batch()
        self._alive: Alive | None = None
        self._mine: dict[str, tuple[str, int, int]] = {}
        """Digest, first record and number of documents of each episode sent, by id."""
        self._waiting: list[dict[str, Any]] = []
        self._waiting_records: list[dict[str, Any]] = []
        self._next = 0
        self._longest = 0
        self._committing = False

    def store(self, first: tuple[Episode, str], others: Iterator[tuple[Episode, str]]) -> int:
        """Store episodes with their digests, all or none; how many were new."""
        with self._errors():
            seen = self._commits.latest()
        try:
            for group in _groups(first, others):
                self._send(group)
            return self._commit(seen) if self._alive else 0
        except PoolServerError:
            # What is under way may still arrive: only a sweep can be sure to remove all of it.
            raise
        except BaseException:
            self._take_back()
            raise

    def _send(self, group: list[tuple[Episode, str]]) -> None:
        with self._errors():
            known = self._stored([episode.meta.episode_id for episode, _ in group])
        for episode, digest in group:
            name = episode.meta.episode_id
            if name in known and (known[name] == digest or self._is_same(name, episode)):
                continue
            with self._errors():
                self._send_one(episode, digest)
        with self._errors():
            self._flush()

    def _is_same(self, name: str, episode: Episode) -> bool:
        """Refuse another content; False: the stored one has been deleted meanwhile."""
        try:
            refuse_other(self._place, self._read(name), episode)
        except GoneError:
            return False
        return True

    def _send_one(self, episode: Episode, digest: str) -> None:
        if self._alive is None:
            self._alive = self._commits.begin(self._batch, STORE)
        first, count = self._next, len(episode) + 1
        self._mine[episode.meta.episode_id] = (digest, first, count)
        self._next += count
        self._longest = max(self._longest, int(episode.times[-1]) - int(episode.times[0]))
        self._waiting.append(documents.episode_document(episode, digest, self._batch, first))
        for document in documents.record_documents(episode, self._batch, first):
            self._waiting_records.append(document)
            if len(self._waiting_records) >= _RECORDS:
                self._flush()

    def _flush(self) -> None:
        """Send what waits."""
        if self._alive is not None:
            self._alive()
        if self._waiting_records:
            self._records.insert_many(self._waiting_records, ordered=False)
            self._waiting_records = []
        if self._waiting:
            self._episodes.insert_many(self._waiting, ordered=False)
            self._waiting = []

    def _commit(self, seen: int) -> int:
        """Make it visible, less what others have stored since commit ``seen``; how many episodes."""
        with self._errors():
            self._pool.update_one({"_id": "pool"}, {"$max": {"longest_ns": min(self._longest, _INT64_MAX)}})
        while True:
            with self._errors():
                seen = self._yield_to_others(seen)
            count = len(self._mine)
            if not count:
                self._take_back()
                return 0
            self._committing = True
            if commit(self._place, self._commits, self._batch, seen + 1, STORE, count):
                break
            self._committing = False
        with suppress(PoolError), self._errors():
            self._commits.end(self._batch)
        return count

    def _yield_to_others(self, seen: int) -> int:
        """Drop what others have stored since commit ``seen``; the newest commit.

        Raises:
            PoolError: one of them is another episode under an id of ours.
        """
        since = self._commits.since(seen)
        latest = since[-1][1].number if since else seen
        fields = {"episode_id": 1, "digest": 1, "batch": 1, "deleting": 1}
        for batch, other in since:
            if other.kind != STORE:
                continue
            found = list(self._episodes.find({"batch": batch}, fields))
            for item in self._commits.visible(found, latest):
                mine = self._mine.get(item["episode_id"])
                if mine is None:
                    continue
                if mine[0] != item["digest"]:
                    message = (
                        f"{self._place}: another episode {item['episode_id']!r} has just been stored by "
                        f"somebody else, digest {item['digest'][:12]}, ours is {mine[0][:12]}; nothing was "
                        "stored: delete the first, or give the second another id"
                    )
                    raise PoolError(message)
                self._drop(item["episode_id"])
        return latest

    def _drop(self, name: str) -> None:
        _, first, count = self._mine.pop(name)
        self._episodes.delete_many({"batch": self._batch, "episode_id": name})
        self._records.delete_many({"batch": self._batch, "k": {"$gte": first, "$lt": first + count}})

    def _take_back(self) -> None:
        """Remove what was sent; where that fails a sweep does it."""
        if self._alive is None:
            return
        with suppress(PoolError), self._errors():
            # Who is interrupted while he commits does not know whether it has happened.
            if not self._committing or self._commits.void(self._batch).kind != STORE:
                self._episodes.delete_many({"batch": self._batch})
                self._records.delete_many({"batch": self._batch})
            self._commits.end(self._batch)

    def _errors(self) -> AbstractContextManager[None]:
        return pool_errors(self._place, "storing episodes", _LEFT)


def delete_entries(place: str, database: "Documents", commits: Commits, entries: Sequence[MongoEntry]) -> int:
    """Delete episodes, all together; how many were there."""
    episodes, batch = database["episodes"], new_batch()
    keys = [entry.key for entry in entries]
    chunks = [keys[start : start + CHUNK] for start in range(0, len(keys), CHUNK)]
    try:
        with pool_errors(place, "deleting episodes", "nothing was deleted"):
            alive = commits.begin(batch, DELETE)
            for chunk in chunks:
                alive()
                episodes.update_many({"_id": {"$in": chunk}}, {"$push": {"deleting": batch}})
        while True:
            with pool_errors(place, "deleting episodes", "nothing was deleted"):
                seen, count = commits.latest(), 0
                for chunk in chunks:
                    found = list(episodes.find({"_id": {"$in": chunk}}, {"batch": 1, "deleting": 1}))
                    count += len(commits.visible(found, seen))
            if count == 0 or commit(place, commits, batch, seen + 1, DELETE, count):
                break
    except PoolServerError:
        raise
    except BaseException:
        with suppress(PoolError), pool_errors(place, "leaving episodes as they were"):
            # Who is interrupted when it has just happened leaves the rest to a sweep.
            if commits.void(batch).kind != DELETE:
                unmark(database, batch)
                commits.end(batch)
        raise
    with suppress(PoolError), pool_errors(place, "removing deleted episodes"):
        if count:
            remove_spans(database, [entry.span for entry in entries])
        else:
            unmark(database, batch)
        commits.end(batch)
    return count


def commit(place: str, commits: Commits, batch: str, number: int, kind: str, count: int) -> bool:
    """Commit as a number; False: that number is taken. Where an answer is lost, find out.

    Raises:
        PoolServerError: nothing was committed, or it cannot be found out.
        PoolError: the batch was declared dead.
    """
    doing = "storing episodes" if kind == STORE else "deleting episodes"
    try:
        with pool_errors(place, doing):
            return commits.try_commit(batch, number, kind, count)
    except VoidedError as error:
        message = (
            f"{place}: {doing} took so long without a sign of life that a sweep took it for dead; nothing "
            "was changed: do it again, and sweep with a longer time"
        )
        raise PoolError(message) from error
    except PoolServerError as error:
        try:
            with pool_errors(place, doing):
                known = commits.void(batch)
        except PoolError:
            message = (
                f"{error} It is not known whether it took effect: do the same again when the server answers, "
                "the same again changes nothing"
            )
            raise PoolServerError(message) from error
        if known.kind != VOID:
            return True
        message = f"{error} Nothing was changed"
        raise PoolServerError(message) from error


def remove_deleted(database: "Documents", batch: str) -> int:
    """Remove the episodes that a committed batch deletes; how many were left."""
    removed = 0
    while True:
        fields = {"batch": 1, "first": 1, "records": 1}
        found = list(database["episodes"].find({"deleting": {"$in": [batch]}}, fields).limit(CHUNK))
        if not found:
            return removed
        remove_spans(database, [Span.of(item) for item in found])
        removed += len(found)


def remove_spans(database: "Documents", spans: Sequence[Span]) -> None:
    """Remove episodes of which nobody knows any more, the records first."""
    from pymongo import DeleteMany

    for start in range(0, len(spans), CHUNK):
        chunk = spans[start : start + CHUNK]
        all_of_them = [DeleteMany(span.first_records(span.records + 1)) for span in chunk]
        database["records"].bulk_write(all_of_them, ordered=False)
        database["episodes"].delete_many({"_id": {"$in": [span.key for span in chunk]}})


def unmark(database: "Documents", batch: str) -> None:
    """Leave the episodes as they were that a batch would have deleted."""
    database["episodes"].update_many({"deleting": {"$in": [batch]}}, {"$pull": {"deleting": batch}})


def new_batch() -> str:
    """An id that nobody else has."""
    return f"b{secrets.token_hex(11)}"


def _groups(
    first: tuple[Episode, str], others: Iterator[tuple[Episode, str]]
) -> Iterator[list[tuple[Episode, str]]]:
    group: list[tuple[Episode, str]] = []
    for item in chain([first], others):
        group.append(item)
        if len(group) == _EPISODES:
            yield group
            group = []
    if group:
        yield group
