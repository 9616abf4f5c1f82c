"""What every source of a person's requests keeps to; siblings inherit it."""

import threading
from abc import ABC, abstractmethod

from tspace_core.link.datagrams import STATUSES, Status
from tspace_core.supervision import Pipeline
from tspace_core.vehicle.hmi import EVENTS, HmiPort, HmiSource
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
    """What every source keeps to.

    Attributes:
        follows: requests that ``say`` can make; the others are told and not followed.
        at_start: what it posts without being asked.
    """

    follows: frozenset[Status] = frozenset({"exit"})
    at_start: tuple[Event, ...] = ()

    @property
    @abstractmethod
    def source(self) -> HmiSource:
        """The source under test."""

    def listen(self) -> Listener:
        """A listener to the source that hears whatever is said from now on."""
        return Listener(self.source)

    def say(self, listener: Listener, status: Status) -> None:
        """A person presses a key."""
        listener.requests.put(status)

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

    def test_requests_become_events_in_their_order(self) -> None:
        said: list[Status] = ["begin", "end_valid", "begin", "end_invalid", "end_valid", "begin", "exit"]
        followed = [status for status in said if status in self.follows]
        listener = self.listen()
        for status in followed:
            self.say(listener, status)
        expected = [*self.at_start, *(EVENTS[status] for status in followed)]
        assert [listener.posted.get(LONG_S)[0] for _ in expected] == expected
        assert listener.stop() == []

    def test_what_is_not_followed_is_told(self) -> None:
        listener = self.listen()
        others = [status for status in STATUSES if status not in self.follows]
        for status in others:
            self.say(listener, status)
        assert listener.stop() == list(self.at_start)
        assert len(listener.ignored) == len(others)

    def test_it_can_be_started_again(self) -> None:
        for _ in range(2):
            listener = self.listen()
            self.say(listener, "exit")
            expected = [*self.at_start, Event.EXIT]
            assert [listener.posted.get(LONG_S)[0] for _ in expected] == expected
            assert listener.stop() == []
