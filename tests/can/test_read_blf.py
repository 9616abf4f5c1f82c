"""BLF: every kind of object, damage of every kind, against python-can where it can read it."""

import struct
import zlib
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import can
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.can.logs import assert_same, channel_of, flags_of, random_messages, read_all, rows
from tspace_core.can.frames import UNKNOWN_BUS, FrameFlag
from tspace_core.can.readers import open_log
from tspace_core.errors import LogReadError

TEN_US, ONE_NS = 1, 2


def blf_object(kind: int, body: bytes, *, ticks: int = 0, unit: int = ONE_NS, version: int = 1) -> bytes:
    """An object as it stands in a container, padded as Vector's tools do."""
    header = 32 if version == 1 else 40
    size = header + len(body)
    base = struct.pack("<4sHHLL", b"LOBJ", header, version, size, kind)
    second = struct.pack("<LHHQ", unit, 0, 0, ticks) + bytes(header - 32)
    return base + second + body + bytes(size % 4)


def message(
    identifier: int, *, channel: int = 1, data: bytes = b"\x01\x02", flags: int = 0, kind: int = 1
) -> bytes:
    body = struct.pack("<HBBL8s", channel, flags, len(data), identifier, data)
    return blf_object(kind, body + bytes(8 if kind == 86 else 0))


def container(content: bytes, *, method: int = 2) -> bytes:
    data = zlib.compress(content) if method == 2 else content
    size = 32 + len(data)
    head = struct.pack("<4sHHLL", b"LOBJ", 16, 1, size, 10) + struct.pack("<H6xL4x", method, len(content))
    return head + data + bytes(size % 4)


def blf_file(*parts: bytes, start: tuple[int, ...] = (0,) * 8) -> bytes:
    body = b"".join(parts)
    header = struct.pack(
        "<4sL8BQQLL8H8H", b"LOGG", 144, *([0] * 8), 144 + len(body), 0, 0, 0, *start, *([0] * 8)
    )
    return header.ljust(144, b"\0") + body


def ids(batch: object) -> list[int]:
    return batch.id.tolist()  # type: ignore[attr-defined, no-any-return]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.blf"


def assert_as_python_can(path: Path) -> None:
    batch, _ = read_all(path)
    messages = list(can.BLFReader(path))
    assert len(batch) == len(messages)
    for row, wanted in zip(rows(batch), messages, strict=True):
        payload = bytes(wanted.data)[:64]
        assert abs(row[0] - wanted.timestamp * 1e9) <= max(1.0, abs(wanted.timestamp) * 1e9 * 2e-16)
        assert row[1] == min(channel_of(wanted) & 0xFFFF, UNKNOWN_BUS)
        assert row[2:4] == (wanted.arbitration_id, flags_of(wanted))
        if not wanted.is_remote_frame:
            assert row[4:] == (len(payload), payload)


def test_objects_cross_the_borders_of_containers(path: Path) -> None:
    whole = b"".join(message(number) for number in range(40))
    for size in (1, 3, 17, 33, 47, 48, 49, 1000):
        cuts = [*range(0, len(whole), size), len(whole)]
        path.write_bytes(blf_file(*(container(whole[a:b]) for a, b in pairwise(cuts))))
        batch, report = read_all(path)
        assert ids(batch) == list(range(40)), f"containers of {size} bytes"
        assert report.dropped == {}


def test_agrees_with_python_can_on_random_messages(path: Path) -> None:
    messages = random_messages(
        2000, 7, start_s=1.7e9, kinds=("data", "fd", "remote", "error"), buses=4, with_tx=True
    )
    with can.BLFWriter(path, max_container_size=4096) as writer:
        for wanted in messages:
            writer.on_message_received(wanted)
    assert_as_python_can(path)


@pytest.mark.parametrize("name", ["test_CanMessage.blf", "test_CanFdMessage.blf"])
def test_agrees_with_python_can_on_its_conformance_files(shared_data: Path, name: str) -> None:
    assert_as_python_can(shared_data / "conformance_python_can" / name)


def test_agrees_with_python_can_on_a_real_log(shared_data: Path) -> None:
    assert_as_python_can(shared_data / "can/derived/leaf_on_wotind_off.blf")


def test_stamps_of_ten_microseconds_and_of_one_nanosecond(path: Path) -> None:
    body = struct.pack("<HBBL8s", 1, 0, 0, 5, b"")
    objects = blf_object(1, body, ticks=123, unit=TEN_US) + blf_object(1, body, ticks=123, unit=ONE_NS)
    path.write_bytes(blf_file(container(objects)))
    batch, report = read_all(path)
    assert batch.time.tolist() == [1_230_000, 123]
    assert report.start is None
    assert not report.stamps_are_absolute
    assert_as_python_can(path)


