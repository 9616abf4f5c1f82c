"""One offline training run: from a vehicle's latest replay buffer to checkpoints in the lake, tracked or not.

::

    checkpoints/<agent>/<vehicle>-<replay version>-<hash of hyperparameters>/<step>/
    checkpoints/<agent>/<vehicle>.json      the run whose agent is the latest of its kind, and its summary

The same replay version and hyperparameters give the same run: a stopped one goes on from its last checkpoint,
a finished one is not done again.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, ConfigDict, SerializeAsAny, ValidationInfo, field_validator

from tspace_core.agents.training import TrainSummary
from tspace_core.config import AgentHyperparameters, load_hyperparameters
from tspace_core.config.hyperparameters import HYPERPARAMETERS
from tspace_core.errors import AgentError, CheckpointError
from tspace_core.objects.fields import PathField
from tspace_core.objects.path import AnyPath
from tspace_core.storage.lake import Lake, read_json
from tspace_core.storage.writer import DIRECT, Writer

if TYPE_CHECKING:
    from tspace_core.agents.checkpoint import CheckpointStore
    from tspace_core.agents.dpg import DPG
    from tspace_core.agents.tracking import RunTracker
    from tspace_core.agents.training import Progress
    from tspace_core.storage.replay import Replay

AGENT = "ddpg"
"""The agent that is trained where none is named."""


class Trainer(Protocol):
    """What carries out a training: ``train_offline`` in this process, or the same on a cluster.

    A trainer takes over the agent as it is given, resumes from ``checkpoints`` where ``resume`` says so,
    writes the same checkpoints (``checkpoints.every`` updates, the last one through ``writer``), tells
    ``progress`` and ``tracker`` in this process, and leaves ``agent`` with the trained weights. The
    agent's ``made_for`` and seed are kept. Its errors are those of ``train_offline``, and ``EngineError``
    where the cluster is gone.
    """

    def __call__(
        self,
        agent: "DPG",
        replay: "Replay",
        *,
        updates: int,
        tracker: "RunTracker | None" = None,
        checkpoints: "CheckpointStore | None" = None,
        progress: "Progress | None" = None,
        resume: bool = False,
        report_every: int = ...,
        writer: Writer = DIRECT,
    ) -> TrainSummary:
        """Train; see ``train_offline``."""


class Trained(BaseModel):
    """The latest agent of a vehicle."""

    model_config = ConfigDict(frozen=True)

    vehicle_id: str
    run: str
    step: int
    summary: TrainSummary
    hyperparameters: SerializeAsAny[AgentHyperparameters]
    finished: datetime
    folder: PathField

    @field_validator("hyperparameters", mode="before")
    @classmethod
    def _of_the_agent(cls, given: Any, info: ValidationInfo) -> Any:
        """Read as the model of the summary's agent: a base class would refuse the agent's own fields."""
        if isinstance(given, AgentHyperparameters) or "summary" not in info.data:
            return given
        name = info.data["summary"].agent
        if name not in HYPERPARAMETERS:
            message = f"of an unknown agent {name!r}; known: {', '.join(HYPERPARAMETERS)}"
            raise ValueError(message)
        return HYPERPARAMETERS[name].model_validate(given)

    @property
    def agent(self) -> str:
        """Name of the agent."""
        return self.summary.agent

    @property
    def checkpoint(self) -> AnyPath:
        """Folder of the checkpoint."""
        return self.folder / f"{self.step:08d}"


def train_agent(
    lake: Lake,
    vehicle_id: str,
    *,
    agent: str = AGENT,
    updates: int | None = None,
    seed: int | None = None,
    tracker: "Callable[[str], RunTracker] | None" = None,
    tell: Callable[[str], object] = lambda line: None,
    writer: Writer = DIRECT,
    hyper: AgentHyperparameters | None = None,
    repeat_records: bool | None = None,
    trainer: Trainer | None = None,
) -> Trained:
    """Train a fresh agent on the vehicle's latest replay buffer; a stopped run goes on.

    Args:
        lake: with the replay buffer.
        vehicle_id: whose.
        agent: name in ``AGENTS``.
        updates: in all; default: ``offline_updates`` of the hyperparameters.
        seed: default: that of the hyperparameters.
        tracker: makes the tracker of a run by its name; None tracks nothing.
        tell: is told how far it is, ten times a run.
        writer: of the last checkpoint and the pointer to it.
        hyper: of the agent; default: the agent's file in conf/hyperparameters.
        repeat_records: learn also where the buffer holds fewer records than a batch; default: that of the
            hyperparameters.
        trainer: what carries the training out; default: this process.

    Raises:
        StorageError: there is no replay buffer.
        AgentError: an unknown agent, training diverged, or the buffer does not fit.
        CheckpointError: the checkpoints to go on from are of another agent.
        EngineError: the trainer's cluster is gone.
    """
    from tspace_core.agents.checkpoint import CheckpointStore
    from tspace_core.agents.made_for import made_for
    from tspace_core.agents.training import SeriesPoint, train_offline
    from tspace_core.storage.replay import Replay

    chosen = _hyperparameters(agent, hyper, seed, repeat_records=repeat_records)
    total = updates or chosen.offline_updates
    replay = Replay.open(lake.replay(vehicle_id))
    run = _run(vehicle_id, replay, chosen)
    folder = lake.checkpoints(agent, run)
    store = CheckpointStore(folder, keep=chosen.checkpoints_kept, every=chosen.offline_checkpoint_every)
    fresh = agent_class(agent)(chosen, replay.layout.state_dim, replay.layout.action_dim)
    fresh.made_for = made_for(replay.layout)
    told = 0

    def progress(done: int, of: int, point: SeriesPoint) -> None:
        nonlocal told
        if done * 10 // of > told:
            told = done * 10 // of
            tell(
                f"{done} of {of} updates, critic loss {point.critic_loss:.4g}, mean value {point.mean_q:.4g}"
            )

    with one_thread():
        summary = (trainer or train_offline)(
            fresh,
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
        hyperparameters=chosen,
        finished=datetime.now(UTC),
        folder=folder,
    )
    note_trained(lake, trained, writer)
    return trained


def note_trained(lake: Lake, trained: Trained, writer: Writer = DIRECT) -> None:
    """Make an agent the latest of its kind for its vehicle."""
    content = trained.model_dump(mode="json", exclude={"folder"})
    writer.text(_pointer(lake, trained.vehicle_id, trained.agent), json.dumps(content, indent=1))


def agent_class(name: str) -> "type[DPG]":
    """The agent's class.

    Raises:
        AgentError: there is no such agent; lists those there are.
    """
    from tspace_core.agents import AGENTS

    require_agent(name)
    return AGENTS[name]


def require_agent(name: str) -> None:
    """Refuse a kind of agent that there is not.

    Raises:
        AgentError: lists those there are.
    """
    if name not in HYPERPARAMETERS:
        message = f"unknown agent {name!r}; known: {', '.join(HYPERPARAMETERS)}"
        raise AgentError(message)


def run_name(
    lake: Lake,
    vehicle_id: str,
    *,
    agent: str = AGENT,
    seed: int | None = None,
    hyper: AgentHyperparameters | None = None,
    repeat_records: bool | None = None,
) -> str:
    """Name of the run that ``train_agent`` would do: by vehicle, replay version, hyperparameters and seed.

    Raises:
        StorageError: there is no replay buffer.
        AgentError: an unknown agent.
    """
    from tspace_core.storage.replay import Replay

    chosen = _hyperparameters(agent, hyper, seed, repeat_records=repeat_records)
    return _run(vehicle_id, Replay.open(lake.replay(vehicle_id)), chosen)


def _hyperparameters(
    agent: str, hyper: AgentHyperparameters | None, seed: int | None, *, repeat_records: bool | None
) -> AgentHyperparameters:
    require_agent(agent)
    found = hyper or load_hyperparameters(agent)
    if not isinstance(found, HYPERPARAMETERS[agent]):
        message = (
            f"hyperparameters are {type(found).__name__}, the agent {agent} takes "
            f"{HYPERPARAMETERS[agent].__name__}; load them with load_hyperparameters({agent!r}, ...)"
        )
        raise AgentError(message)
    given = {"seed": seed, "repeat_records": repeat_records}
    return found.model_copy(update={name: value for name, value in given.items() if value is not None})


def _run(vehicle_id: str, replay: "Replay", hyper: AgentHyperparameters) -> str:
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


def has_agent(lake: Lake, vehicle_id: str, agent: str = AGENT) -> bool:
    """Whether something is noted as the vehicle's latest trained agent of that name."""
    return _pointer(lake, vehicle_id, agent).is_file()


