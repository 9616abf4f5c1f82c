"""The contract of every store of episodes: Parquet lake, Avro files, MongoDB."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from tspace_core.errors import PoolError, StorageError
from tspace_core.records.episode import Episode
from tspace_core.storage.lake import Lake
from tspace_core.storage.pools import sampling
from tspace_core.storage.pools.digest import digest
from tspace_core.storage.pools.entry import Entry
from tspace_core.storage.pools.query import ALL, Query
from tspace_core.storage.replay import ReplayBatch
from tspace_core.storage.replay_sequences import SequenceBatch

T = TypeVar("T")
_PLANS = 4
"""Index plans kept: a training loop samples by one or two queries."""
_LOOKS = 5
_ANYWHERE = Lake("/")
"""Only to check the form of keys."""


class Counts(NamedTuple):
    """How much there is."""

    episodes: int
    """With at least one matching record."""
    records: int
    """Matching ones."""


class GoneError(PoolError):
    """An episode that was just found is not there any more."""


class Pool(ABC):
    """A store of episodes.

    A kind of pool implements the methods that begin with ``_``, ``read`` and ``close``; what is common to
    all, above all the draw of samples, is here. So equal content and an equal generator give an equal batch
    in every kind.

    An episode's id is ``<log key>#<piece>``, its log key ``<vehicle>/<YYYY-MM-DD>/<name>``: that names its
    place in every store.
    """

    def __init__(self) -> None:
        self._plans: dict[tuple[Query, Hashable], sampling.Plan] = {}
        self._keeping = threading.Lock()

    # What a kind of pool implements

    @abstractmethod
    def _store(self, episodes: Iterator[tuple[Episode, str]]) -> int:
        """Store checked episodes with their digests, all or none; how many were new.

        Each id comes once. Another digest under a known id: compare by ``refuse_other``.
        """

    @abstractmethod
    def _entries(self, query: Query) -> list[Entry]:
        """All entries that ``query.fits``, in any order; others may be among them."""

    @abstractmethod
    def _times_and_flags(self, entry: Entry) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """(n,) times and (n,) flags of an episode's records.

        Raises:
            GoneError: it has been deleted since it was found.
        """

    @abstractmethod
    def _rows(self, entry: Entry, rows: NDArray[np.int64]) -> sampling.Rows:
        """Rows of an episode, ascending, 0 to n; of row n, the last state, all but the state is 0.

        Raises:
            GoneError: it has been deleted since it was found.
        """

    @abstractmethod
    def _delete(self, entries: list[Entry]) -> int:
        """Delete episodes, whole; how many were there."""

    @abstractmethod
    def _version(self, query: Query) -> Hashable | None:
        """Another value after every change that the query can touch; None: not known, look each time."""

    @abstractmethod
    def read(self, episode_id: str) -> Episode:
        """An episode, bit for bit as it was stored.

        Raises:
            PoolError: there is none of this id, or it cannot be read.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back what is open; closing again is no error."""

    def _read_ahead(self, wanted: list[tuple[Entry, NDArray[np.int64]]]) -> None:  # noqa: B027
        """Told which rows ``_rows`` is going to be asked for, all of one draw; may fetch them together."""

    def _known_counts(self, query: Query) -> Counts | None:
        """What ``count`` returns, where the store can tell without an entry for each; None: it cannot."""
        return None

    # What all pools share

    def store(self, episodes: Iterable[Episode]) -> int:
        """Store episodes; all of the call become visible together, or none.

        The same episode again changes nothing.

        Returns:
            How many were new.

        Raises:
            PoolError: another episode has this id, or an id that cannot be stored; nothing was stored.
            StorageError: the store cannot be written; nothing was stored.
        """
        return self._store(_checked(episodes))

    def find(self, query: Query = ALL) -> list[Entry]:
        """The episodes with at least one matching record, ordered by start and id."""
        return [entry for entry, count in self._matching(query) if count]

    def count(self, query: Query = ALL) -> Counts:
        """Episodes with at least one matching record, and matching records."""
        known = self._known_counts(query)
        if known is not None:
            return known
        counts = [count for _, count in self._matching(query) if count]
        return Counts(len(counts), sum(counts))

    def iterate(self, query: Query = ALL) -> Iterator[Episode]:
        """The episodes that ``find`` finds, whole and in its order; memory holds one.

        One that is deleted meanwhile is left out.

        Raises:
            PoolError: one of them cannot be read.
        """
        for entry in self.find(query):
            try:
                episode = self.read(entry.episode_id)
            except GoneError:
                continue
            yield episode

    def sample(self, size: int, generator: np.random.Generator, query: Query = ALL) -> ReplayBatch:
        """Draw matching records uniformly, with replacement; only the files touched are read.

        Args:
            size: records, at least 1.
            generator: its state decides the draw: equal content and equal state, equal batch.
            query: what to draw from.

        Raises:
            PoolError: nothing matches, or episodes of two layouts do.
        """
        sampling.require_positive(size=size)
        numbers = generator.random(size)
        return self._drawn(
            lambda: sampling.records(
                self._plan(query), numbers, self._positions_of(query), self._rows, self._read_ahead
            )
        )

    def sample_sequences(
        self, size: int, length: int, generator: np.random.Generator, query: Query = ALL
    ) -> SequenceBatch:
        """Draw runs of successive matching records, uniformly over their possible beginnings.

        Args:
            size: sequences, at least 1.
            length: records of each, at least 1; where a run is shorter the rest is padding.
            generator: its state decides the draw.
            query: what to draw from.

        Raises:
            PoolError: nothing matches, or episodes of two layouts do.
        """
        sampling.require_positive(size=size, length=length)
        numbers = generator.random(size)
        return self._drawn(
            lambda: sampling.sequences(
                self._plan(query), numbers, length, self._positions_of(query), self._rows, self._read_ahead
            )
        )

    def delete(self, query: Query, *, everything: bool = False) -> int:
        """Delete the episodes with a matching record, whole.

        Args:
            query: which; one without any field is refused unless ``everything`` is set.
            everything: whether everything may go.

        Returns:
            How many there were.

        Raises:
            PoolError: the query has no field.
            StorageError: the store cannot be written; nothing was deleted.
        """
        if query.everything and not everything:
            message = (
                f"{self}: a query without any field would delete everything: name vehicles, episodes or a "
                "time, or say everything=True"
            )
            raise PoolError(message)
        entries = self.find(query)
        return self._delete(entries) if entries else 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _matching(self, query: Query) -> list[tuple[Entry, int]]:
        """Entries in order, each with the number of its matching records."""
        fitting = sorted((e for e in self._entries(query) if query.fits(e)), key=lambda entry: entry.order)
        return [(entry, self._matching_records(entry, query)) for entry in fitting]

    def _matching_records(self, entry: Entry, query: Query) -> int:
        known = sampling.known_count(entry, query)
        if known is not None:
            return known
        try:
            return len(query.matching(*self._times_and_flags(entry)))
        except GoneError:
            return 0

    def _drawn(self, draw: Callable[[], T]) -> T:
        """Draw; again by a new plan, where an episode has been deleted since it was found."""
        for _ in range(_LOOKS - 1):
            try:
                return draw()
            except GoneError:
                with self._keeping:
                    self._plans.clear()
        return draw()

    def _plan(self, query: Query) -> sampling.Plan:
        version = self._version(query)
        plan = self._plans.get((query, version)) if version is not None else None
        if plan is None:
            plan = sampling.make_plan(str(self), query, [pair for pair in self._matching(query) if pair[1]])
            if version is not None:
                with self._keeping:
                    while len(self._plans) >= _PLANS:
                        self._plans.pop(next(iter(self._plans)))
                    self._plans[query, version] = plan
        return plan

    def _positions_of(self, query: Query) -> sampling.Positions:
        return lambda entry: query.matching(*self._times_and_flags(entry))


def refuse_other(place: str, stored: Episode, episode: Episode) -> None:
    """Refuse another content under a known id.

    Raises:
        PoolError: the two differ.
    """
    if digest(stored) == digest(episode):
        return
    message = (
        f"{place} holds another episode {stored.meta.episode_id!r}: of {len(stored)} records from "
        f"{stored.times[0]} ns on, made by version {stored.meta.software_version}; refused is one of "
        f"{len(episode)} records from {episode.times[0]} ns on, made by version "
        f"{episode.meta.software_version}: delete the first, or give the second another id"
    )
    raise PoolError(message)


def _checked(episodes: Iterable[Episode]) -> Iterator[tuple[Episode, str]]:
    """Each id once, with its digest."""
    seen: dict[str, str] = {}
    given = 0
    for episode in episodes:
        meta, mark = episode.meta, digest(episode)
        key, separator, piece = meta.episode_id.rpartition("#")
        if not separator or key != meta.log_key or not piece or "/" in piece:
            message = (
                f"episode {meta.episode_id!r} of log {meta.log_key!r} cannot be stored: its id must be "
                f"'{meta.log_key}#<piece>', for example '{meta.log_key}#0000'"
            )
            raise PoolError(message)
        try:
            vehicle = _ANYWHERE.log_of(key).vehicle_id
        except StorageError as error:
            message = f"episode {meta.episode_id!r} cannot be stored: {error}"
            raise PoolError(message) from error
        if vehicle != meta.vehicle_id:
            message = (
                f"episode {meta.episode_id!r} cannot be stored: its log is of vehicle {vehicle!r}, itself it "
                f"is of {meta.vehicle_id!r}; correct one of them"
            )
            raise PoolError(message)
        known = seen.setdefault(meta.episode_id, mark)
        if known != mark:
            message = (
                f"episode {meta.episode_id!r} was given twice, with two contents: digests {known[:12]} and "
                f"{mark[:12]}; give each episode once"
            )
            raise PoolError(message)
        if len(seen) > given:
            given += 1
            yield episode, mark
