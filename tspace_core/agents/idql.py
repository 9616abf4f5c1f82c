"""Implicit diffusion Q-learning: an agent for data that is there already."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tspace_core.agents.batch_check import checked_records
from tspace_core.agents.checkpoint import Component
from tspace_core.agents.diffusion import DiffusionActor, Schedule, diffusion_loss, sample
from tspace_core.agents.dpg import DPG, Losses, Mode, components_of
from tspace_core.agents.flat import FlatAdam, FlatParameters
from tspace_core.agents.histories import tensor
from tspace_core.agents.perceptron import Perceptron, TwinCritic, expectile_loss
from tspace_core.agents.session import Session
from tspace_core.agents.sources import Batch
from tspace_core.config import IDQLHyperparameters
from tspace_core.storage.replay import ReplayBatch

AT_THE_CLIP = 0.999
"""A drawn code beyond this was cut at its limit."""
WATCHED = 8
"""States of a batch that the share of cut codes is measured on."""
NETWORKS = ("actor", "critic", "value", "target_actor", "target_critic")
"""An agent's networks by the names of their components."""
ROWS_AT_ONCE = 2048
"""Samples that are drawn in one forward pass; more states than fit are done in parts."""


class IDQL(DPG):
    """IDQL (Hansen-Estruch et al. 2023, arXiv:2304.10573).

    V is learned by expectile regression on the smaller of two target critics, Q towards
    ``r + gamma * (1 - terminal) * V(s')`` without a target of V, and the actor clones the data as a diffusion
    model, without a look at values. It acts by drawing ``samples`` codes from the moving average of the
    actor and taking the one whose smaller target Q is largest. So an action far from all data is never
    asked for, whatever the critics say of it.

    Deviations from the paper and its authors' code:

    - ReLU instead of Mish in the actor: the activations are a good part of acting's time on a CPU.
    - Five steps are told to the network as five learned vectors, instead of Fourier features through a small
      network of its own.
    - The actor's learning rate stays as it is, instead of a cosine decay over the whole run: an agent goes on
      learning as data comes in. No weight decay.
    - The noise of ``predict`` is drawn once from the agent's seed, the same in all states, and belongs to the
      checkpoint: the same state always gives the same action, also in another process. With one sample
      or a few this is a constant bias, which fresh noise would not be. Where it explores,
      a session draws anew at each step and chooses with the softmax of the values in units of their
      deviation, instead of by the expectile's weights, which hardly tell good from bad; the
      Ornstein-Uhlenbeck noise comes on top. In fine-tuning the actor learns on.
    - States are normalised with a mean and deviation that are fixed before training and belong to the
      checkpoint. Values of next states are left out only at a true end, never at a time limit. Rewards can
      be scaled by a constant.
    - With ``action_bands`` all networks work on codes, and the data's actions are projected on them.

    ``predict`` and ``predict_target`` are the same: what acts are the averages. A CPU agent: thread counts
    are the caller's business and never changed.
    """

    name: ClassVar[str] = "idql"
    hyper_class = IDQLHyperparameters
    policy_components: ClassVar[tuple[str, ...]] = ("target_actor", "target_critic", "sampler", "normaliser")
    hyper: IDQLHyperparameters

    def __init__(
        self,
        hyper: IDQLHyperparameters,
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
        self.schedule = Schedule(hyper.diffusion_steps)
        self.actor, self.target_actor = (self._new_actor(weights) for _ in range(2))
        self.critic = TwinCritic(state_dim, size, hyper.value_hidden, weights)
        self.target_critic = TwinCritic(state_dim, size, hyper.value_hidden, weights)
        self.value = Perceptron(state_dim, hyper.value_hidden, weights)
        self._flat = {name: FlatParameters(getattr(self, name)) for name in NETWORKS}
        self._flat["target_actor"].copy(self._flat["actor"])
        self._flat["target_critic"].copy(self._flat["critic"])
        self._adam = {
            "actor": FlatAdam(self._flat["actor"], hyper.actor_learning_rate),
            "critic": FlatAdam(self._flat["critic"], hyper.critic_learning_rate),
            "value": FlatAdam(self._flat["value"], hyper.critic_learning_rate),
        }
        self._noise = torch.empty(hyper.diffusion_steps, hyper.samples, size).normal_(generator=weights)
        self._generator = torch.Generator().manual_seed(self.seed)
        self._generator_state = self._generator.get_state()

    def _new_actor(self, weights: torch.Generator) -> DiffusionActor:
        hyper = self.hyper
        return DiffusionActor(
            self.state_dim,
            self.basis.size,
            width=hyper.actor_width,
            blocks=hyper.actor_blocks,
            steps=hyper.diffusion_steps,
            generator=weights,
        )

    def codes(self, states: NDArray[np.float32], *, target: bool = False) -> NDArray[np.float32]:
        """The best of the drawn codes for states (n, state_dim), (n, basis.size); ``target`` is the same."""
        del target
        chosen = np.empty((len(states), self.basis.size), np.float32)
        for part in self._parts(len(states)):
            drawn, values = self._judged(states[part], self._noise)
            best = values.argmax(dim=1)
            chosen[part] = drawn[torch.arange(len(best)), best].numpy()
        return chosen

    def explored(self, states: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float32]:
        """Codes (n, basis.size) drawn anew, the better the more probable.

        Args:
            states: (n, state_dim), physical units.
            generator: decides them.
        """
        steps, samples, size = self._noise.shape
        chosen = np.empty((len(states), size), np.float32)
        for part in self._parts(len(states)):
            shape = (steps, len(states[part]), samples, size)
            noise = torch.from_numpy(generator.standard_normal(shape, np.float32))
            drawn, values = self._judged(states[part], noise)
            centred = values - values.mean(dim=1, keepdim=True)
            deviation = centred.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-12)
            logits = centred / (deviation * self.hyper.explore_temperature)
            gumbel = generator.gumbel(size=logits.shape).astype(np.float32)
            pick = (logits + torch.from_numpy(gumbel)).argmax(dim=1)
            chosen[part] = drawn[torch.arange(len(pick)), pick].numpy()
        return chosen

    def session(self, count: int = 1, *, explore: bool = False, seed: int = 0) -> Session:
        """See ``DPG``; an ``IDQLSession``."""
        return IDQLSession(self, count, explore=explore, seed=seed)

    @torch.no_grad()
    def _judged(self, states: NDArray[np.float32], noise: Tensor) -> tuple[Tensor, Tensor]:
        """Drawn codes (n, samples, size) and their smaller target values (n, samples)."""
        normalised = self.normaliser(tensor(states))
        drawn = sample(self.target_actor, self.schedule, normalised, noise)
        count = drawn.shape[1]
        if count == 1:
            return drawn, drawn.new_zeros(drawn.shape[:2])
        repeated = normalised.repeat_interleave(count, dim=0)
        values = self.target_critic(repeated, drawn.flatten(0, 1)).amin(dim=0)
        return drawn, values.view(len(states), count)

    def _parts(self, count: int) -> list[slice]:
        step = max(1, ROWS_AT_ONCE // self.hyper.samples)
        return [slice(start, start + step) for start in range(0, count, step)]

    def train(self, batch: Batch) -> Losses:
        """One update of V, then of Q with the new V, then of the actor.

        In the losses ``actor`` is the diffusion loss, ``mean_q`` the mean of the smaller values of the
        batch's actions, and ``saturated`` the share of codes drawn for some of the batch's states that were
        cut at -1 or 1.

        Args:
            batch: Records in physical units; any number of them.

        Raises:
            AgentError: in mode ``infer``; or a field has a wrong shape or values that are not finite
                (nothing is changed then).
            DivergedError: a loss is not finite.
        """
        self._require_training("train")
        losses = self._update(checked_records(batch, self.name, self.state_dim, self.action_dim))
        self.updates += 1
        return losses

    def _update(self, batch: ReplayBatch) -> Losses:
        hyper = self.hyper
        states, following = (self.normaliser(tensor(x)) for x in (batch.states, batch.next_states))
        actions = tensor(self.basis.project(batch.actions))

        with torch.no_grad():
            aims = self.target_critic(states, actions).amin(dim=0)
        value_loss = expectile_loss(aims - self.value(states), hyper.expectile)
        self._learn("value", value_loss, "value loss")

        with torch.no_grad():
            future = self.value(following) * hyper.gamma * (1.0 - tensor(batch.terminals))
            targets = torch.add(future, tensor(batch.rewards), alpha=hyper.reward_scale)
        values = self.critic(states, actions)
        critic_loss = (values - targets).square().mean()
        critic = self._learn("critic", critic_loss, "critic loss")
        mean_q = float(values.detach().amin(dim=0).mean())

        loss = diffusion_loss(self.actor, self.schedule, states, actions, self._generator, hyper.dropout)
        actor = self._learn("actor", loss, "diffusion loss")
        cut = sample(self.target_actor, self.schedule, states[:WATCHED], self._noise[:, :1])
        saturated = float((cut.abs() > AT_THE_CLIP).sum()) / cut.numel()
        return Losses(critic, actor, mean_q, saturated)

    def _learn(self, name: str, loss: Tensor, what: str) -> float:
        """One step of a network down its loss."""
        found = self.require_finite(float(loss.detach()), what)
        self._flat[name].clear()
        torch.autograd.backward(loss)
        self._reduced(self._flat[name])
        self._adam[name].step()
        return found

    def update_target(self) -> None:
        """The critics' target by ``tau``, the actor's moving average by ``actor_ema``.

        Raises:
            AgentError: in mode ``infer``.
        """
        self._require_training("update_target")
        self._flat["target_critic"].approach(self._flat["critic"], self.hyper.tau)
        self._flat["target_actor"].approach(self._flat["actor"], self.hyper.actor_ema)

    def _take_values(self, values: Mapping[str, Mapping[str, Any]]) -> None:
        super()._take_values(values)
        if "generator" in values:
            self._generator.set_state(self._generator_state)

    def _networks(self) -> Mapping[str, Component]:
        self._generator_state.copy_(self._generator.get_state())
        return {
            **components_of(self._flat, self._adam),
            "sampler": Component({"noise": self._noise}),
            "generator": Component({"state": self._generator_state}),
        }


class IDQLSession(Session):
    """Without exploration the policy; with it, codes drawn anew at each step, and noise on top.

    What is drawn hangs on the session's seed and on nothing else.
    """

    def __init__(self, agent: IDQL, count: int = 1, *, explore: bool = False, seed: int = 0) -> None:
        super().__init__(agent, count, explore=explore, seed=seed)
        self._idql = agent

    def act(
        self, states: NDArray[np.float32], rewards: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """See ``Session``."""
        if not self.explore:
            return super().act(states, rewards)
        codes = self._idql.explored(self._checked(states), self._generator)
        return self.agent.basis.expand(self._explored(codes))
