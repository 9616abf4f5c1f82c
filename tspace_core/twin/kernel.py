"""The compiled core: truck, driver and VCU of many vehicles, stepped together.

One step of length h with motor torque T, speed v, and the traction, air, grade, rolling and brake forces held
constant::

    a  = (F_traction - F_air - F_grade - F_rolling - F_brake) / m_inertial
    v' = v + a h,  ds = (v + v') / 2 h        so that  F_net ds  equals the change of kinetic energy exactly
    P_battery = T w + loss(T, w) + P_auxiliary  with  w = ratio / radius * ds / h
    I = (OCV - sqrt(OCV^2 - 4 R P)) / (2 R),    OCV I h = chemical energy,  I^2 R h = loss in the battery

so every joule that leaves the battery is found again in the ledger, to rounding. When braking would take the
speed through zero within the step, the step is cut at the stop. The truck never rolls backwards: at rest the
VCU holds it (hill hold), and braking torque fades out towards standstill.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tspace_core.compiled import compiled
from tspace_core.twin.arrays import GRAVITY, Array, Plant, Road, Style

STOP_SPEED = 0.15
"""Below this speed in m/s a driver at a stop holds the truck with the brake."""
HOLD_BRAKE = 0.35
BRAKE_DEAD_BAND = 0.01
"""Less brake than this share of full travel is not worth moving the foot for."""


@compiled
def uniform_lookup(table: Array, position: float) -> float:
    """Linear interpolation in a table on the grid 0, 1, 2, ..., clamped at its ends."""
    last = len(table) - 1
    if position <= 0.0:
        return float(table[0])
    if position >= last:
        return float(table[last])
    index = int(position)
    share = position - index
    return float(table[index] * (1.0 - share) + table[index + 1] * share)


@compiled
def axis_position(axis: Array, value: float) -> tuple[int, float]:
    """Index of the cell of ``axis`` that holds ``value`` and the share within it, clamped at the ends."""
    last = len(axis) - 2
    if value <= axis[0]:
        return 0, 0.0
    if value >= axis[last + 1]:
        return last, 1.0
    index = 0
    while index < last and value >= axis[index + 1]:
        index += 1
    return index, (value - axis[index]) / (axis[index + 1] - axis[index])


@compiled
def map_torque(table: Array, pedal_axis: Array, speed_axis: Array, pedal: float, speed_kmh: float) -> float:
    """Torque of a map by bilinear interpolation; the same figures as ``TorqueMap.torque``."""
    column, column_share = axis_position(pedal_axis, pedal)
    row, row_share = axis_position(speed_axis, speed_kmh)
    low = table[row, column] * (1.0 - column_share) + table[row, column + 1] * column_share
    high = table[row + 1, column] * (1.0 - column_share) + table[row + 1, column + 1] * column_share
    return float(low * (1.0 - row_share) + high * row_share)


@compiled
def motor_loss(plant: Plant, torque: float, speed: float) -> float:
    """Loss of motor and inverter in W at a torque (Nm) and speed (rad/s), from the map of driving losses.

    With the same efficiency eta both ways, P (1 / eta - 1) is lost driving and P (1 - eta) braking.
    """
    rows = plant.loss.shape[0] - 1
    columns = plant.loss.shape[1] - 1
    y = min(abs(torque) / plant.loss_torque_max, 1.0) * rows
    x = min(speed / plant.loss_speed_max, 1.0) * columns
    row = min(int(y), rows - 1)
    column = min(int(x), columns - 1)
    dy = y - row
    dx = x - column
    low = plant.loss[row, column] * (1.0 - dx) + plant.loss[row, column + 1] * dx
    high = plant.loss[row + 1, column] * (1.0 - dx) + plant.loss[row + 1, column + 1] * dx
    loss = low * (1.0 - dy) + high * dy
    power = abs(torque) * speed
    if torque < 0.0 and power > 0.0:
        loss *= power / (power + loss)
    return float(loss)


@compiled
def normal(state: Any) -> float:
    """A standard normal number from the vehicle's own generator (splitmix64 and Box-Muller)."""
    uniform = np.empty(2)
    for i in range(2):
        state.random = state.random + np.uint64(0x9E3779B97F4A7C15)
        z = np.uint64(state.random)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
        uniform[i] = (float(z >> np.uint64(11)) + 0.5) * (1.0 / 9007199254740992.0)
    return math.sqrt(-2.0 * math.log(uniform[0])) * math.cos(2.0 * math.pi * uniform[1])


