"""One vehicle's online run: it observes, infers, flashes and learns for as long as the vehicle drives.

::

    VehicleInterface --stream--> control (Cruncher.filter) --lessons--> keeper --> learner, lake,
            ^------consume----------'                                              MLflow, caller

Everything heavy is imported and opened before the HMI is listened to. The run ends at the HMI's
exit, after the wanted number of episodes, when the watchdog trips, when somebody stops it, or when any task
crashes: then in the same way, with the first cause.
"""

import gc
import logging
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

from tspace_core.agents.tracking import NullTracker, RunTracker, Status
from tspace_core.config import (
    AgentHyperparameters,
    TorqueMap,
    Vehicle,
    load_driver,
    load_site,
)
from tspace_core.errors import AgentError, ConfigError, OnlineError, StorageError, TspaceError
from tspace_core.objects.path import AnyPath
from tspace_core.online.agent_choice import Choice, ReleaseWatch, choose, choose_again
from tspace_core.online.cars import AvatarOptions, CarFactory, IgnitableCar, ResumeFrom, car_of
from tspace_core.online.cruncher import Cruncher, CruncherSetup
from tspace_core.online.driver_agent import DriverAgent, first_agent
from tspace_core.online.heartbeat import beat_until_stopped
from tspace_core.online.keeper import Keeper, KeeperSetup, Learner
from tspace_core.online.learner import LearnerProcess
from tspace_core.online.learner_protocol import LearnerSpec
from tspace_core.online.results import EpisodeResult, RunSummary, unhindered
from tspace_core.online.run_note import RunNote
from tspace_core.online.run_state import RunState, RunStateFile
from tspace_core.storage.champion import Champion
from tspace_core.storage.lake import Lake
from tspace_core.storage.only_one import only_one
from tspace_core.storage.replay import Replay, versions_of
from tspace_core.supervision import Supervisor, stop_on_signals
from tspace_core.supervision.supervisor import describe
from tspace_core.vehicle.states import Event

__all__ = ["Avatar", "AvatarOptions", "ResumeFrom"]

_log = logging.getLogger(__name__)

JOIN_S = 90.0
"""Longest time in which a run that ends may store what it has."""
EXPERIMENT = "tspace-online"


LearnerFactory = Callable[[LearnerSpec], Learner]


