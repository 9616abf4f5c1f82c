"""Policies on simulated vehicles: windows in, flashes out, at the times of the field.

::

    [t, t + W)        state window; the policy decides at its end
    [t + W, t + 2 W)  half step: after ``twin.flash_delay_s`` the 4 flashed rows take effect
    [t + 2 W, ...     next state window

The live map is kept whole; a flash changes 4 rows of it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tspace_core.config.torque_map import FLASHED_ROWS, TorqueMap
from tspace_core.errors import TwinError
from tspace_core.twin.fleet import Fleet
from tspace_core.twin.trace import Trace
from tspace_core.twin.truck import twin_parameters

PolicyCall = Callable[[NDArray[np.float32]], NDArray[np.float32]]
Answer = Callable[[int, int, TorqueMap, TorqueMap, Trace], TorqueMap | None]
"""A guard's answer for a vehicle: place, first row, live map, proposed map and the window decided on give the
map that takes effect, or None where the live one stays."""


@dataclass(frozen=True, eq=False)
class AppliedFlash:
    """A flash that took effect in a simulated vehicle.

    Attributes:
        time_s: instant it took effect, s since the start of the drive.
        first_row: first of the 4 rows.
        torque_nm: the rows as flashed, shape (4, columns), float32.
    """

    time_s: float
    first_row: int
    torque_nm: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Step:
    """What one decision led to.

    Attributes:
        flashes: one a vehicle; None for a vehicle that had already arrived, or whose guard refused.
        first_rows: first of the 4 rows that each vehicle's decision was about.
        half_step: samples of the half step.
        window: samples of the next state window.
    """

    flashes: list[AppliedFlash | None]
    first_rows: list[int]
    half_step: Trace
    window: Trace


class DecisionLoop:
    """Lets decisions act on a fleet, window by window.

    Args:
        fleet: at the start of its drive. Its rate may be a multiple of the vehicle's sampling rate.
        answer: a guard in front of every flash; None: what is proposed takes effect.

    Raises:
        TwinError: the fleet's rate is no multiple of the vehicle's, or the flash takes longer than a window.
    """

    def __init__(self, fleet: Fleet, answer: Answer | None = None) -> None:
        self._answer = answer
        sampling = fleet.vehicle.sampling
        ratio = fleet.rate_hz / sampling.rate_hz
        if abs(ratio - round(ratio)) > 1e-9 or round(ratio) < 1:
            message = (
                f"the fleet samples at {fleet.rate_hz} Hz, the vehicle's windows at {sampling.rate_hz} Hz; "
                "choose a multiple"
            )
            raise TwinError(message)
        delay = twin_parameters(fleet.vehicle).flash_delay_s
        if delay > sampling.window_s + 1e-9:
            message = (
                f"{fleet.vehicle.id}: twin.flash_delay_s is {delay} s, a window lasts {sampling.window_s} s; "
                "a flash must be in effect within the half step"
            )
            raise TwinError(message)
        self.fleet = fleet
        self._ratio = round(ratio)
        self._window_s = sampling.window_s
        self._delay_s = round(delay * fleet.rate_hz) / fleet.rate_hz
        self._default = fleet.vehicle.default_map()

    def first_window(self) -> Trace:
        """Drive the first state window of the drive."""
        return self.fleet.advance(self._window_s)

    def states(self, window: Trace) -> NDArray[np.float32]:
        """States of a window: shape (vehicles, state_dim) float32, flattened from (samples, signals)."""
        names = self.fleet.vehicle.sampling.signals
        columns = [window.signal(name)[:, self._ratio - 1 :: self._ratio] for name in names]
        stacked = np.stack(columns, axis=-1).astype(np.float32)
        return stacked.reshape(len(stacked), -1)

    def step(self, window: Trace, actions: NDArray[np.float32]) -> Step:
        """Flash the actions decided on ``window`` and drive the half step and the next state window.

        Args:
            window: the state window that was decided on.
            actions: shape (vehicles, 4 x columns), in [-1, 1].
        """
        fleet = self.fleet
        limits = fleet.vehicle.torque_map
        running = ~fleet.done
        proposals: list[tuple[int, TorqueMap | None]] = []
        speeds = window.velocity[:, self._ratio - 1 :: self._ratio]
        for i in range(len(fleet)):
            first_row = int(self._default.first_row(speeds[i].max()))
            live = fleet.map(i).flashed(
                actions[i],
                first_row,
                self._default,
                budget_nm=limits.budget_nm,
                upper_factor=limits.upper_factor,
            )
            taken: TorqueMap | None = live
            if self._answer is not None and running[i]:
                taken = self._answer(i, first_row, fleet.map(i), live, window)
            proposals.append((first_row, taken))
        blocks = [fleet.advance(self._delay_s)] if self._delay_s > 0 else []
        flashes: list[AppliedFlash | None] = []
        for i, (first_row, taken) in enumerate(proposals):
            if not running[i] or taken is None:
                flashes.append(None)
                continue
            fleet.set_map(i, taken)
            rows = taken.table[first_row : first_row + FLASHED_ROWS]
            flashes.append(AppliedFlash(float(fleet.elapsed_s[i]), first_row, rows))
        rest = self._window_s - self._delay_s
        if rest > 1e-9:
            blocks.append(fleet.advance(round(rest * fleet.rate_hz) / fleet.rate_hz))
        return Step(
            flashes, [row for row, _ in proposals], Trace.concat(blocks), fleet.advance(self._window_s)
        )
