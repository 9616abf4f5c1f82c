"""Ornstein-Uhlenbeck exploration noise."""

import numpy as np
from numpy.typing import NDArray

from tspace_core.config import NoiseParameters


class OrnsteinUhlenbeck:
    """Independent Ornstein-Uhlenbeck processes around zero, one a stream and action dimension.

    Euler-Maruyama: ``x += theta * (0 - x) * dt + sigma * sqrt(dt) * N(0, 1)``. Its stationary variance is
    ``sigma**2 * dt / (1 - (1 - theta * dt)**2)``, close to ``sigma**2 / (2 * theta)``.
    """

    def __init__(self, size: int, parameters: NoiseParameters, generator: np.random.Generator) -> None:
        self._size = size
        self._pull = parameters.theta * parameters.dt
        self._kick = parameters.sigma * float(np.sqrt(parameters.dt))
        self._generator = generator
        self.state: NDArray[np.float64] = np.zeros((1, size))

    def reset(self) -> None:
        """Start every stream at zero again, as at the beginning of an episode."""
        self.state = np.zeros_like(self.state)

    def sample(self, streams: int = 1) -> NDArray[np.float32]:
        """Advance by one step; (streams, size). Another number of streams starts all of them at zero."""
        if len(self.state) != streams:
            self.state = np.zeros((streams, self._size))
        kick = self._kick * self._generator.standard_normal(self.state.shape)
        self.state = self.state - self._pull * self.state + kick
        return self.state.astype(np.float32)
