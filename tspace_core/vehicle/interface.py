"""What a vehicle is to the online loop, however it is reached: tasks that observe, one call that flashes."""

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tspace_core.config import Vehicle
from tspace_core.config.torque_map import FLASHED_ROWS
from tspace_core.errors import VehicleError
from tspace_core.link.datagrams import Status
from tspace_core.supervision import Pipeline, PipelineClosed, Supervisor
from tspace_core.vehicle.control import ArmReport, EpisodeControl
from tspace_core.vehicle.hmi import HmiPort, HmiSource
from tspace_core.vehicle.states import Event
from tspace_core.vehicle.stream import ControlStream, Liveness
from tspace_core.vehicle.watchdog import Watchdog
from tspace_core.vehicle.windows import Window

_log = logging.getLogger(__name__)

FlashResult = Literal["APPLIED", "REFUSED", "REVERTED", "UNKNOWN"]

TIMEOUT_CODE = 4
"""A flash that was not answered in time: it interrupts the episode and the loop goes on."""
STOPPING_CODES = frozenset({1, 2, 3})
"""Failure codes of a flash that stop the run."""

Task = Callable[[], None]
Item = TypeVar("Item")
"""What ``produce`` takes from the link: a sample, or a whole window of a telematics box."""
_Taken = TypeVar("_Taken", contravariant=True)

_OBSERVATIONS = 128
_REQUESTS = 64


def _nothing_first() -> None:
    """Nothing is to be done before the HMI is heard."""


@dataclass(frozen=True, eq=False)
class RowsProposal:
    """Rows that the agent wants flashed.

    Attributes:
        first_row: index of the first of the 4 rows.
        rows: (4, columns) float32, Nm.
        decided_ns: ``time.monotonic_ns`` of the decision.
    """

    first_row: int
    rows: NDArray[np.float32]
    decided_ns: int


@dataclass(frozen=True, eq=False)
class FlashOutcomeView:
    """What became of a proposal.

    Attributes:
        result: APPLIED only where the rows are known to be in effect: read back from the bus, or confirmed by
            the remote CAN service.
        code: 0, or the failure code of the wire contract.
        reason: why it was not applied.
        first_row: index of the first row.
        rows: (4, columns) float32 Nm as live after it; NaN where that is not known.
        effect_ns: ns UTC at which it took effect; None where it did not.
        duration_s: from the call to the answer.
        clipped: by rule of the guard, cells that it changed.
    """

    result: FlashResult
    code: int
    reason: str
    first_row: int
    rows: NDArray[np.float32]
    effect_ns: int | None = None
    duration_s: float = 0.0
    clipped: dict[str, int] = field(default_factory=dict)

    @property
    def applied(self) -> bool:
        """Whether the step may become a record."""
        return self.result == "APPLIED"

    @classmethod
    def without_answer(
        cls,
        proposal: RowsProposal,
        result: FlashResult,
        code: int,
        reason: str,
        duration_s: float = 0.0,
    ) -> "FlashOutcomeView":
        """An outcome of which nothing is known but why: ``rows`` are NaN."""
        rows = np.full(proposal.rows.shape, np.nan, np.float32)
        return cls(result, code, reason, proposal.first_row, rows, duration_s=duration_s)


class Windows(Protocol[_Taken]):
    """Makes windows of what ``produce`` takes from the link."""

    def reset(self) -> None:
        """Begin anew, as at an episode's begin."""

    def push(self, item: _Taken, /) -> Window | None:
        """Take the next item; return the window that it completes or breaks."""


