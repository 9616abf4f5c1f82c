"""Vector BLF: containers of deflated objects, read one container at a time."""

import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import numpy as np
from isal import isal_zlib

from tspace_core.can.frames import FrameBatch
from tspace_core.can.readers import blf_walk
from tspace_core.can.readers.base import LogReader
from tspace_core.can.readers.blf_walk import (
    BASE_HEADER,
    FULL,
    KINDS,
    LARGEST_OBJECT,
    LOG_CONTAINER,
    MORE,
    WIDE,
    walk,
)
from tspace_core.can.readers.builder import FrameBuilder
from tspace_core.can.readers.source import InflateError, Source
from tspace_core.can.readers.text import DAMAGED
from tspace_core.errors import LogReadError

SIGNATURE = b"LOGG"
OBJECT = b"LOBJ"
# signature, header size, application and version (8), file size, size inflated, objects, objects read, start
FILE_HEADER = struct.Struct("<4sL8BQQLL8H")
BASE = struct.Struct("<4sHHLL")
CONTAINER = struct.Struct("<H6xL4x")
STORED, DEFLATED = 0, 2
LARGEST_HEADER = 1 << 16
LARGEST_INFLATED = 1 << 26
SEARCH = 1 << 16
FIRST_YEAR, LAST_YEAR = 1970, 2115

DROPS = {
    blf_walk.LOST: "damaged BLF region",
    blf_walk.SIZE: "BLF object of impossible size",
    blf_walk.VERSION: "BLF object of unknown header version",
    blf_walk.SHORT: "BLF object too short for its type",
    blf_walk.STAMP: "BLF object with an impossible stamp",
    blf_walk.LENGTH: "BLF object with an impossible payload length",
}
TRUNCATED = "truncated file"
CONTAINER_DAMAGED = "damaged BLF container"
OTHER_OBJECTS = {
    3: "CAN overload",
    4: "CAN statistic",
    5: "application trigger",
    6: "environment integer",
    7: "environment double",
    8: "environment string",
    9: "environment data",
    31: "CAN driver error",
    65: "application text",
    72: "system variable",
    90: "trigger condition",
    92: "event comment",
    96: "global marker",
    115: "restore point",
}
"""Types of Vector's binlog that say something about the measurement and hold no bus data."""


