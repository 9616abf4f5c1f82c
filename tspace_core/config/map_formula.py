"""The documented formula that default torque maps are made from.

::

    torque(pedal, v) = -regen(v) + (drive(v) + regen(v)) * pedal ** exponent        full_pedal "available"
    torque(pedal, v) = min(-regen(v) + (torque_max + regen(v)) * pedal ** exponent, drive(v))    "rated"
    drive(v) = min(torque_max, power_max / w(v))
    regen(v) = min(regen_torque_max, regen_power_max / w(v)) * ramp(v)
    ramp(v)  = clip((v - regen_start) / (regen_full - regen_start), 0, 1)
    w(v)     = v * shaft_rad_per_m        angular speed of the shaft that the map's torque acts on, rad/s

With "available" full pedal means the torque that there is at the speed. With "rated" it means torque_max, as
where a torque request in Nm stands in for the pedal; what there is not is cut off.

It never falls along the pedal, holds constant torque up to the corner speed and constant power above
it, and brakes at pedal 0 only above ``regen_start_kmh``. Values are rounded to 0.1 Nm.
"""

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from tspace_core.config.base import ConfigModel
from tspace_core.config.torque_map import TorqueMap


class MapFormula(ConfigModel):
    """Parameters of the formula; a vehicle's file holds them where its default map was made this way."""

    torque_max_nm: float = Field(gt=0, description="torque at full pedal below the corner speed, Nm")
    power_max_kw: float = Field(gt=0, description="power at full pedal above the corner speed, kW")
    regen_torque_max_nm: float = Field(ge=0, description="braking torque at pedal 0, Nm (positive number)")
    regen_power_max_kw: float = Field(gt=0, description="braking power at pedal 0, kW (positive number)")
    shaft_rad_per_m: float = Field(gt=0, description="gear ratio / wheel radius of the map's shaft, rad/m")
    exponent: float = Field(default=1.0, gt=0, description="shape along the pedal; 1 is linear")
    full_pedal: Literal["available", "rated"] = Field(
        default="available", description="full pedal asks for the torque there is at the speed, or the rated"
    )
    regen_start_kmh: float = Field(default=7.0, ge=7.0, description="no braking at pedal 0 below it, km/h")
    regen_full_kmh: float = Field(default=25.0, description="full braking at pedal 0 above it, km/h")

    @model_validator(mode="after")
    def _ordered(self) -> "MapFormula":
        if self.regen_full_kmh <= self.regen_start_kmh:
            message = (
                f"regen_full_kmh {self.regen_full_kmh} must be above regen_start_kmh {self.regen_start_kmh}"
            )
            raise ValueError(message)
        return self


def formula_map(
    formula: MapFormula, pedal_axis: tuple[float, ...], speed_axis_kmh: tuple[float, ...]
) -> TorqueMap:
    """The torque map of ``formula`` on the given axes (fractions of full travel; km/h)."""
    pedal = np.asarray(pedal_axis, dtype=np.float64)[None, :]
    speed = np.asarray(speed_axis_kmh, dtype=np.float64)[:, None]
    shaft = np.maximum(speed / 3.6 * formula.shaft_rad_per_m, 1e-9)
    drive = np.minimum(formula.torque_max_nm, formula.power_max_kw * 1e3 / shaft)
    ramp = (speed - formula.regen_start_kmh) / (formula.regen_full_kmh - formula.regen_start_kmh)
    braking = np.minimum(formula.regen_torque_max_nm, formula.regen_power_max_kw * 1e3 / shaft)
    regen = braking * np.clip(ramp, 0.0, 1.0)
    asked = formula.torque_max_nm if formula.full_pedal == "rated" else drive
    table = np.round(np.minimum(-regen + (asked + regen) * pedal**formula.exponent, drive), 1) + 0.0
    return TorqueMap(
        np.asarray(pedal_axis, dtype=np.float32),
        np.asarray(speed_axis_kmh, dtype=np.float32),
        table.astype(np.float32),
    )
