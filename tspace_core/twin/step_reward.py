"""The reward of a step in the twin, for any number of vehicles at once."""

import numpy as np
from numpy.typing import NDArray

from tspace_core.config.vehicle import Vehicle
from tspace_core.records.quadruple import step_rewards as rewards_of
from tspace_core.twin.arrays import Array
from tspace_core.twin.trace import Trace


def step_rewards(
    vehicle: Vehicle, energy_wh: Array, distance_m: Array, before: Trace, half_step: Trace, window: Trace
) -> NDArray[np.float32]:
    """Rewards of one step of each vehicle, in the kind and unit of the vehicle's file.

    Args:
        vehicle: whose reward and road load are meant.
        energy_wh: (n,) used from one decision to the next.
        distance_m: (n,) driven in the same time.
        before: the window that was decided on.
        half_step: what was driven after it.
        window: the next state window, at whose end the next decision falls.

    Returns:
        (n,) float32.
    """
    return rewards_of(
        vehicle,
        energy_wh=np.asarray(energy_wh, np.float64),
        distance_m=np.asarray(distance_m, np.float64),
        v_decision_kmh=before.velocity[:, -1],
        v_used_kmh=np.concatenate([half_step.velocity, window.velocity], axis=1),
    )
