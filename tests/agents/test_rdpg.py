"""RDPG does what its formulas say on ragged sequences, and learns what needs a memory."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from tests.agents.recurrent import ACTION_DIM, KINDS, STATE_DIM, agent_of, sequences, strengthen
from tspace_core.agents import RDPG
from tspace_core.agents.mixed_replay import LiveReplay
from tspace_core.agents.sequence_models import SequenceModel
from tspace_core.config import RDPGHyperparameters
from tspace_core.storage.replay import ReplayBatch
from tspace_core.storage.replay_sequences import SequenceBatch

both = pytest.mark.parametrize("kind", KINDS)


def gradients(agent: RDPG, batch: SequenceBatch) -> list[Tensor]:
    """Those of critic and actor of one update, before they are cut."""
    found: list[Tensor] = []
    agent.reduce = lambda gradient: found.append(gradient.clone())
    agent.train(batch)
    return found


class ByHand:
    """Losses of a batch, one sequence and one step at a time, in plain words."""

    def __init__(self, agent: RDPG, batch: SequenceBatch, *, cut: bool = True) -> None:
        self.agent, self.batch, self.cut = agent, batch, cut
        self.critic_loss = self.actor_loss = self.penalty = torch.zeros(())

    def inputs(self, i: int, t: int) -> Tensor:
        action, reward = np.zeros(ACTION_DIM, np.float32), np.float32(0)
        if t:
            action, reward = self.batch.actions[i, t - 1], self.batch.rewards[i, t - 1]
        elif self.batch.memory is not None:
            action, reward = self.batch.memory[i, :ACTION_DIM], self.batch.memory[i, ACTION_DIM]
        scaled = self.agent.hyper.reward_scale * float(reward)
        squashed = np.float32(np.sign(scaled) * np.log1p(abs(scaled)))
        return torch.from_numpy(
            np.concatenate([action, [squashed], self.batch.states[i, t]]).astype(np.float32)
        )

    def features(self, model: SequenceModel, i: int, first: int, count: int, *, stored: bool) -> list[Tensor]:
        """Of the steps ``first`` to ``count``, the last included; the steps before only warm up."""
        memory = None
        if stored and self.batch.memory is not None and model.stored_dim:
            memory = torch.from_numpy(self.batch.memory[i : i + 1, ACTION_DIM + 1 :])
        found = []
        for t in range(count + 1):
            if t == first and memory is not None and self.cut:
                memory = memory.detach()
            output, memory = model.unroll(self.inputs(i, t)[None, None], memory)
            found.append(output[0, 0])
        return found

    def run(self) -> "ByHand":
        agent, hyper, batch = self.agent, self.agent.hyper, self.batch
        critic_terms, actor_terms, penalties = [], [], []
        for i in range(len(batch.mask)):
            begins = batch.begins is not None and batch.begins[i] == 1
            first = 0 if begins else hyper.burn_in
            last = min(int(batch.mask[i].sum()), first + batch.mask.shape[1] - hyper.burn_in)
            if last <= first:
                continue
            seen = {
                name: self.features(getattr(agent, name).model, i, first, last, stored="actor" in name)
                for name in ("actor", "critic", "target_actor", "target_critic")
            }
            for t in range(first, last):
                action = torch.from_numpy(batch.actions[i, t])
                with torch.no_grad():
                    after = self.inputs(i, t + 1)
                    following = torch.tanh(self.decide("target_actor", seen, after, t + 1))
                    future = self.judge("target_critic", seen, after, following, t + 1)
                    left = hyper.gamma * (1 - float(batch.terminals[i, t]))
                    target = hyper.reward_scale * float(batch.rewards[i, t]) + left * future
                now = self.inputs(i, t)
                critic_terms.append((self.judge("critic", seen, now, action, t) - target) ** 2)
                chosen = self.decide("actor", seen, now, t)
                detached = {"critic": [one.detach() for one in seen["critic"]]}
                actor_terms.append(-self.judge("critic", detached, now, torch.tanh(chosen), t))
                penalties.append((chosen.abs() - 2.0).clamp(min=0).square().sum())
        self.critic_loss, self.actor_loss = torch.stack(critic_terms).mean(), torch.stack(actor_terms).mean()
        self.penalty = hyper.saturation_penalty * torch.stack(penalties).mean()
        return self

    def decide(self, name: str, seen: dict[str, list[Tensor]], inputs: Tensor, t: int) -> Tensor:
        network = getattr(self.agent, name)
        hidden = torch.relu(network.hidden(torch.cat([seen[name][t], inputs])))
        raw: Tensor = network.output(hidden)
        return raw

    def judge(
        self, name: str, seen: dict[str, list[Tensor]], inputs: Tensor, action: Tensor, t: int
    ) -> Tensor:
        network = getattr(self.agent, name)
        hidden = torch.relu(network.hidden(torch.cat([seen[name][t], inputs, action])))
        value: Tensor = network.output(hidden)[0]
        return value


def flat_gradient(agent: RDPG, loss: Tensor, which: str) -> Tensor:
    flat = getattr(agent, f"_{which}")
    flat.values.grad.zero_()
    loss.backward()  # type: ignore[no-untyped-call]
    found: Tensor = flat.values.grad.clone()
    return found


@both
@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("begins", [None, [1, 0, 0, 1, 0]])
def test_losses_and_gradients_are_those_computed_by_hand(
    kind: str, begins: list[int] | None, *, memory: bool
) -> None:
    agent = strengthen(agent_of(kind, reward_scale=0.5, critic_learning_rate=1e-12, saturation_penalty=0.3))
    with torch.no_grad():
        agent.actor.output.weight.mul_(4.0)
    agent.fit_normaliser(np.zeros(STATE_DIM), np.ones(STATE_DIM))
    steps = agent.hyper.burn_in + agent.hyper.length
    batch = sequences(agent, [steps, steps, 7, 2, 5], steps, begins=begins, memory=memory)
    if memory and batch.memory is not None and begins:
        batch.memory[np.array(begins) == 1] = 0.0
    hand = ByHand(agent, batch).run()
    assert hand.penalty > 0
    critic = flat_gradient(agent, hand.critic_loss, "critic")
    actor = flat_gradient(agent, hand.actor_loss + hand.penalty, "actor")
    found: list[Tensor] = []
    agent.reduce = lambda gradient: found.append(gradient.clone())
    losses = agent.train(batch)
    assert losses.critic == pytest.approx(hand.critic_loss.item(), rel=1e-4)
    assert losses.actor == pytest.approx(hand.actor_loss.item(), rel=1e-4, abs=1e-6)
    torch.testing.assert_close(found[0], critic, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[1], actor, atol=1e-5, rtol=1e-4)
    whole = ByHand(agent, batch, cut=False).run()
    differs = (flat_gradient(agent, whole.critic_loss, "critic") - critic).abs().max()
    assert differs > 1e-4, "with gradients through the burn-in it would be another one"


def padded(batch: SequenceBatch, more: int, garbage: float) -> SequenceBatch:
    """The same records, with more padding and other numbers in it."""
    widths = {"states": 3, "actions": 3}
    longer = {
        name: np.pad(getattr(batch, name), [(0, 0), (0, more), (0, 0)][: widths.get(name, 2)])
        for name in ("states", "actions", "rewards", "terminals", "mask", "first_rows")
    }
    empty = longer["mask"] == 0
    for name in ("actions", "rewards"):
        longer[name][empty] = garbage
    counts = longer["mask"].sum(axis=1).astype(int)
    longer["states"][np.arange(longer["states"].shape[1]) > counts[:, None]] = garbage
    return batch._replace(**longer)


@both
@settings(max_examples=10, deadline=None)
@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    more=st.integers(0, 5),
    seed=st.integers(0, 1000),
)
def test_padding_changes_neither_losses_nor_gradients(
    kind: str, counts: list[int], more: int, seed: int
) -> None:
    agent = strengthen(agent_of(kind))
    begins = [1] * len(counts)
    batch = sequences(agent, counts, 12, seed=seed, begins=begins)
    other = padded(batch, more, 100.0)
    one, two = (strengthen(agent_of(kind)) for _ in range(2))
    # What is learned from ends after length records: the same with more padding only if none is cut off.
    one.hyper = two.hyper = agent.hyper.model_copy(update={"burn_in": 0})
    for ours, theirs in zip(gradients(one, batch), gradients(two, other), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


@both
def test_sequences_of_a_batch_do_not_meddle(kind: str) -> None:
    """The gradient of two sequences is the mean of theirs, weighted with their records."""
    agent = agent_of(kind)
    steps = agent.hyper.burn_in + agent.hyper.length
    counts = [steps, agent.hyper.burn_in + 2]
    batch = sequences(agent, counts, steps, begins=[0, 0], memory=True)

    def part(rows: slice) -> Tensor:
        fields = [None if field is None else field[rows] for field in batch]
        return gradients(strengthen(agent_of(kind)), SequenceBatch(*fields))[0]  # type: ignore[arg-type]

    length = agent.hyper.length
    expected = (length * part(slice(0, 1)) + 2 * part(slice(1, 2))) / (length + 2)
    torch.testing.assert_close(part(slice(0, 2)), expected, atol=2e-5, rtol=1e-4)


def test_the_stored_state_is_used() -> None:
    agent = strengthen(agent_of("lstm"))
    batch = sequences(agent, [9, 9], 9, memory=True)
    assert batch.memory is not None
    base = strengthen(agent_of("lstm")).train(batch)
    changed = batch.memory.copy()
    changed[:, ACTION_DIM + 1 :] += 0.5
    other = strengthen(agent_of("lstm")).train(batch._replace(memory=changed))
    assert other.critic != base.critic, "the target actor's"
    assert other.actor != base.actor, "the actor's"
    assert other.mean_q == base.mean_q, "the critic's own memory begins with zeros"


@both
def test_a_sequence_that_begins_its_episode_is_learned_from_its_first_record(kind: str) -> None:
    agent = strengthen(agent_of(kind))
    short = sequences(agent, [agent.hyper.burn_in], agent.hyper.burn_in + 1, begins=[1])
    first = short.rewards.copy()
    first[0, 0] += 1.0
    critic = gradients(strengthen(agent_of(kind)), short)[0]
    other = gradients(strengthen(agent_of(kind)), short._replace(rewards=first))[0]
    assert not torch.allclose(critic, other)


@both
def test_long_gradients_are_cut(kind: str) -> None:
    batch = sequences(agent_of(kind), [10, 10], 10)
    steps = []
    for limit in (1e9, 1e-9):
        agent = strengthen(agent_of(kind, gradient_limit=limit))
        flat = agent._critic.values
        agent.train(batch)
        assert flat.grad is not None
        steps.append(float(torch.linalg.vector_norm(flat.grad)))
    assert steps[0] > 1e-3
    assert steps[1] == pytest.approx(1e-9, rel=1e-4)


RECALL = RDPGHyperparameters(
    width=16, layers=1, heads=2, context=4, length=3, burn_in=0, batch_size=48, gamma=0.0,
    actor_learning_rate=5e-4, critic_learning_rate=1e-2,
)  # fmt: skip


SHOWN = 2
"""Steps between the sign and the question."""


def questions(signs: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, SHOWN + 2, 2) states: the sign at the first step, later a one where the answer is asked for."""
    states = np.zeros((len(signs), SHOWN + 2, 2), np.float32)
    states[:, 0, 0] = signs
    states[:, SHOWN, 1] = 1.0
    return states