class BlfReader(LogReader):
    """Vector BLF with stamps of 10 µs or 1 ns; log clock = header instant + stamp, as python-can's.

    Objects that hold no CAN frame are noted by type; types that are not known at all are dropped by type.
    Damage costs the objects it hits: reading goes on at the next whole object.
    """

    format: ClassVar[str] = "blf"
    endings: ClassVar[tuple[str, ...]] = (".blf",)

    @classmethod
    def matches(cls, head: bytes, path: Path) -> bool:
        """The file's signature."""
        return head.startswith(SIGNATURE)

    def _read(self, max_frames: int) -> Iterator[FrameBatch]:
        builder = FrameBuilder(max_frames)
        others = np.zeros(KINDS, np.int64)
        with Source(self.path) as source:
            start_ns, file_size = self._read_header(source)
            self._lost = self._broken = False
            tail = b""
            for offset, piece in self._pieces(source):
                if self._broken:
                    # what is left of an object before the damage must not be joined with what follows it
                    tail, self._broken, self._lost = b"", False, True
                data = tail + piece
                at = self._next_object(data, 0) if self._lost else 0
                while not self._lost:
                    buffer = np.frombuffer(data, np.uint8)
                    at, builder.count, status, value = walk(
                        buffer, at, start_ns, builder.columns, builder.count, others
                    )
                    if status == FULL:
                        yield builder.take()
                    elif status == WIDE:
                        builder.widen()
                    elif status == MORE:
                        break
                    else:
                        self._drop_object(status, value, offset, at)
                        at = self._next_object(data, at + len(OBJECT))
                tail = data[at:]
                self._count_others(others, offset)
            self._check_end(source, tail, file_size)
        if builder.count:
            yield builder.take()

    def _read_header(self, source: Source) -> tuple[int, int]:
        raw = source.read(FILE_HEADER.size)
        if len(raw) < FILE_HEADER.size or not raw.startswith(SIGNATURE):
            message = (
                f"{self.path}: the BLF header needs {FILE_HEADER.size} bytes that begin with LOGG, the file "
                f"has {len(raw)} that begin with {raw[:4]!r}; copy the log again from its recorder"
            )
            raise LogReadError(message)
        fields = FILE_HEADER.unpack(raw)
        size, file_size, systemtime = fields[1], fields[10], fields[14:22]
        if not FILE_HEADER.size <= size <= LARGEST_HEADER:
            message = (
                f"{self.path}: the BLF header states its own size as {size} bytes, expected "
                f"{FILE_HEADER.size}..{LARGEST_HEADER}; copy the log again from its recorder"
            )
            raise LogReadError(message)
        source.read(size - FILE_HEADER.size)
        year, month, _, day, hour, minute, second, millisecond = systemtime
        try:
            start = datetime(year, month, day, hour, minute, second, millisecond * 1000, tzinfo=UTC)
        except ValueError:
            return 0, file_size
        if not FIRST_YEAR <= year <= LAST_YEAR:
            return 0, file_size
        self.report.start = start
        self.report.start_zone = "UTC"
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        elapsed = start - epoch
        return (elapsed.days * 86_400 + elapsed.seconds) * 10**9 + elapsed.microseconds * 1000, file_size

    def _pieces(self, source: Source) -> Iterator[tuple[int, bytes]]:
        """Inflated containers, and objects that stand outside of any, with their place in the file."""
        self._truncated = False
        while head := source.read(BASE.size):
            offset = source.offset - len(head)
            if len(head) < BASE.size:
                if head.strip(b"\0"):
                    self._truncate(offset, f"{len(head)} bytes are left, an object's header has {BASE.size}")
                return
            signature, _, _, size, kind = BASE.unpack(head)
            if signature != OBJECT or not BASE_HEADER <= size <= LARGEST_OBJECT:
                source.push_back(head[1:] if signature != OBJECT else head[4:])
                if not self._search(source, offset):
                    return
                continue
            body = source.read(size - BASE.size)
            complete = len(body) == size - BASE.size
            if not complete:
                self._truncate(offset, f"an object of {size} bytes has only {len(body) + BASE.size}")
            padding = source.read(size % 4) if complete else b""
            if kind != LOG_CONTAINER:
                yield offset, head + body + padding
                continue
            content = self._inflate(body, offset, complete=complete)
            if content:
                yield offset, content

    def _inflate(self, body: bytes, offset: int, *, complete: bool) -> bytes:
        """A container's content; of a truncated one what there is, of a damaged one nothing."""
        if len(body) < CONTAINER.size:
            if complete:
                self._damage(offset, f"its header has {len(body)} of {CONTAINER.size} bytes")
            return b""
        method, stated = CONTAINER.unpack_from(body)
        content = memoryview(body)[CONTAINER.size :]
        if method == STORED:
            return bytes(content)
        if method != DEFLATED:
            self._damage(offset, f"compression method {method}, known are {STORED} and {DEFLATED}")
            return b""
        inflater = isal_zlib.decompressobj()
        try:
            data = inflater.decompress(content, min(stated, LARGEST_INFLATED) + 1)
            if not inflater.eof and inflater.unconsumed_tail:
                data += inflater.decompress(inflater.unconsumed_tail, LARGEST_INFLATED)
        except InflateError as error:
            self._damage(offset, str(error))
            return b""
        if complete and not inflater.eof:
            self._damage(
                offset, f"its deflated data gives {len(data)} bytes and does not end, {stated} are stated"
            )
            return b""
        return data

    def _search(self, source: Source, offset: int) -> bool:
        """Goes on to the next thing in the file that looks like a container or an object."""
        self.report.drop(
            DROPS[blf_walk.LOST], place=f"{self.path}, byte {offset}", detail="no object where one must be"
        )
        self._broken = True
        while piece := source.read(SEARCH):
            at = piece.find(OBJECT)
            if at >= 0:
                source.push_back(piece[at:])
                return True
            if len(piece) < SEARCH:
                return False
            source.push_back(piece[1 - len(OBJECT) :])
        return False

    def _next_object(self, data: bytes, at: int) -> int:
        """Position of the next plausible object; without one, of the last bytes that may begin one."""
        while (at := data.find(OBJECT, at)) >= 0:
            if at + BASE.size > len(data):
                break
            _, header, version, size, _ = BASE.unpack_from(data, at)
            if BASE_HEADER <= header <= size <= LARGEST_OBJECT and version in (1, 2):
                self._lost = False
                return at
            at += len(OBJECT)
        self._lost = True
        return at if at >= 0 else max(0, len(data) - len(OBJECT) + 1)

    def _drop_object(self, status: int, value: int, offset: int, at: int) -> None:
        place = f"{self.path}, container at byte {offset}, inflated byte {at}"
        self.report.drop(DROPS[status], place=place, detail=f"value {value}; reading on at the next object")

    def _count_others(self, others: np.ndarray[tuple[int], np.dtype[np.int64]], offset: int) -> None:
        if not others.any():
            return
        for kind in np.flatnonzero(others):
            count, place = int(others[kind]), f"{self.path}, container at byte {offset}"
            name = OTHER_OBJECTS.get(int(kind))
            if name is not None:
                self.report.note(f"BLF object: {name}", count=count, place=place)
            else:
                number = f"{kind} or above" if kind == KINDS - 1 else f"{kind}"
                detail = "this type of object is not read"
                self.report.drop(f"BLF object type {number}", count=count, place=place, detail=detail)
        others[:] = 0

    def _check_end(self, source: Source, tail: bytes, file_size: int) -> None:
        if source.damage:
            self.report.drop(DAMAGED, place=f"{self.path}, byte {source.offset}", detail=source.damage)
        elif self._truncated:
            return
        elif file_size > source.offset:
            detail = f"the file has {source.offset} bytes, its header states {file_size}"
            self._truncate(source.offset, detail)
        elif not self._lost and not self._broken and tail.strip(b"\0"):
            self._truncate(source.offset, f"{len(tail)} bytes of an object are left over")

    def _truncate(self, offset: int, detail: str) -> None:
        self._truncated = True
        self.report.drop(TRUNCATED, place=f"{self.path}, byte {offset}", detail=detail)

    def _damage(self, offset: int, detail: str) -> None:
        self._broken = True
        place = f"{self.path}, byte {offset}"
        self.report.drop(CONTAINER_DAMAGED, place=place, detail=f"{detail}; reading on at the next container")
