"""Streams episodes into the rows of a replay buffer; memory holds one episode at a time."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from tspace_core.errors import StorageError
from tspace_core.storage.replay_manifest import (
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

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._hash = hashlib.sha256()
        self._moments = _Moments()
        self._layout: ReplayLayout | None = None
        self._episodes: list[ReplayEpisode] = []
        self._seen: set[str] = set()
        self._rows = 0
        self._reward_sum = 0.0
        self._reward_range = (np.inf, -np.inf)

    def __enter__(self) -> Self:
        self._file = (self._directory / ROWS).open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        self._file.close()

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
        elif layout != self._layout:
            message = _differences(name, self._layout, layout)
            raise StorageError(message)
        self._write(episode, layout)

    def _write(self, episode: "Episode", layout: ReplayLayout) -> None:
        count = len(episode.actions)
        rows = np.full((count + 1, layout.row_width), np.nan, dtype="<f4")
        end = layout.state_dim + layout.action_dim
        rows[:, : layout.state_dim] = episode.states
        rows[:count, layout.state_dim : end] = episode.actions
        rows[:count, end] = episode.rewards
        rows[:count, end + 1] = episode.rows
        data = rows.tobytes()
        self._file.write(data)
        self._hash.update(data)
        self._moments.add(rows[:, : layout.state_dim])
        self._reward_sum += float(np.sum(episode.rewards, dtype=np.float64))
        low, high = self._reward_range
        self._reward_range = (min(low, float(episode.rewards.min())), max(high, float(episode.rewards.max())))
        self._episodes.append(
            ReplayEpisode(
                id=episode.meta.episode_id,
                vehicle_id=episode.meta.vehicle_id,
                first=self._rows,
                length=count,
                terminal=episode.meta.end_reason == TERMINAL,
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
        np.save(self._directory / STARTS, starts_of(self._episodes))
        records = sum(episode.length for episode in self._episodes)
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
        )


def starts_of(episodes: "list[ReplayEpisode] | tuple[ReplayEpisode, ...]") -> NDArray[np.int64]:
    """Row index of every record: all rows of an episode but its last."""
    return np.concatenate([np.arange(item.first, item.first + item.length) for item in episodes])


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


def _differences(name: str, expected: ReplayLayout, found: ReplayLayout) -> str:
    fields = [
        f"{key} {getattr(found, key)!r} instead of {getattr(expected, key)!r}"
        for key in ReplayLayout.model_fields
        if getattr(found, key) != getattr(expected, key)
    ]
    return (
        f"episode {name!r} does not fit the buffer: {'; '.join(fields)}; "
        "put such episodes in a replay of their own"
    )
