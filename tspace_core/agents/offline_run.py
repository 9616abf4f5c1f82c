"""One offline training run: from a vehicle's latest replay buffer to checkpoints in the lake, tracked or not.

::

    checkpoints/ddpg/<vehicle>-<replay version>-<hash of hyperparameters>/<step>/
    checkpoints/ddpg/<vehicle>.json      the run whose agent is the latest, and its summary

The same replay version and hyperparameters give the same run: a stopped one goes on from its last checkpoint,
a finished one is not done again.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from tspace_core.agents.training import TrainSummary
from tspace_core.config import DDPGHyperparameters, load_hyperparameters
from tspace_core.errors import CheckpointError
from tspace_core.objects.fields import PathField
from tspace_core.objects.path import AnyPath
from tspace_core.storage.lake import Lake, read_json
from tspace_core.storage.writer import DIRECT, Writer

if TYPE_CHECKING:
    from tspace_core.agents.tracking import RunTracker
    from tspace_core.storage.replay import Replay

AGENT = "ddpg"


class Trained(BaseModel):
    """The latest agent of a vehicle."""

    model_config = ConfigDict(frozen=True)

    vehicle_id: str
    run: str
    step: int
    summary: TrainSummary
    hyperparameters: DDPGHyperparameters
    finished: datetime
    folder: PathField

    @property
    def checkpoint(self) -> AnyPath:
        """Folder of the checkpoint."""
        return self.folder / f"{self.step:08d}"


def train_ddpg(
    lake: Lake,
    vehicle_id: str,
    *,
    updates: int | None = None,
    seed: int | None = None,
    tracker: "Callable[[str], RunTracker] | None" = None,
    tell: Callable[[str], object] = lambda line: None,
    writer: Writer = DIRECT,
) -> Trained:
    """Train a fresh agent on the vehicle's latest replay buffer; a stopped run goes on.

    Args:
        lake: with the replay buffer.
        vehicle_id: whose.
        updates: in all; default: ``offline_updates`` of the hyperparameters.
        seed: default: that of the hyperparameters.
        tracker: makes the tracker of a run by its name; None tracks nothing.
        tell: is told how far it is, ten times a run.
        writer: of the last checkpoint and the pointer to it.

    Raises:
        StorageError: there is no replay buffer.
        AgentError: training diverged, or the buffer does not fit.
        CheckpointError: the checkpoint to go on from is damaged.
    """
    from tspace_core.agents import DDPG, CheckpointStore
    from tspace_core.agents.training import SeriesPoint, train_offline
    from tspace_core.storage.replay import Replay

    hyper = _hyperparameters(seed)
    total = updates or hyper.offline_updates
    replay = Replay.open(lake.replay(vehicle_id))
    run = _run(vehicle_id, replay, hyper)
    folder = lake.checkpoints(AGENT, run)
    store = CheckpointStore(folder, keep=hyper.checkpoints_kept, every=hyper.offline_checkpoint_every)
    agent = DDPG(hyper, replay.layout.state_dim, replay.layout.action_dim)
    told = 0

    def progress(done: int, of: int, point: SeriesPoint) -> None:
        nonlocal told
        if done * 10 // of > told:
            told = done * 10 // of
            tell(
                f"{done} of {of} updates, critic loss {point.critic_loss:.4g}, mean value {point.mean_q:.4g}"
            )

    with one_thread():
        summary = train_offline(
            agent,
            replay,
            updates=total,
            tracker=tracker(run) if tracker else None,
            checkpoints=store,
            progress=progress,
            resume=True,
            writer=writer,
        )
    trained = Trained(
        vehicle_id=vehicle_id,
        run=run,
        step=summary.updates,
        summary=summary,
        hyperparameters=hyper,
        finished=datetime.now(UTC),
        folder=folder,
    )
    content = trained.model_dump(mode="json", exclude={"folder"})
    writer.text(_pointer(lake, vehicle_id), json.dumps(content, indent=1))
    return trained


def run_name(lake: Lake, vehicle_id: str, *, seed: int | None = None) -> str:
    """Name of the run that ``train_ddpg`` would do: by vehicle, replay version, hyperparameters and seed.

    Raises:
        StorageError: there is no replay buffer.
    """
    from tspace_core.storage.replay import Replay

    return _run(vehicle_id, Replay.open(lake.replay(vehicle_id)), _hyperparameters(seed))


def _hyperparameters(seed: int | None) -> DDPGHyperparameters:
    hyper = load_hyperparameters(AGENT)
    return hyper if seed is None else hyper.model_copy(update={"seed": seed})


def _run(vehicle_id: str, replay: "Replay", hyper: DDPGHyperparameters) -> str:
    return f"{vehicle_id}-{replay.manifest.version}-{_hash(hyper)}"


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch work on one thread: networks this small are no faster on two, and slower beside others."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def has_agent(lake: Lake, vehicle_id: str) -> bool:
    """Whether something is noted as the vehicle's latest trained agent."""
    return _pointer(lake, vehicle_id).is_file()


def latest_agent(lake: Lake, vehicle_id: str) -> Trained:
    """The latest trained agent of a vehicle.

    Raises:
        CheckpointError: there is none, or its checkpoint is gone.
    """
    path = _pointer(lake, vehicle_id)
    if not has_agent(lake, vehicle_id):
        message = f"no agent was trained for {vehicle_id} in {lake.root}: materialize ddpg_checkpoint first"
        raise CheckpointError(message)
    content = read_json(path)
    try:
        trained = Trained.model_validate({**content, "folder": lake.checkpoints(AGENT, content["run"])})
    except (KeyError, TypeError, ValueError) as error:
        message = (
            f"{path} names no agent ({type(error).__name__}: {error}): materialize ddpg_checkpoint again"
        )
        raise CheckpointError(message) from error
    if not trained.checkpoint.is_dir():
        message = f"{trained.checkpoint} is gone, though {path} names it: materialize ddpg_checkpoint again"
        raise CheckpointError(message)
    return trained


def _pointer(lake: Lake, vehicle_id: str) -> AnyPath:
    return lake.checkpoints(AGENT, f"{vehicle_id}.json")


def _hash(hyper: DDPGHyperparameters) -> str:
    # How often checkpoints are written and how long to train do not make another agent.
    changing = {"offline_updates", "checkpoint_every", "offline_checkpoint_every", "checkpoints_kept"}
    text = json.dumps(hyper.model_dump(mode="json", exclude=changing), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
