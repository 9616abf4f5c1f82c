"""Both guards keep what any guard promises."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.guard.fake_rows import RemoteRig
from tests.guard.guard_contract import AnyRig, GuardContract, vehicle_of
from tests.guard.vehicles import Rig
from tspace_core.errors import XcpTimeoutError


class TestFlashGuard(GuardContract):
    """Over a calibration session on the bus."""

    def make(self, folder: Path, **limits: Any) -> AnyRig:
        return Rig(folder, vehicle_of("twin_truck", **limits))

    def again(self, rig: AnyRig) -> AnyRig:
        assert isinstance(rig, Rig)
        rig.audit.close()
        after = Rig(rig.audit.path.parent, rig.vehicle)
        after.target.pages, after.target.active = rig.target.pages, rig.target.active
        after.clock.ns = rig.clock.ns
        return after

    def silence(self, rig: AnyRig, *, silent: bool) -> None:
        def no_answer(_number: int, _call: str) -> None:
            raise XcpTimeoutError("no answer")

        assert isinstance(rig, Rig)
        rig.target.before = no_answer if silent else None

    def when_effective(self, rig: AnyRig, then: Callable[[], None]) -> None:
        assert isinstance(rig, Rig)
        target = rig.target

        def look(_number: int, call: str) -> None:
            if call == "activate":
                then()

        target.before = look


class TestRemoteGuard(GuardContract):
    """Over the remote CAN service."""

    def make(self, folder: Path, **limits: Any) -> AnyRig:
        return RemoteRig(folder, vehicle_of("twin_remote", **limits))

    def again(self, rig: AnyRig) -> AnyRig:
        assert isinstance(rig, RemoteRig)
        after = rig.again()
        after.clock.ns = rig.clock.ns
        return after

    def silence(self, rig: AnyRig, *, silent: bool) -> None:
        assert isinstance(rig, RemoteRig)
        rig.target.broken = "lost" if silent else ""

    def when_effective(self, rig: AnyRig, then: Callable[[], None]) -> None:
        assert isinstance(rig, RemoteRig)
        rig.target.before = lambda _number: then()
