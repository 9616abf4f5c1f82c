"""Batches of two sources in a fixed ratio: mostly of the drive going on, beside an offline replay buffer."""

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tspace_core.errors import AgentError
from tspace_core.records.episode import RecordFlag
from tspace_core.storage.replay import ReplayBatch
from tspace_core.storage.replay_sequences import SequenceBatch
from tspace_core.storage.replay_writer import TERMINAL

if TYPE_CHECKING:
    from tspace_core.records.episode import Episode

_FIRST_ROWS = 1024


class RecordSource(Protocol):
    """What records are drawn from: a replay buffer (``Replay``, ``GrowingReplay``) or ``LiveReplay``."""

    def __len__(self) -> int:
        """Records there are now."""

    def sample(self, batch: int, generator: np.random.Generator) -> ReplayBatch:
        """Draw records uniformly, with replacement."""


@runtime_checkable
class SequenceSource(RecordSource, Protocol):
    """What sequences are drawn from: a replay buffer."""

    def sample_sequences(
        self, batch: int, length: int, generator: np.random.Generator, *, burn_in: int = 0, stride: int = 1
    ) -> SequenceBatch:
        """Draw runs of successive records."""


def records_of(episode: "Episode") -> ReplayBatch:
    """The records of a stored episode as a batch in their order.

    A first record whose action had to become zero though another map was live is left out, as it is while
    driving: its reward is not that action's.
    """
    true = (episode.flags & RecordFlag.ZEROED) == 0
    terminals = np.zeros(len(episode), np.float32)
    terminals[-1] = float(episode.meta.end_reason == TERMINAL)
    return ReplayBatch(
        states=episode.states[:-1][true],
        actions=episode.actions[true],
        rewards=episode.rewards[true],
        next_states=episode.states[1:][true],
        terminals=terminals[true],
        first_rows=episode.rows[true].astype(np.float32),
    )


