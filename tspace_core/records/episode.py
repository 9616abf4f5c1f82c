"""An episode: the ordered run of records (time, state, action, reward, next state).

Timeline of a record, W being the length of a window::

    [t, t+W)      state window k            decision at its end
    [t+W, t+2W)   half step: the flash      energy, no decision
    [t+2W, t+3W)  next state window, k+1

Its reward is made of what was used in [t+W, t+3W). The next state is not stored twice: states holds one row
more than there are records, and record k's next state is row k+1.
"""

from dataclasses import dataclass
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray

from tspace_core.errors import RecordError
from tspace_core.records.meta import EpisodeMeta
from tspace_core.records.policy import ACTION_DIM


class RecordFlag(IntFlag):
    """Bits of an episode's ``flags``, one byte a record."""

    FIRST = 1
    """First record of its episode: its action is zero by definition."""
    FLASHED = 2
    """A flash took effect in this record's half step."""
    HELD = 4
    """No flash took effect: the action is what the live map still differed from the default."""
    ZEROED = 8
    """A first record whose live map was not the default although its action says zero."""
    INFERRED = 16
    """The action was inferred from the torque that the motor gave."""
    CLIPPED = 32
    """The torque differs from the default map's by more than the budget: the action says 1 or -1 for more."""


@dataclass(frozen=True)
class Episode:
    """One episode of n records.

    Attributes:
        states: (n + 1, state_dim) float32; a row is a window flattened from (samples, signals).
        actions: (n, 68) float32 in [-1, 1], 4 map rows x 17 pedal columns.
        rows: (n,) int32, first map row of each action.
        rewards: (n,) float32, finite.
        times: (n + 1,) int64 ns UTC, first sample of each state window, ascending.
        flags: (n,) uint8, bits of ``RecordFlag``.
        meta: where it comes from and what the numbers mean.
    """

    states: NDArray[np.float32]
    actions: NDArray[np.float32]
    rows: NDArray[np.int32]
    rewards: NDArray[np.float32]
    times: NDArray[np.int64]
    flags: NDArray[np.uint8]
    meta: EpisodeMeta

    def __post_init__(self) -> None:
        n = len(self.rewards)
        expected: dict[str, tuple[NDArray[np.generic], tuple[int, ...], type[np.generic]]] = {
            "states": (self.states, (n + 1, self.state_dim), np.float32),
            "actions": (self.actions, (n, ACTION_DIM), np.float32),
            "rows": (self.rows, (n,), np.int32),
            "rewards": (self.rewards, (n,), np.float32),
            "times": (self.times, (n + 1,), np.int64),
            "flags": (self.flags, (n,), np.uint8),
        }
        for name, (array, shape, dtype) in expected.items():
            if array.shape != shape or array.dtype != dtype:
                self._fail(f"{name} is {array.dtype}{array.shape}, expected {np.dtype(dtype)}{shape}")
        if n == 0:
            self._fail("it has no record, at least 1 is needed")
        for name, values in (("states", self.states), ("actions", self.actions), ("rewards", self.rewards)):
            if not np.isfinite(values).all():
                self._fail(f"{name} holds {int((~np.isfinite(values)).sum())} values that are not finite")
        if np.abs(self.actions).max() > 1.0:
            self._fail(f"an action is {np.abs(self.actions).max():.6g}, the limit is 1")
        if (np.diff(self.times) <= 0).any():
            self._fail("its times do not ascend")

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def state_dim(self) -> int:
        """Length of a state: window samples times signals."""
        return self.meta.window * len(self.meta.signals)

    def _fail(self, reason: str) -> None:
        message = f"episode {self.meta.episode_id}: {reason}"
        raise RecordError(message)
