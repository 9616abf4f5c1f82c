"""Where the episodes of live records begin, and sequences drawn from them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FEW = 64


class LiveEpisodes:
    """The episodes of the newest records; records are numbered by age, 0 the oldest.

    It counts only: the records lie with the caller, who says what comes, what goes and what is kept.
    """

    def __init__(self) -> None:
        self._starts = np.zeros(_FEW, np.int64)  # numbers since the beginning, ascending
        self._used = 0
        self._total = 0
        self._count = 0
        self._ended = True
        self._drawn: dict[tuple[int, int], NDArray[np.int64]] = {}

    def add(self, begins: NDArray[np.bool_]) -> None:
        """Add records, (n,) whether each begins an episode, beside those that must."""
        if not len(begins):
            return
        found = np.flatnonzero(begins)
        if self._ended and (not len(found) or found[0]):
            found = np.concatenate([[0], found])
        self._ended = False
        used = self._used + len(found)
        if used > len(self._starts):
            self._make_room(used)
            used = self._used + len(found)
        self._starts[self._used : used] = self._total + found
        self._used = used
        self._total += len(begins)
        self._count += len(begins)
        self._drawn.clear()

    def end(self) -> None:
        """Let the next record begin an episode."""
        self._ended = True

    def keep(self, count: int) -> None:
        """Forget all but the newest ``count`` records."""
        if count != self._count:
            self._count = count
            self._drawn.clear()

    def discard(self, count: int) -> None:
        """Forget the newest ``count`` records; the next one begins an episode."""
        if not count:
            return
        self._total -= count
        self._count -= count
        self._used = int(np.searchsorted(self._starts[: self._used], self._total))
        self._ended = True
        self._drawn.clear()

    def component(self) -> dict[str, Any]:
        """Where the episodes begin, relative to the oldest kept record, and whether the last has ended."""
        oldest = self._total - self._count
        low = max(int(np.searchsorted(self._starts[: self._used], oldest, side="right")) - 1, 0)
        starts = self._starts[low : self._used] - oldest
        return {"starts": starts.tolist(), "count": self._count, "ended": self._ended}

    def restore(self, values: Mapping[str, Any]) -> None:
        """Go on from what ``component`` gave."""
        starts = np.array(values["starts"], np.int64)
        self._starts = np.zeros(2 * max(len(starts), _FEW), np.int64)
        self._starts[: len(starts)] = starts
        self._used = len(starts)
        self._total = self._count = int(values["count"])
        self._ended = bool(values["ended"])
        self._drawn.clear()

    def draw(
        self, uniform: NDArray[np.float64], steps: int, stride: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Sequences of ``steps`` records at most, by numbers in [0, 1): evenly from all there are.

        Returns:
            (n,) number of the first record, how many records, and 1 where its episode begins with it.
        """
        oldest = self._total - self._count
        low = int(np.searchsorted(self._starts[: self._used], oldest, side="right")) - 1
        true_starts = self._starts[low : self._used]
        starts = np.maximum(true_starts, oldest)
        lengths = np.diff(starts, append=self._total)
        before = self._drawn.get((steps, stride))
        if before is None:
            counts = -(-np.maximum(lengths - steps, 0) // stride) + 1
            before = np.concatenate([[0], np.cumsum(counts)])
            self._drawn[steps, stride] = before
        drawn = (uniform * before[-1]).astype(np.int64)
        episodes = np.searchsorted(before, drawn, side="right") - 1
        offsets = np.minimum((drawn - before[episodes]) * stride, np.maximum(lengths[episodes] - steps, 0))
        firsts = starts[episodes] + offsets
        begins = (firsts == true_starts[episodes]).astype(np.float32)
        return firsts - oldest, np.minimum(lengths[episodes], steps), begins

    def _make_room(self, needed: int) -> None:
        """Drop the starts of episodes that are gone, all but the oldest kept one's; double the memory."""
        kept = self._starts[: self._used]
        low = max(int(np.searchsorted(kept, self._total - self._count, side="right")) - 1, 0)
        kept = kept[low:]
        bigger = np.zeros(2 * max(needed - low, _FEW), np.int64)
        bigger[: len(kept)] = kept
        self._starts, self._used = bigger, len(kept)
