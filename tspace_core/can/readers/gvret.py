"""GVRET csv of SavvyCAN: ``Time Stamp,ID,Extended,Dir,Bus,LEN,D1,D2,D3,D4,D5,D6,D7,D8`` with µs."""

from pathlib import Path
from typing import ClassVar

from tspace_core.can.frames import CLASSIC_BYTES, ID_MASK, FrameFlag
from tspace_core.can.readers.builder import Columns, FrameBuilder, bus_number
from tspace_core.can.readers.scan import (
    DONE,
    FULL,
    LINE_FEED,
    MAX_ID_DIGITS,
    SLOW,
    Buffer,
    finish_payload,
    hex_byte,
    line_end,
    next_line,
    number,
)
from tspace_core.can.readers.text import ForeignLineError, TextReader, hex_payload, nanoseconds
from tspace_core.compiled import compiled

NS_PER_US = 1000
MICROSECONDS = 3
MAX_STAMP_DIGITS = 15
COMMA = 44
LETTER_F, LETTER_T, LETTER_R, LETTER_X = 102, 116, 82, 84
EXTENDED = int(FrameFlag.EXTENDED)
TX = int(FrameFlag.TX)
HEADER = "Time Stamp,ID,Extended,"
_FIELDS = ("Time Stamp", "ID", "Extended", "Dir", "Bus", "LEN")


@compiled
def _comma(buffer: Buffer, at: int) -> int:
    return at + 1 if buffer[at] == COMMA else -1


@compiled
def _word(buffer: Buffer, at: int) -> int:
    """Behind the comma that ends a word."""
    while buffer[at] != COMMA and buffer[at] != LINE_FEED:
        at += 1
    return _comma(buffer, at)


@compiled
def _parse_line(buffer: Buffer, at: int, columns: Columns, row: int, with_direction: int) -> int:
    time, at = number(buffer, at, 10, MAX_STAMP_DIGITS)
    if at < 0 or buffer[at] != COMMA:
        return -1
    identifier, at = number(buffer, at + 1, 16, MAX_ID_DIGITS)
    if at < 0 or buffer[at] != COMMA or identifier > ID_MASK:
        return -1
    at += 1
    flags = 0
    if buffer[at] == LETTER_T:
        flags = EXTENDED
    elif buffer[at] != LETTER_F:
        return -1
    at = _word(buffer, at)
    if at < 0:
        return -1
    if with_direction:
        if buffer[at] == LETTER_X:
            flags |= TX
        elif buffer[at] != LETTER_R:
            return -1
        at = _word(buffer, at)
        if at < 0:
            return -1
    bus, at = number(buffer, at, 10, 2)
    if at < 0 or buffer[at] != COMMA:
        return -1
    length, at = number(buffer, at + 1, 10, 1)
    if at < 0 or length > CLASSIC_BYTES:
        return -1
    payload = columns.payload[row]
    for index in range(length):
        if buffer[at] != COMMA:
            return -1
        byte = hex_byte(buffer, at + 1)
        if byte < 0:
            return -1
        payload[index] = byte
        at += 3
    if buffer[at] != COMMA and line_end(buffer, at) < 0:
        return -1
    finish_payload(payload, length)
    columns.time[row] = time * NS_PER_US
    columns.bus[row] = bus
    columns.id[row] = identifier
    columns.flags[row] = flags
    columns.length[row] = length
    return next_line(buffer, at)


@compiled
def _parse(
    buffer: Buffer, at: int, columns: Columns, row: int, with_direction: int
) -> tuple[int, int, int, int]:
    lines = 0
    while at < len(buffer):
        if row == len(columns.time):
            return at, row, lines, FULL
        end = _parse_line(buffer, at, columns, row, with_direction)
        if end < 0:
            end = line_end(buffer, at)
            if end < 0:
                return at, row, lines, SLOW
        else:
            row += 1
        at = end
        lines += 1
    return at, row, lines, DONE


class GvretReader(TextReader):
    """SavvyCAN's csv, with or without the direction column; stamps in µs, bus as written."""

    format: ClassVar[str] = "gvret"
    endings: ClassVar[tuple[str, ...]] = (".csv",)

    @classmethod
    def matches(cls, head: bytes, path: Path) -> bool:
        """The header line is SavvyCAN's."""
        return head.lstrip().startswith(HEADER.encode())

    def _begin(self) -> None:
        self._columns: dict[str, int] = {name: index for index, name in enumerate(_FIELDS)}

    def _fast(self, buffer: Buffer, at: int, builder: FrameBuilder) -> tuple[int, int, int, int]:
        return _parse(buffer, at, builder.columns, builder.count, int("Dir" in self._columns))

    def _slow(self, line: str, builder: FrameBuilder, *, cut: bool) -> None:
        cells = [cell.strip() for cell in line.split(",")]
        if line.startswith(HEADER):
            self._columns = {name: index for index, name in enumerate(_FIELDS[:3])}
            for name in _FIELDS[3:]:
                if name in cells:
                    self._columns[name] = cells.index(name)
            return
        column = self._columns
        extended = cells[column["Extended"]].lower()
        if extended not in ("true", "false", "1", "0"):
            message = f"{extended!r} is neither true nor false"
            raise ForeignLineError(message)
        direction = cells[column["Dir"]].lower() if "Dir" in column else "rx"
        if direction not in ("rx", "tx"):
            message = f"{direction!r} is neither Rx nor Tx"
            raise ForeignLineError(message)
        flags = FrameFlag.EXTENDED if extended in ("true", "1") else FrameFlag(0)
        flags |= FrameFlag.TX if direction == "tx" else FrameFlag(0)
        at = column["LEN"]
        length = int(cells[at])
        flags |= FrameFlag.FD if length > CLASSIC_BYTES else FrameFlag(0)
        builder.append(
            nanoseconds(cells[column["Time Stamp"]], MICROSECONDS),
            bus_number(int(cells[column["Bus"]])),
            int(cells[column["ID"]], 16),
            int(flags),
            hex_payload(cells[at + 1 :], length),
        )
