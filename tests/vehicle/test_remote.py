"""RemoteCAN: a real HTTP service, a real channel, real datagrams; service and bridge do as the test says."""

from collections.abc import Callable, Iterator

import pytest

from tests.vehicle.contract import Rig, VehicleInterfaceContract
from tests.vehicle.remote_rig import RemoteRig, quick_truck
from tspace_core.config.settings import settings

RigMaker = Callable[..., RemoteRig]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[RigMaker]:
    made: list[RemoteRig] = []

    def build(*args: object, **options: object) -> RemoteRig:
        made.append(RemoteRig(monkeypatch, *args, **options))  # type: ignore[arg-type]
        return made[-1]

    yield build
    for rig in made:
        rig.close()
    settings.cache_clear()


class TestRemoteKeepsTheContract(VehicleInterfaceContract):
    """Every promise of a vehicle interface."""

    @pytest.fixture
    def rig(self, make: RigMaker) -> Iterator[Rig]:
        yield make(flash_timeout_s=0.5)

    @pytest.fixture
    def impatient_rig(self, make: RigMaker) -> Iterator[Rig]:
        yield make(quick_truck(silence_s=0.2))
