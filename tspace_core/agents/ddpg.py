"""Deep deterministic policy gradient."""

from collections.abc import Mapping
from math import isfinite
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tspace_core.agents.batch_check import checked_records, checked_shapes
from tspace_core.agents.checkpoint import Component
from tspace_core.agents.dense import ActorPass, CriticPass, Memory
from tspace_core.agents.dpg import DPG, Losses, Mode, components_of
from tspace_core.agents.flat import FlatAdam, FlatParameters
from tspace_core.agents.histories import tensor
from tspace_core.agents.networks import Actor, Critic
from tspace_core.agents.sources import Batch
from tspace_core.config import DDPGHyperparameters
from tspace_core.storage.replay import ReplayBatch

SATURATED = 0.99
"""An output of tanh beyond this has a slope under 0.02."""


class DDPG(DPG):
    """DDPG (Lillicrap et al. 2015, arXiv:1509.02971, low-dimensional case).

    Deviations from the paper:

    - Networks: actor 256-256 instead of 400-300; in the critic, state and action each pass layers of their
      own (16-32 and 32) before both are joined (256-256), instead of the action entering the second layer.
    - Learning rates 1e-3 (actor) and 2e-3 (critic) instead of 1e-4 and 1e-3; tau 0.005 instead of 0.001;
      batch 256 instead of 64. All of them are hyperparameters.
    - No weight decay on the critic (the paper: 1e-2).
    - No batch normalisation: states are normalised with a mean and deviation that are fixed before training
      and belong to the checkpoint, and are cut at 10 deviations.
    - The noise has an explicit time step (0.01) and so a smaller kick a step than the paper's unit step;
      actions with noise are clipped to [-1, 1].
    - ``train`` and ``update_target`` are separate calls, so that the caller decides when: offline, at an
      episode's end, or after each step of the environment, as the paper does.
    - In an environment (``gymnasium_run``) the first actions are random and nothing is learned from them yet,
      so that there are states to fit the normaliser with.
    - The actor may decide on fewer numbers than an action has (``action_bands``); recorded actions are then
      projected on those.
    - Values of next states are left out only at a true end, never at a time limit.
    - Rewards can be scaled by a constant, and the actor can be held near zero (``code_penalty``).

    Gradients are computed by hand (``dense``), the same as autograd's. A CPU agent: thread counts are the
    caller's business and never changed.
    """

    name: ClassVar[str] = "ddpg"
    hyper_class = DDPGHyperparameters
    policy_components: ClassVar[tuple[str, ...]] = ("actor", "target_actor", "normaliser")
    hyper: DDPGHyperparameters

    def __init__(
        self,
        hyper: DDPGHyperparameters,
        state_dim: int,
        action_dim: int,
        *,
        seed: int | None = None,
        mode: Mode = "train",
    ) -> None:
        """See ``DPG``."""
        super().__init__(hyper, state_dim, action_dim, seed=seed, mode=mode)
        size = self.basis.size
        weights = torch.Generator().manual_seed(self.seed)
        critic_hidden = (hyper.critic_state_hidden, hyper.critic_action_hidden, hyper.critic_joint_hidden)
        self.actor = Actor(state_dim, size, hyper.actor_hidden, weights)
        self.critic = Critic(state_dim, size, critic_hidden, weights)
        self.target_actor = Actor(state_dim, size, hyper.actor_hidden, weights)
        self.target_critic = Critic(state_dim, size, critic_hidden, weights)
        networks = (self.actor, self.critic, self.target_actor, self.target_critic)
        self._actor, self._critic, self._target_actor, self._target_critic = map(FlatParameters, networks)
        self._target_actor.copy(self._actor)
        self._target_critic.copy(self._critic)
        self._actor_adam = FlatAdam(self._actor, hyper.actor_learning_rate)
        self._critic_adam = FlatAdam(self._critic, hyper.critic_learning_rate)
        self._workspace: _Workspace | None = None

    def codes(self, states: NDArray[np.float32], *, target: bool = False) -> NDArray[np.float32]:
        """The policy's codes without noise, or the target policy's: (n, state_dim) to (n, basis.size)."""
        actor = self.target_actor if target else self.actor
        with torch.no_grad():
            output: Tensor = actor(self.normaliser(tensor(states)))
        found: NDArray[np.float32] = output.numpy()
        return found

    def train(self, batch: Batch) -> Losses:
        """One update: the critic towards ``r + gamma * (1 - terminal) * Q'(s', mu'(s'))``, then the actor.

        Args:
            batch: Records in physical units; any number of them.

        Raises:
            AgentError: in mode ``infer``; a field has a wrong shape or values that are not finite (nothing is
                changed then); or a loss is not finite, that is, training has diverged.
        """
        self._require_training("train")
        known = self.name, self.state_dim, self.action_dim
        records = checked_shapes(batch, *known)
        size = len(records.rewards)
        if self._workspace is None or self._workspace.size != size:
            self._workspace = _Workspace(self, size)
        if not _surely_finite(records):
            checked_records(records, *known)
        with torch.no_grad():
            losses = self._update(self._workspace, records)
        self.updates += 1
        return losses

    def _update(self, work: "_Workspace", batch: ReplayBatch) -> Losses:
        states = self.normaliser.apply(tensor(batch.states), work.states)
        actions = work.actions.copy_(tensor(self.basis.project(batch.actions)))
        targets = self._targets(work, batch)

        values = work.critic.forward(states, actions).squeeze(1)
        errors = values - targets
        critic_loss = self.require_finite(float(errors.dot(errors)) / work.size, "critic loss")
        mean_q = float(values.mean())
        torch.mul(errors, 2.0 / work.size, out=work.critic.gradient.squeeze(1))
        work.critic.backward()
        self._reduced(self._critic)
        self._critic_adam.step()

        chosen = work.actor.forward(states)
        actor_loss = self.require_finite(-float(work.critic.forward(states, chosen).mean()), "actor loss")
        saturated = _saturated(chosen)
        work.critic.gradient.fill_(-1.0 / work.size)
        work.critic.action_gradient(to=work.actor.gradient)
        if self.hyper.code_penalty:
            work.actor.gradient.add_(chosen, alpha=2.0 * self.hyper.code_penalty / work.size)
        work.actor.backward()
        self._reduced(self._actor)
        self._actor_adam.step()
        return Losses(critic_loss, actor_loss, mean_q, saturated)

    def _targets(self, work: "_Workspace", batch: ReplayBatch) -> Tensor:
        states = self.normaliser.apply(tensor(batch.next_states), work.next_states)
        values = work.target_critic.forward(states, work.target_actor.forward(states)).squeeze(1)
        future = values * self.hyper.gamma * (1.0 - tensor(batch.terminals))
        return torch.add(future, tensor(batch.rewards), alpha=self.hyper.reward_scale)

    def update_target(self) -> None:
        """Both targets: ``target += tau * (live - target)``.

        Raises:
            AgentError: in mode ``infer``.
        """
        self._require_training("update_target")
        self._target_actor.approach(self._actor, self.hyper.tau)
        self._target_critic.approach(self._critic, self.hyper.tau)

    def _networks(self) -> Mapping[str, Component]:
        networks = {
            "actor": self._actor,
            "critic": self._critic,
            "target_actor": self._target_actor,
            "target_critic": self._target_critic,
        }
        return components_of(networks, {"actor": self._actor_adam, "critic": self._critic_adam})


