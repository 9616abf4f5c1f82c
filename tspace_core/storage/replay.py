"""Replay buffers at rest: memory-mapped rows, each record two neighbouring ones.

::

    <root>/<name>/000001/rows.f32        float32 little endian [state | action | reward | first row] a row
                         starts.npy      int64, the rows that hold a record (an episode's last row does not)
                         memory.f32      float32, a recurrent agent's state before each row; optional
                         manifest.json   layout, episodes, hashes, state mean and deviation, rewards

The next state is not stored: it is read from the row after. An episode's last observation has a row of its
own, so that no record ever reaches into the next episode. A version never changes; see ``replay_growing`` for
a buffer that grows while it is sampled.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tspace_core.errors import StorageError
from tspace_core.objects.path import AnyPath, S3Path, local_folder
from tspace_core.storage.replay_build import write_replay
from tspace_core.storage.replay_check import check_version, verify_version
from tspace_core.storage.replay_index import END, LENGTH, EpisodeIndex, EpisodePlace
from tspace_core.storage.replay_manifest import (
    GROWING,
    MANIFEST,
    MEMORY,
    ROWS,
    ReplayLayout,
    ReplayManifest,
    versions_of,
)
from tspace_core.storage.replay_rows import MappedRows
from tspace_core.storage.replay_sequences import SequenceBatch
from tspace_core.storage.replay_writer import Keep, Memories

if TYPE_CHECKING:
    from tspace_core.records.episode import Episode

__all__ = ["Replay", "ReplayBatch", "build_replay", "versions_of", "write_replay"]


class ReplayBatch(NamedTuple):
    """A batch of records; the arrays are the caller's own, each C-contiguous."""

    states: NDArray[np.float32]
    """(batch, state_dim), physical units of the signals."""
    actions: NDArray[np.float32]
    """(batch, action_dim) in [-1, 1]."""
    rewards: NDArray[np.float32]
    """(batch,), unit of the reward kind (energy: minus Wh)."""
    next_states: NDArray[np.float32]
    """(batch, state_dim)."""
    terminals: NDArray[np.float32]
    """(batch,), 1 only at a true end of the task, 0 at a time limit or at the end of the recording."""
    first_rows: NDArray[np.float32]
    """(batch,), first row of the torque map that the action stands for."""


class _Draw(NamedTuple):
    """What does not change from one draw of records to the next."""

    cold: bool
    state_dim: int
    action_dim: int
    where: tuple[Any, ...]
    """Of the records and the rows, as ``kernels.replay.sample`` takes it."""


def _empty(batch: int, state_dim: int, action_dim: int) -> ReplayBatch:
    empty, kind = np.empty, np.float32
    return ReplayBatch(
        empty((batch, state_dim), kind),
        empty((batch, action_dim), kind),
        empty(batch, kind),
        empty((batch, state_dim), kind),
        empty(batch, kind),
        empty(batch, kind),
    )