@compiled
def traction(plant: Plant, torque: float) -> float:
    """Force at the wheels for a motor torque, N."""
    if torque >= 0.0:
        return torque * plant.shaft_per_metre * plant.driveline_efficiency
    return torque * plant.shaft_per_metre / plant.driveline_efficiency


@compiled
def limited_torque(plant: Plant, torque: float, speed: float, soc: float) -> float:
    """Motor torque held within torque, power, speed and battery limits (Nm, m/s, 0 to 1)."""
    shaft = max(speed * plant.shaft_per_metre, 1e-6)
    if torque >= 0.0:
        most = min(plant.torque_max, plant.power_max * min(1.0, max(0.0, soc / 0.05)) / shaft)
        governor = min(1.0, max(0.0, (plant.speed_max + 0.25 - speed) / 0.5))
        return min(torque, most * governor)
    power = plant.regen_power_max * min(1.0, max(0.0, (1.0 - soc) / 0.02))
    return max(torque, -min(plant.regen_torque_max, power / shaft))


@compiled
def wanted_torque(plant: Plant, torque: float, speed: float, soc: float) -> float:
    """What the VCU asks of the motor for a torque: braking fades out towards standstill, then the limits."""
    if torque < 0.0:
        share = (speed - plant.regen_fade_low) / (plant.regen_fade_high - plant.regen_fade_low)
        torque *= min(1.0, max(0.0, share))
    return limited_torque(plant, torque, speed, soc)


@compiled
def truck_step(plant: Plant, state: Any, ledger: Any, live: Array, sine: float) -> None:
    """One step of VCU, motor, truck and battery with the pedals as they are in ``state``."""
    h = plant.step
    v = state.speed
    by_map = map_torque(live, plant.pedal_axis, plant.speed_axis, state.pedal, v * 3.6) * plant.map_to_motor
    lifted = wanted_torque(plant, by_map, v, state.soc)
    braking = state.brake * plant.brake_force_max
    target = lifted
    if braking > 0.0:
        by_pedal = plant.brake_blend_share * braking * plant.driveline_efficiency / plant.shaft_per_metre
        target = wanted_torque(plant, min(by_map, 0.0) - by_pedal, v, state.soc)
    torque = state.motor_torque + (target - state.motor_torque) * plant.torque_share
    torque = limited_torque(plant, torque, v, state.soc)
    force = traction(plant, torque)

    friction = 0.0
    if braking > 0.0:
        by_motor = traction(plant, min(lifted, 0.0)) - force
        friction = min(max(braking - by_motor, 0.0), braking)
    rolling = plant.rolling * math.sqrt(1.0 - sine * sine)
    relative = v + plant.wind
    air = plant.drag * relative * abs(relative)
    grade = plant.mass * GRAVITY * sine
    pull = force - air - grade
    resisting = rolling + friction

    ds = 0.0
    after = 0.0
    if v > 0.0 or pull > resisting:
        acceleration = (pull - resisting) / plant.inertial_mass
        after = v + acceleration * h
        if after >= 0.0:
            ds = 0.5 * (v + after) * h
        else:
            ds = 0.5 * v * (v / -acceleration)
            after = 0.0

    shaft = plant.shaft_per_metre * ds / h
    loss = motor_loss(plant, torque, shaft)
    power = torque * shaft + loss + plant.auxiliary
    ocv = uniform_lookup(plant.ocv, state.soc * (len(plant.ocv) - 1))
    if plant.resistance > 0.0:
        root = math.sqrt(max(ocv * ocv - 4.0 * plant.resistance * power, 0.0))
        current = 2.0 * power / (ocv + root)
    else:
        current = power / ocv

    ledger.chemical += ocv * current * h
    ledger.terminal += power * h
    ledger.battery += current * current * plant.resistance * h
    ledger.auxiliary += plant.auxiliary * h
    ledger.motor += loss * h
    ledger.driveline += (torque * plant.shaft_per_metre - force) * ds
    ledger.potential += grade * ds
    ledger.air += air * ds
    ledger.rolling += rolling * ds
    ledger.friction_brake += friction * ds

    state.soc -= current * h / plant.capacity
    state.current = current
    state.voltage = ocv - plant.resistance * current
    state.motor_torque = torque
    state.acceleration = (after - v) / h
    state.speed = after
    state.motor_speed = after * plant.shaft_per_metre
    state.distance += ds
    state.step += 1


