"""RDPG's checkpoints hold all of it, its policy changes while driving, and bad input is named."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from tests.agents.batches import random_batch
from tests.agents.contract import AgentContract
from tests.agents.recurrent import ACTION_DIM, KINDS, STATE_DIM, agent_of, driven, sequences, strengthen
from tests.storage.replay_episodes import STATE_DIM as CODED_DIM
from tests.storage.replay_episodes import coded_episode
from tspace_core.agents import DPG, RDPG, Checkpoint, CheckpointStore
from tspace_core.agents.training import train_offline
from tspace_core.config import load_hyperparameters
from tspace_core.errors import AgentError, DivergedError
from tspace_core.storage.replay import ReplayBatch, build_replay
from tspace_core.storage.replay_sequences import SequenceBatch

both = pytest.mark.parametrize("kind", KINDS)


class Recurrent(AgentContract):
    """Sequences of ten records at most, one of which begins its episode, with what was remembered."""

    def batch(self, agent: DPG, seed: int) -> SequenceBatch:
        assert isinstance(agent, RDPG)
        return sequences(agent, [10, 8, 4], 10, seed=seed, begins=[0, 0, 1], memory=True)


class TestLSTM(Recurrent):
    hyper = KINDS["lstm"]
    wider: ClassVar = {"width": 12}


class TestTransformer(Recurrent):
    hyper = KINDS["transformer"]
    wider: ClassVar = {"width": 12}


def trained(kind: str, updates: int = 3) -> RDPG:
    agent = agent_of(kind)
    agent.fit_normaliser(np.full(STATE_DIM, 0.5), np.full(STATE_DIM, 2.0))
    for seed in range(updates):
        learn(agent, seed)
    return agent


def learn(agent: RDPG, seed: int) -> None:
    agent.train(sequences(agent, [10, 8, 4], 10, seed=seed, begins=[0, 0, 1], memory=True))
    agent.update_target()


def state(agent: RDPG) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": tensor.clone()
        for name, component in agent._components().items()
        for key, tensor in component.tensors.items()
    }


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@both
def test_weights_change_while_driving_and_the_memory_goes_on(kind: str, tmp_path: Path) -> None:
    fresh = strengthen(agent_of(kind), seed=9)
    fresh.save_policy(tmp_path / "p")
    driver = strengthen(agent_of(kind))
    session = driver.session(2)
    states, rewards = np.ones((2, STATE_DIM), np.float32), np.ones(2, np.float32)
    for _ in range(5):
        old = session.act(states, rewards)
    expected = fresh.session(2)
    expected.restore(session.component())  # the new weights with the memory that the old ones made
    driver.take_policy(Checkpoint(tmp_path / "p"))
    actions = session.act(states, rewards)
    np.testing.assert_array_equal(actions, expected.act(states, rewards))
    assert (actions != old).any()
    assert (actions != fresh.predict(states)).any(), "not as at an episode's begin"


@both
def test_it_trains_offline_and_resumes(kind: str, tmp_path: Path) -> None:
    """The same training loop as any other agent, on a replay buffer with or without stored memories."""
    replay = build_replay(tmp_path / "r", [coded_episode(n, 12 + n) for n in range(1, 6)])

    def fresh() -> RDPG:
        return RDPG(KINDS[kind].model_copy(update={"reward_scale": 0.1}), CODED_DIM, 68, seed=1)

    whole = fresh()
    train_offline(whole, replay, updates=8)
    store = CheckpointStore(tmp_path / "c", every=2)
    train_offline(fresh(), replay, updates=4, checkpoints=store)
    resumed = fresh()
    summary = train_offline(resumed, replay, updates=8, checkpoints=store, resume=True)
    assert summary.resumed_from == 4
    assert same(state(whole), state(resumed))
    assert all(np.isfinite(point.critic_loss) for point in summary.series)


@pytest.mark.parametrize("field", ["states", "actions", "rewards", "terminals", "mask"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_named_with_its_place(field: str, value: float) -> None:
    agent = trained("lstm")
    before = state(agent)
    batch = sequences(agent, [10, 8, 4], 10, memory=True)
    getattr(batch, field)[1, 6] = value
    words = rf"^{field} of the batch holds \d+ values that are not finite, the first in sequence 1, record 6"
    with pytest.raises(AgentError, match=words):
        agent.train(batch)
    assert batch.memory is not None
    batch = sequences(agent, [10, 8, 4], 10, memory=True)
    assert batch.memory is not None
    batch.memory[2, 5] = value
    with pytest.raises(AgentError, match=r"memory of the batch holds 1 values .* the first in sequence 2;"):
        agent.train(batch)
    assert same(before, state(agent))
    assert agent.updates == 3


def broken(agent: RDPG, **changes: Any) -> SequenceBatch:
    return sequences(agent, [10, 8, 4], 10)._replace(**changes)


def test_what_does_not_fit_is_named() -> None:
    agent = trained("lstm")
    before = state(agent)
    records = random_batch(np.random.default_rng(0), 8, STATE_DIM, ACTION_DIM)
    with pytest.raises(AgentError, match="rdpg learns from a SequenceBatch, got a ReplayBatch"):
        agent.train(records)
    for batch, words in (
        (broken(agent, states=np.zeros((3, 11, 5), np.float32)), r"states .* \(3, 11, 5\), .* \(3, 11, 3\)"),
        (broken(agent, states=np.zeros((3, 10, 3), np.float32)), r"states .* \(3, 10, 3\), .* \(3, 11, 3\)"),
        (broken(agent, memory=np.zeros((3, 7), np.float32)), r"memory .* \(3, 7\), .* by another agent"),
        (broken(agent, begins=np.ones(2, np.float32)), r"begins .* \(2,\), .* \(3,\)"),
        (broken(agent, begins=np.full(3, np.nan, np.float32)), "begins .* 3 values .* in sequence 0;"),
        (sequences(agent, [3, 2], 10), "no record to learn from: 3 records at most .* burn_in is 3"),
        (sequences(agent, [3], 3), "sequences of 3 records are no longer than burn_in, 3"),
        (broken(agent, mask=np.zeros((0, 10), np.float32)), "holds no records"),
    ):
        with pytest.raises(AgentError, match=words):
            agent.train(batch)
    assert same(before, state(agent))


def test_divergence_is_noticed_before_it_is_learned() -> None:
    agent = trained("lstm")
    before = state(agent)
    batch = sequences(agent, [10, 8], 10)
    with pytest.raises(DivergedError, match="critic loss is inf: training has diverged"):
        agent.train(batch._replace(rewards=batch.rewards * np.float32(1e30)))
    assert same(before, state(agent))
    agent.reduce = lambda gradient: gradient.fill_(np.nan)  # type: ignore[assignment]
    with pytest.raises(DivergedError, match="gradient of the critic is nan"):
        agent.train(batch)
    assert same(before, state(agent))
    assert agent.finite()
    with torch.no_grad():
        agent.actor.output.bias[0] = np.nan
    assert not agent.finite()


def test_it_draws_what_it_trains_on() -> None:
    agent = agent_of("transformer")
    live, _ = driven(agent, [40, 3, 17])
    batch = agent.draw(live, np.random.default_rng(0))
    assert isinstance(batch, SequenceBatch)
    assert batch.mask.shape == (8, agent.hyper.burn_in + agent.hyper.length)
    assert agent.train(batch).critic > 0


def test_a_source_without_sequences_is_refused() -> None:
    class Loose:
        def __len__(self) -> int:
            return 1

        def sample(self, batch: int, generator: np.random.Generator) -> ReplayBatch:
            return random_batch(generator, batch, STATE_DIM, ACTION_DIM)

    with pytest.raises(AgentError, match="a Loose keeps records one by one and has no sequences"):
        agent_of("lstm").draw(Loose(), np.random.default_rng(0))


def test_the_field_s_hyperparameters_load() -> None:
    field = load_hyperparameters("rdpg")
    assert field == RDPG.hyper_class()
    for name in ("lstm", "transformer"):
        assert load_hyperparameters("rdpg", f"hidden_pendulum_{name}").model_dump()["sequence_model"] == name
