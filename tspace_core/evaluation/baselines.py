"""What a learned policy is measured against.

``default`` is the reference of every paired difference; ``minus_budget`` shows what plainly asking for less
torque does; ``random`` shows what flashing without knowledge does. The learned policy goes by ``policy``.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tspace_core.config import FLASHED_ROWS, TorqueMap, Vehicle
from tspace_core.records.policy import Policy

DEFAULT = "default"
MINUS_BUDGET = "minus_budget"
RANDOM = "random"
BEST_STATIC = "best_static"
POLICY = "policy"

DESCRIPTIONS = {
    DEFAULT: "the vehicle's default torque map, never flashed",
    MINUS_BUDGET: "the default map less the torque budget everywhere, within the map's limits",
    RANDOM: "a new action every step, uniform within the bounds",
    BEST_STATIC: "the best fixed change of the default map that was found on the twin, in effect throughout",
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


def baselines(
    vehicle: Vehicle,
    *,
    seed: int = 0,
    cycle: str | None = None,
    guarded: bool = False,
    folder: Path | None = None,
) -> dict[str, Policy | TorqueMap]:
    """The candidates that stand beside a learned policy in every comparison.

    Args:
        vehicle: whose default map and budget are used.
        seed: of the random policy.
        cycle: that will be driven: the best static map is among them where one is stored for vehicle and
            cycle (``best_static.best_static_map`` searches and stores one).
        guarded: take the best static map within the guard's limits.
        folder: of stored maps; default: conf/static_maps.

    Raises:
        ConfigError: the stored map is damaged.
    """
    found: dict[str, Policy | TorqueMap] = {
        DEFAULT: vehicle.default_map(),
        MINUS_BUDGET: minus_budget_map(vehicle),
        RANDOM: RandomPolicy(vehicle.action_dim, seed),
    }
    if cycle is not None and vehicle.twin is not None:
        from tspace_core.evaluation.best_static import stored_static_map
        from tspace_core.evaluation.static_map import StaticSearch

        search = StaticSearch(limits="guard" if guarded else "flash")
        stored = stored_static_map(vehicle, cycle, search=search, folder=folder)
        if stored is not None:
            found[BEST_STATIC] = stored.torque_map(vehicle)
    return found
