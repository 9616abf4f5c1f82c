"""The vehicle of the remote path, and its twin, fast and in one process."""

from collections.abc import Iterator

import pytest

from tests.twin.cloud.told import Told
from tspace_core.config import Vehicle, load_vehicle
from tspace_core.twin.cloud.live_cloud import CloudOptions, CloudTwin
from tspace_core.twin.cloud.truck import DriveOptions

FACTOR = 20.0
"""The trucks of these tests drive so much faster than real time."""


@pytest.fixture(scope="package")
def vehicle() -> Vehicle:
    return load_vehicle("twin_remote")


@pytest.fixture(scope="package")
def shared_twin(vehicle: Vehicle) -> Iterator[CloudTwin]:
    with CloudTwin(vehicle, CloudOptions(drive=DriveOptions(time_factor=FACTOR))) as twin:
        yield twin


@pytest.fixture
def twin(shared_twin: CloudTwin) -> Iterator[CloudTwin]:
    """The twin that tests share, without faults, with AI mode on."""
    yield shared_twin
    shared_twin.clear_faults()
    if not shared_twin.state()["ai_mode"]:
        shared_twin.set_ai_mode(on=True)


@pytest.fixture
def told() -> Told:
    return Told()
