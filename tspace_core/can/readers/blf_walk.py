"""Compiled walk over the objects inside a BLF file's containers.

Layouts as in Vector's binlog and python-can 4.6.1 (`can/io/blf.py`); offsets count from the object's body.
"""

import numpy as np
import numpy.typing as npt

from tspace_core.can.frames import CLASSIC_BYTES, FD_BYTES, ID_MASK, UNKNOWN_BUS, FrameFlag
from tspace_core.can.readers.builder import Columns
from tspace_core.can.readers.scan import Buffer, byte_at, finish_payload
from tspace_core.compiled import compiled

MORE, FULL, WIDE, LOST, SIZE, VERSION, SHORT, STAMP, LENGTH = range(9)
"""Why the walk stopped: needs more bytes, a new batch, wide payloads; or the object is damaged."""

CAN_MESSAGE, CAN_ERROR, LOG_CONTAINER, CAN_ERROR_EXT, CAN_MESSAGE2 = 1, 2, 10, 73, 86
CAN_FD_MESSAGE, CAN_FD_MESSAGE_64, CAN_FD_ERROR_64 = 100, 101, 104
BASE_HEADER = 16
HEADER_V1, HEADER_V2 = 32, 40
PADDING = 4
LARGEST_OBJECT = 1 << 24
KINDS = 256
"""Size of the table of other object types; its last entry counts all types from there on."""

TEN_MICROSECONDS = 1
LARGEST_TICKS = 1 << 62
EXTENDED_BIT = 0x80000000
REMOTE_BIT, DIRECTION_BIT = 0x80, 1
EXTENDED, REMOTE, ERROR = int(FrameFlag.EXTENDED), int(FrameFlag.REMOTE), int(FrameFlag.ERROR)
FD, BRS, ESI, TX = int(FrameFlag.FD), int(FrameFlag.BRS), int(FrameFlag.ESI), int(FrameFlag.TX)
FD_LENGTHS = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20, 24, 32, 48, 64], np.int64)


@compiled
def u16(buffer: Buffer, at: int) -> int:
    """Little-endian 16 bits."""
    return byte_at(buffer, at) | byte_at(buffer, at + 1) << 8


@compiled
def u32(buffer: Buffer, at: int) -> int:
    """Little-endian 32 bits."""
    return u16(buffer, at) | u16(buffer, at + 2) << 16


@compiled
def _find(buffer: Buffer, at: int) -> int:
    """Next object at `at` or behind up to 4 bytes of padding; -1: no more bytes, -2: there is none."""
    for padding in range(PADDING + 1):
        here = at + padding
        if here + 4 > len(buffer):
            return -1
        if (
            buffer[here] == 76
            and buffer[here + 1] == 79
            and buffer[here + 2] == 66
            and buffer[here + 3] == 74
        ):
            return here
    return -2


@compiled
def _body_size(kind: int) -> int:
    """Bytes that the body of a CAN object has at least; 0 for other kinds."""
    if kind in (CAN_MESSAGE, CAN_MESSAGE2):
        return 16
    if kind == CAN_ERROR:
        return 4
    if kind == CAN_ERROR_EXT:
        return 32
    if kind == CAN_FD_MESSAGE:
        return 84
    if kind == CAN_FD_MESSAGE_64:
        return 40
    if kind == CAN_FD_ERROR_64:
        return 16
    return 0


