"""A replay buffer that grows while it is sampled: one process appends, any number read.

::

    <root>/<name>/growing/manifest.json            what is published; replaced as the last step of an append
                          segment-00000001/rows.f32        rows as in a version, room for a fixed number
                                           memory.f32      recurrent states beside them; optional
                                           episodes.jsonl  an episode a line
                                           chunks.f64      figures of every 4096 rows
                          .lock                    held by the one who appends

Published rows and lines are never written again, and are on the disk before the manifest that speaks of them:
whenever the writer is killed, the manifest on the disk speaks of whole episodes only. Eviction takes whole
oldest episodes; a segment of which nothing is kept is removed. A reader that still has it mapped goes on
reading it: what a reader gives changes by ``refresh`` alone, so equal appends, refreshes and generators give
equal batches in every process.
"""

import hashlib
import mmap
import os
from collections import deque
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tspace_core.errors import StorageError
from tspace_core.objects.path import AnyPath, local_folder
from tspace_core.storage.replay import Replay
from tspace_core.storage.replay_growing_manifest import (
    REBUILD,
    EpisodeLine,
    GrowingManifest,
    SegmentEntry,
    read_lines,
    segment_folder,
)
from tspace_core.storage.replay_index import EpisodeIndex, EpisodePlace
from tspace_core.storage.replay_manifest import (
    MANIFEST,
    MEMORY,
    ROWS,
    ReplayContent,
    ReplayEpisode,
    ReplayManifest,
)
from tspace_core.storage.replay_rows import MappedRows

_LOOKS = 100
"""A writer that evicts a segment at every look is faster than any disk."""


