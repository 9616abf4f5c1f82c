"""Energy and distance on native samples, streaming.

Both are right rectangle sums: a sample's value holds for the time since the sample before it, and only steps
0 < dt <= max_dt are summed, so that nothing is invented across a gap or a clock that jumps. How the samples
are cut into pushes makes no difference to any figure, not even in the last bit.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tspace_core.errors import RecordError

if TYPE_CHECKING:
    from tspace_core.can.samples import Samples

Float = NDArray[np.float64]
Instants = NDArray[np.int64]

_NS = 1e9


class Integral:
    """Running right rectangle integral over time of one value, with the time that it covers.

    Args:
        max_dt_s: longest step that is summed.
    """

    def __init__(self, max_dt_s: float) -> None:
        if not max_dt_s > 0.0:
            message = f"max_dt_s must be positive, not {max_dt_s}: set log.max_dt_s in the vehicle's file"
            raise RecordError(message)
        self._max_dt_ns = round(max_dt_s * _NS)
        self._time = np.empty(0, np.int64)
        self._sum = np.empty(0)
        self._covered = np.empty(0)
        self._base = 0.0
        self._base_covered = 0.0

    @property
    def total(self) -> float:
        """Integral so far, in the value's unit times seconds."""
        return float(self._sum[-1]) if len(self._sum) else self._base

    @property
    def covered_s(self) -> float:
        """Seconds that were summed over so far."""
        return float(self._covered[-1]) if len(self._covered) else self._base_covered

    def push(self, time: Instants, value: Float) -> None:
        """Add samples in order of time; equal stamps are allowed and add nothing.

        Raises:
            RecordError: if a stamp is before the one before it; use ``restart`` where a clock jumps.
        """
        if not len(time):
            return
        sums, covered = self._extended(time, value)
        self._time = np.concatenate([self._time, time])
        self._sum = np.concatenate([self._sum, sums])
        self._covered = np.concatenate([self._covered, covered])

    def peek(self, time: Instants, value: Float) -> float:
        """Return what the total would be after pushing these samples."""
        return float(self._extended(time, value)[0][-1]) if len(time) else self.total

    def restart(self) -> None:
        """Begin a new segment: totals are kept, the step to the next sample is not summed."""
        self._base, self._base_covered = self.total, self.covered_s
        self._time, self._sum, self._covered = np.empty(0, np.int64), np.empty(0), np.empty(0)

    def at(self, time: Instants) -> tuple[Float, Float]:
        """Return integral and covered seconds up to each instant of this segment, linear between samples."""
        if not len(self._time):
            return np.full(len(time), self._base), np.full(len(time), self._base_covered)
        origin = self._time[0]
        instants, knots = (time - origin).astype(np.float64), (self._time - origin).astype(np.float64)
        sums = np.interp(instants, knots, self._sum)
        return sums, np.interp(instants, knots, self._covered)

    def settled(self, until: int) -> int:
        """Return the instant up to which ``at`` will not change by later samples at or after ``until``."""
        if not len(self._time):
            return until
        last = int(self._time[-1])
        return last if until - last <= self._max_dt_ns else until

    def forget(self, before: int) -> None:
        """Drop what ``at`` needs only for instants before ``before``."""
        keep = max(int(np.searchsorted(self._time, before, side="right")) - 2, 0)
        self._time, self._sum, self._covered = self._time[keep:], self._sum[keep:], self._covered[keep:]

    def _extended(self, time: Instants, value: Float) -> tuple[Float, Float]:
        first = self._time[-1] if len(self._time) else time[0]
        step = np.diff(time, prepend=first)
        if (step < 0).any():
            place = int(np.argmax(step < 0))
            message = (
                f"sample {place} at {int(time[place])} ns lies {-int(step[place])} ns before the last one: "
                "cut the log into segments first"
            )
            raise RecordError(message)
        seconds = np.where(step <= self._max_dt_ns, step, 0) / _NS
        sums = np.cumsum(np.concatenate([[self.total], value * seconds]))[1:]
        covered = np.cumsum(np.concatenate([[self.covered_s], seconds]))[1:]
        return sums, covered


