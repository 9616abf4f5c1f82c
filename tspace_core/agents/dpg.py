"""What all deterministic policy gradient agents have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import ValidationError
from torch import Tensor

from tspace_core.agents.action_basis import ActionBasis
from tspace_core.agents.checkpoint import Checkpoint, CheckpointManifest, Component, write_checkpoint
from tspace_core.agents.flat import FlatAdam, FlatParameters
from tspace_core.agents.made_for import MadeFor, require_alike
from tspace_core.agents.normaliser import Normaliser
from tspace_core.agents.session import Session
from tspace_core.agents.sources import Batch, RecordSource
from tspace_core.config import AgentHyperparameters
from tspace_core.errors import AgentError, CheckpointError, DivergedError
from tspace_core.objects.path import AnyPath
from tspace_core.storage.writer import DIRECT, Writer

Mode = Literal["train", "infer"]
Reduce = Callable[[Tensor], None]
"""Called with a network's flat gradient before its optimizer's step: data-parallel workers average it."""


SCHEDULE = {
    "updates_per_episode",
    "offline_updates",
    "checkpoint_every",
    "offline_checkpoint_every",
    "checkpoints_kept",
    "repeat_records",
}
"""Hyperparameters that say when to learn and save, not how: they may differ from a checkpoint's."""


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
    """An agent that learns from records, or sequences of them, and acts.

    In mode ``train`` it learns; in mode ``infer`` it only predicts. What acts step by step, with noise or
    memory, is a ``session``. Its networks decide on codes; ``basis`` makes actions of them.
    """

    name: ClassVar[str]
    policy_components: ClassVar[tuple[str, ...]]
    """Components of a checkpoint that ``predict`` needs."""
    hyper_class: ClassVar[type[AgentHyperparameters]]
    component_values: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "normaliser": ("fitted",),
        "counters": ("updates",),
    }
    """Plain values that components of a checkpoint must have."""
    memory_dim: int = 0
    """Length of what a recurrent agent remembers between two steps; 0: nothing."""

    def __init__(
        self,
        hyper: AgentHyperparameters,
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
            seed: Decides initial weights; default: the hyperparameters' seed.
            mode: ``train`` or ``infer``.

        Raises:
            AgentError: a dimension under 1 or an unknown mode.
        """
        if state_dim < 1 or action_dim < 1:
            message = f"state_dim is {state_dim} and action_dim is {action_dim}, both must be at least 1"
            raise AgentError(message)
        if mode not in ("train", "infer"):
            message = f"mode is {mode!r}, expected 'train' or 'infer'"
            raise AgentError(message)
        self.hyper = hyper
        self.seed = hyper.seed if seed is None else seed
        self.state_dim = state_dim
        self.action_dim = action_dim
        self.mode: Mode = mode
        self.updates = 0
        self.normaliser = Normaliser(state_dim)
        self.basis = ActionBasis(action_dim, hyper.action_bands)
        self.reduce: Reduce | None = None
        self.made_for: MadeFor | None = None
        """Type of vehicle, for the checkpoints; see ``agents.made_for``."""

    @abstractmethod
    def codes(self, states: NDArray[np.float32], *, target: bool = False) -> NDArray[np.float32]:
        """The policy's codes without noise for states (n, state_dim), (n, basis.size); or the target's."""

    def predict(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """The policy's action without noise: (state_dim,) to (action_dim,), or (n, ...) to (n, ...).

        A recurrent agent answers as at an episode's first step.

        Raises:
            AgentError: wrong shape, or a value that is not finite.
        """
        return self._predict(state, target=False)

    def predict_target(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """The target policy's action, shapes and errors as in ``predict``."""
        return self._predict(state, target=True)

    def _predict(self, state: NDArray[np.float32], *, target: bool) -> NDArray[np.float32]:
        actions = self.basis.expand(self.codes(self.as_states(state), target=target))
        return actions if np.ndim(state) == 2 else actions[0]

    def session(self, count: int = 1, *, explore: bool = False, seed: int = 0) -> Session:
        """What acts in ``count`` places step by step; the one way to drive with any agent."""
        return Session(self, count, explore=explore, seed=seed)

    def draw(self, source: RecordSource, generator: np.random.Generator) -> Batch:
        """A batch as ``train`` wants it.

        Raises:
            AgentError: the source is empty, or has no sequences where the agent needs them.
        """
        return source.sample(self.hyper.batch_size, generator)

    @abstractmethod
    def train(self, batch: Batch) -> Losses:
        """One update of critic and actor.

        Raises:
            AgentError: in mode ``infer``; or the batch is not one of this agent, nothing is changed then.
            DivergedError: a loss is not finite.
        """

    @abstractmethod
    def update_target(self) -> None:
        """Let the targets follow the live networks by one step."""

    def _reduced(self, parameters: FlatParameters) -> Tensor:
        """A network's flat gradient, where there are several workers that of all of them."""
        gradient = parameters.values.grad
        assert gradient is not None
        if self.reduce is not None:
            self.reduce(gradient)
        return gradient

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
        manifest, hyper = checkpoint.manifest, cls.hyperparameters_of(checkpoint)
        agent = cls(hyper, manifest.state_dim, manifest.action_dim, seed=manifest.seed, mode=mode)
        agent.restore(checkpoint)
        return agent

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over the whole state (mode ``infer``: the policy) of a checkpoint.

        An agent that does not know its type of vehicle yet takes that over, too.

        Raises:
            CheckpointError: damaged, of another agent or type of vehicle, or with other dimensions or
                hyperparameters (those of ``SCHEDULE`` aside).
        """
        ours, theirs = learning(self.hyper), learning(self.hyperparameters_of(checkpoint))
        odd = [name for name in ours if ours[name] != theirs[name]]
        mine, others = ({name: found[name] for name in odd} for found in (ours, theirs))
        self._check_fits(checkpoint, ("hyperparameters", mine, others))
        self._check_type(checkpoint, learning=self.mode == "train")
        names = tuple(self._components()) if self.mode == "train" else self.policy_components
        self._take_values(self._take(checkpoint, names))
        self.made_for = self.made_for or checkpoint.manifest.made_for

    def take_policy(self, checkpoint: Checkpoint) -> None:
        """Take over the policy only; optimizers and counters go on as they are.

        Raises:
            CheckpointError: damaged, of another agent or type of vehicle, or with other dimensions; nothing
                is changed then.
        """
        self._check_fits(checkpoint)
        self._check_type(checkpoint, learning=False)
        self._take_values(self._take(checkpoint, self.policy_components))

    def _check_fits(self, checkpoint: Checkpoint, *more: tuple[str, object, object]) -> None:
        self._check_name(checkpoint)
        found = checkpoint.manifest
        for field, ours, theirs in (
            ("state_dim", self.state_dim, found.state_dim),
            ("action_dim", self.action_dim, found.action_dim),
            *more,
        ):
            if ours != theirs:
                message = (
                    f"{checkpoint.directory}: {field} is {theirs}, this agent has {ours}; "
                    f"use {type(self).__name__}.load"
                )
                if field == "hyperparameters":
                    message += f", or say the same in conf/hyperparameters/{self.name}.yaml"
                raise CheckpointError(message)

    def _check_type(self, checkpoint: Checkpoint, *, learning: bool) -> None:
        theirs = checkpoint.manifest.made_for
        require_alike(theirs, self.made_for, checkpoint.directory, "this agent", learning=learning)

    def _take(self, checkpoint: Checkpoint, names: tuple[str, ...]) -> Mapping[str, Mapping[str, Any]]:
        components = self._components()
        found = {name: checkpoint.component(name, self.component_values.get(name, ())) for name in names}
        for name in names:  # all of them fit before any is used
            checkpoint.check_shapes(name, found[name].tensors, components[name].tensors)
        for name in names:
            for key, tensor in components[name].tensors.items():
                tensor.copy_(found[name].tensors[key])
        return {name: component.values for name, component in found.items()}

    @classmethod
    def _check_name(cls, checkpoint: Checkpoint) -> None:
        if checkpoint.manifest.agent != cls.name:
            message = (
                f"{checkpoint.directory / 'manifest.json'}: checkpoint of a "
                f"{checkpoint.manifest.agent} agent, expected {cls.name}; load it with load_agent"
            )
            raise CheckpointError(message)

    @classmethod
    def hyperparameters_of(cls, checkpoint: Checkpoint) -> AgentHyperparameters:
        """Those of a checkpoint; what was added to the model since takes its default.

        Raises:
            CheckpointError: it is damaged, or of another agent.
        """
        cls._check_name(checkpoint)
        try:
            return cls.hyper_class.model_validate(checkpoint.manifest.hyperparameters)
        except ValidationError as error:
            path = checkpoint.directory / "manifest.json"
            message = f"{path}: hyperparameters not usable ({error}); load another checkpoint"
            raise CheckpointError(message) from error

    def _manifest(self, step: int) -> CheckpointManifest:
        return CheckpointManifest(
            agent=self.name,
            step=step,
            state_dim=self.state_dim,
            action_dim=self.action_dim,
            seed=self.seed,
            hyperparameters=self.hyper.model_dump(mode="json"),
            made_for=self.made_for,
        )

    @abstractmethod
    def _networks(self) -> Mapping[str, Component]:
        """Networks, optimizers and what else is the agent's own; the tensors are the agent's own memory."""

    def _components(self) -> Mapping[str, Component]:
        """All of the agent's state."""
        return {
            **self._networks(),
            "normaliser": Component(
                {"mean": self.normaliser.mean, "scale": self.normaliser.scale},
                {"fitted": self.normaliser.fitted},
            ),
            "counters": Component(values={"updates": self.updates}),
        }

    def _take_values(self, values: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over the plain values of components, by the component's name."""
        self.normaliser.fitted = bool(values["normaliser"]["fitted"])
        if "counters" in values:
            self.updates = int(values["counters"]["updates"])

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

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """All weights and moments by component and name; the agent's own memory, not copies."""
        return {name: component.tensors for name, component in self._components().items()}

    def finite(self) -> bool:
        """Whether every number of the agent's state is finite; one that is not has diverged."""
        return all(
            bool(torch.isfinite(tensor).all())
            for component in self._components().values()
            for tensor in component.tensors.values()
        )

    def require_finite(self, value: float, what: str) -> float:
        """The loss, if it is finite.

        Raises:
            DivergedError: it is not.
        """
        if not isfinite(value):
            message = (
                f"{what} is {value}: training has diverged; "
                "go back to a checkpoint and lower the learning rates or reward_scale"
            )
            raise DivergedError(message)
        return value

    def _require_training(self, what: str) -> None:
        if self.mode != "train":
            message = (
                f"{what} was called on a {self.name} agent in mode 'infer', which holds the policy only; "
                f"load it with mode='train'"
            )
            raise AgentError(message)

    def as_states(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
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


def components_of(
    networks: Mapping[str, FlatParameters], optimizers: Mapping[str, FlatAdam]
) -> dict[str, Component]:
    """Networks, and their optimizers as ``<network>_optimizer``; the tensors are the agent's own memory."""
    return {
        **{name: Component(flat.named(flat.values.data)) for name, flat in networks.items()},
        **{f"{name}_optimizer": Component(adam.tensors()) for name, adam in optimizers.items()},
    }


def learning(hyper: AgentHyperparameters) -> dict[str, Any]:
    """The hyperparameters that say how to learn."""
    return hyper.model_dump(exclude=SCHEDULE)
