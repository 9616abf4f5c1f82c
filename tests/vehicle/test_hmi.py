"""The sources of a person's requests: one contract, and what differs between them."""

import threading
from abc import ABC, abstractmethod

import pytest

from tests.vehicle.samples import truck
from tspace_core.errors import ConfigError
from tspace_core.link.datagrams import STATUSES, Status
from tspace_core.supervision import Pipeline
from tspace_core.vehicle.hmi import EVENTS, HmiPort, HmiSource, hmi_source
from tspace_core.vehicle.states import Event

LONG_S = 30.0


class Listener:
    """Runs a source and collects what it posts."""

    def __init__(self, source: HmiSource) -> None:
        self.requests: Pipeline[Status] = Pipeline("requests", 100)
        self.posted: Pipeline[tuple[Event, str]] = Pipeline("posted", 100)
        self.ignored: list[str] = []
        self.failed: Pipeline[str] = Pipeline("failed", 100)
        port = HmiPort(
            self.requests,
            lambda event, cause: self._take(event, cause),
            lambda what: self.ignored.append(what),
            lambda why: self._fail(why),
        )
        self._thread = threading.Thread(target=source.capture, args=(port,), daemon=True)
        self._thread.start()

    def _fail(self, why: str) -> None:
        self.failed.put(why)

    def _take(self, event: Event, cause: str) -> None:
        self.posted.put((event, cause))

    def stop(self) -> list[Event]:
        """Stop the source, see that it ends, and return what it had posted and nobody has got yet."""
        self.requests.close()
        self._thread.join(LONG_S)
        assert not self._thread.is_alive(), "the source did not end when the run stopped"
        return [self.posted.get()[0] for _ in range(len(self.posted))]


class HmiContract(ABC):
    """What every source keeps to."""

    @property
    @abstractmethod
    def source(self) -> HmiSource:
        """The source under test."""

    def test_it_ends_when_the_run_stops(self) -> None:
        Listener(self.source).stop()

    def test_an_exit_is_always_heard(self) -> None:
        listener = Listener(self.source)
        listener.requests.put("exit")
        events = listener.stop()
        assert events[-1] is Event.EXIT

    def test_every_event_says_where_it_came_from(self) -> None:
        listener = Listener(self.source)
        listener.requests.put("exit")
        assert "HMI" in listener.posted.get(LONG_S)[1]
        listener.stop()

    def test_the_stop_request_ends_an_episode_one_way_or_the_other(self) -> None:
        assert self.source.at_stop in (Event.STOP, Event.FINISH)


class TestUdp(HmiContract):
    """Requests in datagrams."""

    @property
    def source(self) -> HmiSource:
        return hmi_source("udp", truck())

    def test_requests_become_events_in_their_order(self) -> None:
        listener = Listener(self.source)
        sent: list[Status] = ["begin", "end_valid", "begin", "end_invalid", "end_valid", "exit"]
        for status in sent:
            listener.requests.put(status)
        assert listener.stop() == [EVENTS[status] for status in sent]

    def test_a_running_episode_without_a_valid_end_is_not_valid(self) -> None:
        assert self.source.at_stop is Event.STOP
        assert self.source.attended


class TestDummy(HmiContract):
    """Begins at start; ends at the stop request."""

    @property
    def source(self) -> HmiSource:
        return hmi_source("dummy", truck())

    def test_it_begins_at_start_and_what_it_captured_is_valid_at_the_stop_request(self) -> None:
        assert Listener(self.source).stop() == [Event.BEGIN]
        assert self.source.at_stop is Event.FINISH
        assert not self.source.attended

    def test_other_requests_are_told_and_not_followed(self) -> None:
        listener = Listener(self.source)
        listener.requests.put("end_invalid")
        assert listener.stop() == [Event.BEGIN]
        assert listener.ignored == ["HMI: end_invalid is not followed while hmi.source is dummy"]


def test_every_status_has_an_event() -> None:
    assert set(EVENTS) == set(STATUSES)


def test_an_unknown_source_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"telepathy.*one of udp, rmq, dummy: .*TSPACE_HMI__SOURCE"):
        hmi_source("telepathy", truck())