class Avatar:
    """Orchestrates one vehicle's online run; ``run`` does all of it, once.

    Args:
        vehicle: which.
        lake: where episodes and checkpoints lie; the run's state is below ``lake.local/online/<vehicle id>``.
        options: how.
        on_episode: called with every stored episode, off the control path.
        tell: called with lines for people; what it raises is logged, no drive ends by it.
        first: asked once the vehicle is connected: what to do first, and why; default: ``options.begin``.
        car: makes the vehicle interface; default: as ``vehicle.interface`` says.
        learner: makes the learner; default: a process of its own.
        tracker: default: MLflow where ``options.track``.
        hyper: hyperparameters of fresh networks; their model says which agent drives and learns. Default: the
            agent that the options, the vehicle's file or the release say, with the hyperparameters in conf/.

    Attributes:
        summary: what the run did so far.
        began: whether it came so far as to wait for begin.
    """

    def __init__(
        self,
        vehicle: Vehicle,
        lake: Lake,
        options: AvatarOptions | None = None,
        *,
        on_episode: Callable[[EpisodeResult], object] = lambda result: None,
        tell: Callable[[str], object] = lambda line: None,
        first: Callable[[], tuple[Event, str] | None] | None = None,
        car: CarFactory | None = None,
        learner: LearnerFactory | None = None,
        tracker: RunTracker | None = None,
        hyper: AgentHyperparameters | None = None,
    ) -> None:
        self.vehicle = vehicle
        self.lake = lake
        options = options or AvatarOptions()
        self.options = replace(options, run_id=options.run_id or uuid.uuid4().hex[:12])
        self.folder = lake.local / "online" / vehicle.id
        self._on_episode = on_episode
        self._tell = unhindered(tell)
        self._first = first or self._begins
        self._car = car or car_of(vehicle)
        self._learner = learner or LearnerProcess
        self._tracker = tracker
        self._hyper = hyper
        self.began = False
        self.summary = RunSummary(vehicle.id, self.options.run_id, 0, self.options.mode)

    def run(self) -> RunSummary:
        """Drive until the run ends.

        Returns:
            What it did; the same is ``summary``, also where the run failed.

        Raises:
            OnlineError: it had to end, or another run of the vehicle goes on; names the first cause.
            TspaceError: it cannot begin: no bridge, no agent, a wrong setting, ...
            BaseException: what the main thread was interrupted with, after all has been stored.
        """
        with only_one(self.folder / "run.lock", self._busy):
            return self._run()

    def _run(self) -> RunSummary:
        options, vehicle = self.options, self.vehicle
        states = RunStateFile(self.folder, vehicle)
        state = states.load()
        choice = self._choose()
        state = self._begun(states, state, choice)
        self.summary.generation = state.generation
        tracker: RunTracker = NullTracker()
        status: Status = "FAILED"
        learner: Learner | None = None
        keeper: Keeper | None = None
        tracked: str | None = None
        supervisor = Supervisor(f"avatar {vehicle.id}")
        try:
            if options.mode == "train":
                learner = self._start_learner(choice)
            tracker = self._tracking()  # while the learner's process comes up: both take seconds
            tracked = tracker.start(choice.hyper.model_dump(mode="json"), self._tags(state, choice))
            agent = self._agent(choice)
            prepare = None if agent is None else agent.prepare
            learner = learner and self._ready(learner, choice)
            setup = KeeperSetup(
                vehicle=vehicle,
                lake=self.lake,
                states=states,
                tracker=tracker,
                tracked=tracked,
                releases=ReleaseWatch(
                    self.lake,
                    vehicle.id,
                    choice.released,
                    version=choice.version,
                    only=choice.agent if choice.only else None,
                    prepare=prepare,
                ),
                prepare=prepare,
                make_learner=partial(self._exchanged, choice) if options.mode == "train" else None,
                on_episode=self._on_episode,
                tell=self._tell,
                enough=supervisor.stop,
                wanted=options.episodes,
            )
            keeper = Keeper(setup, state, self.summary, learner)
            learner = None  # the keeper's from now on: it may exchange it
            self._drive(supervisor, keeper, agent, states.resumable(state) if options.resume else None)
            status = "FAILED" if self.summary.failed else "FINISHED"
        except BaseException as error:
            status = "KILLED" if not isinstance(error, Exception) else "FAILED"
            self.summary.cause = self.summary.cause or describe(error)
            raise
        finally:
            self._finish(states, keeper, learner, tracker if tracked is not None else None, status)
        if self.summary.failed:
            message = f"{vehicle.id}: the online run had to end: {self.summary.cause}"
            raise OnlineError(message)
        return self.summary

    def _drive(
        self, supervisor: Supervisor, keeper: Keeper, agent: DriverAgent | None, resume: TorqueMap | None
    ) -> None:
        vehicle, options = self.vehicle, self.options
        # The interface asks for the live map to go on from, which only the loop behind it knows.
        car = self._car(vehicle, options, lambda: cruncher.resume)
        setup = CruncherSetup(
            vehicle=vehicle,
            site=load_site(vehicle.site),
            driver_id=load_driver(vehicle.driver).id,
            agent=agent,
            first_number=keeper.state.episodes + 1,
            resume=resume,
        )
        cruncher = Cruncher(car, setup, keeper)

        def control() -> None:
            cruncher.filter()
            # The interface stops all tasks at the run's end; should it not, nothing is left to be done.
            supervisor.stop(cruncher.ended.cause if cruncher.ended is not None else "the stream ended")

        tasks = {
            "sign_of_life": lambda: beat_until_stopped(
                supervisor, self.folder, vehicle.id, options.run_id, lambda: (cruncher.state, cruncher.number)
            ),
            # Its queue is not closed when it crashes: the control loop would fail on that before the
            # supervisor has heard of the first cause.
            "keeper": keeper.keep,
            "releases": lambda: keeper.watch_releases(supervisor),
            "weights": lambda: keeper.watch_weights(supervisor),
            "control": lambda: _then(control, keeper.close),
        }
        if vehicle.remote is not None:
            tasks["run_note"] = partial(RunNote(self.lake, vehicle, options.run_id).keep, supervisor)
        with stop_on_signals(supervisor) if options.signals else nullcontext():
            try:
                for name, task in tasks.items():
                    supervisor.start(name, task)
                self._ignite(car, supervisor)
                supervisor.wait()
            except BaseException as error:
                supervisor.stop(describe(error))
                raise
            finally:
                self._wind_up(supervisor, cruncher)

    def _ignite(self, car: IgnitableCar, supervisor: Supervisor) -> None:
        # What is loaded by now stays: a full collection of it would stop every thread for some 300 ms.
        gc.freeze()
        try:
            car.ignite(supervisor, lambda: self._do_first(car))
        except BaseException as error:
            supervisor.stop(describe(error))
            if "hmi_control" not in supervisor.alive():  # which ends the stream itself, with the first cause
                car.stream.close()
            raise
        self.began = True
        self._tell(f"{self.vehicle.id}: {self.options.mode}, waiting for begin")

    def _do_first(self, car: IgnitableCar) -> None:
        # Before the HMI is heard: an end that waits in a queue already is the end of what begins here.
        first = self._first()
        if first is not None:
            car.control.post(*first)

    def _begins(self) -> tuple[Event, str] | None:
        return (Event.BEGIN, "HMI: begin, heard before the run") if self.options.begin else None

    def _wind_up(self, supervisor: Supervisor, cruncher: Cruncher) -> None:
        """Wait until what the tasks have is stored, and note why the run ended."""
        late = supervisor.join(JOIN_S)
        if late:
            self.summary.notes.append(f"did not end within {JOIN_S:g} s: {', '.join(late)}")
        self.summary.latency_ms = cruncher.latency.summary_ms()
        self.summary.cause = supervisor.cause or ""
        self.summary.failed = supervisor.error is not None or (
            cruncher.ended is not None and cruncher.ended.failed
        )
        # What was driven last is stored while the run ends already: what is lost then is no good end.
        lost = supervisor.errors.get("keeper")
        if lost is not None and lost is not supervisor.error:
            self.summary.failed = True
            self.summary.cause += f"; then keeper: {describe(lost)}"

    def _choose(self) -> Choice:
        options = self.options
        found = choose(self.lake, self.vehicle, infer=options.infer, agent=options.agent, hyper=self._hyper)
        for note in found.notes:
            self._note(note)
        return found

    def _begun(self, states: RunStateFile, state: RunState, choice: Choice) -> RunState:
        changes = {
            "generation": state.generation + 1,
            "run_id": self.options.run_id,
            **(
                {"learner_run": choice.run, "learner_agent": choice.agent}
                if self.options.mode == "train"
                else {}
            ),
            "champion": choice.released.sha256 if choice.released is not None else None,
            "ended": "",
        }
        try:
            return states.save(state.model_copy(update=changes))
        except OSError as error:
            message = f"{self.folder} cannot be written ({error}); make room or correct the rights"
            raise StorageError(message) from error

    def _agent(self, choice: Choice) -> DriverAgent | None:
        if self.options.observe:
            return None
        root = self.lake.replay(self.vehicle.id)
        replay = Replay.open(root) if choice.checkpoint is None and versions_of(root) else None
        return first_agent(
            self.vehicle, choice.hyper, checkpoint=choice.checkpoint, replay=replay, infer=self.options.infer
        )

    def _start_learner(self, choice: Choice) -> Learner:
        spec = LearnerSpec.of(
            self.vehicle,
            choice.hyper,
            lake=self.lake.root,
            folder=self.folder / "learner",
            run=choice.run,
            start_from=choice.start_from,
        )
        learner = self._learner(spec)
        learner.start()
        return learner

    def _ready(self, learner: Learner, choice: Choice) -> Learner | None:
        """The learner when it can learn; None: it cannot, and a policy that is there drives without it."""
        try:
            ready = learner.require_ready()
        except OnlineError as error:
            if choice.checkpoint is None:
                raise
            self._note(_unlearned(choice.checkpoint, error))
            return None
        for note in ready.notes:
            self._tell(f"learner: {note}")
        return learner

    def _exchanged(self, choice: Choice, released: Champion) -> Learner | None:
        """The learner that begins with a release; None: it cannot, and the run drives on without one."""
        try:
            found = choose_again(choice, self.vehicle, released)
            for note in found.notes:
                self._note(note)
            return self._ready(self._start_learner(found), found)
        except (OnlineError, AgentError, ConfigError) as error:
            self._note(_unlearned(released.checkpoint, error))
            return None

    def _note(self, line: str) -> None:
        self.summary.notes.append(line)
        self._tell(f"note: {line}")

    def _tracking(self) -> RunTracker:
        if self._tracker is not None:
            return self._tracker
        if not self.options.track:
            return NullTracker()
        from tspace_core.agents.tracking import Tracker

        return Tracker(experiment=EXPERIMENT, run_name=f"{self.vehicle.id}-{self.options.run_id}")

    def _tags(self, state: RunState, choice: Choice) -> dict[str, str]:
        return {
            "vehicle": self.vehicle.id,
            "mode": self.options.mode,
            "agent": choice.agent,
            "run_id": self.options.run_id,
            "generation": str(state.generation),
            "checkpoint": str(choice.checkpoint),
            "champion": choice.released.sha256 if choice.released is not None else "none",
        }

    def _finish(
        self,
        states: RunStateFile,
        keeper: Keeper | None,
        learner: Learner | None,
        tracker: RunTracker | None,
        status: Status,
    ) -> None:
        """Let go of everything; trouble here is noted, it never hides why the run ended."""
        learner = keeper.learner if keeper is not None else learner
        if learner is not None:
            self._quietly("the learner", lambda: self._stop_learner(learner))
        if tracker is not None:
            self._quietly("tracking", lambda: tracker.finish(status))
        state = keeper.state if keeper is not None else states.load()
        changes = {"ended": self.summary.cause or "finished"}
        self._quietly("the run's state", lambda: states.save(state.model_copy(update=changes)))

    def _stop_learner(self, learner: Learner) -> None:
        self.summary.checkpoint = learner.stop() or self.summary.checkpoint

    def _quietly(self, what: str, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:
            _log.exception("%s: %s could not be ended", self.vehicle.id, what)
            self.summary.notes.append(f"{what} could not be ended: {error}")

    def _busy(self, holder: str) -> OnlineError:
        return OnlineError(
            f"a run of {self.vehicle.id} goes on already (process {holder}): one run a vehicle; stop that "
            "one first"
        )


def _unlearned(checkpoint: AnyPath, error: TspaceError) -> str:
    return (
        f"{checkpoint} drives and nothing is learned: {error}. What is driven is stored; to learn from it, "
        "mend that or release an agent that can be learned on, and begin the run again"
    )


def _then(task: Callable[[], None], last: Callable[[], None]) -> None:
    try:
        task()
    finally:
        last()