@compiled
def walk(
    buffer: Buffer, at: int, start_ns: int, columns: Columns, row: int, others: npt.NDArray[np.int64]
) -> tuple[int, int, int, int]:
    """Writes the CAN frames of the objects from `at` on into rows from `row` on.

    Args:
        buffer: bytes of containers, inflated.
        at: where to begin.
        start_ns: instant of the file's header, ns; 0 if unknown.
        columns: where frames go.
        row: first free row.
        others: int64[KINDS], counts of objects that are no CAN frames, by type, added to.

    Returns:
        Where it stopped (start of the object in question), first free row, why, and the value in question.
    """
    width = columns.payload.shape[1]
    while True:
        if row == len(columns.time):
            return at, row, FULL, 0
        found = _find(buffer, at)
        if found == -1:
            return at, row, MORE, 0
        if found < 0:
            return at, row, LOST, 0
        at = found
        if at + BASE_HEADER > len(buffer):
            return at, row, MORE, 0
        header, version = u16(buffer, at + 4), u16(buffer, at + 6)
        size, kind = u32(buffer, at + 8), u32(buffer, at + 12)
        if size < BASE_HEADER or size > LARGEST_OBJECT:
            return at, row, SIZE, size
        following = at + size
        if following > len(buffer):
            return at, row, MORE, 0
        needed = _body_size(kind)
        if needed == 0:
            others[min(kind, KINDS - 1)] += 1
            at = following
            continue
        if version == 1:
            body = at + HEADER_V1
        elif version == 2:
            body = at + HEADER_V2
        else:
            return at, row, VERSION, version
        if body + needed > following:
            return at, row, SHORT, size
        if u32(buffer, at + 28) >= LARGEST_TICKS >> 32:
            return at, row, STAMP, 0
        ticks = u32(buffer, at + 24) | u32(buffer, at + 28) << 32
        if u32(buffer, at + 16) == TEN_MICROSECONDS:
            if ticks > LARGEST_TICKS // 10_000:
                return at, row, STAMP, ticks
            ticks *= 10_000

        flags = 0
        data = 0
        length = 0
        stored = 0
        identifier = 0
        channel = u16(buffer, body)
        if kind in (CAN_MESSAGE, CAN_MESSAGE2):
            bits = byte_at(buffer, body + 2)
            identifier = u32(buffer, body + 4)
            length = min(byte_at(buffer, body + 3), CLASSIC_BYTES)
            data = body + 8
            stored = length
            flags = (REMOTE if bits & REMOTE_BIT else 0) | (TX if bits & DIRECTION_BIT else 0)
        elif kind == CAN_ERROR:
            flags = ERROR
            identifier = EXTENDED_BIT
        elif kind == CAN_ERROR_EXT:
            flags = ERROR
            identifier = u32(buffer, body + 16)
            length = min(byte_at(buffer, body + 10), CLASSIC_BYTES)
            data = body + 24
            stored = length
        elif kind == CAN_FD_MESSAGE:
            bits, fd_bits = byte_at(buffer, body + 2), byte_at(buffer, body + 13)
            identifier = u32(buffer, body + 4)
            flags = (REMOTE if bits & REMOTE_BIT else 0) | (TX if bits & DIRECTION_BIT else 0)
            flags |= (FD if fd_bits & 1 else 0) | (BRS if fd_bits & 2 else 0) | (ESI if fd_bits & 4 else 0)
            length = byte_at(buffer, body + 14)
            data = body + 20
            stored = length
            if flags & REMOTE:
                length = FD_LENGTHS[buffer[body + 3] & 15]
        elif kind == CAN_FD_MESSAGE_64:
            channel = byte_at(buffer, body)
            identifier = u32(buffer, body + 4)
            fd_bits = u32(buffer, body + 12)
            flags = (REMOTE if fd_bits & 0x10 else 0) | (TX if buffer[body + 34] else 0)
            flags |= (FD if fd_bits & 0x1000 else 0) | (BRS if fd_bits & 0x2000 else 0)
            flags |= ESI if fd_bits & 0x4000 else 0
            length = byte_at(buffer, body + 2)
            data = body + needed
            # the stated length may exceed what is stored: CANoe pads with zeros, and so does the row
            end = byte_at(buffer, body + 35)
            stored = max(0, min(length, (end if end else size) - header - needed, following - data))
            if flags & REMOTE:
                length = FD_LENGTHS[buffer[body + 1] & 15]
        else:
            channel = byte_at(buffer, body)
            flags = ERROR | FD
            identifier = u32(buffer, body + 12)
        if length > FD_BYTES:
            return at, row, LENGTH, length
        if length > width:
            return at, row, WIDE, length
        if flags & REMOTE:
            stored = 0
        payload = columns.payload[row]
        for index in range(stored):
            payload[index] = buffer[data + index]
        finish_payload(payload, stored)
        columns.time[row] = start_ns + ticks
        columns.bus[row] = channel - 1 if 0 < channel <= UNKNOWN_BUS else UNKNOWN_BUS
        columns.id[row] = identifier & ID_MASK
        columns.flags[row] = flags | (EXTENDED if identifier & EXTENDED_BIT else 0)
        columns.length[row] = length
        row += 1
        at = following
