"""Behaviour cloning, the baseline of offline learning: a network fitted to the data's actions."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from tspace_core.agents.networks import Actor
from tspace_core.agents.normaliser import Normaliser
from tspace_core.storage.replay import ReplayBatch


def cloned(
    data: ReplayBatch, *, updates: int, batch: int, seed: int, learning_rate: float = 1e-3
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """A deterministic policy of the smallest squared error on the data's actions."""
    generator = np.random.default_rng([seed, 4])
    hidden = (128, 128)
    actor = Actor(data.states.shape[1], data.actions.shape[1], hidden, torch.Generator().manual_seed(seed))
    normaliser = Normaliser(data.states.shape[1])
    normaliser.fit(data.states.mean(axis=0), data.states.std(axis=0))
    optimizer = torch.optim.Adam(actor.parameters(), lr=learning_rate)
    for _ in range(updates):
        chosen = generator.integers(len(data.rewards), size=batch)
        states = normaliser(torch.from_numpy(data.states[chosen]))
        loss = (actor(states) - torch.from_numpy(data.actions[chosen])).square().mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()

    def act(states: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            actions: NDArray[np.float32] = actor(normaliser(torch.from_numpy(states))).numpy()
        return actions

    return act