class LiveReplay:
    """The newest ``capacity`` records of online episodes, in memory.

    Records are numbered by age, 0 the oldest, whatever their place in memory: the same records in the same
    order make the same batches, also after they were read back from the lake.
    """

    def __init__(self, state_dim: int, action_dim: int, capacity: int) -> None:
        if capacity < 1:
            message = f"capacity is {capacity}, at least 1 live record must be kept"
            raise AgentError(message)
        self.capacity = capacity
        self._widths = {
            "states": state_dim,
            "actions": action_dim,
            "rewards": 0,
            "next_states": state_dim,
            "terminals": 0,
            "first_rows": 0,
        }
        self.width = sum(max(width, 1) for width in self._widths.values())
        self._rows = np.empty((min(_FIRST_ROWS, capacity), self.width), np.float32)
        self._end = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, records: ReplayBatch) -> None:
        """Add records in their order; the oldest make room.

        Raises:
            AgentError: a wrong shape, a value that is not finite, an action beyond [-1, 1]; none is added.
        """
        block = self._checked(records)[-self.capacity :]
        self._grow(self._count + len(block))
        places = (self._end + np.arange(len(block))) % len(self._rows)
        self._rows[places] = block
        self._end = (self._end + len(block)) % len(self._rows)
        self._count = min(self._count + len(block), self.capacity)

    def discard(self, count: int) -> int:
        """Remove the newest ``count`` records, those of an episode that does not count; return how many."""
        gone = min(count, self._count)
        self._end = (self._end - gone) % len(self._rows)
        self._count -= gone
        return gone

    def sample(self, batch: int, generator: np.random.Generator) -> ReplayBatch:
        """Draw records uniformly, with replacement.

        Raises:
            AgentError: there is none.
        """
        if self._count == 0:
            message = "there is no live record yet; drive first"
            raise AgentError(message)
        return self.split(self.block((generator.random(batch) * self._count).astype(np.int64)))

    def block(self, records: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n, width) rows of these records, the fields side by side; see ``split``."""
        rows: NDArray[np.float32] = self._rows[(self._end - self._count + records) % len(self._rows)]
        return rows

    def split(self, block: NDArray[np.float32]) -> ReplayBatch:
        """The fields of rows as ``block`` gives them, as views."""
        fields, start = {}, 0
        for name, width in self._widths.items():
            fields[name] = block[:, start : start + width] if width else block[:, start]
            start += max(width, 1)
        return ReplayBatch(**fields)

    def _checked(self, records: ReplayBatch) -> NDArray[np.float32]:
        size = len(records.rewards)
        columns = []
        for name, width in self._widths.items():
            values = np.asarray(getattr(records, name), np.float32)
            shape = (size, width) if width else (size,)
            if values.shape != shape:
                message = f"{name} of the live records have shape {values.shape}, expected {shape}"
                raise AgentError(message)
            columns.append(values.reshape(size, max(width, 1)))
        block = np.concatenate(columns, axis=1)
        bad = int((~np.isfinite(block)).sum())
        if bad:
            message = f"live records hold {bad} values that are not finite; leave out such windows"
            raise AgentError(message)
        largest = float(np.abs(records.actions).max(initial=0.0))
        if largest > 1.0:
            message = f"an action of the live records is {largest:.6g}, the limit is 1"
            raise AgentError(message)
        return block

    def _grow(self, needed: int) -> None:
        size = len(self._rows)
        if needed <= size or size == self.capacity:
            return
        while size < needed and size < self.capacity:
            size = min(2 * size, self.capacity)
        rows = np.empty((size, self.width), np.float32)
        rows[: self._count] = self.block(np.arange(self._count))
        self._rows, self._end = rows, self._count % size


class MixedReplay:
    """Draws batches from live and offline records.

    ``live_share`` of a batch are live records, but never more than there are, so that the first ones are not
    repeated over half a batch. Where there is no offline buffer all are live, drawn with replacement. Either
    may be any source; the live ones come first in a batch and are drawn first.
    """

    def __init__(self, offline: RecordSource | None, live: RecordSource, live_share: float) -> None:
        if not 0.0 <= live_share <= 1.0:
            message = f"live_share is {live_share}, expected 0 to 1"
            raise AgentError(message)
        self.offline = offline
        self.live = live
        self.live_share = live_share

    def __len__(self) -> int:
        return len(self.live) + (len(self.offline) if self.offline is not None else 0)

    def live_part(self, batch: int) -> int:
        """How many records, or sequences, of a batch are live ones now."""
        if self.offline is None or len(self.offline) == 0:
            return batch
        return min(round(self.live_share * batch), len(self.live))

    def sample(self, batch: int, generator: np.random.Generator) -> ReplayBatch:
        """Draw records uniformly within each part, with replacement.

        Args:
            batch: Number of records.
            generator: Its state decides the draw: equal state and records, equal batch.

        Raises:
            AgentError: there is no record at all.
        """
        part = self._live_part(batch)
        if self.offline is None or part == batch:
            return self.live.sample(batch, generator)
        if part == 0:
            return self.offline.sample(batch, generator)
        parts = self.live.sample(part, generator), self.offline.sample(batch - part, generator)
        return ReplayBatch(*(np.concatenate(pair) for pair in zip(*parts, strict=True)))

    def sample_sequences(
        self, batch: int, length: int, generator: np.random.Generator, *, burn_in: int = 0, stride: int = 1
    ) -> SequenceBatch:
        """Draw runs of successive records, as ``Replay.sample_sequences``; ``live_share`` of them are live.

        Where only one source keeps recurrent states, those of the other are zeros.

        Raises:
            AgentError: there is no record at all, or a source cannot give sequences, as ``LiveReplay``.
        """
        part = self._live_part(batch)
        parts = [
            _sequences_of(source).sample_sequences(size, length, generator, burn_in=burn_in, stride=stride)
            for source, size in ((self.live, part), (self.offline, batch - part))
            if source is not None and size
        ]
        if len(parts) == 1:
            return parts[0]
        memory = _memories(*parts)
        fields = [np.concatenate(pair) for pair in zip(*(part[:6] for part in parts), strict=True)]
        return SequenceBatch._make([*fields, memory])

    def _live_part(self, batch: int) -> int:
        if len(self) == 0:
            message = "there is neither an offline nor a live record to learn from; drive or build a replay"
            raise AgentError(message)
        return self.live_part(batch)


def _sequences_of(source: RecordSource) -> SequenceSource:
    if not isinstance(source, SequenceSource):
        message = (
            f"a {type(source).__name__} keeps records one by one and has no sequences; append the episodes "
            "to a growing replay buffer and draw from that"
        )
        raise AgentError(message)
    return source


def _memories(first: SequenceBatch, second: SequenceBatch) -> NDArray[np.float32] | None:
    sizes = {part.memory.shape[1] for part in (first, second) if part.memory is not None}
    if not sizes:
        return None
    if len(sizes) > 1:
        message = (
            f"the sources keep recurrent states of {min(sizes)} and {max(sizes)}; mix those of one agent"
        )
        raise AgentError(message)
    (size,) = sizes
    return np.concatenate(
        [
            np.zeros((len(part.mask), size), np.float32) if part.memory is None else part.memory
            for part in (first, second)
        ]
    )
