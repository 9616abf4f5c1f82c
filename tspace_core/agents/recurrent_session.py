"""A recurrent agent that acts: each place has its own history."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from tspace_core.agents.checkpoint import Component
from tspace_core.agents.session import Session
from tspace_core.errors import AgentError

if TYPE_CHECKING:
    from tspace_core.agents.rdpg import RDPG


class RecurrentSession(Session):
    """A session that keeps, for each place, the action before and what the actor remembers.

    Weights that the agent takes over while driving act from the next step on; the memory goes on.
    """

    agent: "RDPG"

    def __init__(self, agent: "RDPG", count: int = 1, *, explore: bool = False, seed: int = 0) -> None:
        """See ``Session``."""
        super().__init__(agent, count, explore=explore, seed=seed)
        self._before = np.zeros((count, agent.basis.size), np.float32)
        self._state = torch.zeros(count, agent.actor.model.memory_dim)
        self._fresh = np.ones(count, np.bool_)
        self._kept = np.zeros((count, agent.memory_dim), np.float32)

    def begin(self, places: NDArray[np.bool_] | None = None) -> None:
        """New episodes in these places, (count,) bool, or in all: noise at zero, nothing remembered."""
        super().begin(places)
        where = np.ones(self.count, np.bool_) if places is None else np.asarray(places, np.bool_)
        self._before[where] = 0.0
        self._state[torch.from_numpy(where)] = 0.0
        self._fresh[where] = True

    def act(
        self, states: NDArray[np.float32], rewards: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """The actions to carry out, (count, action_dim) in [-1, 1].

        Args:
            states: (count, state_dim), physical units.
            rewards: (count,) of the steps that led to these states, any number where an episode begins; None:
                zeros.

        Raises:
            AgentError: wrong shapes, or values that are not finite; nothing is remembered of them.
        """
        checked, earned = self._checked(states), self._earned(rewards)
        stored = self._state[:, : self.agent.actor.model.stored_dim].numpy()
        kept = np.concatenate([self._before, earned[:, None], stored], axis=1)
        codes, state = self.agent.step(checked, self._before, earned, self._state)
        actions = self.agent.basis.expand(self._explored(codes))
        self._kept, self._state = kept, state
        self._before = np.array(self.agent.basis.project(actions), np.float32)
        self._fresh[:] = False
        return actions

    def carried_out(self, actions: NDArray[np.float32]) -> None:
        """What was really done, (count, action_dim), where it is not what ``act`` said.

        Raises:
            AgentError: a wrong shape, or a value that is not finite.
        """
        done = np.asarray(actions, np.float32)
        expected = (self.count, self.agent.action_dim)
        if done.shape != expected or not np.isfinite(done).all():
            message = f"actions carried out have shape {done.shape}, expected {expected} finite numbers"
            raise AgentError(message)
        self._before = np.array(self.agent.basis.project(done), np.float32)

    @property
    def memory(self) -> NDArray[np.float32]:
        """(count, memory_dim) before the last ``act``: action and reward before it, and the stored state."""
        return self._kept.copy()

    def component(self) -> Component:
        """Where the session stands, for a checkpoint."""
        tensors = {
            "before": torch.from_numpy(self._before.copy()),
            "state": self._state.clone(),
            "kept": torch.from_numpy(self._kept.copy()),
        }
        return Component(tensors, {**super().component().values, "fresh": self._fresh.tolist()})

    def restore(self, component: Component) -> None:
        """Go on from what ``component`` gave.

        Raises:
            AgentError: it is of another number of places or another agent; nothing is changed then.
        """
        for name, mine in (("before", self._before), ("state", self._state), ("kept", self._kept)):
            found = tuple(component.tensors[name].shape) if name in component.tensors else None
            if found != tuple(mine.shape):
                message = (
                    f"{name} of the session to go on from has shape {found}, this one has "
                    f"{tuple(mine.shape)}; use a session of the same agent and number of places"
                )
                raise AgentError(message)
        super().restore(component)
        self._before = component.tensors["before"].numpy().copy()
        self._state = component.tensors["state"].clone()
        self._kept = component.tensors["kept"].numpy().copy()
        self._fresh = np.array(component.values["fresh"], np.bool_)

    def _earned(self, rewards: NDArray[np.float32] | None) -> NDArray[np.float32]:
        if rewards is None:
            return np.zeros(self.count, np.float32)
        given = np.asarray(rewards, np.float32)
        if given.shape != (self.count,):
            message = f"rewards have shape {given.shape}, a session in {self.count} places expects one each"
            raise AgentError(message)
        earned: NDArray[np.float32] = np.where(self._fresh, np.float32(0), given)
        if not np.isfinite(earned).all():
            bad = int((~np.isfinite(earned)).sum())
            message = f"rewards hold {bad} values that are not finite; end the episode where one is missing"
            raise AgentError(message)
        return earned
