"""Bring the episodes of one pool into another, of any kinds, bit for bit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tspace_core.errors import (
    ObjectAccessError,
    ObjectServerError,
    PoolAccessError,
    PoolError,
    PoolServerError,
    StorageError,
)
from tspace_core.records.episode import Episode
from tspace_core.storage.pools.entry import Entry
from tspace_core.storage.pools.pool import GoneError, Pool
from tspace_core.storage.pools.query import ALL, Query

BATCH_EPISODES = 64
BATCH_RECORDS = 50_000
"""What becomes visible together and is in memory at a time, at most."""


@dataclass
class ConvertReport:
    """What came of it."""

    source: str
    target: str
    found: int = 0
    """Episodes that matched."""
    new: int = 0
    """Stored now."""
    there: int = 0
    """Stored before, the same."""
    records: int = 0
    """Records of those that are new."""
    refused: dict[str, str] = field(default_factory=dict)
    """Why, by episode id: another content is there, or it cannot be read."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return dict(vars(self))


def convert(
    source: Pool,
    target: Pool,
    query: Query = ALL,
    *,
    tell: Callable[[ConvertReport], object] = lambda _: None,
) -> ConvertReport:
    """Store in ``target`` the episodes that ``query`` finds in ``source``; neither loses any.

    Memory holds a batch. What is stored stays stored: after an interruption the same call goes on with the
    rest. Episodes whose digest the target has already are not read again.

    Args:
        source: from where.
        target: where to.
        query: which; whole episodes with a matching record.
        tell: called with the report after each batch.

    Raises:
        StorageError: a store cannot be reached or written; what was stored before is reported by ``tell``.
    """
    report = ConvertReport(str(source), str(target))
    for entries in _batches(source.find(query)):
        report.found += len(entries)
        known = {found.episode_id: found for found in target.find(Query(episodes=tuple(_ids(entries))))}
        episodes = []
        for entry in entries:
            there = known.get(entry.episode_id)
            if there is not None and there.digest and there.digest == entry.digest:
                report.there += 1
                continue
            try:
                episodes.append(source.read(entry.episode_id))
            except GoneError:
                report.found -= 1
            except _NO_ANSWER:
                raise
            except (PoolError, StorageError) as error:
                report.refused[entry.episode_id] = str(error)
        _store(target, episodes, report, set(known))
        tell(report)
    return report


_NO_ANSWER = (PoolAccessError, PoolServerError, ObjectAccessError, ObjectServerError)


def _store(target: Pool, episodes: list[Episode], report: ConvertReport, known: set[str]) -> None:
    try:
        _count(report, episodes, target.store(episodes), known)
    except _NO_ANSWER:
        raise
    except PoolError:
        # One of them is refused, and with it all: the others are stored by themselves.
        for episode in episodes:
            try:
                _count(report, [episode], target.store([episode]), known)
            except _NO_ANSWER:
                raise
            except PoolError as error:
                report.refused[episode.meta.episode_id] = str(error)


def _count(report: ConvertReport, episodes: list[Episode], new: int, known: set[str]) -> None:
    report.new += new
    report.there += len(episodes) - new
    report.records += sum(len(episode) for episode in episodes if episode.meta.episode_id not in known)


def _ids(entries: list[Entry]) -> list[str]:
    return [entry.episode_id for entry in entries]


def _batches(entries: list[Entry]) -> Iterator[list[Entry]]:
    batch: list[Entry] = []
    records = 0
    for entry in entries:
        if batch and (len(batch) == BATCH_EPISODES or records + entry.records > BATCH_RECORDS):
            yield batch
            batch, records = [], 0
        batch.append(entry)
        records += entry.records
    if batch:
        yield batch
