"""Fitted Q evaluation finds known values, and says where it knows nothing."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tspace_core.errors import RecordError
from tspace_core.evaluation.fitted_q import FittedQ, OffPolicyEstimate, RecordedEpisode, estimate_policy
from tspace_core.records.policy import ConstantPolicy

Floats = NDArray[np.float32]
GAMMA = 0.9
SMALL = FittedQ(gamma=GAMMA, features=32, resamples=40)
CHAIN = 4


def episode(states: Any, actions: Any, rewards: Any, *, terminal: bool) -> RecordedEpisode:
    kind = np.float32
    return RecordedEpisode(
        np.array(states, kind), np.array(actions, kind), np.array(rewards, kind), terminal=terminal
    )


def chain(episodes: int, seed: int, *, steps: int = 40) -> list[RecordedEpisode]:
    """A ring of 4 places: the action, drawn from -1 to 1, is the odds of going on, and earns by place."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(episodes):
        place = 0
        states, actions, rewards = [np.eye(CHAIN)[place]], [], []
        for _ in range(steps):
            action = generator.uniform(-1.0, 1.0)
            actions.append([action])
            rewards.append(earned(place, action))
            place = (place + 1) % CHAIN if generator.random() < (1.0 + action) / 2.0 else place
            states.append(np.eye(CHAIN)[place])
        found.append(episode(states, actions, rewards, terminal=False))
    return found


def earned(place: int, action: float) -> float:
    return float(place) - 0.5 * action


def true_value(action: float) -> float:
    """Of the policy that always does ``action``, from place 0, by the linear equations of the chain."""
    odds = (1.0 + action) / 2.0
    move = np.roll(np.eye(CHAIN), 1, axis=1) * odds + np.eye(CHAIN) * (1.0 - odds)
    rewards = np.array([earned(place, action) for place in range(CHAIN)])
    return float(np.linalg.solve(np.eye(CHAIN) - GAMMA * move, rewards)[0])


class Fixed:
    """Always the same action."""

    def __init__(self, action: float) -> None:
        self.action = action

    def __call__(self, states: Floats, /) -> Floats:
        return np.full((len(states), 1), self.action, np.float32)


@pytest.mark.parametrize("action", [-0.8, 0.0, 0.6, 1.0])
def test_a_small_problem_has_the_value_it_has(action: float) -> None:
    data = chain(400, seed=11)
    found = estimate_policy(data, Fixed(action), SMALL)
    assert found.policy is not None
    assert found.policy.low is not None and found.policy.high is not None
    assert found.policy.mean == pytest.approx(true_value(action), abs=0.35)
    assert found.policy.low - 0.2 <= true_value(action) <= found.policy.high + 0.2
    # Even odds are what actions drawn evenly from -1 to 1 amount to.
    assert found.recorded is not None
    assert found.recorded.mean == pytest.approx(true_value(0.0), abs=0.1)
    assert found.supported
    assert "Estimate only" in found.sentence


def test_a_difference_has_its_sign_with_an_interval_that_says_so() -> None:
    data = chain(200, seed=12)
    faster, slower = (estimate_policy(data, Fixed(action), SMALL) for action in (0.9, 0.2))
    assert faster.difference is not None and slower.difference is not None
    assert true_value(0.9) < true_value(0.2) < true_value(0.0)
    assert faster.difference.below_zero
    assert faster.difference.mean < slower.difference.mean
    assert faster.recorded is not None and slower.recorded is not None
    assert faster.recorded.mean == pytest.approx(slower.recorded.mean, rel=0.02)


def drive(seed: int, *, episodes: int = 60, spread: float = 0.3) -> tuple[list[RecordedEpisode], float]:
    """Episodes that truly end, one step in 20, by actions near a rule; and their mean return."""
    generator = np.random.default_rng(seed)
    found, returns = [], []
    for _ in range(episodes):
        state = generator.normal(size=3)
        states, rewards = [state], []
        actions: list[NDArray[np.float64]] = []
        while not actions or generator.random() < 0.95:
            action = np.clip(rule(state[None])[0] + generator.normal(0, spread, 2), -1, 1)
            actions.append(action)
            rewards.append(1.0 + 0.5 * state[0] - action[0] ** 2)
            state = 0.8 * state + 0.2 * np.array([action[0], action[1], 0.0]) + 0.1 * generator.normal(size=3)
            states.append(state)
        found.append(episode(states, actions, rewards, terminal=True))
        returns.append(sum(GAMMA**i * value for i, value in enumerate(rewards)))
    return found, float(np.mean(returns))


def rule(states: NDArray[np.float64] | Floats) -> NDArray[np.float64]:
    return np.stack([0.4 * np.tanh(states[:, 0]), -0.2 * np.tanh(states[:, 1])], axis=1)


