"""IDQL does what its formulas say, finds the data's best actions and refuses what would spoil it."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.agents.batches import random_batch
from tests.agents.contract import RecordAgentContract
from tspace_core.agents import IDQL
from tspace_core.agents.diffusion import sample
from tspace_core.agents.mixed_replay import LiveReplay, MixedReplay
from tspace_core.config import HYPERPARAMETERS, IDQLHyperparameters, NoiseParameters, load_hyperparameters
from tspace_core.storage.replay import ReplayBatch

SMALL = IDQLHyperparameters(
    value_hidden=(24, 16), actor_width=16, actor_blocks=2, samples=8, batch_size=32, actor_ema=0.05
)


class TestContract(RecordAgentContract):
    hyper = SMALL
    wider: ClassVar = {"actor_width": 24}

    def test_what_acts_are_the_averages(self) -> None:
        agent, states = self.trained(), np.random.default_rng(2).normal(size=(9, 4)).astype(np.float32)
        np.testing.assert_array_equal(agent.predict_target(states), agent.predict(states))


def changed(**values: object) -> IDQLHyperparameters:
    return IDQLHyperparameters.model_validate({**SMALL.model_dump(), **values})


def trained(agent: IDQL, updates: int = 12, *, seed: int = 1) -> IDQL:
    generator = np.random.default_rng(seed)
    for _ in range(updates):
        agent.train(random_batch(generator, 32, agent.state_dim, agent.action_dim))
        agent.update_target()
    return agent


def new_agent(hyper: IDQLHyperparameters = SMALL) -> IDQL:
    agent = IDQL(hyper, 6, 5, seed=3)
    agent.fit_normaliser(np.arange(6.0), np.arange(1.0, 7.0))
    return trained(agent)


def values_by_hand(network: torch.nn.Module, x: NDArray[np.float64]) -> NDArray[np.float64]:
    params = {name: value.numpy().astype(np.float64) for name, value in network.state_dict().items()}
    for layer in range(2):
        x = np.maximum(0, x @ params[f"layers.{layer}.weight"].T + params[f"layers.{layer}.bias"])
    values: NDArray[np.float64] = (x @ params["output.weight"].T + params["output.bias"])[:, 0]
    return values


def weights(network: torch.nn.Module) -> NDArray[np.float32]:
    return np.concatenate([value.detach().numpy().ravel() for value in network.state_dict().values()])


def test_the_targets_of_q_match_a_hand_computation() -> None:
    hyper = changed(gamma=0.9, reward_scale=0.5, critic_learning_rate=1e-12)  # V stays as it is
    agent = new_agent(hyper)
    generator = np.random.default_rng(8)
    with torch.no_grad():  # networks of their own, which training so slowly does not make
        for network in (agent.value, agent.critic, agent.target_critic):
            for parameter in network.parameters():
                parameter.add_(torch.from_numpy(generator.normal(0, 0.1, tuple(parameter.shape))))
    batch = random_batch(generator, 32, 6, 5)
    assert 0 < batch.terminals.sum() < 32
    states, following = (
        (x.astype(np.float64) - np.arange(6.0)) / np.arange(1.0, 7.0)
        for x in (batch.states, batch.next_states)
    )
    joined = np.hstack([states, batch.actions])
    future = 0.9 * (1 - batch.terminals) * values_by_hand(agent.value, following)
    targets = 0.5 * batch.rewards + future
    both = np.stack([values_by_hand(net, joined) for net in (agent.critic.first, agent.critic.second)])
    losses = agent.train(batch)
    assert losses.critic == pytest.approx(np.square(both - targets).mean(), rel=1e-4)
    assert losses.mean_q == pytest.approx(both.min(axis=0).mean(), rel=1e-3, abs=1e-4)


def test_v_becomes_the_expectile_of_the_smaller_target_value() -> None:
    agent = IDQL(changed(critic_learning_rate=3e-3), 2, 1, seed=0)
    generator = np.random.default_rng(0)
    batch = random_batch(generator, 200, 2, 1)._replace(states=np.zeros((200, 2), np.float32))
    for _ in range(300):  # without update_target the targets stay
        agent.train(batch)
    with torch.no_grad():
        actions = torch.from_numpy(batch.actions)
        aims = agent.target_critic(torch.zeros(200, 2), actions).numpy().min(axis=0)
        value = float(agent.value(torch.zeros(1, 2)))
    excess = 0.7 * np.maximum(aims - value, 0).sum() - 0.3 * np.maximum(value - aims, 0).sum()
    assert abs(excess) < 0.02 * np.abs(aims - value).sum()  # where the loss is flat
    assert np.std(aims) > 1e-3


@pytest.mark.parametrize(("terminal", "value"), [(0.0, 2.0), (1.0, 1.0)])
def test_a_true_end_cuts_the_future_off(terminal: float, value: float) -> None:
    agent = IDQL(changed(gamma=0.5, tau=0.1, critic_learning_rate=3e-3), 3, 2, seed=0)
    generator = np.random.default_rng(9)
    for _ in range(300):
        batch = random_batch(generator, 32, 3, 2)
        batch = batch._replace(rewards=np.ones(32, np.float32), terminals=np.full(32, terminal, np.float32))
        losses = agent.train(batch)
        agent.update_target()
    assert losses.mean_q == pytest.approx(value, rel=0.08)


def test_averages_follow_their_networks() -> None:
    agent = IDQL(changed(tau=0.25, actor_ema=0.1), 4, 3, seed=2)
    pairs = [(agent.critic, agent.target_critic, 0.25), (agent.actor, agent.target_actor, 0.1)]
    for live, target, _ in pairs:
        np.testing.assert_array_equal(weights(live), weights(target))
    agent.train(random_batch(np.random.default_rng(0), 16, 4, 3))
    before = [weights(target) for _, target, _ in pairs]
    agent.update_target()
    for (live, target, share), old in zip(pairs, before, strict=True):
        assert (weights(target) != old).any()
        np.testing.assert_allclose(weights(target), old + share * (weights(live) - old), atol=1e-6)


def test_it_takes_the_sample_of_the_largest_smaller_value() -> None:
    agent = new_agent()
    states = np.random.default_rng(2).normal(size=(3, 6)).astype(np.float32)
    chosen = agent.predict(states)
    noise = agent._components()["sampler"].tensors["noise"]
    normalised = agent.normaliser(torch.from_numpy(states))
    drawn = sample(agent.target_actor, agent.schedule, normalised, noise)
    critic = agent.target_critic
    for place in range(3):
        joined = np.hstack([np.tile(normalised[place].numpy(), (8, 1)), drawn[place].numpy()])
        both = [values_by_hand(net, joined.astype(np.float64)) for net in (critic.first, critic.second)]
        np.testing.assert_allclose(chosen[place], drawn[place, int(np.argmax(np.minimum(*both)))], atol=1e-6)


def test_one_sample_is_plain_cloning() -> None:
    agent = new_agent(changed(samples=1))
    states = np.random.default_rng(2).normal(size=(4, 6)).astype(np.float32)
    noise = agent._components()["sampler"].tensors["noise"]
    drawn = sample(agent.target_actor, agent.schedule, agent.normaliser(torch.from_numpy(states)), noise)
    before = agent.predict(states)
    np.testing.assert_array_equal(before, drawn[:, 0])
    with torch.no_grad():
        for parameter in agent.target_critic.parameters():
            parameter.neg_()
    np.testing.assert_array_equal(agent.predict(states), before)


def bandit(generator: np.random.Generator, size: int) -> ReplayBatch:
    """Actions near -0.8 or +0.8: one side earns 1, the other 0, by the state's sign; between them -5."""
    side = np.where(generator.random((size, 1)) < 0.5, -0.8, 0.8)
    actions = np.clip(side + generator.normal(0, 0.1, (size, 1)), -1, 1).astype(np.float32)
    states = generator.choice([-1.0, 1.0], (size, 1)).astype(np.float32)
    zeros = np.zeros(size, np.float32)
    return ReplayBatch(states, actions, earned(states, actions), states, zeros + 1, zeros)


