"""The files of a growing replay buffer's segments, as its one writer sees them."""

import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tspace_core.storage.replay_growing_manifest import CHUNKS, EPISODES, SegmentEntry, segment_folder
from tspace_core.storage.replay_manifest import MEMORY, ROWS
from tspace_core.storage.replay_moments import CHUNK, figures, together, width

Figures = NDArray[np.float64]


@dataclass(frozen=True)
class Segment:
    """What one segment holds."""

    number: int
    rows: int = 0
    episodes: int = 0
    index_bytes: int = 0
    first_row: int = 0
    """First kept row."""
    chunks: tuple[Figures, ...] = ()
    """Figures of its whole chunks; may be left out where its own are known."""
    figures: Figures | None = None
    """Of its kept rows; None: not known yet."""

    def entry(self) -> SegmentEntry:
        """As the manifest has it."""
        return SegmentEntry(
            number=self.number, rows=self.rows, episodes=self.episodes, index_bytes=self.index_bytes
        )


class SegmentFiles:
    """Writes and reads segments below ``directory``; nothing is on the disk for sure before ``sync``."""

    def __init__(self, directory: Path, state_dim: int, row_width: int, memory_dim: int, rows: int) -> None:
        self._directory = directory
        self._state_dim = state_dim
        self._row_width = row_width
        self._memory_dim = memory_dim
        self._rows = rows
        self._written: set[Path] = set()

    def make(self, number: int) -> Segment:
        """Make a segment with room for its rows; what an append that failed left there is written over."""
        folder = segment_folder(self._directory, number)
        folder.mkdir(exist_ok=True)
        sizes = {ROWS: 4 * self._row_width, EPISODES: 0, CHUNKS: 0}
        if self._memory_dim:
            sizes[MEMORY] = 4 * self._memory_dim
        for name, row_bytes in sizes.items():
            descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                os.ftruncate(descriptor, self._rows * row_bytes)
            finally:
                os.close(descriptor)
            self._written.add(folder / name)
        self._written |= {folder, self._directory}
        return Segment(number)

    def write(
        self, segment: Segment, rows: NDArray[np.float32], memory: NDArray[np.float32], line: bytes
    ) -> Segment:
        """Write an episode behind the others."""
        folder = segment_folder(self._directory, segment.number)
        self._write_at(folder / ROWS, rows.tobytes(), segment.rows * 4 * self._row_width)
        if self._memory_dim:
            self._write_at(folder / MEMORY, memory.tobytes(), segment.rows * 4 * self._memory_dim)
        self._write_at(folder / EPISODES, line, segment.index_bytes)
        count = segment.rows + len(rows)
        new = [
            self._figures(segment.number, number * CHUNK, (number + 1) * CHUNK)
            for number in range(len(segment.chunks), count // CHUNK)
        ]
        if new:
            place = 8 * len(segment.chunks) * width(self._state_dim)
            self._write_at(folder / CHUNKS, np.concatenate(new).astype("<f8").tobytes(), place)
        return replace(
            segment,
            rows=count,
            episodes=segment.episodes + 1,
            index_bytes=segment.index_bytes + len(line),
            chunks=(*segment.chunks, *new),
            figures=None,
        )

    def sync(self) -> None:
        """Return when everything written is on the disk."""
        for path in sorted(self._written):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        self._written.clear()

    def forget(self) -> None:
        """What was written since the last ``sync`` does not matter."""
        self._written.clear()

    def with_figures(self, segment: Segment, *, keep_chunks: bool) -> Segment:
        """Put the figures of the kept rows together; whole chunks are not read again.

        Args:
            segment: any.
            keep_chunks: they are needed again where rows are still added or evicted.
        """
        if segment.figures is not None:
            return segment
        chunks = segment.chunks or self._stored_chunks(segment)
        begin = -(-segment.first_row // CHUNK)
        parts = [
            self._figures(segment.number, segment.first_row, min(begin * CHUNK, segment.rows)),
            *chunks[begin:],
            self._figures(segment.number, max(len(chunks), begin) * CHUNK, segment.rows),
        ]
        return replace(segment, chunks=chunks if keep_chunks else (), figures=together(np.array(parts)))

    def nothing(self) -> Figures:
        """Figures of no rows."""
        return figures(np.zeros((0, self._row_width), np.float32), self._state_dim)

    def sweep(self, kept: Collection[int]) -> None:
        """Remove all other segments."""
        folders = {segment_folder(self._directory, number) for number in kept}
        for folder in self._directory.glob("segment-*"):
            if folder not in folders:
                shutil.rmtree(folder, ignore_errors=True)

    def _figures(self, segment: int, begin: int, end: int) -> Figures:
        if begin >= end:
            return self.nothing()
        path, size = segment_folder(self._directory, segment) / ROWS, self._row_width
        rows = np.fromfile(path, "<f4", (end - begin) * size, offset=4 * begin * size)
        return figures(rows.reshape(-1, size), self._state_dim)

    def _stored_chunks(self, segment: Segment) -> tuple[Figures, ...]:
        size, count = width(self._state_dim), segment.rows // CHUNK
        path = segment_folder(self._directory, segment.number) / CHUNKS
        return tuple(np.fromfile(path, "<f8", count * size).reshape(count, size))

    def _write_at(self, path: Path, data: bytes, offset: int) -> None:
        self._written.add(path)
        descriptor = os.open(path, os.O_WRONLY)
        try:
            view = memoryview(data)
            while view:
                written = os.pwrite(descriptor, view, offset)
                view, offset = view[written:], offset + written
        finally:
            os.close(descriptor)
