"""RemoteCAN between a fake bridge's channel, a real HTTP server and a socket that sends as HMI."""

import socket
import threading
import time

import pytest

from tests.vehicle.contract import Behaviour, Rig
from tests.vehicle.fake_bridge import KEY, FakeBridge, applied, failing, free_udp_port, silent
from tests.vehicle.fake_service import FakeService
from tests.vehicle.samples import drive_sample
from tspace_core.config import Vehicle, load_vehicle
from tspace_core.config.settings import settings
from tspace_core.guard.state import Rows
from tspace_core.link.datagrams import Status, encode_status
from tspace_core.link.endpoints import Endpoints
from tspace_core.link.messages import Disarm, Observe
from tspace_core.link.udp import udp_context
from tspace_core.supervision import Supervisor
from tspace_core.vehicle.remote import RemoteCAN, RemoteOptions

LONG_S = 30.0


def quick_truck(*, silence_s: float = 60.0, units: int = 1, **remote: object) -> Vehicle:
    """The truck behind a box with windows of 1 s, which come as fast as the test gives samples."""
    vehicle = load_vehicle("twin_remote")
    assert vehicle.remote is not None
    return vehicle.model_copy(
        update={
            "sampling": vehicle.sampling.model_copy(update={"window": 50 * units}),
            "remote": vehicle.remote.model_copy(
                update={"attempts": 1, "connect_attempts": 1, "backoff_s": 0.0, **remote}
            ),
            "online": vehicle.online.model_copy(
                update={
                    "countdown_s": 0.02,
                    "silence_s": silence_s,
                    "watchdog": vehicle.online.watchdog.model_copy(update={"capture_failures": 5}),
                }
            ),
        }
    )


class RemoteRig(Rig):
    """One run over the remote path."""

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        vehicle: Vehicle | None = None,
        *,
        observe_only: bool = False,
        hmi: str = "udp",
        flash_timeout_s: float = LONG_S,
        resume: Rows | None = None,
    ) -> None:
        self._threads_before = set(threading.enumerate())
        self.vehicle = quick_truck() if vehicle is None else vehicle
        # The first samples are some seconds old, so that those of a whole test are not ahead of our clock.
        self.service = FakeService(self.vehicle, time.time_ns() - 30_000_000_000)
        patch.setenv("TSPACE_REMOTE__URL", self.service.url)
        settings.cache_clear()
        self.bridge = FakeBridge(self.vehicle)
        self.addresses = Endpoints("127.0.0.1", free_udp_port(), "127.0.0.1", self.bridge.server.port)
        self.resume = resume
        self.interface = self.car = RemoteCAN(
            self.vehicle,
            RemoteOptions(
                observe_only=observe_only,
                run_id="test",
                by="a test",
                hmi=hmi,
                addresses=self.addresses,
                key=KEY,
                resume=lambda: self.resume,
                flash_timeout_s=flash_timeout_s,
                arm_timeout_s=LONG_S,
            ),
        )
        self.supervisor = Supervisor("test")
        self.sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sender.settimeout(LONG_S)
        self._seq = 0
        self._causes: list[str] = []

    def send(self, data: bytes) -> None:
        self.sender.sendto(data, (self.addresses.udp_host, self.addresses.udp_port))

    def samples(self, count: int, *, thrust: float = 20.0) -> None:
        for _ in range(count):
            self.service.give(drive_sample(self._seq) | {"thrust": thrust})
            self._seq += 1
        if not self.car.control.capturing:
            self.service.forget()

    def say(self, status: Status) -> None:
        if status == "begin" and not self.car.control.capturing:
            self.service.forget()
        self.send(encode_status(status))

    def behave(self, how: Behaviour) -> None:
        if how == "apply":
            self.bridge.answer = applied
        elif how == "silent":
            self.bridge.answer = silent
        else:
            self.bridge.answer = failing(0 if how == "refuse" else how)

    def reference_causes(self, count: int) -> list[str]:
        while len(self._causes) < count:
            message = self.bridge.next()
            if isinstance(message, Disarm):
                self._causes.append(message.cause)
        return self._causes

    def observed(self) -> Observe:
        """What the bridge is told next of the vehicle."""
        while not isinstance(message := self.bridge.next(), Observe):
            pass
        return message

    def links_closed(self) -> None:
        with udp_context(self.addresses.udp_host, self.addresses.udp_port):
            pass
        if self.bridge.came.is_set():
            assert self.bridge.gone.wait(LONG_S)
        ours = set(threading.enumerate()) - self._threads_before
        assert not [thread.name for thread in ours if thread.name.startswith("remote-can")]

    def close(self) -> None:
        self.supervisor.stop("the test is over")
        assert self.supervisor.join(LONG_S) == []
        self.sender.close()
        self.bridge.stop()
        self.service.stop()
        assert self.service.wrong == []
