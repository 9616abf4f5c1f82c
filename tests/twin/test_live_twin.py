"""The live twin within a process: pacing, repeating, faults of the VCU and what becomes of the truck."""

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import can
import numpy as np
import pytest

from tspace_core.config import Vehicle
from tspace_core.errors import BusError, TwinError
from tspace_core.twin.faults import parse_fault
from tspace_core.twin.live import LiveOptions, LiveTwin
from tspace_core.twin.route import Route, make_route
from tspace_core.twin.seed_and_key import key_of

PATIENCE_S = 60.0
MAP = 0x80010000


@dataclass
class Wire:
    """A bus that keeps what is sent and lets a test be the master."""

    error: BusError | None = None
    full: bool = False
    sent: list[tuple[int, bytes]] = field(default_factory=list)
    hear: Callable[[can.Message], None] = lambda message: None

    def subscribe(
        self, callback: Callable[[can.Message], None], ids: Collection[int] | None = None
    ) -> "Wire":
        assert ids == [0x6F0]
        self.hear = callback
        return self

    def cancel(self) -> None:
        self.hear = lambda message: None

    def send(self, id: int, data: bytes, *, extended: bool = False) -> None:
        assert not extended
        if self.full or self.error is not None:
            raise self.error or BusError("full")
        self.sent.append((id, data))

    def ask(self, packet: bytes) -> list[bytes]:
        before = len(self.sent)
        self.hear(can.Message(arbitration_id=0x6F0, data=packet, is_extended_id=False, is_fd=len(packet) > 8))
        return [data for id, data in self.sent[before:] if id == 0x6F1]

    def command(self, *parts: int | bytes) -> bytes:
        packet = b"".join(part if isinstance(part, bytes) else bytes([part]) for part in parts)
        (answer,) = self.ask(packet)
        assert answer[0] == 0xFF, answer
        return answer

    def unlock(self) -> None:
        self.command(0xFF, 0)
        seed = b""
        for mode in (0, 1):
            answer = self.command(0xF8, mode, 1)
            seed += answer[2 : 2 + answer[1]]
        key = key_of(seed[:8], 1)
        self.command(0xF7, 8, key[:6])
        self.command(0xF7, 2, key[6:])


