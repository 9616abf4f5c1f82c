"""A recurrent agent drives: each place has a memory of its own, and replay gives back what it was."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.agents.recurrent import ACTION_DIM, KINDS, STATE_DIM, agent_of, driven, strengthen
from tspace_core.agents import RDPG
from tspace_core.agents.histories import Histories, Remembered, histories_of, tensor
from tspace_core.agents.mixed_replay import LiveReplay
from tspace_core.agents.policy import AgentPolicy
from tspace_core.errors import AgentError

both = pytest.mark.parametrize("kind", KINDS)


def states_of(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, STATE_DIM)).astype(np.float32)


def cut(agent: RDPG, live: LiveReplay, length: int, burn_in: int) -> Histories:
    batch = live.sample_sequences(64, length, np.random.default_rng(0), burn_in=burn_in)
    assert batch.memory is not None
    size = agent.basis.size
    stored = tensor(batch.memory[:, size + 1 :]) if agent.actor.model.stored_dim else None
    memory = tensor(batch.memory)
    remembered = Remembered(memory[:, :size], memory[:, size], stored)
    return histories_of(batch, batch.actions, burn_in, remembered, agent._inputs)


@both
@pytest.mark.parametrize("seed", range(3))
def test_sequences_of_the_replay_decide_as_the_session_did(kind: str, seed: int) -> None:
    """Whole ragged episodes, and pieces of them after burn-in or from the stored state."""
    agent = strengthen(agent_of(kind, noise=agent_of(kind).hyper.noise.model_copy(update={"sigma": 0.0})))
    lengths = np.random.default_rng(seed).integers(1, 30, 8).tolist()
    live, _ = driven(agent, lengths, seed=seed)
    decided = {}
    session = agent.session(1)
    everything = live.split(live.block(np.arange(len(live))))
    first = 0
    for length in lengths:  # again, now without looking at the memory that was stored
        session.begin()
        for k in range(first, first + length):
            reward = None if k == first else everything.rewards[k - 1 : k]
            if k > first:
                session.carried_out(everything.actions[k - 1 : k])
            decided[everything.rewards[k].item()] = session.act(everything.states[k : k + 1], reward)[0]
        first += length
    pieces = [(30, 0)]
    pieces += [(6, 0), (5, 2)] if kind == "lstm" else [(6, KINDS[kind].context - 1)]
    for length, burn_in in pieces:
        work = cut(agent, live, length, burn_in)
        with torch.no_grad():
            codes, _ = agent.actor(work.inputs[:, :-1], agent._warmed(agent.actor.model, work, work.stored))
        learned = np.argwhere(work.mask.numpy() == 1)
        assert len(learned)
        for i, t in learned:
            expected = decided[work.rewards[i, t].item()]
            np.testing.assert_allclose(codes[i, t].numpy(), expected, atol=1e-5)


@both
def test_places_do_not_meddle(kind: str) -> None:
    agent = strengthen(agent_of(kind))
    together, alone = agent.session(3), [agent.session(1) for _ in range(3)]
    for step in range(12):
        states, rewards = states_of(step, 3), np.arange(3, dtype=np.float32)
        if step in (4, 7):
            begins = np.arange(3) == step % 3
            together.begin(begins)
            for place in np.flatnonzero(begins).tolist():
                alone[place].begin()
        actions = together.act(states, rewards)
        for place in range(3):
            one = alone[place].act(states[place : place + 1], rewards[place : place + 1])
            np.testing.assert_allclose(actions[place], one[0], atol=1e-6)
        np.testing.assert_allclose(together.memory, np.concatenate([one.memory for one in alone]), atol=1e-6)


@both
def test_a_new_episode_remembers_nothing(kind: str) -> None:
    agent = strengthen(agent_of(kind))
    session, states = agent.session(2), states_of(0, 2)
    np.testing.assert_allclose(session.act(states), agent.predict(states), atol=1e-6)
    assert not session.memory.any()
    second = session.act(states, np.ones(2, np.float32))
    assert np.abs(second - agent.predict(states)).max() > 1e-3, "it remembers the first step"
    assert session.memory.any(axis=1).all()
    session.begin(np.array([True, False]))
    third = session.act(states, np.full(2, 7.0, np.float32))
    np.testing.assert_allclose(third[0], agent.predict(states)[0], atol=1e-6)
    assert not session.memory[0].any(), "the reward of another episode is not taken"
    assert np.abs(third[1] - agent.predict(states)[1]).max() > 1e-3


@both
def test_what_was_carried_out_counts(kind: str) -> None:
    agent = strengthen(agent_of(kind))
    said, done = agent.session(1), agent.session(1)
    states = states_of(0, 1)
    for session in (said, done):
        session.act(states)
    done.carried_out(np.full((1, ACTION_DIM), -0.5, np.float32))
    reward = np.ones(1, np.float32)
    assert np.abs(said.act(states, reward) - done.act(states, reward)).max() > 1e-4
    np.testing.assert_array_equal(done.memory[0, : ACTION_DIM + 1], [-0.5] * ACTION_DIM + [1.0])


@both
def test_it_goes_on_bit_for_bit(kind: str) -> None:
    agent = strengthen(agent_of(kind))
    first, other = agent.session(2, explore=True), agent.session(2, explore=True, seed=8)
    for step in range(9):
        first.act(states_of(step, 2), np.ones(2, np.float32))
    first.begin(np.array([False, True]))
    other.restore(first.component())
    for step in range(9, 12):
        rewards = np.full(2, step, np.float32)
        np.testing.assert_array_equal(
            first.act(states_of(step, 2), rewards), other.act(states_of(step, 2), rewards)
        )
        np.testing.assert_array_equal(first.memory, other.memory)
    with pytest.raises(AgentError, match=r"before of the session .* \(2, 2\), this one has \(3, 2\)"):
        agent.session(3).restore(first.component())


@both
def test_bands_are_remembered_as_codes(kind: str) -> None:
    hyper = KINDS[kind].model_copy(update={"action_bands": (0.0, 0.3, 1.0)})
    agent = strengthen(RDPG(hyper, STATE_DIM, 68, seed=0))
    session = agent.session(2)
    actions = session.act(states_of(0, 2))
    assert actions.shape == (2, 68)
    session.act(states_of(1, 2), np.zeros(2, np.float32))
    np.testing.assert_allclose(agent.basis.expand(session.memory[:, :3]), actions, atol=1e-5)


@both
def test_evaluation_drives_with_its_memory(kind: str) -> None:
    agent = strengthen(agent_of(kind))
    policy, session = AgentPolicy(agent), agent.session(4)
    policy.begin(4)
    for step in range(6):
        rewards = None if step == 0 else np.full(4, step, np.float32)
        states = states_of(step, 4)
        np.testing.assert_array_equal(policy(states, rewards), session.act(states, rewards))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: s.act(states_of(0, 3)), r"\(3, 3\), a session in 2 places"),
        (lambda s: s.act(states_of(0, 2), np.ones(3)), r"rewards have shape \(3,\), a session in 2 places"),
        (
            lambda s: s.act(states_of(0, 2), np.array([1, np.nan])),
            "rewards hold 1 values that are not finite",
        ),
        (lambda s: s.act(np.full((2, STATE_DIM), np.nan)), "6 values that are not finite"),
        (lambda s: s.carried_out(np.ones((2, 3))), r"shape \(2, 3\), expected \(2, 2\) finite"),
        (lambda s: s.carried_out(np.full((2, ACTION_DIM), np.inf)), "finite numbers"),
    ],
)
def test_what_cannot_be_is_refused_and_not_remembered(call: Any, words: str) -> None:
    agent = strengthen(agent_of("lstm"))
    session = agent.session(2)
    session.act(states_of(0, 2))
    before = session.component()
    with pytest.raises(AgentError, match=words):
        call(session)
    after = session.component()
    assert after.values == before.values
    for name, value in before.tensors.items():
        assert torch.equal(after.tensors[name], value)
