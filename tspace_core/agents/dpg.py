"""What all deterministic policy gradient agents have in common."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from tspace_core.agents.checkpoint import Checkpoint, CheckpointManifest, Component, write_checkpoint
from tspace_core.config import DDPGHyperparameters
from tspace_core.errors import AgentError
from tspace_core.objects.path import AnyPath
from tspace_core.storage.replay import ReplayBatch
from tspace_core.storage.writer import DIRECT, Writer

Mode = Literal["train", "infer"]


class Losses(NamedTuple):
    """What one update saw, before it changed the weights."""

    critic: float
    """Mean squared error of the critic's values."""
    actor: float
    """Minus the mean value of the actor's own actions."""
    mean_q: float
    """Mean value of the batch's actions."""
    saturated: float
    """Share of the actor's outputs beyond 0.99: such outputs no longer learn."""


class DPG(ABC):
    """A deterministic policy that learns from records by following its critic's gradient.

    In mode ``train`` it explores and learns; in mode ``infer`` it only predicts.
    """

    name: ClassVar[str]
    policy_components: ClassVar[tuple[str, ...]]
    """Components of a checkpoint that ``predict`` needs."""

    def __init__(
        self, hyper: DDPGHyperparameters, state_dim: int, action_dim: int, seed: int, mode: Mode
    ) -> None:
        if state_dim < 1 or action_dim < 1:
            message = f"state_dim is {state_dim} and action_dim is {action_dim}, both must be at least 1"
            raise AgentError(message)
        if mode not in ("train", "infer"):
            message = f"mode is {mode!r}, expected 'train' or 'infer'"
            raise AgentError(message)
        self.hyper = hyper
        self.seed = seed
        self.state_dim = state_dim
        self.action_dim = action_dim
        self.mode: Mode = mode

    @abstractmethod
    def predict(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """The policy's action without noise: (state_dim,) to (action_dim,), or (n, ...) to (n, ...)."""

    @abstractmethod
    def predict_target(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """The target policy's action, shapes as in ``predict``."""

    @abstractmethod
    def act(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """The action to carry out: in mode ``train`` with exploration noise, shapes as in ``predict``."""

    @abstractmethod
    def train(self, batch: ReplayBatch) -> Losses:
        """One update of critic and actor."""

    @abstractmethod
    def update_target(self) -> None:
        """Let the targets follow the live networks by one step."""

    @abstractmethod
    def fit_normaliser(self, mean: ArrayLike, std: ArrayLike) -> None:
        """Fix mean and standard deviation of the states, (state_dim,) each."""

    @property
    @abstractmethod
    def normalised(self) -> bool:
        """Whether the normaliser has been fitted."""

    @abstractmethod
    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over the state in a checkpoint of this agent."""

    @abstractmethod
    def take_policy(self, checkpoint: Checkpoint) -> None:
        """Take over the policy only; noise, optimizers and counters go on as they are."""

    @classmethod
    @abstractmethod
    def load(cls, directory: AnyPath, mode: Mode = "infer") -> Self:
        """The agent of a checkpoint."""

    @abstractmethod
    def _manifest(self, step: int) -> CheckpointManifest: ...

    @abstractmethod
    def _components(self) -> Mapping[str, Component]: ...

    def save(
        self,
        directory: AnyPath,
        *,
        step: int = 0,
        extra: Mapping[str, Component] | None = None,
        writer: Writer = DIRECT,
    ) -> None:
        """Write a checkpoint into the new folder ``directory``.

        Raises:
            AgentError: in mode ``infer``, which does not hold all of the agent.
            StorageError: ``directory`` exists already.
        """
        self._require_training("save")
        write_checkpoint(
            directory, self._manifest(step), {**self._components(), **(extra or {})}, writer=writer
        )

    def save_policy(
        self, directory: AnyPath, *, step: int = 0, extra: Mapping[str, Component] | None = None
    ) -> None:
        """Write the policy alone into the new folder ``directory``, as a checkpoint for mode ``infer``.

        Raises:
            StorageError: ``directory`` exists already.
        """
        components = self._components()
        chosen = {name: components[name] for name in self.policy_components}
        write_checkpoint(directory, self._manifest(step), {**chosen, **(extra or {})})

    def finite(self) -> bool:
        """Whether every number of the agent's state is finite; one that is not has diverged."""
        return all(
            bool(torch.isfinite(tensor).all())
            for component in self._components().values()
            for tensor in component.tensors.values()
        )

    def _require_training(self, what: str) -> None:
        if self.mode != "train":
            message = (
                f"{what} was called on a {self.name} agent in mode 'infer', which holds the policy only; "
                f"load it with mode='train'"
            )
            raise AgentError(message)

    def _as_states(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """A writable (n, state_dim) copy of one or many states."""
        states = np.array(state, dtype=np.float32, ndmin=2)
        if states.ndim != 2 or states.shape[1] != self.state_dim:
            message = (
                f"state has shape {np.shape(state)}, expected ({self.state_dim},) or (n, {self.state_dim}); "
                "take an agent trained for this vehicle's window and signals"
            )
            raise AgentError(message)
        if not np.isfinite(states).all():
            bad = int((~np.isfinite(states)).sum())
            message = f"state holds {bad} values that are not finite; leave out windows with missing signals"
            raise AgentError(message)
        return states
