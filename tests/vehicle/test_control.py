"""The state machine carried out: what goes out, in which order, also when events come in storms."""

import random
import threading

import numpy as np
import pytest

from tspace_core.config.online import WatchdogLimits
from tspace_core.errors import ChannelError
from tspace_core.vehicle.control import ArmReport, EpisodeControl
from tspace_core.vehicle.states import Event
from tspace_core.vehicle.stream import (
    ControlStream,
    EpisodeBegun,
    EpisodeEnded,
    Liveness,
    RunEnded,
    StreamItem,
)
from tspace_core.vehicle.watchdog import Watchdog
from tspace_core.vehicle.windows import Window

LONG_S = 30.0
MANY = WatchdogLimits(capture_failures=100_000, flash_failures=100_000)


def window(*, valid: bool = True) -> Window:
    reason = "" if valid else "thrust is 200 %"
    return Window(0, np.zeros((30, 3), np.float32), 0.0, 0.0, 0.0, valid=valid, reason=reason)


class Rig:
    """An episode control with everything around it written down."""

    def __init__(
        self, *, countdown_s: float = 0.0, at_stop: Event = Event.STOP, attended: bool = True
    ) -> None:
        self.acts: list[str] = []
        self.report: ArmReport | BaseException = ArmReport(ok=True)
        self.watchdog = Watchdog(MANY)
        self.stream = ControlStream(Liveness(0.5))
        self.control = EpisodeControl(
            self,
            self.stream,
            self.watchdog,
            countdown_s=countdown_s,
            at_stop=at_stop,
            attended=attended,
        )
        self.why = ("asked to stop", False)
        self.error: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._run, daemon=True),
            threading.Thread(target=self.control.countdown.run, daemon=True),
        ]

    def arm(self, number: int) -> ArmReport:
        self.acts.append(f"arm {number}")
        if isinstance(self.report, BaseException):
            raise self.report
        return self.report

    def disarm(self, cause: str) -> None:
        self.acts.append(f"disarm: {cause}")

    def capture_stopped(self) -> None:
        """Nothing is observed here."""

    def drop_stale(self) -> None:
        self.acts.append("drop stale")

    def stop_run(self, cause: str) -> None:
        self.acts.append(f"stop: {cause}")
        self.control.close()

    def _run(self) -> None:
        try:
            self.control.run(lambda: self.why)
        except BaseException as error:
            self.error = error

    def start(self) -> "Rig":
        for thread in self._threads:
            thread.start()
        return self

    def post(self, event: Event, cause: str = "", episode: int | None = None) -> None:
        self.control.post(event, cause or event.value, episode=episode)

    def next(self) -> StreamItem:
        return self.stream.get(LONG_S)

    def join(self) -> None:
        """Stop, and wait until everything has ended."""
        self.control.close()
        for thread in self._threads:
            thread.join(LONG_S)
            assert not thread.is_alive()

    def finish(self) -> list[StreamItem]:
        """Stop, join, and return what is left in the stream."""
        self.join()
        return [self.stream.get(0) for _ in range(len(self.stream))]


def told(items: list[StreamItem]) -> list[str]:
    """The items in words."""
    words = []
    for item in items:
        match item:
            case EpisodeBegun():
                words.append(f"begun {item.number}{'' if item.armed else ' unarmed'}")
            case EpisodeEnded():
                words.append(f"{'valid' if item.valid else 'invalid'} {item.number}: {item.reason}")
            case RunEnded():
                words.append(f"{'failed' if item.failed else 'ended'}: {item.cause}")
            case _:
                words.append("window")
    return words


def test_an_episode_from_begin_to_its_valid_end_after_the_countdown() -> None:
    rig = Rig(countdown_s=0.05).start()
    rig.post(Event.BEGIN)
    assert isinstance(rig.next(), EpisodeBegun)
    assert rig.control.offer(window(), rig.control.epoch)
    rig.post(Event.END_VALID)
    assert isinstance(rig.next(), Window)
    assert told([rig.next()]) == ["valid 1: countdown over"]
    assert not rig.control.offer(window(), rig.control.epoch)
    assert told(rig.finish()) == ["ended: asked to stop"]
    assert rig.acts == ["drop stale", "arm 1", "disarm: asked to stop", "stop: asked to stop"]


