"""Brings every state dimension to zero mean and unit deviation, with figures fixed before training."""

import numpy as np
import torch
from numpy.typing import ArrayLike

from tspace_core.errors import AgentError

CLIP = 10.0
"""Normalised states are cut at this many standard deviations, so that one outlier cannot drive a network."""
CONSTANT = 1e-6
"""A dimension whose deviation is a smaller share of its size than this counts as constant: only centred."""


class Normaliser:
    """``clip((state - mean) / std)``; passes states through until it is fitted."""

    def __init__(self, size: int) -> None:
        self.fitted = False
        self.mean = torch.zeros(size)
        self.scale = torch.ones(size)

    def fit(self, mean: ArrayLike, std: ArrayLike) -> None:
        """Take over mean and standard deviation, both (size,).

        Raises:
            AgentError: wrong length, not finite, or a negative deviation.
        """
        means, deviations = np.asarray(mean, np.float64), np.asarray(std, np.float64)
        shape = tuple(self.mean.shape)
        if means.shape != shape or deviations.shape != shape:
            message = f"normaliser of {shape[0]} states given mean {means.shape} and std {deviations.shape}"
            raise AgentError(message)
        if not (np.isfinite(means).all() and np.isfinite(deviations).all() and (deviations >= 0).all()):
            message = (
                "the normaliser's mean or deviation is not finite or negative; check the replay's manifest"
            )
            raise AgentError(message)
        constant = deviations <= CONSTANT * np.maximum(1.0, np.abs(means))
        self.mean = torch.from_numpy(means.astype(np.float32))
        self.scale = torch.from_numpy((1.0 / np.where(constant, 1.0, deviations)).astype(np.float32))
        self.fitted = True

    def apply(self, states: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Write the normalised (n, size) states into ``out`` and return it."""
        if not self.fitted:
            return out.copy_(states)
        return torch.sub(states, self.mean, out=out).mul_(self.scale).clamp_(-CLIP, CLIP)

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """Normalised copy of (n, size) states."""
        return self.apply(states, torch.empty_like(states))
