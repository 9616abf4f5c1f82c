"""Gymnasium environments with Box spaces, as agents see them: flat float32 states, actions in [-1, 1]."""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import gymnasium
import numpy as np
from numpy.typing import NDArray

from tspace_core.errors import AgentError

Environment = str | Callable[[], "gymnasium.Env[Any, Any]"]
"""An id, with its module in front where that registers it (``package.module:Name-v0``); or what makes one."""

Floats = NDArray[np.float32]

CARRIED_OUT = "carried_out"
"""Key of an info with the action that was really carried out, where that may not be what was asked for."""

TRAINING, EVALUATION = 0, 1
"""Streams of the seeds of episodes."""


class Step(NamedTuple):
    """What one step of an environment gave."""

    state: Floats
    """(state_dim,)"""
    reward: float
    terminated: bool
    """The task came to its true end: no value beyond."""
    truncated: bool
    """A time limit cut the episode off: the value goes on beyond."""
    carried_out: Floats
    """(action_dim,) in [-1, 1]: what was done, that is, what was asked for unless the environment's info says
    otherwise (``carried_out``, in the action space's units)."""


def name_of(environment: Environment) -> str:
    """The id, or the name of what makes the environment."""
    if isinstance(environment, str):
        return environment
    return str(getattr(environment, "__qualname__", type(environment).__name__))


class Place:
    """One environment and the episode that goes on in it.

    Observations are flattened in C order to float32 and may be unbounded. Actions of [-1, 1] are scaled to
    the action space's bounds.

    Args:
        environment: id or factory; this is the only owner of what it makes.

    Raises:
        AgentError: the id is unknown, or a space is not a Box, or an action has no finite bounds.
    """

    def __init__(self, environment: Environment) -> None:
        self.name = name_of(environment)
        self._env = self._made(environment)
        try:
            observations = self._box(self._env.observation_space, "observation")
            actions = self._box(self._env.action_space, "action")
            low, high = self._range(actions)
        except AgentError:
            self.close()
            raise
        self.bounds = observations.low.ravel(), observations.high.ravel()
        """Lowest and highest state, (state_dim,) each; infinite where there is no bound."""
        self._shape = observations.shape
        self.state_dim = int(np.prod(observations.shape))
        self.action_dim = int(np.prod(actions.shape))
        self._middle, self._half = ((low + high) / 2).ravel(), ((high - low) / 2).ravel()
        self._actions = actions
        self.state: Floats = np.zeros(self.state_dim, np.float32)
        """(state_dim,) now."""
        self.steps = 0
        """Steps of this episode."""

    def _made(self, environment: Environment) -> "gymnasium.Env[Any, Any]":
        if not isinstance(environment, str):
            return environment()
        try:
            # The checker's warnings are for authors of environments; what matters here is checked below.
            return gymnasium.make(environment, disable_env_checker=True)
        except (gymnasium.error.Error, ImportError) as error:
            message = (
                f"no environment {environment!r} ({error}); put the module that registers it in front, "
                "as in 'tspace_core.twin.environment:TorqueMap-v0'"
            )
            raise AgentError(message) from error

    def _box(self, space: object, what: str) -> gymnasium.spaces.Box:
        if not isinstance(space, gymnasium.spaces.Box) or space.shape == () or 0 in space.shape:
            message = (
                f"{self.name}: the {what} space is {space}; these agents need a Box of at least one number"
                f"{', continuous actions' if what == 'action' else ''}: "
                "wrap the environment or take another one"
            )
            raise AgentError(message)
        return space

    def _range(self, actions: gymnasium.spaces.Box) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        low, high = actions.low.astype(np.float64), actions.high.astype(np.float64)
        if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
            message = (
                f"{self.name}: the action space {actions} has no finite range in each dimension to scale "
                "[-1, 1] to; wrap the environment in gymnasium.wrappers.RescaleAction or ClipAction"
            )
            raise AgentError(message)
        return low, high

    def begin(self, seed: int) -> None:
        """A new episode.

        Raises:
            AgentError: an observation that is not finite or has another shape than its space.
        """
        observation, _ = self._env.reset(seed=seed)
        self.steps = 0
        self.state = self._checked(observation)

    def step(self, action: Floats) -> Step:
        """One step with an action (action_dim,) in [-1, 1].

        Raises:
            AgentError: an observation, a reward or an action carried out that is not finite, or a wrong
                shape; names the step.
        """
        scaled = (self._middle + self._half * action).astype(self._actions.dtype).reshape(self._actions.shape)
        scaled = np.clip(scaled, self._actions.low, self._actions.high)  # rounding may step over a bound
        observation, reward, terminated, truncated, info = self._env.step(scaled)
        self.steps += 1
        value = float(reward)
        if not np.isfinite(np.float32(value)):
            message = f"{self.name}: the reward of step {self.steps} of the episode is {value}"
            raise AgentError(message)
        self.state = self._checked(observation)
        done = action if CARRIED_OUT not in info else self._as_action(info[CARRIED_OUT])
        return Step(self.state, value, bool(terminated), bool(truncated), done)

    def _as_action(self, carried_out: object) -> Floats:
        given = np.asarray(carried_out, np.float32)
        found = given.ravel()
        bad = found.size - int(np.isfinite(found).sum())
        if found.shape != (self.action_dim,) or bad:
            message = (
                f"{self.name}: info[{CARRIED_OUT!r}] of step {self.steps} of the episode has shape "
                f"{given.shape}, {bad} of its values are not finite; expected {self.action_dim} "
                "finite numbers of the action space"
            )
            raise AgentError(message)
        action: Floats = np.clip((found - self._middle) / self._half, -1.0, 1.0).astype(np.float32)
        return action

    def _checked(self, observation: object) -> Floats:
        state = np.asarray(observation, np.float32)
        if state.shape != self._shape:
            message = (
                f"{self.name}: the observation after step {self.steps} of the episode has shape "
                f"{state.shape}, its space says {self._shape}"
            )
            raise AgentError(message)
        bad = state.size - int(np.isfinite(state).sum())
        if bad:
            message = (
                f"{self.name}: the observation after step {self.steps} of the episode holds {bad} values "
                "that are not finite"
            )
            raise AgentError(message)
        return np.array(state.ravel())  # a copy: environments reuse their memory

    def close(self) -> None:
        """Let go of the environment."""
        self._env.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def episode_seed(seed: int, stream: int, place: int, episode: int) -> int:
    """Seed of an episode's reset, so that episodes do not depend on those before them."""
    return int(np.random.SeedSequence([seed, stream, place, episode]).generate_state(1)[0])
