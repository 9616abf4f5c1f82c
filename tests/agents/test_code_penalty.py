"""A penalty on the actor's codes leaves alone what is not worth anything, and takes what is."""

import numpy as np
import pytest

from tspace_core.agents.ddpg import DDPG
from tspace_core.config import DDPGHyperparameters
from tspace_core.storage.replay import ReplayBatch


def trained(penalty: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Codes after records in which only the first of two numbers earns something."""
    hyper = DDPGHyperparameters(
        gamma=0.0,
        actor_hidden=(16,),
        critic_state_hidden=(8,),
        critic_action_hidden=(16,),
        critic_joint_hidden=(16,),
        code_penalty=penalty,
    )
    agent = DDPG(hyper, 3, 2, seed=1)
    agent.fit_normaliser(np.zeros(3), np.ones(3))
    generator = np.random.default_rng(2)
    ones = np.ones(64, np.float32)
    for _ in range(600):
        states = generator.standard_normal((64, 3)).astype(np.float32)
        actions = generator.uniform(-1, 1, (64, 2)).astype(np.float32)
        rewards = -actions[:, 0] + 0.1 * actions[:, 1]
        agent.train(ReplayBatch(states, actions, rewards, states, ones, 0 * ones))
    return agent.codes(generator.standard_normal((100, 3)).astype(np.float32))


def test_without_it_both_go_to_the_limit_and_with_it_only_what_pays() -> None:
    free, held = trained(0.0), trained(0.25)
    assert np.abs(free).mean(axis=0).min() > 0.8
    # Where -c + 0.25 c^2 is least: beyond -1; and 0.1 c - 0.25 c^2 is most at 0.2.
    assert held[:, 0].mean() < -0.8
    assert held[:, 1].mean() == pytest.approx(0.2, abs=0.15)
