"""Agents that answer many records at once: what they would have done, and what their critics think of it."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tspace_core.agents.checkpoint import Checkpoint
from tspace_core.agents.ddpg import DDPG
from tspace_core.agents.dense import ActorPass, CriticPass
from tspace_core.agents.histories import tensor
from tspace_core.agents.idql import IDQL
from tspace_core.agents.rdpg import RDPG

STEP = 1024
"""Records that pass the networks at a time: their activations stay in the cache."""
STEPS = 256
"""Successive records that pass a sequence model at a time."""


class Recorded(NamedTuple):
    """n records of episodes, one episode after the other."""

    states: NDArray[np.float32]
    """(n, state_dim), physical units."""
    actions: NDArray[np.float32]
    """(n, action_dim), as they took effect."""
    rewards: NDArray[np.float32]
    """(n,)"""
    begins: NDArray[np.bool_]
    """(n,), whether a record is the first of its episode; otherwise it follows the one before it, which may
    be the last of the call before."""

    def part(self, rows: slice) -> "Recorded":
        """Some of them, as views."""
        return Recorded(self.states[rows], self.actions[rows], self.rewards[rows], self.begins[rows])


class Values(NamedTuple):
    """What an agent says of n records."""

    actions: NDArray[np.float32]
    """(n, action_dim) proposals."""
    q_proposal: NDArray[np.float32]
    """(n,) values of the proposals."""
    q_behaviour: NDArray[np.float32]
    """(n,) values of the recorded actions."""

    @classmethod
    def empty(cls, count: int, action_dim: int) -> "Values":
        """Room for that many."""
        return cls(
            np.empty((count, action_dim), np.float32),
            np.empty(count, np.float32),
            np.empty(count, np.float32),
        )

    def part(self, rows: slice) -> "Values":
        """Some of them, as views."""
        return Values(*(values[rows] for values in self))


class Scorer(Protocol):
    """An agent that answers many records at once, without noise.

    One with a memory follows each episode as it was driven: what it remembers is what was recorded.
    """

    state_dim: int
    action_dim: int

    def __call__(self, records: Recorded, /) -> Values:
        """Values of any number of records, which follow those of the call before."""


class DDPGScorer:
    """Actor and critic of a DDPG checkpoint, with its normaliser."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        agent = DDPG.load(checkpoint.directory, mode="infer")
        take_critic(checkpoint, agent.critic)
        self.state_dim, self.action_dim = agent.state_dim, agent.action_dim
        self._agent = agent
        self._passes: dict[int, tuple[ActorPass, CriticPass]] = {}

    def __call__(self, records: Recorded, /) -> Values:
        """Values of any number of records, ``STEP`` at a time."""
        n = len(records.states)
        found = Values.empty(n, self.action_dim)
        with torch.inference_mode():
            for first in range(0, n, STEP):
                part = slice(first, min(first + STEP, n))
                self._part(records.states[part], records.actions[part], found.part(part))
        return found

    def _part(self, states: NDArray[np.float32], actions: NDArray[np.float32], out: Values) -> None:
        n, basis = len(states), self._agent.basis
        size = STEP if n == STEP else max(16, 1 << (n - 1).bit_length())
        actor, critic = self._passes.get(size) or self._new_passes(size)
        normalised = torch.zeros(size, self.state_dim)
        behaviour = torch.zeros(size, basis.size)
        self._agent.normaliser.apply(tensor(states), normalised[:n])
        behaviour[:n] = tensor(basis.project(actions))
        chosen = actor.forward(normalised)
        out.actions[:] = basis.expand(chosen[:n].numpy())
        out.q_proposal[:] = critic.forward(normalised, chosen)[:n, 0].numpy()
        out.q_behaviour[:] = critic.forward(normalised, behaviour)[:n, 0].numpy()

    def _new_passes(self, size: int) -> tuple[ActorPass, CriticPass]:
        self._passes[size] = ActorPass(self._agent.actor, size), CriticPass(self._agent.critic, size)
        return self._passes[size]


