"""Whether a sample may be relied on: ranges of the vehicle's signals, and what its guard thinks possible."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tspace_core.config import Vehicle
from tspace_core.guard.state import VehicleState, implausible

_LARGEST = float(np.finfo(np.float64).max)


class Plausibility:
    """Judges samples of one vehicle.

    Args:
        vehicle: its signals' ranges and its guard's limits.
        names: signals in the order of a sample's values.
    """

    def __init__(self, vehicle: Vehicle, names: Sequence[str]) -> None:
        self._guard = vehicle.guard
        self._place = {name: place for place, name in enumerate(names)}
        self._ranges = [
            (name, place, vehicle.signals[name].valid, vehicle.signals[name].unit)
            for name, place in self._place.items()
            if name in vehicle.signals
        ]
        self._pedals_in_percent = all(
            vehicle.signals[name].unit == "%" for name in ("thrust", "brake") if name in self._place
        )
        self._least, self._most = self._bounds(len(names))

    def reason(self, values: NDArray[np.float64]) -> str | None:
        """Why a sample, (signals,), must not be relied on, with value and limit; None where it may be."""
        for name, place, limits, unit in self._ranges:
            value = float(values[place])
            if not np.isfinite(value):
                return f"{name} is {value}, no number"
            if limits is not None and not limits[0] <= value <= limits[1]:
                return f"{name} is {value:g} {unit}, possible is {limits[0]:g} to {limits[1]:g}"
        return implausible(self.state(values), self._guard)

    def first_reason(self, rows: NDArray[np.float64]) -> str | None:
        """``reason`` of the first of many samples, (n, signals), that has one."""
        wrong = ~((rows >= self._least) & (rows <= self._most)).all(axis=1)
        if self._pedals_in_percent and {"thrust", "brake"} <= self._place.keys():
            both = np.minimum(rows[:, self._place["thrust"]], rows[:, self._place["brake"]])
            wrong |= both > self._guard.both_pedals_percent
        return self.reason(rows[int(wrong.argmax())]) if wrong.any() else None

    def state(self, values: NDArray[np.float64]) -> VehicleState:
        """The sample as the guard sees it; pedals that are not in percent count as released."""
        return VehicleState(
            velocity_kmh=self._value(values, "velocity"),
            thrust_percent=self._value(values, "thrust") if self._pedals_in_percent else 0.0,
            brake_percent=self._value(values, "brake") if self._pedals_in_percent else 0.0,
            at_ns=0,
        )

    def _value(self, values: NDArray[np.float64], name: str) -> float:
        return float(values[self._place[name]]) if name in self._place else 0.0

    def _bounds(self, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Least and most of each signal; what nobody judges may be anything."""
        least, most = np.full(count, -_LARGEST), np.full(count, _LARGEST)
        for _, place, limits, _ in self._ranges:
            if limits is not None:
                least[place], most[place] = limits
        possible = {"velocity": _LARGEST}
        if self._pedals_in_percent:
            possible |= {"thrust": 100.0, "brake": 100.0}
        for name, top in possible.items():
            if name in self._place:
                place = self._place[name]
                least[place], most[place] = max(least[place], 0.0), min(most[place], top)
        return least, most
