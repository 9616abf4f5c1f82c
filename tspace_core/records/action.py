"""Where the actions of recorded steps come from.

================= =========================================================================================
source            action of a step
================= =========================================================================================
flash_journal     rows of the live map relative to the default: what the flashes that took effect made of it
realised_torque   inferred: (motor torque - default map's torque) / budget in the map cells that were visited
default_map       zeros: nobody changed the map
================= =========================================================================================
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tspace_core.config import TorqueMap, Vehicle
from tspace_core.records.episode import RecordFlag
from tspace_core.records.flash_journal import Flash, LiveMap
from tspace_core.records.policy import ACTION_COLUMNS, ACTION_DIM, ACTION_ROWS
from tspace_core.records.quadruple import Steps
from tspace_core.records.window import GridTable

NOTES = {
    "flash_journal": "rows of the live map relative to the default, from the flashes that took effect",
    "realised_torque": (
        "inferred from the motor's torque: mean of (torque - default map) / budget in each visited map cell, "
        "zero in cells that were not visited"
    ),
    "default_map": "zeros: the default map was live all the time",
}


@dataclass(frozen=True)
class Actions:
    """Actions of n steps.

    Attributes:
        actions: (n, 68) float32 in [-1, 1].
        rows: (n,) int32, first map row of each.
        flags: (n,) uint8, bits of ``RecordFlag``.
        known: (n,) bool, False where it is not known which map was live.
    """

    actions: NDArray[np.float32]
    rows: NDArray[np.int32]
    flags: NDArray[np.uint8]
    known: NDArray[np.bool_]


class ActionSource(Protocol):
    """Gives the actions of steps; runs are asked for in order of time."""

    def offset(self, table: GridTable, start: int, stop: int) -> int:
        """Return how many rows after ``start`` the first step begins, less than two windows."""
        ...

    def actions(self, table: GridTable, steps: Steps) -> Actions:
        """Return the actions of steps."""
        ...


class DefaultMapActions:
    """Zeros."""

    def __init__(self, vehicle: Vehicle, default: TorqueMap) -> None:
        self._vehicle, self._default = vehicle, default

    def offset(self, table: GridTable, start: int, stop: int) -> int:
        """Return 0: the first row is as good as any."""
        return 0

    def actions(self, table: GridTable, steps: Steps) -> Actions:
        """Return zeros at the row of each window's highest speed."""
        n = len(steps)
        rows = self._default.first_row(steps.top_speed_kmh).astype(np.int32)
        return Actions(
            np.zeros((n, ACTION_DIM), np.float32), rows, np.zeros(n, np.uint8), np.ones(n, np.bool_)
        )


class RealisedTorqueActions(DefaultMapActions):
    """Inferred from ``motor_torque``, in the two windows in which an action is in effect."""

    def actions(self, table: GridTable, steps: Steps) -> Actions:
        """Return the mean relative deviation from the default map in each visited cell of the 4 rows."""
        plain = super().actions(table, steps)
        window = self._vehicle.sampling.window
        plain.flags[:] = RecordFlag.INFERRED
        for k, start in enumerate(steps.starts[:-1].tolist()):
            mean = self._inferred(table, slice(start + window, start + 3 * window), plain.rows[k])
            plain.actions[k] = np.clip(mean, -1.0, 1.0)
            if (np.abs(mean) > 1.0).any():
                plain.flags[k] |= RecordFlag.CLIPPED
        return plain

    def _inferred(self, table: GridTable, rows: slice, first_row: int) -> NDArray[np.float32]:
        torque = table.values["motor_torque"][rows].astype(np.float64)
        pedal = table.values["thrust"][rows].astype(np.float64) / 100.0
        speed = table.values["velocity"][rows].astype(np.float64)
        deviation = (torque - self._default.torque(pedal, speed)) / self._vehicle.torque_map.budget_nm
        row = _nearest(self._default.speed_axis_kmh, speed) - first_row
        column = _nearest(self._default.pedal_axis, pedal)
        seen = np.isfinite(deviation) & (row >= 0) & (row < ACTION_ROWS)
        cell = row[seen] * ACTION_COLUMNS + column[seen]
        total = np.bincount(cell, deviation[seen], minlength=ACTION_DIM)
        visits = np.bincount(cell, minlength=ACTION_DIM)
        mean = np.divide(total, visits, out=np.zeros(ACTION_DIM), where=visits > 0)
        return mean.astype(np.float32)


