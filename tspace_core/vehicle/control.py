"""Carries out the state machine of a run: events in, effects in their order, items to the control thread."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tspace_core.errors import VehicleError
from tspace_core.supervision import Pipeline, PipelineClosed
from tspace_core.supervision.supervisor import describe
from tspace_core.vehicle.states import Effect, Event, State, step
from tspace_core.vehicle.stream import ControlStream, EpisodeBegun, EpisodeEnded, RunEnded
from tspace_core.vehicle.watchdog import Watchdog
from tspace_core.vehicle.windows import Window

_log = logging.getLogger(__name__)

_EVENTS = 256


@dataclass(frozen=True, eq=False)
class ArmReport:
    """What became of arming.

    Attributes:
        ok: flashes will be taken.
        reason: why not, or a remark.
        live: the whole map in effect, where it is known.
        resumed: whether it is the map asked for.
        wanted: False where flashing was not asked for, as in observing, or not waited for any more because a
            person ended the episode: then not being armed is no failure.
    """

    ok: bool
    reason: str = ""
    live: NDArray[np.float32] | None = None
    resumed: bool = False
    wanted: bool = True


class Hooks(Protocol):
    """What the effects act on."""

    def arm(self, number: int) -> ArmReport:
        """Ask for flashes in that episode; blocks until answered."""

    def disarm(self, cause: str) -> None:
        """Bring the reference map back; never raises, never blocks for long."""

    def drop_stale(self) -> None:
        """Throw waiting observations away."""

    def capture_stopped(self) -> None:
        """Observe nothing any more, until the next episode."""

    def stop_run(self, cause: str) -> None:
        """Stop every task."""


@dataclass(frozen=True)
class Posted:
    """An event on its way; one that names an episode is void in any other."""

    event: Event
    cause: str
    episode: int | None = None


class Countdown:
    """A timer that posts once its time is over, unless it was cancelled.

    Args:
        over: called with the number it was started with.
    """

    def __init__(self, over: Callable[[int], None]) -> None:
        self._over = over
        self._changed = threading.Condition(threading.Lock())
        self._deadline: float | None = None
        self._number = 0
        self._closed = False

    def start(self, number: int, seconds: float) -> None:
        """Call ``over(number)`` in ``seconds``; a countdown that runs is replaced."""
        with self._changed:
            self._deadline, self._number = time.monotonic() + seconds, number
            self._changed.notify_all()

    def cancel(self) -> None:
        """Forget the countdown that runs."""
        with self._changed:
            self._deadline = None
            self._changed.notify_all()

    def close(self) -> None:
        """End ``run``."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def run(self) -> None:
        """The timer's task, until ``close``."""
        while True:
            with self._changed:
                if self._closed:
                    return
                if self._deadline is None:
                    self._changed.wait()
                    continue
                left = self._deadline - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
                self._deadline, number = None, self._number
            self._over(number)


