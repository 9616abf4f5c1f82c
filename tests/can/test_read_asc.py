"""ASC: bases, stamps, dates of many locales, lines of every kind."""

from datetime import UTC, datetime
from pathlib import Path

import can
import pytest

from tests.can.logs import flags_of, read_all, rows
from tspace_core.can.frames import FrameFlag
from tspace_core.can.readers.asc_header import parse_base, parse_date

HEAD = "date Sat Sep 30 15:06:13.191 2017\nbase hex  timestamps absolute\ninternal events logged\n"
FLAG = FrameFlag


def assert_as_python_can(path: Path) -> None:
    batch, _ = read_all(path)
    messages = list(can.LogReader(path))
    assert len(batch) == len(messages)
    for row, wanted in zip(rows(batch), messages, strict=True):
        assert abs(row[0] - wanted.timestamp * 1e9) < 1
        assert row[1:4] == (wanted.channel, wanted.arbitration_id, flags_of(wanted))
        if not wanted.is_remote_frame:
            assert row[5] == bytes(wanted.data)


def write(folder: Path, text: str) -> Path:
    path = folder / "log.asc"
    path.write_text(text, encoding="latin-1")
    return path


@pytest.mark.parametrize(
    "name",
    [
        "conformance_python_can/logfile.asc",
        "conformance_python_can/logfile_errorframes.asc",
        "conformance_python_can/single_frame_us_locale.asc",
        "conformance_python_can/test_CanMessage.asc.gz",
        "can/derived/leaf_on_wotind_off.asc",
    ],
)
def test_agrees_with_python_can_on_files_of_others(shared_data: Path, name: str) -> None:
    assert_as_python_can(shared_data / name)


def test_known_lines_that_are_no_frames_are_noted_by_kind(shared_data: Path) -> None:
    _, report = read_all(shared_data / "conformance_python_can/logfile.asc")
    assert report.dropped == {}
    assert report.notes == {
        "asc event: chip status": 3,
        "asc event: Statistic": 6,
        "asc event: J1939TP": 2,
    }
    assert report.start == datetime(2017, 9, 30, 15, 6, 13, 191_000, tzinfo=UTC)
    assert report.start_zone is None
    assert not report.stamps_are_absolute


def test_lines_of_every_kind(tmp_path: Path) -> None:
    log = write(
        tmp_path,
        HEAD
        + "   1.000000 1  123             Rx   d 2 0A FF\n"
        + "   1.000001 2  18EBFF00x       Tx   d 0\n"
        + "   1.000002 1  123             Rx   r\n"
        + "   1.000003 1  123             Tx   r 4\n"
        + "   1.000004 3  ErrorFrame\n"
        + "   1.000005 CANFD   2 Rx        300  Speed   1 0 9 12 01 02 03 04 05 06 07 08 09 0A 0B 0C 0 0\n"
        + "   1.000006 CANFD   2 Tx     50005x  0 1 5 0 140000 73\n"
        + "   1.000007 CANFD   4 Rx ErrorFrame Not Acknowledge error\n"
        + "   1.000008 1  7FF             TxRq d 1 55 Length = 1\n",
    )
    batch, report = read_all(log)
    us = 1000
    assert rows(batch) == [
        (10**9, 0, 0x123, 0, 2, b"\x0a\xff"),
        (10**9 + us, 1, 0x18EBFF00, FLAG.EXTENDED | FLAG.TX, 0, b""),
        (10**9 + 2 * us, 0, 0x123, FLAG.REMOTE, 0, b""),
        (10**9 + 3 * us, 0, 0x123, FLAG.REMOTE | FLAG.TX, 4, bytes(4)),
        (10**9 + 4 * us, 2, 0, FLAG.ERROR | FLAG.EXTENDED, 0, b""),
        (10**9 + 5 * us, 1, 0x300, FLAG.FD | FLAG.BRS, 12, bytes(range(1, 13))),
        (10**9 + 6 * us, 1, 0x50005, FLAG.FD | FLAG.ESI | FLAG.EXTENDED | FLAG.REMOTE | FLAG.TX, 5, bytes(5)),
        (10**9 + 7 * us, 3, 0, FLAG.FD | FLAG.ERROR | FLAG.EXTENDED, 0, b""),
        (10**9 + 8 * us, 0, 0x7FF, FLAG.TX, 1, b"\x55"),
    ]
    assert report.dropped == {}


