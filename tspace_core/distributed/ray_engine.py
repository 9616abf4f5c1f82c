"""The engine on a Ray cluster: Ray Train's workers share the batches, Ray actors drive."""

from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tspace_core.agents.training import REPORT_EVERY, TrainSummary, begin_offline
from tspace_core.config import EngineConfig
from tspace_core.distributed.learner import LearnerTask
from tspace_core.distributed.ray_cluster import RayCluster
from tspace_core.distributed.ray_rollouts import RayRollouts
from tspace_core.distributed.ray_training import RayTraining
from tspace_core.distributed.rollouts import Driving, Rollouts
from tspace_core.errors import AgentError
from tspace_core.storage.writer import DIRECT, Writer

if TYPE_CHECKING:
    from tspace_core.agents.checkpoint import CheckpointStore
    from tspace_core.agents.dpg import DPG
    from tspace_core.agents.tracking import RunTracker
    from tspace_core.agents.training import Progress
    from tspace_core.storage.replay import Replay


class RayEngine:
    """Learns and drives on a cluster; see ``Engine`` and docs/scaling.md.

    The cluster is connected to, or started, when it is first needed, and left with ``close``.
    """

    name = "ray"

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self._cluster = RayCluster(config)

    def __enter__(self) -> Self:
        """The engine."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Same as ``close``."""
        self.close()

    def train_offline(
        self,
        agent: "DPG",
        replay: "Replay",
        *,
        updates: int,
        tracker: "RunTracker | None" = None,
        checkpoints: "CheckpointStore | None" = None,
        progress: "Progress | None" = None,
        resume: bool = False,
        report_every: int = REPORT_EVERY,
        writer: Writer = DIRECT,
    ) -> TrainSummary:
        """Train with ``workers`` learners that share each batch.

        Learners begin with the newest checkpoint of ``checkpoints``, at first one of step 0, and read the
        replay buffer where it lies: both must be the same files, or the same bucket, on all nodes. All
        checkpoints are visible at once, the last one too (``writer`` is not used). ``wall_s`` counts from
        the call, ``updates_per_s`` from when the learners began, after the last failure.

        Raises:
            EngineError: the cluster cannot be reached or has too little room, or learners died more often
                than ``max_failures``; names the last good checkpoint.
            AgentError: as ``training.train_offline``; or there are no ``checkpoints``, or a batch is smaller
                than the number of learners.
        """
        del writer
        if checkpoints is None:
            message = "learners on a cluster begin and go on with checkpoints: give a CheckpointStore"
            raise AgentError(message)
        if agent.hyper.batch_size < self.config.workers:
            message = (
                f"a batch of {agent.hyper.batch_size} cannot be shared by {self.config.workers} learners; "
                "take a larger batch_size or fewer workers"
            )
            raise AgentError(message)
        state = begin_offline(agent, replay, updates, checkpoints, resume=resume, report_every=report_every)
        ray = self._cluster.connect()
        if not checkpoints.steps():
            checkpoints.save(agent, 0, {state.NAME: state.component()})
        task = LearnerTask(
            replay=replay.directory,
            checkpoints=checkpoints.root,
            keep=checkpoints.keep,
            every=checkpoints.every,
            updates=updates,
            report_every=report_every,
            threads=max(int(self.config.cpus_per_worker), 1),
        )
        training = RayTraining(ray, self.config, task, checkpoints, tracker, progress)
        return training.run(agent, replay, resumed_from=state.done)

    def rollouts(self, agent: "DPG", driving: Driving) -> AbstractContextManager[Rollouts]:
        """Drive in as many places at once as there are ``actors``; see ``Engine``."""
        return RayRollouts(self._cluster.connect(), self.config, agent, driving)

    def close(self) -> None:
        """Leave the cluster; end it where it was started here."""
        self._cluster.close()