@both
def test_it_learns_to_remember_the_first_observation(kind: str) -> None:
    """A sign is shown once; the action some steps later is worth its product with it, nothing else counts."""
    agent = RDPG(RECALL.model_copy(update={"sequence_model": kind}), 2, 1, seed=1)
    generator = np.random.default_rng(0)
    live = LiveReplay(2, 1, 4000, agent.memory_dim)
    for states in questions(generator.choice(np.array([-1, 1], np.float32), 500)):
        actions = generator.uniform(-1, 1, (SHOWN + 1, 1)).astype(np.float32)
        rewards = np.where(states[:-1, 1] == 1, actions[:, 0] * states[0, 0], 0)
        nothing = np.zeros(SHOWN + 1, np.float32)
        live.end_episode()
        live.add(ReplayBatch(states[:-1], actions, rewards.astype(np.float32), states[1:], nothing, nothing))
    for _ in range(250):
        agent.train(agent.draw(live, generator))
        agent.update_target()
    signs = np.array([-1, 1], np.float32)
    session, rewards = agent.session(2), np.zeros(2, np.float32)
    for step in range(SHOWN + 1):
        answers = session.act(questions(signs)[:, step], rewards)[:, 0]
    assert answers[1] - answers[0] > 1.0, f"{answers}; without a memory both are equal"
