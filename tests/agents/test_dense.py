"""The hand-written passes give autograd's gradients."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.agents.batches import random_batch
from tspace_core.agents.ddpg import DDPG
from tspace_core.agents.dense import ActorPass, CriticPass, Memory
from tspace_core.agents.flat import FlatParameters
from tspace_core.agents.networks import Actor, Critic
from tspace_core.config import DDPGHyperparameters
from tspace_core.storage.replay import ReplayBatch

sizes = st.integers(1, 9)
stacks = st.lists(sizes, min_size=1, max_size=3)


def gradients(flat: FlatParameters) -> dict[str, torch.Tensor]:
    assert flat.values.grad is not None
    return {name: value.clone() for name, value in flat.named(flat.values.grad).items()}


@settings(max_examples=40, deadline=None)
@given(batch=sizes, inputs=sizes, outputs=sizes, hidden=stacks, seed=st.integers(0, 2**31))
def test_actor_gradients_are_those_of_autograd(
    batch: int, inputs: int, outputs: int, hidden: list[int], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    actor = Actor(inputs, outputs, hidden, generator).double()
    states = torch.randn(batch, inputs, generator=generator, dtype=torch.float64)
    weights = torch.randn(batch, outputs, generator=generator, dtype=torch.float64)
    loss = (actor(states) * weights).sum()
    expected = torch.autograd.grad(loss, list(actor.parameters()))
    flat = FlatParameters(actor)
    with torch.no_grad():
        work = ActorPass(actor, batch)
        torch.testing.assert_close(work.forward(states), actor(states), rtol=1e-12, atol=1e-14)
        work.gradient.copy_(weights)
        work.backward()
    for found, value in zip(gradients(flat).values(), expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-10, atol=1e-13)


@settings(max_examples=40, deadline=None)
@given(batch=sizes, states=sizes, actions=sizes, a=stacks, b=stacks, c=stacks, seed=st.integers(0, 2**31))
def test_critic_gradients_are_those_of_autograd(
    batch: int, states: int, actions: int, a: list[int], b: list[int], c: list[int], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    critic = Critic(states, actions, (a, b, c), generator).double()
    state = torch.randn(batch, states, generator=generator, dtype=torch.float64)
    action = torch.randn(batch, actions, generator=generator, dtype=torch.float64).requires_grad_()
    weights = torch.randn(batch, 1, generator=generator, dtype=torch.float64)
    loss = (critic(state, action) * weights).sum()
    *expected, by_action = torch.autograd.grad(loss, [*critic.parameters(), action])
    flat = FlatParameters(critic)
    with torch.no_grad():
        work = CriticPass(critic, batch)
        values = work.forward(state, action)
        torch.testing.assert_close(values, critic(state, action), rtol=1e-12, atol=1e-14)
        work.gradient.copy_(weights)
        work.backward()
        for found, value in zip(gradients(flat).values(), expected, strict=True):
            torch.testing.assert_close(found, value, rtol=1e-10, atol=1e-13)
        before = gradients(flat)
        work.forward(state, action)
        work.gradient.copy_(weights)
        to = torch.empty_like(action)
        work.action_gradient(to)
    torch.testing.assert_close(to, by_action, rtol=1e-10, atol=1e-13)
    for name, value in gradients(flat).items():
        assert torch.equal(value, before[name]), f"{name}: the actor's step changed a gradient of the critic"


@settings(max_examples=40, deadline=None)
@given(
    batch=sizes, states=sizes, actions=sizes, a=stacks, b=stacks, c=stacks, d=stacks, seed=st.integers(0, 99)
)
def test_passes_in_one_memory_disturb_each_other_in_no_step_of_an_update(
    batch: int, states: int, actions: int, a: list[int], b: list[int], c: list[int], d: list[int], seed: int
) -> None:
    """Small sizes, so that layers of different networks often have the same shape."""
    generator = torch.Generator().manual_seed(seed)
    actors = [Actor(states, actions, d, generator).double() for _ in range(2)]
    critics = [Critic(states, actions, (a, b, c), generator).double() for _ in range(2)]
    state, following = (torch.randn(batch, states, generator=generator, dtype=torch.float64) for _ in "12")
    action = torch.rand(batch, actions, generator=generator, dtype=torch.float64)
    targets = critics[1](following, actors[1](following)).detach()
    by_critic = torch.autograd.grad(
        (critics[0](state, action) - targets).square().sum(), list(critics[0].parameters())
    )
    by_actor = torch.autograd.grad(critics[0](state, actors[0](state)).sum(), list(actors[0].parameters()))
    flats = FlatParameters(actors[0]), FlatParameters(critics[0])
    memory = Memory()
    with torch.no_grad():
        actor, target_actor = (ActorPass(each, batch, memory) for each in actors)
        critic, target_critic = (CriticPass(each, batch, memory) for each in critics)
        ahead = target_critic.forward(following, target_actor.forward(following)).clone()
        critic.gradient.copy_(2.0 * (critic.forward(state, action) - ahead))
        critic.backward()
        critic.forward(state, actor.forward(state))
        critic.gradient.fill_(1.0)
        critic.action_gradient(to=actor.gradient)
        actor.backward()
    for flat, expected in zip(flats, (by_actor, by_critic), strict=True):
        for found, value in zip(gradients(flat).values(), expected, strict=True):
            torch.testing.assert_close(found, value, rtol=1e-9, atol=1e-12)


class PlainDDPG:
    """The same algorithm written with autograd, torch's plain Adam and one tensor a weight."""

    def __init__(self, agent: DDPG) -> None:
        self.agent = agent
        self.hyper = agent.hyper
        hidden = (
            self.hyper.critic_state_hidden,
            self.hyper.critic_action_hidden,
            self.hyper.critic_joint_hidden,
        )
        dims = (agent.state_dim, agent.action_dim)

        def twin(build: Callable[[], torch.nn.Module], source: torch.nn.Module) -> torch.nn.Module:
            network = build()
            network.load_state_dict(source.state_dict())
            return network

        def actor() -> Actor:
            return Actor(*dims, self.hyper.actor_hidden, torch.Generator())

        def critic() -> Critic:
            return Critic(*dims, hidden, torch.Generator())

        self.actor, self.target_actor = twin(actor, agent.actor), twin(actor, agent.target_actor)
        self.critic, self.target_critic = twin(critic, agent.critic), twin(critic, agent.target_critic)
        self.actor_adam = torch.optim.Adam(
            self.actor.parameters(), self.hyper.actor_learning_rate, foreach=False
        )
        self.critic_adam = torch.optim.Adam(
            self.critic.parameters(), self.hyper.critic_learning_rate, foreach=False
        )

    def train(self, batch: ReplayBatch) -> tuple[float, float]:
        dtype = torch.get_default_dtype()
        states, actions, rewards, following, terminals = (torch.from_numpy(x).to(dtype) for x in batch[:5])
        with torch.no_grad():
            future = self.target_critic(following, self.target_actor(following))[:, 0]
            targets = self.hyper.reward_scale * rewards + self.hyper.gamma * (1 - terminals) * future
        critic_loss = torch.nn.functional.mse_loss(self.critic(states, actions)[:, 0], targets)
        self.critic_adam.zero_grad()
        torch.autograd.backward(critic_loss)
        self.critic_adam.step()
        actor_loss = -self.critic(states, self.actor(states)).mean()
        self.actor_adam.zero_grad()
        torch.autograd.backward(actor_loss)
        self.actor_adam.step()
        return float(critic_loss.detach()), float(actor_loss.detach())

    def update_target(self) -> None:
        with torch.no_grad():
            for target, live in ((self.target_actor, self.actor), (self.target_critic, self.critic)):
                for old, new in zip(target.parameters(), live.parameters(), strict=True):
                    old.copy_((1 - self.hyper.tau) * old + self.hyper.tau * new)


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def train_both(updates: int, reward_scale: float, tolerance: float) -> None:
    agent = DDPG(DDPGHyperparameters(reward_scale=reward_scale), 90, 68, seed=4)
    plain = PlainDDPG(agent)
    generator = np.random.default_rng(11)
    for _ in range(updates):
        batch = random_batch(generator, 64, 90, 68)
        losses = agent.train(batch)
        critic_loss, actor_loss = plain.train(batch)
        agent.update_target()
        plain.update_target()
        assert losses.critic == pytest.approx(critic_loss, rel=tolerance, abs=tolerance)
        assert losses.actor == pytest.approx(actor_loss, rel=tolerance, abs=tolerance)
    for ours, theirs in (
        (agent.actor, plain.actor),
        (agent.critic, plain.critic),
        (agent.target_actor, plain.target_actor),
        (agent.target_critic, plain.target_critic),
    ):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a.detach(), b.detach(), rtol=0, atol=tolerance)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("reward_scale", [1.0, 0.1])
def test_a_hundred_updates_agree_with_autograd(reward_scale: float) -> None:
    train_both(100, reward_scale, 1e-9)


def test_updates_in_single_precision_agree_with_autograd() -> None:
    # Few of them: Adam divides tiny gradients by their own size, so rounding grows from update to update.
    train_both(20, 1.0, 1e-5)
