"""Replay buffers at rest: memory-mapped rows, each sample one gather of two neighbouring rows.

::

    <root>/<name>/000001/rows.f32        float32 little endian [state | action | reward | first row] a row
                         starts.npy      int64, the rows that hold a record (an episode's last row does not)
                         manifest.json   layout, episodes, hashes, state mean and deviation, rewards

The next state is not stored: it is read from the row after. An episode's last observation has a row of its
own, so that no record ever reaches into the next episode.
"""

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tspace_core import __version__
from tspace_core.errors import StorageError
from tspace_core.objects.path import AnyPath, S3Path, local_folder
from tspace_core.storage.files import atomic_directory
from tspace_core.storage.replay_manifest import MANIFEST, ROWS, STARTS, ReplayLayout, ReplayManifest
from tspace_core.storage.replay_writer import ReplayWriter, starts_of

if TYPE_CHECKING:
    from tspace_core.records.episode import Episode

_HASH_BLOCK = 1 << 24


class ReplayBatch(NamedTuple):
    """A batch of records; the arrays are views of one gathered block."""

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


class Replay:
    """One version of a replay buffer, open for reading."""

    def __init__(self, directory: AnyPath) -> None:
        self.directory = directory
        self.manifest = ReplayManifest.read(directory)
        self._local = local_folder(directory)
        content = self.manifest.content
        layout = content.layout
        self._check_sizes(layout)
        rows = np.memmap(self._local / ROWS, dtype="<f4", mode="r", shape=(content.rows, layout.row_width))
        # A record is a window of one row and the state of the next: overlapping windows make it one copy.
        # They stop at the last but one row, so that the last window ends inside the file. As one opaque item
        # each, numpy copies them whole.
        self._width = layout.row_width + layout.state_dim
        self._windows: NDArray[np.void] = np.ndarray(
            shape=(content.rows - 1,),
            dtype=np.dtype((np.void, 4 * self._width)),
            buffer=rows,
            strides=(4 * layout.row_width,),
        )
        self._starts = np.asarray(np.load(self._local / STARTS, mmap_mode="r"))
        self._columns = (layout.state_dim, layout.state_dim + layout.action_dim)
        ends = [item.first + item.length - 1 for item in content.episodes if item.terminal]
        self._terminal_rows = np.array(sorted(ends), dtype=np.int64)

    @classmethod
    def open(cls, root: AnyPath, version: str = "latest") -> "Replay":
        """Open a version below ``<lake>/replay/<name>``.

        Args:
            root: Folder of the buffer's versions.
            version: ``"000001"`` and so on, or ``"latest"``.

        Raises:
            StorageError: there is no such version, or its files contradict its manifest.
        """
        versions = versions_of(root)
        if not versions:
            message = f"{root}: holds no replay buffer; build one from episodes with build_replay"
            raise StorageError(message)
        if version == "latest":
            return cls(root / versions[-1])
        if version not in versions:
            message = f"{root}: has no version {version!r}; there are {', '.join(versions)}"
            raise StorageError(message)
        return cls(root / version)

    @property
    def layout(self) -> ReplayLayout:
        """Dimensions, signals, axes and reward kind."""
        return self.manifest.content.layout

    @property
    def state_mean(self) -> NDArray[np.float64]:
        """(state_dim,) mean of every observed state."""
        return np.array(self.manifest.content.state_mean)

    @property
    def state_std(self) -> NDArray[np.float64]:
        """(state_dim,) standard deviation of every observed state."""
        return np.array(self.manifest.content.state_std)

    def __len__(self) -> int:
        return len(self._starts)

    def sample(self, batch: int, generator: np.random.Generator) -> ReplayBatch:
        """Draw records uniformly, with replacement.

        Args:
            batch: Number of records.
            generator: Its state decides the draw: equal state, equal batch.
        """
        # Faster than Generator.integers; its bias is at most len / 2**53 and it never reaches len.
        drawn = (generator.random(batch) * len(self._starts)).astype(np.int64)
        return self._gather(self._starts[drawn])

    def pick(self, records: NDArray[np.int64]) -> ReplayBatch:
        """The records of these numbers, 0 to ``len(self) - 1`` in the order of the episodes."""
        return self._gather(self._starts[records])

    def verify(self) -> None:
        """Read everything and compare it with the manifest.

        Raises:
            StorageError: names the file that differs.
        """
        content = self.manifest.content
        digest = hashlib.sha256()
        with (self._local / ROWS).open("rb") as file:
            while block := file.read(_HASH_BLOCK):
                digest.update(block)
        if digest.hexdigest() != content.rows_sha256:
            message = (
                f"{self.directory / ROWS}: sha256 {digest.hexdigest()[:12]}..., the manifest says "
                f"{content.rows_sha256[:12]}...: the file is damaged; build the buffer again"
            )
            raise StorageError(message)
        if not np.array_equal(self._starts, starts_of(content.episodes)):
            path = self.directory / STARTS
            message = f"{path}: differs from the episodes in the manifest; build the buffer again"
            raise StorageError(message)

    def _gather(self, rows: NDArray[np.int64]) -> ReplayBatch:
        states, actions = self._columns
        block = self._windows[rows].view(np.float32).reshape(len(rows), self._width)
        if len(self._terminal_rows):
            terminals = np.isin(rows, self._terminal_rows).astype(np.float32)
        else:
            terminals = np.zeros(len(rows), np.float32)
        return ReplayBatch(
            states=block[:, :states],
            actions=block[:, states:actions],
            rewards=block[:, actions],
            next_states=block[:, actions + 2 :],
            terminals=terminals,
            first_rows=block[:, actions + 1],
        )

    def _check_sizes(self, layout: ReplayLayout) -> None:
        content = self.manifest.content
        rows = self._local / ROWS
        expected = content.rows * layout.row_width * 4
        size = rows.stat().st_size if rows.exists() else -1
        if size != expected:
            message = (
                f"{self.directory / ROWS}: {'missing' if size < 0 else f'{size} bytes'}, expected {expected} "
                f"bytes ({content.rows} rows of {layout.row_width}); build the buffer again"
            )
            raise StorageError(message)
        starts = self._local / STARTS
        try:
            found = np.load(starts, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            message = f"{self.directory / STARTS}: not readable ({error}); build the buffer again"
            raise StorageError(message) from error
        if found.dtype != np.int64 or found.shape != (content.records,):
            message = (
                f"{self.directory / STARTS}: holds {found.dtype} {found.shape}, expected int64 "
                f"({content.records},); build the buffer again"
            )
            raise StorageError(message)


def versions_of(root: AnyPath) -> list[str]:
    """Names of the complete versions below ``root``, oldest first."""
    if isinstance(root, S3Path):
        whole = (path.parent.name for path, _ in root.objects(f"*/{MANIFEST}"))
        return sorted(name for name in whole if name.isdigit())
    if not root.is_dir():
        return []
    return sorted(path.name for path in root.iterdir() if path.name.isdigit() and (path / MANIFEST).is_file())


class _Unchanged(Exception):  # noqa: N818  a way out of the atomic directory, not an error
    """The new content equals the latest version's."""


def build_replay(root: AnyPath, episodes: Iterable["Episode"]) -> Replay:
    """Write episodes as a new version of a replay buffer, in the order given.

    The version becomes visible at once and whole. If its content equals the latest version's, no new one is
    made and the latest is returned.

    Args:
        root: ``<lake>/replay/<name>``.
        episodes: Read one at a time.

    Raises:
        StorageError: no episode, two layouts, or the same episode twice.
    """
    versions = versions_of(root)
    version = f"{_last_number(root, versions) + 1:06d}"
    target = root / version
    try:
        with atomic_directory(target) as directory:
            with ReplayWriter(directory) as writer:
                for episode in episodes:
                    writer.append(episode)
                content = writer.finish()
            manifest = ReplayManifest(
                name=root.name,
                version=version,
                created=datetime.now(UTC),
                software_version=__version__,
                content_sha256=content.sha256(),
                content=content,
            )
            if versions:
                _stop_if_equal(root / versions[-1], manifest.content_sha256)
            manifest.write(directory)
    except _Unchanged:
        return Replay(root / versions[-1])
    return Replay(target)


def _last_number(root: AnyPath, versions: list[str]) -> int:
    last = int(versions[-1]) if versions else 0
    if isinstance(root, S3Path):
        # What a killed writer left keeps its number until it is swept; whoever is writing now keeps theirs.
        taken = (folder.rstrip("/").rpartition("/")[2] for folder in root.store.folders(f"{root.key}/"))
        return max([last, *(int(name) for name in taken if name.isdigit())])
    return last


def _stop_if_equal(directory: AnyPath, content_sha256: str) -> None:
    try:
        found = Replay(directory).manifest.content_sha256
    except StorageError:
        return  # a damaged version is not worth returning: the new one follows it
    if found == content_sha256:
        raise _Unchanged
