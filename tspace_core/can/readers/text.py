"""What the readers of text formats share: lines in bounded pieces, a compiled fast path and a slow one."""

from abc import abstractmethod
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import ClassVar

import numpy as np

from tspace_core.can.frames import FrameBatch
from tspace_core.can.readers.base import LogReader
from tspace_core.can.readers.builder import FrameBuilder
from tspace_core.can.readers.scan import FULL, SLOW, Buffer
from tspace_core.can.readers.source import Source

CHUNK = 1 << 22
LONGEST_LINE = 1 << 16
UTF8_MARK = b"\xef\xbb\xbf"
FOREIGN = "foreign line"
CUT = "last line cut off"
LONG = "line too long"
DAMAGED = "damaged compression"
SHOWN = 80


class ForeignLineError(ValueError):
    """A line that is no frame of the format, nor anything else the format knows."""


def nanoseconds(text: str, scale: int = 9) -> int:
    """Exact nanoseconds of a decimal number in units of 10^(scale - 9) s; the tenth digit on is rounded."""
    try:
        value = Decimal(text)
    except InvalidOperation as error:
        message = f"{text!r} is no time stamp"
        raise ForeignLineError(message) from error
    if not value.is_finite() or value.adjusted() + scale > 18:
        message = f"{text!r} is no time stamp of 64 bits"
        raise ForeignLineError(message)
    return round(value.scaleb(scale))


def hex_payload(tokens: list[str], length: int) -> bytes:
    """The first `length` bytes of tokens of two hexadecimal digits each."""
    if not 0 <= length <= len(tokens):
        message = f"{len(tokens)} bytes of payload, {length} announced"
        raise ForeignLineError(message)
    return bytes(hex_value(token) for token in tokens[:length])


def hex_value(token: str) -> int:
    """The byte that exactly two hexadecimal digits, 0x before them or not, mean."""
    digits = token.removeprefix("0x")
    if len(digits) != 2:
        message = f"{token!r} is no byte of two hexadecimal digits"
        raise ForeignLineError(message)
    return int(digits, 16)


class TextReader(LogReader):
    """Reader of a format with one frame a line.

    A compiled parser (`_fast`) takes the lines that make up nearly all of a log and stops at any other, which
    then goes through `_slow`: Python that knows the whole format. Neither ever skips a line silently.

    A last line without a line end may be cut off in the middle of a number: it counts only where
    `_slow` finds it provably complete.
    """

    encoding: ClassVar[str] = "latin-1"

    def _read(self, max_frames: int) -> Iterator[FrameBatch]:
        self._line = 0
        self._begin()
        builder = FrameBuilder(max_frames)
        with Source(self.path) as source:
            for chunk in self._chunks(source):
                buffer = np.frombuffer(chunk, np.uint8)
                at = 0
                while at < len(chunk):
                    at, builder.count, lines, status = self._fast(buffer, at, builder)
                    self._line += lines
                    if status == FULL:
                        yield builder.take()
                    elif status == SLOW:
                        end = chunk.index(b"\n", at)
                        self._take_line(chunk[at:end], builder, cut=False)
                        at = end + 1
            if builder.full:
                yield builder.take()
            if self._rest.strip():
                self._take_line(self._rest, builder, cut=True)
            if source.damage:
                self.report.drop(DAMAGED, place=self._place(), detail=source.damage)
        if builder.count:
            yield builder.take()

    def _chunks(self, source: Source) -> Iterator[bytes]:
        """Whole lines; what follows the last line feed is left in `_rest`."""
        self._rest = source.read(len(UTF8_MARK)).removeprefix(UTF8_MARK)
        skipping = False
        while piece := source.read(CHUNK):
            data = self._rest + piece
            if skipping:
                feed = data.find(b"\n")
                if feed < 0:
                    self._rest = b""
                    continue
                data = data[feed + 1 :]
                self._line += 1
                skipping = False
            cut = data.rfind(b"\n") + 1
            self._rest = data[cut:]
            if cut:
                yield data[:cut]
            if len(self._rest) > LONGEST_LINE:
                detail = f"more than {LONGEST_LINE} bytes without a line feed, skipped to the next one"
                self.report.drop(LONG, place=self._place(), detail=detail)
                self._rest = b""
                skipping = True

    def _take_line(self, raw: bytes, builder: FrameBuilder, *, cut: bool) -> None:
        text = raw.decode(self.encoding).strip()
        try:
            if text:
                self._slow(text, builder, cut=cut)
        except (ValueError, LookupError) as error:
            shown = text[:SHOWN] + ("..." if len(text) > SHOWN else "")
            self.report.drop(CUT if cut else FOREIGN, place=self._place(), detail=f"{shown!r}: {error}")
        self._line += 1

    def _place(self) -> str:
        return f"{self.path}, line {self._line + 1}"

    def _begin(self) -> None:
        """Resets what the parser knows of the log so far."""

    @abstractmethod
    def _fast(self, buffer: Buffer, at: int, builder: FrameBuilder) -> tuple[int, int, int, int]:
        """Parses lines from `at` on; returns where it stopped, frames in the builder, lines done, status."""

    @abstractmethod
    def _slow(self, line: str, builder: FrameBuilder, *, cut: bool) -> None:
        """Takes one stripped, non-empty line of any kind.

        Args:
            line: the line.
            builder: where its frame goes; it has room.
            cut: the line has no line end: what may be the start of a longer frame is refused.

        Raises:
            ValueError, LookupError: the line is foreign, damaged or (if `cut`) not provably complete.
        """


def refuse_cut(*, cut: bool) -> None:
    """For lines that do not show their own end."""
    if cut:
        message = "the file ends without a line end here, so the frame may be incomplete; not used"
        raise ForeignLineError(message)
