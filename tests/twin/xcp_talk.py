"""A clock that stands still until it is moved, and commands of XCP written out by hand."""

from dataclasses import dataclass, field

from tspace_core.config import Vehicle
from tspace_core.twin.seed_and_key import key_of
from tspace_core.twin.vcu import Vcu
from tspace_core.twin.vcu_memory import VcuMemory
from tspace_core.twin.xcp_slave import VcuEvent, XcpSlave

MAP, VIN, SOFTWARE = 0x80010000, 0x80000000, 0x80000020
OK = [b"\xff"]


@dataclass
class Clock:
    """Nanoseconds that only a test moves on."""

    ns: int = 1_000_000_000

    def __call__(self) -> int:
        return self.ns

    def wait(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)


@dataclass
class Bench:
    """A VCU with its slave, and short words for what a master says."""

    vcu: Vcu
    slave: XcpSlave
    clock: Clock
    events: list[VcuEvent] = field(default_factory=list)

    def say(self, *parts: int | bytes) -> list[bytes]:
        packet = b"".join(part if isinstance(part, bytes) else bytes([part]) for part in parts)
        return self.slave.handle(packet)

    def connect(self) -> None:
        assert self.say(0xFF, 0)[0][0] == 0xFF

    def unlock(self, room: int = 6) -> None:
        seed = b""
        mode = 0
        while True:
            (answer,) = self.say(0xF8, mode, 1)
            assert answer[0] == 0xFF
            seed += answer[2:]
            if answer[1] == len(answer) - 2:
                break
            mode = 1
        key = key_of(seed, 1)
        for first in range(0, len(key), room):
            (answer,) = self.say(0xF7, len(key) - first, key[first : first + room])
            assert answer[0] == 0xFF
        assert answer == b"\xff\x00"

    def at(self, address: int, extension: int = 0) -> list[bytes]:
        return self.say(0xF6, 0, 0, extension, address.to_bytes(4, "little"))

    def reasons(self, kind: str) -> list[str]:
        return [event.reason for event in self.events if event.kind == kind]


def bench(vehicle: Vehicle, **options: object) -> Bench:
    """A connected slave on the addresses of the twins' configs."""
    clock = Clock()
    events: list[VcuEvent] = []
    vcu = Vcu(vehicle)
    assert vehicle.xcp is not None
    names = (vehicle.xcp.map_name, vehicle.xcp.vin_name, vehicle.xcp.software_name)
    memory = VcuMemory(
        vcu, {name: (place, 0) for name, place in zip(names, (MAP, VIN, SOFTWARE), strict=True)}
    )
    slave = XcpSlave(vcu, now_ns=clock, memory=memory, on_event=events.append, **options)  # type: ignore[arg-type]
    return Bench(vcu, slave, clock, events)