def earned(states: NDArray[np.float32], actions: NDArray[np.float32]) -> NDArray[np.float32]:
    found = np.where(np.abs(actions) < 0.4, -5.0, (actions * states > 0).astype(np.float64))
    return found[:, 0].astype(np.float32)


def bandit_agent(updates: int, *, seed: int = 0) -> tuple[IDQL, LiveReplay]:
    hyper = changed(
        actor_width=32,
        samples=32,
        actor_learning_rate=2e-3,
        critic_learning_rate=3e-3,
        batch_size=128,
        tau=0.05,
    )
    agent, source = IDQL(hyper, 1, 1, seed=seed), LiveReplay(1, 1, 4000)
    generator = np.random.default_rng(seed)
    source.add(bandit(generator, 4000))
    for _ in range(updates):
        agent.train(agent.draw(source, generator))
        agent.update_target()
    return agent, source


def test_it_finds_the_datas_best_action_where_the_mean_action_is_bad() -> None:
    agent, _ = bandit_agent(300)
    states = np.array([[-1.0], [1.0]], np.float32)
    assert earned(states, np.zeros((2, 1), np.float32)).mean() == -5  # what the mean of the data earns
    assert earned(states, agent.predict(states)).tolist() == [1.0, 1.0]
    many = np.random.default_rng(4).choice([-1.0, 1.0], (200, 1)).astype(np.float32)
    explored = agent.explored(many, np.random.default_rng(3))
    cloned = IDQL(agent.hyper.model_copy(update={"samples": 1}), 1, 1)
    cloned.target_actor.load_state_dict(agent.target_actor.state_dict())
    blind = cloned.explored(many, np.random.default_rng(3))
    assert len(np.unique(explored)) > 100
    assert earned(many, blind).mean() + 0.5 < earned(many, explored).mean()


