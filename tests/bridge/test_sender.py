"""The bridge's datagrams: their rate, what is in them, and what a late machine makes of them."""

import itertools
import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.bridge.frames import all_frames, battery, pedals, speed
from tspace_core.bridge.decoder import Decoder, Snapshot
from tspace_core.bridge.sender import Sender
from tspace_core.config import load_vehicle
from tspace_core.config.vehicle import Vehicle
from tspace_core.guard.state import VehicleState
from tspace_core.link.datagrams import DatagramError, parse

LIMIT_S = 20.0


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        bound.settimeout(LIMIT_S)
        yield bound


class Running:
    """A sender in a thread, with its samples for the guard."""

    def __init__(
        self,
        vehicle: Vehicle,
        decoder: Decoder,
        address: tuple[str, int],
        *,
        wanted: bool = True,
        work: Callable[[], object] = lambda: None,
    ) -> None:
        self.samples: queue.Queue[VehicleState] = queue.Queue()
        self.stopping = threading.Event()
        self._work = work
        self.sender = Sender(vehicle, decoder, self.observe, address, wanted=lambda: wanted)
        self.thread = threading.Thread(target=self.sender.run, args=(self.stopping,))
        self.thread.start()

    def observe(self, state: VehicleState, snapshot: Snapshot) -> None:
        self.samples.put(state)
        self._work()

    def end(self) -> None:
        self.stopping.set()
        self.thread.join(LIMIT_S)
        assert not self.thread.is_alive()


def received(listener: socket.socket, count: int) -> list[dict[str, Any]]:
    return [json.loads(listener.recv(4096)) for _ in range(count)]


def with_rate(rate_hz: float) -> Vehicle:
    vehicle = load_vehicle("twin_truck")
    return vehicle.model_copy(
        update={"sampling": vehicle.sampling.model_copy(update={"rate_hz": rate_hz, "window": 30})}
    )


def test_one_datagram_a_tick_with_all_signals_and_its_number(listener: socket.socket) -> None:
    vehicle = load_vehicle("twin_truck")
    decoder = Decoder(vehicle)
    for one in all_frames(0):
        decoder.take(one)
    begun = time.monotonic()
    running = Running(vehicle, decoder, listener.getsockname())
    found = received(listener, 3)
    assert time.monotonic() - begun >= 3 * 0.05  # never early
    running.end()
    assert [content["bridge"]["seq"] for content in found] == [0, 1, 2]
    assert parse(json.dumps(found[0]).encode()).sample == {
        "velocity": 50.0,
        "thrust": 20.0,
        "brake": 0.0,
        "current": -12.5,
        "voltage": 650.5,
    }
    assert abs(found[0]["bridge"]["time_ns"] - time.time_ns()) < LIMIT_S * 1e9
    assert running.samples.get(timeout=LIMIT_S).valid


def test_what_a_tick_takes_does_not_move_the_next_one(listener: socket.socket) -> None:
    vehicle = load_vehicle("twin_truck")
    counters = itertools.count()
    decoder = Decoder(vehicle)

    def work() -> None:
        for one in all_frames(next(counters)):
            decoder.take(one)
        threading.Event().wait(0.03)

    work()
    running = Running(vehicle, decoder, listener.getsockname(), work=work)
    found = received(listener, 20)
    running.end()
    elapsed_s = (found[-1]["bridge"]["time_ns"] - found[0]["bridge"]["time_ns"]) / 1e9
    # On a grid these are as many periods as ticks, sent or missed; with 30 ms added to each it were 12 more.
    assert elapsed_s / 0.05 <= 20 + running.sender.missed + 5


def test_a_stale_signal_is_left_out_and_told_to_the_guard(listener: socket.socket) -> None:
    vehicle = load_vehicle("twin_truck")
    decoder = Decoder(vehicle)
    decoder.take(speed(50, 0))
    decoder.take(battery(1, 600, 0))
    running = Running(vehicle, decoder, listener.getsockname())
    content = listener.recv(4096)
    with pytest.raises(DatagramError, match="data lacks pedal, brake_pressure"):
        parse(content)
    sample = running.samples.get(timeout=LIMIT_S)
    running.end()
    assert not sample.valid
    assert sample.reason == "thrust: not heard yet; brake: not heard yet"
    assert running.sender.incomplete >= 1


def test_a_silent_bus_sends_nothing_and_the_guard_is_told(listener: socket.socket) -> None:
    running = Running(with_rate(100.0), Decoder(with_rate(100.0)), listener.getsockname())
    samples = [running.samples.get(timeout=LIMIT_S) for _ in range(20)]
    running.end()
    assert not any(sample.valid for sample in samples)
    assert running.sender.sent == 0
    listener.settimeout(0)
    with pytest.raises(BlockingIOError):
        listener.recv(4096)


def test_nothing_is_sent_while_nobody_wants_it_and_the_guard_still_sees_it(listener: socket.socket) -> None:
    vehicle = with_rate(100.0)
    decoder = Decoder(vehicle)
    for one in all_frames(0):
        decoder.take(one)
    running = Running(vehicle, decoder, listener.getsockname(), wanted=False)
    assert running.samples.get(timeout=LIMIT_S).valid
    running.end()
    assert running.sender.sent == 0


def test_ticks_that_were_too_late_are_counted_and_not_made_up_for(listener: socket.socket) -> None:
    vehicle = with_rate(100.0)
    decoder = Decoder(vehicle)
    pause = threading.Event()
    begun = time.monotonic()
    running = Running(vehicle, decoder, listener.getsockname(), work=lambda: pause.wait(0.5))
    for _ in range(3):
        running.samples.get(timeout=LIMIT_S)
    running.end()
    took = time.monotonic() - begun
    assert running.sender.missed >= 90
    assert running.sender.missed <= took * 100


def test_the_latest_value_goes_out(listener: socket.socket) -> None:
    vehicle = with_rate(50.0)
    decoder = Decoder(vehicle)
    running = Running(vehicle, decoder, listener.getsockname())
    counter = 0
    for thrust in (10.0, 35.5):
        for one in (speed(50, counter), pedals(thrust, 0, counter), battery(0, 600, counter)):
            decoder.take(one)
        counter += 1
        while json.loads(listener.recv(4096))["data"].get("pedal") != thrust:
            for one in (speed(50, counter), pedals(thrust, 0, counter), battery(0, 600, counter)):
                decoder.take(one)
            counter += 1
    running.end()
