"""The rows of a replay buffer as files mapped into memory, one or many, also larger than the memory."""

import mmap
import os
from contextlib import suppress
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tspace_core.errors import StorageError

_COLD_SHARE = 0.5
"""Rows that fill more of the memory than this cannot be relied on to stay in it."""
_NO_LIMIT = 1 << 60
_BLOCK = 1 << 24
"""Bytes read at once."""


class MappedRows:
    """Files of rows of equal width: row ``r`` is row ``r % 2**bits`` of segment ``r >> bits``.

    Rows that fit well into memory are read ahead on their first use. Of larger ones only what a batch needs
    is read, all of it asked for at once, so that the disk works on the whole batch in parallel.

    Rows may also be copied to memory of this process: in its huge pages a random row is found faster than in
    the small ones that files are mapped with.
    """

    def __init__(self, row_bytes: int, bits: int, first: int = 0) -> None:
        self.row_bytes = row_bytes
        self.bits = bits
        self.first = first
        self._maps: list[mmap.mmap] = []
        self._arrays: list[NDArray[np.float32]] = []
        self.bases = np.zeros(0, np.int64)
        self._bytes = 0
        self._cold = False
        self._fresh: list[tuple[mmap.mmap, int]] = []

    @classmethod
    def single(cls, path: Path, row_bytes: int, *, in_memory: bool = False) -> Self:
        """One file that holds all rows.

        Raises:
            StorageError: it cannot be mapped, or is too large to be copied to the memory.
        """
        rows = cls(row_bytes, bits=62)
        if in_memory:
            rows._append(_copied(path), None)
        else:
            rows.add(path)
        return rows

    @property
    def end(self) -> int:
        """Number after the last segment."""
        return self.first + len(self._maps)

    def add(self, path: Path, used: int | None = None) -> None:
        """Map the next segment; ``used`` bytes of it hold rows now, None: all.

        Raises:
            FileNotFoundError: it is not there.
            StorageError: it cannot be mapped.
        """
        with path.open("rb") as file:
            try:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                message = f"{path}: cannot be mapped into memory ({error}); build the buffer again"
                raise StorageError(message) from error
        self._append(mapped, used)

    def _append(self, mapped: mmap.mmap, used: int | None) -> None:
        width = self.row_bytes // 4
        array = np.frombuffer(mapped, "<f4")[: len(mapped) // self.row_bytes * width].reshape(-1, width)
        self._maps.append(mapped)
        self._arrays.append(array)
        self._fresh.append((mapped, len(mapped) if used is None else used))
        self.bases = np.array([item.ctypes.data for item in self._arrays], np.int64)
        self._bytes += len(mapped)

    def drop(self, before: int) -> None:
        """Let go of the segments whose number is smaller than ``before``."""
        gone = before - self.first
        if gone > 0:
            self._bytes -= sum(len(item) for item in self._maps[:gone])
            # What is not looked at yet goes, too: its disk space is given back with the last hold on it.
            dropped = {id(item) for item in self._maps[:gone]}
            self._fresh = [item for item in self._fresh if id(item[0]) not in dropped]
            self._maps, self._arrays = self._maps[gone:], self._arrays[gone:]
            self.bases = self.bases[gone:].copy()
            self.first = before

    def segment(self, number: int) -> NDArray[np.float32]:
        """(rows, width) of one segment, not writable."""
        return self._arrays[number - self.first]

    @property
    def cold(self) -> bool:
        """Whether the rows are too large to stay in memory; decided as segments come."""
        if self._fresh:
            self._cold = self._bytes > _COLD_SHARE * memory_limit()
            for mapped in self._maps if self._cold else ():
                mapped.madvise(mmap.MADV_RANDOM)
            for mapped, used in () if self._cold else self._fresh:
                if used:
                    mapped.madvise(mmap.MADV_WILLNEED, 0, used)
            self._fresh = []
        return self._cold

    def ask_for(self, rows: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        """Begin to read ``counts`` rows from each of ``rows`` on, without waiting."""
        page = mmap.PAGESIZE
        for row, count in zip(rows.tolist(), counts.tolist(), strict=True):
            segment = row >> self.bits
            begin = (row - (segment << self.bits)) * self.row_bytes
            mapped = self._maps[segment - self.first]
            start = begin // page * page
            size = min(begin + count * self.row_bytes, len(mapped)) - start
            mapped.madvise(mmap.MADV_WILLNEED, start, size)


def _copied(path: Path) -> mmap.mmap:
    """A file's content in memory of this process."""
    size, limit = path.stat().st_size, int(_COLD_SHARE * memory_limit())
    if size > limit:
        message = (
            f"{path}: {size >> 20} MiB are too much to be copied to the memory, {limit >> 20} MiB may be: "
            "open the buffer without in_memory, it is read from the disk then"
        )
        raise StorageError(message)
    copied = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without huge pages
        copied.madvise(mmap.MADV_HUGEPAGE)
    with path.open("rb") as file:
        view = memoryview(copied)
        done = 0
        while done < size and (count := file.readinto(view[done : done + _BLOCK])):
            done += count
    return copied


def memory_limit() -> int:
    """Bytes of memory that this process may use: the machine's, or its control group's if that is less."""
    found = [_total_memory()]
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            place, name = Path("/sys/fs/cgroup"), "memory.max"
        elif "memory" in controllers.split(","):
            place, name = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
        else:
            continue
        here = place / group.lstrip("/")
        for folder in (here, *here.parents):
            if not folder.is_relative_to(place):
                break
            found.append(_number(folder / name))
    return min(found)


def _total_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _number(path: Path) -> int:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return _NO_LIMIT
    return int(text) if text.isdigit() else _NO_LIMIT
