"""The vehicle interface is chosen by the vehicle's config alone."""

import numpy as np
import pytest

from tspace_core.config import load_vehicle
from tspace_core.online.cars import AvatarOptions, car_of
from tspace_core.vehicle.bridged import BridgedVehicle
from tspace_core.vehicle.kvaser import KvaserCAN
from tspace_core.vehicle.remote import RemoteCAN


@pytest.mark.parametrize(("vehicle_id", "kind"), [("twin_truck", KvaserCAN), ("twin_remote", RemoteCAN)])
def test_a_vehicle_is_driven_the_way_its_config_says(vehicle_id: str, kind: type[object]) -> None:
    vehicle = load_vehicle(vehicle_id)
    live = vehicle.default_map()
    options = AvatarOptions(observe=True, run_id="run 1", by="someone", token="signed", hmi="dummy")
    car = car_of(vehicle)(vehicle, options, lambda: live)
    assert isinstance(car, BridgedVehicle)
    assert type(car) is kind
    how = car.options  # type: ignore[attr-defined]
    assert (how.observe_only, how.run_id, how.by, how.token, how.hmi) == (
        True,
        "run 1",
        "someone",
        "signed",
        "dummy",
    )
    np.testing.assert_array_equal(how.resume(), live.table)
