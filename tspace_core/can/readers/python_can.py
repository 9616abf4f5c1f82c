"""Formats that python-can reads for us: PEAK trc, python-can's own csv and its SQLite database."""

import io
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import can
from can.io.trc import TRCReader

from tspace_core.can.frames import CLASSIC_BYTES, FrameBatch, FrameFlag
from tspace_core.can.readers.base import LogReader
from tspace_core.can.readers.builder import FrameBuilder, bus_number
from tspace_core.can.readers.scan import FULL, SLOW, Buffer
from tspace_core.can.readers.source import Source
from tspace_core.can.readers.text import ForeignLineError, TextReader
from tspace_core.errors import LogFormatError, LogReadError

NS_PER_S = 1_000_000_000
TRUNCATED = "truncated file"
CSV_HEADER = "timestamp,arbitration_id,extended,remote,error,dlc,data"
SQLITE_HEADER = 100
SQLITE_SIGNATURE = b"SQLite format 3\0"
_TRC_VERSION = b";$FILEVERSION="
_TRC_1_0 = re.compile(rb"^\s*\d+\)\s+\d+(\.\d+)?\s+", re.MULTILINE)
_TRC_ERRORS = {"Error", "ER"}
_TRC_EVENTS = {"Warng", "ST", "EC", "EV", "FFFFFFFF"}


def append_message(message: can.Message, builder: FrameBuilder, first_channel: int = 0) -> None:
    """Adds python-can's `message`.

    Args:
        message: a message from one of python-can's readers.
        builder: where it goes.
        first_channel: number that the message's format gives to its first channel.

    Raises:
        ValueError: its payload is not as long as it says.
    """
    payload = b"" if message.is_remote_frame else bytes(message.data)
    stated = can.util.dlc2len(message.dlc) if message.is_fd else message.dlc
    if not message.is_remote_frame and len(payload) != stated:
        error = f"{len(payload)} bytes of payload, {stated} announced"
        raise ForeignLineError(error)
    flags = FrameFlag(0)
    for flag, is_set in (
        (FrameFlag.EXTENDED, message.is_extended_id),
        (FrameFlag.REMOTE, message.is_remote_frame),
        (FrameFlag.ERROR, message.is_error_frame),
        (FrameFlag.FD, message.is_fd or len(payload) > CLASSIC_BYTES),
        (FrameFlag.BRS, message.bitrate_switch),
        (FrameFlag.ESI, message.error_state_indicator),
        (FrameFlag.TX, not message.is_rx),
    ):
        if is_set:
            flags |= flag
    bus = 0 if message.channel is None else bus_number(int(str(message.channel)) - first_channel)
    length = min(message.dlc, CLASSIC_BYTES) if message.is_remote_frame else None
    builder.append(
        round(message.timestamp * NS_PER_S), bus, message.arbitration_id, int(flags), payload, length
    )


class _LineReader(TextReader):
    """A text format of python-can, given to it line by line so that a bad line costs only itself."""

    def _fast(self, buffer: Buffer, at: int, builder: FrameBuilder) -> tuple[int, int, int, int]:
        return at, builder.count, 0, FULL if builder.full else SLOW


class CsvReader(_LineReader):
    """python-can's csv; it holds no bus, so all frames are on bus 0."""

    format: ClassVar[str] = "csv"
    endings: ClassVar[tuple[str, ...]] = (".csv",)

    @classmethod
    def matches(cls, head: bytes, path: Path) -> bool:
        """The header line is python-can's."""
        return head.startswith(CSV_HEADER.encode())

    def _slow(self, line: str, builder: FrameBuilder, *, cut: bool) -> None:
        if line == CSV_HEADER:
            return
        for message in can.CSVReader(io.StringIO(f"{CSV_HEADER}\n{line}\n")):
            append_message(message, builder)


