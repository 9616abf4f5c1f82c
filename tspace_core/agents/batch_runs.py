"""Scoring and training over many partitions: each log, each vehicle a unit of work, in parallel, resumable.

What is there already decides what is left to do: a log whose scores are of these inputs and a vehicle whose
latest agent is of this run are skipped. A partition that fails costs only itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from tspace_core.agents.offline_run import (
    AGENT,
    Trained,
    Trainer,
    has_agent,
    latest_agent,
    newest_agent,
    require_agent,
    run_name,
    train_agent,
)
from tspace_core.config import Vehicle, load_hyperparameters
from tspace_core.errors import AgentError, CheckpointError, StorageError
from tspace_core.objects.path import AnyPath
from tspace_core.storage.batch import run_batch
from tspace_core.storage.champion import champion
from tspace_core.storage.lake import Lake, RawLog
from tspace_core.storage.writer import Writer

if TYPE_CHECKING:
    from tspace_core.agents.scores import Scores
    from tspace_core.agents.tracking import Tracker

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


@dataclass(frozen=True)
class Chosen:
    """A checkpoint that is meant, and why it is that one.

    Attributes:
        checkpoint: its folder.
        why: which agent it is and what chose it, for people.
    """

    checkpoint: AnyPath
    why: str


def choose_checkpoint(
    lake: Lake, vehicle_id: str, wanted: str | None = None, *, agent: str | None = None
) -> Chosen:
    """The checkpoint that is meant.

    Args:
        lake: with the checkpoints.
        vehicle_id: whose.
        wanted: a folder, ``<agent>/<run>/<step>`` in the lake, or ``champion``; default: the latest trained
            agent of the kind that is released, or the champion where none of it was trained. Where nothing is
            released, the agent that was trained last.
        agent: the kind of agent instead of the released one's.

    Raises:
        CheckpointError: there is none; the latest agent's checkpoint is gone; or both ``wanted`` and
            ``agent`` are given and do not agree.
        AgentError: there is no such kind.
        StorageError: the file that names the latest agent is damaged.
    """
    from tspace_core.objects.path import any_path

    if agent is not None:
        require_agent(agent)
    if wanted is not None and wanted != CHAMPION:
        if agent is not None:
            message = f"both the checkpoint {wanted} and the agent {agent} are named: leave one out"
            raise CheckpointError(message)
        named = any_path(wanted)
        return Chosen(named if named.is_dir() else lake.root / "checkpoints" / wanted, f"{wanted}, as named")
    released = champion(lake, vehicle_id)
    kind = agent or (released.agent if released else None)
    if wanted is None:
        trained = newest_agent(lake, vehicle_id) if kind is None else None
        # A kind whose latest is gone is an error: another agent would be scored, and nobody would know.
        if kind is not None and has_agent(lake, vehicle_id, kind):
            trained = latest_agent(lake, vehicle_id, kind)
        if trained is not None:
            ground = "as asked for" if agent else f"{kind} is released" if kind else "nothing is released"
            what = f"the latest {trained.agent} agent, {trained.run} step {trained.step}"
            return Chosen(trained.checkpoint, f"{what} ({ground})")
        if released is None or released.agent != kind:
            latest_agent(lake, vehicle_id, kind or AGENT)  # says that there is none
    if released is None:
        message = f"nothing is released for {vehicle_id}: release a checkpoint (tspace release), or name one"
        raise CheckpointError(message)
    if released.agent != kind:
        message = f"the champion of {vehicle_id} is a {released.agent} agent, not {kind}: leave one out"
        raise CheckpointError(message)
    what = f"the champion, {released.agent} {released.run} step {released.step}"
    return Chosen(released.checkpoint, what)


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
    agent: str = AGENT,
    updates: int | None = None,
    seed: int | None = None,
    repeat_records: bool | None = None,
    tracking_uri: str | None = None,
    workers: int = 1,
    again: bool = False,
    tell: Tell = lambda line: None,
    trainer: Trainer | None = None,
) -> TrainReport:
    """Train an agent a vehicle on its latest replay buffer, each vehicle a unit of work; see ``train_agent``.

    The last checkpoint, the file that makes it the latest and its figures become visible together. Those in
    between are visible at once: a training that was stopped goes on from them.

    Args:
        lake: with the replay buffers.
        vehicle_ids: whose.
        agent: name in ``AGENTS``.
        updates: in all; default: ``offline_updates`` of the hyperparameters.
        seed: default: that of the hyperparameters.
        repeat_records: as in ``train_agent``.
        tracking_uri: MLflow's tracking store, an experiment a vehicle; None tracks nothing.
        workers: processes.
        again: also vehicles whose latest agent is of this run: its figures are stored once more. A finished
            run is never trained twice, as it would give the same weights.
        tell: is told each vehicle that has ended.
        trainer: what carries a training out, one vehicle after the other; default: the ``workers``.

    Raises:
        StorageError: the lake cannot be written.
    """
    report = TrainReport()
    total = updates or load_hyperparameters(agent).offline_updates
    if not again:
        for vehicle_id in vehicle_ids:
            found = _finished(lake, vehicle_id, agent, total, seed)
            if found is not None:
                report.trained[vehicle_id] = found
                report.skipped.append(vehicle_id)
    todo = [vehicle_id for vehicle_id in vehicle_ids if vehicle_id not in report.trained]
    if todo and tracking_uri is not None:
        from tspace_core.agents.tracking import prepare_store

        prepare_store(tracking_uri)
    work = partial(
        _train,
        agent=agent,
        updates=updates,
        seed=seed,
        repeat_records=repeat_records,
        tracking_uri=tracking_uri,
        trainer=trainer,
    )
    # A trainer is this process's: its own workers share each training.
    count = workers if trainer is None else 1
    batch = run_batch(lake, f"train-{agent}", todo, work, workers=count, again=True, tell=tell)
    report.failed.update(batch.failed)
    for vehicle_id in batch.done:
        report.trained[vehicle_id] = latest_agent(lake, vehicle_id, agent)
    return report


def _finished(lake: Lake, vehicle_id: str, agent: str, updates: int, seed: int | None) -> Trained | None:
    try:
        found = latest_agent(lake, vehicle_id, agent)
        mine = run_name(lake, vehicle_id, agent=agent, seed=seed)
    except (AgentError, StorageError):
        return None  # nothing there yet, or said by its own unit of work
    return found if found.run == mine and found.step >= updates else None


def _train(
    lake: Lake,
    vehicle_id: str,
    writer: Writer,
    *,
    agent: str,
    updates: int | None,
    seed: int | None,
    repeat_records: bool | None,
    tracking_uri: str | None,
    trainer: Trainer | None,
) -> Mapping[str, Any]:
    trained = train_agent(
        lake,
        vehicle_id,
        agent=agent,
        updates=updates,
        seed=seed,
        repeat_records=repeat_records,
        tracker=None if tracking_uri is None else partial(tracker_of, lake, vehicle_id, tracking_uri),
        writer=writer,
        trainer=trainer,
    )
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


def tracker_of(lake: Lake, vehicle_id: str, uri: str, run: str) -> "Tracker":
    """The tracker of a run, in the vehicle's experiment."""
    from tspace_core.agents.tracking import Tracker, artifact_folder

    return Tracker(
        uri,
        experiment=f"tspace/{vehicle_id}",
        artifacts=artifact_folder(lake) if uri.startswith("sqlite:") else None,
        run_name=run,
        spool=lake.local / "tracking",
    )
