"""Vector ASC: ``  3.098426 1  18EBFF00x       Rx d 8 01 A0 0F A6 60 3B D1 40``, and other lines."""

import re
from pathlib import Path
from typing import ClassVar

from tspace_core.can.frames import CLASSIC_BYTES, FD_BYTES, ID_MASK, FrameFlag
from tspace_core.can.readers.asc_header import parse_base, parse_date
from tspace_core.can.readers.builder import Columns, FrameBuilder, bus_number
from tspace_core.can.readers.scan import (
    DONE,
    FULL,
    SLOW,
    SPACE,
    TAB,
    Buffer,
    finish_payload,
    hex_byte,
    line_end,
    next_line,
    number,
    seconds,
    skip_blanks,
)
from tspace_core.can.readers.text import ForeignLineError, TextReader, hex_payload, nanoseconds, refuse_cut
from tspace_core.compiled import compiled

HEX = 16
MAX_ID_DIGITS = 9
LETTER_D, LETTER_R_UPPER, LETTER_T_UPPER, LETTER_X = 100, 82, 84, 120
EXTENDED = int(FrameFlag.EXTENDED)
TX = int(FrameFlag.TX)
FD_LENGTHS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20, 24, 32, 48, 64)

_HEAD = re.compile(
    rb"^\s*(base\s+(hex|dec)\b|date\s+\S+\s+\S+\s+\d|begin\s+trigger\s*block\b|\d+\.\d+\s+"
    rb"(\d+\s+([0-9A-Fa-f]+x?\s+(Rx|Tx)\s+[dr]\b|ErrorFrame)|CANFD\s+\d+\s+(Rx|Tx)))",
    re.MULTILINE | re.IGNORECASE,
)
_SILENT = re.compile(
    r"//|(no\s+)?internal\s+events\s+logged|(end|begin)\s+trigger\s*block$|date$|previous log file",
    re.IGNORECASE,
)
_EVENT = re.compile(
    r"(?:\d+\s+)?(Start of measurement|CAN \d+ Status|CAN \d+|Statistic|J1939TP|LIN|FlexRay|Fr|ETH|MOST\w*|"
    r"SV|log trigger event|Trigger|Comment|TFS|GPS|WLAN|AFDX|A429|K-?Line|Watch|End of measurement)\b",
    re.IGNORECASE,
)


@compiled
def _parse_line(buffer: Buffer, at: int, columns: Columns, row: int, base: int) -> int:
    time, at = seconds(buffer, skip_blanks(buffer, at))
    if at < 0:
        return -1
    channel, at = number(buffer, skip_blanks(buffer, at), 10, 2)
    if at < 0 or channel == 0:
        return -1
    if buffer[at] != SPACE and buffer[at] != TAB:
        return -1
    identifier, at = number(buffer, skip_blanks(buffer, at), base, MAX_ID_DIGITS)
    if at < 0 or identifier > ID_MASK:
        return -1
    flags = 0
    if buffer[at] == LETTER_X:
        flags = EXTENDED
        at += 1
    if buffer[at] != SPACE and buffer[at] != TAB:
        return -1
    at = skip_blanks(buffer, at)
    if buffer[at] == LETTER_T_UPPER:
        flags |= TX
    elif buffer[at] != LETTER_R_UPPER:
        return -1
    if buffer[at + 1] != LETTER_X or buffer[at + 2] != SPACE:
        return -1
    at = skip_blanks(buffer, at + 2)
    if buffer[at] != LETTER_D or buffer[at + 1] != SPACE:
        return -1
    length, at = number(buffer, skip_blanks(buffer, at + 1), base, 1)
    if at < 0 or length > CLASSIC_BYTES:
        return -1
    payload = columns.payload[row]
    for index in range(length):
        if buffer[at] != SPACE and buffer[at] != TAB:
            return -1
        at = skip_blanks(buffer, at)
        if base == HEX:
            value = hex_byte(buffer, at)
            at += 2
        else:
            value, at = number(buffer, at, 10, 3)
            if at < 0 or value > 255:
                return -1
        if value < 0:
            return -1
        payload[index] = value
    if buffer[at] > SPACE:
        return -1
    finish_payload(payload, length)
    columns.time[row] = time
    columns.bus[row] = channel - 1
    columns.id[row] = identifier
    columns.flags[row] = flags
    columns.length[row] = length
    return next_line(buffer, at)


@compiled
def _parse(buffer: Buffer, at: int, columns: Columns, row: int, base: int) -> tuple[int, int, int, int]:
    lines = 0
    while at < len(buffer):
        if row == len(columns.time):
            return at, row, lines, FULL
        end = _parse_line(buffer, at, columns, row, base)
        if end < 0:
            end = line_end(buffer, at)
            if end < 0:
                return at, row, lines, SLOW
        else:
            row += 1
        at = end
        lines += 1
    return at, row, lines, DONE


