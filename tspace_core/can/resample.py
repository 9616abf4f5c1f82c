"""Samples onto the vehicle's grid: the last value at each instant, with its age.

A value is carried on until its signal's ``max_age_s``; after that the grid says NaN, so that a stale value is
never taken for a fresh one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from tspace_core.can import kernels
from tspace_core.can.samples import Samples

Times = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Ages = npt.NDArray[np.float32]
_NONE = Samples.empty()


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
        parts, columns = [one for one in blocks if len(one)], list(names)
        if len(parts) == 1:
            return cls(parts[0].time, parts[0].segment, parts[0].values, parts[0].ages)
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


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """The samples that stand behind a run of rows, the same for all signals with these stamps.

    Attributes:
        times: int64[m], stamps of the samples.
        position: int64[n], sample of each row; -1: none yet.
        age: float32[n], s; NaN: none yet.
        rest: int64[k], stamps from the last row's sample on, which the next rows may need.
    """

    times: Times
    position: Times
    age: Ages
    rest: Times


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
        joined: dict[tuple[int, int], tuple[Times, Times, Times]] = {}
        for name, new in samples.items():
            self._append(name, new, joined)
        self._until = max(self._until, until_ns)
        blocks.append(self._rows(self._until))
        return GridBlock.concat(blocks, self.names)

    def finish(self) -> GridBlock:
        """The rows left of the present segment, up to and at its last frame; the next push starts anew."""
        last = max([self._until, *(int(one.time[-1]) for one in self._pending.values() if len(one))])
        block = self._rows(last + 1)
        self._segment, self._next, self._pending = None, None, {}
        return block

    def _append(
        self, name: str, new: Samples, joined: dict[tuple[int, int], tuple[Times, Times, Times]]
    ) -> None:
        """Keep new samples; signals of one message share their stamps, which are checked and joined once."""
        if name not in self._max_age_ns:
            message = f"signal {name!r} has no column; the grid has {', '.join(self.names)}"
            raise ValueError(message)
        if not len(new):
            return
        old = self._pending.get(name, _NONE)
        key = (id(old.time), id(new.time))
        if key not in joined:
            self._check(name, old.time, new.time)
            # old and new are kept too: as long as they live, no other array can have their ids
            joined[key] = (old.time, new.time, np.concatenate([old.time, new.time]))
        value = np.concatenate([old.value, new.value]) if len(old) else new.value
        self._pending[name] = Samples(joined[key][2], value)

    def _check(self, name: str, old: Times, new: Times) -> None:
        before = np.concatenate([old[-1:], new])
        back = before[1:] < before[:-1]
        if back.any() or (self._next is not None and new[0] <= self._next - self.period_ns):
            at = before[int(np.argmax(back)) + 1] if back.any() else new[0]
            message = (
                f"signal {name!r} goes back to {at} ns within segment {self._segment}; a backward step of "
                "the clock must start a new segment"
            )
            raise ValueError(message)

    def _rows(self, end: int) -> GridBlock:
        """The rows from the next one up to, but not at, ``end``."""
        if self._next is None:
            firsts = [int(one.time[0]) for one in self._pending.values() if len(one)]
            if not firsts:
                return GridBlock.concat([], self.names)
            self._next = -(-min(firsts) // self.period_ns) * self.period_ns
        time = np.arange(self._next, max(end, self._next), self.period_ns, dtype=np.int64)
        segment = np.full(len(time), self._segment or 0, np.uint16)
        values: dict[str, Floats] = {}
        ages: dict[str, Ages] = {}
        held: dict[int, _Held] = {}
        for name in self.names:
            values[name], ages[name] = self._column(name, time, held)
        self._next += len(time) * self.period_ns
        return GridBlock(time, segment, values, ages)

    def _column(self, name: str, time: Times, held: dict[int, _Held]) -> tuple[Floats, Ages]:
        samples = self._pending.get(name, _NONE)
        if not len(samples) or not len(time):
            return np.full(len(time), np.nan), np.full(len(time), np.nan, np.float32)
        if id(samples.time) not in held:
            held[id(samples.time)] = _hold(samples.time, time)
        here = held[id(samples.time)]
        value = np.empty(len(time))
        kernels.carry(samples.time, samples.value, here.position, time, self._max_age_ns[name], value)
        done = len(samples) - len(here.rest)
        if done:
            # a copy, so that the samples behind the rows are let go
            self._pending[name] = Samples(here.rest, samples.value[done:].copy())
        return value, here.age


def _hold(times: Times, rows: Times) -> _Held:
    position, age = np.empty(len(rows), np.int64), np.empty(len(rows), np.float32)
    kernels.newest(times, rows, position, age)
    done = max(int(position[-1]), 0)
    return _Held(times, position, age, times[done:].copy() if done else times)
