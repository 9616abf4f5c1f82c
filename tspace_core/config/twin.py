"""Parameters of a vehicle's simulated twin: motor, driveline, battery, brakes.

Mass, rolling resistance, drag area and rotating masses come from the vehicle's ``road``; the shaft that the
torque map acts on from its ``torque_map.shaft``. The model that uses them is tspace_core/twin/kernel.py.
"""

import itertools
import math

from pydantic import Field, field_validator, model_validator

from tspace_core.config.base import ConfigModel


class MotorEfficiency(ConfigModel):
    """Efficiency of motor and inverter together, the same driving and braking.

    Given either as a curve over the share of the greatest power, which the twin expands to a map over
    torque and speed, or as such a map itself (``speed_rpm``, ``torque_nm`` and one row a torque).
    """

    power_fraction: tuple[float, ...] = Field(
        default=(), description="|shaft power| / power_max_kw, ascending, from 0 to 1"
    )
    efficiency: tuple[float, ...] = Field(default=(), description="efficiency at each power fraction")
    speed_rpm: tuple[float, ...] = Field(
        default=(), description="speed axis of the map, rpm, ascending from 0"
    )
    torque_nm: tuple[float, ...] = Field(
        default=(), description="axis of |torque| of the map, Nm, ascending from 0"
    )
    table: tuple[tuple[float, ...], ...] = Field(
        default=(), description="efficiency: a row for each torque, a column for each speed"
    )

    @model_validator(mode="after")
    def _one_form(self) -> "MotorEfficiency":
        if bool(self.power_fraction) == bool(self.table):
            message = "give either power_fraction and efficiency, or speed_rpm, torque_nm and table"
            raise ValueError(message)
        if self.power_fraction:
            _check_axis("power_fraction", self.power_fraction, len(self.efficiency))
            values = self.efficiency
        else:
            _check_axis("torque_nm", self.torque_nm, len(self.table))
            for row in self.table:
                _check_axis("speed_rpm", self.speed_rpm, len(row))
            values = tuple(itertools.chain.from_iterable(self.table))
        if not all(0.3 <= value <= 1.0 for value in values):
            message = f"efficiencies must lie in [0.3, 1], got {min(values)} to {max(values)}"
            raise ValueError(message)
        return self

    @property
    def lowest(self) -> float:
        """The smallest efficiency in the curve or map."""
        return min(self.efficiency or tuple(itertools.chain.from_iterable(self.table)))


class TwinParameters(ConfigModel):
    """What the simulated truck needs beyond the vehicle's own data."""

    step_s: float = Field(
        default=0.01, ge=0.005, le=0.02, description="simulation step, s; chosen for 100 Hz CAN"
    )
    gear_ratio: float = Field(gt=0, description="motor speed / wheel speed; source: data sheet of the axle")
    wheel_radius_m: float = Field(gt=0.2, lt=0.8, description="dynamic radius, m; source: tyre size")
    driveline_efficiency: float = Field(
        default=0.95,
        gt=0.5,
        le=1,
        description="wheel power / motor shaft power; source: one gear stage and axle",
    )
    max_speed_kmh: float = Field(
        gt=0, le=140, description="no driving torque above it, km/h; source: governor"
    )
    torque_max_nm: float = Field(gt=0, description="greatest motor torque, Nm; source: motor data sheet")
    power_max_kw: float = Field(gt=0, description="greatest motor shaft power, kW; source: motor data sheet")
    regen_torque_max_nm: float = Field(
        ge=0, description="greatest braking torque of the motor, Nm; source: VCU calibration"
    )
    regen_power_max_kw: float = Field(
        ge=0, description="greatest braking power of the motor, kW; source: VCU calibration"
    )
    regen_fade_kmh: tuple[float, float] = Field(
        default=(3.0, 10.0),
        description="no regeneration below the first speed, full above the second, km/h; source: VCU",
    )
    torque_lag_s: float = Field(
        default=0.08, ge=0.0, le=1.0, description="time constant of motor torque, s; source: inverter and VCU"
    )
    motor_efficiency: MotorEfficiency = Field(
        description="motor and inverter; source named in the vehicle's file"
    )
    battery_soc: tuple[float, ...] = Field(
        default=(0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0),
        description="axis of the open-circuit voltage, 0 to 1",
    )
    battery_ocv_v: tuple[float, ...] = Field(
        description="open-circuit voltage at each state of charge, V; source: cell curve x cells in series"
    )
    battery_resistance_ohm: float = Field(
        ge=0, description="pack resistance, ohm; source: cell data x layout"
    )
    battery_capacity_ah: float = Field(gt=0, description="pack capacity, Ah; source: battery data sheet")
    battery_soc_start: float = Field(
        default=0.8, gt=0.1, lt=1, description="state of charge at the start, 0 to 1"
    )
    auxiliary_kw: float = Field(
        default=2.0, ge=0, description="constant electric power of pumps, steering, air, cab, kW"
    )
    brake_force_max_n: float = Field(
        gt=0, description="force at the wheels at full brake pedal, N; source: mass x 6 m/s2"
    )
    brake_blend_share: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="share of the brake pedal's demand that the motor may take over first",
    )
    flash_delay_s: float = Field(
        default=0.2,
        ge=0,
        le=4.0,
        description="from decision to the flashed rows in effect, s; at most a window",
    )

    @field_validator("regen_fade_kmh")
    @classmethod
    def _rising(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] < value[1]:
            message = f"regen_fade_kmh {value} must be (lower, upper), both above 0"
            raise ValueError(message)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "TwinParameters":
        _check_axis("battery_soc", self.battery_soc, len(self.battery_ocv_v))
        if not math.isclose(self.battery_soc[-1], 1.0):
            message = f"battery_soc must end at 1, ends at {self.battery_soc[-1]}"
            raise ValueError(message)
        if min(self.battery_ocv_v) <= 0:
            message = f"battery_ocv_v must be positive, got {min(self.battery_ocv_v)}"
            raise ValueError(message)
        most_kw = self.power_max_kw / self.motor_efficiency.lowest + self.auxiliary_kw
        if self.battery_resistance_ohm > 0:
            limit_kw = 0.9e-3 * min(self.battery_ocv_v) ** 2 / (4 * self.battery_resistance_ohm)
            if most_kw > limit_kw:
                message = (
                    f"motor and auxiliaries may ask for {most_kw:.0f} kW, the battery gives at most "
                    f"{limit_kw:.0f} kW (OCV^2 / 4R, less 10 %); lower power_max_kw or the resistance"
                )
                raise ValueError(message)
        return self


def _check_axis(name: str, axis: tuple[float, ...], length: int) -> None:
    if len(axis) < 2 or len(axis) != length:
        message = f"{name} has {len(axis)} points for {length} values; give at least 2, as many as values"
        raise ValueError(message)
    if axis[0] != 0 or any(later <= earlier for earlier, later in itertools.pairwise(axis)):
        message = f"{name} {axis} must start at 0 and ascend"
        raise ValueError(message)
