"""Mean, deviation and range of the rows of a growing replay buffer, also when the oldest leave.

Taking a row out of a running mean and deviation loses digits each time. So chunks of rows are summed up, a
chunk's figures never change, and those of what is kept are put together from them (Chan, Golub, LeVeque
1979). They depend on the kept rows and their places alone, not on the way there.

The figures of a block are one float64 row::

    [rows | records | reward sum | least reward | largest reward | state mean | sum of squared differences]
"""

import numpy as np
from numpy.typing import NDArray

from tspace_core.storage.replay_manifest import RewardRange

CHUNK = 4096
"""Rows of a chunk."""
_HEAD = 5


def width(state_dim: int) -> int:
    """Length of a row of figures."""
    return _HEAD + 2 * state_dim


def figures(rows: NDArray[np.float32], state_dim: int) -> NDArray[np.float64]:
    """Figures of (n, row_width) rows; those whose reward is NaN are no records."""
    found = np.zeros(width(state_dim))
    found[3:5] = np.inf, -np.inf
    if not len(rows):
        return found
    states = rows[:, :state_dim].astype(np.float64)
    rewards = rows[:, -2].astype(np.float64)
    rewards = rewards[~np.isnan(rewards)]
    mean = states.mean(axis=0)
    found[0], found[1] = len(rows), len(rewards)
    if len(rewards):
        found[2:5] = rewards.sum(), rewards.min(), rewards.max()
    found[_HEAD : _HEAD + state_dim] = mean
    found[_HEAD + state_dim :] = np.square(states - mean).sum(axis=0)
    return found


def together(parts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Figures of several blocks, (blocks, width), as one."""
    parts = parts[parts[:, 0] > 0]
    if len(parts) == 1:
        return np.array(parts[0])
    state_dim = (parts.shape[1] - _HEAD) // 2
    found = np.zeros(parts.shape[1])
    found[3:5] = np.inf, -np.inf
    if not len(parts):
        return found
    counts = parts[:, :1]
    means, squares = parts[:, _HEAD : _HEAD + state_dim], parts[:, _HEAD + state_dim :]
    found[:3] = parts[:, :3].sum(axis=0)
    found[3:5] = parts[:, 3].min(), parts[:, 4].max()
    mean = (counts * means).sum(axis=0) / found[0]
    found[_HEAD : _HEAD + state_dim] = mean
    found[_HEAD + state_dim :] = (squares + counts * np.square(means - mean)).sum(axis=0)
    return found


def state_moments(found: NDArray[np.float64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the states; zeros where there is no row."""
    state_dim = (len(found) - _HEAD) // 2
    mean = found[_HEAD : _HEAD + state_dim]
    std = np.sqrt(found[_HEAD + state_dim :] / max(found[0], 1.0))
    return tuple(mean.tolist()), tuple(std.tolist())


def reward_range(found: NDArray[np.float64]) -> RewardRange:
    """Least, largest and mean reward; zeros where there is no record."""
    if not found[1]:
        return RewardRange(minimum=0.0, maximum=0.0, mean=0.0)
    return RewardRange(minimum=float(found[3]), maximum=float(found[4]), mean=float(found[2] / found[1]))