class Replay:
    """A replay buffer, open for reading; not to be shared by threads that use it at the same time."""

    directory: AnyPath
    _layout: ReplayLayout
    _index: EpisodeIndex
    _rows: MappedRows
    _memory: MappedRows | None
    _draw: "_Draw | None" = None

    def __init__(self, directory: AnyPath, *, in_memory: bool = False) -> None:
        """Open one version.

        Args:
            directory: of the version.
            in_memory: Copy its rows to memory of this process, half of what it may use at most: the fastest
                way to draw, where the copy is worth its memory. Otherwise the files are mapped, and all
                processes that read them share the memory. Batches are the same.

        Raises:
            StorageError: its files are missing, damaged, contradict its manifest, or are too large to be
                copied.
            SchemaVersionError: it was written in a format that this version of tspace does not know.
        """
        from tspace_core.storage.kernels import replay as kernels

        self._kernels: Any = kernels
        self.directory = directory
        self._in_memory = in_memory
        self._open()

    def _open(self) -> None:
        self._manifest = ReplayManifest.read(self.directory)
        self._local = local_folder(self.directory)
        content = self._manifest.content
        self._layout = content.layout
        check_version(self.directory, self._local, content)
        self._rows = MappedRows.single(
            self._local / ROWS, 4 * content.layout.row_width, in_memory=self._in_memory
        )
        self._memory = (
            MappedRows.single(self._local / MEMORY, 4 * content.memory_dim) if content.memory_dim else None
        )
        self._index = EpisodeIndex(
            [
                # Only the run at an episode's end can end with its last record.
                EpisodePlace(item.first + at, count, item.terminal and at + count == item.length)
                for item in content.episodes
                for at, count in item.runs
            ]
        )

    @classmethod
    def open(cls, root: AnyPath, version: str = "latest", *, in_memory: bool = False) -> "Replay":
        """Open a version below ``<lake>/replay/<name>``.

        Args:
            root: Folder of the buffer's versions.
            version: ``"000001"`` and so on; ``"growing"`` for the buffer that grows while it is sampled; or
                ``"latest"``: the last of the numbered ones, the growing one where there are none.
            in_memory: Copy a version's rows to memory of this process, see ``Replay``; a growing buffer's
                rows are always mapped.

        Raises:
            StorageError: there is no such version, its files contradict its manifest, or are too large to be
                copied.
            SchemaVersionError: it was written in a format that this version of tspace does not know.
        """
        from tspace_core.storage.replay_growing import GrowingReplay

        versions = versions_of(root)
        growing = not isinstance(root, S3Path) and (root / GROWING / MANIFEST).is_file()
        if not versions and not growing:
            message = f"{root}: holds no replay buffer; build one from episodes with build_replay"
            raise StorageError(message)
        if version == "latest" and versions:
            return Replay(root / versions[-1], in_memory=in_memory)
        if growing and version in ("latest", GROWING):
            return GrowingReplay(root / GROWING)
        if version not in versions:
            there = ", ".join([*versions, *([GROWING] if growing else [])])
            message = f"{root}: has no version {version!r}; there are {there}"
            raise StorageError(message)
        return Replay(root / version, in_memory=in_memory)

    @property
    def manifest(self) -> ReplayManifest:
        """What the files hold."""
        return self._manifest

    @property
    def layout(self) -> ReplayLayout:
        """Dimensions, signals, axes and reward kind."""
        return self._layout

    @property
    def memory_dim(self) -> int:
        """Length of the recurrent state that is stored with each record; 0: none is."""
        return self._memory.row_bytes // 4 if self._memory else 0

    @property
    def state_mean(self) -> NDArray[np.float64]:
        """(state_dim,) mean of every observed state."""
        return np.array(self.manifest.content.state_mean)

    @property
    def state_std(self) -> NDArray[np.float64]:
        """(state_dim,) standard deviation of every observed state."""
        return np.array(self.manifest.content.state_std)

    @property
    def index(self) -> EpisodeIndex:
        """Where the kept episodes lie."""
        return self._index

    def rows(self, first: int, count: int) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """``count`` rows as they lie from ``first`` on, not writable, and the recurrent states beside them.

        They are gone with the next ``refresh`` that evicts them.
        """
        mapped, memory = self._rows, self._memory
        segment = first >> mapped.bits
        begin = first - (segment << mapped.bits)
        remembered = memory.segment(segment)[begin : begin + count] if memory else None
        return mapped.segment(segment)[begin : begin + count], remembered

    def __len__(self) -> int:
        return len(self._index)

    def refresh(self) -> bool:
        """Take over what was appended or evicted since; whether there was anything. A version never changes.

        Until it is called, a growing buffer gives what it held when it was opened or refreshed last.
        """
        return False

    def sample(self, batch: int, generator: np.random.Generator) -> ReplayBatch:
        """Draw records uniformly, with replacement.

        Args:
            batch: Number of records.
            generator: Its state decides the draw: equal state, equal batch.

        Raises:
            StorageError: there is no record.
        """
        # Faster than Generator.integers; its bias is at most len / 2**53 and it never reaches len.
        uniform = generator.random(batch)
        draw = self._draw or self._prepare()
        if draw.cold:
            return self._gather(self._index.begin + (uniform * len(self._index)).astype(np.int64))
        fields = _empty(batch, draw.state_dim, draw.action_dim)
        self._kernels.sample(uniform, *draw.where, *fields)
        return fields

    def pick(self, records: NDArray[np.int64]) -> ReplayBatch:
        """The records of these numbers, 0 to ``len(self) - 1`` in the order of the episodes.

        Raises:
            IndexError: there is no record of such a number.
        """
        return self._gather(self._index.begin + self._checked(records))

    def sample_sequences(
        self,
        batch: int,
        length: int,
        generator: np.random.Generator,
        *,
        burn_in: int = 0,
        stride: int = 1,
    ) -> SequenceBatch:
        """Draw runs of ``burn_in + length`` successive records, evenly from all there are.

        A run never reaches into another episode. An episode that is shorter gives one, padded.

        Args:
            batch: Number of sequences.
            length: Records to learn from in each.
            generator: Its state decides the draw: equal state, equal batch.
            burn_in: Records before those, only to bring a recurrent state up to date. An episode of no more
                records than this has none to learn from, see ``SequenceBatch.mask``.
            stride: Sequences of an episode begin at every ``stride`` records, and one ends with it. 1: at
                every record; half of ``burn_in + length``: they overlap by half (R2D2, Kapturowski et al.
                2019).

        Raises:
            StorageError: there is no record, or a number is out of its range.
        """
        steps = burn_in + length
        if length < 1 or burn_in < 0 or stride < 1:
            message = (
                f"sequences of length {length} with burn-in {burn_in} and stride {stride}: "
                "length and stride are at least 1, burn-in at least 0"
            )
            raise StorageError(message)
        self._require_records()
        index = self._index
        uniform = generator.random(batch)
        records, counts = np.empty(batch, np.int64), np.empty(batch, np.int64)
        self._kernels.find_sequences(
            uniform, index.low, index.high, index.sequence_starts(steps, stride), index.table, steps, stride,
            records, counts,
        )  # fmt: skip
        return self._sequences(records, counts, steps)

    def pick_sequences(self, records: NDArray[np.int64], steps: int) -> SequenceBatch:
        """The runs of ``steps`` records from these numbers on, padded at an episode's end.

        Raises:
            IndexError: there is no record of such a number.
            StorageError: fewer than one step is asked for.
        """
        if steps < 1:
            message = f"sequences of {steps} steps: a sequence has at least 1"
            raise StorageError(message)
        numbers = self._index.begin + self._checked(records)
        table = self._index.table
        episodes = np.searchsorted(table[:, END], numbers, side="right")
        return self._sequences(numbers, np.minimum(table[episodes, END] - numbers, steps), steps)

    def verify(self) -> None:
        """Read everything and compare it with the manifest.

        Raises:
            StorageError: names the file that differs.
        """
        verify_version(self.directory, self._local, self.manifest.content)

    def _prepare(self) -> "_Draw":
        """What a draw needs, until rows come or go."""
        self._require_records()
        index, rows, layout = self._index, self._rows, self._layout
        self._draw = _Draw(
            rows.cold,
            layout.state_dim,
            layout.action_dim,
            (
                *(index.begin, len(index), index.table, index.blocks, index.origin),
                *(rows.bases, rows.first, rows.bits),
            ),
        )
        return self._draw

    def _require_records(self) -> None:
        if not len(self._index):
            message = f"{self.directory}: holds no record yet; append an episode before sampling"
            raise StorageError(message)

    def _checked(self, records: NDArray[np.int64]) -> NDArray[np.int64]:
        given = np.asarray(records)
        if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
            message = f"records are asked for by {given.dtype}{given.shape}, give whole numbers in one row"
            raise IndexError(message)
        numbers = given.astype(np.int64)
        if numbers.size and (numbers.min() < 0 or numbers.max() >= len(self)):
            message = f"records {numbers.min()} to {numbers.max()} asked for, there are 0 to {len(self) - 1}"
            raise IndexError(message)
        return numbers

    def _gather(self, numbers: NDArray[np.int64]) -> ReplayBatch:
        index, rows, layout, batch = self._index, self._rows, self._layout, len(numbers)
        fields = _empty(batch, layout.state_dim, layout.action_dim)
        found = np.empty(batch, np.int64)
        self._kernels.find(numbers, index.table, index.blocks, index.origin, found, fields.terminals)
        if rows.cold:
            rows.ask_for(found, np.full(batch, 2))
        self._kernels.gather(
            found, rows.bases, rows.first, rows.bits,
            fields.states, fields.actions, fields.rewards, fields.next_states, fields.first_rows,
        )  # fmt: skip
        return fields

    def _sequences(self, numbers: NDArray[np.int64], counts: NDArray[np.int64], steps: int) -> SequenceBatch:
        index, rows, layout, batch = self._index, self._rows, self._layout, len(numbers)
        found, ends = np.empty(batch, np.int64), np.empty(batch, np.float32)
        self._kernels.find(numbers, index.table, index.blocks, index.origin, found, ends)
        lasts = np.empty(batch, np.int64)
        self._kernels.find(numbers + counts - 1, index.table, index.blocks, index.origin, lasts, ends)
        if rows.cold:
            rows.ask_for(found, counts + 1)
        fields = SequenceBatch(
            states=np.empty((batch, steps + 1, layout.state_dim), np.float32),
            actions=np.empty((batch, steps, layout.action_dim), np.float32),
            rewards=np.empty((batch, steps), np.float32),
            terminals=np.empty((batch, steps), np.float32),
            mask=np.empty((batch, steps), np.float32),
            first_rows=np.empty((batch, steps), np.float32),
            memory=self._memory_at(found),
            begins=self._begins(numbers),
        )
        self._kernels.gather_sequences(
            found, counts, ends, rows.bases, rows.first, rows.bits, *fields[:6],
        )  # fmt: skip
        return fields

    def _begins(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        table = self._index.table
        places = table[np.searchsorted(table[:, END], numbers, side="right")]
        begins: NDArray[np.bool_] = numbers == places[:, END] - places[:, LENGTH]
        return begins.astype(np.float32)

    def _memory_at(self, rows: NDArray[np.int64]) -> NDArray[np.float32] | None:
        memory = self._memory
        if memory is None:
            return None
        if memory.cold:
            memory.ask_for(rows, np.ones_like(rows))
        found = np.empty((len(rows), self.memory_dim), np.float32)
        for target, row in zip(found, rows.tolist(), strict=True):
            target[:] = memory.segment(row >> memory.bits)[row & ((1 << memory.bits) - 1)]
        return found


def build_replay(
    root: AnyPath,
    episodes: Iterable["Episode"],
    *,
    memories: Memories | None = None,
    memory_dim: int = 0,
    keep: Keep | None = None,
) -> Replay:
    """Write episodes as a new version of a replay buffer, in the order given, and open it.

    The version becomes visible at once and whole. If its content equals the latest version's, no new one is
    made and the latest is returned.

    Args:
        root: ``<lake>/replay/<name>``.
        episodes: Read one at a time.
        memories: Gives an episode's recurrent states (records, memory_dim), each the state before its record;
            None where there are none.
        memory_dim: Length of a recurrent state; 0 keeps none.
        keep: Which records of an episode are drawn; default: all. The others stay as rows, as the records
            before them end there; sequences end before them.

    Raises:
        StorageError: no episode, two layouts, or the same episode twice.
    """
    return Replay(write_replay(root, episodes, memories=memories, memory_dim=memory_dim, keep=keep))
