"""What of a vehicle's file has its logs made into signals and episodes again, and what does not."""

from tspace_core.config import load_vehicle
from tspace_core.storage.fingerprint import fingerprint, vehicle_config


def test_how_a_box_is_reached_is_no_matter_but_its_signs_are() -> None:
    vehicle = load_vehicle("twin_remote")
    assert vehicle.remote is not None
    before = fingerprint(vehicle=vehicle_config(vehicle))
    patient = vehicle.model_copy(update={"remote": vehicle.remote.model_copy(update={"attempts": 7})})
    assert fingerprint(vehicle=vehicle_config(patient)) == before
    turned = vehicle.remote.model_copy(update={"sign": {"current": -1}})
    turned_round = vehicle.model_copy(update={"remote": turned})
    assert fingerprint(vehicle=vehicle_config(turned_round)) != before
