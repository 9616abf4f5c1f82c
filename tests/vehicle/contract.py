"""What every vehicle interface keeps to, however its vehicle is reached; siblings inherit it."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pytest

from tspace_core.config import Vehicle
from tspace_core.errors import VehicleError
from tspace_core.link.datagrams import Status
from tspace_core.supervision import PipelineEmpty, Supervisor
from tspace_core.vehicle.interface import RowsProposal, VehicleInterface
from tspace_core.vehicle.states import Event
from tspace_core.vehicle.stream import EpisodeBegun, EpisodeEnded, RunEnded, StreamItem
from tspace_core.vehicle.windows import Window

LONG_S = 30.0
Behaviour = Literal["apply", "refuse", "silent"] | int


class Rig(ABC):
    """One vehicle interface with a simulated other end.

    Attributes:
        vehicle: what is driven: short windows, a short countdown, 5 capture failures end the run.
        interface: the interface, not yet started.
        supervisor: what it is started with.
    """

    vehicle: Vehicle
    interface: VehicleInterface[Any]
    supervisor: Supervisor

    @abstractmethod
    def samples(self, count: int, *, thrust: float = 20.0) -> None:
        """Send that many good samples that follow those before."""

    @abstractmethod
    def say(self, status: Status) -> None:
        """A person presses a key of the HMI."""

    @abstractmethod
    def behave(self, how: Behaviour) -> None:
        """What becomes of flashes from now on; a number is a failure code."""

    @abstractmethod
    def reference_causes(self, count: int) -> list[str]:
        """Wait until the reference map was asked for so often; return why each time."""

    @abstractmethod
    def links_closed(self) -> None:
        """Assert that every link of the interface is closed, waiting for what takes time."""

    @property
    def length(self) -> int:
        """Samples in a window."""
        return self.vehicle.sampling.window

    def next(self) -> StreamItem:
        """The next item of the stream."""
        return self.interface.stream.get(LONG_S)

    def begin(self) -> EpisodeBegun:
        """Begin an episode and return the item that says so."""
        self.say("begin")
        item = self.next()
        assert isinstance(item, EpisodeBegun), item
        return item

    def proposal(self, torque: float = 1.0) -> RowsProposal:
        """Rows to flash."""
        columns = len(self.vehicle.torque_map.pedal_axis)
        return RowsProposal(2, np.full((4, columns), torque, np.float32), time.monotonic_ns())

    def rest(self) -> list[StreamItem]:
        """Wait for the run's end; return the items up to it."""
        items = [self.next()]
        while not isinstance(items[-1], RunEnded):
            items.append(self.next())
        assert self.supervisor.join(LONG_S) == []
        return items