@compiled
def reference(plant: Plant, road: Road, state: Any, preview: float) -> tuple[float, float, bool]:
    """Reference speed here and now, the acceleration that the road ahead asks for, and whether to stand."""
    v = state.speed
    if not road.by_place:
        time = state.step * plant.step
        here = min(uniform_lookup(road.speed, time / road.period), plant.speed_max)
        horizon = max(preview, 0.1)
        ahead = min(uniform_lookup(road.speed, (time + horizon) / road.period), plant.speed_max)
        standing = here < 0.05 and v < STOP_SPEED and ahead < 0.3
        return here, (ahead - here) / horizon, standing

    place = state.distance
    stops = len(road.stop_place)
    if state.stop < stops and place >= road.stop_place[state.stop] - 1.0 and v < STOP_SPEED:
        state.dwelt += plant.step
        if state.dwelt < road.stop_dwell[state.stop]:
            return 0.0, 0.0, True
        state.dwelt = 0.0
        state.stop += 1
        if state.stop >= stops:
            state.done = 1
            return 0.0, 0.0, True
    end = road.stop_place[state.stop]
    limit = plant.speed_max * plant.speed_max
    here2 = min(uniform_lookup(road.squared_speed, place / road.spacing), limit)
    if place >= end - 0.4:
        return 0.0, -max(v * v, 0.25) / 0.8, False
    look = max(v * preview, 1.5)
    ahead2 = 0.0
    if place + look < end:
        ahead2 = min(uniform_lookup(road.squared_speed, (place + look) / road.spacing), limit)
    else:
        look = max(end - place, 0.4)
    # A driver already slower than the road asks for brakes that much less, or would stop short.
    base2 = min(here2, v * v) if ahead2 < here2 else here2
    return math.sqrt(max(here2, 0.36)), (ahead2 - base2) / (2.0 * look), False


@compiled
def move(value: float, target: float, most: float) -> float:
    """``value`` moved towards ``target`` by at most ``most``."""
    return value + min(max(target - value, -most), most)


