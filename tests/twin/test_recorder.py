"""A recorded drive reads back as what was driven, by python-can and cantools and by our own readers."""

from datetime import UTC, datetime
from pathlib import Path

import can
import cantools
import numpy as np
import pytest
from cantools.database.can import Database
from cantools.database.conversion import BaseConversion
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tspace_core.can.dbc import load_database
from tspace_core.can.readers import detect_format, open_log
from tspace_core.can.report import ReadReport
from tspace_core.can.signals import SignalExtractor
from tspace_core.config import Vehicle
from tspace_core.errors import TwinError
from tspace_core.records.flash_journal import read_journal
from tspace_core.records.policy import ConstantPolicy
from tspace_core.twin.can_frames import put
from tspace_core.twin.exploration import SmoothExploration
from tspace_core.twin.fleet import Fleet
from tspace_core.twin.recorder import DEFAULT_START, DriveSummary, journal_path, record_drive
from tspace_core.twin.route import Route, make_route

SEED = 11


@pytest.fixture(scope="module")
def route() -> Route:
    time = np.arange(121.0)
    return make_route(
        "short", time, np.interp(time, [0, 5, 30, 60, 75, 85, 110, 120], [0, 0, 15, 17, 0, 0, 9, 0])
    )


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory, truck: Vehicle, route: Route) -> DriveSummary:
    path = tmp_path_factory.mktemp("drive") / "drive.blf"
    return record_drive(truck, "aggressive", route, SEED, path)


def decoded(path: Path, vehicle: Vehicle) -> dict[str, NDArray[np.float64]]:
    """(seconds since the start, value) of every DBC signal, by python-can and cantools."""
    database = cantools.database.load_file(vehicle.dbc_files()[0])
    assert isinstance(database, Database)
    found: dict[str, list[tuple[float, float]]] = {}
    with can.BLFReader(path) as reader:
        for message in reader:
            values = database.decode_message(message.arbitration_id, message.data)
            assert isinstance(values, dict)
            for name, value in values.items():
                assert isinstance(value, int | float)
                found.setdefault(name, []).append((message.timestamp - DEFAULT_START.timestamp(), value))
    return {name: np.array(rows) for name, rows in found.items()}


RESOLUTION = {
    "velocity": 0.01,
    "thrust": 0.1,
    "brake": 0.1,
    "current": 0.1,
    "voltage": 0.1,
    "gear": 1.0,
    "soc": 0.1,
    "motor_torque": 0.5,
    "motor_speed": 1.0,
}
RATES = {"velocity": 50, "thrust": 100, "current": 100, "gear": 10, "soc": 10, "motor_torque": 100}


def test_the_log_gives_the_trace_back(drive: DriveSummary, truck: Vehicle, route: Route) -> None:
    trace = Fleet(truck, route, ["aggressive"], [SEED], rate_hz=100.0).run()
    log = decoded(drive.path, truck)
    count = int(trace.valid.sum())
    for name, resolution in RESOLUTION.items():
        times, values = log[str(truck.signals[name].signal)].T
        samples = np.floor(times * 100.0 + 1e-6).astype(int) - 1
        assert samples.max() < count
        error = np.abs(values - trace.signal(name)[0, samples])
        assert error.max() <= 0.5 * resolution + 1e-6, name
        # Every sample is sent at most 2 ms late, and not before it was taken.
        lateness = times - trace.time_s[0, samples]
        assert lateness.min() > 0.0
        assert lateness.max() < 0.002
    for name, rate in RATES.items():
        assert len(log[str(truck.signals[name].signal)]) == pytest.approx(drive.duration_s * rate, rel=0.01)


def test_counters_count(drive: DriveSummary, truck: Vehicle) -> None:
    for name, rows in decoded(drive.path, truck).items():
        if name.endswith("_Counter"):
            np.testing.assert_array_equal(rows[:, 1], np.arange(len(rows)) % 16)


def test_own_readers_find_the_energy(drive: DriveSummary, truck: Vehicle) -> None:
    assert detect_format(drive.path) == "blf"
    report = ReadReport()
    extractor = SignalExtractor(truck, load_database(truck.dbc_files()), report)
    frames = 0
    parts: dict[str, list[NDArray[np.float64]]] = {"current": [], "voltage": []}
    for batch in open_log(drive.path, report).batches():
        frames += len(batch)
        assert np.all(np.diff(batch.time) >= 0)
        samples = extractor.extract(batch)
        for name, values in parts.items():
            values.append(samples[name].value)
    assert frames == drive.frames
    assert not report.dropped
    assert report.start == DEFAULT_START
    current, voltage = (np.concatenate(parts[name]) for name in ("current", "voltage"))
    assert np.sum(current * voltage) * 0.01 / 3600.0 == pytest.approx(drive.energy_wh, rel=0.002)


