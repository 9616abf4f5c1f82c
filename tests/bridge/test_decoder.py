"""Live values: the same rules as for logs, and what age and counters say of a frame."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import can
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.bridge.frames import BATTERY, PEDALS, SPEED, battery, frame, pedals, speed
from tests.can.test_signals import DATABASE, frames, vehicle_with
from tspace_core.bridge.decoder import Decoder
from tspace_core.bridge.sender import vehicle_state
from tspace_core.can.dbc import load_database
from tspace_core.can.report import ReadReport
from tspace_core.can.signals import SignalExtractor
from tspace_core.config import load_vehicle

if TYPE_CHECKING:
    from tspace_core.config.vehicle import Vehicle

MS = 1_000_000


class Clock:
    """A monotonic clock that only a test moves."""

    def __init__(self) -> None:
        self.ns = 10**12

    def __call__(self) -> int:
        return self.ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def decoder(clock: Clock) -> Decoder:
    return Decoder(load_vehicle("twin_truck"), now_ns=clock)


def feed(decoder: Decoder, counter: int = 0) -> None:
    for one in (speed(50, counter), pedals(20, 0, counter), battery(-12.5, 650.5, counter)):
        decoder.take(one)


SOURCES: list[dict[str, dict[str, Any]]] = [
    {"a": {"message": 0x1DB, "signal": "V", "unit": "V", "valid": (10.0, 20_000.0), "scale": 0.5}},
    {"a": {"message": 0x1DB, "signal": "I", "unit": "A", "sign": -1, "offset": 3.0, "clip": (-99.0, 99.0)}},
    {
        "a": {"message": 0x1DB, "signal": "V", "unit": "V", "sentinels": (0.0, 0.5)},
        "b": {"message": 0x1DB, "signal": "I", "unit": "A", "invalid_with": ("a",), "extended": False},
    },
    {
        "a": {"message": 0x300, "signal": "Speed", "unit": "km/h"},
        "b": {"message": 0x300, "signal": "Gear", "unit": "-"},
    },
    {"a": {"message": 0x386, "signal": "mean(W0, W1, W2, W3)", "unit": "km/h"}},
    {"a": {"message": 0x400, "signal": "F", "unit": "-"}},
]


@settings(deadline=None)
@given(
    sources=st.sampled_from(SOURCES),
    number=st.sampled_from([0x1DB, 0x300, 0x386, 0x400]),
    data=st.binary(max_size=8) | st.tuples(st.integers(0, 3), st.integers(0, 255)).map(bytes),
)
def test_values_are_those_of_the_pipeline_of_logs(
    sources: dict[str, dict[str, Any]], number: int, data: bytes
) -> None:
    vehicle = vehicle_with(**sources)
    report = ReadReport()
    expected = SignalExtractor(vehicle, DATABASE, report).extract(frames((1, 0, number, data)))
    needed = vehicle.model_copy(
        update={"sampling": vehicle.sampling.model_copy(update={"signals": tuple(sources)})}
    )
    decoder = Decoder(needed, database=DATABASE, now_ns=lambda: 5)
    decoder.take(frame(number, data))
    values = decoder.snapshot().values
    assert {name: [value] for name, value in values.items()} == {
        name: samples.value.tolist() for name, samples in expected.items() if len(samples)
    }


@settings(deadline=None)
@given(
    data=st.binary(min_size=8, max_size=8), message=st.sampled_from([SPEED, PEDALS, BATTERY, 304, 544, 784])
)
def test_the_twins_database_is_read_alike(data: bytes, message: int) -> None:
    vehicle = load_vehicle("twin_truck")
    database = load_database(vehicle.dbc_files())
    decoder = Decoder(vehicle, database=database, now_ns=lambda: 5)
    decoder.take(frame(message, data))
    batch = SignalExtractor(vehicle, database, ReadReport()).extract(frames((1, 0, message, data)))
    assert decoder.snapshot().values == {name: one.value[0] for name, one in batch.items() if len(one)}


def test_fresh_values_make_a_valid_sample(decoder: Decoder, clock: Clock) -> None:
    feed(decoder)
    clock.ns += 40 * MS
    snapshot = decoder.snapshot()
    state = vehicle_state(snapshot, decoder.needed, clock.ns)
    assert state.valid, state.reason
    assert (state.velocity_kmh, state.thrust_percent, state.brake_percent) == (50.0, 20.0, 0.0)
    assert state.at_ns == clock.ns - 40 * MS
    assert snapshot.values["current"] == -12.5
    assert snapshot.values["voltage"] == 650.5
    assert snapshot.heard_ns == state.at_ns


@pytest.mark.parametrize(("age_ms", "fresh"), [(499, True), (500, True), (501, False), (5000, False)])
def test_a_value_is_stale_after_ten_periods(decoder: Decoder, clock: Clock, age_ms: int, fresh: bool) -> None:
    feed(decoder)
    clock.ns += age_ms * MS
    decoder.take(pedals(20, 0, 1))
    decoder.take(battery(0, 650, 1))
    snapshot = decoder.snapshot()
    assert ("velocity" in snapshot.values) is fresh
    state = vehicle_state(snapshot, decoder.needed, clock.ns)
    assert state.valid is fresh
    if not fresh:
        assert state.reason == f"velocity: {age_ms / 1000:.2f} s old, at most 0.5 s are allowed"


def test_what_was_never_heard_is_said(decoder: Decoder, clock: Clock) -> None:
    state = vehicle_state(decoder.snapshot(), decoder.needed, clock.ns)
    assert not state.valid
    assert "velocity: not heard yet; thrust: not heard yet" in state.reason
    assert decoder.snapshot().heard_ns is None


def test_an_impossible_value_is_told_at_once_while_the_last_valid_one_is_kept(
    decoder: Decoder, clock: Clock
) -> None:
    feed(decoder)
    decoder.take(pedals(102.3, 0, 1))
    snapshot = decoder.snapshot()
    assert snapshot.values["thrust"] == 20.0
    state = vehicle_state(snapshot, decoder.needed, clock.ns)
    assert not state.valid
    assert state.reason == "thrust: 102.3 is outside the valid 0..100 %"
    decoder.take(pedals(30, 0, 2))
    assert vehicle_state(decoder.snapshot(), decoder.needed, clock.ns).valid
    assert decoder.counts["out_of_range"] == 1


@pytest.mark.parametrize(
    ("counters", "errors", "reason"),
    [
        ([0, 1, 2, 3], 0, None),
        ([14, 15, 0, 1], 0, None),
        ([0, 1, 3], 1, "counter_jump"),
        ([0, 1, 1], 1, "duplicate"),
        ([5, 6, 4], 1, "late"),
        ([0, 0, 0, 0], 3, "duplicate"),
    ],
)
def test_counters_tell_lost_repeated_and_late_frames(
    decoder: Decoder, counters: list[int], errors: int, reason: str | None
) -> None:
    for counter in counters:
        decoder.take(speed(50, counter))
    assert decoder.snapshot().counter_errors == errors
    assert decoder.snapshot().counter_errors == 0  # counted once
    if reason is not None:
        assert decoder.counts[reason] == errors


def test_a_repeated_frame_does_not_keep_a_value_alive(decoder: Decoder, clock: Clock) -> None:
    decoder.take(speed(50, 3))
    for _ in range(20):
        clock.ns += 50 * MS
        decoder.take(speed(50, 3))
    snapshot = decoder.snapshot()
    assert "velocity" not in snapshot.values
    assert snapshot.heard_ns == clock.ns  # the bus is not silent


def test_counter_errors_of_messages_that_driving_does_not_need_are_not_told(decoder: Decoder) -> None:
    for counter in (0, 5, 9):
        decoder.take(frame(784, bytes(7) + bytes([counter])))
    assert decoder.snapshot().counter_errors == 0
    assert decoder.counts["counter_jump"] == 2


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: frame(SPEED, b"\x01"), "too_short"),
        (lambda: frame(SPEED, b""), "too_short"),
        (lambda: frame(SPEED, bytes(8), extended=True), "other_format"),
    ],
)
def test_frames_that_cannot_be_used_are_counted(
    decoder: Decoder, make: Callable[[], can.Message], reason: str
) -> None:
    decoder.take(make())
    assert decoder.counts[reason] >= 1
    assert "velocity" not in decoder.snapshot().values


@settings(deadline=None)
@given(
    number=st.integers(0, 0x7FF) | st.sampled_from([SPEED, PEDALS, BATTERY]),
    data=st.binary(max_size=64),
    extended=st.booleans(),
)
def test_no_frame_raises(number: int, data: bytes, extended: bool) -> None:
    decoder = _any_decoder()
    decoder.take(can.Message(arbitration_id=number, data=data, is_extended_id=extended, is_fd=len(data) > 8))
    assert all(np.isfinite(value) for value in decoder.snapshot().values.values())


_DECODERS: list[Decoder] = []


def _any_decoder() -> Decoder:
    if not _DECODERS:
        _DECODERS.append(Decoder(load_vehicle("twin_truck")))
    return _DECODERS[0]


def test_a_second_source_of_speed_is_told(clock: Clock) -> None:
    vehicle = load_vehicle("twin_truck")
    second = vehicle.signals["motor_speed"].model_copy(update={"scale": 0.03504, "unit": "km/h"})
    two: Vehicle = vehicle.model_copy(update={"signals": {**vehicle.signals, "velocity_2": second}})
    decoder = Decoder(two, now_ns=clock)
    feed(decoder)
    decoder.take(frame(784, bytes(2) + (1427).to_bytes(2, "little", signed=True) + bytes(4)))
    state = vehicle_state(decoder.snapshot(), decoder.needed, clock.ns)
    assert state.other_velocity_kmh == pytest.approx(50.0, abs=0.01)