class VehicleInterfaceContract:
    """Tests of ``VehicleInterface``; a sibling gives the rig."""

    @pytest.fixture
    def rig(self) -> Iterator[Rig]:
        """The sibling's rig, which no silence disturbs."""
        raise NotImplementedError

    @pytest.fixture
    def impatient_rig(self) -> Iterator[Rig]:
        """The sibling's rig with a silence_s of 0.2."""
        raise NotImplementedError

    def start(self, rig: Rig) -> None:
        """Start the interface."""
        rig.interface.ignite(rig.supervisor)

    def test_it_can_be_made_and_looked_at_while_nothing_is_connected(self, rig: Rig) -> None:
        assert rig.interface.control.number == 0
        assert not rig.interface.control.capturing
        assert rig.interface.watchdog.tripped is None

    def test_an_episode_comes_out_in_order(self, rig: Rig) -> None:
        self.start(rig)
        begun = rig.begin()
        assert (begun.number, begun.armed) == (1, True)
        assert begun.live is not None
        np.testing.assert_array_equal(begun.live, rig.vehicle.default_map().table)
        rig.samples(3 * rig.length)
        windows = [rig.next() for _ in range(3)]
        assert all(isinstance(window, Window) and window.valid for window in windows)
        starts = [window.start_ns for window in windows if isinstance(window, Window)]
        assert starts == sorted(starts)
        rig.say("end_valid")
        ended = rig.next()
        assert isinstance(ended, EpisodeEnded)
        assert (ended.number, ended.valid, ended.reason) == (1, True, "countdown over")
        assert rig.begin().number == 2

    def test_what_is_first_comes_before_what_waits_at_the_hmi(self, rig: Rig) -> None:
        def connected() -> None:
            rig.say("end_valid")
            rig.interface.control.post(Event.BEGIN, "heard before the run")

        rig.interface.ignite(rig.supervisor, connected)
        assert isinstance(rig.next(), EpisodeBegun)
        while not isinstance(ended := rig.next(), EpisodeEnded):
            pass
        assert ended.valid
        assert rig.interface.watchdog.counts["capture"] == 0

    def test_a_first_that_fails_leaves_nothing_open(self, rig: Rig) -> None:
        def connected() -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            rig.interface.ignite(rig.supervisor, connected)
        rig.supervisor.stop("it cannot begin")
        rig.rest()
        rig.links_closed()

    def test_samples_from_before_the_begin_are_stale(self, rig: Rig) -> None:
        self.start(rig)
        rig.samples(5 * rig.length // 2, thrust=99.0)
        rig.begin()
        rig.samples(rig.length)
        window = rig.next()
        assert isinstance(window, Window)
        assert window.samples[:, 1].max() < 50

    def test_samples_of_the_episode_before_are_in_no_window(self, rig: Rig) -> None:
        self.start(rig)
        rig.begin()
        rig.samples(3 * rig.length // 2, thrust=99.0)
        assert isinstance(rig.next(), Window)
        rig.say("end_invalid")
        assert isinstance(rig.next(), EpisodeEnded)
        rig.begin()
        rig.samples(rig.length)
        window = rig.next()
        assert isinstance(window, Window)
        assert window.samples[:, 1].max() < 50

    def test_end_invalid_discards_and_brings_the_reference_map_back(self, rig: Rig) -> None:
        self.start(rig)
        rig.begin()
        rig.say("end_invalid")
        ended = rig.next()
        assert isinstance(ended, EpisodeEnded)
        assert not ended.valid
        assert rig.reference_causes(1) == ["HMI: end_invalid"]

    def test_exit_ends_every_task_and_closes_every_link(self, rig: Rig) -> None:
        self.start(rig)
        rig.begin()
        rig.say("exit")
        ended, over = rig.rest()
        assert isinstance(ended, EpisodeEnded)
        assert not ended.valid
        assert over == RunEnded("HMI: exit", failed=False)
        assert rig.supervisor.cause == "HMI: exit"
        assert rig.reference_causes(1) == ["HMI: exit"]
        assert rig.supervisor.alive() == []
        rig.links_closed()

    def test_a_stop_from_outside_ends_the_same_way(self, rig: Rig) -> None:
        self.start(rig)
        rig.begin()
        rig.supervisor.stop("signal SIGTERM")
        assert rig.rest()[-1] == RunEnded("signal SIGTERM", failed=False)
        assert rig.reference_causes(1) == ["signal SIGTERM"]
        rig.links_closed()

    def test_a_crash_of_any_task_ends_all_with_its_cause(self, rig: Rig) -> None:
        self.start(rig)
        rig.begin()

        def crash() -> None:
            message = "no more memory"
            raise MemoryError(message)

        rig.supervisor.start("learner", crash)
        assert rig.rest()[-1] == RunEnded("learner: no more memory", failed=True)
        assert rig.reference_causes(1) == ["learner: no more memory"]
        rig.links_closed()

    def test_a_run_that_is_stopping_already_ends_at_once(self, rig: Rig) -> None:
        rig.supervisor.stop("too late")
        self.start(rig)
        assert rig.rest() == [RunEnded("too late", failed=False)]
        rig.links_closed()

    def test_it_is_started_once(self, rig: Rig) -> None:
        self.start(rig)
        with pytest.raises(VehicleError, match="started once"):
            self.start(rig)

    def test_an_applied_flash_says_what_is_live(self, rig: Rig) -> None:
        self.start(rig)
        rig.begin()
        outcome = rig.interface.consume(rig.proposal(7.0))
        assert outcome.applied
        assert (outcome.code, outcome.first_row) == (0, 2)
        np.testing.assert_array_equal(outcome.rows, rig.proposal(7.0).rows)
        assert rig.interface.watchdog.counts == {"capture": 0, "flash": 0}

    def test_a_failed_flash_logged_as_done_and_learned_from(self, rig: Rig) -> None:
        """Field failure: whatever is not APPLIED must not look like it, and counts."""
        self.start(rig)
        rig.begin()
        rig.behave("refuse")
        outcome = rig.interface.consume(rig.proposal())
        assert (outcome.applied, outcome.result, outcome.code) == (False, "REFUSED", 0)
        assert outcome.reason
        assert rig.interface.watchdog.counts["flash"] == 1
        assert rig.interface.control.capturing, "a refusal loses a step, not the episode"

    def test_a_flash_that_is_not_answered_interrupts_the_episode_and_the_run_goes_on(self, rig: Rig) -> None:
        self.start(rig)
        rig.begin()
        rig.behave("silent")
        outcome = rig.interface.consume(rig.proposal())
        assert (outcome.result, outcome.code) == ("UNKNOWN", 4)
        assert np.isnan(outcome.rows).all()
        assert "not answer within" in rig.reference_causes(1)[0]
        assert not rig.interface.control.capturing
        rig.samples(2 * rig.length)
        rig.behave("apply")
        rig.say("begin")
        ended, begun = rig.next(), rig.next()
        assert isinstance(ended, EpisodeEnded)
        assert not ended.valid
        assert isinstance(begun, EpisodeBegun)
        assert rig.interface.consume(rig.proposal()).applied

    @pytest.mark.parametrize("code", [1, 2, 3])
    def test_other_failure_codes_stop_the_run(self, rig: Rig, code: int) -> None:
        self.start(rig)
        rig.begin()
        rig.behave(code)
        assert rig.interface.consume(rig.proposal()).code == code
        over = rig.rest()[-1]
        assert isinstance(over, RunEnded)
        assert over.failed
        assert f"code {code}" in over.cause
        assert len(rig.reference_causes(1)) == 1

    def test_nothing_is_flashed_outside_an_episode(self, rig: Rig) -> None:
        self.start(rig)
        assert rig.interface.consume(rig.proposal()).reason == "the episode is over"
        rig.begin()
        rig.say("end_invalid")
        rig.next()
        assert rig.interface.consume(rig.proposal()).result == "REFUSED"
        assert rig.interface.watchdog.counts["flash"] == 0

    def test_a_proposal_of_another_shape_is_an_error_of_the_caller(self, rig: Rig) -> None:
        wrong = RowsProposal(0, np.zeros((3, 17), np.float32), 0)
        with pytest.raises(VehicleError, match=r"4 x 17 rows, got \(3, 17\)"):
            rig.interface.consume(wrong)

    def test_an_implausible_sample_makes_one_invalid_window_and_one_failure(self, rig: Rig) -> None:
        self.start(rig)
        rig.begin()
        rig.samples(rig.length - 1)
        rig.samples(1, thrust=101.0)
        rig.samples(rig.length)
        first, second = rig.next(), rig.next()
        assert isinstance(first, Window)
        assert isinstance(second, Window)
        assert (first.valid, second.valid) == (False, True)
        assert rig.interface.watchdog.counts == {"capture": 1, "flash": 0}

    def test_too_many_failures_end_the_run(self, rig: Rig) -> None:
        self.start(rig)
        rig.begin()
        for _ in range(rig.vehicle.online.watchdog.capture_failures):
            rig.say("begin")
        over = rig.rest()[-1]
        assert isinstance(over, RunEnded)
        assert over.failed
        assert over.cause.startswith("watchdog: 5 capture failures within 600 s")
        assert rig.reference_causes(1) == [over.cause]

    def test_silence_while_capturing_is_counted_and_none_before(self, impatient_rig: Rig) -> None:
        rig = impatient_rig
        self.start(rig)
        with pytest.raises(PipelineEmpty):
            rig.interface.stream.get(3 * rig.vehicle.online.silence_s)
        assert rig.interface.watchdog.counts["capture"] == 0
        rig.begin()
        over = rig.rest()[-1]
        assert isinstance(over, RunEnded)
        assert "silence: no sample for 0.2 s" in over.cause
