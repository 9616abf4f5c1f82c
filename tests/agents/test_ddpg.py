"""DDPG does what its formulas say, learns known problems and refuses what would spoil it."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.agents.batches import SMALL, random_batch
from tests.agents.contract import RecordAgentContract
from tspace_core.agents import DDPG
from tspace_core.agents.networks import Critic
from tspace_core.config import DDPGHyperparameters
from tspace_core.storage.replay import ReplayBatch


class TestContract(RecordAgentContract):
    hyper = SMALL
    wider: ClassVar = {"actor_hidden": (20,)}


def weights(network: torch.nn.Module) -> dict[str, NDArray[np.float64]]:
    return {name: value.numpy().astype(np.float64) for name, value in network.state_dict().items()}


def forward(
    params: dict[str, NDArray[np.float64]], stack: str, x: NDArray[np.float64]
) -> NDArray[np.float64]:
    layer = 0
    while f"{stack}.{layer}.weight" in params:
        x = np.maximum(0, x @ params[f"{stack}.{layer}.weight"].T + params[f"{stack}.{layer}.bias"])
        layer += 1
    assert layer
    return x


def actor_by_hand(network: torch.nn.Module, states: NDArray[np.float64]) -> NDArray[np.float64]:
    params = weights(network)
    return np.tanh(forward(params, "hidden", states) @ params["output.weight"].T + params["output.bias"])


def critic_by_hand(
    network: torch.nn.Module, states: NDArray[np.float64], actions: NDArray[np.float64]
) -> NDArray[np.float64]:
    params = weights(network)
    joined = np.hstack([forward(params, "state", states), forward(params, "action", actions)])
    return (forward(params, "joint", joined) @ params["output.weight"].T + params["output.bias"])[:, 0]


def test_losses_match_a_hand_computation() -> None:
    hyper = SMALL.model_copy(update={"gamma": 0.9, "reward_scale": 0.5, "actor_learning_rate": 1e-3})
    agent = DDPG(hyper, 6, 5, seed=1)
    agent.fit_normaliser(np.full(6, 2.0), np.full(6, 4.0))
    generator = np.random.default_rng(0)
    for _ in range(30):  # away from the start, where targets equal the live networks
        agent.train(random_batch(generator, 32, 6, 5))
        agent.update_target()
    batch = random_batch(generator, 32, 6, 5)
    states, following = ((x.astype(np.float64) - 2.0) / 4.0 for x in (batch.states, batch.next_states))
    future = critic_by_hand(agent.target_critic, following, actor_by_hand(agent.target_actor, following))
    targets = 0.5 * batch.rewards + 0.9 * (1 - batch.terminals) * future
    values = critic_by_hand(agent.critic, states, batch.actions.astype(np.float64))
    losses = agent.train(batch)
    assert losses.critic == pytest.approx(np.mean((values - targets) ** 2), rel=1e-5)
    assert losses.mean_q == pytest.approx(values.mean(), rel=1e-4)


def test_actor_loss_is_minus_the_value_under_the_new_critic() -> None:
    hyper = SMALL.model_copy(update={"actor_learning_rate": 1e-12})
    agent = DDPG(hyper, 6, 5, seed=1)
    batch = random_batch(np.random.default_rng(5), 32, 6, 5)
    losses = agent.train(batch)
    states = batch.states.astype(np.float64)
    values = critic_by_hand(agent.critic, states, actor_by_hand(agent.actor, states))
    assert losses.actor == pytest.approx(-values.mean(), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("which", ["actor", "critic"])
def test_targets_follow_by_tau(which: str) -> None:
    agent = DDPG(SMALL.model_copy(update={"tau": 0.25}), 4, 3, seed=2)
    live, target = getattr(agent, which), getattr(agent, f"target_{which}")
    assert all((weights(live)[name] == value).all() for name, value in weights(target).items())
    agent.train(random_batch(np.random.default_rng(0), 16, 4, 3))
    before = weights(target)
    agent.update_target()
    assert any((weights(target)[name] != old).any() for name, old in before.items())
    for name, value in weights(target).items():
        np.testing.assert_allclose(value, 0.75 * before[name] + 0.25 * weights(live)[name], atol=1e-7)


def linear_critic(critic: Critic, slopes: NDArray[np.float32]) -> None:
    """Make the critic ``10 + sum(slopes * action)``: its layers carry one positive number through."""
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.zero_()
        named = dict(critic.named_parameters())
        named["action.0.bias"][0] = 10.0
        named["action.0.weight"][0] = torch.from_numpy(slopes)
        named["joint.0.weight"][0, SMALL.critic_state_hidden[-1]] = 1.0
        named["joint.1.weight"][0, 0] = 1.0
        named["output.weight"][0, 0] = 1.0


def test_actor_climbs_the_critics_slope() -> None:
    hyper = SMALL.model_copy(update={"critic_learning_rate": 1e-12})
    agent = DDPG(hyper, 4, 3, seed=3)
    linear_critic(agent.critic, np.array([1.0, -1.0, 0.0], np.float32))
    batch = random_batch(np.random.default_rng(0), 64, 4, 3)
    before = agent.predict(batch.states)
    for _ in range(20):
        agent.train(batch)
    moved = (agent.predict(batch.states) - before).mean(axis=0)
    assert moved[0] > 0.05
    assert moved[1] < -0.05
    assert abs(moved[2]) < 0.02


def test_learns_the_optimum_of_a_linear_quadratic_problem() -> None:
    generator = np.random.default_rng(6)
    gain = np.array([[0.5, -0.3], [0.2, 0.4]], np.float32)
    hyper = DDPGHyperparameters(
        gamma=0.0,
        actor_hidden=(64, 64),
        critic_joint_hidden=(64, 64),
        critic_action_hidden=(32,),
        batch_size=128,
    )
    agent = DDPG(hyper, 2, 2, seed=0)
    for _ in range(1500):
        states = generator.uniform(-1, 1, (128, 2)).astype(np.float32)
        actions = generator.uniform(-1, 1, (128, 2)).astype(np.float32)
        rewards = -np.square(actions - states @ gain.T).sum(axis=1)
        batch = ReplayBatch(states, actions, rewards, states, np.zeros_like(rewards), np.zeros_like(rewards))
        agent.train(batch)
        agent.update_target()
    states = generator.uniform(-0.9, 0.9, (500, 2)).astype(np.float32)
    error = np.abs(agent.predict(states) - states @ gain.T)
    assert error.mean() < 0.06, f"mean error {error.mean():.3f}; a constant 0 gives 0.33"
    np.testing.assert_allclose(agent.predict_target(states), agent.predict(states), atol=0.1)


@pytest.mark.parametrize(("terminal", "value"), [(0.0, 2.0), (1.0, 1.0)])
def test_a_true_end_cuts_the_future_off(terminal: float, value: float) -> None:
    hyper = SMALL.model_copy(update={"gamma": 0.5, "tau": 0.05})
    agent = DDPG(hyper, 3, 2, seed=0)
    generator = np.random.default_rng(9)
    for _ in range(1200):
        batch = random_batch(generator, 32, 3, 2)
        batch = batch._replace(rewards=np.ones(32, np.float32), terminals=np.full(32, terminal, np.float32))
        losses = agent.train(batch)
        agent.update_target()
    assert losses.mean_q == pytest.approx(value, rel=0.02)


def test_saturated_outputs_are_counted() -> None:
    agent = DDPG(SMALL, 4, 4)
    with torch.no_grad():
        agent.actor.output.bias.copy_(torch.tensor([9.0, -9.0, 9.0, 0.0]))
    losses = agent.train(random_batch(np.random.default_rng(0), 8, 4, 4))
    assert losses.saturated == 0.75