class GrowingReplay(Replay):
    """Reads a growing buffer; ``refresh`` takes over what was appended and evicted."""

    def __init__(self, directory: AnyPath) -> None:
        """Open the buffer.

        Raises:
            StorageError: there is none, or its files are damaged or contradict its manifest.
            SchemaVersionError: it was written in a format that this version of tspace does not know.
        """
        super().__init__(directory)

    def _open(self) -> None:
        self._local = local_folder(self.directory)
        self._known: GrowingManifest | None = None
        self._lines: deque[tuple[int, EpisodeLine]] = deque()
        self._seen: tuple[int, int, int] | None = None
        self._held: mmap.mmap | None = None
        self._version: ReplayManifest | None = None
        self.refresh()

    @property
    def manifest(self) -> ReplayManifest:
        """What is kept now, as of a version.

        ``version`` tells the number of appends; rows are numbered over all that there ever were.
        ``content_sha256`` follows from the appends and evictions.
        """
        if self._version is None:
            self._version = self._as_version(self.growing)
        return self._version

    @property
    def growing(self) -> GrowingManifest:
        """The buffer's own manifest."""
        if self._known is None:  # the first refresh either sets it or raises
            raise AssertionError
        return self._known

    @property
    def state_mean(self) -> NDArray[np.float64]:
        """(state_dim,) mean of every kept state."""
        return np.array(self.growing.state_mean)

    @property
    def state_std(self) -> NDArray[np.float64]:
        """(state_dim,) standard deviation of every kept state."""
        return np.array(self.growing.state_std)

    def refresh(self) -> bool:
        """Take over what was appended and evicted since; whether there was anything.

        Costs a look at one file where there was nothing, else as much as was appended.

        Raises:
            StorageError: the files are missing, damaged or contradict the manifest.
            SchemaVersionError: the buffer is of a format that this version of tspace does not know.
        """
        for _ in range(_LOOKS):
            if self._seen is not None and self._seen == self._signature():
                return False
            seen, held = self._hold()
            manifest = GrowingManifest.read(self._local)
            try:
                self._take(manifest)
            except FileNotFoundError as error:
                if GrowingManifest.read(self._local) == manifest:
                    message = f"{error.filename}: missing, the manifest speaks of it; {REBUILD}"
                    raise StorageError(message) from error
                continue  # evicted since the manifest was read
            self._seen, self._held = seen, held
            return True
        message = (
            f"{self.directory}: its oldest rows leave faster than they can be opened; raise its capacity"
        )
        raise StorageError(message)

    def verify(self) -> None:
        """Read every kept episode and compare it with the hash of its line.

        Raises:
            StorageError: names the file that differs.
        """
        for segment, line in self._lines:
            digest = hashlib.sha256()
            for rows in (self._rows, self._memory):
                if rows is not None:
                    digest.update(rows.segment(segment)[line.row : line.row + line.records + 1].tobytes())
            if digest.hexdigest() != line.sha256:
                message = (
                    f"{segment_folder(self._local, segment)}: episode {line.id!r}, rows {line.row} to "
                    f"{line.row + line.records}, differs from its hash: the file is damaged; {REBUILD}"
                )
                raise StorageError(message)

    def _signature(self) -> tuple[int, int, int] | None:
        try:
            return _figures((self._local / MANIFEST).stat())
        except OSError:
            return None

    def _hold(self) -> tuple[tuple[int, int, int] | None, mmap.mmap | None]:
        """The signature, and what keeps the file from giving its inode to a later manifest.

        Else the next but one, within a tick of the clock and of equal length, would look the same.
        """
        try:
            with (self._local / MANIFEST).open("rb") as file:
                held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                return _figures(os.fstat(file.fileno())), held
        except (OSError, ValueError):  # reading it says what is wrong
            return None, None

    def _take(self, new: GrowingManifest) -> None:
        old = self._known
        if old is not None and _follows(old, new):
            index, lines, rows, memory = self._index, self._lines, self._rows, self._memory
            known = {entry.number: entry for entry in old.segments}
            gone = new.evicted_episodes - old.evicted_episodes
        else:
            index, lines, known, gone = EpisodeIndex(), deque(), {}, new.skipped
            rows = MappedRows(4 * new.layout.row_width, new.bits, _first(new))
            memory = MappedRows(4 * new.memory_dim, new.bits, _first(new)) if new.memory_dim else None
        # All that can fail comes first, so that a failed refresh leaves what there was.
        added = list(self._added(new, known))
        for entry in new.segments:
            for mapped, name in ((rows, ROWS), (memory, MEMORY)):
                if mapped is not None and entry.number >= mapped.end:
                    self._map(mapped, name, entry, new)
        index.extend(
            [
                EpisodePlace((number << new.bits) + line.row, line.records, line.terminal)
                for number, line in added
            ]
        )
        lines.extend(added)
        index.drop(gone)
        for _ in range(gone):
            lines.popleft()
        for mapped in (rows, memory):
            if mapped is not None:
                mapped.drop(_first(new))
        self._index, self._lines, self._rows, self._memory = index, lines, rows, memory
        self._layout, self._known, self._version, self._draw = new.layout, new, None, None

    def _added(
        self, new: GrowingManifest, known: dict[int, SegmentEntry]
    ) -> Iterator[tuple[int, EpisodeLine]]:
        for entry in new.segments:
            before = known.get(entry.number)
            if before is not None and before.index_bytes == entry.index_bytes:
                continue
            folder = segment_folder(self._local, entry.number)
            begin, row, episodes = (before.index_bytes, before.rows, before.episodes) if before else (0, 0, 0)
            for line in read_lines(folder, begin, row, entry, episodes):
                yield entry.number, line

    def _map(self, mapped: MappedRows, name: str, entry: SegmentEntry, manifest: GrowingManifest) -> None:
        path = segment_folder(self._local, entry.number) / name
        expected, size = manifest.segment_rows * mapped.row_bytes, path.stat().st_size
        if size != expected:
            message = (
                f"{path}: {size} bytes, expected {expected} ({manifest.segment_rows} rows of "
                f"{mapped.row_bytes // 4}); {REBUILD}"
            )
            raise StorageError(message)
        mapped.add(path, entry.rows * mapped.row_bytes)

    def _as_version(self, growing: GrowingManifest) -> ReplayManifest:
        return ReplayManifest(
            name=growing.name,
            version=f"growing-{growing.number}",
            created=growing.created,
            software_version=growing.software_version,
            content_sha256=growing.content_sha256,
            content=ReplayContent(
                layout=growing.layout,
                rows=growing.rows,
                records=growing.records,
                rows_sha256=growing.chain,
                episodes=tuple(
                    ReplayEpisode(
                        id=line.id,
                        vehicle_id=line.vehicle_id,
                        first=(segment << growing.bits) + line.row,
                        length=line.records,
                        terminal=line.terminal,
                    )
                    for segment, line in self._lines
                ),
                reward=growing.reward,
                state_mean=growing.state_mean,
                state_std=growing.state_std,
                memory_dim=growing.memory_dim,
            ),
        )


def _figures(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_mtime_ns, found.st_size


def _first(manifest: GrowingManifest) -> int:
    return manifest.segments[0].number if manifest.segments else 1


def _follows(old: GrowingManifest, new: GrowingManifest) -> bool:
    """Whether ``new`` is a later state of the same buffer that still has rows of ``old``."""
    same = old.created == new.created and old.number <= new.number
    return same and bool(old.segments) and _first(new) <= old.segments[-1].number