class JournalActions:
    """From the flash journal. A flash belongs to the step whose decision it lies nearest behind.

    Flashes are expected in the half step. To bear a flash that is acknowledged late, or stamped just before
    the decision's sample, a step takes those from half a window before its decision to half a window before
    the next.
    """

    def __init__(self, vehicle: Vehicle, default: TorqueMap, flashes: list[Flash]) -> None:
        self._default = default
        self._window = vehicle.sampling.window
        self._period = vehicle.sampling.period_ns
        self._flashes = sorted(flashes, key=lambda flash: flash.time_ns)
        self._next = 0
        self._live = LiveMap(default, vehicle.torque_map.budget_nm)

    def offset(self, table: GridTable, start: int, stop: int) -> int:
        """Return the offset that puts the run's first flash behind a decision.

        Where the run's own beginning does so within a quarter window, that is taken: a drive's first window
        begins with its first samples.
        """
        times = table.log_time_ns[start:stop]
        inside = [f.time_ns for f in self._flashes if times[0] <= f.time_ns <= times[-1]]
        if not inside:
            return 0
        decision = int(np.searchsorted(times, inside[0], side="left"))
        offset = (decision - self._window) % (2 * self._window)
        return 0 if offset <= self._window // 4 or offset >= 2 * self._window - 2 else offset

    def actions(self, table: GridTable, steps: Steps) -> Actions:
        """Return what the live map differs from the default in each step."""
        n = len(steps)
        found = Actions(
            np.zeros((n, ACTION_DIM), np.float32),
            self._default.first_row(steps.top_speed_kmh).astype(np.int32),
            np.zeros(n, np.uint8),
            np.ones(n, np.bool_),
        )
        half = self._window * self._period // 2
        self._take_before(int(table.log_time_ns[steps.starts[0]]) + half)
        for k in range(n):
            decision = int(table.log_time_ns[steps.starts[k]]) + self._window * self._period
            flash = self._take_before(decision + 2 * self._window * self._period - half)
            if flash is not None:
                found.rows[k] = flash.first_row
            found.flags[k] = RecordFlag.FLASHED if flash else RecordFlag.HELD
            found.known[k] = self._live.knows(int(found.rows[k]))
            found.actions[k] = self._live.action(int(found.rows[k]))
            if self._live.exceeds_budget(int(found.rows[k])):
                found.flags[k] |= RecordFlag.CLIPPED
        return found

    def _take_before(self, until: int) -> Flash | None:
        """Let all flashes before ``until`` take effect; return the last that was applied."""
        applied = None
        while self._next < len(self._flashes) and self._flashes[self._next].time_ns < until:
            flash = self._flashes[self._next]
            self._live.take(flash)
            if flash.result == "APPLIED":
                applied = flash
            self._next += 1
        return applied


def action_source(vehicle: Vehicle, default: TorqueMap, flashes: list[Flash]) -> ActionSource:
    """Return the source that the vehicle's file names."""
    if vehicle.actions == "flash_journal":
        return JournalActions(vehicle, default, flashes)
    if vehicle.actions == "realised_torque":
        return RealisedTorqueActions(vehicle, default)
    return DefaultMapActions(vehicle, default)


def _nearest(axis: NDArray[np.float32], value: NDArray[np.float64]) -> NDArray[np.int64]:
    middles = (axis[1:] + axis[:-1]).astype(np.float64) / 2.0
    return np.searchsorted(middles, value, side="right").astype(np.int64)