class _Workspace:
    """Memory of one update for a batch size."""

    def __init__(self, agent: DDPG, size: int) -> None:
        self.size = size
        self.states = torch.empty(size, agent.state_dim)
        self.next_states = torch.empty(size, agent.state_dim)
        self.actions = torch.empty(size, agent.basis.size)
        memory = Memory()  # the targets are done with when the live networks begin
        self.actor = ActorPass(agent.actor, size, memory)
        self.critic = CriticPass(agent.critic, size, memory)
        self.target_actor = ActorPass(agent.target_actor, size, memory)
        self.target_critic = CriticPass(agent.target_critic, size, memory)


def _surely_finite(batch: ReplayBatch) -> bool:
    """Whether all values are finite, in a quarter of the time of looking at each; False: perhaps not.

    A sum of squares is finite only if all its parts are; of huge values it may be infinite nevertheless.
    """
    arrays = batch.states, batch.next_states, batch.actions, batch.rewards, batch.terminals
    return all(isfinite(float(np.vdot(array, array))) for array in arrays)


def _saturated(codes: Tensor) -> float:
    """Share of the codes beyond ``SATURATED``; by numpy, whose passes over so few numbers start sooner."""
    return np.count_nonzero(np.abs(codes.numpy()) > SATURATED) / codes.numel()