def test_the_header_gives_the_instant_of_the_start(path: Path) -> None:
    body = struct.pack("<HBBL8s", 1, 0, 0, 5, b"")
    start = (2026, 3, 4, 5, 6, 7, 8, 9)
    path.write_bytes(blf_file(container(blf_object(1, body, ticks=1)), start=start))
    batch, report = read_all(path)
    assert report.start == datetime(2026, 3, 5, 6, 7, 8, 9000, tzinfo=UTC)
    assert report.start_zone == "UTC"
    assert report.stamps_are_absolute
    assert batch.time[0] == round(report.start.timestamp() * 1000) * 10**6 + 1
    assert_as_python_can(path)


def test_every_kind_of_can_object(path: Path) -> None:
    fd = struct.pack("<HBBLLBBB5x64s", 2, 1, 13, 0x80000123, 0, 0, 1 | 2 | 4, 32, bytes(range(64)))
    fd64 = struct.pack(
        "<BBBBLLLLLLLHBBL", 3, 15, 64, 0, 0x80000456, 0, 0x1000 | 0x2000, 0, 0, 0, 0, 0, 1, 0, 0
    )
    error = struct.pack("<HHLBBBxLLH2x8s", 4, 0, 0, 0, 0, 3, 0, 0x80000789, 0, b"\x07\x08\x09")
    objects = [
        message(1),
        message(0x80000002, kind=86, flags=1),
        message(3, flags=0x80, data=bytes(4)),
        blf_object(100, fd),
        blf_object(101, fd64 + bytes(range(64))),
        blf_object(73, error),
        blf_object(2, struct.pack("<HHL", 5, 0, 0)),
        blf_object(104, struct.pack("<BBBBHHHBBL", 6, 0, 0, 0, 0, 0, 0, 0, 0, 0x99), version=2),
    ]
    path.write_bytes(blf_file(container(b"".join(objects))))
    batch, report = read_all(path)
    assert report.dropped == {}
    flag = FrameFlag
    assert rows(batch) == [
        (0, 0, 1, 0, 2, b"\1\2"),
        (0, 0, 2, flag.EXTENDED | flag.TX, 2, b"\1\2"),
        (0, 0, 3, flag.REMOTE, 4, bytes(4)),
        (0, 1, 0x123, flag.EXTENDED | flag.FD | flag.BRS | flag.ESI | flag.TX, 32, bytes(range(32))),
        (0, 2, 0x456, flag.EXTENDED | flag.FD | flag.BRS | flag.TX, 64, bytes(range(64))),
        (0, 3, 0x789, flag.EXTENDED | flag.ERROR, 3, b"\7\x08\x09"),
        (0, 4, 0, flag.EXTENDED | flag.ERROR, 0, b""),
        (0, 5, 0x99, flag.ERROR | flag.FD, 0, b""),
    ]


def test_fd_payload_shorter_than_stated_is_padded_with_zeros(path: Path) -> None:
    fd64 = struct.pack("<BBBBLLLLLLLHBBL", 1, 15, 64, 0, 5, 0, 0x1000, 0, 0, 0, 0, 0, 0, 0, 0)
    path.write_bytes(blf_file(container(blf_object(101, fd64 + b"\xaa" * 20) + message(6))))
    batch, _ = read_all(path)
    assert rows(batch)[0][4:] == (64, b"\xaa" * 20 + bytes(44))
    assert_as_python_can(path)


def test_stored_containers_and_objects_outside_of_any(path: Path) -> None:
    path.write_bytes(blf_file(container(message(1), method=0), message(2), container(message(3))))
    batch, report = read_all(path)
    assert ids(batch) == [1, 2, 3]
    assert report.dropped == {}


@pytest.mark.parametrize("size", [0, 1, 15, 1 << 25, 0xFFFFFFFF])
@pytest.mark.parametrize("kind", [1, 10, 65])
def test_object_of_impossible_size_costs_only_itself(path: Path, size: int, kind: int) -> None:
    broken = struct.pack("<4sHHLL", b"LOBJ", 32, 1, size, kind) + bytes(32)
    path.write_bytes(blf_file(container(message(1) + broken + message(2)), container(message(3))))
    batch, report = read_all(path)
    assert ids(batch) == [1, 2, 3]
    assert report.dropped == {"BLF object of impossible size": 1}
    assert "container at byte 144" in next(iter(report.messages.values()))


