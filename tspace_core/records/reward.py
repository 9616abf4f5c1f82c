"""Rewards of a step, by kind; the formulas with their reasons are in docs/rewards.md.

All kinds take what a step used (arrays of equal length, one entry a step) and give -cost, so more is better:

==================== ============================================================ =======
kind                 reward                                                       unit
==================== ============================================================ =======
energy               -E                                                           Wh
energy_per_distance  -E / max(d, d_min)                                           Wh/km
energy_shaped        -E + gamma * Phi(s') - Phi(s), Phi = kinetic energy          Wh
loss                 -(E - road load work - (KE(s') - KE(s)))                     Wh
==================== ============================================================ =======
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tspace_core.errors import RecordError

RewardKind = Literal["energy", "energy_per_distance", "energy_shaped", "loss"]
REWARD_KINDS: tuple[str, ...] = get_args(RewardKind)

GRAVITY = 9.80665
"""Standard gravity, m/s2."""

Float = NDArray[np.float64]


def kinetic_energy_wh(velocity_kmh: ArrayLike, mass_kg: float) -> Float:
    """Return the kinetic energy in Wh; ``mass_kg`` includes the equivalent mass of what rotates."""
    speed = np.asarray(velocity_kmh, np.float64) / 3.6
    return np.asarray(0.5 * mass_kg * speed**2 / 3600.0)


def road_load_w(
    velocity_kmh: ArrayLike,
    *,
    mass_kg: float,
    rolling_resistance: float,
    drag_area_m2: float,
    air_density_kg_m3: float = 1.2,
) -> Float:
    """Return the power in W that rolling and air resistance take on a level road at a velocity.

    ``mass_kg`` is the gross mass without rotating parts; ``drag_area_m2`` is Cd * A.
    """
    speed = np.asarray(velocity_kmh, np.float64) / 3.6
    force = mass_kg * GRAVITY * rolling_resistance + 0.5 * air_density_kg_m3 * drag_area_m2 * speed**2
    return np.asarray(force * speed)


def reward(
    kind: str,
    *,
    energy_wh: ArrayLike,
    distance_m: ArrayLike = 0.0,
    v_start_kmh: ArrayLike = 0.0,
    v_end_kmh: ArrayLike = 0.0,
    duration_s: ArrayLike = 0.0,
    road_load_w: ArrayLike = 0.0,
    mass_kg: float = 0.0,
    gamma: float = 0.99,
    minimum_distance_m: float = 1.0,
) -> NDArray[np.float32]:
    """Return the rewards of steps.

    Args:
        kind: one of ``REWARD_KINDS``.
        energy_wh: electric energy used while the action was in effect, discharge positive.
        distance_m: distance driven in the same time.
        v_start_kmh: velocity at the decision, the last sample of the step's own state window.
        v_end_kmh: velocity at the next decision, the last sample of the next state window.
        duration_s: time between the two decisions.
        road_load_w: mean power of rolling and air resistance over that time.
        mass_kg: mass with rotating parts (mass * rotating_mass_factor), for the kinetic energy.
        gamma: the agent's discount, which potential-based shaping needs to leave the optimum where it is.
        minimum_distance_m: least divisor of energy_per_distance, so that standing still is finite.

    Returns:
        float32 of the broadcast shape.

    Raises:
        RecordError: if ``kind`` is unknown, or a limit that the kind needs is not positive.
    """
    energy = np.asarray(energy_wh, np.float64)
    if kind == "energy":
        result = -energy
    elif kind == "energy_per_distance":
        _require_positive("minimum_distance_m", minimum_distance_m, kind)
        result = -energy / (np.maximum(np.asarray(distance_m, np.float64), minimum_distance_m) / 1000.0)
    elif kind == "energy_shaped":
        _require_positive("mass_kg", mass_kg, kind)
        shaping = gamma * kinetic_energy_wh(v_end_kmh, mass_kg) - kinetic_energy_wh(v_start_kmh, mass_kg)
        result = -energy + shaping
    elif kind == "loss":
        _require_positive("mass_kg", mass_kg, kind)
        work = np.asarray(road_load_w, np.float64) * np.asarray(duration_s, np.float64) / 3600.0
        change = kinetic_energy_wh(v_end_kmh, mass_kg) - kinetic_energy_wh(v_start_kmh, mass_kg)
        result = -(energy - work - change)
    else:
        message = f"unknown reward kind {kind!r}; choose one of {', '.join(REWARD_KINDS)}"
        raise RecordError(message)
    return np.asarray(result, np.float32)


def _require_positive(name: str, value: float, kind: str) -> None:
    if not value > 0.0:
        message = f"reward {kind!r} needs {name} > 0, not {value}: set it in the vehicle's file"
        raise RecordError(message)
