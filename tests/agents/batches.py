"""Batches and small hyperparameters that the tests of agents share."""

import numpy as np

from tspace_core.config import DDPGHyperparameters
from tspace_core.storage.replay import ReplayBatch

SMALL = DDPGHyperparameters(
    actor_hidden=(24, 16),
    critic_state_hidden=(8, 12),
    critic_action_hidden=(8,),
    critic_joint_hidden=(24, 16),
    batch_size=32,
)


def random_batch(generator: np.random.Generator, size: int, state_dim: int, action_dim: int) -> ReplayBatch:
    """Records of white noise, one in four terminal."""
    return ReplayBatch(
        states=generator.normal(size=(size, state_dim)).astype(np.float32),
        actions=generator.uniform(-1, 1, (size, action_dim)).astype(np.float32),
        rewards=generator.normal(size=size).astype(np.float32),
        next_states=generator.normal(size=(size, state_dim)).astype(np.float32),
        terminals=(generator.random(size) < 0.25).astype(np.float32),
        first_rows=np.zeros(size, np.float32),
    )
