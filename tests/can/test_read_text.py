"""Dialects of the text formats that the fast path leaves to the slow one."""

from pathlib import Path

import can
import pytest

from tests.can.logs import flags_of, random_messages, read_all, rows
from tspace_core.can.frames import FrameFlag
from tspace_core.can.readers import open_log
from tspace_core.can.readers.text import LONGEST_LINE, ForeignLineError, nanoseconds
from tspace_core.errors import LogReadError

FLAG = FrameFlag


def read_text(
    folder: Path, text: str, format: str
) -> tuple[list[tuple[int, int, int, int, int, bytes]], dict[str, int]]:
    path = folder / "log.any"
    path.write_bytes(text.encode("latin-1"))
    batch, report = read_all(path, format=format)
    return rows(batch), report.dropped


class TestCandump:
    def test_agrees_with_python_can(self, tmp_path: Path) -> None:
        path = tmp_path / "log.log"
        messages = random_messages(
            800, 3, start_s=1.7e9, kinds=("data", "fd", "remote"), buses=2, with_tx=True
        )
        with can.CanutilsLogWriter(path) as writer:
            for message in messages:
                writer.on_message_received(message)
        batch, report = read_all(path)
        assert report.dropped == {}
        for row, wanted in zip(rows(batch), can.CanutilsLogReader(path), strict=True):
            assert abs(row[0] / 1e9 - wanted.timestamp) < 1e-6
            assert (f"can{row[1]}", row[2], row[3]) == (
                wanted.channel,
                wanted.arbitration_id,
                flags_of(wanted),
            )
            assert row[4] == wanted.dlc
            assert row[5] == (bytes(wanted.data) or bytes(wanted.dlc))

    def test_interfaces_keep_their_numbers_where_free(self, tmp_path: Path) -> None:
        path = tmp_path / "log.log"
        names = ["can1", "vcan1", "slcan", "can1", "can300", "x" * 40]
        path.write_text("".join(f"(1.0) {name} 123#00\n" for name in names))
        for max_frames in (1, 100):
            batch, report = read_all(path, max_frames=max_frames)
            assert report.buses == {"can1": 1, "vcan1": 0, "slcan": 2, "can300": 3, "x" * 40: 4}
            assert batch.bus.tolist() == [1, 0, 2, 1, 3, 4]

    def test_frames_of_every_kind(self, tmp_path: Path) -> None:
        found, dropped = read_text(
            tmp_path,
            "(1.0) can0 123#\n"
            "(1.000000001) can0 00000123#0011223344556677\n"
            "(1.5) can0 123#R5\n"
            "(2.0) can0 20000004#000C000000000000\n"
            "(3.0) can0 123##5AABB\n"
            "(4.0) can0 123#1122334455667788_B T\n"
            "(5.0) can0 123#11.22.33 R\n",
            "candump",
        )
        assert dropped == {}
        assert found == [
            (10**9, 0, 0x123, 0, 0, b""),
            (10**9 + 1, 0, 0x123, FLAG.EXTENDED, 8, bytes.fromhex("0011223344556677")),
            (1_500_000_000, 0, 0x123, FLAG.REMOTE, 5, bytes(5)),
            (2 * 10**9, 0, 4, FLAG.ERROR | FLAG.EXTENDED, 8, bytes.fromhex("000C000000000000")),
            (3 * 10**9, 0, 0x123, FLAG.FD | FLAG.BRS, 2, b"\xaa\xbb"),
            (4 * 10**9, 0, 0x123, FLAG.TX, 8, bytes.fromhex("1122334455667788")),
            (5 * 10**9, 0, 0x123, 0, 3, b"\x11\x22\x33"),
        ]

    def test_what_candump_prints_on_a_terminal(self, tmp_path: Path) -> None:
        found, dropped = read_text(
            tmp_path,
            " (1436509052.249713)  vcan0  044   [3]  2A 36 6C\n"
            " (1436509052.449847)  vcan0  00000045   [0]\n"
            " (1436509052.649999)  vcan0  046   [4]  remote request\n"
            " (1436509052.749999)  vcan0  047  [12]  00 01 02 03 04 05 06 07 08 09 0A 0B\n",
            "candump",
        )
        assert dropped == {}
        assert [row[1:] for row in found] == [
            (0, 0x44, 0, 3, b"\x2a\x36\x6c"),
            (0, 0x45, FLAG.EXTENDED, 0, b""),
            (0, 0x46, FLAG.REMOTE, 4, bytes(4)),
            (0, 0x47, FLAG.FD, 12, bytes(range(12))),
        ]
        assert found[0][0] == 1_436_509_052_249_713_000

    @pytest.mark.parametrize(
        "line",
        [
            "(1.0) can0 123#112",
            "(1.0) can0 123#112233445566778899",
            "(1.0) can0 45123#81:00:12345678#11223344",
            "(1.0) can0 123###11",
            "(1.0) can0 123#R9",
            "(nan) can0 123#11",
            "(1.0) can0 FFFFFFFFF#11",
            "(1.0) can0 123#11 Q",
        ],
    )
    def test_damaged_line_costs_only_itself(self, tmp_path: Path, line: str) -> None:
        found, dropped = read_text(tmp_path, f"(1.0) can0 1#11\n{line}\n(2.0) can0 2#22\n", "candump")
        assert [row[2] for row in found] == [1, 2]
        assert dropped == {"foreign line": 1}

    @pytest.mark.parametrize(
        ("end", "frames"),
        [("2#1122334455667788", 2), ("2#11223344556677", 1), ("2#11 R", 2), ("2##111223344556677", 1)],
    )
    def test_last_line_without_line_end_counts_only_where_complete(
        self, tmp_path: Path, end: str, frames: int
    ) -> None:
        found, dropped = read_text(tmp_path, f"(1.0) can0 1#11\n(2.0) can0 {end}", "candump")
        assert len(found) == frames
        assert dropped == ({} if frames == 2 else {"last line cut off": 1})


