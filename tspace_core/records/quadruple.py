"""Steps of a run of grid rows: what a record is made of before its action is known.

A step is two windows of W rows. Of step k, which begins at row ``start + 2 W k``::

    rows [0, W)      state window: what the agent sees; it decides at its end
    rows [W, 2W)     half step, in which the flash takes effect
    rows [2W, 3W)    the next state window

A row's energy is that of the step which ends at it, so the rows [W, 3W) hold what was used from the last
sample of one state window to the last sample of the next: everything in a run is counted once.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tspace_core.config import Vehicle
from tspace_core.records.reward import reward, road_load_w
from tspace_core.records.window import GridTable

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Steps:
    """n steps of one run.

    Attributes:
        starts: (n + 1,) grid row at which each state window begins.
        states: (n + 1, state_dim) float32, windows flattened from (samples, signals).
        top_speed_kmh: (n,) highest speed in each step's state window.
        energy_wh, distance_m: (n,) in the two windows after the decision.
        rewards: (n,) float32.
    """

    starts: NDArray[np.int64]
    states: NDArray[np.float32]
    top_speed_kmh: Float
    energy_wh: Float
    distance_m: Float
    rewards: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rewards)


def step_count(rows: int, window: int) -> int:
    """Return how many whole steps fit into a run of ``rows`` grid rows: n steps take (2 n + 1) windows."""
    return max((rows // window - 1) // 2, 0)


def make_steps(table: GridTable, start: int, count: int, vehicle: Vehicle) -> Steps:
    """Cut ``count`` steps from row ``start`` on; all their rows must be valid and of one segment."""
    window = vehicle.sampling.window
    starts = start + 2 * window * np.arange(count + 1, dtype=np.int64)
    columns = [table.values[name] for name in vehicle.sampling.signals]
    rows = starts[:, None] + np.arange(window)
    states = np.stack([column[rows] for column in columns], axis=-1).reshape(count + 1, -1)
    velocity = table.values["velocity"].astype(np.float64)
    used = starts[:-1, None] + np.arange(window, 3 * window)
    energy, distance = table.energy_wh[used].sum(axis=1), table.distance_m[used].sum(axis=1)
    rewards = step_rewards(
        vehicle,
        energy_wh=energy,
        distance_m=distance,
        v_decision_kmh=velocity[starts[:-1] + window - 1],
        v_used_kmh=velocity[used],
    )
    return Steps(
        starts=starts,
        states=np.ascontiguousarray(states, np.float32),
        top_speed_kmh=velocity[rows[:-1]].max(axis=1),
        energy_wh=energy,
        distance_m=distance,
        rewards=rewards,
    )


def step_rewards(
    vehicle: Vehicle, *, energy_wh: Float, distance_m: Float, v_decision_kmh: Float, v_used_kmh: Float
) -> NDArray[np.float32]:
    """Return the rewards of n steps by the vehicle's reward kind; online records are rewarded by it, too.

    Args:
        vehicle: its road load, mass and reward kind.
        energy_wh: (n,) in the two windows after the decision.
        distance_m: (n,) in the same.
        v_decision_kmh: (n,) velocity at the decision, the last sample of the step's state window.
        v_used_kmh: (n, 2 W) velocity in the two windows after it; the last is that of the next decision.
    """
    road = vehicle.road
    resistance = road_load_w(
        v_used_kmh,
        mass_kg=road.mass_kg,
        rolling_resistance=road.rolling_resistance,
        drag_area_m2=road.drag_area_m2,
        air_density_kg_m3=road.air_density_kg_m3,
    )
    return reward(
        vehicle.reward.kind,
        energy_wh=energy_wh,
        distance_m=distance_m,
        v_start_kmh=v_decision_kmh,
        v_end_kmh=v_used_kmh[:, -1],
        duration_s=2 * vehicle.sampling.window_s,
        road_load_w=resistance.mean(axis=1),
        mass_kg=road.mass_kg * road.rotating_mass_factor,
        gamma=vehicle.reward.gamma,
        minimum_distance_m=vehicle.reward.minimum_distance_m,
    )
