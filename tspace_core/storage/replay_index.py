"""Which rows of a replay buffer are records: the episodes in memory, a few bytes each, none a record.

A draw gives the number of a record. Its row is found by the episode it lies in: ``blocks`` holds the first
episode of every 64 numbers, from there a step or two lead to it. Beside the rows this is small (100 million
records in episodes of 400 take 14 MB), so a buffer larger than memory needs no memory for its index.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tspace_core.errors import StorageError

END, SHIFT, LENGTH, TERMINAL = range(4)
_BLOCK = 64
_FEW = 1024


class EpisodePlace(NamedTuple):
    """Rows ``first`` to ``first + length`` of an episode of ``length`` records."""

    first: int
    length: int
    terminal: bool


class EpisodeIndex:
    """The episodes of a buffer in their order; grows at the end, shrinks at the beginning.

    Records are numbered in the order of the episodes. Numbers of kept records never change.
    """

    def __init__(self, episodes: Sequence[EpisodePlace] = ()) -> None:
        self._table = np.zeros((_FEW, 4), np.int64)
        self._blocks = np.zeros(_FEW, np.int64)
        self._episodes = 0
        self.low = 0
        """Position in ``table`` of the oldest kept episode."""
        self.origin = 0
        """Record that ``blocks`` begins with."""
        self._used_blocks = 0
        self._end = 0
        self._starts: dict[tuple[int, int], NDArray[np.int64]] = {}
        self.extend(episodes)

    @property
    def table(self) -> NDArray[np.int64]:
        """(episodes, 4): number after the last record, row minus record, records, terminal or not."""
        return self._table[: self._episodes]

    @property
    def blocks(self) -> NDArray[np.int64]:
        """First episode in ``table`` of each 64 records from ``origin`` on."""
        return self._blocks[: self._used_blocks]

    @property
    def high(self) -> int:
        """Position after the newest episode."""
        return self._episodes

    @property
    def begin(self) -> int:
        """Number of the oldest kept record."""
        if self.low == self._episodes:
            return self._end
        return int(self._table[self.low, END] - self._table[self.low, LENGTH])

    def __len__(self) -> int:
        return self._end - self.begin

    @property
    def episodes(self) -> int:
        """How many episodes are kept."""
        return self._episodes - self.low

    def extend(self, episodes: Sequence[EpisodePlace]) -> None:
        """Add episodes after the newest."""
        if not episodes:
            return
        added = np.array(episodes, np.int64)
        if (added[:, 1] < 1).any():
            message = "an episode without a record cannot be in a replay buffer"
            raise StorageError(message)
        old, new = self._episodes, self._episodes + len(added)
        self._table = _grown(self._table, new)
        ends = self._end + np.cumsum(added[:, 1])
        rows = self._table[old:new]
        rows[:, END] = ends
        rows[:, SHIFT] = added[:, 0] - (ends - added[:, 1])
        rows[:, LENGTH] = added[:, 1]
        rows[:, TERMINAL] = added[:, 2]
        self._episodes, self._end = new, int(ends[-1])
        blocks = -(-(self._end - self.origin) // _BLOCK)
        self._blocks = _grown(self._blocks, blocks)
        firsts = self.origin + _BLOCK * np.arange(self._used_blocks, blocks)
        self._blocks[self._used_blocks : blocks] = old + np.searchsorted(ends, firsts, side="right")
        self._used_blocks = blocks

    def drop(self, episodes: int) -> None:
        """Forget the oldest ``episodes``."""
        self.low += episodes
        if self.low > _FEW and self.low > self.episodes:
            self._compact()

    def rows(self, position: int) -> EpisodePlace:
        """Place of the episode at ``position`` of ``table``."""
        end, shift, length, terminal = self._table[position].tolist()
        return EpisodePlace(end - length + shift, length, bool(terminal))

    def sequence_starts(self, length: int, stride: int) -> NDArray[np.int64]:
        """(episodes + 1,) count of sequences of ``length`` before each episode of ``table``; kept.

        An episode of at least ``length`` records has one at every ``stride`` records and one at its end; a
        shorter one has one.
        """
        known = self._starts.get((length, stride))
        done = 0 if known is None else len(known) - 1
        if known is None or done < self._episodes:
            spare = np.maximum(self._table[done : self._episodes, LENGTH] - length, 0)
            counts = -(-spare // stride) + 1
            before = np.zeros(1, np.int64) if known is None else known
            known = np.concatenate([before, before[-1] + np.cumsum(counts)])
            self._starts[length, stride] = known
        return known

    def _compact(self) -> None:
        gone, blocks = self.low, (self.begin - self.origin) // _BLOCK
        self._table = _grown(self.table[gone:], self.episodes)
        self._blocks = _grown(np.maximum(self.blocks[blocks:] - gone, 0), self._used_blocks - blocks)
        self._used_blocks -= blocks
        self.origin += blocks * _BLOCK
        self._episodes -= gone
        self.low = 0
        self._starts.clear()


def _grown(array: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """``array`` with room for ``size`` rows; its memory doubles."""
    if size <= len(array) and array.flags.owndata:
        return array
    bigger = np.zeros((max(2 * size, _FEW), *array.shape[1:]), np.int64)
    bigger[: len(array)] = array
    return bigger
