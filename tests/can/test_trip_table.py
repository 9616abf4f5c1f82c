"""Trip tables as they are published: odd headers, holes, wrong cells."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from tspace_core.can import trip_table
from tspace_core.can.report import ReadReport
from tspace_core.can.trip_table import TripTable, column_names, read_trip_table
from tspace_core.config import load_vehicle
from tspace_core.errors import ConfigError, LogReadError

HEADER = (
    "Time [s];Velocity [km/h];Throttle [%];Regenerative Braking Signal ;Motor Torque [Nm];"
    "Battery Voltage [V];Battery Current [A];SoC [%];Elevation [m];"
    "Temperature Vent right [\u00b0C] ;;Temperature Vent right [\u00b0C]"
)


def row(time: str, velocity: str = "10", current: str = "-2", soc: str = "50") -> str:
    return f"{time};{velocity};20;1;30;380.5;{current};{soc};100;1;2;3"


def read(tmp_path: Path, *lines: str, header: str = HEADER) -> tuple[TripTable, ReadReport]:
    path = tmp_path / "trip.csv"
    path.write_bytes(("\r\n".join([header, *lines]) + "\r\n").encode("latin-1"))
    report = ReadReport()
    return read_trip_table(path, load_vehicle("bmw_i3"), report), report


def test_columns_become_signals(tmp_path: Path) -> None:
    table, report = read(tmp_path, row("0"), row("0.1", current="3"), row("0.3"))
    assert table.rows == 3
    assert table.time.tolist() == [0, 100_000_000, 300_000_000]
    assert table.samples["current"].value.tolist() == [2.0, -3.0, 2.0], "discharge is positive"
    assert table.samples["brake"].value.tolist() == [100.0] * 3
    assert table.samples["voltage"].time.tolist() == table.time.tolist()
    assert report.dropped == {}


def test_names_given_twice_or_not_at_all(tmp_path: Path) -> None:
    table, _ = read(tmp_path, row("0"))
    assert table.columns[-3:] == (
        "Temperature Vent right [\u00b0C]",
        "column 11",
        "Temperature Vent right [\u00b0C] (2)",
    )
    assert column_names(["a ", "", " a", "a (2)", "a  b"]) == ["a", "column 2", "a (2)", "a (2) (2)", "a b"]


def test_a_bad_cell_costs_only_itself(tmp_path: Path) -> None:
    table, report = read(
        tmp_path, row("0", soc=""), "", row("0.1", velocity="1O"), row("0.2", velocity="999")
    )
    assert table.samples["soc"].time.tolist() == [100_000_000, 200_000_000]
    assert table.samples["velocity"].value.tolist() == [10.0]
    assert len(table.samples["voltage"]) == 3
    assert report.dropped == {"empty_cell": 1, "bad_number": 1, "out_of_range": 1}
    assert report.messages["bad_number"] == "trip.csv, line 4, column Velocity [km/h]: '1O' is no number"
    assert report.messages["empty_cell"] == "trip.csv, line 2, column SoC [%]: no value"


def test_a_row_without_a_time_costs_only_itself(tmp_path: Path) -> None:
    table, report = read(tmp_path, row("0"), row("noon"), row("nan"), row("0.2"))
    assert table.rows == 4
    assert table.samples["voltage"].time.tolist() == [0, 200_000_000]
    assert report.dropped == {"bad_time": 2}
    assert report.messages["bad_time"] == "trip.csv, line 3: 'noon' is no time in seconds"


def test_a_row_cut_off_gives_what_is_in_it(tmp_path: Path) -> None:
    table, report = read(tmp_path, row("0"), "0.1;12;20")
    assert table.samples["velocity"].value.tolist() == [10.0, 12.0]
    assert len(table.samples["soc"]) == 1
    assert report.dropped == {"empty_cell": 6}


def test_a_column_that_a_trip_lacks_is_counted(tmp_path: Path) -> None:
    header = HEADER.replace("Elevation [m]", "Altitude [m]")
    table, report = read(tmp_path, row("0"), header=header)
    assert len(table.samples["elevation"]) == 0
    assert len(table.samples["soc"]) == 1
    assert report.dropped == {"missing_column": 1}
    assert "'Elevation [m]', which signal elevation of vehicle bmw_i3" in report.messages["missing_column"]


def test_compressed_and_with_a_byte_order_mark(tmp_path: Path) -> None:
    plain, _ = read(tmp_path, row("0"), row("0.1"))
    packed = tmp_path / "trip.csv.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + (tmp_path / "trip.csv").read_bytes()))
    table = read_trip_table(packed, load_vehicle("bmw_i3"), ReadReport())
    assert table.columns == plain.columns
    for name, samples in plain.samples.items():
        assert np.array_equal(samples.value, table.samples[name].value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds 0 lines"),
        (HEADER.encode("latin-1"), "holds 1 lines"),
        (b"a;b\n1;2\n", "line 1: no column `Time"),
        (b"\x1f\x8b\x08broken", "cannot be read as a trip table"),
    ],
)
def test_what_is_no_trip_table_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "trip.csv"
    path.write_bytes(content)
    with pytest.raises(LogReadError, match=words):
        read_trip_table(path, load_vehicle("bmw_i3"), ReadReport())


def test_a_vehicle_of_can_logs_is_refused(tmp_path: Path) -> None:
    read(tmp_path, row("0"))
    with pytest.raises(ConfigError, match="vehicle leaf_gen1, signal velocity: comes from CAN"):
        read_trip_table(tmp_path / "trip.csv", load_vehicle("leaf_gen1"), ReadReport())


@pytest.mark.parametrize("packed", [False, True])
def test_a_table_beyond_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, packed: bool
) -> None:
    read(tmp_path, row("0"), row("0.1"))
    path = tmp_path / "trip.csv"
    content = path.read_bytes()
    path.write_bytes(gzip.compress(content) if packed else content)
    monkeypatch.setattr(trip_table, "MOST_BYTES", len(content))
    assert read_trip_table(path, load_vehicle("bmw_i3"), ReadReport()).rows == 2
    monkeypatch.setattr(trip_table, "MOST_BYTES", len(content) - 1)
    with pytest.raises(LogReadError, match=r"trip\.csv: more than 0 MiB.*split it into drives"):
        read_trip_table(path, load_vehicle("bmw_i3"), ReadReport())


def test_a_gzip_bomb_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.csv.gz"
    megabyte = gzip.compress(bytes(1 << 20))
    path.write_bytes(megabyte * 600)
    with pytest.raises(LogReadError, match="more than 512 MiB when decompressed"):
        read_trip_table(path, load_vehicle("bmw_i3"), ReadReport())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LogReadError, match=r"none\.csv: cannot be read"):
        read_trip_table(tmp_path / "none.csv", load_vehicle("bmw_i3"), ReadReport())


@pytest.mark.parametrize("time", ["1e300", "-1e12", "inf"])
def test_a_time_beyond_the_clock_costs_only_its_row(tmp_path: Path, time: str) -> None:
    table, report = read(tmp_path, row("0"), row(time), row("0.2"))
    assert table.time.tolist() == [0, 200_000_000]
    assert report.dropped == {"bad_time": 1}
    assert time in report.messages["bad_time"]


def test_decimal_commas_are_counted_with_what_to_do(tmp_path: Path) -> None:
    table, report = read(tmp_path, row("0"), row("0,1"), row("0.2", velocity="10,5"))
    assert table.time.tolist() == [0, 200_000_000]
    assert report.dropped == {"bad_time": 1, "bad_number": 1}
    for reason in report.dropped:
        assert "decimal points" in report.messages[reason]


def test_a_number_at_the_cut_of_a_file_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "cut.csv"
    path.write_bytes(f"{HEADER}\r\n{row('0')}\r\n0.1;12;20;1;30;380.5;-2".encode("latin-1"))  # was -250
    report = ReadReport()
    table = read_trip_table(path, load_vehicle("bmw_i3"), report)
    assert table.samples["current"].value.tolist() == [2.0]
    assert table.samples["voltage"].value.tolist() == [380.5, 380.5]
    assert report.dropped == {"last line cut off": 1, "empty_cell": 3}
    assert report.messages["last line cut off"] == "cut.csv, line 3: the file ends in cell 7 of 12"


def test_a_number_too_large_for_the_lake_costs_only_itself(tmp_path: Path) -> None:
    vehicle = load_vehicle("bmw_i3")
    free = {name: source.model_copy(update={"valid": None}) for name, source in vehicle.signals.items()}
    path = tmp_path / "trip.csv"
    path.write_text("\n".join([HEADER, row("0", current="1e39"), row("0.1"), ""]), encoding="latin-1")
    report = ReadReport()
    table = read_trip_table(path, vehicle.model_copy(update={"signals": free}), report)
    assert table.samples["current"].time.tolist() == [100_000_000]
    assert report.dropped == {"not_finite": 1}
    assert report.messages["not_finite"] == "current at 0.000000 s: 1e+39 is no finite number of 32 bits"
    path.write_text("\n".join([HEADER, row("0", soc="1e308"), ""]).replace(";1;30", ";1e308;30"), "latin-1")
    assert len(read_trip_table(path, vehicle, report).samples["brake"]) == 0, "overflows when scaled"
