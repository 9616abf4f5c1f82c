"""CRTD text of OVMS and SavvyCAN: ``338.194004 R11 000001D4 A0 6D 00 00 42 00 50 FB``, bus before the R."""

import re
from pathlib import Path
from typing import ClassVar

from tspace_core.can.frames import CLASSIC_BYTES, ID_MASK, FrameFlag
from tspace_core.can.readers.builder import Columns, FrameBuilder, bus_number
from tspace_core.can.readers.scan import (
    DONE,
    FULL,
    MAX_ID_DIGITS,
    SLOW,
    SPACE,
    TAB,
    ZERO,
    Buffer,
    finish_payload,
    hex_byte,
    line_end,
    number,
    seconds,
    skip_blanks,
)
from tspace_core.can.readers.text import ForeignLineError, TextReader, hex_payload, nanoseconds, refuse_cut
from tspace_core.compiled import compiled

EXTENDED = int(FrameFlag.EXTENDED)
TX = int(FrameFlag.TX)
LETTER_R, LETTER_T = 82, 84
MAX_BUS_DIGITS = 2

_HEAD = re.compile(rb"^\d+(\.\d+)?\s+\d*([RT](11|29)\s+[0-9A-Fa-f]+|C[A-Z]{2})\s", re.MULTILINE)
_TYPE = re.compile(r"(\d*)(?:([RT])(11|29)|(C[A-Z0-9]+))")


@compiled
def _parse_line(buffer: Buffer, at: int, columns: Columns, row: int) -> int:
    time, at = seconds(buffer, at)
    if at < 0:
        return -1
    at = skip_blanks(buffer, at)
    bus = 0
    if ZERO < buffer[at] <= ZERO + 9:
        bus, at = number(buffer, at, 10, MAX_BUS_DIGITS)
        if at < 0:
            return -1
        bus -= 1
    flags = 0
    if buffer[at] == LETTER_T:
        flags = TX
    elif buffer[at] != LETTER_R:
        return -1
    if buffer[at + 1] == ZERO + 2 and buffer[at + 2] == ZERO + 9:
        flags |= EXTENDED
    elif buffer[at + 1] != ZERO + 1 or buffer[at + 2] != ZERO + 1:
        return -1
    at += 3
    if buffer[at] != SPACE and buffer[at] != TAB:
        return -1
    identifier, at = number(buffer, skip_blanks(buffer, at), 16, MAX_ID_DIGITS)
    if at < 0 or identifier > ID_MASK:
        return -1
    length = 0
    payload = columns.payload[row]
    while True:
        end = line_end(buffer, at)
        if end >= 0:
            break
        if length == CLASSIC_BYTES or (buffer[at] != SPACE and buffer[at] != TAB):
            return -1
        at = skip_blanks(buffer, at)
        byte = hex_byte(buffer, at)
        if byte < 0:
            return -1
        payload[length] = byte
        length += 1
        at += 2
    finish_payload(payload, length)
    columns.time[row] = time
    columns.bus[row] = bus
    columns.id[row] = identifier
    columns.flags[row] = flags
    columns.length[row] = length
    return end


@compiled
def _parse(buffer: Buffer, at: int, columns: Columns, row: int) -> tuple[int, int, int, int]:
    lines = 0
    while at < len(buffer):
        if row == len(columns.time):
            return at, row, lines, FULL
        end = _parse_line(buffer, at, columns, row)
        if end < 0:
            end = line_end(buffer, at)
            if end < 0:
                return at, row, lines, SLOW
        else:
            row += 1
        at = end
        lines += 1
    return at, row, lines, DONE


class CrtdReader(TextReader):
    """CRTD: records R and T with 11 or 29 bits are frames, records of type C... are comments and events.

    The bus before the record type counts from 1 in the file; without it the frame is on bus 0 here.
    """

    format: ClassVar[str] = "crtd"
    endings: ClassVar[tuple[str, ...]] = (".crtd", ".txt")

    @classmethod
    def matches(cls, head: bytes, path: Path) -> bool:
        """A record stands among the first lines."""
        return _HEAD.search(head) is not None

    def _fast(self, buffer: Buffer, at: int, builder: FrameBuilder) -> tuple[int, int, int, int]:
        return _parse(buffer, at, builder.columns, builder.count)

    def _slow(self, line: str, builder: FrameBuilder, *, cut: bool) -> None:
        tokens = line.split()
        kind = _TYPE.fullmatch(tokens[1])
        if kind is None:
            message = f"{tokens[1]!r} is no CRTD record type"
            raise ForeignLineError(message)
        time = nanoseconds(tokens[0])
        bus, direction, bits, comment = kind.groups()
        if comment:
            return
        data = tokens[3:]
        if len(data) > CLASSIC_BYTES:
            message = f"{len(data)} bytes of payload, CRTD frames have at most {CLASSIC_BYTES}"
            raise ForeignLineError(message)
        if len(data) < CLASSIC_BYTES:
            refuse_cut(cut=cut)
        flags = (TX if direction == "T" else 0) | (EXTENDED if bits == "29" else 0)
        payload = hex_payload(data, len(data))
        builder.append(time, bus_number(int(bus or "1") - 1), int(tokens[2], 16), flags, payload)
