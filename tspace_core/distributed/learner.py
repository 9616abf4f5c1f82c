"""A learner: one of several workers that share each batch of an offline training.

Every learner draws the same whole batch, since all have the same generator, and learns from its part of it.
Before each optimizer's step the flat gradients are added up over the learners, each weighted by its share of
the batch. So all have the same weights, those that one process would have but for rounding, and a checkpoint
does not know how many there were. (IDQL's own noise is drawn by each learner for its part alone: the same in
distribution, not the same numbers.)
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from tspace_core.agents.checkpoint import CheckpointStore, Component
from tspace_core.agents.dpg import Losses
from tspace_core.agents.sources import Batch, mean_reward
from tspace_core.errors import AgentError, CheckpointError, StorageError, TspaceError
from tspace_core.objects.fields import PathField
from tspace_core.objects.path import AnyPath
from tspace_core.storage.replay_sequences import SequenceBatch
from tspace_core.storage.writer import DIRECT, Writer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure
    from torch import Tensor

    from tspace_core.agents.dpg import DPG
    from tspace_core.agents.sources import RecordSource
    from tspace_core.agents.tracking import Status
    from tspace_core.agents.training import SeriesPoint


class LearnerTask(BaseModel):
    """What the learners of one training are told."""

    model_config = ConfigDict(frozen=True)

    replay: PathField
    checkpoints: PathField
    keep: int
    every: int
    updates: int
    report_every: int
    threads: int


class StoppedError(TspaceError):
    """The process that started the training wants it to stop."""


def part_of(batch: Batch, rank: int, workers: int, burn_in: int = 0) -> tuple[Batch, float]:
    """A worker's part of a batch, and its share of the loss; the shares of all parts make 1.

    Args:
        batch: the whole batch.
        rank: of the worker, 0 to workers - 1.
        workers: how many share it.
        burn_in: records of a sequence that are not learned from.

    Raises:
        AgentError: there are fewer records, or sequences, than workers.
    """
    size = len(batch.rewards)
    if size < workers:
        message = f"a batch of {size} cannot be shared by {workers} learners; take a larger batch_size"
        raise AgentError(message)
    places = slice(size * rank // workers, size * (rank + 1) // workers)
    part: Batch = type(batch)._make(None if field is None else field[places] for field in batch)
    if isinstance(batch, SequenceBatch):
        learned = batch.mask[:, burn_in:].sum(axis=1, dtype=np.float64)
        return part, float(learned[places].sum() / max(learned.sum(), 1.0))
    return part, (places.stop - places.start) / size


class SharedUpdate:
    """One update that all learners do together; made in each of them, called in step."""

    def __init__(self, rank: int, workers: int) -> None:
        self._rank = rank
        self._workers = workers
        self._share = 1.0

    def __call__(
        self, agent: "DPG", source: "RecordSource", generator: np.random.Generator, limit: int
    ) -> tuple[Losses, float, int]:
        """As ``training.plain_update``, on this learner's part; the losses are those of the whole batch."""
        import torch
        import torch.distributed as group

        whole = agent.draw(source, generator)
        part, self._share = part_of(whole, self._rank, self._workers, getattr(agent.hyper, "burn_in", 0))
        agent.reduce = self._add_up
        losses = torch.tensor(agent.train(part), dtype=torch.float64).mul_(self._share)
        if self._workers > 1:
            group.all_reduce(losses)
        agent.update_target()
        return Losses(*losses.tolist()), mean_reward(whole), 1

    def _add_up(self, gradient: "Tensor") -> None:
        import torch.distributed as group

        if self._workers > 1:
            gradient.mul_(self._share)
            group.all_reduce(gradient)


class ReadOnlyStore(CheckpointStore):
    """One checkpoint to begin with, for learners that write none."""

    def __init__(self, root: AnyPath, step: int) -> None:
        super().__init__(root)
        self._step = step

    def steps(self) -> list[int]:
        """The one step."""
        return [self._step]

    def save(
        self,
        agent: "DPG",
        step: int,
        extra: "Mapping[str, Component] | None" = None,
        *,
        writer: Writer = DIRECT,
    ) -> AnyPath:
        """Leave it to the first learner."""
        return self.path(step)


