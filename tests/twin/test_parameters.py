"""Twin parameters that cannot be are refused, and efficiency maps mean what they say."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from tests.twin.conftest import Variant
from tspace_core.config import TwinParameters, Vehicle
from tspace_core.config.twin import MotorEfficiency
from tspace_core.twin.fleet import Fleet
from tspace_core.twin.truck import loss_map


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"regen_fade_kmh": (10.0, 3.0)}, "must be \\(lower, upper\\)"),
        ({"battery_ocv_v": (500.0, 600.0)}, "8 points for 2 values"),
        ({"battery_soc": (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95)}, "must end at 1"),
        ({"battery_resistance_ohm": 0.3}, "the battery gives at most"),
        ({"step_s": 0.1}, "less than or equal to 0.02"),
        ({"gear_ration": 3.0}, "Extra inputs"),
    ],
)
def test_impossible_values_are_refused(truck: Vehicle, change: dict[str, Any], message: str) -> None:
    assert truck.twin is not None
    with pytest.raises(ValidationError, match=message):
        TwinParameters.model_validate(truck.twin.model_dump() | change)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "give either"),
        ({"power_fraction": (0, 1), "efficiency": (0.9, 1.1)}, "must lie in"),
        ({"power_fraction": (0, 0.5, 0.4), "efficiency": (0.9, 0.9, 0.9)}, "ascend"),
        ({"torque_nm": (0, 100), "speed_rpm": (0, 1000), "table": ((0.9,), (0.9,))}, "2 points for 1"),
    ],
)
def test_broken_efficiencies_are_refused(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MotorEfficiency.model_validate(content)


def test_loss_map_of_a_curve() -> None:
    curve = MotorEfficiency(power_fraction=(0.0, 0.5, 1.0), efficiency=(0.8, 0.95, 0.9))
    loss = loss_map(curve, 1000.0, 200.0, 100e3)
    torque, speed = np.linspace(0, 1000, len(loss))[40], np.linspace(0, 200, len(loss))[60]
    power = torque * speed
    eta = np.interp(power / 100e3, curve.power_fraction, curve.efficiency)
    assert loss[40, 60] == pytest.approx(power * (1 / eta - 1))
    assert np.all(loss[0] == 0)
    assert np.all(loss[:, 0] == 0)


def test_a_map_over_torque_and_speed_drives(variant: Variant) -> None:
    used = []
    for low in (0.9, 0.7):
        efficiency = {
            "speed_rpm": (0.0, 1500.0, 4500.0),
            "torque_nm": (0.0, 1000.0, 3500.0),
            "table": ((low, 0.9, 0.9), (low, 0.93, 0.95), (low, 0.9, 0.92)),
        }
        fleet = Fleet(variant(twin={"motor_efficiency": efficiency}), "udds", ["tracker"], [1])
        fleet.run()
        assert fleet.ledger.imbalance[0] < 1e-9
        used.append(float(fleet.energy_wh[0]))
    assert used[1] > 1.02 * used[0]
