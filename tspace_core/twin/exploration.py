"""Exploration for recorded drives: random changes of the torque map, smooth along pedal, speed and time.

The action of a vehicle is an Ornstein-Uhlenbeck process in time, one step a decision::

    x' = rho x + sqrt(1 - rho^2) z,        action = clip(centre + sigma x, -1, 1)

with z a Gaussian field over the 4 x 17 cells whose correlation between two cells is
``exp(-(dp / length)^2 / 2) * row_correlation ** |dr|`` (dp: distance along the pedal axis, dr: in rows). So
neighbouring cells move together, as a driver and the guard's limit on neighbouring cells want it.
"""

import numpy as np
from numpy.typing import NDArray

from tspace_core.config.torque_map import FLASHED_ROWS
from tspace_core.config.vehicle import Vehicle


class SmoothExploration:
    """A seeded random policy, smooth along the pedal axis. Each call is the next decision of every vehicle.

    Args:
        vehicle: gives the pedal axis.
        seed: of the random numbers.
        sigma: standard deviation of an action.
        centre: mean of an action; below 0, as a flash may lower torque but not raise it where it is positive.
        rho: correlation from one decision to the next.
        length: correlation length along the pedal axis, fraction of full travel.
        row_correlation: correlation between neighbouring rows.
    """

    def __init__(
        self,
        vehicle: Vehicle,
        seed: int,
        *,
        sigma: float = 0.4,
        centre: float = -0.4,
        rho: float = 0.9,
        length: float = 0.25,
        row_correlation: float = 0.8,
    ) -> None:
        pedal = np.asarray(vehicle.torque_map.pedal_axis)
        rows = np.arange(FLASHED_ROWS)
        along_pedal = np.exp(-0.5 * ((pedal[:, None] - pedal[None, :]) / length) ** 2)
        along_rows = row_correlation ** np.abs(rows[:, None] - rows[None, :])
        self._pedal_factor = np.linalg.cholesky(along_pedal + 1e-6 * np.eye(len(pedal)))
        self._row_factor = np.linalg.cholesky(along_rows)
        self._generator = np.random.default_rng([seed, 0x6578])
        self._sigma, self._centre, self._rho = sigma, centre, rho
        self._field: NDArray[np.float64] | None = None

    def __call__(self, states: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Return the next actions for ``states`` (n, state_dim): (n, 4 x columns) float32 in [-1, 1]."""
        shape = (len(states), FLASHED_ROWS, len(self._pedal_factor))
        white = self._generator.standard_normal(shape)
        smooth = self._row_factor @ white @ self._pedal_factor.T
        if self._field is None or self._field.shape != shape:
            self._field = smooth
        else:
            self._field = self._rho * self._field + np.sqrt(1.0 - self._rho**2) * smooth
        actions = np.clip(self._centre + self._sigma * self._field, -1.0, 1.0)
        return actions.reshape(len(states), -1).astype(np.float32)
