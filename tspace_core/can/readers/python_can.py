"""Formats that python-can reads for us: PEAK trc, python-can's own csv and its SQLite database.

It is imported when a log needs it: with asammdf installed that takes 2 s, which other formats need not pay.
"""

import re
import sqlite3
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TextIO, cast

from tspace_core.can.frames import CLASSIC_BYTES, FrameBatch, FrameFlag
from tspace_core.can.readers.base import LogReader
from tspace_core.can.readers.builder import FrameBuilder, bus_number
from tspace_core.can.readers.scan import DONE, FULL, SLOW, Buffer
from tspace_core.can.readers.source import Source
from tspace_core.can.readers.text import ForeignLineError, TextReader
from tspace_core.errors import LogFormatError, LogReadError

if TYPE_CHECKING:
    import can
    from can.io.trc import TRCReader

EXTENDED, REMOTE, ERROR = int(FrameFlag.EXTENDED), int(FrameFlag.REMOTE), int(FrameFlag.ERROR)
FD, BRS, ESI, TX = int(FrameFlag.FD), int(FrameFlag.BRS), int(FrameFlag.ESI), int(FrameFlag.TX)
NS_PER_S = 1_000_000_000
BLOCK = 1 << 16
PARSE_ERRORS = (ValueError, LookupError, TypeError, NotImplementedError)
TRUNCATED = "truncated file"
CSV_HEADER = "timestamp,arbitration_id,extended,remote,error,dlc,data"
SQLITE_HEADER = 100
SQLITE_SIGNATURE = b"SQLite format 3\0"
_TRC_VERSION = b";$FILEVERSION="
_TRC_1_0 = re.compile(rb"^\s*\d+\)\s+\d+(\.\d+)?\s+", re.MULTILINE)
_TRC_ERRORS = {"Error", "ER"}
_TRC_EVENTS = {"Warng", "ST", "EC", "EV", "FFFFFFFF"}


def append_message(message: "can.Message", builder: FrameBuilder, first_channel: int = 0) -> None:
    """Adds python-can's `message`.

    Args:
        message: a message from one of python-can's readers.
        builder: where it goes.
        first_channel: number that the message's format gives to its first channel.

    Raises:
        ValueError: its payload is not as long as it says.
    """
    from can.util import dlc2len

    payload = b"" if message.is_remote_frame else bytes(message.data)
    stated = dlc2len(message.dlc) if message.is_fd else message.dlc
    if not message.is_remote_frame and len(payload) != stated:
        error = f"{len(payload)} bytes of payload, {stated} announced"
        raise ForeignLineError(error)
    # plain integers: IntFlag arithmetic would take longer than python-can's parsing
    flags = (
        EXTENDED * message.is_extended_id
        | REMOTE * message.is_remote_frame
        | ERROR * message.is_error_frame
        | FD * (message.is_fd or len(payload) > CLASSIC_BYTES)
        | BRS * message.bitrate_switch
        | ESI * message.error_state_indicator
        | TX * (not message.is_rx)
    )
    bus = 0 if message.channel is None else bus_number(int(str(message.channel)) - first_channel)
    length = min(message.dlc, CLASSIC_BYTES) if message.is_remote_frame else None
    builder.append(round(message.timestamp * NS_PER_S), bus, message.arbitration_id, flags, payload, length)


class _Feed:
    """A text file for python-can that knows how many of its log lines were taken."""

    def __init__(self, header: str, lines: list[str]) -> None:
        self.taken = 0
        self._header = iter(header.splitlines(keepends=True))
        self._lines = lines

    def __iter__(self) -> "_Feed":
        return self

    def __next__(self) -> str:
        header = next(self._header, None)
        if header is not None:
            return header
        if self.taken == len(self._lines):
            raise StopIteration
        self.taken += 1
        return self._lines[self.taken - 1]

    def close(self) -> None:
        """Called by python-can at the end; there is nothing to close."""


