"""Formats are told apart by what is in the file; what is no log is refused with a clear message."""

import sqlite3
from pathlib import Path

import pytest

from tspace_core.can.readers import FORMATS, detect_format, open_log
from tspace_core.errors import LogFormatError, LogReadError

TRIP = "Time [s];Velocity [km/h];Battery Temperature [°C];\r\n0;0;21\r\n".encode("latin-1")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "is empty"),
        (b"MDF     4.11    CSS CANedge", "MF4"),
        (b"UnFinMF 4.11    CSS CANedge", "MF4"),
        (bytes(range(256)) * 8, "no known log format"),
        (b"\x00" * 5000, "no known log format"),
        (b"cycSecs,cycMps,cycGrade\n0,0,0\n", "cycSecs"),
        (b"hello", "hello"),
        (b"\x1f\x8b", "is empty"),
    ],
)
@pytest.mark.parametrize("ending", [".blf", ".log", ".csv", ".mf4"])
def test_what_is_no_log_is_refused(tmp_path: Path, content: bytes, named: str, ending: str) -> None:
    path = tmp_path / f"file{ending}"
    path.write_bytes(content)
    with pytest.raises(LogFormatError) as caught:
        open_log(path)
    message = str(caught.value)
    assert named in message
    assert str(path) in message
    for name in FORMATS:
        assert name in message


def test_trip_tables_are_named_and_not_opened_as_logs(tmp_path: Path) -> None:
    path = tmp_path / "trip.csv"
    path.write_bytes(TRIP)
    assert detect_format(path) == "trip_table"
    with pytest.raises(LogFormatError, match="read_trip_table"):
        open_log(path)


def test_real_files_of_others(shared_data: Path) -> None:
    wanted = {
        "can/derived/leaf_on_wotind_off.asc": "asc",
        "can/derived/leaf_on_wotind_off.blf": "blf",
        "can/derived/leaf_on_wotind_off.log": "candump",
        "can/ioniq28/IONIQ_PCAN_leave_car_while_drive_ready_beep.csv": "gvret",
        "can/leaf_eplus62/EV-CANepluseco.log": "tab_log",
        "can/leaf_gen1/leaf_on_Driveincircle_off.txt": "crtd",
        "can/leaf_gen1/leafon_reverse10m_stop_leafoff.csv": "gvret",
        "conformance_python_can/test_CanMessage.asc.gz": "asc",
        "conformance_python_can/test_CanMessage_V1_1.trc": "trc",
        "conformance_python_can/test_CanMessage_V2_1.trc": "trc",
        "trips_bmw_i3/TripA01.csv": "trip_table",
        "trips_bmw_i3/TripA13.csv": "trip_table",
        "trips_bmw_i3/TripB11.csv": "trip_table",
    }
    assert {name: detect_format(shared_data / name) for name in wanted} == wanted
    with pytest.raises(LogFormatError, match="MF4"):
        detect_format(shared_data / "can/kia_ev6/00000003-62977DFB.MF4")


def test_the_ending_decides_only_between_formats_that_both_fit(tmp_path: Path) -> None:
    both = "(1.0) can0 123#00\n1.0 R11 123 00\n"
    log, text = tmp_path / "a.log", tmp_path / "a.txt"
    log.write_text(both)
    text.write_text(both)
    assert (detect_format(log), detect_format(text)) == ("candump", "crtd")
    only_crtd = tmp_path / "b.log"
    only_crtd.write_text("1.0 R11 123 00\n")
    assert detect_format(only_crtd) == "crtd"


def test_format_given_by_name(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("1.0 R11 123 00\n")
    assert open_log(path, format="crtd").format == "crtd"
    with pytest.raises(LogFormatError, match=r"'mdf'.*blf"):
        open_log(path, format="mdf")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(LogReadError, match=r"nowhere\.blf"):
        open_log(tmp_path / "nowhere.blf")
    with pytest.raises(LogReadError, match="cannot open"):
        open_log(tmp_path)


def test_database_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE other (a)")
    connection.commit()
    connection.close()
    with pytest.raises(LogReadError, match="table 'messages'"):
        list(open_log(path).batches())
