"""From frames to a vehicle's signals: what is used, what is not, and that the difference is counted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tspace_core.can.dbc import CanDatabase
from tspace_core.can.frames import FrameBatch, FrameFlag
from tspace_core.can.layout import MessageLayout, SignalLayout
from tspace_core.can.report import ReadReport
from tspace_core.can.samples import Samples
from tspace_core.can.signals import SignalExtractor
from tspace_core.config import load_vehicle
from tspace_core.config.vehicle import SignalSource, Vehicle
from tspace_core.errors import ConfigError, DatabaseError

BATTERY = MessageLayout(
    0x1DB,
    False,
    "Battery",
    4,
    {
        "V": SignalLayout("V", 7, 16, little_endian=False, scale=0.5),
        "I": SignalLayout("I", 16, 16, signed=True, scale=0.5),
    },
)
MODES = MessageLayout(
    0x300,
    False,
    "Modes",
    2,
    {
        "Mode": SignalLayout("Mode", 0, 8),
        "Speed": SignalLayout("Speed", 8, 8, multiplexer="Mode", multiplexer_ids=frozenset({1})),
        "Gear": SignalLayout("Gear", 8, 8, multiplexer="Mode", multiplexer_ids=frozenset({2})),
    },
    {"Mode": frozenset({1, 2})},
)
WHEELS = MessageLayout(
    0x386, False, "Wheels", 4, {f"W{n}": SignalLayout(f"W{n}", 8 * n, 8, scale=0.25) for n in range(4)}
)
EXTENDED = MessageLayout(0x1DB, True, "Long", 1, {"P": SignalLayout("P", 0, 8)})
FLOAT = MessageLayout(0x400, False, "Float", 4, {"F": SignalLayout("F", 0, 32, is_float=True)})
DATABASE = CanDatabase(
    {(one.id, one.extended): one for one in (BATTERY, MODES, WHEELS, EXTENDED, FLOAT)},
    ["test.dbc: message 0x1DB Battery loses signal Lost: it overlaps V, which is longer or comes first"],
    "",
    (Path("test.dbc"),),
)
VOLTAGE: dict[str, Any] = {"message": 0x1DB, "signal": "V", "unit": "V"}
CURRENT: dict[str, Any] = {"message": "Battery", "signal": "I", "unit": "A", "sign": -1}


def vehicle_with(**sources: dict[str, Any]) -> Vehicle:
    signals = {name: SignalSource(**fields) for name, fields in sources.items()}
    return load_vehicle("leaf_gen1").model_copy(update={"signals": signals})


def frames(*rows: tuple[int, int, int, bytes], flags: int = 0) -> FrameBatch:
    """Rows of (ms, bus, id, payload)."""
    width = 8 if all(len(data) <= 8 for *_, data in rows) else 64
    payload = np.zeros((len(rows), width), np.uint8)
    for row, (*_, data) in enumerate(rows):
        payload[row, : len(data)] = list(data)
    return FrameBatch(
        np.array([ms * 1_000_000 for ms, *_ in rows], np.int64),
        np.array([bus for _, bus, *_ in rows], np.uint8),
        np.array([number for _, _, number, _ in rows], np.uint32),
        np.full(len(rows), flags, np.uint8),
        np.array([len(data) for *_, data in rows], np.uint8),
        payload,
    )


def battery(volts: float, amps: float) -> bytes:
    return int(volts * 2).to_bytes(2, "big") + int(amps * 2).to_bytes(2, "little", signed=True)


def extract(
    batch: FrameBatch, report: ReadReport | None = None, **sources: dict[str, Any]
) -> dict[str, Samples]:
    return SignalExtractor(vehicle_with(**sources), DATABASE, report or ReadReport()).extract(batch)


def test_value_is_clip_of_sign_scale_offset() -> None:
    source = {**CURRENT, "scale": 2.0, "offset": 1.0, "clip": (-50.0, 50.0), "valid": (-200.0, 200.0)}
    batch = frames(
        (1, 0, 0x1DB, battery(0, 10)), (2, 0, 0x1DB, battery(0, -40)), (3, 0, 0x1DB, battery(0, 120))
    )
    report = ReadReport()
    found = extract(batch, report, current=source)["current"]
    assert found.time.tolist() == [1_000_000, 2_000_000]
    assert found.value.tolist() == [-21.0, 50.0]
    assert report.dropped == {"out_of_range": 1}
    assert report.messages["out_of_range"] == (
        "current at 0.003000 s: -241 is outside the valid -200..200 A of the vehicle's file"
    )


def test_the_valid_range_is_closed() -> None:
    batch = frames(*((n, 0, 0x1DB, battery(volts, 0)) for n, volts in enumerate((9.5, 10, 20, 20.5))))
    assert extract(batch, voltage={**VOLTAGE, "valid": (10.0, 20.0)})["voltage"].value.tolist() == [
        10.0,
        20.0,
    ]


def test_sentinels_and_those_of_a_companion() -> None:
    batch = frames(
        (1, 0, 0x1DB, battery(400, 511.5)), (2, 0, 0x1DB, battery(511.5, 3)), (3, 0, 0x1DB, battery(400, 4))
    )
    report = ReadReport()
    found = extract(
        batch,
        report,
        voltage={**VOLTAGE, "sentinels": [511.5], "invalid_with": ["current"]},
        current={**CURRENT, "sentinels": [511.5]},
    )
    assert found["voltage"].value.tolist() == [400.0]
    assert found["current"].value.tolist() == [-3.0, -4.0], "it names no companion itself"
    assert report.dropped == {"sentinel": 3}


def test_a_float_that_is_no_number_is_counted() -> None:
    batch = frames((1, 0, 0x400, b"\x00\x00\xc0\x7f"), (2, 0, 0x400, b"\x00\x00\x80\x3f"))
    report = ReadReport()
    found = extract(batch, report, soc={"message": 0x400, "signal": "F", "unit": "%"})
    assert found["soc"].value.tolist() == [1.0]
    assert report.dropped == {"not_finite": 1}


def test_the_first_bus_wins_and_stays_over_batches() -> None:
    report = ReadReport()
    extractor = SignalExtractor(vehicle_with(voltage=VOLTAGE), DATABASE, report)
    first = extractor.extract(frames((1, 2, 0x1DB, battery(1, 0)), (2, 0, 0x1DB, battery(2, 0))))
    second = extractor.extract(frames((3, 0, 0x1DB, battery(3, 0)), (4, 2, 0x1DB, battery(4, 0))))
    assert first["voltage"].value.tolist() == [1.0]
    assert second["voltage"].value.tolist() == [4.0]
    assert report.dropped == {"other_bus": 2}
    assert (
        report.messages["other_bus"]
        == "0x1DB Battery: seen on bus 0; bus 2 is used, the first that had the id"
    )


def test_the_configured_bus_wins() -> None:
    report = ReadReport()
    batch = frames((1, 2, 0x1DB, battery(1, 0)), (2, 0, 0x1DB, battery(2, 0)))
    assert extract(batch, report, voltage={**VOLTAGE, "bus": 0})["voltage"].value.tolist() == [2.0]
    assert report.dropped == {"other_bus": 1}
    assert "as the vehicle's file says" in report.messages["other_bus"]


def test_one_id_wanted_from_two_buses() -> None:
    report = ReadReport()
    batch = frames((1, 2, 0x1DB, battery(1, 5)), (2, 0, 0x1DB, battery(2, 6)), (3, 1, 0x1DB, battery(3, 7)))
    found = extract(batch, report, voltage={**VOLTAGE, "bus": 0}, current={**CURRENT, "bus": 2})
    assert found["voltage"].value.tolist() == [2.0]
    assert found["current"].value.tolist() == [-5.0]
    assert report.dropped == {"other_bus": 1}, "only bus 1 is of no use"


def test_a_multiplexer_value_the_database_lacks_is_null_and_counted() -> None:
    report = ReadReport()
    rows = [(n, 0, 0x300, bytes(data)) for n, data in enumerate(([1, 50], [2, 3], [7, 9], [1, 60]))]
    found = extract(
        frames(*rows),
        report,
        velocity={"message": "Modes", "signal": "Speed", "unit": "km/h"},
        gear={"message": "Modes", "signal": "Gear", "unit": "-"},
    )
    assert found["velocity"].value.tolist() == [50.0, 60.0]
    assert found["gear"].value.tolist() == [3.0]
    assert report.dropped == {"unknown_multiplexer": 2}, "one frame, two signals"


def test_a_frame_that_ends_early_gives_what_is_in_it() -> None:
    report = ReadReport()
    batch = frames((1, 0, 0x1DB, battery(7, 0)[:3]), (2, 0, 0x1DB, battery(8, 1)), (3, 0, 0x1DB, b""))
    found = extract(batch, report, voltage=VOLTAGE, current=CURRENT)
    assert found["voltage"].value.tolist() == [7.0, 8.0]
    assert found["current"].value.tolist() == [-1.0]
    assert report.dropped == {"too_short": 3}


def test_remote_and_error_frames_carry_no_signals() -> None:
    asking = [(1, 0, 0x1DB, bytes(4)), (1, 0, 0x1DB, bytes(4)), (1, 0, 0x7FF, bytes(4))]
    remote = frames(*asking, flags=FrameFlag.REMOTE)
    error = frames((2, 0, 0x1DB, bytes(4)), flags=FrameFlag.ERROR)
    good = frames((3, 0, 0x1DB, battery(5, 0)))
    report = ReadReport()
    found = extract(FrameBatch.concat([remote, error, good]), report, voltage=VOLTAGE)
    assert found["voltage"].value.tolist() == [5.0]
    assert report.dropped == {"remote_frame": 2, "error_frame": 1}, (
        "the other remote frame is nobody's signal"
    )


def test_the_kind_of_id_decides() -> None:
    standard = frames((1, 0, 0x1DB, battery(5, 0)))
    extended = frames((2, 0, 0x1DB, b"\x09"), flags=FrameFlag.EXTENDED)
    batch = FrameBatch.concat([standard, extended])
    pedal = {"message": 0x1DB, "signal": "P", "unit": "%", "extended": True}
    report = ReadReport()
    found = extract(batch, report, voltage=VOLTAGE, thrust=pedal)
    assert (found["voltage"].value.tolist(), found["thrust"].value.tolist()) == ([5.0], [9.0])
    assert report.dropped == {}


def test_fd_frames_decode_as_others() -> None:
    batch = frames((1, 0, 0x1DB, battery(5, 2) + bytes(60)), (2, 0, 0x1DB, battery(6, 3)), flags=FrameFlag.FD)
    found = extract(batch, voltage=VOLTAGE, current=CURRENT)
    assert found["voltage"].value.tolist() == [5.0, 6.0]
    assert found["current"].value.tolist() == [-2.0, -3.0]


def test_frames_on_one_stamp_all_stay_in_order() -> None:
    batch = frames(*((1, 0, 0x1DB, battery(volts, 0)) for volts in (3, 1, 2)))
    assert extract(batch, voltage=VOLTAGE)["voltage"].value.tolist() == [3.0, 1.0, 2.0]


def test_the_mean_of_several_signals() -> None:
    source = {"message": 0x386, "signal": "mean(W0, W1, W2, W3)", "unit": "km/h"}
    report = ReadReport()
    batch = frames((1, 0, 0x386, bytes([1, 2, 3, 15])), (2, 0, 0x386, bytes([1, 2, 3])))
    assert extract(batch, report, velocity=source)["velocity"].value.tolist() == [21 * 0.25 / 4]
    assert report.dropped == {"too_short": 1}, "a mean of three of four wheels would be another signal"


def test_every_signal_is_there_even_without_a_frame() -> None:
    found = extract(FrameBatch.empty(), voltage=VOLTAGE, current=CURRENT)
    assert {name: len(one) for name, one in found.items()} == {"voltage": 0, "current": 0}


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ({**VOLTAGE, "signal": "W"}, DatabaseError, "vehicle leaf_gen1, signal voltage: .*no signal 'W'"),
        ({**VOLTAGE, "signal": "Lost"}, DatabaseError, "loses signal Lost: it overlaps V"),
        ({**VOLTAGE, "message": 0x111}, DatabaseError, "no message id 0x111"),
        ({"message": 0x386, "signal": "mean(W0, W9)", "unit": "-"}, DatabaseError, "no signal 'W9'"),
        ({"column": "Battery Voltage [V]", "unit": "V"}, ConfigError, "column 'Battery Voltage"),
        ({**VOLTAGE, "invalid_with": ["gear"]}, ConfigError, "not in the same message 0x1DB Battery"),
    ],
)
def test_a_wrong_source_is_refused_before_any_frame(
    source: dict[str, Any], error: type[Exception], words: str
) -> None:
    gear = {"message": "Modes", "signal": "Gear", "unit": "-"}
    with pytest.raises(error, match=words):
        SignalExtractor(vehicle_with(voltage=source, gear=gear), DATABASE, ReadReport())


def test_how_the_log_is_cut_does_not_matter() -> None:
    generator = np.random.default_rng(8)
    rows = [
        (n, int(generator.integers(0, 2)), int(generator.choice([0x1DB, 0x300, 0x55])), generator.bytes(4))
        for n in range(300)
    ]
    sources = {"voltage": VOLTAGE, "gear": {"message": "Modes", "signal": "Gear", "unit": "-"}}
    whole = ReadReport()
    wanted = extract(frames(*rows), whole, **sources)
    cut = ReadReport()
    extractor = SignalExtractor(vehicle_with(**sources), DATABASE, cut)
    parts = [extractor.extract(frames(*rows[start : start + 7])) for start in range(0, 300, 7)]
    for name, one in wanted.items():
        together = Samples.concat(part[name] for part in parts)
        assert together.time.tolist() == one.time.tolist()
        assert together.value.tolist() == one.value.tolist()
    assert whole.dropped == cut.dropped
    assert whole.dropped["other_bus"] > 0
