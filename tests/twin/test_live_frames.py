"""The live twin's messages are those that its recordings hold, one sample at a time."""

import cantools
import numpy as np
import pytest
from cantools.database.can import Database

from tspace_core.config import Vehicle
from tspace_core.twin.can_frames import FrameMaker
from tspace_core.twin.faults import Faults, parse_fault
from tspace_core.twin.fleet import Fleet
from tspace_core.twin.live_frames import LiveFrame, LiveMessages
from tspace_core.twin.trace import Trace

RATE = 100.0


@pytest.fixture(scope="module")
def trace(truck: Vehicle) -> Trace:
    """Half a minute with driving in it."""
    return Fleet(truck, "udds", ["habitual"], [3], rate_hz=RATE).advance(40.0)


@pytest.fixture(scope="module")
def dbc(truck: Vehicle) -> Database:
    loaded = cantools.database.load_file(truck.dbc_files()[0])
    assert isinstance(loaded, Database)
    return loaded


def all_frames(truck: Vehicle, trace: Trace, faults: Faults | None = None) -> dict[int, list[LiveFrame]]:
    messages = LiveMessages(truck, RATE, faults)
    found: dict[int, list[LiveFrame]] = {}
    for sample in range(len(trace)):
        for frame in messages.next(trace, 0, sample):
            found.setdefault(frame.id, []).append(frame)
    return found


def values(dbc: Database, frames: list[LiveFrame], signal: str) -> list[float]:
    return [float(dbc.decode_message(frame.id, frame.data, decode_choices=False)[signal]) for frame in frames]


def test_same_payloads_as_the_recorder(truck: Vehicle, trace: Trace) -> None:
    recorded = FrameMaker(truck, 0).frames(trace, 0, RATE)
    live = all_frames(truck, trace)
    assert trace.velocity.max() > 20.0
    assert set(live) == set(recorded.id.tolist())
    for id, frames in live.items():
        mine = recorded.id == id
        assert [frame.data for frame in frames] == [
            payload[:length].tobytes()
            for payload, length in zip(recorded.payload[mine], recorded.length[mine], strict=True)
        ]


def test_faults_of_signals(truck: Vehicle, trace: Trace, dbc: Database) -> None:
    now = [0.0]
    faults = Faults([parse_fault("hold:velocity,at_s=1,for_s=1")], lambda: now[0])
    messages = LiveMessages(truck, RATE, faults)
    seen: list[float] = []
    for sample in range(2000, 2000 + 400):
        now[0] = (sample - 2000) / RATE
        seen += values(dbc, [f for f in messages.next(trace, 0, sample) if f.id == 272], "VCU_VehicleSpeed")
    held = seen[50:100]
    assert len(set(held)) == 1
    assert len(set(seen[:50])) > 1
    assert seen[100] == pytest.approx(trace.velocity[0, 2200], abs=0.006)


@pytest.mark.parametrize(
    ("text", "signal", "id", "expected"),
    [
        ("value:velocity,value=300", "VCU_VehicleSpeed", 272, 300.0),
        ("value:velocity,value=nan", "VCU_VehicleSpeed", 272, 655.35),
        ("value:current,value=-3100", "BMS_Current", 528, -3100.0),
        ("value:thrust,value=1e9", "VCU_AcceleratorPedal", 288, 102.3),
        ("value:brake,value=-5", "VCU_BrakePedal", 288, 0.0),
    ],
)
def test_values_beyond_what_is_possible(
    truck: Vehicle, trace: Trace, dbc: Database, text: str, signal: str, id: int, expected: float
) -> None:
    frames = LiveMessages(truck, RATE, Faults([parse_fault(text)])).next(trace, 0, 100)
    (value,) = values(dbc, [frame for frame in frames if frame.id == id], signal)
    assert value == pytest.approx(expected)


def test_a_counter_that_stands_and_messages_that_are_missing(
    truck: Vehicle, trace: Trace, dbc: Database
) -> None:
    faults = Faults([parse_fault("counter:VCU_Speed"), parse_fault("silence:VCU_Gear")])
    found = all_frames(truck, trace, faults)
    assert set(values(dbc, found[272], "VCU_Speed_Counter")) == {0.0}
    counters = np.array(values(dbc, found[288], "VCU_Pedals_Counter"))
    np.testing.assert_array_equal(counters, np.arange(len(counters)) % 16)
    assert 304 not in found
    assert all_frames(truck, trace, Faults([parse_fault("silence")])) == {}
