"""A route: a reference speed over time, and the road it is driven on.

A route can be driven by place (the reference speed is looked up by the distance driven, with dwell times at
the stops: every drive covers the same distance and the trip time is an outcome) or by time (the standard use
of a cycle: the reference speed is looked up by the clock).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from tspace_core.errors import TwinError
from tspace_core.twin.arrays import Array, Road

SPACING_M = 1.0
STANDING_MPS = 0.03
MIN_SPEED = 1e-6


@dataclass(frozen=True, eq=False)
class Route:
    """A reference speed over time together with the road it is driven on.

    Attributes:
        name: name of the cycle.
        time_s: instants, uniform, starting at 0, shape (n,).
        speed_mps: reference speed at each instant, shape (n,); between instants it is linear in time.
        grade: slope (rise over run) along the distance on a grid of SPACING_M.
    """

    name: str
    time_s: Array
    speed_mps: Array
    grade: Array

    @property
    def duration_s(self) -> float:
        """Scheduled time, s."""
        return float(self.time_s[-1])

    @property
    def time_limit_s(self) -> float:
        """A drive that takes longer is given up, s: 3 times the scheduled time and one minute."""
        return 3.0 * self.duration_s + 60.0

    @property
    def distance_at(self) -> Array:
        """Distance covered at each instant, m, shape (n,)."""
        steps = 0.5 * (self.speed_mps[1:] + self.speed_mps[:-1]) * np.diff(self.time_s)
        return np.asarray(np.concatenate([[0.0], np.cumsum(steps)]))

    @property
    def length_m(self) -> float:
        """Distance of the whole route, m."""
        return float(self.distance_at[-1])

    def speed_at(self, time_s: ArrayLike) -> Array:
        """Reference speed in m/s by the clock, clamped at the ends."""
        return np.asarray(np.interp(np.asarray(time_s, dtype=np.float64), self.time_s, self.speed_mps))

    def speed_by_place(self, distance_m: ArrayLike) -> Array:
        """Reference speed in m/s by the distance driven: linear in v^2, as at constant acceleration."""
        squared = self._squared_speed()
        place = np.asarray(distance_m, dtype=np.float64) / SPACING_M
        return np.asarray(np.sqrt(np.interp(place, np.arange(len(squared)), squared)))

    def stops(self) -> tuple[Array, Array]:
        """Places in m and dwell times in s of all stops, in order; the last one is the route's end."""
        standing = self.speed_mps < STANDING_MPS
        edges = np.diff(np.concatenate([[0], standing.astype(np.int8), [0]]))
        first, last = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1
        place = self.distance_at[first]
        dwell = self.time_s[last] - self.time_s[first]
        if not standing[-1]:
            place, dwell = np.append(place, self.length_m), np.append(dwell, 0.0)
        dwell[-1] = 0.0
        return place, dwell

    def road(self, mode: Literal["place", "time"]) -> Road:
        """The tables of the compiled core for driving by place or by time."""
        place, dwell = self.stops()
        return Road(
            by_place=mode == "place",
            spacing=SPACING_M,
            squared_speed=self._squared_speed(),
            sine=np.sin(np.arctan(self.grade)),
            period=float(self.time_s[1] - self.time_s[0]),
            speed=np.ascontiguousarray(self.speed_mps),
            length=self.length_m,
            duration=self.duration_s,
            stop_place=place,
            stop_dwell=dwell,
        )

    def _squared_speed(self) -> Array:
        distance = self.distance_at
        moving = np.concatenate([[True], np.diff(distance) > MIN_SPEED])
        grid = np.arange(0.0, self.length_m + SPACING_M, SPACING_M)
        squared = np.interp(grid, distance[moving], self.speed_mps[moving] ** 2)
        return np.asarray(np.maximum(squared, 0.0))


def make_route(name: str, time_s: ArrayLike, speed_mps: ArrayLike, grade: ArrayLike | None = None) -> Route:
    """A route from a trace of one's own, on a flat road unless ``grade`` (on a grid of 1 m) is given.

    Raises:
        TwinError: the instants are not uniform from 0, a speed is negative, or nothing moves.
    """
    time = np.asarray(time_s, dtype=np.float64)
    speed = np.asarray(speed_mps, dtype=np.float64)
    steps = np.diff(time)
    if len(time) < 2 or time.shape != speed.shape or time[0] != 0.0 or np.ptp(steps) > 1e-6 * steps[0]:
        message = f"cycle {name}: needs as many speeds as instants, the instants uniform and starting at 0"
        raise TwinError(message)
    if not np.all(np.isfinite(speed)) or np.any(speed < 0) or not np.any(speed > 1.0):
        message = f"cycle {name}: speeds must be finite, not negative, and somewhere above 1 m/s"
        raise TwinError(message)
    flat = np.zeros(2) if grade is None else np.asarray(grade, dtype=np.float64)
    return Route(name, time, speed, flat)
