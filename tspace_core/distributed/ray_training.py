"""One training on a cluster, as the process that started it sees it.

Ray Train starts the learners and watches them. When one dies, all are ended and begin again with the newest
checkpoint, as many as the cluster then has room for. This supervision is ours, not Ray's ``FailureConfig``:
that waits without end for nodes that do not come back, and its elastic groups took over a minute to notice.
"""

import logging
import tempfile
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tspace_core import errors
from tspace_core.agents.checkpoint import Checkpoint, CheckpointStore
from tspace_core.agents.pictures import map_change_figure
from tspace_core.agents.tracking import NullTracker
from tspace_core.agents.training import SeriesPoint, TrainSummary
from tspace_core.config import EngineConfig
from tspace_core.distributed.courier import Courier, Message
from tspace_core.distributed.learner import LearnerTask, learn
from tspace_core.errors import EngineError, TspaceError

if TYPE_CHECKING:
    from types import ModuleType

    from tspace_core.agents.dpg import DPG
    from tspace_core.agents.tracking import RunTracker, Status
    from tspace_core.agents.training import Progress
    from tspace_core.storage.replay import Replay

_log = logging.getLogger(__name__)

_LISTEN_S = 0.5
_SETTLE_S = 5.0
"""How long full room is waited for after a failure, before fewer learners go on: ended workers give theirs
back a moment later."""
_END_S = 60.0
"""Learners that were told to stop are waited for no longer than this."""