def test_the_same_arguments_give_the_same_file(truck: Vehicle, route: Route, tmp_path: Path) -> None:
    one = record_drive(truck, "tracker", route, 1, tmp_path / "a.blf", SmoothExploration(truck, 2))
    other = record_drive(truck, "tracker", route, 1, tmp_path / "b.blf", SmoothExploration(truck, 2))
    assert one.path.read_bytes() == other.path.read_bytes()
    assert one.journal is not None
    assert other.journal is not None
    assert one.journal.read_bytes() == other.journal.read_bytes()
    third = record_drive(truck, "tracker", route, 3, tmp_path / "c.blf", SmoothExploration(truck, 2))
    assert third.path.read_bytes() != one.path.read_bytes()


def test_flashes_take_effect_in_the_half_step(truck: Vehicle, route: Route, tmp_path: Path) -> None:
    assert truck.twin is not None
    start = datetime(2026, 3, 1, 6, 30, 15, 250_999, tzinfo=UTC)
    path = tmp_path / "flashed.blf"
    summary = record_drive(truck, "habitual", route, 1, path, SmoothExploration(truck, 5), start=start)
    assert summary.start == start.replace(microsecond=250_000)
    flashes = read_journal(journal_path(path), truck.default_map())
    assert len(flashes) == summary.flashes > 30
    window_s = truck.sampling.window_s
    default = truck.default_map()
    live = default
    for k, flash in enumerate(flashes):
        since_start = (flash.time_ns - round(summary.start.timestamp() * 1000) * 10**6) / 1e9
        assert since_start == pytest.approx((2 * k + 1) * window_s + truck.twin.flash_delay_s, abs=1e-6)
        assert flash.result == "APPLIED"
        rows = slice(flash.first_row, flash.first_row + 4)
        lower = default.table[rows] - truck.torque_map.budget_nm
        assert np.all(flash.torque_nm >= lower - 1e-3)
        assert np.all(flash.torque_nm <= default.table[rows] + 1e-3)
        assert not np.array_equal(flash.torque_nm, live.table[rows])
    assert len({flash.first_row for flash in flashes}) > 2


def test_without_a_policy_there_is_no_journal(truck: Vehicle, route: Route, tmp_path: Path) -> None:
    path = tmp_path / "drive.blf"
    with_policy = record_drive(truck, "tracker", route, 1, path, ConstantPolicy(-1.0))
    assert journal_path(path).is_file()
    without = record_drive(truck, "tracker", route, 1, path)
    assert without.journal is None
    assert without.flashes == 0
    assert not journal_path(path).exists()
    assert with_policy.energy_wh != without.energy_wh


def test_wrong_arguments_are_refused(truck: Vehicle, route: Route, tmp_path: Path) -> None:
    with pytest.raises(TwinError, match=r"let the name end with \.blf"):
        record_drive(truck, "tracker", route, 1, tmp_path / "drive.asc")
    with pytest.raises(TwinError, match="has no time zone"):
        record_drive(truck, "tracker", route, 1, tmp_path / "a.blf", start=datetime(2026, 1, 1))
    source = truck.signals["gear"].model_copy(update={"signal": "VCU_Nothing"})
    broken = truck.model_copy(update={"signals": {**truck.signals, "gear": source}})
    with pytest.raises(TwinError, match="VCU_Gear/VCU_Nothing is not in the twin's DBC"):
        record_drive(broken, "tracker", route, 1, tmp_path / "a.blf")


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_packing_is_that_of_cantools(data: st.DataObject) -> None:
    big = data.draw(st.booleans())
    length = data.draw(st.integers(1, 32))
    signed = data.draw(st.booleans())
    network_start = data.draw(st.integers(0, 64 - length))
    start = 8 * (network_start // 8) + 7 - network_start % 8 if big else network_start
    low, high = (-(1 << length - 1), (1 << length - 1) - 1) if signed else (0, (1 << length) - 1)
    raw = data.draw(st.lists(st.integers(low, high), min_size=1, max_size=5))
    signal = cantools.database.can.Signal(
        "S",
        start,
        length,
        byte_order="big_endian" if big else "little_endian",
        is_signed=signed,
        conversion=BaseConversion.factory(scale=1, offset=0),
    )
    message = cantools.database.can.Message(1, "M", 8, [signal])
    payload = np.zeros((len(raw), 8), dtype=np.uint8)
    put(payload, signal, np.array(raw, dtype=np.int64))
    assert [row.tobytes() for row in payload] == [message.encode({"S": value}) for value in raw]
