"""A replay buffer whose rows live on the device that learns: drawn there and gathered there.

A batch costs the host nothing but the launch: the draw comes from a generator on the device, and neither it
nor the gather waits for the device.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tspace_core.errors import AgentError
from tspace_core.storage.replay import Replay
from tspace_core.storage.replay_index import END, LENGTH, SHIFT, TERMINAL, EpisodeIndex, EpisodePlace
from tspace_core.storage.replay_manifest import ReplayLayout

_BLOCK_ROWS = 1 << 16
"""Rows copied to the device at once."""


class TensorBatch(NamedTuple):
    """A batch of records as ``ReplayBatch``, on the device."""

    states: Tensor
    actions: Tensor
    rewards: Tensor
    next_states: Tensor
    terminals: Tensor
    first_rows: Tensor


class TensorSequences(NamedTuple):
    """A batch of sequences as ``SequenceBatch``, on the device."""

    states: Tensor
    actions: Tensor
    rewards: Tensor
    terminals: Tensor
    mask: Tensor
    first_rows: Tensor
    memory: Tensor | None
    begins: Tensor


class DeviceReplay:
    """The records of a replay buffer on a device.

    The same records and a generator of equal state give equal batches on one kind of device. They differ from
    those that ``Replay`` draws on the host.
    """

    def __init__(self, replay: Replay, device: str | torch.device) -> None:
        """Copy a buffer to a device.

        Args:
            replay: A version, or a growing buffer that ``refresh`` follows.
            device: ``"cuda"``, ``"cuda:1"``, ``"cpu"``, ...

        Raises:
            AgentError: there is no such device, or not enough memory on it.
        """
        self._replay = replay
        self._layout = replay.layout
        self._host: EpisodeIndex | None = None
        self._index = EpisodeIndex()
        self._copied = self._used = 0
        index = replay.index
        count = len(index) + index.episodes
        try:
            self.device = torch.device(device)
            self._rows = torch.empty((count, self._layout.row_width), device=self.device)
            size = replay.memory_dim
            self._memory = torch.empty((count, size), device=self.device) if size else None
            self._take()
        except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
            message = (
                f"{replay.directory}: {count} rows cannot be copied to {device}: {error}; choose another "
                "device, or sample on the host"
            )
            raise AgentError(message) from error

    def __len__(self) -> int:
        return len(self._index)

    @property
    def layout(self) -> ReplayLayout:
        """What a row holds."""
        return self._layout

    def refresh(self) -> bool:
        """Take over what was appended to a growing buffer and evicted since; only new rows are copied."""
        changed = self._replay.refresh()
        if changed:
            self._take()
        return changed

    def sample(self, batch: int, generator: torch.Generator) -> TensorBatch:
        """Draw records uniformly, with replacement.

        Args:
            batch: Number of records.
            generator: On the same device; its state decides the draw.

        Raises:
            AgentError: there is no record.
        """
        return self._gather(self._index.begin + self._drawn(batch, len(self), generator))

    def pick(self, records: Tensor) -> TensorBatch:
        """The records of these numbers, int64 on the device, 0 to ``len(self) - 1`` (not checked)."""
        return self._gather(self._index.begin + records)

    def sample_sequences(
        self, batch: int, length: int, generator: torch.Generator, *, burn_in: int = 0, stride: int = 1
    ) -> TensorSequences:
        """Draw runs of ``burn_in + length`` successive records; see ``Replay.sample_sequences``.

        Raises:
            AgentError: there is no record, or a number is out of its range.
        """
        steps = burn_in + length
        if length < 1 or burn_in < 0 or stride < 1:
            message = f"length {length}, burn-in {burn_in}, stride {stride}: expected at least 1, 0 and 1"
            raise AgentError(message)
        starts = self._starts(steps, stride)
        low, high = self._index.low, self._index.high
        counts = self._index.sequence_starts(steps, stride)
        drawn = int(counts[low]) + self._drawn(batch, int(counts[high] - counts[low]), generator)
        episodes = torch.searchsorted(starts, drawn, right=True) - 1
        table = self._table[episodes]
        offsets = (drawn - starts[episodes]) * stride
        offsets = torch.minimum(offsets, (table[:, LENGTH] - steps).clamp_(min=0))
        return self._runs(table[:, END] - table[:, LENGTH] + offsets, table, steps)

    def pick_sequences(self, records: Tensor, steps: int) -> TensorSequences:
        """The runs of ``steps`` records from these numbers on, padded at an episode's end (not checked)."""
        numbers = self._index.begin + records
        return self._runs(numbers, self._table[self._episodes_of(numbers)], steps)

    def _drawn(self, batch: int, count: int, generator: torch.Generator) -> Tensor:
        if count == 0:
            message = f"{self._replay.directory}: holds no record yet; append an episode and refresh"
            raise AgentError(message)
        uniform = torch.rand(batch, dtype=torch.float64, device=self.device, generator=generator)
        return uniform.mul_(count).long()

    def _episodes_of(self, numbers: Tensor) -> Tensor:
        return torch.searchsorted(self._ends, numbers, right=True)

    def _gather(self, numbers: Tensor) -> TensorBatch:
        table = self._table[self._episodes_of(numbers)]
        places = numbers + table[:, SHIFT]
        size = len(self._rows)
        rows, following = self._rows[places % size], self._rows[(places + 1) % size]
        state, action = self._layout.state_dim, self._layout.state_dim + self._layout.action_dim
        last = numbers == table[:, END] - 1
        return TensorBatch(
            states=rows[:, :state],
            actions=rows[:, state:action],
            rewards=rows[:, action],
            next_states=following[:, :state],
            terminals=(last & (table[:, TERMINAL] != 0)).float(),
            first_rows=rows[:, action + 1],
        )

    def _runs(self, numbers: Tensor, table: Tensor, steps: int) -> TensorSequences:
        firsts = numbers + table[:, SHIFT]
        left = (table[:, END] - numbers)[:, None]
        ahead = torch.arange(steps + 1, device=self.device)
        places = firsts[:, None] + torch.minimum(ahead, left)
        rows = self._rows[places % len(self._rows)]
        state, action = self._layout.state_dim, self._layout.state_dim + self._layout.action_dim
        inside = ahead[:steps] < left
        # Padding may be read from a last observation's row, whose action and reward are NaN: not a product.
        records = torch.where(inside[..., None], rows[:, :steps, state:], 0.0)
        ends = (ahead[:steps] == left - 1) & (table[:, TERMINAL] != 0)[:, None]
        return TensorSequences(
            states=torch.where((ahead <= left)[..., None], rows[..., :state], 0.0),
            actions=records[..., : action - state],
            rewards=records[..., action - state],
            terminals=ends.float(),
            mask=inside.float(),
            first_rows=records[..., action - state + 1],
            memory=self._memory[firsts % len(self._memory)] if self._memory is not None else None,
            begins=(numbers == table[:, END] - table[:, LENGTH]).float(),
        )

    def _starts(self, steps: int, stride: int) -> Tensor:
        known = self._sequence_starts.get((steps, stride))
        if known is None:
            known = torch.from_numpy(self._index.sequence_starts(steps, stride)).to(self.device)
            self._sequence_starts[steps, stride] = known
        return known

    def _take(self) -> None:
        """Follow the buffer on the host: forget what it evicted, copy what is new."""
        host = self._replay.index
        if host is not self._host:  # it was read anew, its records have other numbers
            self._host, self._index, self._copied = host, EpisodeIndex(), 0
        known = int(np.searchsorted(host.table[host.low :, END], self._copied, side="right"))
        self._index.drop(self._index.episodes - known)
        new = [host.rows(position) for position in range(host.low + known, host.high)]
        self._make_room(sum(place.length + 1 for place in new))
        for place in new:
            self._index.extend([EpisodePlace(self._used, place.length, place.terminal)])
            self._used += place.length + 1
        self._copy(new)
        if new:
            self._copied = int(host.table[-1, END])
        self._table = torch.from_numpy(self._index.table.copy()).to(self.device)
        self._ends = self._table[:, END].contiguous()
        self._sequence_starts: dict[tuple[int, int], Tensor] = {}

    def _copy(self, episodes: list[EpisodePlace]) -> None:
        position = self._used - sum(place.length + 1 for place in episodes)
        for first, count in _blocks(episodes):
            rows, memory = self._replay.rows(first, count)
            _store(self._rows, position, torch.from_numpy(rows.copy()))
            if memory is not None and self._memory is not None:
                _store(self._memory, position, torch.from_numpy(memory.copy()))
            position += count

    def _make_room(self, rows: int) -> None:
        """Rows lie in a ring, at their number modulo its size; make a larger one where they need it."""
        index = self._index
        begin = index.rows(index.low).first if index.episodes else self._used
        needed, size = self._used - begin + rows, len(self._rows)
        if needed <= size:
            return
        old = torch.arange(begin, self._used, device=self.device)
        for name in ("_rows", "_memory"):
            ring: Tensor | None = getattr(self, name)
            if ring is not None:
                bigger = torch.empty((max(needed, 2 * size), ring.shape[1]), device=self.device)
                bigger[old % len(bigger)] = ring[old % size] if size else ring
                setattr(self, name, bigger)


def _store(ring: Tensor, position: int, block: Tensor) -> None:
    begin = position % len(ring)
    head = min(len(block), len(ring) - begin)
    ring[begin : begin + head] = block[:head].to(ring.device)
    ring[: len(block) - head] = block[head:].to(ring.device)


def _blocks(episodes: list[EpisodePlace]) -> Iterator[tuple[int, int]]:
    """(first row, rows) of what lies side by side on the host, ``_BLOCK_ROWS`` at most."""
    runs: list[list[int]] = []
    for place in episodes:
        if runs and place.first == sum(runs[-1]):
            runs[-1][1] += place.length + 1
        else:
            runs.append([place.first, place.length + 1])
    for first, count in runs:
        for begin in range(0, count, _BLOCK_ROWS):
            yield first + begin, min(_BLOCK_ROWS, count - begin)
