"""Recurrent deterministic policy gradient."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tspace_core.agents.checkpoint import Component
from tspace_core.agents.dpg import DPG, Losses, Mode, components_of
from tspace_core.agents.flat import FlatAdam, FlatParameters
from tspace_core.agents.histories import Histories, Remembered, check_sequences, histories_of, tensor
from tspace_core.agents.recurrent_networks import RecurrentActor, RecurrentCritic
from tspace_core.agents.recurrent_session import RecurrentSession
from tspace_core.agents.sequence_models import SequenceModel
from tspace_core.agents.sources import Batch, RecordSource, sequences_of
from tspace_core.config import RDPGHyperparameters
from tspace_core.errors import AgentError, DivergedError
from tspace_core.storage.replay_sequences import SequenceBatch

SATURATED = 0.99
"""An output of tanh beyond this has a slope under 0.02."""
FREE = 2.0
"""What enters the tanh of an output is penalised beyond this; there the output is 0.964."""


class RDPG(DPG):
    """RDPG (Heess, Hunt, Lillicrap, Silver 2015, arXiv:1512.04455) with an LSTM or a causal Transformer.

    Actor and critic are networks of their own over the history. Their input of step t is the code of the
    action t-1, the reward that it earned, and the state t, with zeros for the first two at an episode's
    begin.

    Deviations from the paper:

    - Back-propagation through time is cut off at ``length`` records (k1 = k2 = ``length``) instead of whole
      episodes. Before them ``burn_in`` records only bring the memory up to date, without gradients
      (Kapturowski et al. 2019, R2D2); sequences overlap by half. A sequence that begins its episode has no
      burn-in, so that an episode's first steps are learned as well.
    - The actor's memory begins as it was when the record was made (stored state), where the replay holds it;
      else, and always in the critic, with zeros. A Transformer's memory is never stored: it is long, and
      ``burn_in`` of at least ``context - 1`` gives it back exactly. With each record of either model the
      action and reward before it are stored, so the first input is exact.
    - The reward is an input beside action and observation. It is scaled as for the critic (``reward_scale``)
      and then ``sign(r) * log(1 + abs(r))``: in Wh it reaches hundreds, and normalised states are around 1.
    - An input layer (LSTM: with ReLU) and one layer of ReLU after the sequence model, which sees the present
      input beside the features; in the critic the present action enters there (Ni et al. 2022). So the
      critic's features do not hang on the action that is judged, and the actor's gradient flows through the
      present action alone, as in the paper's formula.
    - The actor is penalised for outputs whose tanh is saturated (``saturation_penalty`` times the square of
      what enters it beyond 2): while the critic does not know the history's worth yet, it would drive them
      to a limit where they no longer learn.
    - Gradients longer than ``gradient_limit`` are cut to it.
    - The causal Transformer is not in the paper; see ``sequence_models``.
    - Learning rates, tau, noise with a time step, clipping to [-1, 1], fixed normalisation, scaled rewards
      and the separate calls of ``train`` and ``update_target`` are as in ``DDPG``, and values of next states
      are left out only at a true end.

    Losses are sums over records, padding left out, divided by the number of records (the mask's sum). A CPU
    agent: thread counts are the caller's business and never changed.
    """

    name: ClassVar[str] = "rdpg"
    hyper_class = RDPGHyperparameters
    policy_components: ClassVar[tuple[str, ...]] = ("actor", "target_actor", "normaliser")
    hyper: RDPGHyperparameters

    def __init__(
        self,
        hyper: RDPGHyperparameters,
        state_dim: int,
        action_dim: int,
        *,
        seed: int | None = None,
        mode: Mode = "train",
    ) -> None:
        """See ``DPG``."""
        super().__init__(hyper, state_dim, action_dim, seed=seed, mode=mode)
        size = self.basis.size
        inputs = size + 1 + state_dim
        weights = torch.Generator().manual_seed(self.seed)
        self.actor = RecurrentActor(inputs, size, hyper, weights)
        self.critic = RecurrentCritic(inputs, size, hyper, weights)
        self.target_actor = RecurrentActor(inputs, size, hyper, weights)
        self.target_critic = RecurrentCritic(inputs, size, hyper, weights)
        networks = (self.actor, self.critic, self.target_actor, self.target_critic)
        self._actor, self._critic, self._target_actor, self._target_critic = map(FlatParameters, networks)
        self._target_actor.copy(self._actor)
        self._target_critic.copy(self._critic)
        self._actor_adam = FlatAdam(self._actor, hyper.actor_learning_rate)
        self._critic_adam = FlatAdam(self._critic, hyper.critic_learning_rate)
        self.memory_dim = size + 1 + self.actor.model.stored_dim

    def codes(self, states: NDArray[np.float32], *, target: bool = False) -> NDArray[np.float32]:
        """The policy's codes without noise at an episode's first step: (n, state_dim) to (n, basis.size)."""
        nothing = np.zeros((len(states), self.basis.size), np.float32)
        return self.step(states, nothing, np.zeros(len(states), np.float32), None, target=target)[0]

    @torch.no_grad()
    def step(
        self,
        states: NDArray[np.float32],
        codes: NDArray[np.float32],
        rewards: NDArray[np.float32],
        memory: Tensor | None,
        *,
        target: bool = False,
    ) -> tuple[NDArray[np.float32], Tensor]:
        """One step of the actor in n places.

        Args:
            states: (n, state_dim), physical units.
            codes: (n, basis.size) of the actions before.
            rewards: (n,) that they earned.
            memory: (n, actor.model.memory_dim); None: nothing.
            target: the target actor instead.

        Returns:
            Codes (n, basis.size) and the memory after this step.
        """
        actor = self.target_actor if target else self.actor
        inputs = self._inputs(tensor(codes), tensor(rewards), tensor(states))
        output, after = actor(inputs[:, None], memory)
        return output[:, 0].numpy(), after

    def session(self, count: int = 1, *, explore: bool = False, seed: int = 0) -> RecurrentSession:
        """What acts in ``count`` places step by step, and remembers."""
        return RecurrentSession(self, count, explore=explore, seed=seed)

    def draw(self, source: RecordSource, generator: np.random.Generator) -> Batch:
        """Sequences as ``train`` wants them.

        Raises:
            AgentError: the source is empty, or keeps records one by one.
        """
        hyper = self.hyper
        return sequences_of(source).sample_sequences(
            hyper.batch_size,
            hyper.length,
            generator,
            burn_in=hyper.burn_in,
            stride=hyper.sequence_stride,
        )

    def train(self, batch: Batch) -> Losses:
        """One update: the critic towards ``r + gamma * (1 - terminal) * Q'(h', mu'(h'))``, then the actor.

        Args:
            batch: Sequences in physical units; any number of them, longer than ``burn_in``.

        Raises:
            AgentError: in mode ``infer``; not sequences, a field with a wrong shape or values that are not
                finite, or no record to learn from. Nothing is changed then.
            DivergedError: a loss or gradient is not finite; that network is not changed then.
        """
        self._require_training("train")
        if not isinstance(batch, SequenceBatch):
            message = f"{self.name} learns from a SequenceBatch, got a {type(batch).__name__}; use draw"
            raise AgentError(message)
        check_sequences(batch, self.state_dim, self.action_dim, self.memory_dim)
        if batch.mask.shape[1] <= self.hyper.burn_in:
            message = (
                f"sequences of {batch.mask.shape[1]} records are no longer than burn_in, "
                f"{self.hyper.burn_in}; use draw"
            )
            raise AgentError(message)
        codes = np.ascontiguousarray(self.basis.project(batch.actions))
        remembered = None if batch.memory is None else self._split(tensor(batch.memory))
        losses = self._update(histories_of(batch, codes, self.hyper.burn_in, remembered, self._inputs))
        self.updates += 1
        return losses

    def _update(self, work: Histories) -> Losses:
        present = work.inputs[:, :-1]
        critic_memory = self._warmed(self.critic.model, work, None)
        targets = self._targets(work)

        self._critic.clear()
        values = self.critic(present, work.codes, critic_memory)
        loss = torch.sum(work.mask * torch.square(values - targets)) / work.records
        critic_loss = self.require_finite(loss.item(), "critic loss")
        mean_q = float(torch.sum(work.mask * values.detach()) / work.records)
        loss.backward()  # type: ignore[no-untyped-call]
        self._learn(self._critic, self._critic_adam, "critic")

        self._actor.clear()
        raw, _ = self.actor.raw(present, self._warmed(self.actor.model, work, work.stored))
        chosen = torch.tanh(raw)
        judged = chosen.detach().requires_grad_()
        with torch.no_grad():
            features = self.critic.features(present, critic_memory)
        loss = -torch.sum(work.mask * self.critic.value(features, present, judged)) / work.records
        actor_loss = self.require_finite(loss.item(), "actor loss")
        (slope,) = torch.autograd.grad(loss, judged)
        excess = torch.square(torch.relu(raw.abs() - FREE)).sum(dim=2)
        penalty = self.hyper.saturation_penalty * torch.sum(work.mask * excess) / work.records
        torch.autograd.backward([chosen, penalty], [slope, torch.ones(())])
        self._learn(self._actor, self._actor_adam, "actor")
        beyond = (judged.detach().abs() > SATURATED).float().mean(dim=2)
        saturated = float(torch.sum(work.mask * beyond) / work.records)
        return Losses(critic_loss, actor_loss, mean_q, saturated)

    @torch.no_grad()
    def _targets(self, work: Histories) -> Tensor:
        actor_memory = self._warmed(self.target_actor.model, work, work.stored)
        critic_memory = self._warmed(self.target_critic.model, work, None)
        chosen, _ = self.target_actor(work.inputs, actor_memory)
        future = self.target_critic(work.inputs, chosen, critic_memory)[:, 1:]
        discounted = self.hyper.gamma * (1.0 - work.terminals) * future
        return torch.add(discounted, work.rewards, alpha=self.hyper.reward_scale)

    @torch.no_grad()
    def _warmed(self, model: SequenceModel, work: Histories, stored: Tensor | None) -> Tensor | None:
        """A network's memory before the records to learn from; no gradient goes back into the burn-in."""
        if work.warm is None:
            return stored
        _, memory = model.unroll(work.warm, stored)
        return torch.where(work.begins, torch.zeros(()) if stored is None else stored, memory)

    def _split(self, memory: Tensor) -> Remembered:
        size = self.basis.size
        stored = memory[:, size + 1 :] if self.actor.model.stored_dim else None
        return Remembered(memory[:, :size], memory[:, size], stored)

    def _inputs(self, codes: Tensor, rewards: Tensor, states: Tensor) -> Tensor:
        scaled = rewards * self.hyper.reward_scale
        reward = torch.sign(scaled) * torch.log1p(scaled.abs())
        return torch.cat([codes, reward[..., None], self.normaliser(states)], dim=-1)

    @torch.no_grad()
    def _learn(self, parameters: FlatParameters, adam: FlatAdam, which: str) -> None:
        gradient = self._reduced(parameters)
        length = float(torch.linalg.vector_norm(gradient))
        if not np.isfinite(length):
            message = (
                f"gradient of the {which} is {length}: training has diverged; go back to a checkpoint and "
                "lower the learning rates, reward_scale or length"
            )
            raise DivergedError(message)
        if length > self.hyper.gradient_limit:
            gradient.mul_(self.hyper.gradient_limit / length)
        adam.step()

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
