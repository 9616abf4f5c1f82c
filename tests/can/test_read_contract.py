"""What every log reader promises, run against every format."""

import gzip
import io
import struct
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import can
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.can.logs import (
    Row,
    assert_same,
    channel_of,
    flags_of,
    random_messages,
    read_all,
    rows,
    write_candump,
    write_crtd,
    write_gvret,
    write_tab_log,
)
from tspace_core.can.frames import FrameFlag
from tspace_core.can.readers import FORMATS, detect_format, open_log
from tspace_core.errors import LogError

BLF_HEADER = 144
SEED = 20_260_101
CUTS = settings(
    max_examples=60, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.differing_executors]
)


class ReaderContract:
    """Siblings say how to write their format and what it can hold."""

    format: ClassVar[str]
    ending: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]] = ("data",)
    buses: ClassVar[int] = 3
    with_tx: ClassVar[bool] = True
    start_s: ClassVar[float] = 1000.0
    step_us: ClassVar[int] = 250
    tolerance_ns: ClassVar[int] = 500
    header_lines: ClassVar[int] = 1

    def write(self, path: Path, messages: Iterable[can.Message]) -> None:
        raise AssertionError

    def messages(self, count: int = 300, seed: int = SEED) -> list[can.Message]:
        return random_messages(
            count,
            seed,
            start_s=self.start_s,
            step_us=self.step_us,
            kinds=self.kinds,
            buses=self.buses,
            with_tx=self.with_tx,
        )

    def clock_zero_s(self) -> float:
        """Second of the messages' clock at which the log clock is 0."""
        return 0.0

    def expected(self, message: can.Message) -> Row:
        time_ns = round((message.timestamp - self.clock_zero_s()) * 1e6) * 1000
        payload = bytes(message.data)
        return (
            time_ns,
            channel_of(message) if self.buses > 1 else 0,
            message.arbitration_id,
            flags_of(message),
            message.dlc,
            payload if not message.is_remote_frame else bytes(message.dlc),
        )

    def written(self, folder: Path, messages: list[can.Message]) -> Path:
        path = folder / f"log{self.ending}"
        self.write(path, messages)
        return path

    @pytest.fixture
    def log(self, tmp_path: Path) -> Path:
        return self.written(tmp_path, self.messages())

    def assert_expected(self, found: list[Row], messages: list[can.Message]) -> None:
        assert len(found) == len(messages)
        for index, (row, message) in enumerate(zip(found, messages, strict=True)):
            wanted = self.expected(message)
            assert row[1:] == wanted[1:], f"frame {index} of seed {SEED}: {message}"
            assert abs(row[0] - wanted[0]) <= self.tolerance_ns, f"stamp of frame {index} of seed {SEED}"

    def test_reads_every_frame_as_written_and_in_order(self, log: Path) -> None:
        batch, report = read_all(log)
        self.assert_expected(rows(batch), self.messages())
        assert report.dropped == {}
        assert np.any(np.diff(batch.time) < 0), "the clock of the test's log must jump back"
        assert np.any(np.diff(batch.time) == 0), "frames of the test's log must share a stamp"
        assert batch.time.max() - batch.time.min() > 20 * 10**9, "the test's log must have a gap"
        assert report.stamps_are_absolute == (batch.time[0] > 10**18)

    @pytest.mark.parametrize("max_frames", [1, 7, 299, 300])
    def test_batch_size_changes_nothing(self, log: Path, max_frames: int) -> None:
        whole, _ = read_all(log)
        batches = list(open_log(log).batches(max_frames))
        assert all(0 < len(batch) <= max_frames for batch in batches)
        assert all(len(batch) == max_frames for batch in batches[:-1])
        parts, report = read_all(log, max_frames=max_frames)
        assert_same(parts, whole)
        assert report.dropped == {}

    def test_payload_is_wide_only_where_a_frame_is_long(self, log: Path) -> None:
        for batch in open_log(log).batches(5):
            assert batch.payload.shape[1] == (64 if batch.length.max() > 8 else 8)
            for payload, length in zip(batch.payload, batch.length.tolist(), strict=True):
                assert not payload[length:].any()

    def test_is_detected_whatever_its_ending(self, log: Path) -> None:
        assert detect_format(log) == self.format
        other = log.rename(log.with_suffix(".unknown"))
        assert detect_format(other) == self.format

    def test_gzip_is_undone(self, log: Path) -> None:
        plain, _ = read_all(log)
        packed = log.with_name(log.name + ".gz")
        packed.write_bytes(gzip.compress(log.read_bytes()))
        batch, report = read_all(packed)
        assert_same(batch, plain)
        assert report.dropped == {}

    def test_truncated_gzip_keeps_what_came_before(self, log: Path) -> None:
        plain, _ = read_all(log)
        packed = log.with_name(log.name + ".gz")
        data = gzip.compress(log.read_bytes())
        packed.write_bytes(data[: len(data) * 3 // 4])
        batch, report = read_all(packed)
        assert 0 < len(batch) < len(plain)
        assert_same(batch, plain.select(slice(0, len(batch))))
        assert report.dropped["damaged compression"] == 1

    def frames_before(self, data: bytes, cut: int) -> int:
        """Frames that are whole in data[:cut]."""
        return data[:cut].count(b"\n") - self.header_lines

    def test_truncation_anywhere_loses_nothing_before_it(self, tmp_path: Path) -> None:
        messages = self.messages(40)
        log = self.written(tmp_path, messages)
        data = log.read_bytes()
        whole, _ = read_all(log)

        @CUTS
        @given(cut=st.integers(0, len(data) - 1))
        def check(cut: int) -> None:
            log.write_bytes(data[:cut])
            try:
                batch, report = read_all(log, format=self.format)
            except LogError as error:
                assert str(log) in str(error)
                assert self.frames_before(data, cut) <= 0
                return
            assert len(batch) >= min(self.frames_before(data, cut), len(messages))
            assert_same(batch, whole.select(slice(0, len(batch))))
            if len(batch) < len(messages) and report.dropped:
                assert sum(report.dropped.values()) == 1
                assert str(log) in next(iter(report.messages.values()))

        check()


class TextReaderContract(ReaderContract):
    """What readers of one frame a line promise beside that."""

    foreign: ClassVar[tuple[str, ...]] = (
        "what is this",
        "(((",
        "1.0",
        ";",
        "\x00\x01\xff\xfe",
        ",,,,,,,,",
        "#",
    )

    def test_foreign_line_costs_only_itself(self, log: Path) -> None:
        whole, _ = read_all(log)
        clean = log.read_bytes().split(b"\n")
        for foreign in self.foreign:
            lines = list(clean)
            lines.insert(self.header_lines + 100, foreign.encode("latin-1"))
            log.write_bytes(b"\n".join(lines))
            batch, report = read_all(log)
            assert_same(batch, whole)
            assert report.dropped == {"foreign line": 1}, foreign
            assert f"line {self.header_lines + 101}" in report.messages["foreign line"]

    def test_crlf_line_ends_and_blank_lines_change_nothing(self, log: Path) -> None:
        whole, _ = read_all(log)
        log.write_bytes(log.read_bytes().replace(b"\n", b"\r\n").replace(b"\r\n", b"\r\n\r\n", 20))
        batch, report = read_all(log)
        assert_same(batch, whole)
        assert report.dropped == {}


class TestBlf(ReaderContract):
    format = "blf"
    ending = ".blf"
    kinds = ("data", "data", "fd", "remote", "error")
    start_s = 1_700_000_000.0

    def write(self, path: Path, messages: Iterable[can.Message]) -> None:
        with can.BLFWriter(path, max_container_size=1000) as writer:
            for message in messages:
                writer.on_message_received(message)

    def frames_before(self, data: bytes, cut: int) -> int:
        """python-can's own count; it gives up where the file is cut."""
        if cut < BLF_HEADER:
            return 0
        count = 0
        with suppress(struct.error, zlib.error, can.io.blf.BLFParseError):
            for _ in can.BLFReader(io.BytesIO(data[:cut])):
                count += 1
        return count


class TestAsc(TextReaderContract):
    format = "asc"
    ending = ".asc"
    kinds = ("data", "data", "fd", "remote", "error")
    start_s = 1_700_000_000.0
    tolerance_ns = 1000
    header_lines = 5

    def clock_zero_s(self) -> float:
        return self.start_s

    def write(self, path: Path, messages: Iterable[can.Message]) -> None:
        with can.ASCWriter(path) as writer:
            for message in messages:
                writer.on_message_received(message)


class TestCandump(TextReaderContract):
    format = "candump"
    ending = ".log"
    kinds = ("data", "data", "fd", "remote", "error")
    header_lines = 0

    def expected(self, message: can.Message) -> Row:
        row = super().expected(message)
        if not message.is_error_frame:
            return row
        return (row[0], row[1], 0x80, row[3], 8, bytes(8))

    def write(self, path: Path, messages: Iterable[can.Message]) -> None:
        write_candump(path, messages)


class TestCrtd(TextReaderContract):
    format = "crtd"
    ending = ".txt"

    def write(self, path: Path, messages: Iterable[can.Message]) -> None:
        write_crtd(path, messages)


class TestGvret(TextReaderContract):
    format = "gvret"
    ending = ".csv"

    def write(self, path: Path, messages: Iterable[can.Message]) -> None:
        write_gvret(path, messages)


class TestTabLog(TextReaderContract):
    format = "tab_log"
    ending = ".log"
    step_us = 1000

    def expected(self, message: can.Message) -> Row:
        row = super().expected(message)
        extended = int(FrameFlag.EXTENDED)
        return (*row[:3], row[3] & ~extended | (extended if row[2] > 0x7FF else 0), *row[4:])

    def write(self, path: Path, messages: Iterable[can.Message]) -> None:
        write_tab_log(path, messages)


class TestTrc(TextReaderContract):
    format = "trc"
    ending = ".trc"
    start_s = 1_700_000_000.0
    tolerance_ns = 2000
    header_lines = 18
    foreign = tuple(line for line in TextReaderContract.foreign if line != ";")

    def write(self, path: Path, messages: Iterable[can.Message]) -> None:
        with can.TRCWriter(path) as writer:
            for message in messages:
                writer.on_message_received(message)


class TestCsv(TextReaderContract):
    format = "csv"
    ending = ".csv"
    kinds = ("data", "data", "remote", "error")
    buses = 1
    with_tx = False

    def write(self, path: Path, messages: Iterable[can.Message]) -> None:
        with can.CSVWriter(path) as writer:
            for message in messages:
                writer.on_message_received(message)


class TestDb(ReaderContract):
    format = "db"
    ending = ".db"
    kinds = ("data", "data", "remote", "error")
    buses = 1
    with_tx = False

    def write(self, path: Path, messages: Iterable[can.Message]) -> None:
        writer = can.SqliteWriter(path)
        for message in messages:
            writer.on_message_received(message)
        writer.stop()

    def frames_before(self, data: bytes, cut: int) -> int:
        return 0

    def test_gzip_is_undone(self, log: Path) -> None:
        packed = log.with_name(log.name + ".gz")
        packed.write_bytes(gzip.compress(log.read_bytes()))
        with pytest.raises(LogError, match="gunzip"):
            read_all(packed)

    def test_truncated_gzip_keeps_what_came_before(self, log: Path) -> None:
        packed = log.with_name(log.name + ".gz")
        packed.write_bytes(gzip.compress(log.read_bytes())[:-20])
        with pytest.raises(LogError, match="gunzip"):
            read_all(packed)


def test_every_format_has_its_contract() -> None:
    contracts = [*ReaderContract.__subclasses__(), *TextReaderContract.__subclasses__()]
    assert {contract.format for contract in contracts if contract is not TextReaderContract} == set(FORMATS)