class _LineReader(TextReader):
    """A text format of python-can.

    python-can gets the lines in blocks. Where it fails on a line, or passes over one, the slow path takes
    that line and python-can goes on behind it: a bad line costs only itself.
    """

    first_channel: ClassVar[int] = 0

    @abstractmethod
    def _messages(self, lines: list[str]) -> "tuple[_Feed, Iterator[can.Message]]":
        """python-can's reader over the log's header and these lines."""

    def _fast(self, buffer: Buffer, at: int, builder: FrameBuilder) -> tuple[int, int, int, int]:
        if builder.full:
            return at, builder.count, 0, FULL
        block = buffer[at : at + BLOCK].tobytes()
        text = block[: block.rfind(b"\n") + 1].decode(self.encoding)
        lines = text.split("\n")[:-1][: builder.capacity - builder.count]
        done = 0
        feed, messages = self._messages(lines)
        try:
            for message in messages:
                if feed.taken != done + 1:
                    break
                append_message(message, builder, self.first_channel)
                done += 1
        except PARSE_ERRORS:
            pass  # the line after `done` is at fault: the slow path says how
        end = at + sum(len(line) + 1 for line in lines[:done])
        return end, builder.count, done, DONE if lines and done == len(lines) else SLOW


class CsvReader(_LineReader):
    """python-can's csv; it holds no bus, so all frames are on bus 0."""

    format: ClassVar[str] = "csv"
    endings: ClassVar[tuple[str, ...]] = (".csv",)

    @classmethod
    def matches(cls, head: bytes, path: Path) -> bool:
        """The header line is python-can's."""
        return head.startswith(CSV_HEADER.encode())

    def _messages(self, lines: list[str]) -> "tuple[_Feed, Iterator[can.Message]]":
        from can.io.csv import CSVReader

        feed = _Feed(CSV_HEADER, lines)
        return feed, iter(CSVReader(cast("TextIO", feed)))

    def _slow(self, line: str, builder: FrameBuilder, *, cut: bool) -> None:
        if line == CSV_HEADER:
            return
        for message in self._messages([line])[1]:
            append_message(message, builder)


class TrcReader(_LineReader):
    """PEAK trc of the versions that python-can knows (1.0, 1.1, 1.3, 2.0, 2.1).

    python-can cannot read its error frames: they are dropped and counted. Other events are noted.
    """

    format: ClassVar[str] = "trc"
    endings: ClassVar[tuple[str, ...]] = (".trc",)
    first_channel: ClassVar[int] = 1

    @classmethod
    def matches(cls, head: bytes, path: Path) -> bool:
        """A version line, or the numbered lines of version 1.0 below a comment."""
        return _TRC_VERSION in head or (head.lstrip().startswith(b";") and _TRC_1_0.search(head) is not None)

    def _begin(self) -> None:
        self._header = ""

    def _messages(self, lines: list[str]) -> "tuple[_Feed, Iterator[can.Message]]":
        from can.io.trc import TRCReader

        feed = _Feed(self._header, lines)
        return feed, self._with_start(TRCReader(cast("TextIO", feed)))

    def _with_start(self, reader: "TRCReader") -> Iterator["can.Message"]:
        for message in reader:
            if self.report.start is None:
                self.report.start = reader.start_time
            yield message

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
        try:
            messages = list(self._messages([line])[1])
        except PARSE_ERRORS as error:
            raise ForeignLineError(str(error)) from error
        if not messages:
            message = "no message that python-can can read"
            raise ForeignLineError(message)
        for found in messages:
            append_message(found, builder, self.first_channel)


class DbReader(LogReader):
    """python-can's SQLite database; it holds no bus, so all frames are on bus 0. It cannot be compressed."""

    format: ClassVar[str] = "db"
    endings: ClassVar[tuple[str, ...]] = (".db", ".sqlite", ".sqlite3")

    @classmethod
    def matches(cls, head: bytes, path: Path) -> bool:
        """The file's signature."""
        return head.startswith(SQLITE_SIGNATURE)

    def _read(self, max_frames: int) -> Iterator[FrameBatch]:
        from can.io.sqlite import SqliteReader

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
        reader = SqliteReader(self.path)
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