def test_capture_goes_on_during_the_countdown_and_exit_cancels_it() -> None:
    rig = Rig(countdown_s=3600).start()
    rig.post(Event.BEGIN)
    rig.next()
    rig.post(Event.END_VALID)
    rig.post(Event.END_VALID)  # the second one is handled after the first
    while rig.watchdog.counts["capture"] == 0:
        rig.watchdog.wait(0.01)
    assert rig.control.offer(window(), rig.control.epoch)
    rig.post(Event.EXIT, "HMI: exit")
    assert told(rig.finish()) == ["window", "valid 1: HMI: exit", "ended: HMI: exit"]


def test_end_invalid_stops_capture_at_once_and_discards() -> None:
    rig = Rig().start()
    rig.post(Event.BEGIN)
    rig.next()
    rig.post(Event.END_INVALID, "HMI: end_invalid")
    assert told([rig.next()]) == ["invalid 1: HMI: end_invalid"]
    assert not rig.control.capturing
    rig.finish()
    assert rig.acts[2] == "disarm: HMI: end_invalid"


def test_begin_twice_and_ends_without_a_begin_are_failures_and_change_nothing() -> None:
    rig = Rig().start()
    for event in (Event.END_VALID, Event.END_INVALID, Event.BEGIN, Event.BEGIN, Event.END_INVALID):
        rig.post(event)
    assert told(rig.finish()) == ["begun 1", "invalid 1: end_invalid", "ended: asked to stop"]
    assert rig.watchdog.counts == {"capture": 3, "flash": 0}
    assert "begin: does not fit, the run is capturing" in rig.watchdog.reasons


def test_begin_during_the_countdown_keeps_the_episode_before_it() -> None:
    rig = Rig(countdown_s=3600).start()
    for event in (Event.BEGIN, Event.END_VALID, Event.BEGIN):
        rig.post(event)
    assert told(rig.finish()) == [
        "begun 1",
        "valid 1: begin",
        "begun 2",
        "invalid 2: asked to stop",
        "ended: asked to stop",
    ]


def test_an_interruption_waits_for_the_person_and_begin_clears_it() -> None:
    rig = Rig().start()
    rig.post(Event.BEGIN)
    rig.post(Event.INTERRUPT, "flash not answered", episode=1)
    rig.post(Event.END_VALID)
    rig.post(Event.BEGIN)
    rig.post(Event.INTERRUPT, "flash not answered", episode=2)
    rig.post(Event.BEGIN)
    rig.post(Event.END_INVALID)
    assert told(rig.finish()) == [
        "begun 1",
        "valid 1: end_valid",
        "begun 2",
        "invalid 2: begin",
        "begun 3",
        "invalid 3: end_invalid",
        "ended: asked to stop",
    ]
    assert rig.acts.count("disarm: flash not answered") == 2


def test_what_concerns_an_episode_that_is_over_is_void() -> None:
    rig = Rig().start()
    rig.post(Event.BEGIN)
    rig.post(Event.END_INVALID)
    rig.post(Event.BEGIN)
    rig.post(Event.INTERRUPT, "of the first", episode=1)
    rig.post(Event.COUNTDOWN_OVER, "of the first", episode=1)
    assert told(rig.finish()) == [
        "begun 1",
        "invalid 1: end_invalid",
        "begun 2",
        "invalid 2: asked to stop",
        "ended: asked to stop",
    ]


def test_without_a_person_an_interruption_ends_the_run_and_the_stop_request_keeps_the_episode() -> None:
    rig = Rig(at_stop=Event.FINISH, attended=False).start()
    rig.post(Event.BEGIN)
    assert told(rig.finish()) == ["begun 1", "valid 1: asked to stop", "ended: asked to stop"]
    rig = Rig(at_stop=Event.FINISH, attended=False).start()
    rig.post(Event.BEGIN)
    rig.post(Event.INTERRUPT, "locked")
    cause = "locked; nobody is at the HMI to begin again"
    assert told(rig.finish()) == ["begun 1", f"valid 1: {cause}", f"failed: {cause}"]


def test_a_begin_that_cannot_be_armed_is_interrupted_and_counts() -> None:
    rig = Rig()
    rig.report = ArmReport(ok=False, reason="LOCKED")
    rig.start()
    rig.post(Event.BEGIN)
    rig.post(Event.END_INVALID)
    assert told(rig.finish()) == ["begun 1 unarmed", "invalid 1: end_invalid", "ended: asked to stop"]
    assert rig.watchdog.reasons == {"not armed: LOCKED": 1}