def test_offline_records_stay_in_the_batch() -> None:
    agent, offline = bandit_agent(1)
    live = LiveReplay(1, 1, 4000)
    live.add(bandit(np.random.default_rng(1), 1000)._replace(rewards=np.full(1000, 9.0, np.float32)))
    source = MixedReplay(offline, live, 1.0 - agent.hyper.offline_share)
    batch = agent.draw(source, np.random.default_rng(0))
    assert int((batch.rewards == 9.0).sum()) == agent.hyper.batch_size // 2


def test_a_session_explores_by_its_seed_alone() -> None:
    agent = new_agent(changed(noise=NoiseParameters(sigma=0.5).model_dump()))
    states = np.ones((3, 6), np.float32)
    np.testing.assert_array_equal(agent.session(3).act(states), agent.predict(states))
    first, again, other = (agent.session(3, explore=True, seed=seed) for seed in (4, 4, 5))
    global_state = torch.get_rng_state()
    found = [first.act(states) for _ in range(3)]
    for actions in found:
        np.testing.assert_array_equal(again.act(states), actions)
        assert np.abs(actions).max() <= 1.0
    assert torch.equal(torch.get_rng_state(), global_state)
    assert (other.act(states) != found[0]).any()
    assert len(np.unique(found[0], axis=0)) == 3  # the same state, but each place draws its own
    other.restore(first.component())
    np.testing.assert_array_equal(first.act(states), other.act(states))


def test_better_samples_are_chosen_more_often_while_exploring() -> None:
    # With this many outputs two samples are never cut to the same corner.
    cold, warm = (
        trained(IDQL(changed(explore_temperature=t, samples=2), 6, 20, seed=3), 5) for t in (1e-6, 1.0)
    )
    states = np.random.default_rng(3).normal(size=(4000, 6)).astype(np.float32)
    picks = [agent.explored(states, np.random.default_rng(7)) for agent in (cold, warm)]
    # Of two values each is one deviation from their mean: logits differ by 2 / temperature.
    share = float((picks[0] == picks[1]).all(axis=1).mean())
    assert share == pytest.approx(1 / (1 + np.exp(-2.0)), abs=0.02)


def test_states_that_do_not_fit_in_one_pass_are_done_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = new_agent()
    states = np.random.default_rng(2).normal(size=(9, 6)).astype(np.float32)
    whole = agent.predict(states)
    monkeypatch.setattr("tspace_core.agents.idql.ROWS_AT_ONCE", 16)
    np.testing.assert_allclose(agent.predict(states), whole, atol=1e-5)


def test_bands_are_learned_as_codes() -> None:
    agent = IDQL(changed(action_bands=(0.0, 0.4, 1.0)), 6, 68, seed=1)
    batch = random_batch(np.random.default_rng(0), 32, 6, 68)
    agent.train(batch)
    codes = agent.codes(batch.states[:2])
    assert codes.shape == (2, 3)
    np.testing.assert_array_equal(agent.predict(batch.states[:2]), agent.basis.expand(codes))
    assert agent.session(2, explore=True).act(batch.states[:2]).shape == (2, 68)


def test_codes_at_the_clip_are_counted() -> None:
    agent = IDQL(SMALL, 4, 3)
    with torch.no_grad():
        agent.target_actor.output.bias.copy_(torch.tensor([-90.0, 90.0, 90.0]))
    assert agent.train(random_batch(np.random.default_rng(0), 8, 4, 3)).saturated == 1.0
    assert 0.0 <= IDQL(SMALL, 4, 3).train(random_batch(np.random.default_rng(0), 8, 4, 3)).saturated < 1.0


def test_the_hyperparameters_in_conf_are_the_papers() -> None:
    hyper = load_hyperparameters("idql")
    assert HYPERPARAMETERS["idql"] is IDQLHyperparameters
    assert isinstance(hyper, IDQLHyperparameters)
    assert (hyper.expectile, hyper.diffusion_steps, hyper.actor_ema, hyper.dropout) == (0.7, 5, 0.001, 0.1)
    assert (hyper.batch_size, hyper.actor_learning_rate, hyper.samples) == (512, 3e-4, 64)