class TestCrtd:
    def test_records(self, tmp_path: Path) -> None:
        found, dropped = read_text(
            tmp_path,
            "1524311386.811100 1CXX OVMS CRTD\n"
            "1524311386.811100 1R11 100 01 02 03\n"
            "1524311386.811200 2T29 18DB33F1 01\n"
            "1524311386.811300 R11 7DF 01 02 03 04 05 06 07 08 \n"
            "1524311386.811400 1CEV something happened\n"
            "1524311386.811500 12R11 1\n",
            "crtd",
        )
        base = 1_524_311_386_811_100_000
        assert found == [
            (base, 0, 0x100, 0, 3, b"\1\2\3"),
            (base + 100_000, 1, 0x18DB33F1, FLAG.EXTENDED | FLAG.TX, 1, b"\1"),
            (base + 200_000, 0, 0x7DF, 0, 8, bytes(range(1, 9))),
            (base + 400_000, 11, 1, 0, 0, b""),
        ]
        assert dropped == {}

    @pytest.mark.parametrize(
        "line",
        [
            "1.0 R11 123 0",
            "1.0 R12 123 00",
            "1.0 R11 123 01 02 03 04 05 06 07 08 09",
            "1.0 R29 FFFFFFFF 00",
            "R11",
        ],
    )
    def test_damaged_line_costs_only_itself(self, tmp_path: Path, line: str) -> None:
        found, dropped = read_text(tmp_path, f"1.0 R11 1 11\n{line}\n2.0 R11 2 22\n", "crtd")
        assert [row[2] for row in found] == [1, 2]
        assert dropped == {"foreign line": 1}


class TestGvret:
    def test_header_without_direction_and_odd_cells(self, tmp_path: Path) -> None:
        found, dropped = read_text(
            tmp_path,
            "Time Stamp,ID,Extended,Bus,LEN,D1,D2,D3,D4,D5,D6,D7,D8\n"
            "1000,0000012A,false,1,2,AA,BB\n"
            "-5,12A,true,0,0,\n"
            "2000.5,0x12A,False,0,1,CC,\n",
            "gvret",
        )
        assert found == [
            (1_000_000, 1, 0x12A, 0, 2, b"\xaa\xbb"),
            (-5000, 0, 0x12A, FLAG.EXTENDED, 0, b""),
            (2_000_500, 0, 0x12A, 0, 1, b"\xcc"),
        ]
        assert dropped == {}

    def test_a_long_frame_is_can_fd(self, tmp_path: Path) -> None:
        data = ",".join(f"{byte:02X}" for byte in range(12))
        found, _ = read_text(
            tmp_path, f"Time Stamp,ID,Extended,Dir,Bus,LEN,D1\n1,1,false,Tx,0,12,{data}\n", "gvret"
        )
        assert found == [(1000, 0, 1, FLAG.FD | FLAG.TX, 12, bytes(range(12)))]

    @pytest.mark.parametrize(
        "line",
        [
            "1,1,false,Rx,0,3,AA,BB",
            "1,1,maybe,Rx,0,0",
            "1,1,false,Up,0,0",
            "1,1,false,Rx,0,-1,AA",
            "1,1,false,Rx,0,1,G0",
        ],
    )
    def test_damaged_line_costs_only_itself(self, tmp_path: Path, line: str) -> None:
        head = "Time Stamp,ID,Extended,Dir,Bus,LEN,D1,D2,D3,D4,D5,D6,D7,D8\n"
        found, dropped = read_text(tmp_path, f"{head}1,1,false,Rx,0,0\n{line}\n1,2,false,Rx,0,0\n", "gvret")
        assert [row[2] for row in found] == [1, 2]
        assert dropped == {"foreign line": 1}