class EnergyMeter:
    """Electric energy in Wh, discharge positive: sum of V * I * dt over the current's own stamps.

    The voltage of a stamp is the newest one not after it; without one, or with one older than ``max_dt_s``,
    the current sample is left out and counted in ``skipped``.

    Args:
        max_dt_s: longest step between two current samples that is summed.
    """

    def __init__(self, max_dt_s: float) -> None:
        self._integral = Integral(max_dt_s)
        self._max_age_ns = round(max_dt_s * _NS)
        self._segment = 0
        self._skipped = 0
        self._voltage_time, self._voltage = np.empty(0, np.int64), np.empty(0)
        self._current_time, self._current = np.empty(0, np.int64), np.empty(0)
        self._last: int | None = None

    @property
    def total_wh(self) -> float:
        """Energy of all samples pushed so far."""
        time, power, _ = self._powers(self._current_time, self._current)
        return self._integral.peek(time, power) / 3600.0

    @property
    def total_covered_s(self) -> float:
        """Seconds summed over so far, but for samples that still wait for a voltage of their stamp."""
        return self._integral.covered_s

    @property
    def skipped(self) -> int:
        """Current samples left out so far, for want of a voltage."""
        return self._skipped + self._powers(self._current_time, self._current)[2]

    def push(self, voltage: "Samples", current: "Samples", *, segment: int = 0) -> None:
        """Add samples in V and A; each in order of time within a segment.

        Raises:
            RecordError: if stamps step back within a segment.
        """
        if segment != self._segment:
            self.restart()
            self._segment = segment
        self._voltage_time = _appended(self._voltage_time, voltage.time, "voltage")
        self._voltage = np.concatenate([self._voltage, voltage.value])
        self._current_time = _appended(self._current_time, current.time, "current")
        self._current = np.concatenate([self._current, current.value])
        # A voltage of the newest stamp may come with the next push: samples of that stamp wait for it.
        newest = max(
            [int(times[-1]) for times in (self._voltage_time, self._current_time) if len(times)], default=0
        )
        self._settle(int(np.searchsorted(self._current_time, newest, side="left")))
        if not len(self._current_time):
            self._voltage_time, self._voltage = self._voltage_time[-1:], self._voltage[-1:]

    def restart(self) -> None:
        """Begin a new segment: nothing is summed or joined across."""
        self._settle(len(self._current_time))
        self._integral.restart()
        self._voltage_time, self._voltage = np.empty(0, np.int64), np.empty(0)
        self._current_time, self._current = np.empty(0, np.int64), np.empty(0)
        self._last = None

    def at(self, time: Instants) -> Float:
        """Return the energy in Wh up to each instant (ns) of this segment, linear between samples."""
        return self._integral.at(time)[0] / 3600.0

    def covered_s(self, time: Instants) -> Float:
        """Return the seconds up to each instant over which the energy was summed."""
        return self._integral.at(time)[1]

    def advance(self, until: int) -> int:
        """Take note that later samples come at or after ``until``; return up to where ``at`` is final."""
        self._settle(int(np.searchsorted(self._current_time, until, side="left")))
        if len(self._current_time):
            return self._integral.settled(until) if self._last is None else self._last
        return self._integral.settled(until)

    def settle(self) -> None:
        """Take what waits for a voltage of its own stamp: at the end of a segment."""
        self._settle(len(self._current_time))

    def forget(self, before: int) -> None:
        """Drop what ``at`` needs only for instants before ``before``, so that memory stays bounded."""
        self._integral.forget(before)

    def _settle(self, count: int) -> None:
        if not count:
            return
        time, power, skipped = self._powers(self._current_time[:count], self._current[:count])
        self._integral.push(time, power)
        if len(time):
            self._last = int(time[-1])
        self._skipped += skipped
        used = max(
            int(np.searchsorted(self._voltage_time, self._current_time[count - 1], side="right")) - 1, 0
        )
        self._voltage_time, self._voltage = self._voltage_time[used:], self._voltage[used:]
        self._current_time, self._current = self._current_time[count:], self._current[count:]

    def _powers(self, time: Instants, current: Float) -> tuple[Instants, Float, int]:
        newest = np.searchsorted(self._voltage_time, time, side="right") - 1
        good = newest >= 0
        good[good] = time[good] - self._voltage_time[newest[good]] <= self._max_age_ns
        power = current[good] * self._voltage[newest[good]]
        return time[good], power, len(time) - int(good.sum())


def _appended(held: Instants, new: Instants, name: str) -> Instants:
    joined = np.concatenate([held, new])
    back = np.diff(joined) < 0
    if back.any():
        place = int(np.argmax(back)) + 1
        message = (
            f"{name} sample at {int(joined[place])} ns lies before the one before it at "
            f"{int(joined[place - 1])} ns: cut the log into segments first"
        )
        raise RecordError(message)
    return joined