def test_observing_needs_no_arming() -> None:
    rig = Rig()
    rig.report = ArmReport(ok=False, reason="observe only", wanted=False)
    rig.start()
    rig.post(Event.BEGIN)
    rig.next()
    assert rig.control.offer(window(), rig.control.epoch)
    assert rig.watchdog.counts == {"capture": 0, "flash": 0}
    rig.finish()


def test_a_crash_while_arming_disarms_and_ends_the_run_with_its_cause() -> None:
    rig = Rig()
    rig.report = ChannelError("the bridge is gone")
    rig.start()
    rig.post(Event.BEGIN)
    assert told(rig.finish()) == ["failed: the bridge is gone"]
    assert isinstance(rig.error, ChannelError)
    assert rig.acts[-2:] == ["disarm: the bridge is gone", "stop: the bridge is gone"]


def test_a_crash_while_arming_the_second_episode_ends_none_that_was_not_begun() -> None:
    rig = Rig().start()
    rig.post(Event.BEGIN)
    rig.post(Event.END_INVALID)
    assert told([rig.next(), rig.next()]) == ["begun 1", "invalid 1: end_invalid"]
    rig.report = ChannelError("the bridge is gone")
    rig.post(Event.BEGIN)
    assert told(rig.finish()) == ["failed: the bridge is gone"]


def test_an_invalid_window_is_passed_on_and_is_one_failure() -> None:
    rig = Rig().start()
    rig.post(Event.BEGIN)
    rig.next()
    assert rig.control.offer(window(valid=False), rig.control.epoch)
    assert isinstance(rig.next(), Window)
    assert rig.watchdog.reasons == {"invalid window: thrust is 200 %": 1}
    rig.finish()


def test_windows_of_samples_from_before_the_begin_are_not_taken() -> None:
    rig = Rig().start()
    stale = rig.control.epoch
    rig.post(Event.BEGIN)
    rig.next()
    assert not rig.control.offer(window(), stale)
    rig.finish()


def test_a_control_thread_that_takes_nothing_ends_the_run_with_a_clear_cause() -> None:
    rig = Rig().start()
    for _ in range(300):
        rig.post(Event.BEGIN)
        rig.post(Event.END_INVALID)
    items = rig.finish()
    assert isinstance(items[-1], RunEnded)
    assert items[-1].failed
    assert rig.error is not None
    assert "items waiting: it does not run any more" in str(rig.error)


@pytest.mark.parametrize("round_number", range(3))
def test_in_any_storm_of_events_windows_lie_between_begin_and_end(round_number: int) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}, round {round_number}")
    rng = random.Random(seed)
    rig = Rig(countdown_s=0.001).start()
    ending = threading.Event()
    items: list[StreamItem] = []

    def offer() -> None:
        while not ending.is_set():
            rig.control.offer(window(), rig.control.epoch)
            ending.wait(0.0005)

    def take() -> None:
        while not items or not isinstance(items[-1], RunEnded):
            items.append(rig.stream.get(LONG_S))

    threads = [threading.Thread(target=target, daemon=True) for target in (offer, offer, take)]
    for thread in threads:
        thread.start()
    events = [Event.BEGIN, Event.BEGIN, Event.END_VALID, Event.END_INVALID, Event.INTERRUPT]
    for _ in range(400):
        rig.post(rng.choice(events))
        # A control thread this far behind ends the run, as it must; what is posted may become two items.
        while len(rig.stream) > 100 or len(rig.control._events) > 10:
            ending.wait(0.001)
    rig.post(Event.EXIT)
    rig.join()
    ending.set()
    for thread in threads:
        thread.join(LONG_S)
        assert not thread.is_alive()
    running: int | None = None
    for item in items:
        match item:
            case EpisodeBegun():
                assert running is None, "an episode began within another one"
                running = item.number
            case EpisodeEnded():
                assert item.number == running, "an episode ended that did not run"
                running = None
            case Window():
                assert running is not None, "a window outside any episode"
            case RunEnded():
                assert item is items[-1]
    assert running is None
    assert sum(isinstance(item, EpisodeBegun) for item in items) == rig.control.number > 10
