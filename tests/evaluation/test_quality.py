import math

import numpy as np
import pytest

from tspace_core.evaluation.quality import (
    acceleration,
    mean_absolute_acceleration,
    mean_absolute_acceleration_rate,
    speed_rmse,
)

RATES = [4.0, 20.0, 50.0]


@pytest.mark.parametrize("rate_hz", RATES)
def test_constant_acceleration_is_found_at_every_rate(rate_hz: float) -> None:
    time = np.arange(0, 20, 1 / rate_hz)
    speed = 3.6 * 0.7 * time
    assert acceleration(speed, rate_hz) == pytest.approx(0.7)
    assert mean_absolute_acceleration(speed, rate_hz) == pytest.approx(0.7)
    assert mean_absolute_acceleration(speed[::-1], rate_hz) == pytest.approx(0.7)
    assert mean_absolute_acceleration_rate(speed, rate_hz) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("rate_hz", RATES)
def test_constant_rate_is_found_at_every_rate(rate_hz: float) -> None:
    time = np.arange(0, 10, 1 / rate_hz)
    speed = 3.6 * 0.5 * 0.3 * time**2
    assert mean_absolute_acceleration_rate(speed, rate_hz) == pytest.approx(0.3)


def test_one_step_of_a_coarse_signal_does_not_decide_the_figure() -> None:
    speed = np.full(2000, 50.0)
    speed[1000:] += 0.1
    # One step of 0.1 km/h in 100 s: a(t) is 0.0556 m/s2 for half a second.
    assert mean_absolute_acceleration(speed, 20.0) == pytest.approx(0.1 / 3.6 / 0.5 * 10 / 1990)


def test_speed_error() -> None:
    assert speed_rmse([10, 20, 30], [10, 20, 30]) == 0
    assert speed_rmse([13, 16], [10, 20]) == pytest.approx(math.sqrt((9 + 16) / 2))


def test_a_drive_too_short_to_say_anything_is_not_a_number() -> None:
    assert math.isnan(mean_absolute_acceleration([1.0, 2.0], 20.0))
    assert math.isnan(mean_absolute_acceleration_rate([1.0] * 15, 20.0))
    assert math.isnan(speed_rmse([], []))