class TestTabLog:
    def test_columns_in_another_order(self, tmp_path: Path) -> None:
        found, dropped = read_text(
            tmp_path,
            "Time\tCh\tT/R\tCAN ID\tLen\tData\n"
            "12.5\t1\tTX\t0x18ff0000\t2\t0x01 0x02 \n"
            "13\t0\tRX\t0x7ff\t0\t\n",
            "tab_log",
        )
        assert found == [
            (12_500_000, 1, 0x18FF0000, FLAG.EXTENDED | FLAG.TX, 2, b"\1\2"),
            (13_000_000, 0, 0x7FF, 0, 0, b""),
        ]
        assert dropped == {}

    def test_flags_of_no_known_meaning_cost_their_line(self, tmp_path: Path) -> None:
        head = "ParserFlags\tCh\tCounter\tT/R\tTime\tFlags\tCAN ID\tLen\tData\tParser Name\tdefault\n"
        found, dropped = read_text(
            tmp_path, head + "1\t0\t1\tRX\t5\tE\t0x1\t1\t0x05 \tDefault Parser\t\n", "tab_log"
        )
        assert found == []
        assert dropped == {"foreign line": 1}


def test_a_line_that_never_ends_is_skipped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "log.log"
    good = b"(1.0) can0 1#11\n"
    path.write_bytes(good + b"A" * (LONGEST_LINE * 80) + b"\n" + good * 3)
    batch, report = read_all(path, format="candump")
    assert len(batch) == 4
    assert sum(report.dropped.values()) == 1


def test_log_longer_than_a_chunk_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "log.log"
    lines = [f"({number}.000001) can0 {number % 2048:03X}#{number:016X}\n" for number in range(150_000)]
    path.write_text("".join(lines))
    batch, report = read_all(path)
    assert batch.time.tolist() == [number * 10**9 + 1000 for number in range(150_000)]
    assert batch.payload.view(">u8").ravel().tolist() == list(range(150_000))
    assert report.dropped == {}


@pytest.mark.parametrize(
    ("format", "line"),
    [("candump", "({}) can0 123#00\n"), ("crtd", "{} 1R11 123 00\n"), ("asc", "   {} 1  123  Rx  d 1 00\n")],
)
@pytest.mark.parametrize("stamp", ["9223372037.0", "9300000000.5", "9999999999.999999999", "10223372037.0"])
def test_a_stamp_beyond_64_bits_costs_only_its_line(
    tmp_path: Path, format: str, line: str, stamp: str
) -> None:
    stamps = ["1.0", "9223372036.854775807", stamp, "2.0"]
    found, dropped = read_text(tmp_path, "".join(line.format(one) for one in stamps), format)
    assert [row[0] for row in found] == [10**9, 2**63 - 1, 2 * 10**9]
    assert dropped == {"foreign line": 1}


def test_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b"\xef\xbb\xbf1.0 R11 001 11\n")
    batch, report = read_all(path)
    assert len(batch) == 1
    assert report.dropped == {}


@pytest.mark.parametrize("max_frames", [0, -1])
def test_batches_hold_at_least_one_frame(tmp_path: Path, max_frames: int) -> None:
    path = tmp_path / "log.log"
    path.write_text("(1.0) can0 1#11\n")
    with pytest.raises(LogReadError, match="at least 1"):
        list(open_log(path).batches(max_frames))


@pytest.mark.parametrize(
    ("text", "scale", "wanted"),
    [("1.5", 9, 1_500_000_000), ("0.0000000015", 9, 2), ("12", 3, 12_000), ("-1.25", 6, -1_250_000)],
)
def test_nanoseconds_are_exact(text: str, scale: int, wanted: int) -> None:
    assert nanoseconds(text, scale) == wanted


@pytest.mark.parametrize("text", ["", "abc", "nan", "inf", "1e30", "9999999999999"])
def test_what_is_no_stamp_is_refused(text: str) -> None:
    with pytest.raises(ForeignLineError):
        nanoseconds(text)
