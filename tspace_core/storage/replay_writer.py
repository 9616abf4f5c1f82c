"""Streams episodes into the rows of a replay buffer; memory holds one episode at a time."""

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from tspace_core.errors import StorageError
from tspace_core.storage.replay_manifest import (
    MEMORY,
    ROWS,
    STARTS,
    ReplayContent,
    ReplayEpisode,
    ReplayLayout,
    RewardRange,
)

if TYPE_CHECKING:
    from types import TracebackType

    from tspace_core.records.episode import Episode

TERMINAL = "terminal"
"""An episode's ``end_reason`` that makes its last record terminal; all others are ends of recording only."""


Memories = Callable[["Episode"], NDArray[np.float32] | None]
"""Gives an episode's recurrent states, (records, memory_dim) float32, or None."""

Keep = Callable[["Episode"], NDArray[np.bool_]]
"""Gives (records,) whether each record of an episode is drawn; called once an episode, in order."""


@dataclass
class _Moments:
    """Mean and variance a column in one pass (Chan, Golub, LeVeque 1979), float64."""

    count: int = 0
    mean: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    squares: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def add(self, block: NDArray[np.float32]) -> None:
        values = block.astype(np.float64)
        mean = values.mean(axis=0)
        squares = np.square(values - mean).sum(axis=0)
        if self.count == 0:
            self.count, self.mean, self.squares = len(values), mean, squares
            return
        total = self.count + len(values)
        shift = mean - self.mean
        self.squares = self.squares + squares + shift**2 * (self.count * len(values) / total)
        self.mean = self.mean + shift * (len(values) / total)
        self.count = total

    def std(self) -> NDArray[np.float64]:
        return np.sqrt(self.squares / self.count)


class ReplayWriter:
    """Writes ``rows.f32`` and ``starts.npy`` into a directory, an episode at a time.

    An episode of n records takes n + 1 rows ``[state | action | reward | first row]`` of float32; its last
    row holds the last observation, the rest of that row is NaN and is never read.
    """

    def __init__(
        self,
        directory: Path,
        memories: Memories | None = None,
        memory_dim: int = 0,
        *,
        keep: Keep | None = None,
    ) -> None:
        self._directory = directory
        self._keep = keep
        self._memories = memories
        self._memory_dim = memory_dim
        self._memory_hash = hashlib.sha256()
        self._hash = hashlib.sha256()
        self._moments = _Moments()
        self._layout: ReplayLayout | None = None
        self._episodes: list[ReplayEpisode] = []
        self._seen: set[str] = set()
        self._rows = 0
        self._reward_sum = 0.0
        self._reward_range = (np.inf, -np.inf)

    def __enter__(self) -> Self:
        with ExitStack() as files:
            self._file = files.enter_context((self._directory / ROWS).open("wb"))
            if self._memory_dim:
                self._memory_file = files.enter_context((self._directory / MEMORY).open("wb"))
            self._close = files.pop_all().close
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        self._close()

    def append(self, episode: "Episode") -> None:
        """Add one episode.

        Raises:
            StorageError: its layout differs from the episodes before it, or its id was added already.
        """
        name = episode.meta.episode_id
        if name in self._seen:
            message = f"episode {name!r} was given twice to {self._directory.parent}; give each episode once"
            raise StorageError(message)
        self._seen.add(name)
        layout = layout_of(episode)
        if self._layout is None:
            self._layout = layout
        else:
            require_layout(name, self._layout, layout)
        self._write(episode, layout)

    def _write(self, episode: "Episode", layout: ReplayLayout) -> None:
        count = len(episode.actions)
        rows = rows_of(episode, layout)
        data = rows.tobytes()
        self._file.write(data)
        self._hash.update(data)
        if self._memory_dim:
            memory = self._memories(episode) if self._memories else None
            data = memory_rows(episode, memory, self._memory_dim).tobytes()
            self._memory_file.write(data)
            self._memory_hash.update(data)
        self._moments.add(rows[:, : layout.state_dim])
        kept = None if self._keep is None else kept_runs(episode, self._keep(episode))
        drawn = (
            episode.rewards
            if kept is None
            else np.concatenate(
                [episode.rewards[:0], *(episode.rewards[at : at + number] for at, number in kept)]
            )
        )
        self._reward_sum += float(np.sum(drawn, dtype=np.float64))
        low, high = self._reward_range
        self._reward_range = (
            float(drawn.min(initial=low)),
            float(drawn.max(initial=high)),
        )
        self._episodes.append(
            ReplayEpisode(
                id=episode.meta.episode_id,
                vehicle_id=episode.meta.vehicle_id,
                first=self._rows,
                length=count,
                terminal=episode.meta.end_reason == TERMINAL,
                kept=kept,
            )
        )
        self._rows += count + 1

    def finish(self) -> ReplayContent:
        """Write the valid starts, flush, and return the content for the manifest.

        Raises:
            StorageError: no episode was given.
        """
        if self._layout is None:
            message = f"no episode was given for {self._directory.parent}; a replay buffer needs at least one"
            raise StorageError(message)
        self._file.flush()
        if self._memory_dim:
            self._memory_file.flush()
        records = sum(episode.records for episode in self._episodes)
        if not records:
            message = f"of {self._rows} rows for {self._directory.parent} no record was kept; thin less"
            raise StorageError(message)
        np.save(self._directory / STARTS, starts_of(self._episodes))
        low, high = self._reward_range
        return ReplayContent(
            layout=self._layout,
            rows=self._rows,
            records=records,
            rows_sha256=self._hash.hexdigest(),
            episodes=tuple(self._episodes),
            reward=RewardRange(minimum=low, maximum=high, mean=self._reward_sum / records),
            state_mean=tuple(self._moments.mean.tolist()),
            state_std=tuple(self._moments.std().tolist()),
            memory_dim=self._memory_dim,
            memory_sha256=self._memory_hash.hexdigest() if self._memory_dim else None,
        )


