"""Returns of the episodes in a replay buffer: what the behaviour behind the data earned."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tspace_core.storage.replay import Replay

SHARE = 0.05
"""Share of the newest return in the running reward."""


def episode_returns(replay: Replay) -> NDArray[np.float64]:
    """Undiscounted sum of each episode's drawn rewards, (episodes,), in the order of the buffer."""
    drawn = (episode.records for episode in replay.manifest.content.episodes)
    lengths = [records for records in drawn if records]
    ends = np.cumsum(lengths, dtype=np.int64)
    return np.array(
        [
            replay.pick(np.arange(end - length, end)).rewards.sum(dtype=np.float64)
            for length, end in zip(lengths, ends.tolist(), strict=True)
        ]
    )


def running_reward(returns: ArrayLike) -> NDArray[np.float64]:
    """Returns smoothed from one episode to the next, (episodes,): ``r += SHARE * (return - r)``.

    It begins with the first return.
    """
    values = np.array(returns, dtype=np.float64)
    for k in range(1, len(values)):
        values[k] = values[k - 1] + SHARE * (values[k] - values[k - 1])
    return values
