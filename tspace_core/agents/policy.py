"""A trained agent as a policy that evaluation and the twin can drive with."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tspace_core.agents import load_agent
from tspace_core.agents.dpg import DPG
from tspace_core.objects.path import AnyPath

if TYPE_CHECKING:
    from tspace_core.agents.session import Session


class AgentPolicy:
    """Any agent without noise; satisfies ``records.policy.InformedPolicy``."""

    def __init__(self, agent: DPG) -> None:
        self._agent = agent
        self._session: Session | None = None

    @classmethod
    def load(cls, directory: AnyPath) -> "AgentPolicy":
        """The policy of a checkpoint, whichever agent it is of.

        Raises:
            CheckpointError: an unknown agent, or a file that is missing or damaged.
        """
        return cls(load_agent(directory))

    def begin(self, count: int) -> None:
        """New episodes for ``count`` vehicles."""
        self._session = self._agent.session(count)
        self._session.begin()

    def __call__(
        self, states: NDArray[np.float32], rewards: NDArray[np.float32] | None = None, /
    ) -> NDArray[np.float32]:
        """Actions in [-1, 1] for every state (n, state_dim); ``rewards`` (n,) of the steps before.

        Without ``begin``, or for another number of states than it was told, new episodes begin.

        Raises:
            AgentError: wrong shape, or a value that is not finite.
        """
        states = np.atleast_2d(states)
        if self._session is None or self._session.count != len(states):
            self.begin(len(states))
        assert self._session is not None
        return self._session.act(states, rewards)

    def carried_out(self, actions: NDArray[np.float32]) -> None:
        """What the newest actions became, (n, action_dim), where a guard or a limit changed them."""
        if self._session is not None:
            self._session.carried_out(actions)