def rows_of(episode: "Episode", layout: ReplayLayout) -> NDArray[np.float32]:
    """(records + 1, row_width) rows of an episode, little endian."""
    count = len(episode.actions)
    rows = np.full((count + 1, layout.row_width), np.nan, dtype="<f4")
    end = layout.state_dim + layout.action_dim
    rows[:, : layout.state_dim] = episode.states
    rows[:count, layout.state_dim : end] = episode.actions
    rows[:count, end] = episode.rewards
    rows[:count, end + 1] = episode.rows
    return rows


def memory_rows(episode: "Episode", memory: NDArray[np.float32] | None, size: int) -> NDArray[np.float32]:
    """(records + 1, size) recurrent states beside an episode's rows; zeros where none are given.

    Raises:
        StorageError: they have another shape, or values that are not finite.
    """
    rows = np.zeros((len(episode) + 1, size), dtype="<f4")
    if memory is None:
        return rows
    name = episode.meta.episode_id
    if memory.shape != (len(episode), size):
        message = f"recurrent states of episode {name!r} are {memory.shape}, expected {(len(episode), size)}"
        raise StorageError(message)
    if not np.isfinite(memory).all():
        message = f"recurrent states of episode {name!r} hold values that are not finite; store none of them"
        raise StorageError(message)
    rows[:-1] = memory
    return rows


def starts_of(episodes: "list[ReplayEpisode] | tuple[ReplayEpisode, ...]") -> NDArray[np.int64]:
    """Row index of every record that is drawn: of an episode without thinning all rows but its last."""
    return np.concatenate(
        [np.arange(item.first + at, item.first + at + count) for item in episodes for at, count in item.runs]
    )


def kept_runs(episode: "Episode", keep: NDArray[np.bool_]) -> tuple[tuple[int, int], ...] | None:
    """Runs (record, count) of what is kept of an episode; None: all of it.

    Raises:
        StorageError: ``keep`` is of another length or type.
    """
    if keep.shape != (len(episode),) or keep.dtype != np.bool_:
        message = (
            f"episode {episode.meta.episode_id!r}: which records are kept is {keep.dtype}{keep.shape}, "
            f"expected bool({len(episode)},)"
        )
        raise StorageError(message)
    if keep.all():
        return None
    edges = np.flatnonzero(np.diff(keep.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    return tuple((first, end - first) for first, end in edges.tolist())


def layout_of(episode: "Episode") -> ReplayLayout:
    """What an episode's buffer must be made of to hold it."""
    meta = episode.meta
    return ReplayLayout(
        state_dim=episode.state_dim,
        action_dim=episode.actions.shape[1],
        rate_hz=meta.rate_hz,
        window=meta.window,
        signals=tuple(meta.signals),
        reward_kind=meta.reward_kind,
        gamma=meta.gamma,
        budget_nm=meta.budget_nm,
        pedal_axis=tuple(meta.pedal_axis),
        speed_axis_kmh=tuple(meta.speed_axis_kmh),
    )


def require_layout(name: str, expected: ReplayLayout, found: ReplayLayout) -> None:
    """Raise unless an episode has the buffer's layout.

    Raises:
        StorageError: names each difference.
    """
    if found == expected:
        return
    fields = [
        f"{key} {getattr(found, key)!r} instead of {getattr(expected, key)!r}"
        for key in ReplayLayout.model_fields
        if getattr(found, key) != getattr(expected, key)
    ]
    message = (
        f"episode {name!r} does not fit the buffer: {'; '.join(fields)}; "
        "put such episodes in a replay of their own"
    )
    raise StorageError(message)
