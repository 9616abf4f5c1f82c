"""Windows that were fetched and are in no log yet, in a file a vehicle on this machine.

A spool only saves fetching again: what it loses is still in the bucket. Its lines are those of the log to
come.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from tspace_core.errors import StorageError
from tspace_core.storage.box_drives import Held

_TIDY_BYTES = 1 << 20


class Spool:
    """One vehicle's lines, appended; nothing is synced.

    Args:
        path: the file, in a folder that is there; made when something is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._end = path.stat().st_size if path.is_file() else 0

    def append(self, line: bytes) -> tuple[int, int]:
        """Write a line that ends in a line break; return its offset and length, bytes.

        Raises:
            StorageError: the disk is full.
        """
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.ftruncate(file, self._end)  # a line that was cut off is gone
            if os.pwrite(file, line, self._end) != len(line):
                message = f"{self.path}: not all of {len(line)} bytes were written; make room on the disk"
                raise StorageError(message)
        finally:
            os.close(file)
        place = self._end, len(line)
        self._end += len(line)
        return place

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield offset and content of all whole lines; one that was cut off is written over."""
        if not self.path.is_file():
            return
        offset = 0
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                yield offset, line
                offset += len(line)
        self._end = offset

    def read(self, windows: Iterable[Held]) -> Iterator[bytes]:
        """Yield the lines of windows, in their order."""
        wanted = list(windows)
        if not wanted:
            return
        with self.path.open("rb") as file:
            for window in wanted:
                file.seek(window.offset)
                yield file.read(window.length)

    def tidy(self, windows: Iterable[Held]) -> dict[str, int]:
        """Keep only the lines of these windows, once that frees enough.

        Returns:
            The new offset of each key, where anything was done.
        """
        kept = list(windows)
        size = sum(window.length for window in kept)
        if self._end - size < max(size, _TIDY_BYTES) and (kept or not self._end):
            return {}
        if not kept:
            self.path.unlink(missing_ok=True)
            self._end = 0
            return {}
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        offsets = {}
        with temporary.open("wb") as file:
            for window, line in zip(kept, self.read(kept), strict=True):
                offsets[window.key] = file.tell()
                file.write(line)
            self._end = file.tell()
        temporary.replace(self.path)
        return offsets
