"""The arrays that the compiled core works on: state, ledger, trace columns, constants and tables."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
GRAVITY = 9.80665
"""Standard gravity, m/s2."""

STATE = np.dtype(
    [
        ("step", "i8"),
        ("distance", "f8"),
        ("speed", "f8"),
        ("acceleration", "f8"),
        ("motor_torque", "f8"),
        ("motor_speed", "f8"),
        ("current", "f8"),
        ("voltage", "f8"),
        ("soc", "f8"),
        ("pedal_travel", "f8"),
        ("pedal", "f8"),
        ("brake", "f8"),
        ("integral", "f8"),
        ("demand", "f8"),
        ("tremor", "f8"),
        ("reference", "f8"),
        ("dwelt", "f8"),
        ("stop", "i8"),
        ("random", "u8"),
        ("done", "i8"),
    ],
    align=True,
)
"""One record a vehicle, SI units; pedals as fractions of full travel; stop = number of the next stop."""

LEDGER = np.dtype(
    [
        (name, "f8")
        for name in (
            "chemical",
            "terminal",
            "potential",
            "rolling",
            "air",
            "driveline",
            "motor",
            "battery",
            "friction_brake",
            "auxiliary",
        )
    ],
    align=True,
)
"""Energies in J since the start; chemical and terminal (V x I) positive for discharge, the others losses."""

CHANNELS = (
    "time",
    "distance",
    "velocity",
    "thrust",
    "brake",
    "current",
    "voltage",
    "motor_torque",
    "motor_speed",
    "soc",
    "reference",
    "acceleration",
)
"""Columns of a trace block: s, m, km/h, %, %, A, V, Nm, rpm, %, km/h, m/s2."""


class Plant(NamedTuple):
    """The vehicle's constants in SI units."""

    step: float
    mass: float
    inertial_mass: float
    rolling: float
    drag: float
    wind: float
    shaft_per_metre: float
    driveline_efficiency: float
    map_to_motor: float
    torque_max: float
    power_max: float
    regen_torque_max: float
    regen_power_max: float
    regen_fade_low: float
    regen_fade_high: float
    speed_max: float
    torque_share: float
    loss: Array
    loss_torque_max: float
    loss_speed_max: float
    ocv: Array
    resistance: float
    capacity: float
    auxiliary: float
    brake_force_max: float
    brake_blend_share: float
    pedal_axis: Array
    speed_axis: Array


class Road(NamedTuple):
    """The route's tables: along the distance on a uniform grid, along the time on another."""

    by_place: bool
    spacing: float
    squared_speed: Array
    sine: Array
    period: float
    speed: Array
    length: float
    duration: float
    stop_place: Array
    stop_dwell: Array


class Style(NamedTuple):
    """How the drivers drive, one value a vehicle."""

    preview: Array
    speed_gain: Array
    integral_gain: Array
    adaptation: Array
    pedal_rate: Array
    reaction: Array
    acceleration_limit: Array
    braking_limit: Array
    noise: Array
