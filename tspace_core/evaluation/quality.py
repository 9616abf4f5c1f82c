"""How well a drive was driven: speed error, and how hard and how unevenly it was accelerated.

Acceleration is the change of speed over ``STEP_S``, its rate the change between two such steps that follow
each other. The step is long enough that the resolution of a speed signal on the bus does not decide the
figure, and short enough to show a jolt of the drivetrain:

    a(t)    = (v(t) - v(t - STEP_S)) / STEP_S                  in m/s2
    rate(t) = (a(t) - a(t - STEP_S)) / STEP_S                  in m/s3
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

STEP_S = 0.5
"""Time over which a speed difference becomes an acceleration, s."""
_KMH_PER_MPS = 3.6


def speed_rmse(speed_kmh: ArrayLike, reference_kmh: ArrayLike) -> float:
    """Root mean square error of speed against the reference at the same place, km/h.

    Args:
        speed_kmh: speed driven, shape (n,).
        reference_kmh: speed asked for where the vehicle was then, shape (n,).
    """
    error = np.asarray(speed_kmh, dtype=np.float64) - np.asarray(reference_kmh, dtype=np.float64)
    return float(np.sqrt(np.mean(error**2))) if len(error) else float("nan")


def acceleration(speed_kmh: ArrayLike, rate_hz: float) -> NDArray[np.float64]:
    """Acceleration in m/s2 over steps of ``STEP_S``, shape (n - lag,).

    Args:
        speed_kmh: speed on an even grid, shape (n,).
        rate_hz: samples a second.
    """
    lag = _lag(rate_hz)
    speed = np.asarray(speed_kmh, dtype=np.float64) / _KMH_PER_MPS
    return (speed[lag:] - speed[:-lag]) * (rate_hz / lag)


def mean_absolute_acceleration(speed_kmh: ArrayLike, rate_hz: float) -> float:
    """Mean absolute acceleration over a drive in m/s2; NaN for a drive shorter than ``STEP_S``."""
    return _mean_absolute(acceleration(speed_kmh, rate_hz))


def mean_absolute_acceleration_rate(speed_kmh: ArrayLike, rate_hz: float) -> float:
    """Mean of the absolute acceleration rate (jerk) over a drive in m/s3; NaN for less than 2 ``STEP_S``."""
    lag = _lag(rate_hz)
    values = acceleration(speed_kmh, rate_hz)
    return _mean_absolute((values[lag:] - values[:-lag]) * (rate_hz / lag))


def _lag(rate_hz: float) -> int:
    return max(1, round(STEP_S * rate_hz))


def _mean_absolute(values: NDArray[np.float64]) -> float:
    return float(np.mean(np.abs(values))) if len(values) else float("nan")
