"""What a learned policy is measured against.

``default`` is the reference of every paired difference; ``minus_budget`` shows what plainly asking for less
torque does; ``random`` shows what flashing without knowledge does. The learned policy goes by ``policy``.
"""

import numpy as np
from numpy.typing import NDArray

from tspace_core.config import FLASHED_ROWS, TorqueMap, Vehicle
from tspace_core.records.policy import Policy

DEFAULT = "default"
MINUS_BUDGET = "minus_budget"
RANDOM = "random"
POLICY = "policy"

DESCRIPTIONS = {
    DEFAULT: "the vehicle's default torque map, never flashed",
    MINUS_BUDGET: "the default map less the torque budget everywhere, within the map's limits",
    RANDOM: "a new action every step, uniform within the bounds",
    POLICY: "the trained policy, consulted every step, without exploration noise",
}


class RandomPolicy:
    """Actions drawn evenly from [-1, 1]; the same seed and calls give the same actions."""

    def __init__(self, action_dim: int, seed: int = 0) -> None:
        self._action_dim = action_dim
        self._generator = np.random.default_rng(seed)

    def __call__(self, states: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Return an action for every state, shape (n, action_dim)."""
        return self._generator.uniform(-1.0, 1.0, (len(states), self._action_dim)).astype(np.float32)


def minus_budget_map(vehicle: Vehicle) -> TorqueMap:
    """The default map less the budget in every cell, each row flashed under the map's own limits."""
    default = vehicle.default_map()
    config = vehicle.torque_map
    action = np.full(vehicle.action_dim, -1.0, dtype=np.float32)
    changed = default
    last = len(config.speed_axis_kmh) - FLASHED_ROWS
    for first_row in [*range(0, last, FLASHED_ROWS), last]:
        changed = changed.flashed(
            action, first_row, default, budget_nm=config.budget_nm, upper_factor=config.upper_factor
        )
    return changed


def baselines(vehicle: Vehicle, *, seed: int = 0) -> dict[str, Policy | TorqueMap]:
    """The candidates that stand beside a learned policy in every comparison.

    Args:
        vehicle: whose default map and budget are used.
        seed: of the random policy.
    """
    return {
        DEFAULT: vehicle.default_map(),
        MINUS_BUDGET: minus_budget_map(vehicle),
        RANDOM: RandomPolicy(vehicle.action_dim, seed),
    }
