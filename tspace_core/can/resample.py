"""Samples onto the vehicle's grid: the last value at each instant, with its age.

A value is carried on until its signal's ``max_age_s``; after that the grid says NaN, so that a stale value is
never taken for a fresh one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from tspace_core.can.samples import Samples

Times = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Ages = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class GridBlock:
    """Consecutive rows of the grid.

    Attributes:
        time: int64[n], ns on the log's clock, integer multiples of the period.
        segment: uint16[n], unbroken run of the log that each row belongs to.
        values: float64[n] a signal; NaN where it has no value yet or only a stale one.
        ages: float32[n] a signal, s since its last sample, also where that is stale; NaN: none yet.
    """

    time: Times
    segment: npt.NDArray[np.uint16]
    values: dict[str, Floats]
    ages: dict[str, Ages]

    def __len__(self) -> int:
        return len(self.time)

    @classmethod
    def concat(cls, blocks: Iterable["GridBlock"], names: Iterable[str]) -> Self:
        """All rows of the blocks; ``names`` are the columns where there is no block."""
        parts, columns = list(blocks), list(names)
        return cls(
            np.concatenate([np.empty(0, np.int64), *(one.time for one in parts)]),
            np.concatenate([np.empty(0, np.uint16), *(one.segment for one in parts)]),
            {
                name: np.concatenate([np.empty(0, np.float64), *(one.values[name] for one in parts)])
                for name in columns
            },
            {
                name: np.concatenate([np.empty(0, np.float32), *(one.ages[name] for one in parts)])
                for name in columns
            },
        )


class GridResampler:
    """Puts the signals of one log onto the grid, in as many pushes as one likes.

    The grid's instants are the integer multiples of the period, from the first one at or after the first
    sample of a segment. The value at an instant is that of the last sample at or before it; of several
    samples on one stamp the last wins. The rows do not depend on how the log is cut into pushes.

    Args:
        rate_hz: rows a second; the period is ``round(1e9 / rate_hz)`` ns.
        max_age_s: for each signal (they are the columns), the age in s beyond which it is stale.
    """

    def __init__(self, rate_hz: float, max_age_s: Mapping[str, float]) -> None:
        if not rate_hz > 0:
            message = f"rate_hz must be above 0, got {rate_hz}"
            raise ValueError(message)
        self.period_ns = round(1e9 / rate_hz)
        self.names = tuple(max_age_s)
        self._max_age_ns = {name: round(age * 1e9) for name, age in max_age_s.items()}
        self._segment: int | None = None
        self._next: int | None = None
        self._until = 0
        self._pending: dict[str, Samples] = {}

    def push(self, samples: Mapping[str, Samples], segment: int, until_ns: int) -> GridBlock:
        """Take the next samples of ``segment`` and give the rows that they complete.

        A row is complete when no sample at or before it can come any more, so rows before ``until_ns`` are
        given; a row at ``until_ns`` itself waits, for the next frame may bear the same stamp. Where
        ``segment`` is another one than before, the rows left of the one before come first. After the last
        push call ``finish``.

        Args:
            samples: new samples by signal, stamps not descending and not before the last ``until_ns``.
            segment: number of the segment that all of them are in.
            until_ns: stamp of the last frame of this cut, of whatever id.

        Raises:
            ValueError: a signal has no column, or its stamps go back within the segment.
        """
        blocks = [self.finish()] if self._segment is not None and segment != self._segment else []
        if self._segment is None:
            self._segment = segment
            self._until = until_ns
        for name, new in samples.items():
            self._append(name, new)
        self._until = max(self._until, until_ns)
        blocks.append(self._rows(self._until))
        return GridBlock.concat(blocks, self.names)

    def finish(self) -> GridBlock:
        """The rows left of the present segment, up to and at its last frame; the next push starts anew."""
        last = max([self._until, *(int(one.time[-1]) for one in self._pending.values() if len(one))])
        block = self._rows(last + 1)
        self._segment, self._next, self._pending = None, None, {}
        return block

    def _append(self, name: str, new: Samples) -> None:
        if name not in self._max_age_ns:
            message = f"signal {name!r} has no column; the grid has {', '.join(self.names)}"
            raise ValueError(message)
        if not len(new):
            return
        old = self._pending.get(name, Samples.empty())
        before = np.concatenate([old.time[-1:], new.time])
        steps = np.flatnonzero(before[1:] < before[:-1])
        if len(steps) or (self._next is not None and new.time[0] <= self._next - self.period_ns):
            at = before[steps[0] + 1] if len(steps) else new.time[0]
            message = (
                f"signal {name!r} goes back to {at} ns within segment {self._segment}; a backward step of "
                "the clock must start a new segment"
            )
            raise ValueError(message)
        self._pending[name] = Samples.concat([old, new])

    def _rows(self, end: int) -> GridBlock:
        """The rows from the next one up to, but not at, ``end``."""
        if self._next is None:
            firsts = [int(one.time[0]) for one in self._pending.values() if len(one)]
            if not firsts:
                return GridBlock.concat([], self.names)
            self._next = -(-min(firsts) // self.period_ns) * self.period_ns
        time = np.arange(self._next, max(end, self._next), self.period_ns, dtype=np.int64)
        segment = np.full(len(time), self._segment or 0, np.uint16)
        values, ages = {}, {}
        for name in self.names:
            values[name], ages[name] = self._column(name, time)
        self._next += len(time) * self.period_ns
        return GridBlock(time, segment, values, ages)

    def _column(self, name: str, time: Times) -> tuple[Floats, Ages]:
        samples = self._pending.get(name, Samples.empty())
        if not len(samples) or not len(time):
            return np.full(len(time), np.nan), np.full(len(time), np.nan, np.float32)
        position = np.searchsorted(samples.time, time, side="right") - 1
        seen = position >= 0
        position = np.maximum(position, 0)
        age_ns = time - samples.time[position]
        value = np.where(seen & (age_ns <= self._max_age_ns[name]), samples.value[position], np.nan)
        age = np.where(seen, age_ns / 1e9, np.nan).astype(np.float32)
        done = int(position[-1])
        if done:
            self._pending[name] = Samples(samples.time[done:], samples.value[done:])
        return value, age
