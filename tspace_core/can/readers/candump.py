"""Text of candump: ``(1436509053.650713) can0 1DB#FFC0C36A00000197 R``, and what it prints on a terminal."""

import re
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from tspace_core.can.frames import CLASSIC_BYTES, ID_MASK, UNKNOWN_BUS, FrameFlag
from tspace_core.can.readers.builder import Columns, FrameBuilder
from tspace_core.can.readers.scan import (
    DONE,
    FULL,
    HASH,
    MAX_ID_DIGITS,
    SLOW,
    SPACE,
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

ERROR_BIT = 0x20000000
BRS_BIT, ESI_BIT = 1, 2
STANDARD_DIGITS = 3
LONGEST_NAME = 32
OPEN, CLOSE, LETTER_R, LETTER_T = 40, 41, 82, 84
EXTENDED = int(FrameFlag.EXTENDED)
TX = int(FrameFlag.TX)

_HEAD = re.compile(rb"^\s*\(\d+\.\d+\)\s+\S+\s+[0-9A-Fa-f]+(#|\s+\[\d+\])", re.MULTILINE)
_TERMINAL = re.compile(r"\((\S+)\)\s+(\S+)\s+(?:(?:RX|TX)\s+\S+\s+\S*\s*)?([0-9A-Fa-f]+)\s+\[(\d+)\]\s*(.*)")


@compiled
def _bus_of(
    buffer: Buffer, start: int, end: int, names: Buffer, lengths: npt.NDArray[np.int64], buses: Buffer
) -> int:
    """Bus of the interface name in buffer[start:end], -1 if it has none yet."""
    for index in range(len(lengths)):
        if lengths[index] == end - start:
            same = True
            for offset in range(end - start):
                if names[index, offset] != buffer[start + offset]:
                    same = False
                    break
            if same:
                bus: int = 0 + buses[index]
                return bus
    return -1


@compiled
def _parse_line(
    buffer: Buffer,
    at: int,
    columns: Columns,
    row: int,
    names: Buffer,
    lengths: npt.NDArray[np.int64],
    buses: Buffer,
) -> int:
    if buffer[at] != OPEN:
        return -1
    time, at = seconds(buffer, at + 1)
    if at < 0 or buffer[at] != CLOSE:
        return -1
    at = skip_blanks(buffer, at + 1)
    start = at
    while buffer[at] > SPACE:
        at += 1
    bus = _bus_of(buffer, start, at, names, lengths, buses)
    if bus < 0:
        return -1
    start = skip_blanks(buffer, at)
    identifier, at = number(buffer, start, 16, MAX_ID_DIGITS)
    if at < 0 or buffer[at] != HASH or identifier > ID_MASK:
        return -1
    flags = 0 if at - start <= STANDARD_DIGITS else EXTENDED
    at += 1
    length = 0
    payload = columns.payload[row]
    while length < CLASSIC_BYTES:
        byte = hex_byte(buffer, at)
        if byte < 0:
            break
        payload[length] = byte
        length += 1
        at += 2
    finish_payload(payload, length)
    if buffer[at] == SPACE:
        at = skip_blanks(buffer, at)
        if buffer[at] == LETTER_T:
            flags |= TX
            at += 1
        elif buffer[at] == LETTER_R:
            at += 1
    at = line_end(buffer, at)
    if at < 0:
        return -1
    columns.time[row] = time
    columns.bus[row] = bus
    columns.id[row] = identifier
    columns.flags[row] = flags
    columns.length[row] = length
    return at


@compiled
def _parse(
    buffer: Buffer,
    at: int,
    columns: Columns,
    row: int,
    names: Buffer,
    lengths: npt.NDArray[np.int64],
    buses: Buffer,
) -> tuple[int, int, int, int]:
    lines = 0
    while at < len(buffer):
        if row == len(columns.time):
            return at, row, lines, FULL
        end = _parse_line(buffer, at, columns, row, names, lengths, buses)
        if end < 0:
            end = line_end(buffer, at)
            if end < 0:
                return at, row, lines, SLOW
        else:
            row += 1
        at = end
        lines += 1
    return at, row, lines, DONE


class CandumpReader(TextReader):
    """candump -L, and candump -ta on a terminal.

    The bus is the number at the end of the interface's name where no other interface has it yet, else the
    lowest free number; `report.buses` holds them. Error frames keep their error class as id.
    """

    format: ClassVar[str] = "candump"
    endings: ClassVar[tuple[str, ...]] = (".log", ".candump")

    @classmethod
    def matches(cls, head: bytes, path: Path) -> bool:
        """A line like those above stands among the first ones."""
        return _HEAD.search(head) is not None

    def _begin(self) -> None:
        self.report.buses.clear()
        self._with_direction = False
        self._names = np.zeros((0, LONGEST_NAME), np.uint8)
        self._lengths = np.zeros(0, np.int64)
        self._buses = np.zeros(0, np.uint8)

    def _fast(self, buffer: Buffer, at: int, builder: FrameBuilder) -> tuple[int, int, int, int]:
        return _parse(buffer, at, builder.columns, builder.count, self._names, self._lengths, self._buses)

    def _slow(self, line: str, builder: FrameBuilder, *, cut: bool) -> None:
        if terminal := _TERMINAL.fullmatch(line):
            self._terminal_line(terminal, builder, cut=cut)
            return
        tokens = line.split()
        if len(tokens) not in (3, 4) or not (tokens[0].startswith("(") and tokens[0].endswith(")")):
            message = "expected '(seconds) interface id#data'"
            raise ForeignLineError(message)
        direction = tokens[3].upper() if len(tokens) == 4 else ""
        if direction not in ("", "R", "T"):
            message = f"{tokens[3]!r} is neither R nor T"
            raise ForeignLineError(message)
        digits, _, data = tokens[2].partition("#")
        self._with_direction |= bool(direction)
        full = re.fullmatch(r"[0-9A-Fa-f]{16}", data) is not None
        if not direction and (self._with_direction or not full):
            refuse_cut(cut=cut)
        flags = FrameFlag.TX if direction == "T" else FrameFlag(0)
        self._add(tokens[0][1:-1], tokens[1], digits, data, flags, builder)

    def _add(
        self, stamp: str, name: str, digits: str, data: str, flags: FrameFlag, builder: FrameBuilder
    ) -> None:
        identifier = int(digits, 16)
        if len(digits) > STANDARD_DIGITS:
            flags |= FrameFlag.EXTENDED
        if len(digits) == MAX_ID_DIGITS and identifier & ERROR_BIT:
            flags |= FrameFlag.ERROR
            identifier &= ID_MASK & ~ERROR_BIT
        length = None
        if data.startswith("##"):
            message = "CAN XL frames are not supported"
            raise ForeignLineError(message)
        if data.startswith("#"):
            bits = int(data[1], 16)
            flags |= FrameFlag.FD
            flags |= FrameFlag.BRS if bits & BRS_BIT else FrameFlag(0)
            flags |= FrameFlag.ESI if bits & ESI_BIT else FrameFlag(0)
            data = data[2:]
        elif data[:1] in ("R", "r"):
            flags |= FrameFlag.REMOTE
            length = int(data[1:].partition("_")[0] or "0", 16)
            data = ""
        data = data.partition("_")[0].replace(".", "")
        payload = bytes.fromhex(data)
        if len(payload) > CLASSIC_BYTES and not flags & FrameFlag.FD:
            message = f"{len(payload)} bytes in a frame that is not CAN FD"
            raise ForeignLineError(message)
        if length is not None and length > CLASSIC_BYTES:
            message = f"a remote frame asks for {length} bytes"
            raise ForeignLineError(message)
        builder.append(nanoseconds(stamp), self._bus(name), identifier, int(flags), payload, length)

    def _terminal_line(self, match: re.Match[str], builder: FrameBuilder, *, cut: bool) -> None:
        stamp, name, digits, length, rest = match.groups()
        if rest.lower().startswith("remote request"):
            self._add(stamp, name, digits, f"R{int(length):X}", FrameFlag(0), builder)
            return
        payload = hex_payload(rest.split(), int(length))
        # two digits between the brackets mark CAN FD
        prefix = "#0" if len(length) > 1 else ""
        self._add(stamp, name, digits, prefix + payload.hex(), FrameFlag(0), builder)

    def _bus(self, name: str) -> int:
        buses = self.report.buses
        if name in buses:
            return buses[name]
        taken = set(buses.values())
        trailing = re.search(r"\d{1,3}$", name)
        number = int(trailing.group()) if trailing else UNKNOWN_BUS
        if number >= UNKNOWN_BUS or number in taken:
            number = next((free for free in range(UNKNOWN_BUS) if free not in taken), UNKNOWN_BUS)
        buses[name] = number
        raw = name.encode(self.encoding)
        if len(raw) <= LONGEST_NAME:
            row = np.zeros((1, LONGEST_NAME), np.uint8)
            row[0, : len(raw)] = np.frombuffer(raw, np.uint8)
            self._names = np.concatenate([self._names, row])
            self._lengths = np.append(self._lengths, np.int64(len(raw)))
            self._buses = np.append(self._buses, np.uint8(number))
        return number