class TrcReader(_LineReader):
    """PEAK trc of the versions that python-can knows (1.0, 1.1, 1.3, 2.0, 2.1).

    python-can cannot read its error frames: they are dropped and counted. Other events are noted.
    """

    format: ClassVar[str] = "trc"
    endings: ClassVar[tuple[str, ...]] = (".trc",)

    @classmethod
    def matches(cls, head: bytes, path: Path) -> bool:
        """A version line, or the numbered lines of version 1.0 below a comment."""
        return _TRC_VERSION in head or (head.lstrip().startswith(b";") and _TRC_1_0.search(head) is not None)

    def _begin(self) -> None:
        self._header = ""

    def _slow(self, line: str, builder: FrameBuilder, *, cut: bool) -> None:
        if line.startswith(";"):
            if line.startswith(";$"):
                self._header += line + "\n"
            return
        tokens = line.split()
        if len(tokens[-1]) == 1 and cut and "RTR" not in tokens and "RR" not in tokens:
            message = "its last byte is cut off"
            raise ForeignLineError(message)
        if _TRC_EVENTS & set(tokens[1:5]):
            self.report.note("trc event", place=self._place(), detail=line)
            return
        if _TRC_ERRORS & set(tokens[1:5]):
            self.report.drop("trc error frame", place=self._place(), detail=f"{line!r}: not readable yet")
            return
        reader = TRCReader(io.StringIO(f"{self._header}{line}\n"))
        messages = list(reader)
        if self.report.start is None:
            self.report.start = reader.start_time
        if not messages:
            message = "no message that python-can can read"
            raise ForeignLineError(message)
        for found in messages:
            append_message(found, builder, first_channel=1)


class DbReader(LogReader):
    """python-can's SQLite database; it holds no bus, so all frames are on bus 0. It cannot be compressed."""

    format: ClassVar[str] = "db"
    endings: ClassVar[tuple[str, ...]] = (".db", ".sqlite", ".sqlite3")

    @classmethod
    def matches(cls, head: bytes, path: Path) -> bool:
        """The file's signature."""
        return head.startswith(SQLITE_SIGNATURE)

    def _read(self, max_frames: int) -> Iterator[FrameBatch]:
        with Source(self.path) as source:
            if source.compressed:
                message = (
                    f"{self.path} is a compressed SQLite database, which cannot be read so; run gunzip on it"
                )
                raise LogFormatError(message)
            head = source.read(SQLITE_HEADER)
        self._check_size(head)
        builder = FrameBuilder(max_frames)
        number = 0
        reader = can.SqliteReader(self.path)
        try:
            for found in reader:
                number += 1
                try:
                    append_message(found, builder)
                except ValueError as error:
                    self.report.drop("foreign row", place=f"{self.path}, row {number}", detail=str(error))
                if builder.full:
                    yield builder.take()
        except (sqlite3.Error, ValueError, TypeError) as error:
            if number == 0:
                message = (
                    f"{self.path}: the SQLite database gives no messages ({error}); expected python-can's "
                    "table 'messages'; copy the database again from its recorder"
                )
                raise LogReadError(message) from error
            self.report.drop(TRUNCATED, place=f"{self.path}, row {number + 1}", detail=str(error))
        finally:
            reader.stop()
        if builder.count:
            yield builder.take()

    def _check_size(self, head: bytes) -> None:
        """SQLite reads zeros where pages are missing and would invent frames out of them."""
        if len(head) == SQLITE_HEADER:
            page = int.from_bytes(head[16:18], "big")
            stated = (page if page != 1 else 1 << 16) * int.from_bytes(head[28:32], "big")
            size = self.path.stat().st_size
            if size >= stated:
                return
            what = f"it has {size} bytes, its header states {stated}"
        else:
            what = f"it has {len(head)} bytes, less than a header"
        message = (
            f"{self.path}: the SQLite database is cut off: {what}; copy it again, or try sqlite3 .recover"
        )
        raise LogReadError(message)
