"""Whole windows of a telematics box as the online run takes them, and why one cannot be used."""

from dataclasses import dataclass

import numpy as np

from tspace_core.can.box_window import SIGNALS, BoxWindow
from tspace_core.config import Vehicle
from tspace_core.errors import ConfigError
from tspace_core.guard.state import VehicleState
from tspace_core.vehicle.plausible import Plausibility
from tspace_core.vehicle.windows import Window

_NS = 1e9
_VELOCITY, _CURRENT, _VOLTAGE = (SIGNALS.index(name) for name in ("velocity", "current", "voltage"))


@dataclass(frozen=True, eq=False)
class Fetched:
    """A window that was asked for.

    Attributes:
        box: as it was decoded.
        received_ns: ns UTC of our clock when it came.
    """

    box: BoxWindow
    received_ns: int


class BoxWindows:
    """Judges the windows of one vehicle's box, and makes of each one for the run.

    Energy and distance are those of the steps that end at the window's samples. Where no sample comes before
    its first, as after a flash, that one counts as one period: a window is worth its whole length.

    Args:
        vehicle: its sampling, signals, and the limits that make a window invalid.

    Attributes:
        seen: the last sample of the last window; not ``valid`` where that was not.

    Raises:
        ConfigError: a state signal is none that a box sends, or the vehicle has no box.
    """

    def __init__(self, vehicle: Vehicle) -> None:
        unknown = [name for name in vehicle.sampling.signals if name not in SIGNALS]
        if unknown or vehicle.remote is None:
            message = (
                f"vehicle {vehicle.id}: "
                + (f"sampling.signals names {unknown}, which no telematics box sends" if unknown else "")
                + ("it has no `remote:` section" if vehicle.remote is None else "")
                + f"; choose from {', '.join(SIGNALS)} and give the vehicle a telematics box"
            )
            raise ConfigError(message)
        self._vehicle = vehicle
        self._remote = vehicle.remote
        self._columns = [SIGNALS.index(name) for name in vehicle.sampling.signals]
        self._plausibility = Plausibility(vehicle, SIGNALS)
        self._period_ns = vehicle.sampling.period_ns
        self._max_dt_ns = round(vehicle.log.max_dt_s * _NS)
        self._end_ns: int | None = None
        self._newest_ns: int | None = None
        self.seen = VehicleState(0.0, 0.0, 0.0, 0, valid=False, reason="no window yet")

    def reset(self) -> None:
        """Begin anew, as at an episode's begin: no step leads across. A repeated window is one still."""
        self._end_ns = None

    def push(self, item: Fetched) -> Window:
        """The window, valid or not."""
        box = item.box
        if box.reason or not len(box.time_ns):
            self._end_ns = None
            return self._unusable(box.reason or "the window has no samples", item.received_ns)
        start_ns, end_ns = int(box.time_ns[0]), int(box.time_ns[-1])
        reason = self._wrong_time(start_ns, end_ns, item.received_ns)
        steps = np.diff(box.time_ns, prepend=start_ns - self._period_ns)
        if reason:
            self._end_ns = None
        else:
            reason = self._wrong_rate(box) or self._plausibility.first_reason(box.values) or ""
            if self._end_ns is not None and 0 < start_ns - self._end_ns <= self._max_dt_ns:
                steps[0] = start_ns - self._end_ns
            self._end_ns = end_ns
            self._newest_ns = max(end_ns, self._newest_ns or end_ns)
        seconds = np.where((steps > 0) & (steps <= self._max_dt_ns), steps, 0) / _NS
        values = box.values
        last = self._plausibility.state(values[-1])
        self.seen = VehicleState(
            last.velocity_kmh,
            last.thrust_percent,
            last.brake_percent,
            end_ns,
            valid=not reason,
            reason=reason,
        )
        return Window(
            start_ns=start_ns,
            samples=np.ascontiguousarray(values[:, self._columns], np.float32),
            energy_wh=float(values[:, _VOLTAGE] * values[:, _CURRENT] @ seconds) / 3600.0,
            distance_m=float(values[:, _VELOCITY] @ seconds) / 3.6,
            top_speed_kmh=float(values[:, _VELOCITY].max()),
            valid=not reason,
            reason=reason,
            end_ns=end_ns,
        )

    def _unusable(self, reason: str, now_ns: int) -> Window:
        self.seen = VehicleState(0.0, 0.0, 0.0, now_ns, valid=False, reason=reason)
        return Window(
            start_ns=now_ns,
            samples=np.empty((0, len(self._columns)), np.float32),
            energy_wh=0.0,
            distance_m=0.0,
            top_speed_kmh=0.0,
            valid=False,
            reason=reason,
            end_ns=now_ns,
        )

    def _wrong_time(self, start_ns: int, end_ns: int, now_ns: int) -> str:
        ahead, old = (end_ns - now_ns) / _NS, (now_ns - end_ns) / _NS
        if ahead > self._remote.future_s:
            return (
                f"the window ends {ahead:.1f} s ahead of our clock, at most {self._remote.future_s:g} s are "
                "tolerable: compare the box's clock, its site's zone and ours"
            )
        if old > self._remote.past_s:
            return (
                f"the window ended {old:.1f} s ago, at most {self._remote.past_s:g} s are tolerable: "
                "compare the box's clock, its site's zone and ours"
            )
        if self._newest_ns is not None and self._newest_ns - start_ns >= self._period_ns:
            if end_ns <= self._newest_ns:
                return (
                    f"the window is a repeated one: it ends {(self._newest_ns - end_ns) / _NS:g} s too early"
                )
            return (
                f"the window begins {(self._newest_ns - start_ns) / _NS:g} s before the end of the last one"
            )
        return ""

    def _wrong_rate(self, box: BoxWindow) -> str:
        """A box's clock that runs too fast or too slow, or leaves time out within a window."""
        span = int(box.time_ns[-1] - box.time_ns[0]) + self._period_ns
        share, least = len(box.time_ns) * self._period_ns / span, self._vehicle.guard.window_rate_min
        if least <= share <= 1 / least:
            return ""
        rate = self._vehicle.sampling.rate_hz
        return f"{share * rate:.1f} samples a second, expected {rate:g}"
