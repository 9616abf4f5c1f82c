"""What a run and its episodes come to, for people, the tracker, and whoever started the run."""

import logging
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from tspace_core.objects.path import AnyPath
from tspace_core.online.cruncher import Decision, FinishedEpisode
from tspace_core.online.learner_protocol import EpisodeLearned
from tspace_core.online.recording import Record
from tspace_core.storage.online_episodes import OnlineCounts
from tspace_core.storage.summaries import EpisodesSummary

_log = logging.getLogger(__name__)

SHARE = 0.05
"""Share of the newest return in the running reward, as in ``agents.returns``."""


@dataclass(frozen=True)
class EpisodeResult:
    """A stored episode.

    Attributes:
        number: counted over all runs of the vehicle.
        key: of the episode in the lake.
        reason: why it ended.
        windows: that were seen.
        summary: what was stored.
        total_reward: sum of the stored records' rewards, in the unit of the vehicle's reward kind.
        running_reward: smoothed over the vehicle's episodes.
        flashes: decisions by result: APPLIED, REFUSED, REVERTED, UNKNOWN, HELD.
        latency_ms: window complete -> proposal: count, p50, p99, max.
        learned: what the learner made of it; None without a learner, or where it failed.
        checkpoint: the learner's newest.
        tracked: MLflow's id of the run; None where nothing is tracked.
        training_log: file beside the pieces.
    """

    number: int
    key: str
    reason: str
    windows: int
    summary: EpisodesSummary
    total_reward: float
    running_reward: float | None
    flashes: dict[str, int]
    latency_ms: dict[str, float]
    learned: EpisodeLearned | None
    checkpoint: AnyPath | None
    tracked: str | None
    training_log: AnyPath

    def line(self) -> str:
        """One line for people."""
        summary = self.summary
        lost = sum(summary.lost_records.values())
        flashes = ", ".join(f"{count} {name.lower()}" for name, count in sorted(self.flashes.items()))
        return (
            f"episode {self.number} ({self.reason}): {self.windows} windows, {summary.records} records in "
            f"{summary.episodes} pieces, {lost} steps lost; flashes: {flashes or 'none'}; "
            f"{summary.energy_wh:.1f} Wh, {summary.distance_m / 1000:.2f} km, reward {self.total_reward:.2f}"
        )


@dataclass
class RunSummary:
    """What a run did.

    Attributes:
        vehicle_id: whose.
        run_id: as whoever started it calls it.
        generation: number of the run.
        mode: train, infer or observe.
        episodes: stored ones.
        discarded: thrown away by end_invalid, or by an end that was not valid.
        records: in stored episodes.
        lost_records: steps that are in no stored episode, by reason.
        unlearned: records for a learner that found no room on their way to it, or no learner.
        flashes: decisions by result.
        energy_wh, distance_m, total_reward: of the stored records.
        running_reward: of the vehicle's episodes.
        latency_ms: window complete -> proposal: count, p50, p99, max.
        checkpoint: the learner's newest.
        cause: why the run ended: the first cause.
        failed: whether that is a failure.
        notes: what is not as it might be expected, in sentences.
    """

    vehicle_id: str
    run_id: str
    generation: int
    mode: str
    episodes: int = 0
    discarded: int = 0
    records: int = 0
    lost_records: Counter[str] = field(default_factory=Counter)
    unlearned: int = 0
    flashes: Counter[str] = field(default_factory=Counter)
    energy_wh: float = 0.0
    distance_m: float = 0.0
    total_reward: float = 0.0
    running_reward: float | None = None
    latency_ms: dict[str, float] = field(default_factory=dict)
    checkpoint: AnyPath | None = None
    cause: str = ""
    failed: bool = False
    notes: list[str] = field(default_factory=list)

    def count(self, result: EpisodeResult) -> None:
        """Add a stored episode."""
        summary = result.summary
        self.episodes += 1
        self.records += summary.records
        self.lost_records.update(summary.lost_records)
        self.flashes.update(result.flashes)
        self.energy_wh += summary.energy_wh
        self.distance_m += summary.distance_m
        self.total_reward += result.total_reward
        self.running_reward = result.running_reward
        self.checkpoint = result.checkpoint or self.checkpoint

    def __str__(self) -> str:
        latency = self.latency_ms
        timing = f", p99 {latency['p99']:.2f} ms to a proposal" if "p99" in latency else ""
        return (
            f"{self.vehicle_id}, run {self.generation} ({self.mode}) ended: {self.cause}; "
            f"{self.episodes} episodes stored, {self.discarded} thrown away, {self.records} records, "
            f"{self.energy_wh:.1f} Wh, {self.distance_m / 1000:.2f} km, reward {self.total_reward:.2f}"
            f"{timing}"
        )