class RayTraining:
    """One run; ``run`` is called once."""

    def __init__(
        self,
        ray: "ModuleType",
        config: EngineConfig,
        task: LearnerTask,
        checkpoints: CheckpointStore,
        tracker: "RunTracker | None",
        progress: "Progress | None",
    ) -> None:
        self._ray: Any = ray
        self._config = config
        self._task = task
        self._checkpoints = checkpoints
        self._tracker = tracker or NullTracker()
        self._progress = progress
        self._run_id: str | None = None
        self._tracking = False
        self._began = time.perf_counter()
        self._speed = 0.0
        self.failures = 0
        """Times that learners had to begin again."""

    def run(self, agent: "DPG", replay: "Replay", *, resumed_from: int) -> TrainSummary:
        """Train, and bring the agent where the learners ended."""
        status: Status = "FAILED"
        try:
            with _on_this_node(self._ray, Courier) as courier:
                summary = self._supervised(courier)
            last = self._checkpoints.path(summary.updates)
            agent.restore(Checkpoint(last))
            if self._tracking:
                self._tracker.figure(map_change_figure(agent.predict, replay), "map_change.png")
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        except self._ray.exceptions.RayError as error:
            message = f"the Ray cluster is gone ({_first_line(error)}). {self._last_words()}"
            raise EngineError(message) from error
        finally:
            self._finish(status)
        return summary.model_copy(
            update={
                "resumed_from": resumed_from,
                "checkpoint": last,
                "wall_s": time.perf_counter() - self._began,
            }
        )

    def _finish(self, status: "Status") -> None:
        if not self._tracking:
            return
        try:
            self._tracker.finish(status)
        except Exception:  # the tracker's own trouble must not hide why training ended
            if status == "FINISHED":
                raise
            _log.exception("the tracker could not end run %s", self._run_id)

    def _supervised(self, courier: Any) -> TrainSummary:
        while True:
            workers = self._room()
            found = self._attempt(courier, workers)
            over = self._ray.get(courier.over.remote())
            if over is not None:
                raise _as_raised(*over)
            if isinstance(found, dict):
                return TrainSummary.model_validate(found)
            if not isinstance(found, _failures_of_nodes()):
                message = f"Ray Train cannot run: {found}. {self._last_words()}"
                raise EngineError(message) from found
            self.failures += 1
            if self.failures > self._config.max_failures:
                message = (
                    f"learners died {self.failures} times, max_failures is {self._config.max_failures}; the "
                    f"last time: {_first_line(found)}. {self._last_words()}; what they said is in Ray's "
                    "logs (ray logs)"
                )
                raise EngineError(message) from found
            _log.warning(
                "learners died (%s); they begin again with %s, failure %d of at most %d",
                _first_line(found),
                self._checkpoints.latest(),
                self.failures,
                self._config.max_failures,
            )

    def _attempt(self, courier: Any, workers: int) -> "dict[str, Any] | Exception":
        """Run the learners to their end; their summary, or why there is none."""
        result: list[dict[str, Any] | Exception] = []
        trainer = self._trainer(courier, workers)

        def fit() -> None:
            try:
                result.append(trainer.fit().return_value or {})
            except Exception as error:  # told by the caller
                result.append(error)

        # In a thread: there Ray Train does not take this process's SIGINT.
        thread = threading.Thread(target=fit, name="ray-train", daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                self._listen(courier, _LISTEN_S)
        except BaseException:
            with suppress(self._ray.exceptions.RayError):  # without a courier learners end at their next word
                self._ray.get(courier.stop.remote())
            thread.join(_END_S)
            raise
        self._listen(courier, 0.01)
        return result[0]

    def _trainer(self, courier: Any, workers: int) -> Any:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        gpus = self._config.gpus_per_worker
        resources = {"CPU": self._config.cpus_per_worker, **({"GPU": gpus} if gpus else {})}
        return TorchTrainer(
            learn,
            train_loop_config={"task": self._task.model_dump(mode="json"), "courier": courier},
            scaling_config=ScalingConfig(
                num_workers=workers, use_gpu=gpus > 0, resources_per_worker=resources
            ),
            torch_config=TorchConfig(
                backend="cpu:gloo,cuda:nccl" if gpus else "gloo",
                timeout_s=int(self._config.exchange_timeout_s),
            ),
            run_config=RunConfig(
                name=f"tspace-{self._checkpoints.root.name}",
                # Ray keeps nothing of ours there; on this node's disk only its controller looks for it.
                storage_path=tempfile.gettempdir() + "/tspace-ray-train",
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
            ),
        )

    def _room(self) -> int:
        """How many learners the cluster has room for now; waits for the least that go on.

        Raises:
            EngineError: there is none for them.
        """
        began = time.monotonic()
        least, most = self._config.least_workers, self._config.workers
        while True:
            found = self._fitting()
            waited = time.monotonic() - began
            if found >= most or (found >= least and waited >= _SETTLE_S):
                return min(found, most)
            if waited >= self._config.start_timeout_s:
                message = (
                    f"the cluster has room for {found} learners of {self._config.cpus_per_worker:g} CPUs and "
                    f"{self._config.gpus_per_worker:g} GPUs, least_workers is {least}, and nothing changed "
                    f"in {waited:.0f} s. {self._last_words()}; add nodes ('ray start --address ...'), or set "
                    "TSPACE_ENGINE__WORKERS and TSPACE_ENGINE__LEAST_WORKERS lower"
                )
                raise EngineError(message)
            threading.Event().wait(0.25)

    def _fitting(self) -> int:
        from ray._private.state import available_resources_per_node

        alive = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
        cpus, gpus = self._config.cpus_per_worker, self._config.gpus_per_worker
        total = 0
        for node, free in available_resources_per_node().items():
            if node in alive:
                fits = int(free.get("CPU", 0.0) / cpus + 1e-6)
                total += min(fits, int(free.get("GPU", 0.0) / gpus + 1e-6)) if gpus else fits
        return total

    def _listen(self, courier: Any, wait_s: float) -> None:
        for message in self._ray.get(courier.messages.remote(wait_s)):
            self._take(courier, message)

    def _take(self, courier: Any, message: Message) -> None:
        content = message.content
        if message.kind == "start":
            params, tags, resume = content
            if not self._tracking:
                self._run_id = self._tracker.start(
                    {**params, "workers": self._config.workers}, tags, resume=resume
                )
                self._tracking = True
            self._ray.get(courier.answer.remote(message.number, {"run_id": self._run_id}))
        elif message.kind == "metrics":
            self._tracker.metrics(*content)
        elif message.kind == "point":
            done, of, point = content
            if self._progress is not None:
                self._progress(done, of, SeriesPoint.model_validate(point))
            # The learners wait until it was taken: none is ahead of what is known here.
            self._ray.get(courier.answer.remote(message.number, {}))
        elif message.kind == "learner":
            _log.info("learner %d of %d begins with step %d", *content)

    def _last_words(self) -> str:
        latest = self._checkpoints.latest()
        return f"The last good checkpoint is {latest}: run again with resume=True to go on from it"


def _as_raised(kind: str, text: str) -> TspaceError:
    """The error of a learner, as it would be in this process."""
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, TspaceError):
        try:
            return found(text)
        except TypeError:  # needs more than its message
            pass
    return EngineError(f"{kind}: {text}")


def _failures_of_nodes() -> tuple[type[Exception], ...]:
    """What Ray Train raises where a worker or node is gone, or a worker did not start in time."""
    from ray.exceptions import RayError
    from ray.train import TrainingFailedError

    return TrainingFailedError, RayError


def _first_line(error: "Exception | dict[str, Any]") -> str:
    """The end of a traceback in a message, which says what it was."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


class _on_this_node:  # noqa: N801  # a context manager
    """An actor beside this process, that ends with the block."""

    def __init__(self, ray: "ModuleType", kind: type) -> None:
        self._ray: Any = ray
        self._kind = kind

    def __enter__(self) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        node = self._ray.get_runtime_context().get_node_id()
        actor = self._ray.remote(
            num_cpus=0,
            max_concurrency=1000,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        )(self._kind)
        self._actor = actor.remote()
        return self._actor

    def __exit__(self, *_: object) -> None:
        self._ray.kill(self._actor)
