"""Scoring and training over many partitions: each log, each vehicle a unit of work, in parallel, resumable.

What is there already decides what is left to do: a log whose scores are of these inputs and a vehicle whose
latest agent is of this run are skipped. A partition that fails costs only itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from tspace_core.agents.offline_run import AGENT, Trained, has_agent, latest_agent, run_name, train_ddpg
from tspace_core.config import Vehicle, load_hyperparameters
from tspace_core.errors import AgentError, CheckpointError, StorageError
from tspace_core.objects.path import AnyPath
from tspace_core.storage.batch import run_batch
from tspace_core.storage.champion import champion
from tspace_core.storage.lake import Lake, RawLog
from tspace_core.storage.writer import Writer

if TYPE_CHECKING:
    from tspace_core.agents.scores import Scores

Tell = Callable[[str], object]
CHAMPION = "champion"
"""Stands for the released checkpoint where a checkpoint is asked for."""


@dataclass(frozen=True)
class ScoreReport:
    """What became of the logs.

    Attributes:
        checkpoint: folder of the checkpoint.
        scores: of all logs that have them now, by key.
        skipped: those whose scores were there before.
        failed: what went wrong, by key.
    """

    checkpoint: AnyPath
    scores: "dict[str, Scores]" = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainReport:
    """What became of the vehicles.

    Attributes:
        trained: the latest agents by vehicle.
        skipped: vehicles whose latest agent is of this run already.
        failed: what went wrong, by vehicle.
    """

    trained: dict[str, Trained] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def choose_checkpoint(lake: Lake, vehicle_id: str, wanted: str | None = None) -> AnyPath:
    """The checkpoint that is meant.

    Args:
        lake: with the checkpoints.
        vehicle_id: whose.
        wanted: a folder, ``<agent>/<run>/<step>`` in the lake, or ``champion``; default: the vehicle's latest
            trained agent, or its champion where none was trained.

    Raises:
        CheckpointError: there is none; or the latest agent's checkpoint is gone.
        StorageError: the file that names the latest agent is damaged.
    """
    from tspace_core.objects.path import any_path

    if wanted is not None and wanted != CHAMPION:
        named = any_path(wanted)
        return named if named.is_dir() else lake.root / "checkpoints" / wanted
    nothing = f"nothing is released for {vehicle_id}: release a checkpoint (tspace release), or name one"
    if wanted is None:
        try:
            return latest_agent(lake, vehicle_id).checkpoint
        except CheckpointError as error:
            if has_agent(lake, vehicle_id):
                raise  # another agent than the one that is meant would be scored, and nobody would know
            nothing = str(error)
    released = champion(lake, vehicle_id)
    if released is None:
        raise CheckpointError(nothing)
    return released.checkpoint


def score_logs(
    lake: Lake,
    vehicle: Vehicle,
    logs: Sequence[RawLog],
    checkpoint: AnyPath,
    *,
    workers: int = 1,
    again: bool = False,
    tell: Tell = lambda line: None,
) -> ScoreReport:
    """Score the episodes of logs, each log a unit of work; see ``scoring.store_scores``.

    Args:
        lake: with the episodes.
        vehicle: whose logs they are.
        logs: to be scored.
        checkpoint: folder of the checkpoint.
        workers: processes.
        again: also those that are scored already.
        tell: is told each log that has ended.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or of another type of vehicle.
        StorageError: the lake cannot be written.
    """
    from tspace_core.agents.scoring import check_fits, open_checkpoint

    opened = open_checkpoint(str(checkpoint))
    check_fits(opened, vehicle)
    report = ScoreReport(checkpoint)
    wanted = {log.key: log for log in logs}
    if not again:
        _take_current(lake, vehicle, opened.id, wanted, report)
        report.skipped.extend(report.scores)
    todo = [key for key in wanted if key not in report.scores]
    work = partial(_score, checkpoint=str(checkpoint), vehicle=vehicle, again=again)
    # Which are left to do was found out by what is stored: marks of an earlier batch say less.
    batch = run_batch(lake, f"policy_actions-{opened.id}", todo, work, workers=workers, again=True, tell=tell)
    ended = [key for key in todo if key in batch.done or not again]
    _take_current(lake, vehicle, opened.id, {key: wanted[key] for key in ended}, report)
    # Two runs at once: what the other one has done meanwhile is done.
    theirs = {key for key in batch.failed if key in report.scores}
    report.skipped.extend(sorted(theirs))
    report.failed.update({key: text for key, text in batch.failed.items() if key not in theirs})
    return report


def _take_current(
    lake: Lake, vehicle: Vehicle, identity: str, logs: Mapping[str, RawLog], report: ScoreReport
) -> None:
    from tspace_core.agents.scoring import current_scores

    for key, log in logs.items():
        try:
            found = current_scores(lake, log, vehicle, identity)
        except StorageError:
            continue  # said by its own unit of work
        if found is not None:
            report.scores[key] = found


def _score(
    lake: Lake, key: str, writer: Writer, *, checkpoint: str, vehicle: Vehicle, again: bool
) -> Mapping[str, Any]:
    from tspace_core.agents.scoring import store_scores

    scores = store_scores(lake, key, checkpoint, vehicle=vehicle, writer=writer, again=again)
    large = {"distances", "flashes", "change_nm", "path", "key"}
    return {
        **scores.model_dump(mode="json", exclude=large),
        "distance_quantiles": scores.distance_quantiles(),
    }


def train_vehicles(
    lake: Lake,
    vehicle_ids: Sequence[str],
    *,
    updates: int | None = None,
    seed: int | None = None,
    workers: int = 1,
    again: bool = False,
    tell: Tell = lambda line: None,
) -> TrainReport:
    """Train an agent a vehicle on its latest replay buffer, each vehicle a unit of work; see ``train_ddpg``.

    The last checkpoint, the file that makes it the latest and its figures become visible together. Those in
    between are visible at once: a training that was stopped goes on from them.

    Args:
        lake: with the replay buffers.
        vehicle_ids: whose.
        updates: in all; default: ``offline_updates`` of the hyperparameters.
        seed: default: that of the hyperparameters.
        workers: processes.
        again: also vehicles whose latest agent is of this run: its figures are stored once more. A finished
            run is never trained twice, as it would give the same weights.
        tell: is told each vehicle that has ended.

    Raises:
        StorageError: the lake cannot be written.
    """
    report = TrainReport()
    total = updates or load_hyperparameters(AGENT).offline_updates
    if not again:
        for vehicle_id in vehicle_ids:
            found = _finished(lake, vehicle_id, total, seed)
            if found is not None:
                report.trained[vehicle_id] = found
                report.skipped.append(vehicle_id)
    todo = [vehicle_id for vehicle_id in vehicle_ids if vehicle_id not in report.trained]
    work = partial(_train, updates=updates, seed=seed)
    batch = run_batch(lake, f"train-{AGENT}", todo, work, workers=workers, again=True, tell=tell)
    report.failed.update(batch.failed)
    for vehicle_id in batch.done:
        report.trained[vehicle_id] = latest_agent(lake, vehicle_id)
    return report


def _finished(lake: Lake, vehicle_id: str, updates: int, seed: int | None) -> Trained | None:
    try:
        found = latest_agent(lake, vehicle_id)
        mine = run_name(lake, vehicle_id, seed=seed)
    except (AgentError, StorageError):
        return None  # nothing there yet, or said by its own unit of work
    return found if found.run == mine and found.step >= updates else None


def _train(
    lake: Lake, vehicle_id: str, writer: Writer, *, updates: int | None, seed: int | None
) -> Mapping[str, Any]:
    trained = train_ddpg(lake, vehicle_id, updates=updates, seed=seed, writer=writer)
    summary = trained.summary
    return {
        "run": trained.run,
        "step": trained.step,
        "replay_version": summary.replay_version,
        "resumed_from": summary.resumed_from,
        "overestimating": summary.overestimating,
        "updates_per_s": summary.updates_per_s,
        **(summary.series[-1].model_dump() if summary.series else {}),
    }