def latest_agent(lake: Lake, vehicle_id: str, agent: str = AGENT) -> Trained:
    """The latest trained agent of a vehicle.

    Raises:
        CheckpointError: there is none, or its checkpoint is gone.
    """
    path = _pointer(lake, vehicle_id, agent)
    if not has_agent(lake, vehicle_id, agent):
        kind = "agent" if agent == AGENT else f"{agent} agent"
        message = (
            f"no {kind} was trained for {vehicle_id} in {lake.root}: materialize {agent}_checkpoint first"
        )
        raise CheckpointError(message)
    content = read_json(path)
    try:
        trained = Trained.model_validate({**content, "folder": lake.checkpoints(agent, content["run"])})
    except (KeyError, TypeError, ValueError) as error:
        message = (
            f"{path} names no agent ({type(error).__name__}: {error}): materialize {agent}_checkpoint again"
        )
        raise CheckpointError(message) from error
    if not trained.checkpoint.is_dir():
        message = (
            f"{trained.checkpoint} is gone, though {path} names it: materialize {agent}_checkpoint again"
        )
        raise CheckpointError(message)
    return trained


def newest_agent(lake: Lake, vehicle_id: str) -> Trained | None:
    """The agent of a vehicle that was trained last, of whatever kind; None: there is none.

    Raises:
        CheckpointError: the checkpoint of a kind's latest is gone.
        StorageError: a file that names one is damaged.
    """
    kinds = [kind for kind in HYPERPARAMETERS if has_agent(lake, vehicle_id, kind)]
    found = [latest_agent(lake, vehicle_id, kind) for kind in kinds]
    return max(found, key=lambda trained: trained.finished, default=None)


def _pointer(lake: Lake, vehicle_id: str, agent: str) -> AnyPath:
    return lake.checkpoints(agent, f"{vehicle_id}.json")


def _hash(hyper: AgentHyperparameters) -> str:
    # How often checkpoints are written and how long to train do not make another agent.
    changing = {
        *("offline_updates", "checkpoint_every", "offline_checkpoint_every", "checkpoints_kept"),
        "repeat_records",
    }
    text = json.dumps(hyper.model_dump(mode="json", exclude=changing), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