class VehicleInterface(ABC, Generic[Item]):
    """The tasks of one vehicle's run. It can be made and looked at while nothing is connected.

    ``ignite`` starts the tasks; then the control thread takes items from ``stream`` until ``RunEnded`` and
    calls ``consume`` for what the agent decides.

    Args:
        vehicle: the vehicle.
        source: where the person's requests come from.
        builder: makes windows of what ``produce`` takes from the link.

    Attributes:
        stream: the ordered queue to the control thread: ``EpisodeBegun``, ``Window``, ``EpisodeEnded``,
            ``RunEnded``. Taking from it is a sign of life.
        watchdog: the failures so far.
        control: the state of the run.
    """

    def __init__(self, vehicle: Vehicle, source: HmiSource, builder: Windows[Item]) -> None:
        self.vehicle = vehicle
        self.liveness = Liveness(vehicle.guard.no_flash_after_s)
        self.stream = ControlStream(self.liveness)
        self.watchdog = Watchdog(vehicle.online.watchdog)
        self._windows = builder
        self._source = source
        self._observations: Pipeline[tuple[int, Item]] = Pipeline(
            "observations", _OBSERVATIONS, when_full="drop_oldest"
        )
        self._requests: Pipeline[Status] = Pipeline("requests", _REQUESTS, when_full="refuse")
        self._flashing = threading.Lock()
        self._supervisor: Supervisor | None = None
        self.control = EpisodeControl(
            self,
            self.stream,
            self.watchdog,
            countdown_s=vehicle.online.countdown_s,
            at_stop=source.at_stop,
            attended=source.attended,
        )

    # ---- what each vehicle does in its own way

    @abstractmethod
    def connect(self, supervisor: Supervisor) -> None:
        """Open the links, or raise and leave none open; register what wakes and closes them."""

    @abstractmethod
    def produce(self) -> None:
        """Task: take observations from the link until the run stops."""

    @abstractmethod
    def flash(self, proposal: RowsProposal, episode: int) -> FlashOutcomeView:
        """Flash and wait for the answer, within the time limit; never raises for a failed flash."""

    @abstractmethod
    def arm(self, number: int) -> ArmReport:
        """Ask for flashes in that episode; blocks until answered."""

    @abstractmethod
    def disarm(self, cause: str) -> None:
        """Bring the reference map back; never raises, never blocks for long."""

    @abstractmethod
    def disconnect(self) -> None:
        """Close the links, after the last disarm."""

    # ---- what a vehicle may do beyond that

    def built(self, window: Window) -> None:
        """A window of the episode is complete or broken; called before the control thread hears of it."""

    def capture_stopped(self) -> None:
        """Nothing is to be observed any more, until the next episode."""

    def urgent(self, cause: str) -> None:
        """A person ended the run: what holds the state machine up is to be given up."""

    def called_off(self, cause: str) -> None:
        """A person threw the episode away: what holds its end up is to be given up."""

    # ---- what is the same for all

    def ignite(self, supervisor: Supervisor, connected: Callable[[], None] = _nothing_first) -> None:
        """Connect and start every task, once.

        Args:
            supervisor: of the tasks.
            connected: called between the two: what it posts comes before all that the HMI asks for. What it
                raises is raised when the tasks run, which close the links once the supervisor stops.

        Raises:
            LinkError: a link cannot be opened; nothing is left running.
            VehicleError: it was started before.
        """
        if self._supervisor is not None:
            message = f"vehicle {self.vehicle.id}: a run is started once, make a new interface for the next"
            raise VehicleError(message)
        self._supervisor = supervisor
        self.connect(supervisor)
        # Registered first, so run last: what was asked for before the stop is still handled.
        supervisor.on_stop("control", self.control.close)
        supervisor.on_stop("watchdog", self.watchdog.close)
        supervisor.on_stop("observations", self._observations.close)
        supervisor.on_stop("requests", self._requests.close)
        try:
            connected()
        finally:
            for name, task in self.tasks().items():
                if not supervisor.start(name, task):
                    task()  # it is stopping already: each finds its queue closed, closes its link and returns

    def tasks(self) -> dict[str, Task]:
        """Every task by its name."""
        return {
            "hmi_control": self.hmi_control,
            "countdown": self.countdown,
            "watch_dog": self.watch_dog,
            "filter": self.filter,
            "hmi": self.hmi,
            "produce": self.produce,
        }

    def filter(self) -> None:
        """Task: make windows of what is observed in an episode."""
        epoch = -1
        while True:
            try:
                stamp, item = self._observations.get()
            except PipelineClosed:
                return
            if stamp != self.control.epoch or not self.control.capturing:
                continue
            if stamp != epoch:
                self._windows.reset()
                epoch = stamp
            window = self._windows.push(item)
            if window is not None:
                self.built(window)
                self.control.offer(window, epoch)

    def consume(self, proposal: RowsProposal) -> FlashOutcomeView:
        """Flash rows and wait for what became of them; the control thread's call, one at a time.

        Raises:
            VehicleError: the rows have another shape, or another flash is under way.
        """
        shape = (FLASHED_ROWS, len(self.vehicle.torque_map.pedal_axis))
        if proposal.rows.shape != shape:
            message = f"a proposal has {shape[0]} x {shape[1]} rows, got {proposal.rows.shape}"
            raise VehicleError(message)
        episode = self.control.number
        armed = self.control.armed
        if not self.control.capturing:
            return FlashOutcomeView.without_answer(proposal, "REFUSED", 0, "the episode is over")
        if not armed.ok:
            return FlashOutcomeView.without_answer(proposal, "REFUSED", 0, armed.reason or "not armed")
        if not self._flashing.acquire(blocking=False):
            message = "a flash is under way: one at a time, each answered before the next"
            raise VehicleError(message)
        try:
            with self.liveness.waiting():
                outcome = self.flash(proposal, episode)
        finally:
            self._flashing.release()
        self._judge(outcome, episode)
        return outcome

    def hmi(self) -> None:
        """Task: hear the person's requests."""
        port = HmiPort(self._requests, self._post_request, self._ignored, self.watchdog.capture_failure)
        self._source.capture(port)

    def hmi_control(self) -> None:
        """Task: drive the run through its states, and at its end close the links, whatever happens."""
        try:
            self.control.run(self._why_stopped)
        finally:
            self.disconnect()

    def countdown(self) -> None:
        """Task: the time between a valid end and the stop of capture."""
        self.control.countdown.run()

    def watch_dog(self) -> None:
        """Task: end the run once there were too many failures."""
        tripped = self.watchdog.wait()
        if tripped is not None:
            self.control.post(Event.FAIL, tripped)

    def tick(self) -> None:
        """Say that the control thread is alive, in the middle of work that takes long."""
        self.liveness.tick()

    def drop_stale(self) -> None:
        """Throw waiting observations away."""
        self._observations.clear()

    def stop_run(self, cause: str) -> None:
        """Stop every task."""
        if self._supervisor is not None:
            self._supervisor.stop(cause)

    # ---- what ``produce`` passes on

    def observe(self, item: Item, epoch: int | None = None) -> None:
        """Pass an observation on to ``filter``; one that is not wanted now costs nothing.

        Args:
            item: what was observed.
            epoch: of the control in which it was asked for; None: the present one.
        """
        if self.control.capturing:
            try:
                self._observations.put((self.control.epoch if epoch is None else epoch, item))
            except PipelineClosed:
                return

    def request(self, status: Status) -> None:
        """Pass a person's request on to the source; nothing is lost in silence."""
        try:
            heard = self._requests.put(status)
        except PipelineClosed:
            return
        if not heard:
            self.watchdog.capture_failure(f"HMI: {status} was lost, {len(self._requests)} requests wait")
            if status == "exit":
                self.stop_run("HMI: exit")

    def _post_request(self, event: Event, cause: str) -> None:
        self.control.post(event, cause)
        if event is Event.EXIT:
            self.urgent(cause)
        elif event is Event.END_INVALID:
            self.called_off(cause)

    def _ignored(self, what: str) -> None:
        _log.info("%s", what)

    def _why_stopped(self) -> tuple[str, bool]:
        if self._supervisor is None or self._supervisor.cause is None:
            return "stopped", False
        return self._supervisor.cause, self._supervisor.error is not None

    def _judge(self, outcome: FlashOutcomeView, episode: int) -> None:
        if outcome.applied:
            return
        reason = f"flash {outcome.result} (code {outcome.code}): {outcome.reason}"
        self.watchdog.flash_failure(reason)
        if outcome.code in STOPPING_CODES:
            self.control.post(Event.FAIL, reason)
        elif outcome.code == TIMEOUT_CODE:
            self.control.post(Event.INTERRUPT, reason, episode=episode)
