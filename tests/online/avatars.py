"""Runs of an avatar on a scripted vehicle, with a learner that only notes what it is told."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.agents.batches import SMALL
from tests.online.builders import small_vehicle
from tests.online.fake_car import Answer, FakeCar, applied
from tspace_core.agents.tracking import NullTracker, Status
from tspace_core.config import AgentHyperparameters, Vehicle
from tspace_core.errors import OnlineError, TspaceError
from tspace_core.objects.path import AnyPath
from tspace_core.online.avatar import Avatar, AvatarOptions, ResumeFrom
from tspace_core.online.learner import LearnerFailed
from tspace_core.online.learner_core import LearnerCore
from tspace_core.online.learner_protocol import EpisodeLearned, LearnerReady, LearnerSpec
from tspace_core.online.results import EpisodeResult
from tspace_core.storage.lake import Lake
from tspace_core.storage.replay import ReplayBatch
from tspace_core.vehicle.stream import StreamItem


class FakeLearner:
    """Notes its calls; fails at the episodes that it is told to."""

    def __init__(self, spec: LearnerSpec, *, dies_at: tuple[int, ...] = ()) -> None:
        self.spec = spec
        self.dies_at = dies_at
        self.calls: list[tuple[Any, ...]] = []
        self.batches: list[ReplayBatch] = []
        self.memories: list[NDArray[np.float32] | None] = []
        self.path: Path | None = None
        self.wake: Callable[[], None] = lambda: None
        self.stored_at_start: list[int] = []

    def start(self) -> None:
        self.calls.append(("start",))
        self.stored_at_start.append(len(Lake(self.spec.lake).episode_manifests()))

    def require_ready(self) -> LearnerReady:
        return LearnerReady(
            updates=0, records=0, checkpoint=None, offline_records=0, live_records=0, notes=()
        )

    def add(self, records: ReplayBatch, memory: NDArray[np.float32] | None = None) -> bool:
        self.calls.append(("add", float(records.rewards[0])))
        self.batches.append(records)
        self.memories.append(memory)
        return True

    def end_episode(self, number: int, *, valid: bool) -> EpisodeLearned | LearnerFailed:
        self.calls.append(("end", number, valid))
        if number in self.dies_at:
            return LearnerFailed(
                cause="the learner process ended with signal SIGKILL", checkpoint=None, alive=False
            )
        return EpisodeLearned(
            number=number, valid=valid, updates=6, total_updates=6 * number, critic_loss=1.5, actor_loss=-0.5,
            mean_q=-3.0, reward=-2.0, saturated=0.0, checkpoint=Path("checkpoint") / str(number),
            weights_version=number, records=3, refused=0, live_records=3, offline_records=0, learning_s=0.1,
        )  # fmt: skip

    def give(self, weights: Path) -> None:
        """As if it had learned."""
        self.path = weights
        self.wake()

    def on_weights(self, wake: Callable[[], None]) -> None:
        self.wake = wake

    def weights(self) -> Path | None:
        path, self.path = self.path, None
        return path

    def stop(self) -> Path | None:
        self.calls.append(("stop",))
        return Path("last")


class CoreLearner(FakeLearner):
    """Begins as a real one does, in this process."""

    def require_ready(self) -> LearnerReady:
        try:
            return LearnerCore(self.spec).ready()
        except TspaceError as error:
            message = f"the learner of {self.spec.vehicle_id} cannot begin: {error}"
            raise OnlineError(message) from error


class NotingTracker(NullTracker):
    """Keeps what it is told."""

    def __init__(self, *, broken: bool = False) -> None:
        self.broken = broken
        self.told: dict[int, dict[str, float]] = {}
        self.tags: dict[str, str] = {}
        self.status: Status | None = None

    def start(
        self, params: Mapping[str, object], tags: Mapping[str, str], *, resume: str | None = None
    ) -> str | None:
        self.tags = dict(tags)
        return "tracked"

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        if self.broken:
            message = "the tracking server is gone"
            raise ConnectionError(message)
        self.told[step] = dict(values)

    def finish(self, status: Status = "FINISHED") -> None:
        self.status = status


class Run:
    """One run of an avatar and everything around it.

    Args:
        root: of the lake; the same one again goes on from the run before.
        script: what the vehicle does.
        vehicle: default: windows of 3 samples.
        options: of the avatar.
        answer: what becomes of proposals.
        dies_at: episodes at which the learner dies.
        on_episode: the caller's.
        hyper: of the agent; None: as options, release and vehicle say.
        kind: of learner.
        hold: the vehicle waits at the end of the script until it is stopped.
    """

    def __init__(
        self,
        root: AnyPath | str,
        script: list[StreamItem],
        *,
        vehicle: Vehicle | None = None,
        options: AvatarOptions | None = None,
        answer: Answer = applied,
        dies_at: tuple[int, ...] = (),
        on_episode: Callable[[EpisodeResult], object] | None = None,
        hold: bool = False,
        tracker: NotingTracker | None = None,
        hyper: AgentHyperparameters | None = SMALL,
        kind: type[FakeLearner] = FakeLearner,
    ) -> None:
        self.lake = Lake(root)
        self.vehicle = vehicle or small_vehicle()
        self.results: list[EpisodeResult] = []
        self.lines: list[str] = []
        self.cars: list[FakeCar] = []
        self.learners: list[FakeLearner] = []
        self.tracker = tracker or NotingTracker()
        self._script, self._answer, self._dies_at, self._hold = script, answer, dies_at, hold
        self._kind = kind
        self.avatar = Avatar(
            self.vehicle,
            self.lake,
            options,
            on_episode=on_episode or self.results.append,
            tell=self.lines.append,
            car=self._car,
            learner=self._learner,
            tracker=self.tracker,
            hyper=hyper,
        )

    @property
    def car(self) -> FakeCar:
        return self.cars[0]

    @property
    def learner(self) -> FakeLearner:
        return self.learners[-1]

    def _car(self, vehicle: Vehicle, options: AvatarOptions, resume: ResumeFrom) -> FakeCar:
        self.cars.append(FakeCar(vehicle, self._script, answer=self._answer, resume=resume, hold=self._hold))
        return self.cars[-1]

    def _learner(self, spec: LearnerSpec) -> FakeLearner:
        self.learners.append(self._kind(spec, dies_at=self._dies_at))
        return self.learners[-1]
