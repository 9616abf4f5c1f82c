"""Appends episodes to a growing replay buffer; see ``replay_growing`` for what lies where."""

import errno
import fcntl
import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from tspace_core import __version__
from tspace_core.errors import StorageError, WriterBusyError
from tspace_core.objects.path import AnyPath, S3Path
from tspace_core.storage.lake import Lake
from tspace_core.storage.replay_growing_manifest import (
    EpisodeLine,
    GrowingManifest,
    read_lines,
    segment_folder,
)
from tspace_core.storage.replay_growing_state import Kept, State
from tspace_core.storage.replay_manifest import GROWING, MANIFEST, ReplayLayout
from tspace_core.storage.replay_moments import reward_range, state_moments, together
from tspace_core.storage.replay_segments import Segment, SegmentFiles
from tspace_core.storage.replay_writer import (
    TERMINAL,
    Memories,
    layout_of,
    memory_rows,
    require_layout,
    rows_of,
)
from tspace_core.storage.unit_of_work import UnitOfWork, finish_units
from tspace_core.storage.writer import DIRECT, Writer

if TYPE_CHECKING:
    from types import TracebackType

    from tspace_core.records.episode import Episode

LOCK = ".lock"
LEAST_SEGMENT = 4096
_SEGMENTS = 8
"""About as many make up the capacity, so that what an append costs does not depend on it."""
_REPLAY = "replay"
"""Folder of a lake's replay buffers."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ReplayAppender:
    """The one writer of a growing buffer; a context manager.

    What an append costs does not depend on how many episodes there are. When it returns, the episodes are on
    the disk and readers see them at their next ``refresh``; if it raises, none of them is there.

    With a unit of work as writer, an append becomes visible with the unit. A unit takes one: give all of its
    episodes to one ``extend``. If it was discarded, the next append finds that out and goes on from what is
    there. What a killed unit of the lake had committed is published before anything is written: its rows lie
    where the next ones would. For the same reason nobody else appends before the unit has ended, also where
    the appender is closed earlier.
    """

    def __init__(
        self,
        directory: AnyPath,
        *,
        capacity_rows: int,
        layout: ReplayLayout | None = None,
        memory_dim: int = 0,
        segment_rows: int | None = None,
        writer: Writer = DIRECT,
    ) -> None:
        """Open the buffer for appending, or begin one.

        Args:
            directory: ``<lake>/replay/<name>/growing``.
            capacity_rows: Rows to keep; an episode of n records has n + 1. More evict the oldest episodes.
                May differ from last time. The disk holds up to two segments more.
            layout: Publishes an empty buffer that readers can open; None: the first episode begins it.
            memory_dim: Length of the recurrent states to keep beside the records; 0: none.
            segment_rows: Rows of a segment, a power of two and no fewer than the longest episode's; None:
                about an eighth of the capacity, at least 4096. Only a new buffer takes it.
            writer: How the manifest is written.

        Raises:
            WriterBusyError: somebody else appends to it.
            StorageError: it lies in a bucket, is damaged or keeps other recurrent states.
            SchemaVersionError: it is of a format that this version of tspace does not know.
            UnitOfWorkError: what a killed unit of work had committed cannot be finished.
        """
        if isinstance(directory, S3Path):
            message = (
                f"{directory}: a bucket cannot hold a growing buffer, its objects are replaced whole; keep "
                "it on a disk, or build versions in the bucket with build_replay"
            )
            raise StorageError(message)
        if capacity_rows < 2:
            message = f"{directory}: capacity is {capacity_rows} rows, one record takes 2; give a larger one"
            raise StorageError(message)
        if memory_dim < 0:
            message = f"{directory}: recurrent states of {memory_dim} numbers; give 0 to keep none"
            raise StorageError(message)
        self.directory = directory
        self.capacity_rows = capacity_rows
        self.memory_dim = memory_dim
        self._segment_rows = _segment_rows(capacity_rows) if segment_rows is None else segment_rows
        if self._segment_rows < 2 or self._segment_rows & (self._segment_rows - 1):
            message = f"{directory}: a segment of {segment_rows} rows; give a power of two, at least 2"
            raise StorageError(message)
        self._writer = writer
        self._pending: Writer | None = None
        self._unit_open = self._closed = False
        self._kept: deque[Kept] = deque()
        self._ids: set[str] = set()
        self._files: SegmentFiles | None = None
        self._lock = _locked(directory)
        try:
            self._finish_units()
            self._load()
            if layout is not None:
                self._begin(layout, writer)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let others append, as soon as the unit of work has ended that an append belongs to."""
        self._closed = True
        if self._lock >= 0 and not self._unit_open:
            os.close(self._lock)
            self._lock = -1

    def __len__(self) -> int:
        """Records kept."""
        return self._state.records

    def __contains__(self, episode_id: str) -> bool:
        return episode_id in self._ids

    def append(
        self, episode: "Episode", *, memory: NDArray[np.float32] | None = None, writer: Writer | None = None
    ) -> None:
        """Append one episode.

        Args:
            episode: Its last observation takes a row of its own.
            memory: (records, memory_dim) recurrent state before each record; None: zeros.
            writer: Instead of the appender's own.

        Raises:
            StorageError: it does not fit the buffer, is in it already, is longer than the capacity, or the
                disk is full. The buffer is as it was.
        """
        self.extend([episode], memories=lambda _: memory, writer=writer)

    def extend(
        self,
        episodes: Iterable["Episode"],
        *,
        memories: Memories | None = None,
        writer: Writer | None = None,
    ) -> int:
        """Append episodes so that readers see all of them at once; return how many.

        Raises:
            StorageError: as ``append``; then none of them is there.
        """
        if self._closed:
            message = f"{self.directory}: this appender is closed; open another"
            raise StorageError(message)
        chosen = writer or self._writer
        self._settle(chosen)
        if self._files is not None:
            self._files.forget()  # of an append that failed
        state = self._state.copy()
        with self._clear_errors():
            for episode in episodes:
                self._write(state, episode, memories(episode) if memories is not None else None)
            if state.added:
                self._evict(state)
                self._publish(state, chosen)
        return len(state.added)

    def _begin(self, layout: ReplayLayout, writer: Writer) -> None:
        if self._state.layout is not None:
            require_layout("to come", self._state.layout, layout)
            return
        state = self._state.copy()
        state.layout = layout
        with self._clear_errors():
            self._publish(state, writer)

    def _settle(self, writer: Writer) -> None:
        """Find out what became of an append in a unit of work that has ended."""
        if self._pending is None or self._pending is writer:
            return
        if self._unit_open:
            message = (
                f"{self.directory}: the last append belongs to a unit of work that has not ended: end it "
                "first, or give all episodes to one append"
            )
            raise StorageError(message)
        self._finish_units()
        self._pending = None
        published = self._manifest()
        if published is None or published.number != self._state.number:
            self._load()
        else:
            self._sweep()

    def _write(self, state: State, episode: "Episode", memory: NDArray[np.float32] | None) -> None:
        name, layout = episode.meta.episode_id, layout_of(episode)
        if name in self._ids or name in state.added:
            message = f"episode {name!r} is in {self.directory} already; append each episode once"
            raise StorageError(message)
        if state.layout is None:
            state.layout = layout
        require_layout(name, state.layout, layout)
        rows = rows_of(episode, layout)
        self._require_room(name, len(rows))
        remembered = memory_rows(episode, memory, self.memory_dim)
        files = self._segment_files(layout)
        last = state.segments[-1] if state.segments else None
        if last is None or last.rows + len(rows) > self._segment_rows:
            last = files.make(last.number + 1 if last else 1)
            state.segments.append(last)
        text = EpisodeLine(
            id=name,
            vehicle_id=episode.meta.vehicle_id,
            row=last.rows,
            records=len(episode),
            terminal=episode.meta.end_reason == TERMINAL,
            sha256=hashlib.sha256(rows.tobytes() + remembered.tobytes()).hexdigest(),
        ).model_dump_json()
        line = text.encode() + b"\n"
        state.segments[-1] = files.write(last, rows, remembered, line)
        state.added[name] = Kept(last.number, name, len(rows))
        state.rows += len(rows)
        state.records += len(episode)
        state.episodes += 1
        state.chain = hashlib.sha256(state.chain.encode() + line).hexdigest()

    def _require_room(self, name: str, rows: int) -> None:
        for limit, what in ((self.capacity_rows, "capacity"), (self._segment_rows, "segment size")):
            if rows > limit:
                message = (
                    f"episode {name!r} takes {rows} rows, the {what} of {self.directory} is {limit}; "
                    "begin a buffer with a larger one, or cut the episode"
                )
                raise StorageError(message)

    def _evict(self, state: State) -> None:
        """Choose the oldest episodes to leave, also of this append where it alone is too much."""
        oldest = chain(self._kept, state.added.values())
        while state.rows > self.capacity_rows:
            episode = next(oldest)
            first = state.segments[0]
            state.segments[0] = replace(first, first_row=first.first_row + episode.rows, figures=None)
            state.skipped += 1
            if state.segments[0].first_row == first.rows and len(state.segments) > 1:
                del state.segments[0]
                state.skipped = 0
            state.evicted += 1
            state.evicted_episodes += 1
            state.rows -= episode.rows
            state.records -= episode.rows - 1
            state.episodes -= 1

    def _publish(self, state: State, writer: Writer) -> None:
        manifest = self._as_manifest(state)
        if self._files is not None:
            self._files.sync()  # before the manifest speaks of it
        writer.text(self.directory / MANIFEST, manifest.text())
        self._kept.extend(state.added.values())
        self._ids.update(state.added)
        for _ in range(state.evicted):
            self._ids.discard(self._kept.popleft().id)
        self._state = state
        if writer is DIRECT:
            self._sweep()
            return
        self._pending = writer
        if isinstance(writer, UnitOfWork):
            self._unit_open = True
            writer.at_end(self._unit_ended)

    def _unit_ended(self) -> None:
        self._unit_open = False
        if self._closed:
            self.close()

    def _finish_units(self) -> None:
        """Publish what a unit of work has committed and, being killed, not done."""
        name, replays = self.directory.name, self.directory.absolute().parent.parent
        if (name, replays.name) == (GROWING, _REPLAY):  # elsewhere no unit of a lake can have written
            finish_units(Lake(replays.parent))

    def _as_manifest(self, state: State) -> GrowingManifest:
        layout = state.layout
        if layout is None:  # there is an episode or a layout, or nothing to publish
            raise AssertionError
        files = self._segment_files(layout)
        ends = (0, len(state.segments) - 1)
        state.segments = [
            files.with_figures(segment, keep_chunks=place in ends)
            for place, segment in enumerate(state.segments)
        ]
        parts = [segment.figures for segment in state.segments if segment.figures is not None]
        found = together(np.array([files.nothing(), *parts]))
        mean, std = state_moments(found)
        state.number += 1
        return GrowingManifest(
            name=self.directory.parent.name,
            created=state.created,
            software_version=__version__,
            number=state.number,
            layout=layout,
            memory_dim=self.memory_dim,
            capacity_rows=self.capacity_rows,
            segment_rows=self._segment_rows,
            segments=tuple(segment.entry() for segment in state.segments),
            skipped=state.skipped,
            evicted_episodes=state.evicted_episodes,
            rows=state.rows,
            records=state.records,
            episodes=state.episodes,
            reward=reward_range(found),
            state_mean=mean,
            state_std=std,
            chain=state.chain,
        )

    def _manifest(self) -> GrowingManifest | None:
        return GrowingManifest.read(self.directory) if (self.directory / MANIFEST).exists() else None

    def _load(self) -> None:
        """Take over what is published."""
        self._kept.clear()
        self._ids.clear()
        found = self._manifest()
        if found is None:
            self._state = State(layout=None, created=datetime.now(UTC))
            return
        if found.memory_dim != self.memory_dim:
            message = (
                f"{self.directory}: keeps recurrent states of {found.memory_dim}, {self.memory_dim} asked "
                "for; give the same, or begin another buffer"
            )
            raise StorageError(message)
        self._segment_rows = found.segment_rows
        self._state = State(
            layout=found.layout,
            created=found.created,
            number=found.number,
            segments=list(self._kept_segments(found)),
            skipped=found.skipped,
            evicted_episodes=found.evicted_episodes,
            rows=found.rows,
            records=found.records,
            episodes=found.episodes,
            chain=found.chain,
        )
        self._sweep()

    def _kept_segments(self, manifest: GrowingManifest) -> Iterator[Segment]:
        for entry in manifest.segments:
            lines = read_lines(segment_folder(self.directory, entry.number), 0, 0, entry, 0)
            skipped = manifest.skipped if entry is manifest.segments[0] else 0
            for line in lines[skipped:]:
                self._kept.append(Kept(entry.number, line.id, line.records + 1))
                self._ids.add(line.id)
            first = sum(line.records + 1 for line in lines[:skipped])
            yield Segment(entry.number, entry.rows, entry.episodes, entry.index_bytes, first)

    def _segment_files(self, layout: ReplayLayout) -> SegmentFiles:
        if self._files is None:
            self._files = SegmentFiles(
                self.directory, layout.state_dim, layout.row_width, self.memory_dim, self._segment_rows
            )
        return self._files

    def _sweep(self) -> None:
        """Remove segments that the published manifest does not speak of: evicted ones, and leftovers."""
        if self._state.layout is not None:
            files = self._segment_files(self._state.layout)
            files.sweep([segment.number for segment in self._state.segments])

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            message = (
                f"{self.directory}: no room on the disk ({error.strerror}); nothing of this append is "
                "published, all before it is: free some space, or open the buffer with a smaller "
                "capacity_rows, and append again"
            )
            raise StorageError(message) from error


def _segment_rows(capacity: int) -> int:
    return max(LEAST_SEGMENT, 1 << (capacity // _SEGMENTS).bit_length())


def _locked(directory: Path) -> int:
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        message = f"{directory}: somebody else appends to this buffer and only one may; stop that one first"
        raise WriterBusyError(message) from error
    return descriptor
