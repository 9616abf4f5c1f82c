"""From a vehicle's config to the constants of the compiled core."""

import hashlib
import json
import math

import numpy as np

from tspace_core.config.torque_map import TorqueMap
from tspace_core.config.twin import MotorEfficiency, TwinParameters
from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import TwinError
from tspace_core.twin.arrays import GRAVITY, Array, Plant

LOSS_GRID = 97
"""Points along each axis of the motor's loss map."""
OCV_GRID = 201


def twin_parameters(vehicle: Vehicle) -> TwinParameters:
    """The vehicle's twin parameters.

    Raises:
        TwinError: the vehicle has no twin.
    """
    if vehicle.twin is None:
        message = f"vehicle {vehicle.id} has no twin: add a `twin:` section to its file in conf/vehicles"
        raise TwinError(message)
    return vehicle.twin


def build_plant(vehicle: Vehicle, wind_mps: float = 0.0) -> Plant:
    """Constants of the compiled core for ``vehicle``.

    Args:
        vehicle: a vehicle with a ``twin`` section.
        wind_mps: constant head wind in m/s, negative for tail wind.

    Raises:
        TwinError: the vehicle has no twin.
    """
    twin = twin_parameters(vehicle)
    road = vehicle.road
    shaft_per_metre = twin.gear_ratio / twin.wheel_radius_m
    # The axis reaches beyond top speed: downhill the truck may run faster than the governor drives it.
    loss_speed_max = 1.25 * twin.max_speed_kmh / 3.6 * shaft_per_metre
    soc = np.linspace(0.0, 1.0, OCV_GRID)
    lag = twin.torque_lag_s
    return Plant(
        step=twin.step_s,
        mass=road.mass_kg,
        inertial_mass=road.mass_kg * road.rotating_mass_factor,
        rolling=road.rolling_resistance * road.mass_kg * GRAVITY,
        drag=0.5 * road.air_density_kg_m3 * road.drag_area_m2,
        wind=wind_mps,
        shaft_per_metre=shaft_per_metre,
        driveline_efficiency=twin.driveline_efficiency,
        map_to_motor=1.0 if vehicle.torque_map.shaft == "motor" else 1.0 / twin.gear_ratio,
        torque_max=twin.torque_max_nm,
        power_max=twin.power_max_kw * 1e3,
        regen_torque_max=twin.regen_torque_max_nm,
        regen_power_max=twin.regen_power_max_kw * 1e3,
        regen_fade_low=twin.regen_fade_kmh[0] / 3.6,
        regen_fade_high=twin.regen_fade_kmh[1] / 3.6,
        speed_max=twin.max_speed_kmh / 3.6,
        torque_share=1.0 - math.exp(-twin.step_s / lag) if lag > 0 else 1.0,
        loss=loss_map(twin.motor_efficiency, twin.torque_max_nm, loss_speed_max, twin.power_max_kw * 1e3),
        loss_torque_max=twin.torque_max_nm,
        loss_speed_max=loss_speed_max,
        ocv=np.interp(soc, twin.battery_soc, twin.battery_ocv_v),
        resistance=twin.battery_resistance_ohm,
        capacity=twin.battery_capacity_ah * 3600.0,
        auxiliary=twin.auxiliary_kw * 1e3,
        brake_force_max=twin.brake_force_max_n,
        brake_blend_share=twin.brake_blend_share,
        pedal_axis=np.asarray(vehicle.torque_map.pedal_axis, dtype=np.float32).astype(np.float64),
        speed_axis=np.asarray(vehicle.torque_map.speed_axis_kmh, dtype=np.float32).astype(np.float64),
    )


def blended(vehicle: Vehicle) -> Vehicle:
    """The vehicle with brakes that regenerate before they use friction, as the oracle FASTSim has them."""
    twin = twin_parameters(vehicle).model_copy(update={"brake_blend_share": 1.0})
    return vehicle.model_copy(update={"twin": twin})


def drive_fingerprint(vehicle: Vehicle) -> str:
    """Hash of the parameters that a simulated drive depends on, to tell whether kept figures are of these."""
    content = [vehicle.road.model_dump(), twin_parameters(vehicle).model_dump()]
    text = json.dumps(content, sort_keys=True) + vehicle.default_map().sha256()
    return hashlib.sha256(text.encode()).hexdigest()


def loss_map(efficiency: MotorEfficiency, torque_max: float, speed_max: float, power_max: float) -> Array:
    """Loss of motor and inverter over torque and speed.

    This is the loss when driving, ``P (1 / eta - 1)`` with P the shaft power; the compiled core derives the
    loss when braking from it.

    Args:
        efficiency: curve over the power fraction, or map.
        torque_max: end of the torque axis, Nm; the axis starts at 0.
        speed_max: end of the speed axis, rad/s; the axis starts at 0.
        power_max: power that the curve's fractions refer to, W.

    Returns:
        Loss in W, shape (LOSS_GRID, LOSS_GRID): a row for each torque, a column for each speed.
    """
    torque = np.linspace(0.0, torque_max, LOSS_GRID)
    speed = np.linspace(0.0, speed_max, LOSS_GRID)
    power = torque[:, None] * speed[None, :]
    if efficiency.power_fraction:
        eta = np.interp(power / power_max, efficiency.power_fraction, efficiency.efficiency)
    else:
        along_speed = np.array(
            [
                np.interp(speed * 30.0 / math.pi, efficiency.speed_rpm, np.asarray(row))
                for row in efficiency.table
            ]
        )
        eta = np.array(
            [np.interp(torque, efficiency.torque_nm, column) for column in along_speed.T], dtype=np.float64
        ).T
    return np.ascontiguousarray(power * (1.0 / eta - 1.0))


def table_of(torque_map: TorqueMap, plant: Plant) -> Array:
    """The map's table in float64 for the compiled core.

    Raises:
        TwinError: its axes are not those of the vehicle.
    """
    if not np.array_equal(torque_map.pedal_axis, plant.pedal_axis.astype(np.float32)) or not np.array_equal(
        torque_map.speed_axis_kmh, plant.speed_axis.astype(np.float32)
    ):
        message = (
            f"torque map with {len(torque_map.speed_axis_kmh)} speeds and {len(torque_map.pedal_axis)} pedal "
            f"positions has not the vehicle's axes ({len(plant.speed_axis)} x {len(plant.pedal_axis)}); "
            "take a map made from vehicle.default_map()"
        )
        raise TwinError(message)
    return torque_map.table.astype(np.float64)
