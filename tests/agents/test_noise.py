"""The exploration noise is an Ornstein-Uhlenbeck process."""

import numpy as np
import pytest

from tspace_core.agents.noise import OrnsteinUhlenbeck
from tspace_core.config import NoiseParameters


def test_first_step_is_the_kick_alone() -> None:
    parameters = NoiseParameters(theta=0.15, sigma=0.2, dt=1e-2)
    noise = OrnsteinUhlenbeck(3, parameters, np.random.default_rng(1))
    kick = np.random.default_rng(1).standard_normal((2, 1, 3))
    np.testing.assert_allclose(noise.sample(), 0.2 * 0.1 * kick[0], rtol=1e-6)
    expected = 0.2 * 0.1 * (kick[0] * (1 - 0.15 * 1e-2) + kick[1])
    np.testing.assert_allclose(noise.sample(), expected, rtol=1e-6)


@pytest.mark.parametrize(("theta", "dt"), [(2.0, 0.05), (5.0, 0.02)])
def test_stationary_variance_and_correlation(theta: float, dt: float) -> None:
    noise = OrnsteinUhlenbeck(4000, NoiseParameters(theta=theta, sigma=0.3, dt=dt), np.random.default_rng(2))
    for _ in range(int(8 / theta / dt)):
        noise.sample()
    before = noise.state[0].copy()
    lag = 5
    for _ in range(lag):
        noise.sample()
    after = noise.state[0]
    variance = 0.3**2 * dt / (1 - (1 - theta * dt) ** 2)
    assert variance == pytest.approx(0.3**2 / (2 * theta), rel=0.06)
    assert after.var() == pytest.approx(variance, rel=0.1)  # 4.5 standard deviations at 4000 streams
    assert abs(after.mean()) < 4.5 * np.sqrt(variance / 4000)
    assert np.corrcoef(before, after)[0, 1] == pytest.approx((1 - theta * dt) ** lag, abs=0.06)


def test_streams_are_independent_and_reset_to_zero() -> None:
    noise = OrnsteinUhlenbeck(2, NoiseParameters(), np.random.default_rng(3))
    first = noise.sample(5)
    assert first.shape == (5, 2)
    assert len(np.unique(first)) == 10
    noise.reset()
    assert not noise.state.any()
    assert noise.state.shape == (5, 2)