def test_the_recorded_policy_is_worth_what_it_earned() -> None:
    data, mean = drive(21, episodes=150, spread=0.02)
    found = estimate_policy(data, lambda states: rule(states).astype(np.float32), SMALL)
    assert found.observed == pytest.approx(mean, rel=1e-5)
    assert found.policy is not None and found.recorded is not None and found.difference is not None
    for value in (found.policy, found.recorded):
        assert value.mean == pytest.approx(mean, rel=0.05)
    assert abs(found.difference.mean) < 0.2
    assert found.coverage > 0.8
    assert found.distance < 0.03


def test_a_policy_far_from_the_data_is_called_unsupported() -> None:
    data, _ = drive(22, spread=0.05)
    found = estimate_policy(data, lambda states: np.ones((len(states), 2), np.float32), SMALL)
    assert not found.supported
    assert found.coverage < 0.1
    assert "Not supported by the data" in found.sentence or "did not settle" in found.sentence
    assert any("near what was recorded" in caveat for caveat in found.caveats)


def test_equal_actions_say_nothing_about_others() -> None:
    data, _ = drive(23)
    still = [RecordedEpisode(e.states, np.zeros_like(e.actions), e.rewards, terminal=True) for e in data]
    found = estimate_policy(still, lambda states: rule(states).astype(np.float32), SMALL)
    assert found.spread == 0.0
    assert not found.supported
    assert any("do not differ" in caveat for caveat in found.caveats)


def test_the_same_data_give_the_same_estimate() -> None:
    data = chain(20, seed=13)
    found = [estimate_policy(data, Fixed(0.5), SMALL) for _ in range(2)]
    assert found[0] == found[1]
    assert OffPolicyEstimate.model_validate_json(found[0].model_dump_json()) == found[0]


class Remembering:
    """Checks that it is led through each episode as the episode went."""

    def __init__(self, data: list[RecordedEpisode]) -> None:
        self.data, self.step = data, -1

    def begin(self, count: int) -> None:
        assert count == len(self.data)
        self.step = 0

    def __call__(self, states: Floats, rewards: Floats | None = None, /) -> Floats:
        assert (rewards is None) == (self.step == 0)
        for i, item in enumerate(self.data):
            if self.step < len(item.states):
                np.testing.assert_array_equal(states[i], item.states[self.step])
                if rewards is not None:
                    assert rewards[i] == item.rewards[self.step - 1]
        return np.full((len(states), 1), 0.2, np.float32)

    def carried_out(self, actions: Floats) -> None:
        for i, item in enumerate(self.data):
            if self.step < len(item.actions):
                np.testing.assert_array_equal(actions[i], item.actions[self.step])
        self.step += 1


def test_a_policy_with_a_memory_lives_through_the_episodes() -> None:
    data = [*chain(5, seed=14, steps=12), *chain(5, seed=15, steps=30)]
    settings = SMALL
    policy = Remembering(data)
    found = estimate_policy(data, policy, settings)
    assert policy.step == 31
    assert found == estimate_policy(data, Fixed(0.2), settings)


def test_bad_episodes_are_refused() -> None:
    good = chain(1, seed=1)[0]
    with pytest.raises(RecordError, match="no recorded episode"):
        estimate_policy([], Fixed(0.0))
    short = RecordedEpisode(good.states[:-1], good.actions, good.rewards, terminal=False)
    with pytest.raises(RecordError, match="episode 1 has states"):
        estimate_policy([good, short], Fixed(0.0))
    torn = RecordedEpisode(good.states, good.actions, good.rewards * np.float32(np.nan), terminal=False)
    with pytest.raises(RecordError, match="episode 0 holds values that are not finite"):
        estimate_policy([torn], Fixed(0.0))
    one = estimate_policy([good], Fixed(0.0), FittedQ(gamma=GAMMA))
    assert one.policy is None or one.policy.low is None, "one episode gives no interval"


def test_actions_of_a_torque_map_are_looked_at_by_bands() -> None:
    generator = np.random.default_rng(5)
    data = []
    for _ in range(12):
        states = generator.normal(size=(20, 90)).astype(np.float32)
        actions = generator.uniform(-1, 1, (19, 68)).astype(np.float32)
        data.append(RecordedEpisode(states, actions, actions.mean(axis=1), terminal=False))
    low, high = (
        estimate_policy(data, ConstantPolicy(value), FittedQ(gamma=0.5, resamples=20))
        for value in (-0.1, 0.1)
    )
    assert low.policy is not None and high.policy is not None
    assert high.policy.mean > low.policy.mean
