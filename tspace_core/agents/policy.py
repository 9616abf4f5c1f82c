"""A trained agent as a policy that evaluation and the twin can drive with."""

import numpy as np
from numpy.typing import NDArray

from tspace_core.agents.ddpg import DDPG
from tspace_core.objects.path import AnyPath


class DDPGPolicy:
    """Satisfies ``records.policy.Policy``: states (n, state_dim) to actions (n, action_dim), no noise."""

    def __init__(self, agent: DDPG) -> None:
        self._agent = agent

    @classmethod
    def load(cls, directory: AnyPath) -> "DDPGPolicy":
        """The policy of a checkpoint.

        Raises:
            CheckpointError: names the file that is missing, damaged or of another agent.
        """
        return cls(DDPG.load(directory, mode="infer"))

    def __call__(self, states: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Actions in [-1, 1] for every state.

        Raises:
            AgentError: wrong shape, or a value that is not finite.
        """
        return self._agent.predict(np.atleast_2d(states))