class RDPGScorer:
    """Actor and critic of an RDPG checkpoint along the histories that were driven."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        agent = RDPG.load(checkpoint.directory, mode="infer")
        take_critic(checkpoint, agent.critic)
        self.state_dim, self.action_dim = agent.state_dim, agent.action_dim
        self._agent = agent
        self._forget()

    def _forget(self) -> None:
        self._code = np.zeros((1, self._agent.basis.size), np.float32)
        self._reward = np.zeros(1, np.float32)
        self._memories: tuple[Tensor | None, Tensor | None] = (None, None)

    def __call__(self, records: Recorded, /) -> Values:
        """Values of successive records, ``STEPS`` of one episode at a time."""
        n = len(records.states)
        found = Values.empty(n, self.action_dim)
        starts = np.union1d(np.flatnonzero(records.begins), [0])
        with torch.inference_mode():
            for start, stop in zip(starts, [*starts[1:], n], strict=True):
                if records.begins[start]:
                    self._forget()
                for first in range(start, stop, STEPS):
                    rows = slice(first, min(first + STEPS, stop))
                    self._part(records.part(rows), found.part(rows))
        return found

    def _part(self, records: Recorded, out: Values) -> None:
        agent = self._agent
        behaviour = np.asarray(agent.basis.project(records.actions), np.float32)
        codes, rewards = (
            np.concatenate(pair)[:-1] for pair in ((self._code, behaviour), (self._reward, records.rewards))
        )
        inputs = agent._inputs(tensor(codes), tensor(rewards), tensor(records.states))[None]
        chosen, actor_memory = agent.actor(inputs, self._memories[0])
        features, critic_memory = agent.critic.model.unroll(inputs, self._memories[1])
        out.actions[:] = agent.basis.expand(chosen[0].numpy())
        for values, judged in ((out.q_proposal, chosen), (out.q_behaviour, tensor(behaviour)[None])):
            values[:] = agent.critic.value(features, inputs, judged)[0].numpy()
        self._code, self._reward = behaviour[-1:], records.rewards[-1:]
        self._memories = actor_memory, critic_memory


class IDQLScorer:
    """What an IDQL checkpoint acts by. It draws ``samples`` actions a record: a hundred records a second."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._agent = IDQL.load(checkpoint.directory, mode="infer")
        self.state_dim, self.action_dim = self._agent.state_dim, self._agent.action_dim

    def __call__(self, records: Recorded, /) -> Values:
        """Values of any number of records, ``STEP`` at a time."""
        n = len(records.states)
        found = Values.empty(n, self.action_dim)
        for first in range(0, n, STEP):
            rows = slice(first, min(first + STEP, n))
            self._part(records.states[rows], records.actions[rows], found.part(rows))
        return found

    def _part(self, states: NDArray[np.float32], actions: NDArray[np.float32], out: Values) -> None:
        agent = self._agent
        codes = agent.codes(np.ascontiguousarray(states))
        out.actions[:] = agent.basis.expand(codes)
        with torch.inference_mode():
            normalised = agent.normaliser(tensor(states))
            judged = ((out.q_proposal, codes), (out.q_behaviour, agent.basis.project(actions)))
            for values, chosen in judged:
                values[:] = agent.target_critic(normalised, tensor(chosen)).amin(dim=0).numpy()


SCORERS: dict[str, Callable[[Checkpoint], Scorer]] = {
    DDPG.name: DDPGScorer,
    RDPG.name: RDPGScorer,
    IDQL.name: IDQLScorer,
}
"""By the agent's name in its checkpoints; a new agent is one line here."""


def take_critic(checkpoint: Checkpoint, critic: nn.Module) -> None:
    """Load the critic of a checkpoint, which an agent in mode ``infer`` does not.

    Raises:
        CheckpointError: it is missing, because the checkpoint holds the policy only, or damaged.
    """
    found = checkpoint.component("critic").tensors
    weights = {name: weight.data for name, weight in critic.named_parameters()}
    checkpoint.check_shapes("critic", found, weights)
    for name, weight in weights.items():
        weight.copy_(found[name])
