"""One training in the twin for a vehicle of the lake: what an engine drives, a gate, and the note of it.

::

    checkpoints/ddpg/<vehicle>-twin-<hash of plan and hyperparameters>/<decisions>/
    checkpoints/ddpg/<vehicle>-twin-<hash>/trained.json     what is noted of a finished run
    checkpoints/ddpg/<vehicle>.json         the run whose agent is the latest, as after a training on a replay

Evaluation and release take the agent from there. The checkpoint is a whole one, of the end of the training
but with the policy that passed the gate best: the online loop can drive with it and learn on.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tspace_core.agents.batch_runs import tracker_of
from tspace_core.agents.checkpoint import Checkpoint, CheckpointStore
from tspace_core.agents.ddpg import DDPG
from tspace_core.agents.gymnasium_learning import Progress
from tspace_core.agents.gymnasium_state import GymnasiumSummary, RunPoint
from tspace_core.agents.mixed_replay import LiveReplay
from tspace_core.agents.offline_run import Trained, note_trained, one_thread
from tspace_core.agents.tracking import RunTracker
from tspace_core.agents.training import SeriesPoint, TrainSummary
from tspace_core.config import DDPGHyperparameters, Vehicle
from tspace_core.distributed import Engine, train_from_rollouts
from tspace_core.errors import AgentError, CheckpointError, WriterBusyError
from tspace_core.evaluation.twin_training import (
    TwinTrained,
    TwinTraining,
    place_options,
    train_in_twin,
)
from tspace_core.storage.lake import Lake, read_json
from tspace_core.storage.only_one import only_one
from tspace_core.storage.writer import DIRECT

if TYPE_CHECKING:
    from tspace_core.objects.path import AnyPath

ENVIRONMENT = "tspace_core.twin.environment:TorqueMap-v0"
NOTE = "trained.json"


@dataclass(frozen=True, eq=False)
class TwinRun:
    """What there is now.

    Attributes:
        trained: as noted in the lake.
        found: what the training and its gate gave; None: the run was finished before.
    """

    trained: Trained
    found: TwinTrained | None


def train_vehicle_in_twin(
    lake: Lake,
    vehicle: Vehicle,
    hyper: DDPGHyperparameters,
    plan: TwinTraining,
    engine: Engine,
    *,
    seed: int = 0,
    tracking_uri: str | None = None,
    tell: Callable[[str], object] = lambda line: None,
) -> TwinRun:
    """Train a DDPG agent in the vehicle's twin; a stopped run goes on, a finished one is not done again.

    Its agent is the vehicle's latest then, also where another one was trained since a run was finished.

    Args:
        lake: takes the checkpoint.
        vehicle: with a twin.
        hyper: of the agent.
        plan: how much is driven, and the gate.
        engine: drives rounds of whole episodes, see ``train_from_rollouts``; each gives the same agent.
        seed: of weights, routes, feet, noise and batches.
        tracking_uri: MLflow's tracking store; None tracks nothing.
        tell: is told how far it is.

    Raises:
        AgentError: training diverged, the plan does not fit, or nothing is learned by it.
        CheckpointError: the checkpoints to go on from, or the note of a finished run, are damaged.
        TwinError: the vehicle has no twin.
        EngineError: the engine's cluster is gone; run it again to go on.
        WriterBusyError: this training is going on in another process of this machine.
    """
    run = run_name(vehicle, hyper, plan, seed)
    work = Path(lake.local) / "twin_training" / run
    with only_one(work.with_suffix(".lock"), lambda holder: _busy(run, holder)):
        store = CheckpointStore(lake.checkpoints(DDPG.name, run), keep=hyper.checkpoints_kept)
        before = _finished(store)
        if before is not None:
            note_trained(lake, before)
            return TwinRun(before, None)
        steps = plan.episodes * plan.decisions(vehicle)
        if steps < hyper.batch_size:
            message = (
                f"{plan.episodes} episodes of {plan.minutes:g} minutes give {steps} decisions, a batch takes "
                f"{hyper.batch_size}; drive more or longer episodes, or lower batch_size"
            )
            raise AgentError(message)
        replay = LiveReplay(vehicle.sampling.state_dim, vehicle.action_dim, steps)
        shutil.rmtree(work / "policy", ignore_errors=True)  # of a run that was stopped before its note
        with one_thread():
            found = train_in_twin(
                vehicle,
                hyper,
                plan,
                seed=seed,
                folder=work,
                tracker=None if tracking_uri is None else tracker_of(lake, vehicle.id, tracking_uri, run),
                progress=_teller(tell),
                drive=_Drive(engine, replay),
            )
        step = found.summary.steps
        if step not in store.steps():
            agent = DDPG.load(CheckpointStore(work / "checkpoints").latest(), mode="train")
            agent.take_policy(Checkpoint(found.policy))
            store.save(agent, step)
        trained = Trained(
            vehicle_id=vehicle.id,
            run=run,
            step=step,
            summary=_as_trained(found.summary, plan, replay, hyper, store.path(step)),
            hyperparameters=hyper,
            finished=datetime.now(UTC),
            folder=store.root,
        )
        content = trained.model_dump_json(indent=1, exclude={"folder"})
        DIRECT.text(store.root / NOTE, content)
        note_trained(lake, trained)
        shutil.rmtree(work)
        return TwinRun(trained, found)


def _busy(run: str, holder: str) -> WriterBusyError:
    return WriterBusyError(f"{run}: process {holder} is doing this training; wait for it, or stop it first")


@dataclass(frozen=True)
class _Drive:
    """Drives by a plan and keeps the records; see ``twin_training.Drive``."""

    engine: Engine
    replay: LiveReplay

    def __call__(
        self,
        vehicle: Vehicle,
        plan: TwinTraining,
        agent: DDPG,
        store: CheckpointStore,
        *,
        seed: int,
        tracker: RunTracker | None,
        progress: Progress | None,
    ) -> GymnasiumSummary:
        """Train, and go on from the newest checkpoint.

        Raises:
            AgentError: as ``train_from_rollouts``; or nothing is learned by this plan.
        """
        if plan.warm_up_episodes > plan.episodes:
            message = (
                f"{plan.episodes} episodes end before anything is learned: a warm-up of "
                f"{plan.warm_up_episodes} comes first; drive more, or warm up less"
            )
            raise AgentError(message)
        summary = train_from_rollouts(
            self.engine,
            agent,
            ENVIRONMENT,
            episodes=plan.episodes,
            options=place_options(vehicle, plan),
            places=plan.places,
            warm_up_episodes=plan.warm_up_episodes,
            updates_per_step=plan.updates_per_step,
            seed=seed,
            replay=self.replay,
            checkpoints=store,
            resume=True,
            tracker=tracker,
            progress=progress,
        )
        if not summary.updates:  # fresh networks are no agent to evaluate or to release
            message = (
                f"nothing was learned from the {summary.steps} decisions of {plan.episodes} episodes, a "
                f"batch takes {agent.hyper.batch_size}; drive more or longer episodes, or lower batch_size"
            )
            raise AgentError(message)
        return summary


def _finished(store: CheckpointStore) -> Trained | None:
    """A run as it was noted when it ended; None: it is not finished, or its checkpoint is gone."""
    path = store.root / NOTE
    if not path.is_file():
        return None
    try:
        found = Trained.model_validate({**read_json(path), "folder": store.root})
    except ValueError as error:
        message = f"{path} names no agent ({error}): delete it, and train in the twin again"
        raise CheckpointError(message) from error
    return found if found.step in store.steps() else None


def run_name(vehicle: Vehicle, hyper: DDPGHyperparameters, plan: TwinTraining, seed: int) -> str:
    """Name of a run: by vehicle, plan, hyperparameters and seed."""
    content = [
        vehicle.model_dump(mode="json"),
        hyper.model_dump(mode="json"),
        plan.model_dump(mode="json"),
        seed,
    ]
    text = json.dumps(content, sort_keys=True)
    return f"{vehicle.id}-twin-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _teller(tell: Callable[[str], object]) -> Progress:
    def progress(done: int, of: int, point: RunPoint) -> None:
        tell(
            f"{100 * done // of} % driven, {point.updates} updates, critic loss {point.critic_loss:.4g}, "
            f"mean reward {point.reward:.4g}"
        )

    return progress


def _as_trained(
    summary: GymnasiumSummary,
    plan: TwinTraining,
    replay: LiveReplay,
    hyper: DDPGHyperparameters,
    checkpoint: "AnyPath",
) -> TrainSummary:
    """A run in an environment in the terms of one on a replay buffer."""
    rewards = replay.split(replay.block(np.arange(len(replay)))).rewards
    scale = hyper.reward_scale / (1.0 - hyper.gamma)
    low, high = min(0.0, float(rewards.min()) * scale), max(0.0, float(rewards.max()) * scale)
    kept = set(SeriesPoint.model_fields) - {"update"}
    series = tuple(
        SeriesPoint(update=point.updates, **point.model_dump(include=kept)) for point in summary.series
    )
    return TrainSummary(
        agent=summary.agent,
        replay=f"{plan.episodes} episodes driven in {summary.environment}",
        replay_version=None,
        run_id=summary.run_id,
        updates=summary.updates,
        resumed_from=summary.resumed_from,
        series=series,
        value_range=(low, high),
        overestimating=bool(series) and not low <= series[-1].mean_q <= high,
        checkpoint=checkpoint,
        wall_s=summary.wall_s,
        updates_per_s=summary.updates / max(summary.wall_s, 1e-9),
    )
