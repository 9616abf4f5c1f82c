"""A session drives with any agent: noise where it explores, each place with an episode of its own."""

import numpy as np
import pytest

from tests.agents.batches import SMALL
from tspace_core.agents import DDPG
from tspace_core.config import NoiseParameters
from tspace_core.errors import AgentError

STATES = np.ones((5, 4), np.float32)


def agent(sigma: float = 50.0) -> DDPG:
    return DDPG(SMALL.model_copy(update={"noise": NoiseParameters(sigma=sigma)}), 4, 3, seed=1)


def test_without_exploration_it_is_the_policy() -> None:
    policy = agent()
    np.testing.assert_array_equal(policy.session(5).act(STATES), policy.predict(STATES))


def test_noise_is_clipped_and_its_own_in_each_place() -> None:
    policy = agent()
    session = policy.session(5, explore=True)
    actions = session.act(STATES)
    assert actions.shape == (5, 3)
    assert actions.dtype == np.float32
    assert (actions != policy.predict(STATES)).all()
    assert np.abs(actions).max() == 1.0  # noise this strong must have been clipped
    assert len(np.unique(session.component().values["noise"], axis=0)) == 5


def test_a_new_episode_begins_without_noise_in_its_place_only() -> None:
    session = agent(sigma=0.5).session(5, explore=True)
    session.act(STATES)
    session.begin(np.array([True, False, False, False, False]))
    noise = np.array(session.component().values["noise"])
    assert (noise[0] == 0).all()
    assert (noise[1:] != 0).all()


def test_it_goes_on_bit_for_bit() -> None:
    policy = agent(sigma=0.5)
    first, other = policy.session(5, explore=True), policy.session(5, explore=True, seed=8)
    first.act(STATES)
    other.restore(first.component())
    np.testing.assert_array_equal(first.act(STATES), other.act(STATES))


def test_other_numbers_of_states_are_refused() -> None:
    with pytest.raises(AgentError, match=r"\(3, 4\), a session in 5 places expects \(5, 4\)"):
        agent().session(5).act(STATES[:3])
    with pytest.raises(AgentError, match="0 places"):
        agent().session(0)
