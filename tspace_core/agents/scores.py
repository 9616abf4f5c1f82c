"""What came out of scoring: the summary of one log, and of many."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tspace_core import __version__
from tspace_core.agents.scoring_table import ScoredBlock
from tspace_core.config import FLASHED_ROWS, Vehicle
from tspace_core.errors import ObjectError, StorageError
from tspace_core.objects.fields import PathField
from tspace_core.objects.path import AnyPath
from tspace_core.records.episode import Episode
from tspace_core.storage.frames_table import find_metadata
from tspace_core.storage.lake import Lake
from tspace_core.storage.summaries import from_metadata

DISTANCE_BINS = 200
"""Of the histogram of distances, which lie in [0, 2]: quantiles are known to 0.01."""
DISTANCE_END = 2.0
QUANTILES = (0.1, 0.5, 0.9, 0.99)


class Totals(BaseModel):
    """What scores come to; of several logs, means are over all of their records.

    Values of the critic are in scaled rewards, discounted. ``None``: there were no records.
    """

    model_config = ConfigDict(frozen=True)

    episodes: int
    records: int
    left_out: dict[str, int] = Field(description="episodes that were not scored, by reason")
    messages: dict[str, str] = Field(description="first message of each reason")
    q_proposal: float | None = Field(description="mean value of the proposals")
    q_behaviour: float | None = Field(description="mean value of the recorded actions")
    preferred: float | None = Field(description="share of records whose proposal is valued higher")
    clipped: float | None = Field(description="share of cells beyond the limits before clipping")
    distance: float | None = Field(description="mean distance (root mean square over the cells, 0 to 2)")
    distances: list[int] = Field(description=f"histogram: {DISTANCE_BINS} bins from 0 to {DISTANCE_END:g}")
    flashes: list[int] = Field(description="proposals that hold each row of the map")
    change_nm: list[list[float]] = Field(description="their mean change of the default map after clipping")

    def distance_quantiles(self) -> dict[str, float]:
        """Quantiles of the distance by name, ``{"p50": ...}``, to 0.01; empty without records."""
        counts = np.cumsum(self.distances)
        if not self.records:
            return {}
        places = np.searchsorted(counts, np.array(QUANTILES) * counts[-1])
        width = DISTANCE_END / DISTANCE_BINS
        return {f"p{100 * q:g}": float((k + 1) * width) for q, k in zip(QUANTILES, places, strict=True)}


class Scores(Totals):
    """The scores of one log by one checkpoint."""

    key: str
    fingerprint: str
    path: PathField
    checkpoint: str = Field(description="16 hex digits of its content")
    agent: str
    run: str
    step: int
    software_version: str = __version__
    reused: bool = Field(default=False, exclude=True, description="stored before, and nothing has changed")


class Tally:
    """Adds up blocks of scores, and says which episodes fit."""

    def __init__(self, vehicle: Vehicle) -> None:
        self.vehicle = vehicle
        self.default = vehicle.default_map()
        self._episodes = 0
        self._left: Counter[str] = Counter()
        self._messages: dict[str, str] = {}
        self._records = 0
        self._sums = np.zeros(5)
        self._distances = np.zeros(DISTANCE_BINS, np.int64)
        self._flashes = np.zeros(len(self.default.table), np.int64)
        self._torque = np.zeros(self.default.table.shape)

    def fitting(self, episodes: Iterable[Episode]) -> Iterator[Episode]:
        """The episodes whose layout is the vehicle's; the others are counted with the reason."""
        for episode in episodes:
            odd = self._oddity(episode)
            if odd is None:
                self._episodes += 1
                yield episode
                continue
            reason, text = odd
            self._left[reason] += 1
            self._messages.setdefault(reason, f"{episode.meta.episode_id}: {text}")

    def _oddity(self, episode: Episode) -> tuple[str, str] | None:
        meta, sampling, limits = episode.meta, self.vehicle.sampling, self.vehicle.torque_map
        for reason, has, wanted in (
            ("signals", meta.signals, sampling.signals),
            ("window", meta.window, sampling.window),
            ("rate", meta.rate_hz, sampling.rate_hz),
            ("pedal_axis", meta.pedal_axis, limits.pedal_axis),
            ("speed_axis", meta.speed_axis_kmh, limits.speed_axis_kmh),
            ("default_map", meta.default_map_sha256, self.default.sha256()),
            ("budget", meta.budget_nm, limits.budget_nm),
        ):
            if has != wanted:
                return reason, f"{reason} is {has}, {self.vehicle.id} has {wanted}"
        return None

    def add(self, block: ScoredBlock) -> None:
        """Add a block."""
        self._records += len(block)
        better = block.q_proposal > block.q_behaviour
        columns = (block.q_proposal, block.q_behaviour, better, block.clipped, block.distance)
        self._sums += [float(column.sum(dtype=np.float64)) for column in columns]
        bins = np.minimum(block.distance * (DISTANCE_BINS / DISTANCE_END), DISTANCE_BINS - 1).astype(np.int64)
        self._distances += np.bincount(bins, minlength=DISTANCE_BINS)
        torque = block.torque.reshape(len(block), FLASHED_ROWS, -1)
        for row in np.unique(block.first_rows).tolist():
            mine = block.first_rows == row
            there = slice(row, row + FLASHED_ROWS)
            self._torque[there] += torque[mine].sum(axis=0, dtype=np.float64)
            self._flashes[there] += int(mine.sum())

    def scores(self, **own: Any) -> Scores:
        """What was added.

        Args:
            own: the fields that ``Scores`` has beside those of ``Totals``.
        """
        seen = np.maximum(self._flashes, 1)[:, None]
        change = np.where(self._flashes[:, None] > 0, self._torque / seen - self.default.table, 0.0)
        means = [float(total / self._records) if self._records else None for total in self._sums]
        return Scores(
            episodes=self._episodes,
            records=self._records,
            left_out=dict(self._left),
            messages=self._messages,
            **dict(zip(_MEANS, means, strict=True)),
            distances=self._distances.tolist(),
            flashes=self._flashes.tolist(),
            change_nm=np.round(change, 3).tolist(),
            **own,
        )


