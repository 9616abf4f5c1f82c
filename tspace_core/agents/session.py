"""An agent that acts, in one place or many at once: with noise where it explores, with what it remembers."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tspace_core.agents.checkpoint import Component
from tspace_core.agents.noise import OrnsteinUhlenbeck
from tspace_core.errors import AgentError

if TYPE_CHECKING:
    from tspace_core.agents.dpg import DPG


class Session:
    """An agent acting in ``count`` places, each with an episode of its own going on.

    This is the one way to drive with any agent: ``begin`` the episodes, then ``act`` once a step. An agent
    without memory ignores rewards and past actions; a recurrent one overrides what is needed.

    Args:
        agent: whose policy acts; read at each step, so that it may learn meanwhile.
        count: places.
        explore: exploration noise on top, clipped to [-1, 1].
        seed: of the noise.
    """

    def __init__(self, agent: "DPG", count: int = 1, *, explore: bool = False, seed: int = 0) -> None:
        if count < 1:
            message = f"a session in {count} places, at least 1 is needed"
            raise AgentError(message)
        self.agent = agent
        self.count = count
        self.explore = explore
        self._generator = np.random.default_rng([agent.seed, 3, seed])
        self._noise = OrnsteinUhlenbeck(agent.basis.size, agent.hyper.noise, self._generator)
        self._noise.state = np.zeros((count, agent.basis.size))

    def begin(self, places: NDArray[np.bool_] | None = None) -> None:
        """New episodes in these places, (count,) bool, or in all: noise at zero, nothing remembered."""
        self._noise.state[slice(None) if places is None else places] = 0.0

    def act(
        self, states: NDArray[np.float32], rewards: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """The actions to carry out, (count, action_dim) in [-1, 1].

        Args:
            states: (count, state_dim), physical units.
            rewards: (count,) of the steps that led to these states; None: an episode's first step, zeros.

        Raises:
            AgentError: wrong shapes, or values that are not finite.
        """
        return self.agent.basis.expand(self._explored(self.agent.codes(self._checked(states))))

    def carried_out(self, actions: NDArray[np.float32]) -> None:
        """What was really done, (count, action_dim), where it is not what ``act`` said."""

    @property
    def memory(self) -> NDArray[np.float32] | None:
        """(count, memory_dim) before the last ``act``, to be kept with its record; None: no memory."""
        return None

    def component(self) -> Component:
        """Where the session stands, for a checkpoint."""
        values = {
            "noise": self._noise.state.tolist(),
            "generator": self._generator.bit_generator.state,
        }
        return Component(values=values)

    def restore(self, component: Component) -> None:
        """Go on from what ``component`` gave."""
        self._noise.state = np.array(component.values["noise"])
        self._generator.bit_generator.state = component.values["generator"]

    def _checked(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        if np.shape(states) != (self.count, self.agent.state_dim):
            message = (
                f"states have shape {np.shape(states)}, a session in {self.count} places expects "
                f"({self.count}, {self.agent.state_dim})"
            )
            raise AgentError(message)
        return self.agent.as_states(states)

    def _explored(self, codes: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self.explore:
            return codes
        noisy: NDArray[np.float32] = np.clip(codes + self._noise.sample(self.count), -1.0, 1.0)
        return noisy