@compiled
def driver_step(
    plant: Plant, road: Road, style: Style, i: int, state: Any, live: Array, default: Array, row: Array
) -> None:
    """The driver reads the road and moves the pedals.

    The demanded acceleration becomes a torque, and the pedal is found by inverting the map the driver
    believes in: ``default + adaptation * (live - default)``. What the habit gets wrong shows as a speed error
    and is corrected as fast as the gains allow.
    """
    h = plant.step
    v = state.speed
    wanted, ahead, standing = reference(plant, road, state, style.preview[i])
    state.reference = wanted
    # The foot trembles with a correlation time of 0.3 s.
    keep = math.exp(-h / 0.3)
    state.tremor = keep * state.tremor + style.noise[i] * math.sqrt(1.0 - keep * keep) * normal(state)
    most = style.pedal_rate[i] * h
    if standing:
        state.integral = 0.0
        state.demand = 0.0
        state.pedal_travel = move(state.pedal_travel, 0.0, most)
        state.pedal = state.pedal_travel
        state.brake = move(state.brake, HOLD_BRAKE, most)
        return
    error = wanted - v
    demand = ahead + style.speed_gain[i] * error + state.integral
    limited = min(max(demand, -style.braking_limit[i]), style.acceleration_limit[i])
    # The correction of a lasting error stops growing where pedals or limits leave no room for it.
    if limited == demand and state.pedal_travel < 1.0:
        state.integral = min(max(state.integral + style.integral_gain[i] * error * h, -1.0), 1.0)
    state.demand += (limited - state.demand) * min(1.0, h / max(style.reaction[i], h))

    force = plant.inertial_mass * state.demand + plant.rolling + plant.drag * v * v
    force += plant.mass * GRAVITY * uniform_lookup(road.sine, state.distance / road.spacing)
    factor = plant.driveline_efficiency if force >= 0.0 else 1.0 / plant.driveline_efficiency
    torque = force / (plant.shaft_per_metre * factor)

    cell, share = axis_position(plant.speed_axis, v * 3.6)
    for j in range(len(row)):
        low = default[cell, j] + style.adaptation[i] * (live[cell, j] - default[cell, j])
        high = default[cell + 1, j] + style.adaptation[i] * (live[cell + 1, j] - default[cell + 1, j])
        row[j] = (low * (1.0 - share) + high * share) * plant.map_to_motor
    lifted = wanted_torque(plant, row[0], v, state.soc)
    pedal = 0.0
    brake = 0.0
    if torque > lifted:
        pedal = 1.0
        below = lifted
        for j in range(1, len(row)):
            if row[j] >= torque:
                span = row[j] - below
                part = (torque - below) / span if span > 0.0 else 0.0
                pedal = plant.pedal_axis[j - 1] + part * (plant.pedal_axis[j] - plant.pedal_axis[j - 1])
                break
            below = row[j]
    else:
        brake = min((traction(plant, lifted) - traction(plant, torque)) / plant.brake_force_max, 1.0)
        if brake < BRAKE_DEAD_BAND:
            brake = 0.0
    # One foot: the brake waits until the accelerator is nearly released, and the other way round.
    if state.pedal_travel > 0.05:
        brake = 0.0
    if state.brake > 0.05:
        pedal = 0.0
    state.pedal_travel = move(state.pedal_travel, pedal, most)
    state.brake = move(state.brake, brake, most)
    state.pedal = state.pedal_travel
    if state.pedal_travel > 0.0:
        state.pedal = min(max(state.pedal_travel + state.tremor, 0.0), 1.0)


@compiled
def drive(
    plant: Plant,
    road: Road,
    style: Style,
    states: Any,
    ledgers: Any,
    live: Array,
    default: Array,
    stride: int,
    out: Array,
    valid: NDArray[np.bool_],
) -> None:
    """Drive every vehicle for ``out.shape[1]`` samples of ``stride`` steps each.

    Args:
        plant: constants of the vehicle.
        road: the route.
        style: drivers, one value a vehicle.
        states: STATE records (n,), changed in place.
        ledgers: LEDGER records (n,), changed in place.
        live: torque maps in effect, shape (n, rows, columns), Nm at the map's shaft.
        default: the map that the drivers are used to, shape (rows, columns).
        stride: steps between two samples.
        out: filled with samples, shape (n, samples, len(CHANNELS)).
        valid: filled, shape (n, samples): False once the vehicle has reached the end.
    """
    row = np.empty(default.shape[1])
    for i in range(len(states)):
        state = states[i]
        ledger = ledgers[i]
        for k in range(out.shape[1]):
            for _ in range(stride):
                if state.done == 0:
                    driver_step(plant, road, style, i, state, live[i], default, row)
                    if not road.by_place and state.step * plant.step >= road.duration - 0.5 * plant.step:
                        state.done = 1
                if state.done == 0:
                    sine = uniform_lookup(road.sine, state.distance / road.spacing)
                    truck_step(plant, state, ledger, live[i], sine)
            sample = out[i, k]
            sample[0] = state.step * plant.step
            sample[1] = state.distance
            sample[2] = state.speed * 3.6
            sample[3] = state.pedal * 100.0
            sample[4] = state.brake * 100.0
            sample[5] = state.current
            sample[6] = state.voltage
            sample[7] = state.motor_torque
            sample[8] = state.motor_speed * 30.0 / math.pi
            sample[9] = state.soc * 100.0
            sample[10] = state.reference * 3.6
            sample[11] = state.acceleration
            valid[i, k] = state.done == 0
