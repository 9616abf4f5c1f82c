"""The rules of a flashable map once more, cell by cell in plain Python: it shares no code with the guard."""

from collections.abc import Sequence

from tspace_core.config import TorqueMap, Vehicle
from tspace_core.guard.state import AppliedRows, VehicleState


def broken_rules(vehicle: Vehicle, table: TorqueMap) -> list[str]:
    """Every rule that the map breaks, rates aside."""
    limits, road = vehicle.guard, vehicle.road
    reference = vehicle.default_map()
    formula = vehicle.torque_map.formula
    shaft = limits.shaft_rad_per_m or (formula.shaft_rad_per_m if formula else float("nan"))
    speeds = [float(speed) for speed in reference.speed_axis_kmh]
    found = []
    for i, speed in enumerate(speeds):
        for j in range(len(reference.pedal_axis)):
            value, default = float(table.table[i, j]), float(reference.table[i, j])
            if abs(value - default) > vehicle.torque_map.budget_nm:
                found.append(f"budget {i},{j}")
            if default > 0 and not 0.8 * default <= value <= 1.0 * default:
                found.append(f"factor {i},{j}")
            if default <= 0 and value > default:
                found.append(f"factor {i},{j}")
            metres_a_second = speed / 3.6
            if value * metres_a_second > max(float(cell) for cell in reference.table[i]) * metres_a_second:
                found.append(f"power {i},{j}")
            if j == 0:
                if value < default - limits.pedal_zero_drop_nm:
                    found.append(f"pedal_zero {i}")
                force = -value * shaft / limits.driveline_efficiency
                force += road.mass_kg * 9.80665 * road.rolling_resistance
                force += 0.5 * road.air_density_kg_m3 * road.drag_area_m2 * metres_a_second**2
                inertia = road.mass_kg * road.rotating_mass_factor
                if value < 0 and force / inertia > limits.lift_off_deceleration_mps2 + 1e-9:
                    found.append(f"lift_off {i}")
            if j > 0 and not 0 <= value - float(table.table[i, j - 1]) <= limits.neighbour_step_nm:
                found.append(f"shape along the pedal {i},{j}")
            if i > 0 and abs(value - float(table.table[i - 1, j])) > limits.neighbour_step_nm:
                found.append(f"shape along the speed {i},{j}")
    slow = [step / 10 for step in range(70)]  # 0 to 6.9 km/h
    found += [f"no_regen at {kmh} km/h" for kmh in slow if float(table.torque(0.0, kmh)) < 0]
    return found


def broken_rates(
    vehicle: Vehicle,
    before: TorqueMap,
    after: TorqueMap,
    state: VehicleState,
    history: Sequence[AppliedRows],
    now_ns: int,
) -> list[str]:
    """Every rate that going from one map to the other breaks."""
    limits = vehicle.guard
    found = []
    for i in range(len(before.speed_axis_kmh)):
        for j in range(len(before.pedal_axis)):
            now, then = float(before.table[i, j]), float(after.table[i, j])
            if abs(then - now) > limits.cell_rate_nm:
                found.append(f"cell_rate {i},{j}")
            held = [now]
            for flash in history:
                if now_ns - flash.at_ns < 10_000_000_000 and 0 <= i - flash.first_row < 4:
                    held.append(float(flash.before[i - flash.first_row, j]))
                    held.append(float(flash.after[i - flash.first_row, j]))
            if any(abs(then - value) > limits.cell_rate_10s_nm for value in held):
                found.append(f"cell_rate_10s {i},{j}")
    pedal, speed = state.thrust_percent / 100, state.velocity_kmh
    if (
        abs(float(after.torque(pedal, speed)) - float(before.torque(pedal, speed)))
        > limits.driver_point_nm + 1e-5
    ):
        found.append("driver_point")
    last = max((flash.at_ns for flash in history), default=None)
    if before != after and last is not None and now_ns - last < limits.flash_interval_s * 1e9:
        found.append("interval")
    return found
