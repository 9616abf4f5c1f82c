"""Writes classical CAN frames as a Vector BLF file, container by container.

Layout as python-can 4.6 reads and writes it: file header of 144 bytes, then containers of deflated objects;
a CAN frame is one object of 48 bytes. Kept apart from python-can's writer because that one takes a Python
call a frame.
"""

import struct
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from tspace_core.twin.can_frames import Frames

FILE_HEADER = struct.Struct("<4sLBBBBBBBBQQLL8H8H")
FILE_HEADER_SIZE = 144
OBJECT_HEADER = struct.Struct("<4sHHLL")
CONTAINER_HEADER = struct.Struct("<H6xL4x")
CAN_MESSAGE, LOG_CONTAINER = 1, 10
NANOSECONDS = 2
DEFLATED = 2
EXTENDED_ID = 0x80000000
FRAMES_IN_CONTAINER = 2730
"""Objects of 48 bytes in a container of at most 128 KiB."""

OBJECT = np.dtype(
    [
        ("signature", "S4"),
        ("header_size", "<u2"),
        ("header_version", "<u2"),
        ("object_size", "<u4"),
        ("object_type", "<u4"),
        ("stamp_unit", "<u4"),
        ("client", "<u2"),
        ("object_version", "<u2"),
        ("stamp", "<u8"),
        ("channel", "<u2"),
        ("flags", "u1"),
        ("length", "u1"),
        ("id", "<u4"),
        ("payload", "u1", (8,)),
    ]
)


def write_blf(path: Path, frames: Frames, start: datetime, channel: int = 1) -> None:
    """Write ``frames`` to ``path``.

    Args:
        path: the file, overwritten.
        frames: in order of time; their stamps count from ``start``.
        start: instant of stamp 0, kept to the millisecond.
        channel: bus number as BLF counts, from 1.
    """
    objects = np.zeros(len(frames), dtype=OBJECT)
    objects["signature"] = b"LOBJ"
    objects["header_size"] = 32
    objects["header_version"] = 1
    objects["object_size"] = OBJECT.itemsize
    objects["object_type"] = CAN_MESSAGE
    objects["stamp_unit"] = NANOSECONDS
    objects["stamp"] = frames.time_ns
    objects["channel"] = channel
    objects["length"] = frames.length
    objects["id"] = frames.id | np.where(frames.extended, np.uint32(EXTENDED_ID), np.uint32(0))
    objects["payload"] = frames.payload
    end = start + timedelta(microseconds=int(frames.time_ns[-1]) // 1000 if len(frames) else 0)
    inflated = FILE_HEADER_SIZE
    with path.open("wb") as file:
        file.write(bytes(FILE_HEADER_SIZE))
        for first in range(0, len(objects), FRAMES_IN_CONTAINER):
            content = objects[first : first + FRAMES_IN_CONTAINER].tobytes()
            deflated = zlib.compress(content, 6)
            size = OBJECT_HEADER.size + CONTAINER_HEADER.size + len(deflated)
            file.write(OBJECT_HEADER.pack(b"LOBJ", OBJECT_HEADER.size, 1, size, LOG_CONTAINER))
            file.write(CONTAINER_HEADER.pack(DEFLATED, len(content)))
            file.write(deflated)
            file.write(bytes(size % 4))
            inflated += OBJECT_HEADER.size + CONTAINER_HEADER.size + len(content)
        size = file.tell()
        file.seek(0)
        file.write(
            FILE_HEADER.pack(
                b"LOGG", FILE_HEADER_SIZE, 5, 0, 0, 0, 2, 6, 8, 1, size, inflated, len(objects), 0,
                *_system_time(start), *_system_time(end),
            )
        )  # fmt: skip


def _system_time(instant: datetime) -> tuple[int, ...]:
    utc = instant.astimezone(UTC)
    return (
        utc.year,
        utc.month,
        utc.isoweekday() % 7,
        utc.day,
        utc.hour,
        utc.minute,
        utc.second,
        utc.microsecond // 1000,
    )