def test_decimal_base(tmp_path: Path) -> None:
    log = write(
        tmp_path,
        "base dec  timestamps absolute\n"
        "   1.5 1  291             Rx   d 3 10 255 0\n"
        "   2.5 1  419168000x      Rx   d 1 7   Length = 5\n",
    )
    batch, report = read_all(log)
    assert rows(batch) == [
        (1_500_000_000, 0, 291, 0, 3, bytes([10, 255, 0])),
        (2_500_000_000, 0, 419168000, FLAG.EXTENDED, 1, b"\7"),
    ]
    assert report.dropped == {}


def test_relative_stamps_count_from_the_line_before(tmp_path: Path) -> None:
    log = write(
        tmp_path,
        "base hex  timestamps relative\n"
        "   1.0 1  1 Rx d 1 00\n"
        "   0.5 1  Statistic: D 0 R 0 XD 0 XR 0 E 0 O 0 B 0.00%\n"
        "   0.5 1  2 Rx d 1 00\n"
        "   0.0 1  3 Rx d 1 00\n",
    )
    batch, _ = read_all(log, max_frames=2)
    assert batch.time.tolist() == [10**9, 2 * 10**9, 2 * 10**9]


@pytest.mark.parametrize(
    "line",
    [
        "   1.0 1  123 Rx d 8 01 02",
        "   1.0 1  123 Rx d 2 01 2",
        "   1.0 1  12G Rx d 1 01",
        "   1.0 1  FFFFFFFFx Rx d 1 01",
        "   1.0 1  123 Up d 1 01",
        "   1.0 1  123 Rx q 1 01",
        "   1.0 CANFD 1 Rx 123 0 0 f 65 01",
        "   1.0 CANFD 1 Rx 123 0 0 9 12 01 02",
        "   99999999999999999999.0 1  123 Rx d 1 01",
        "   1.0 somebody else",
        "date yesterday at tea time",
    ],
)
def test_damaged_line_costs_only_itself(tmp_path: Path, line: str) -> None:
    good = "   2.0 1  321 Rx d 1 AB\n"
    batch, report = read_all(write(tmp_path, HEAD + good + line + "\n" + good))
    assert [row[2] for row in rows(batch)] == [0x321, 0x321]
    assert report.dropped == {"foreign line": 1}
    assert "line 5" in report.messages["foreign line"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("date Sat Sep 30 15:06:13.191 2017", datetime(2017, 9, 30, 15, 6, 13, 191_000, tzinfo=UTC)),
        ("date Sam Sep 30 15:06:13 2017", datetime(2017, 9, 30, 15, 6, 13, tzinfo=UTC)),
        ("date Mit Mär 1 03:06:13 2023", datetime(2023, 3, 1, 3, 6, 13, tzinfo=UTC)),
        ("date Di Dez 12 23:59:59.999 2023", datetime(2023, 12, 12, 23, 59, 59, 999_000, tzinfo=UTC)),
        ("date mer. août 2 03:06:13 2023", datetime(2023, 8, 2, 3, 6, 13, tzinfo=UTC)),
        ("date Sat Sep 30 10:06:13.191 PM 2017", datetime(2017, 9, 30, 22, 6, 13, 191_000, tzinfo=UTC)),
        ("date Sat Sep 30 12:06:13 AM 2017", datetime(2017, 9, 30, 0, 6, 13, tzinfo=UTC)),
        ("date Sat Sep 30 12:06:13 pm 2017", datetime(2017, 9, 30, 12, 6, 13, tzinfo=UTC)),
        (
            "Begin Triggerblock Thu Jan 01 00:08:31.794 1970",
            datetime(1970, 1, 1, 0, 8, 31, 794_000, tzinfo=UTC),
        ),
        ("base hex timestamps absolute", None),
    ],
)
def test_dates_of_many_locales(text: str, wanted: datetime | None) -> None:
    assert parse_date(text) == wanted


def test_base_line() -> None:
    assert parse_base("base dec  timestamps relative") == (10, True)
    assert parse_base("Base HEX") == (16, False)
    assert parse_base("database hex") is None
