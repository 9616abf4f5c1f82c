"""What acts on a torque map: from states to actions."""

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

ACTION_ROWS = 4
"""Consecutive rows of the torque map that one action changes."""
ACTION_COLUMNS = 17
"""Columns of every torque map: points of the pedal axis."""
ACTION_DIM = ACTION_ROWS * ACTION_COLUMNS
"""Length of a flat action: rows first, then columns."""


@runtime_checkable
class Policy(Protocol):
    """A decision rule for many vehicles at once, without noise and without side effects."""

    def __call__(self, states: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Return an action for every state.

        Args:
            states: shape (n, state_dim) float32; a row is one window, flattened from (samples, signals) in
                the order and units of ``vehicle.sampling.signals`` (velocity km/h, thrust %, brake %).

        Returns:
            Shape (n, 68) float32 in [-1, 1]: 4 map rows x 17 pedal columns, row-major, as fractions of the
            torque budget that are added to the default map.
        """
        ...


@runtime_checkable
class StatefulPolicy(Policy, Protocol):
    """A policy that remembers its episodes: told when they begin, and what each step earned."""

    def begin(self, count: int) -> None:
        """New episodes for ``count`` vehicles begin with the next call."""
        ...

    def __call__(
        self, states: NDArray[np.float32], rewards: NDArray[np.float32] | None = None, /
    ) -> NDArray[np.float32]:
        """As ``Policy``; ``rewards`` (n,) of the steps that led to these states, None at the begin."""
        ...


@runtime_checkable
class InformedPolicy(StatefulPolicy, Protocol):
    """A policy that is also told what was really done, where a guard or a limit changed it."""

    def carried_out(self, actions: NDArray[np.float32]) -> None:
        """What the newest actions became, (n, 68) in [-1, 1]."""
        ...


class ZeroPolicy:
    """The default map: an action of zeros for every state."""

    def __call__(self, states: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Return zeros of shape (n, 68)."""
        return np.zeros((len(states), ACTION_DIM), np.float32)


class ConstantPolicy:
    """The same action for every state, for example the constant -budget baseline."""

    def __init__(self, value: float | NDArray[np.float32]) -> None:
        action = np.broadcast_to(np.asarray(value, np.float32).ravel(), (ACTION_DIM,))
        self._action = np.clip(action, -1.0, 1.0).astype(np.float32)

    def __call__(self, states: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Return the action, repeated to shape (n, 68)."""
        return np.tile(self._action, (len(states), 1))
