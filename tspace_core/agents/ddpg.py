"""Deep deterministic policy gradient."""

from collections.abc import Mapping
from math import isfinite
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import ValidationError
from torch import Tensor

from tspace_core.agents.checkpoint import Checkpoint, CheckpointManifest, Component
from tspace_core.agents.dense import ActorPass, CriticPass
from tspace_core.agents.dpg import DPG, Losses, Mode
from tspace_core.agents.flat import FlatAdam, FlatParameters
from tspace_core.agents.networks import Actor, Critic
from tspace_core.agents.noise import OrnsteinUhlenbeck
from tspace_core.agents.normaliser import Normaliser
from tspace_core.config import DDPGHyperparameters
from tspace_core.errors import AgentError, CheckpointError
from tspace_core.objects.path import AnyPath
from tspace_core.storage.replay import ReplayBatch

SCHEDULE = {
    "updates_per_episode",
    "offline_updates",
    "checkpoint_every",
    "offline_checkpoint_every",
    "checkpoints_kept",
}
"""Hyperparameters that say when to learn and save, not how: they may differ from a checkpoint's."""
VALUES = {
    "normaliser": ("fitted",),
    "noise": ("state",),
    "random": ("generator",),
    "counters": ("updates",),
}
"""Plain values that components of a checkpoint must have."""
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
    - Updates are done offline or at an episode's end, not after each step of the environment; ``train`` and
      ``update_target`` are separate calls, so that the caller decides.
    - Values of next states are left out only at a true end, never at a time limit.
    - Rewards can be scaled by a constant.

    Gradients are computed by hand (``dense``), the same as autograd's. A CPU agent: thread counts are the
    caller's business and never changed.
    """

    name: ClassVar[str] = "ddpg"
    policy_components: ClassVar[tuple[str, ...]] = ("actor", "target_actor", "normaliser")

    def __init__(
        self,
        hyper: DDPGHyperparameters,
        state_dim: int,
        action_dim: int,
        *,
        seed: int | None = None,
        mode: Mode = "train",
    ) -> None:
        """Make an agent with fresh networks.

        Args:
            hyper: Hyperparameters.
            state_dim: Length of a state.
            action_dim: Length of an action.
            seed: Decides initial weights and noise; default: the hyperparameters' seed.
            mode: ``train`` or ``infer``.

        Raises:
            AgentError: a dimension under 1 or an unknown mode.
        """
        super().__init__(hyper, state_dim, action_dim, hyper.seed if seed is None else seed, mode)
        self.updates = 0
        weights = torch.Generator().manual_seed(self.seed)
        critic_hidden = (hyper.critic_state_hidden, hyper.critic_action_hidden, hyper.critic_joint_hidden)
        self.actor = Actor(state_dim, action_dim, hyper.actor_hidden, weights)
        self.critic = Critic(state_dim, action_dim, critic_hidden, weights)
        self.target_actor = Actor(state_dim, action_dim, hyper.actor_hidden, weights)
        self.target_critic = Critic(state_dim, action_dim, critic_hidden, weights)
        self.normaliser = Normaliser(state_dim)
        self._generator = np.random.default_rng([self.seed, 1])
        self.noise = OrnsteinUhlenbeck(action_dim, hyper.noise, self._generator)
        networks = (self.actor, self.critic, self.target_actor, self.target_critic)
        self._actor, self._critic, self._target_actor, self._target_critic = map(FlatParameters, networks)
        self._target_actor.copy(self._actor)
        self._target_critic.copy(self._critic)
        self._actor_adam = FlatAdam(self._actor, hyper.actor_learning_rate)
        self._critic_adam = FlatAdam(self._critic, hyper.critic_learning_rate)
        self._workspace: _Workspace | None = None

    def predict(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """The policy's action without noise: (state_dim,) to (action_dim,), or (n, ...) to (n, ...).

        Raises:
            AgentError: wrong shape, or a value that is not finite.
        """
        return self._policy(self.actor, state)

    def predict_target(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """The target policy's action, shapes and errors as in ``predict``."""
        return self._policy(self.target_actor, state)

    def act(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """The action to carry out: in mode ``train`` with noise, clipped to [-1, 1]; else as ``predict``.

        Each row of a batch of states has a noise process of its own; another number of rows starts them anew.
        """
        action = self.predict(state)
        if self.mode == "infer":
            return action
        noise = self.noise.sample(len(action) if action.ndim == 2 else 1)
        noisy: NDArray[np.float32] = np.clip(action + noise.reshape(action.shape), -1.0, 1.0)
        return noisy

    def _policy(self, actor: Actor, state: NDArray[np.float32]) -> NDArray[np.float32]:
        states = self._as_states(state)
        with torch.no_grad():
            output: Tensor = actor(self.normaliser(torch.from_numpy(states)))
        actions: NDArray[np.float32] = output.numpy()
        return actions if np.ndim(state) == 2 else actions[0]

    def train(self, batch: ReplayBatch) -> Losses:
        """One update: the critic towards ``r + gamma * (1 - terminal) * Q'(s', mu'(s'))``, then the actor.

        Args:
            batch: Records in physical units; any number of them.

        Raises:
            AgentError: in mode ``infer``; a field has a wrong shape or values that are not finite (nothing is
                changed then); or a loss is not finite, that is, training has diverged.
        """
        self._require_training("train")
        size = self._check(batch)
        if self._workspace is None or self._workspace.size != size:
            self._workspace = _Workspace(self, size)
        with torch.no_grad():
            losses = self._update(self._workspace, batch)
        self.updates += 1
        return losses

    def _update(self, work: "_Workspace", batch: ReplayBatch) -> Losses:
        states = self.normaliser.apply(_tensor(batch.states), work.states)
        actions = work.actions.copy_(_tensor(batch.actions))
        targets = self._targets(work, batch)

        values = work.critic.forward(states, actions).squeeze(1)
        errors = values - targets
        critic_loss = self._finite(float(errors.dot(errors)) / work.size, "critic loss")
        mean_q = float(values.mean())
        torch.mul(errors, 2.0 / work.size, out=work.critic.gradient.squeeze(1))
        work.critic.backward()
        self._critic_adam.step()

        chosen = work.actor.forward(states)
        actor_loss = self._finite(-float(work.critic.forward(states, chosen).mean()), "actor loss")
        saturated = float((chosen.abs() > SATURATED).sum()) / chosen.numel()
        work.critic.gradient.fill_(-1.0 / work.size)
        work.critic.action_gradient(to=work.actor.gradient)
        work.actor.backward()
        self._actor_adam.step()
        return Losses(critic_loss, actor_loss, mean_q, saturated)

    def _targets(self, work: "_Workspace", batch: ReplayBatch) -> Tensor:
        states = self.normaliser.apply(_tensor(batch.next_states), work.next_states)
        values = work.target_critic.forward(states, work.target_actor.forward(states)).squeeze(1)
        future = values * self.hyper.gamma * (1.0 - _tensor(batch.terminals))
        return torch.add(future, _tensor(batch.rewards), alpha=self.hyper.reward_scale)

    def update_target(self) -> None:
        """Both targets: ``target += tau * (live - target)``.

        Raises:
            AgentError: in mode ``infer``.
        """
        self._require_training("update_target")
        self._target_actor.approach(self._actor, self.hyper.tau)
        self._target_critic.approach(self._critic, self.hyper.tau)

    def _finite(self, value: float, what: str) -> float:
        if not isfinite(value):
            message = (
                f"{what} is {value} at update {self.updates + 1}: training has diverged; "
                "go back to a checkpoint and lower the learning rates or reward_scale"
            )
            raise AgentError(message)
        return value

    def _check(self, batch: ReplayBatch) -> int:
        size = len(batch.rewards)
        if size == 0:
            message = "the batch holds no records; sample at least one"
            raise AgentError(message)
        for name, array, shape in (
            ("states", batch.states, (size, self.state_dim)),
            ("actions", batch.actions, (size, self.action_dim)),
            ("rewards", batch.rewards, (size,)),
            ("next_states", batch.next_states, (size, self.state_dim)),
            ("terminals", batch.terminals, (size,)),
        ):
            if array.shape != shape:
                message = f"{name} of the batch has shape {array.shape}, this agent expects {shape}"
                raise AgentError(message)
            finite = np.isfinite(array)
            if not finite.all():
                message = (
                    f"{name} of the batch holds {finite.size - int(finite.sum())} values that are not "
                    "finite; nothing was learned from it: check the replay with verify()"
                )
                raise AgentError(message)
        return size

    def fit_normaliser(self, mean: ArrayLike, std: ArrayLike) -> None:
        """Fix mean and standard deviation of the states, (state_dim,) each.

        Raises:
            AgentError: wrong length or values, in mode ``infer``, or after the first update: the networks
                have learned with other figures then.
        """
        self._require_training("fit_normaliser")
        if self.updates:
            message = f"the agent has done {self.updates} updates; fit the normaliser of a fresh agent only"
            raise AgentError(message)
        self.normaliser.fit(mean, std)

    @property
    def normalised(self) -> bool:
        """Whether the normaliser has been fitted."""
        return self.normaliser.fitted

    @classmethod
    def load(cls, directory: AnyPath, mode: Mode = "infer") -> Self:
        """The agent of a checkpoint, with the hyperparameters in it.

        Raises:
            CheckpointError: names the file that is missing, damaged or of another agent.
        """
        checkpoint = Checkpoint(directory)
        cls._check_name(checkpoint)
        manifest, hyper = checkpoint.manifest, _hyperparameters(checkpoint)
        agent = cls(hyper, manifest.state_dim, manifest.action_dim, seed=manifest.seed, mode=mode)
        agent.restore(checkpoint)
        return agent

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over the whole state (mode ``infer``: the policy) of a checkpoint.

        Raises:
            CheckpointError: damaged, of another agent, or with other dimensions or hyperparameters (those of
                ``SCHEDULE`` aside).
        """
        self._check_fits(
            checkpoint, ("hyperparameters", _learning(self.hyper), _learning(_hyperparameters(checkpoint)))
        )
        if self.mode != "train":
            self._take(checkpoint, self.policy_components)
            return
        values = self._take(checkpoint, tuple(self._components()))
        self.noise.state = np.array(values["noise"]["state"])
        self._generator.bit_generator.state = values["random"]["generator"]
        self.updates = int(values["counters"]["updates"])

    def take_policy(self, checkpoint: Checkpoint) -> None:
        """Take over the policy only; noise, optimizers and counters go on as they are.

        Raises:
            CheckpointError: damaged, of another agent or with other dimensions; nothing is changed then.
        """
        self._check_fits(checkpoint)
        self._take(checkpoint, self.policy_components)

    def _check_fits(self, checkpoint: Checkpoint, *more: tuple[str, object, object]) -> None:
        self._check_name(checkpoint)
        found = checkpoint.manifest
        for field, ours, theirs in (
            ("state_dim", self.state_dim, found.state_dim),
            ("action_dim", self.action_dim, found.action_dim),
            *more,
        ):
            if ours != theirs:
                message = f"{checkpoint.directory}: {field} is {theirs}, this agent has {ours}; use DDPG.load"
                raise CheckpointError(message)

    def _take(self, checkpoint: Checkpoint, names: tuple[str, ...]) -> Mapping[str, Mapping[str, Any]]:
        components = self._components()
        found = {name: checkpoint.component(name, VALUES.get(name, ())) for name in names}
        for name in names:  # all of them fit before any is used
            checkpoint.check_shapes(name, found[name].tensors, components[name].tensors)
        for name in names:
            for key, tensor in components[name].tensors.items():
                tensor.copy_(found[name].tensors[key])
        self.normaliser.fitted = bool(found["normaliser"].values["fitted"])
        return {name: component.values for name, component in found.items()}

    @classmethod
    def _check_name(cls, checkpoint: Checkpoint) -> None:
        if checkpoint.manifest.agent != cls.name:
            message = (
                f"{checkpoint.directory / 'manifest.json'}: checkpoint of a "
                f"{checkpoint.manifest.agent} agent, expected {cls.name}; load it with load_agent"
            )
            raise CheckpointError(message)

    def _manifest(self, step: int) -> CheckpointManifest:
        return CheckpointManifest(
            agent=self.name,
            step=step,
            state_dim=self.state_dim,
            action_dim=self.action_dim,
            seed=self.seed,
            hyperparameters=self.hyper.model_dump(mode="json"),
        )

    def _components(self) -> Mapping[str, Component]:
        networks = {
            "actor": self._actor,
            "critic": self._critic,
            "target_actor": self._target_actor,
            "target_critic": self._target_critic,
        }
        return {
            **{name: Component(flat.named(flat.values.data)) for name, flat in networks.items()},
            "actor_optimizer": Component(self._actor_adam.tensors()),
            "critic_optimizer": Component(self._critic_adam.tensors()),
            "normaliser": Component(
                {"mean": self.normaliser.mean, "scale": self.normaliser.scale},
                {"fitted": self.normaliser.fitted},
            ),
            "noise": Component(values={"state": self.noise.state.tolist()}),
            "random": Component(values={"generator": self._generator.bit_generator.state}),
            "counters": Component(values={"updates": self.updates}),
        }


class _Workspace:
    """Memory of one update for a batch size."""

    def __init__(self, agent: DDPG, size: int) -> None:
        self.size = size
        self.states = torch.empty(size, agent.state_dim)
        self.next_states = torch.empty(size, agent.state_dim)
        self.actions = torch.empty(size, agent.action_dim)
        self.actor = ActorPass(agent.actor, size)
        self.critic = CriticPass(agent.critic, size)
        self.target_actor = ActorPass(agent.target_actor, size)
        self.target_critic = CriticPass(agent.target_critic, size)


def _hyperparameters(checkpoint: Checkpoint) -> DDPGHyperparameters:
    """Those of a checkpoint; what was added to the model since takes its default."""
    try:
        return DDPGHyperparameters.model_validate(checkpoint.manifest.hyperparameters)
    except ValidationError as error:
        path = checkpoint.directory / "manifest.json"
        message = f"{path}: hyperparameters not usable ({error}); load another checkpoint"
        raise CheckpointError(message) from error


def _learning(hyper: DDPGHyperparameters) -> dict[str, Any]:
    return hyper.model_dump(exclude=SCHEDULE)


def _tensor(array: NDArray[np.float32]) -> Tensor:
    """Share the array's memory; torch warns about memory that must not be written, so that is copied."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())