class AscReader(TextReader):
    """Vector ASC, hexadecimal or decimal, stamps counted from the start or from the line before.

    The log clock is the file's own, from its start; `report.start` is the wall clock of the last header line.
    Known lines that are no frames (statistics, chip status, J1939 transport, other buses) are noted by kind.
    """

    format: ClassVar[str] = "asc"
    endings: ClassVar[tuple[str, ...]] = (".asc",)

    @classmethod
    def matches(cls, head: bytes, path: Path) -> bool:
        """A header line or a frame line stands among the first ones."""
        return _HEAD.search(head) is not None

    def _begin(self) -> None:
        self._base = HEX
        self._relative = False
        self._clock = 0

    def _fast(self, buffer: Buffer, at: int, builder: FrameBuilder) -> tuple[int, int, int, int]:
        if self._relative:
            return at, builder.count, 0, FULL if builder.full else SLOW
        return _parse(buffer, at, builder.columns, builder.count, self._base)

    def _slow(self, line: str, builder: FrameBuilder, *, cut: bool) -> None:
        if not line[0].isdigit():
            self._header_line(line)
            return
        stamp, _, rest = line.partition(" ")
        time = nanoseconds(stamp)
        if self._relative:
            self._clock += time
            time = self._clock
        rest = rest.strip()
        tokens = rest.split()
        if tokens[0].upper() == "CANFD":
            self._fd_line(time, tokens, builder, cut=cut)
        elif tokens[0].isdigit() and tokens[1].lower() == "errorframe":
            builder.append(time, bus_number(int(tokens[0]) - 1), 0, FrameFlag.ERROR | FrameFlag.EXTENDED)
        elif len(tokens) > 3 and tokens[0].isdigit() and tokens[2] in ("Rx", "Tx", "TxRq"):
            self._classic_line(time, tokens, builder, cut=cut)
        elif event := _EVENT.match(rest):
            kind = event[1] if not event[1].lower().startswith("can ") else "chip status"
            if kind.lower() != "start of measurement":
                self.report.note(f"asc event: {kind}", place=self._place(), detail=line)
        else:
            message = "neither a CAN frame nor a known event of ASC"
            raise ForeignLineError(message)

    def _header_line(self, line: str) -> None:
        if base := parse_base(line):
            self._base, self._relative = base
        elif start := parse_date(line):
            self.report.start = start
        elif not _SILENT.match(line):
            message = "neither a frame nor a header line of ASC"
            raise ForeignLineError(message)

    def _identifier(self, text: str) -> tuple[int, FrameFlag]:
        if text[-1:] in ("x", "X"):
            return int(text[:-1], self._base), FrameFlag.EXTENDED
        return int(text, self._base), FrameFlag(0)

    def _payload(self, tokens: list[str], length: int, *, cut: bool) -> bytes:
        if self._base == HEX:
            return hex_payload(tokens, length)
        if not 0 <= length <= len(tokens):
            message = f"{len(tokens)} bytes of payload, {length} announced"
            raise ForeignLineError(message)
        if len(tokens) == length:
            refuse_cut(cut=cut)
        return bytes(int(token) for token in tokens[:length])

    def _classic_line(self, time: int, tokens: list[str], builder: FrameBuilder, *, cut: bool) -> None:
        bus = bus_number(int(tokens[0]) - 1)
        identifier, flags = self._identifier(tokens[1])
        flags |= FrameFlag(0) if tokens[2] == "Rx" else FrameFlag.TX
        kind = tokens[3].lower()
        if kind == "r":
            refuse_cut(cut=cut)
            asked = tokens[4] if len(tokens) > 4 and tokens[4].isalnum() and len(tokens[4]) <= 2 else "0"
            length = min(int(asked, self._base), CLASSIC_BYTES)
            builder.append(time, bus, identifier, flags | FrameFlag.REMOTE, length=length)
        elif kind == "d":
            length = min(int(tokens[4], self._base), CLASSIC_BYTES)
            payload = self._payload(tokens[5:], length, cut=cut)
            builder.append(time, bus, identifier, flags, payload)
        else:
            message = f"{tokens[3]!r} is neither d (data) nor r (remote)"
            raise ForeignLineError(message)

    def _fd_line(self, time: int, tokens: list[str], builder: FrameBuilder, *, cut: bool) -> None:
        bus = bus_number(int(tokens[1]) - 1)
        if tokens[2] not in ("Rx", "Tx", "TxRq"):
            message = f"{tokens[2]!r} is neither Rx nor Tx"
            raise ForeignLineError(message)
        flags = FrameFlag.FD | (FrameFlag(0) if tokens[2] == "Rx" else FrameFlag.TX)
        if tokens[3].lower() == "errorframe":
            builder.append(time, bus, 0, flags | FrameFlag.ERROR | FrameFlag.EXTENDED)
            return
        identifier, extended = self._identifier(tokens[3])
        flags |= extended
        # a symbolic name may stand between the id and the bit rate switch
        at = 4 if tokens[4].isdigit() else 5
        flags |= FrameFlag.BRS if tokens[at] == "1" else FrameFlag(0)
        flags |= FrameFlag.ESI if tokens[at + 1] == "1" else FrameFlag(0)
        code = int(tokens[at + 2], self._base)
        length = int(tokens[at + 3])
        if length > FD_BYTES:
            message = f"{length} bytes of payload, CAN FD frames have at most {FD_BYTES}"
            raise ForeignLineError(message)
        if length == 0 and code:
            refuse_cut(cut=cut)
            builder.append(time, bus, identifier, flags | FrameFlag.REMOTE, length=FD_LENGTHS[code])
            return
        payload = self._payload(tokens[at + 4 :], length, cut=cut)
        builder.append(time, bus, identifier, flags, payload)