@pytest.mark.parametrize("size", [0, 15, 0xFFFFFFFF])
def test_container_of_impossible_size_costs_only_itself(path: Path, size: int) -> None:
    broken = struct.pack("<4sHHLL", b"LOBJ", 16, 1, size, 10) + bytes(16)
    path.write_bytes(blf_file(container(message(1)), broken, container(message(2))))
    batch, report = read_all(path)
    assert ids(batch) == [1, 2]
    assert report.dropped == {"damaged BLF region": 1}


def test_foreign_bytes_between_containers_cost_only_themselves(path: Path) -> None:
    first = container(message(1))
    path.write_bytes(blf_file(first, b"\xa5" * 100_000, container(message(2))))
    batch, report = read_all(path)
    assert ids(batch) == [1, 2]
    assert report.dropped == {"damaged BLF region": 1}
    assert f"byte {144 + len(first)}" in report.messages["damaged BLF region"]


def test_damaged_container_costs_its_own_frames_and_those_that_cross_into_it(path: Path) -> None:
    stream = b"".join(message(number) for number in range(30))
    parts = [stream[:490], stream[490:1010], stream[1010:]]
    packed = [bytearray(container(part)) for part in parts]
    packed[1][60] ^= 0xFF
    path.write_bytes(blf_file(*map(bytes, packed)))
    batch, report = read_all(path)
    assert ids(batch) == [*range(10), *range(22, 30)]
    assert report.dropped == {"damaged BLF container": 1}


def test_unknown_object_types_are_counted_by_type(path: Path) -> None:
    content = (
        message(1)
        + blf_object(123, bytes(9)) * 3
        + blf_object(96, bytes(40))
        + blf_object(70_000, b"")
        + message(2)
    )
    path.write_bytes(blf_file(container(content)))
    batch, report = read_all(path)
    assert ids(batch) == [1, 2]
    assert report.dropped == {"BLF object type 123": 3, "BLF object type 255 or above": 1}
    assert report.notes == {"BLF object: global marker": 1}


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (blf_object(1, bytes(8)), "BLF object too short for its type"),
        (blf_object(1, bytes(16), ticks=1 << 63), "BLF object with an impossible stamp"),
        (blf_object(1, bytes(16), ticks=1 << 61, unit=TEN_US), "BLF object with an impossible stamp"),
        (message(9).replace(b" \0\1\0", b" \0\7\0"), "BLF object of unknown header version"),
        (
            blf_object(101, struct.pack("<BBBB36x", 1, 15, 200, 0) + bytes(200)),
            "BLF object with an impossible payload length",
        ),
    ],
)
def test_damaged_object_costs_only_itself(path: Path, broken: bytes, reason: str) -> None:
    path.write_bytes(blf_file(container(message(1) + broken + message(2))))
    batch, report = read_all(path)
    assert ids(batch) == [1, 2]
    assert report.dropped == {reason: 1}


def test_file_cut_between_containers_is_seen_by_its_size(path: Path) -> None:
    first = container(message(1))
    data = blf_file(first, container(message(2)))
    path.write_bytes(data[: 144 + len(first)])
    batch, report = read_all(path)
    assert ids(batch) == [1]
    assert report.dropped == {"truncated file": 1}
    assert f"byte {144 + len(first)}" in report.messages["truncated file"]


def test_cut_container_gives_its_frames_before_the_cut(path: Path) -> None:
    rng = np.random.default_rng(3)
    content = b"".join(message(number, data=rng.bytes(8)) for number in range(2000))
    data = blf_file(container(content))
    path.write_bytes(data[: len(data) // 2])
    batch, report = read_all(path)
    assert 500 < len(batch) < 1500
    assert ids(batch) == list(range(len(batch)))
    assert report.dropped == {"truncated file": 1}


@pytest.mark.parametrize("length", [4, 40, 55])
def test_file_cut_inside_its_header_is_refused(path: Path, length: int) -> None:
    path.write_bytes(blf_file(container(message(1)))[:length])
    with pytest.raises(LogReadError, match=f"the file has {length}"):
        list(open_log(path).batches())


@settings(max_examples=150, deadline=None, print_blob=True)
@given(data=st.data())
def test_flipped_bytes_never_raise_and_never_hang(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    log = tmp_path_factory.getbasetemp() / "flipped.blf"
    stream = b"".join(message(number) for number in range(30))
    method = data.draw(st.sampled_from([0, 2]))
    raw = bytearray(
        blf_file(*(container(stream[a : a + 400], method=method) for a in range(0, len(stream), 400)))
    )
    for position in data.draw(st.lists(st.integers(144, len(raw) - 1), min_size=1, max_size=6)):
        raw[position] = data.draw(st.integers(0, 255))
    log.write_bytes(raw)
    batch, _ = read_all(log)
    again, _ = read_all(log, max_frames=3)
    assert len(batch) <= 40
    assert_same(batch, again)
