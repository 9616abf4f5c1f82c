"""From the few numbers that an actor decides to the cells of an action, and back."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tspace_core.errors import AgentError
from tspace_core.records.policy import ACTION_COLUMNS


class ActionBasis:
    """A linear map from a code of ``size`` numbers in [-1, 1] to an action of ``action_dim`` in [-1, 1].

    Without bands the code is the action. With bands the code holds one number a band along the pedal axis:
    a cell's value is interpolated linearly between the centres of the bands beside it, and is the same in
    all rows of the action. Few smooth outputs explore better than many independent ones, and cannot undo
    each other's effect from one pedal position to the next.

    Args:
        action_dim: length of an action.
        bands: centres as shares of the pedal axis, 0 to 1, strictly ascending; none: each cell on its own.

    Raises:
        AgentError: bands for an action that has no pedal axis, centres that are not ascending in 0 to 1, or
            that lie closer than its columns, so that an action does not say which code it was.
    """

    def __init__(self, action_dim: int, bands: Sequence[float] = ()) -> None:
        self.action_dim = action_dim
        self.size = len(bands) or action_dim
        self.matrix: NDArray[np.float32] | None = None
        """(size, action_dim), None where the code is the action."""
        self.inverse: NDArray[np.float32] | None = None
        """(action_dim, size), of ``project``."""
        if not bands:
            return
        centres = np.asarray(bands, np.float64)
        if not ((np.diff(centres) > 0).all() and centres[0] >= 0 and centres[-1] <= 1):
            message = f"action_bands are {tuple(bands)}: shares of the pedal axis, ascending within 0 to 1"
            raise AgentError(message)
        if action_dim % ACTION_COLUMNS:
            message = (
                f"action_bands are for torque maps of {ACTION_COLUMNS} pedal columns, an action of "
                f"{action_dim} has none; leave them empty"
            )
            raise AgentError(message)
        pedal = np.linspace(0.0, 1.0, ACTION_COLUMNS)
        row = np.stack([np.interp(pedal, centres, unit) for unit in np.eye(len(centres))])
        if np.linalg.matrix_rank(row) < len(centres):
            message = (
                f"action_bands are {tuple(bands)}: they lie closer than the {ACTION_COLUMNS} pedal columns, "
                f"1/{ACTION_COLUMNS - 1} apart, can tell apart; take fewer, or further from each other"
            )
            raise AgentError(message)
        matrix = np.tile(row, (1, action_dim // ACTION_COLUMNS))
        self.matrix = matrix.astype(np.float32)
        self.inverse = np.linalg.pinv(matrix).astype(np.float32)

    def expand(self, codes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Actions (n, action_dim) of codes (n, size)."""
        if self.matrix is None:
            return codes
        actions: NDArray[np.float32] = np.clip(codes @ self.matrix, -1.0, 1.0)
        return actions

    def project(self, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Codes (..., size) whose actions are nearest to these (..., action_dim)."""
        if self.inverse is None:
            return actions
        codes: NDArray[np.float32] = np.clip(actions @ self.inverse, -1.0, 1.0)
        return codes