class Told:
    """Events, and a wait for one."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._changed = threading.Condition()

    def __call__(self, event: str, /, **fields: Any) -> None:
        with self._changed:
            self.events.append((event, fields))
            self._changed.notify_all()

    def named(self, name: str) -> list[dict[str, Any]]:
        return [fields for event, fields in self.events if event == name]

    def wait(self, name: str, count: int = 1) -> dict[str, Any]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.named(name)) >= count, PATIENCE_S), self.events
        return self.named(name)[count - 1]


@contextmanager
def running(twin: LiveTwin) -> Iterator[None]:
    stopping = threading.Event()
    thread = threading.Thread(target=twin.run, args=(stopping,))
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(PATIENCE_S)
        twin.close()


@pytest.fixture(scope="module")
def short() -> Route:
    """Some 150 m of city street."""
    seconds = np.arange(0.0, 41.0)
    speed = np.interp(seconds, [0, 5, 15, 25, 35, 40], [0, 0, 6, 6, 0, 0])
    return make_route("short", seconds, speed)


def test_a_route_that_is_driven_once(truck: Vehicle, short: Route) -> None:
    told, wire = Told(), Wire()
    twin = LiveTwin(truck, wire, LiveOptions(cycle=short, repeat=False, time_factor=500.0), told)
    twin.run(threading.Event())
    twin.close()
    assert [event for event, _ in told.events if event.startswith("drive")] == ["drive_begins", "drive_ends"]
    ended = told.wait("drive_ends")
    assert ended["distance_m"] == pytest.approx(short.length_m, abs=5.0)
    assert twin.steps == pytest.approx(ended["seconds"] * 100, abs=1)
    pedals = [data for id, data in wire.sent if id == 288]
    assert len(pedals) == twin.steps


def test_a_route_that_is_repeated(truck: Vehicle, short: Route) -> None:
    told, wire = Told(), Wire()
    twin = LiveTwin(truck, wire, LiveOptions(cycle=short, time_factor=1000.0), told)
    with running(twin):
        told.wait("drive_begins", 3)
    counters = np.array([data[7] & 15 for id, data in wire.sent if id == 288])
    np.testing.assert_array_equal(counters, np.arange(len(counters)) % 16)


def test_a_flashed_map_drives_the_next_route_too(truck: Vehicle, short: Route) -> None:
    told, wire = Told(), Wire()
    twin = LiveTwin(truck, wire, LiveOptions(cycle=short, time_factor=1000.0, silence_s=1e9), told)
    wire.unlock()
    wire.command(0xEB, 3, 0, 1)
    wire.command(0xF6, 0, 0, 0, MAP.to_bytes(4, "little"))
    wire.command(0xF0, 4, np.float32(-1.0).tobytes())
    assert told.named("map")[-1]["rows"][0].startswith(np.float32(-1.0).tobytes().hex())
    with running(twin):
        told.wait("drive_begins", 2)
        assert twin.vcu.active.table[0, 0] == -1.0
        assert twin._fleet.map(0) == twin.vcu.active


def test_supervision_goes_on_while_the_clock_is_driven_hard(truck: Vehicle, short: Route) -> None:
    told, wire = Told(), Wire()
    twin = LiveTwin(truck, wire, LiveOptions(cycle=short, time_factor=1000.0, silence_s=0.2), told)
    with running(twin):
        told.wait("ready")
        wire.hear(can.Message(arbitration_id=0x6F0, data=b"\xff\x00", is_extended_id=False))
        told.wait("xcp_connect")
        with twin._node.lock:
            twin.vcu.select(2)
        told.wait("page")
    assert told.named("page")[-1] == {"page": 0, "reason": "xcp silent for 0.2 s"}


def test_pacing_neither_runs_ahead_nor_falls_behind(truck: Vehicle) -> None:
    told, wire = Told(), Wire()
    twin = LiveTwin(truck, wire, LiveOptions(time_factor=10.0), told)
    stopping = threading.Event()
    thread = threading.Thread(target=twin.run, args=(stopping,))
    began = time.monotonic()
    thread.start()
    stopping.wait(2.0)
    stopping.set()
    thread.join(PATIENCE_S)
    elapsed = time.monotonic() - began
    twin.close()
    assert twin.steps + twin.late_steps <= elapsed * 1000 + 1
    assert twin.steps + twin.late_steps > 500


def test_a_full_bus_costs_frames_and_a_lost_one_ends_the_twin(truck: Vehicle, short: Route) -> None:
    wire = Wire(full=True)
    twin = LiveTwin(truck, wire, LiveOptions(cycle=short, repeat=False, time_factor=1000.0))
    twin.run(threading.Event())
    assert twin.failed_frames > 1000
    assert wire.ask(b"\xff\x00") == []
    twin.close()
    lost = Wire(error=BusError("unplugged"))
    with pytest.raises(BusError, match="unplugged"):
        LiveTwin(truck, lost).run(threading.Event())


def test_a_frozen_vcu_still_takes_its_reference_page(mule: Vehicle, short: Route) -> None:
    """The fault is the XCP task's; the supervision is another one."""
    told, wire = Told(), Wire()
    options = LiveOptions(cycle=short, silence_s=0.3, faults=(parse_fault("freeze:GET_STATUS"),))
    twin = LiveTwin(mule, wire, options, told)
    wire.ask(b"\xff\x00")
    answer = wire.ask(b"\xf8\x00\x01")[0]
    key = key_of(answer[2:10], 1)
    assert wire.ask(b"\xf7\x08" + key)[0][0] == 0xFF
    assert wire.ask(b"\xeb\x03\x00\x01")[0][0] == 0xFF
    with running(twin):
        assert wire.ask(b"\xfd") == []
        assert wire.ask(b"\xfc") == []
        told.wait("xcp_disconnect")
    assert twin.vcu.page == 0


@pytest.mark.parametrize("factor", [0.0, -1.0, 1001.0])
def test_time_factors_that_make_no_sense(truck: Vehicle, factor: float) -> None:
    with pytest.raises(TwinError, match="time factor"):
        LiveTwin(truck, Wire(), LiveOptions(time_factor=factor))