_MEANS = ("q_proposal", "q_behaviour", "preferred", "clipped", "distance")


def total(scores: Sequence[Totals]) -> Totals:
    """What the scores of several logs of one vehicle come to."""
    records = sum(item.records for item in scores)
    left: Counter[str] = Counter()
    messages: dict[str, str] = {}
    for item in scores:
        left.update(item.left_out)
        messages = {**item.messages, **messages}
    means = {
        name: sum((getattr(item, name) or 0.0) * item.records for item in scores) / records
        if records
        else None
        for name in _MEANS
    }
    flashes = np.sum([item.flashes for item in scores], axis=0) if scores else np.zeros(0, np.int64)
    change = sum(np.array(item.change_nm) * np.array(item.flashes)[:, None] for item in scores)
    return Totals(
        episodes=sum(item.episodes for item in scores),
        records=records,
        left_out=dict(left),
        messages=messages,
        **means,
        distances=np.sum([item.distances for item in scores], axis=0).tolist() if scores else [],
        flashes=flashes.tolist(),
        change_nm=(change / np.maximum(flashes, 1)[:, None]).tolist() if scores else [],
    )


def stored_scores(lake: Lake, path: AnyPath) -> Scores | None:
    """The summary in a file of scores; None: there is none, or it is not readable and to be made again.

    Raises:
        ObjectError: a bucket's server cannot be asked.
    """
    try:
        content = find_metadata(path)
        return None if content is None else Scores(**from_metadata(content, lake.root))
    except ObjectError:
        raise
    except (StorageError, ValidationError):
        return None
