"""Batches of two sources in a fixed ratio: mostly of the drive going on, beside an offline replay buffer."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from tspace_core.agents.checkpoint import Component
from tspace_core.agents.live_episodes import LiveEpisodes
from tspace_core.agents.sources import RecordSource, sequences_of
from tspace_core.errors import AgentError
from tspace_core.records.episode import RecordFlag
from tspace_core.storage.replay import ReplayBatch
from tspace_core.storage.replay_sequences import SequenceBatch
from tspace_core.storage.replay_writer import TERMINAL

if TYPE_CHECKING:
    from tspace_core.records.episode import Episode

_FIRST_ROWS = 1024


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

    An episode begins with the first record, after ``end_episode``, after a true end, after ``discard``, and
    where a record's state is not the next state of the record before.

    Args:
        state_dim: length of a state.
        action_dim: length of an action.
        capacity: records kept at most.
        memory_dim: length of the recurrent state that is kept with each record; 0 keeps none.
    """

    def __init__(self, state_dim: int, action_dim: int, capacity: int, memory_dim: int = 0) -> None:
        if capacity < 1:
            message = f"capacity is {capacity}, at least 1 live record must be kept"
            raise AgentError(message)
        self.capacity = capacity
        self.memory_dim = memory_dim
        self._widths = {
            "states": state_dim,
            "actions": action_dim,
            "rewards": 0,
            "next_states": state_dim,
            "terminals": 0,
            "first_rows": 0,
        }
        self.width = sum(max(width, 1) for width in self._widths.values())
        first_rows = min(_FIRST_ROWS, capacity)
        self._rows = np.empty((first_rows, self.width), np.float32)
        self._memory = np.empty((first_rows, memory_dim), np.float32)
        self._end = 0
        self._count = 0
        self._episodes = LiveEpisodes()

    def __len__(self) -> int:
        return self._count

    def add(self, records: ReplayBatch, memory: NDArray[np.float32] | None = None) -> None:
        """Add records in their order; the oldest make room.

        Args:
            records: of one episode or of several.
            memory: (records, memory_dim) recurrent state before each record; None: zeros.

        Raises:
            AgentError: a wrong shape, a value that is not finite, an action beyond [-1, 1]; none is added.
        """
        block, remembered = self._checked(records), self._checked_memory(records, memory)
        self._episodes.add(self._begins(self.split(block)))
        block, remembered = block[-self.capacity :], remembered[-self.capacity :]
        self._grow(self._count + len(block))
        places = (self._end + np.arange(len(block))) % len(self._rows)
        self._rows[places] = block
        self._memory[places] = remembered
        self._end = (self._end + len(block)) % len(self._rows)
        self._count = min(self._count + len(block), self.capacity)
        self._episodes.keep(self._count)

    def end_episode(self) -> None:
        """Say that the next record begins a new episode."""
        self._episodes.end()

    def discard(self, count: int) -> int:
        """Remove the newest ``count`` records, those of an episode that does not count; return how many."""
        gone = min(count, self._count)
        self._end = (self._end - gone) % len(self._rows)
        self._count -= gone
        self._episodes.discard(gone)
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

    def sample_sequences(
        self, batch: int, length: int, generator: np.random.Generator, *, burn_in: int = 0, stride: int = 1
    ) -> SequenceBatch:
        """Draw runs of ``burn_in + length`` successive records of one episode, as ``Replay`` does.

        The same episodes and a generator of equal state give the same batch as ``Replay.sample_sequences``,
        whose arguments and meaning these are.

        Raises:
            AgentError: there is no record, or a number is out of its range.
        """
        if length < 1 or burn_in < 0 or stride < 1:
            message = (
                f"sequences of length {length} with burn-in {burn_in} and stride {stride}: "
                "length and stride are at least 1, burn-in at least 0"
            )
            raise AgentError(message)
        if self._count == 0:
            message = "there is no live record yet; drive first"
            raise AgentError(message)
        steps = burn_in + length
        firsts, counts, begins = self._episodes.draw(generator.random(batch), steps, stride)
        ahead = np.arange(steps)
        mask = ahead < counts[:, None]
        rows = self.block(np.where(mask, firsts[:, None] + ahead, firsts[:, None]).ravel())
        rows = rows.reshape(batch, steps, self.width) * mask[..., None]
        found = self.split(rows)
        states = np.zeros((batch, steps + 1, found.states.shape[-1]), np.float32)
        states[:, :steps] = found.states
        sequences = np.arange(batch)
        states[sequences, counts] = found.next_states[sequences, counts - 1]
        return SequenceBatch(
            states=states,
            actions=np.ascontiguousarray(found.actions),
            rewards=np.ascontiguousarray(found.rewards),
            terminals=np.ascontiguousarray(found.terminals),
            mask=mask.astype(np.float32),
            first_rows=np.ascontiguousarray(found.first_rows),
            memory=self._memory[self._places(firsts)] if self.memory_dim else None,
            begins=begins,
        )

    def component(self) -> Component:
        """All records with their episodes and recurrent states, for a checkpoint."""
        places = self._places(np.arange(self._count))
        tensors = {
            "rows": torch.from_numpy(self._rows[places]),
            "memory": torch.from_numpy(self._memory[places]),
        }
        return Component(tensors, self._episodes.component())

    def restore(self, component: Component) -> None:
        """Hold what ``component`` gave, and nothing else; batches are drawn as from the store that gave it.

        Raises:
            AgentError: records of other dimensions, or more than ``capacity``; nothing is changed then.
        """
        rows, memory = component.tensors["rows"].numpy(), component.tensors["memory"].numpy()
        widths = rows.shape[1], memory.shape[1]
        if widths != (self.width, self.memory_dim) or len(rows) > self.capacity:
            message = (
                f"{len(rows)} records of {widths[0]} numbers with recurrent states of {widths[1]}, this "
                f"store keeps {self.capacity} of {self.width} and {self.memory_dim}; make it as it was"
            )
            raise AgentError(message)
        self._end = self._count = 0
        self._grow(len(rows))
        self._rows[: len(rows)], self._memory[: len(rows)] = rows, memory
        self._end, self._count = len(rows) % len(self._rows), len(rows)
        self._episodes.restore(component.values)

    def block(self, records: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n, width) rows of these records, the fields side by side; see ``split``."""
        rows: NDArray[np.float32] = self._rows[self._places(records)]
        return rows

    def split(self, block: NDArray[np.float32]) -> ReplayBatch:
        """The fields of rows as ``block`` gives them, as views."""
        fields, start = {}, 0
        for name, width in self._widths.items():
            fields[name] = block[..., start : start + width] if width else block[..., start]
            start += max(width, 1)
        return ReplayBatch(**fields)

    def _places(self, records: NDArray[np.int64]) -> NDArray[np.int64]:
        return (self._end - self._count + records) % len(self._rows)

    def _begins(self, added: ReplayBatch) -> NDArray[np.bool_]:
        """Which of the records to be added cannot go on from the record before."""
        begins = np.zeros(len(added.rewards), np.bool_)
        if not len(begins):
            return begins
        begins[1:] = (added.states[1:] != added.next_states[:-1]).any(axis=1) | (added.terminals[:-1] != 0)
        if self._count:
            last = self.split(self.block(np.array([self._count - 1])))
            begins[0] = (added.states[0] != last.next_states[0]).any() or last.terminals[0] != 0
        return begins

    def _checked_memory(
        self, records: ReplayBatch, memory: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        shape = (len(records.rewards), self.memory_dim)
        if memory is None:
            return np.zeros(shape, np.float32)
        values = np.asarray(memory, np.float32)
        if values.shape != shape:
            message = (
                f"recurrent states of the live records have shape {values.shape}, expected {shape}; "
                "keep session.memory of the agent that this store is for"
            )
            raise AgentError(message)
        bad = int((~np.isfinite(values)).sum())
        if bad:
            message = f"recurrent states of the live records hold {bad} values that are not finite"
            raise AgentError(message)
        return values

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
        places = self._places(np.arange(self._count))
        for name in ("_rows", "_memory"):
            old = getattr(self, name)
            bigger = np.empty((size, old.shape[1]), np.float32)
            bigger[: self._count] = old[places]
            setattr(self, name, bigger)
        self._end = self._count % size


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
            AgentError: there is no record at all, or a source cannot give sequences.
        """
        part = self._live_part(batch)
        parts = [
            sequences_of(source).sample_sequences(size, length, generator, burn_in=burn_in, stride=stride)
            for source, size in ((self.live, part), (self.offline, batch - part))
            if source is not None and size
        ]
        if len(parts) == 1:
            return parts[0]
        memory = _memories(*parts)
        fields = [np.concatenate(pair) for pair in zip(*(part[:6] for part in parts), strict=True)]
        begins = [
            np.zeros(len(part.mask), np.float32) if part.begins is None else part.begins for part in parts
        ]
        return SequenceBatch._make([*fields, memory, np.concatenate(begins)])

    def _live_part(self, batch: int) -> int:
        if len(self) == 0:
            message = "there is neither an offline nor a live record to learn from; drive or build a replay"
            raise AgentError(message)
        return self.live_part(batch)


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
