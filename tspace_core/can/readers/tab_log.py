"""Tab-separated logs ``ParserFlags Ch Counter T/R Time Flags CAN ID Len Data ...``, time in ms."""

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
    TAB,
    ZERO,
    Buffer,
    finish_payload,
    hex_byte,
    line_end,
    next_line,
    number,
    skip_blanks,
)
from tspace_core.can.readers.text import ForeignLineError, TextReader, hex_payload, nanoseconds
from tspace_core.compiled import compiled

NS_PER_MS = 1_000_000
MILLISECONDS = 6
MAX_STAMP_DIGITS = 12
STANDARD_IDS = 0x7FF
LETTER_R, LETTER_T, LETTER_UPPER_X, LETTER_X = 82, 84, 88, 120
EXTENDED = int(FrameFlag.EXTENDED)
TX = int(FrameFlag.TX)
COLUMNS = ("ParserFlags", "Ch", "Counter", "T/R", "Time", "Flags", "CAN ID", "Len", "Data")
_NEEDED = ("Ch", "T/R", "Time", "CAN ID", "Len", "Data")


@compiled
def _field(buffer: Buffer, at: int) -> int:
    """Behind the tab that ends a field."""
    while buffer[at] != TAB and buffer[at] != LINE_FEED:
        at += 1
    return at + 1 if buffer[at] == TAB else -1


@compiled
def _after_0x(buffer: Buffer, at: int) -> int:
    return at + 2 if buffer[at] == ZERO and buffer[at + 1] == LETTER_X else -1


@compiled
def _parse_line(buffer: Buffer, at: int, columns: Columns, row: int) -> int:
    at = _field(buffer, at)
    if at < 0:
        return -1
    bus, at = number(buffer, at, 10, 2)
    if at < 0 or buffer[at] != TAB:
        return -1
    at = _field(buffer, at + 1)
    if at < 0:
        return -1
    flags = 0
    if buffer[at] == LETTER_T:
        flags = TX
    elif buffer[at] != LETTER_R:
        return -1
    if buffer[at + 1] != LETTER_UPPER_X or buffer[at + 2] != TAB:
        return -1
    time, at = number(buffer, at + 3, 10, MAX_STAMP_DIGITS)
    if at < 0 or buffer[at] != TAB or buffer[at + 1] != TAB:
        return -1
    at = _after_0x(buffer, at + 2)
    if at < 0:
        return -1
    identifier, at = number(buffer, at, 16, MAX_ID_DIGITS)
    if at < 0 or buffer[at] != TAB or identifier > ID_MASK:
        return -1
    length, at = number(buffer, at + 1, 10, 1)
    if at < 0 or length > CLASSIC_BYTES or buffer[at] != TAB:
        return -1
    at += 1
    payload = columns.payload[row]
    for index in range(length):
        at = _after_0x(buffer, at)
        if at < 0:
            return -1
        byte = hex_byte(buffer, at)
        if byte < 0:
            return -1
        payload[index] = byte
        at += 2
        if buffer[at] != TAB:
            at = skip_blanks(buffer, at)
    finish_payload(payload, length)
    columns.time[row] = time * NS_PER_MS
    columns.bus[row] = bus
    columns.id[row] = identifier
    columns.flags[row] = flags | (EXTENDED if identifier > STANDARD_IDS else 0)
    columns.length[row] = length
    return next_line(buffer, at)


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


class TabLogReader(TextReader):
    """Tab-separated log with a header line that names its columns; channel as written, stamps in ms.

    An id above 0x7FF is an extended one, since the format does not say. A line with something in its Flags
    column is dropped and counted: what the column means is not published.
    """

    format: ClassVar[str] = "tab_log"
    endings: ClassVar[tuple[str, ...]] = (".log", ".txt")

    @classmethod
    def matches(cls, head: bytes, path: Path) -> bool:
        """The first line names the columns that are needed."""
        cells = head.lstrip().split(b"\n", 1)[0].decode("latin-1").split("\t")
        return set(_NEEDED) <= {cell.strip() for cell in cells}

    def _begin(self) -> None:
        self._columns = {name: index for index, name in enumerate(COLUMNS)}
        self._as_usual = True

    def _fast(self, buffer: Buffer, at: int, builder: FrameBuilder) -> tuple[int, int, int, int]:
        if not self._as_usual:
            return at, builder.count, 0, FULL if builder.full else SLOW
        return _parse(buffer, at, builder.columns, builder.count)

    def _slow(self, line: str, builder: FrameBuilder, *, cut: bool) -> None:
        cells = [cell.strip() for cell in line.split("\t")]
        if set(_NEEDED) <= set(cells):
            self._columns = {name: cells.index(name) for name in cells}
            self._as_usual = tuple(cells[: len(COLUMNS)]) == COLUMNS
            return
        column = self._columns
        direction = cells[column["T/R"]].upper()
        if direction not in ("RX", "TX"):
            message = f"{direction!r} is neither RX nor TX"
            raise ForeignLineError(message)
        if "Flags" in column and cells[column["Flags"]]:
            message = f"flags {cells[column['Flags']]!r} have no known meaning"
            raise ForeignLineError(message)
        identifier = int(cells[column["CAN ID"]], 16)
        length = int(cells[column["Len"]])
        flags = FrameFlag.TX if direction == "TX" else FrameFlag(0)
        flags |= FrameFlag.EXTENDED if identifier > STANDARD_IDS else FrameFlag(0)
        flags |= FrameFlag.FD if length > CLASSIC_BYTES else FrameFlag(0)
        # a frame without data ends the line before its Data cell
        data = cells[column["Data"]] if column["Data"] < len(cells) else ""
        builder.append(
            nanoseconds(cells[column["Time"]], MILLISECONDS),
            bus_number(int(cells[column["Ch"]])),
            identifier,
            int(flags),
            hex_payload(data.split(), length),
        )
