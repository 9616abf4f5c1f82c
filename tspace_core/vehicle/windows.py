"""From samples to windows of W samples, and why a window cannot be used.

A window is the next W samples that follow each other; each sample is in one window, each step between two
samples in the energy of one window. Samples are stamped by the bridge where it does so, else by arrival.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tspace_core.config import Vehicle
from tspace_core.vehicle.observation import Observation, observed_signals
from tspace_core.vehicle.plausible import Plausibility

_NS = 1e9
_SEQ_RESTART = 1000
"""A running number this far below the last one is a bridge that was started anew, not a late sample."""

LATE = "late"
AHEAD = "ahead of our clock"
DUPLICATE = "duplicate"
OUT_OF_ORDER = "out of order"


@dataclass(frozen=True, eq=False)
class Window:
    """W samples in a row, or what there was of them until the row broke.

    Attributes:
        start_ns: ns UTC of the first sample; where it has none, of the moment at which that was noticed.
        samples: (W, signals) float32 in the order of ``sampling.signals``; fewer rows where it is not whole.
        energy_wh: electric energy of the steps that end at its samples, discharge positive.
        distance_m: of the same steps.
        top_speed_kmh: highest speed in it; 0 where it has no sample.
        valid: whether it may become part of a record.
        reason: why not.
        end_ns: ns UTC of the last sample.
    """

    start_ns: int
    samples: NDArray[np.float32]
    energy_wh: float
    distance_m: float
    top_speed_kmh: float
    valid: bool
    reason: str = ""
    end_ns: int = 0


class WindowBuilder:
    """Cuts the samples of one vehicle into windows.

    Args:
        vehicle: its sampling, signals, and the limits that make a window invalid.

    Attributes:
        dropped: samples left out, by reason: late, duplicate, out of order, ahead of our clock.
        lost: samples that the bridge's running number says were sent and did not come.
    """

    def __init__(self, vehicle: Vehicle) -> None:
        self._vehicle = vehicle
        self._names = observed_signals(vehicle)
        sampling, limits = vehicle.sampling, vehicle.guard
        self._length = sampling.window
        self._columns = [self._names.index(name) for name in sampling.signals]
        self._place = {name: place for place, name in enumerate(self._names)}
        self._period_ns = sampling.period_ns
        self._stale_ns = limits.stale_periods * self._period_ns
        self._max_dt_ns = round(vehicle.log.max_dt_s * _NS)
        self._plausibility = Plausibility(vehicle, self._names)
        self.dropped: Counter[str] = Counter()
        self.lost = 0
        self._last: Observation | None = None
        self._first_ns: int | None = None
        self._dropped_in_row: int = 0
        self._clear()

    def reset(self) -> None:
        """Begin anew, as at an episode's begin: what was collected is forgotten, no step leads across."""
        self._last = None
        self._first_ns = None
        self._clear()

    def push(self, observation: Observation) -> Window | None:
        """Take the next sample; return the window that it completes or breaks.

        A sample that comes too late, twice or out of order is left out and counted in ``dropped``; where as
        many as a window has are left out in a row, that is an invalid window.
        """
        broken: Window | None = None
        if self._clock_was_set(observation):
            broken = self._break("the clock was set back", observation.time_ns)
        else:
            why = self._why_dropped(observation)
            if why is not None:
                self.dropped[why] += 1
                self._counter_errors += why in (DUPLICATE, OUT_OF_ORDER)
                self._dropped_in_row += 1
                if self._dropped_in_row < self._length:
                    return None
                reason = f"{self._length} samples in a row were dropped, the last one: {why}"
                return self._break(reason, observation.received_ns or observation.time_ns)
        self._dropped_in_row = 0
        if self._last is not None and observation.time_ns - self._last.time_ns > self._stale_ns:
            gap = (observation.time_ns - self._last.time_ns) / _NS
            reason = f"no sample for {gap:.2f} s, the limit is {self._stale_ns / _NS:g} s"
            broken = self._break(reason, observation.time_ns)
        self._count_lost(observation)
        self._add(observation)
        if broken is not None:
            return broken
        return self._finish() if len(self._rows) == self._length else None

    def _clear(self) -> None:
        self._rows: list[NDArray[np.float64]] = []
        self._start_ns = 0
        self._energy_ws = 0.0
        self._distance_m = 0.0
        self._reason = ""
        self._counter_errors = 0
        self._dropped_in_row = 0

    def _clock_was_set(self, new: Observation) -> bool:
        """A stamp that steps back together with the wall clock, by more than any sample may be late."""
        last = self._last
        if last is None or new.received_ns is None or last.received_ns is None:
            return False
        back_ns = min(last.received_ns - new.received_ns, last.time_ns - new.time_ns)
        return back_ns > self._stale_ns

    def _why_dropped(self, new: Observation) -> str | None:
        if new.stamped and new.received_ns is not None:
            age = new.received_ns - new.time_ns
            if age > self._stale_ns:
                return LATE
            if age < -self._stale_ns:
                return AHEAD
        last = self._last
        if last is None:
            return None
        numbered = new.seq is not None and last.seq is not None
        if new.stamped and last.stamped:
            if new.time_ns > last.time_ns:
                return None
            same = new.time_ns == last.time_ns or (numbered and new.seq == last.seq)
            return DUPLICATE if same else OUT_OF_ORDER
        if numbered:
            assert new.seq is not None
            assert last.seq is not None
            behind = last.seq - new.seq
            if behind == 0:
                return DUPLICATE
            if 0 < behind < _SEQ_RESTART:
                return OUT_OF_ORDER
        return OUT_OF_ORDER if new.time_ns < last.time_ns else None

    def _count_lost(self, new: Observation) -> None:
        last = self._last
        if last is None or last.seq is None or new.seq is None or new.seq <= last.seq + 1:
            return
        self.lost += new.seq - last.seq - 1
        self._counter_errors += 1

    def _add(self, new: Observation) -> None:
        if not self._rows:
            self._start_ns = new.time_ns
            self._first_ns = None if self._last is None else self._last.time_ns
        if self._last is not None:
            step = new.time_ns - self._last.time_ns
            if 0 < step <= self._max_dt_ns:
                seconds = step / _NS
                power = float(new.values[self._place["voltage"]] * new.values[self._place["current"]])
                self._energy_ws += power * seconds
                if "velocity" in self._place:
                    self._distance_m += float(new.values[self._place["velocity"]]) / 3.6 * seconds
        if not self._reason:
            self._reason = self._plausibility.reason(new.values) or ""
        self._rows.append(new.values)
        self._last = new

    def _finish(self) -> Window:
        assert self._last is not None
        reason = self._reason or self._wrong_rate(self._last.time_ns) or self._too_many_errors()
        window = self._window(reason, self._last.time_ns)
        self._clear()
        return window

    def _wrong_rate(self, end_ns: int) -> str:
        """Samples over the steps that end at them; the first ever has no step and counts as one period."""
        begin_ns = self._start_ns - self._period_ns if self._first_ns is None else self._first_ns
        share = self._length * self._period_ns / max(end_ns - begin_ns, 1)
        least = self._vehicle.guard.window_rate_min
        rate = self._vehicle.sampling.rate_hz
        if share < least:
            return f"{share * rate:.1f} samples a second, at least {least * rate:g} are needed"
        if share > 1 / least:
            return f"{share * rate:.1f} samples a second, at most {rate / least:.1f} are possible"
        return ""

    def _too_many_errors(self) -> str:
        most = self._vehicle.guard.counter_errors
        if self._counter_errors < most:
            return ""
        return f"{self._counter_errors} samples out of their order or lost, fewer than {most} are tolerable"

    def _break(self, reason: str, now_ns: int) -> Window:
        window = self._window(reason, now_ns)
        self._last = None
        self._first_ns = None
        self._clear()
        return window

    def _window(self, reason: str, now_ns: int) -> Window:
        rows = np.array(self._rows, np.float64).reshape(len(self._rows), len(self._names))
        samples = np.ascontiguousarray(rows[:, self._columns], np.float32)
        speeds = rows[:, self._place["velocity"]] if "velocity" in self._place else np.zeros(len(rows))
        end_ns = now_ns if self._last is None or not self._rows else self._last.time_ns
        return Window(
            start_ns=self._start_ns if self._rows else now_ns,
            samples=samples,
            energy_wh=self._energy_ws / 3600.0,
            distance_m=self._distance_m,
            top_speed_kmh=float(speeds.max()) if len(speeds) else 0.0,
            valid=not reason,
            reason=reason,
            end_ns=end_ns,
        )