class EpisodeControl:
    """Drives one run through its states. ``run`` is one task's; the rest may be called from any thread.

    Args:
        hooks: what the effects act on.
        stream: where begins, windows and ends go.
        watchdog: counts requests that do not fit the state, and arming that was refused.
        countdown_s: time between a valid end and the stop of capture.
        at_stop: what a stop means for a running episode, see ``HmiSource``.
        attended: whether somebody can begin again after an interruption, see ``HmiSource``.

    Attributes:
        state: the present state.
        number: of the present or last episode; 0 before the first.
        epoch: changes whenever waiting observations became stale.
        failed: whether the run ended by a failure.
    """

    def __init__(
        self,
        hooks: Hooks,
        stream: ControlStream,
        watchdog: Watchdog,
        *,
        countdown_s: float,
        at_stop: Event = Event.STOP,
        attended: bool = True,
    ) -> None:
        self._hooks, self._stream, self._watchdog = hooks, stream, watchdog
        self._countdown_s, self._at_stop, self._attended = countdown_s, at_stop, attended
        self._events: Pipeline[Posted] = Pipeline("events", _EVENTS)
        # Guards capture and epoch, and tells who waits for a change of them.
        self._lock = threading.Condition(threading.Lock())
        self._capturing = False
        self._announced = False
        self._armed = ArmReport(ok=False)
        self._cause = ""
        self._end_cause = ""
        self.countdown = Countdown(self._countdown_over)
        self.state = State.IDLE
        self.number = 0
        self.epoch = 0
        self.failed = False

    @property
    def capturing(self) -> bool:
        """Whether samples become windows and flashes may be proposed now."""
        return self._capturing

    @property
    def armed(self) -> ArmReport:
        """Whether flashes are taken in this episode, as was said at its begin."""
        return self._armed

    def post(
        self, event: Event, cause: str, *, episode: int | None = None, timeout_s: float | None = None
    ) -> bool:
        """Let ``run`` handle an event.

        Args:
            event: what happened.
            cause: why, for people.
            episode: number of the episode it concerns; by then in another one, it is void.
            timeout_s: longest wait where very many events wait already.

        Returns:
            False if the run has ended, or the event found no room in time.
        """
        try:
            return self._events.put(Posted(event, cause, episode), timeout_s)
        except PipelineClosed:
            return False

    def offer(self, window: Window, epoch: int) -> bool:
        """Pass a window on, unless capture has stopped since its samples came; return whether it went."""
        with self._lock:
            if not self._capturing or epoch != self.epoch:
                return False
            if not self._stream.offer(window):
                self._watchdog.capture_failure("the control thread is too slow: a window was lost")
                return False
        if not window.valid:
            self._watchdog.capture_failure(f"invalid window: {window.reason}")
        return True

    def wait_capture(self) -> int | None:
        """Wait until an episode is captured; return its epoch, or None once the run is to end."""
        with self._lock:
            self._lock.wait_for(lambda: self._capturing or self._events.closed)
            return None if self._events.closed else self.epoch

    def captures(self, epoch: int) -> bool:
        """Whether that epoch is captured, and the run is not to end."""
        return self._capturing and self.epoch == epoch and not self._events.closed

    def wait_over(self, epoch: int, timeout_s: float) -> bool:
        """Wait until that epoch is not captured any more; False if it still is when the time is over."""
        with self._lock:
            return self._lock.wait_for(lambda: not self.captures(epoch), timeout_s)

    def close(self) -> None:
        """Let ``run`` handle what was posted and end."""
        self._close()

    def run(self, why_stopped: Callable[[], tuple[str, bool]]) -> None:
        """Handle events until ``close``, then bring the run to its end, whatever happens.

        Args:
            why_stopped: the run's cause and whether it is a failure, asked for after ``close``.
        """
        try:
            while True:
                try:
                    posted = self._events.get()
                except PipelineClosed:
                    break
                self._handle(posted)
        except BaseException as error:
            self._end(describe(error), failed=True)
            raise
        cause, failed = why_stopped()
        self._end(cause, failed=failed)

    def _end(self, cause: str, *, failed: bool) -> None:
        self._close()
        self.failed = self.failed or failed
        try:
            self._handle(Posted(Event.FAIL if self.failed else self._at_stop, cause))
        finally:
            self.countdown.close()
            self._stream.end(RunEnded(self._end_cause or cause, self.failed))

    def _close(self) -> None:
        self._events.close()
        with self._lock:
            self._lock.notify_all()

    def _countdown_over(self, number: int) -> None:
        self.post(Event.COUNTDOWN_OVER, "countdown over", episode=number)

    def _handle(self, posted: Posted) -> None:
        if posted.episode is not None and posted.episode != self.number:
            _log.info("%s of episode %d comes too late", posted.event.value, posted.episode)
            return
        before = self.state
        self.state, effects = step(before, posted.event)
        self._cause = posted.cause
        if self.state is State.ENDED and before is not State.ENDED:
            self._end_cause = posted.cause
            self.failed = self.failed or posted.event is Event.FAIL
        if effects:
            _log.info("%s -> %s: %s", before.value, self.state.value, posted.cause)
        for effect in effects:
            self._carry_out(effect)
        if Effect.ARM in effects and self._armed.wanted and not self._armed.ok:
            reason = f"not armed: {self._armed.reason}"
            self._watchdog.flash_failure(reason)
            self._handle(Posted(Event.INTERRUPT, reason))
        elif self.state is State.INTERRUPTED and before is not State.INTERRUPTED and not self._attended:
            self.failed = True
            self._handle(Posted(Event.FINISH, f"{posted.cause}; nobody is at the HMI to begin again"))

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Effect.DROP_STALE:
                with self._lock:
                    self.epoch += 1
                    self._lock.notify_all()
                self._hooks.drop_stale()
            case Effect.OPEN:
                self.number += 1
            case Effect.ARM:
                self._armed = self._hooks.arm(self.number)
            case Effect.START_CAPTURE:
                armed = self._armed
                begun = EpisodeBegun(
                    self.number, time.time_ns(), armed.ok, armed.reason, armed.live, armed.resumed
                )
                with self._lock:
                    self._emit(begun)
                    self._capturing = self._announced = True
                    self._lock.notify_all()
            case Effect.STOP_CAPTURE:
                with self._lock:
                    self._capturing = False
                    self._lock.notify_all()
                self._hooks.capture_stopped()
            case Effect.START_COUNTDOWN:
                self.countdown.start(self.number, self._countdown_s)
            case Effect.CANCEL_COUNTDOWN:
                self.countdown.cancel()
            case Effect.KEEP | Effect.DISCARD:
                # Where arming crashed, the episode was opened and its begin never told.
                if self._announced:
                    valid = effect is Effect.KEEP
                    self._emit(EpisodeEnded(self.number, time.time_ns(), valid, self._cause))
                self._announced = False
            case Effect.DISARM:
                self._armed = ArmReport(ok=False, reason=self._cause)
                self._hooks.disarm(self._cause)
            case Effect.COUNT_FAILURE:
                self._watchdog.capture_failure(f"{self._cause}: does not fit, the run is {self.state.value}")
            case Effect.STOP_RUN:
                self._hooks.stop_run(self._cause)

    def _emit(self, item: EpisodeBegun | EpisodeEnded) -> None:
        if not self._stream.put(item):
            message = (
                f"the control thread has left {len(self._stream)} items waiting: it does not run any more"
            )
            raise VehicleError(message)