class CourierTracker:
    """Tells a run to the process that started it, which has the tracker and ends the run."""

    def __init__(self, courier: Any) -> None:
        self._courier = courier

    def start(
        self, params: "Mapping[str, object]", tags: "Mapping[str, str]", *, resume: str | None = None
    ) -> str | None:
        """Ask for a run; where one goes on already, as after a failure, for that one."""
        import ray

        found = ray.get(self._courier.ask.remote("start", (dict(params), dict(tags), resume)))
        if found is None:
            message = "stopped before the first update"
            raise StoppedError(message)
        return found["run_id"]  # type: ignore[no-any-return]

    def metrics(self, step: int, values: "Mapping[str, float]") -> None:
        """Pass them on."""
        self._courier.tell.remote("metrics", (step, dict(values)))

    def figure(self, figure: "Figure", name: str) -> None:
        """Left to the process that started the run: it has the agent in the end."""

    def finish(self, status: "Status" = "FINISHED") -> None:
        """Left to the process that started the run: this learner's end is not the run's."""


def learn(config: "dict[str, Any]") -> "dict[str, Any] | None":
    """What Ray Train runs in each worker; returns the first learner's summary, None where there is none.

    Errors that would come again at each try are told to the courier, and the learner returns: Ray would
    repeat the run otherwise. All others are raised.
    """
    import ray
    import torch.distributed as group

    courier = config["courier"]
    if ray.get(courier.over.remote()) is not None or ray.get(courier.stopped.remote()):
        return None
    try:
        return _learn(LearnerTask.model_validate(config["task"]), courier)
    except TspaceError as error:
        ray.get(courier.fail.remote(type(error).__name__, str(error)))
        if group.is_initialized():
            group.destroy_process_group()  # the others wait for this one no longer
        return None
    except RuntimeError:
        if ray.get(courier.over.remote()) is not None:  # another learner left for a reason of its own
            return None
        raise


def _learn(task: LearnerTask, courier: Any) -> "dict[str, Any] | None":
    import ray
    import ray.train
    import torch

    from tspace_core.agents import load_agent
    from tspace_core.agents.training import train_offline
    from tspace_core.storage.replay import Replay

    torch.set_num_threads(task.threads)
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    store = CheckpointStore(task.checkpoints, keep=task.keep, every=task.every)
    if rank == 0:
        store.clear()
    step = _agreed(store.steps()[-1] if rank == 0 and store.steps() else -1, workers)
    if rank != 0:
        store = ReadOnlyStore(task.checkpoints, step)
    try:
        replay = Replay.open(task.replay.parent, task.replay.name)
        agent = load_agent(store.path(max(step, 0)), mode="train")
    except (StorageError, CheckpointError) as error:
        message = (
            f"learner {rank} on {ray.util.get_node_ip_address()} cannot read what it is to learn from: "
            f"{error}; the lake must be the same for all nodes: a bucket (TSPACE_LAKE_URL) or a shared volume"
        )
        raise type(error)(message) from error

    def progress(done: int, of: int, point: "SeriesPoint") -> None:
        if ray.get(courier.ask.remote("point", (done, of, point.model_dump()))) is None:
            message = f"stopped at update {done}"
            raise StoppedError(message)

    ray.get(courier.tell.remote("learner", (rank, workers, step)))
    summary = train_offline(
        agent,
        replay,
        updates=task.updates,
        tracker=CourierTracker(courier) if rank == 0 else None,
        checkpoints=store,
        progress=progress if rank == 0 else None,
        resume=True,
        report_every=task.report_every,
        update=SharedUpdate(rank, workers),
    )
    return summary.model_dump(mode="json") if rank == 0 else None


def _agreed(step: int, workers: int) -> int:
    """The first learner's number, in all of them."""
    import torch
    import torch.distributed as group

    number = torch.tensor([step])
    if workers > 1:
        group.broadcast(number, 0)
    return int(number)
