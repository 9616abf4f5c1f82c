"""Transports for tests of the XCP master: scripted, into a simulated VCU, one that loses and mixes frames."""

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tspace_core.config.link import BusConfig, XcpConfig
from tspace_core.config.loading import load_vehicle
from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import XcpTimeoutError
from tspace_core.link.bus import SharedBus
from tspace_core.link.calibration import Calibration
from tspace_core.link.xcp import XcpMaster
from tspace_core.link.xcp_can import XcpCan
from tspace_core.twin.vcu import Vcu
from tspace_core.twin.xcp_slave import XcpSlave

CONF = Path(__file__).resolve().parents[2] / "conf"


def truck(name: str = "twin_truck", **xcp: object) -> Vehicle:
    """The simulated vehicle, with other values in its ``xcp`` section."""
    vehicle = load_vehicle(name)
    assert vehicle.xcp is not None
    return vehicle.model_copy(update={"xcp": vehicle.xcp.model_copy(update=xcp)})


def config_of(vehicle: Vehicle) -> XcpConfig:
    assert vehicle.xcp is not None
    return vehicle.xcp


class Queue:
    """What both doubles share: nothing waits, an empty queue is a time-out at once."""

    max_cto = 8
    foreign_requests = 0

    def __init__(self) -> None:
        self.waiting: list[bytes] = []

    def receive(self, timeout_s: float) -> bytes:
        if not self.waiting:
            message = f"nothing for {timeout_s:.3f} s"
            raise XcpTimeoutError(message)
        return self.waiting.pop(0)

    def discard(self) -> list[bytes]:
        found, self.waiting = self.waiting, []
        return found

    def exchange(self, packet: bytes, timeout_s: float) -> bytes:
        self.discard()
        self.send(packet)
        return self.receive(timeout_s)

    def send(self, packet: bytes) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


class Scripted(Queue):
    """Answers each command as the test says; keeps what was sent."""

    def __init__(self, *script: list[bytes]) -> None:
        super().__init__()
        self.script = list(script)
        self.sent: list[bytes] = []

    def send(self, packet: bytes) -> None:
        self.sent.append(packet)
        if self.script:
            self.waiting += self.script.pop(0)


class IntoVcu(Queue):
    """Straight into a simulated VCU, each packet filled up as on CAN."""

    def __init__(self, slave: XcpSlave, max_cto: int = 8) -> None:
        super().__init__()
        self.slave = slave
        self.max_cto = max_cto
        self.frames = 0

    def send(self, packet: bytes) -> None:
        self.frames += 1
        self.answered(self.slave.handle(packet.ljust(8, b"\xcc")))

    def answered(self, answers: list[bytes]) -> None:
        for answer in answers:
            self.frames += 1
            self.waiting.append(answer.ljust(8, b"\0"))


Fault = Callable[["Faulty", bytes, bool], None]


class Faulty(IntoVcu):
    """Does ``fault`` to the frame number ``at`` (of both directions), once or from then on."""

    def __init__(self, slave: XcpSlave, fault: Fault, at: int, *, for_ever: bool = False) -> None:
        super().__init__(slave)
        self.fault, self.at, self.for_ever = fault, at, for_ever
        self.late: list[bytes] = []
        self.happened = 0

    def _hit(self) -> bool:
        self.frames += 1
        hit = self.frames == self.at or (self.for_ever and self.frames > self.at)
        self.happened += hit
        return hit

    def send(self, packet: bytes) -> None:
        late, self.late = self.late, []
        self.waiting += late
        if self._hit():
            self.fault(self, packet, True)
        else:
            self.pass_on(packet)

    def pass_on(self, packet: bytes) -> None:
        self.answered(self.slave.handle(packet.ljust(8, b"\xcc")))

    def answered(self, answers: list[bytes]) -> None:
        for answer in answers:
            filled = answer.ljust(8, b"\0")
            if self._hit():
                self.fault(self, filled, False)
            else:
                self.waiting.append(filled)


def lose(link: Faulty, packet: bytes, request: bool) -> None:
    """The frame never arrives."""


def twice(link: Faulty, packet: bytes, request: bool) -> None:
    """The frame arrives twice, one right after the other."""
    if request:
        link.pass_on(packet)
        link.pass_on(packet)
    else:
        link.waiting += [packet, packet]


def too_late(link: Faulty, packet: bytes, request: bool) -> None:
    """The answer arrives after the next command was sent."""
    if request:
        link.pass_on(packet)
    else:
        link.late.append(packet)


def echo_late(link: Faulty, packet: bytes, request: bool) -> None:
    """The answer arrives, and once more after the next command was sent."""
    if request:
        link.pass_on(packet)
    else:
        link.waiting.append(packet)
        link.late.append(packet)


def garbage(link: Faulty, packet: bytes, request: bool) -> None:
    """A packet that is no answer comes instead of the answer."""
    link.waiting.append(bytes((0x42, 1, 2, 3, 4, 5, 6, 7)))


def answer(*packet: int) -> Fault:
    """The command is not done, this comes instead; an answer is replaced by it."""

    def fault(link: Faulty, _: bytes, request: bool) -> None:
        del request
        link.waiting.append(bytes(packet).ljust(8, b"\0"))

    return fault


def before(*packet: int) -> Fault:
    """This comes before the answer."""

    def fault(link: Faulty, frame: bytes, request: bool) -> None:
        link.waiting.append(bytes(packet).ljust(8, b"\0"))
        if request:
            link.pass_on(frame)
        else:
            link.waiting.append(frame)

    return fault


def simulated_vcu(vehicle: Vehicle, **options: object) -> tuple[Vcu, XcpSlave]:
    vcu = Vcu(vehicle)
    return vcu, XcpSlave(vcu, now_ns=lambda: 0, **options)  # type: ignore[arg-type]


@contextmanager
def vcu_on_bus(bus: SharedBus, vehicle: Vehicle, **options: object) -> Iterator[tuple[Vcu, XcpSlave]]:
    """A simulated VCU that answers on a bus of its own; answers go out on the reader's thread."""
    vcu = Vcu(vehicle)
    xcp = config_of(vehicle)
    slave = XcpSlave(vcu, now_ns=time.monotonic_ns, **options)  # type: ignore[arg-type]

    def answered(frame: object) -> None:
        for one in slave.handle(bytes(frame.data)):  # type: ignore[attr-defined]
            length = next(size for size in (8, 12, 16, 20, 24, 32, 48, 64) if size >= len(one))
            bus.send(xcp.response_id, one.ljust(length, b"\0"))

    subscription = bus.subscribe(answered, (xcp.request_id,))
    try:
        yield vcu, slave
    finally:
        subscription.cancel()


def virtual_bus(*, fd: bool = False) -> BusConfig:
    rates = {"fd": True, "data_bitrate": 2_000_000} if fd else {}
    return BusConfig.model_validate({"interface": "virtual", "channel": secrets.token_hex(4), **rates})


@contextmanager
def flashing(config: BusConfig, vehicle: Vehicle, **options: object) -> Iterator[tuple[Vcu, Calibration]]:
    """A calibration session over a real bus with a simulated VCU at its other end."""
    xcp = config_of(vehicle)
    with (
        SharedBus(config) as theirs,
        SharedBus(config) as ours,
        vcu_on_bus(theirs, vehicle, **options) as (vcu, _),
    ):
        transport = XcpCan(ours, xcp)
        with Calibration(XcpMaster(transport, xcp), vehicle) as calibration:
            yield vcu, calibration
        transport.close()