def unhindered(tell: Callable[[str], object]) -> Callable[[str], None]:
    """Tells lines to people; what that raises is logged, no drive ends by it."""

    def told(line: str) -> None:
        try:
            tell(line)
        except Exception:
            _log.exception("nobody could be told: %s", line)

    return told


def counts_of(episode: FinishedEpisode, window: int) -> OnlineCounts:
    """What did not become a record; ``window`` is the number of samples in a window."""
    report = episode.report
    lost = {reason: count for reason, count in report.lost_records.items() if count}
    return OnlineCounts(
        rows=report.windows * window,
        unusable_rows={reason: count * window for reason, count in report.invalid_windows.items()},
        lost_records=lost,
        short_runs=report.short_pieces,
        short_rows=report.short_records * 2 * window,
        clipped_records=report.clipped_records,
    )


def total_reward(episode: FinishedEpisode) -> float:
    """Sum of the rewards of the records that are stored."""
    return float(sum(piece.rewards.sum(dtype=np.float64) for piece in episode.episodes))


def smoothed(before: float | None, value: float) -> float:
    """The running reward after one more episode."""
    return value if before is None else before + SHARE * (value - before)


def training_log(
    episode: FinishedEpisode,
    running: float | None,
    learned: EpisodeLearned | None,
    *,
    note: str | None,
    tracked: str | None,
) -> dict[str, Any]:
    """What happened in an episode as JSON: a line a decision with the record that became of it.

    Args:
        episode: as the control loop left it.
        running: reward smoothed up to this episode.
        learned: what the learner made of it.
        note: why it made nothing of it.
        tracked: MLflow's id of the run.
    """
    by_time = {record.time_ns: record for record in episode.records}
    losses = learned.model_dump(mode="json") if learned is not None else None
    return {
        "key": episode.key,
        "episode": episode.number,
        "began": datetime.fromtimestamp(episode.started_ns / 1e9, UTC).isoformat(),
        "end_reason": episode.reason,
        "agent": str(episode.agent) if episode.agent is not None else None,
        "pieces": len(episode.episodes),
        "records": sum(map(len, episode.episodes)),
        "total_reward": total_reward(episode),
        "running_reward": running,
        "lost_records": dict(episode.report.lost_records),
        "invalid_windows": dict(episode.report.invalid_windows),
        "latency_ms": episode.latency.summary_ms(),
        "learning": losses,
        "learner": note,
        "mlflow_run": tracked,
        "steps": [_line(decision, by_time.get(decision.time_ns)) for decision in episode.decisions],
    }


def _line(decision: Decision, record: Record | None) -> dict[str, Any]:
    return {
        "time": datetime.fromtimestamp(decision.time_ns / 1e9, UTC).isoformat(),
        "time_ns": decision.time_ns,
        "first_row": decision.first_row,
        "action_norm": round(decision.norm, 6),
        "flash": decision.result,
        "code": decision.code,
        "reason": decision.reason,
        "clipped": decision.clipped,
        "latency_ms": _ms(decision.latency_s),
        "flash_ms": _ms(decision.flash_s),
        "reward": record.reward if record is not None else None,
        "energy_wh": record.energy_wh if record is not None else None,
        "applied_norm": (
            round(math.sqrt(float(np.mean(np.square(record.action, dtype=np.float64)))), 6)
            if record is not None
            else None
        ),
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1e3 * seconds, 4)
