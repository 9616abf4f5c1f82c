"""The HMI by message queue as a run hears it: the contract of all sources, and what is its own."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.link.queue_world import LIMIT_S
from tests.link.queue_world import truck as remote_truck
from tests.ports import free_port
from tests.vehicle.test_hmi import HmiContract, Listener
from tspace_core.config.settings import settings
from tspace_core.errors import ConfigError
from tspace_core.link.rocketmq import READY_TOPIC, topic_of
from tspace_core.link.rocketmq_messages import encode_message
from tspace_core.twin.rocketmq_double import RocketMqDouble
from tspace_core.vehicle.hmi import HmiSource, hmi_source
from tspace_core.vehicle.states import Event


@pytest.fixture(autouse=True)
def double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RocketMqDouble]:
    """A queue that the settings name."""
    with RocketMqDouble(free_port(socket.SOCK_STREAM)) as server:
        monkeypatch.setenv("TSPACE_ROCKETMQ__ENDPOINTS", server.endpoints)
        monkeypatch.setenv("TSPACE_ROCKETMQ__TLS", "false")
        monkeypatch.setenv("TSPACE_DATA_DIR", str(tmp_path / "data"))
        settings.cache_clear()
        yield server
    monkeypatch.undo()
    settings.cache_clear()


def say(double: RocketMqDouble, name: str, *, age_s: float = 0.0) -> None:
    vehicle = remote_truck()
    double.publish(topic_of(vehicle), encode_message(vehicle, name), age_s=age_s)


def listening(double: RocketMqDouble, source: HmiSource) -> Listener:
    """A listener that is known to listen: it has answered."""
    listener = Listener(source)
    pause = threading.Event()
    for _ in range(int(LIMIT_S / 0.01)):
        if double.waiting():
            break
        pause.wait(0.01)  # what is said before it listens is history
    say(double, "configure")
    double.received(READY_TOPIC, LIMIT_S)
    assert double.settled(topic_of(remote_truck()), LIMIT_S)
    return listener


class TestRmq(HmiContract):
    """Requests in a queue."""

    @property
    def source(self) -> HmiSource:
        return hmi_source("rmq", remote_truck())

    def test_somebody_is_there_who_begins_again(self) -> None:
        assert self.source.attended
        assert self.source.at_stop is Event.STOP

    def test_messages_become_events_in_their_order(self, double: RocketMqDouble) -> None:
        say(double, "exit", age_s=60.0)  # of yesterday's drive
        listener = listening(double, self.source)
        for name in ("begin", "end_valid", "begin", "end_invalid", "exit"):
            say(double, name)
        expected = [Event.BEGIN, Event.END_VALID, Event.BEGIN, Event.END_INVALID, Event.EXIT]
        posted = [listener.posted.get(LIMIT_S) for _ in expected]
        assert [event for event, _ in posted] == expected
        assert posted[0][1] == "HMI: begin, by message queue"
        assert listener.stop() == []

    def test_of_datagrams_only_the_exit_is_followed(self, double: RocketMqDouble) -> None:
        listener = listening(double, self.source)
        listener.requests.put("begin")
        listener.requests.put("exit")
        assert listener.stop() == [Event.EXIT]
        assert listener.ignored == ["HMI: begin in a datagram is not followed while hmi.source is rmq"]

    def test_a_bad_message_is_a_capture_failure_and_another_vehicles_is_none(
        self, double: RocketMqDouble
    ) -> None:
        listener = listening(double, self.source)
        double.publish(topic_of(remote_truck()), {"vin": "TWNREMOTE00000002", "name": "x", "code": 1})
        double.publish(topic_of(remote_truck()), b"begin")
        assert "no JSON" in listener.failed.get(LIMIT_S)
        assert listener.stop() == []
        assert len(listener.failed) == 0
        assert len(listener.ignored) == 1

    def test_an_outage_is_one_capture_failure(self, double: RocketMqDouble) -> None:
        listener = listening(double, self.source)
        double.stop()
        assert "HMI: message queue at" in listener.failed.get(LIMIT_S)
        say(double, "exit")
        double.start()
        assert listener.posted.get(LIMIT_S)[0] is Event.EXIT
        listener.stop()
        assert len(listener.failed) == 0

    def test_it_ends_while_the_queue_is_down(self, double: RocketMqDouble) -> None:
        double.stop()
        listener = Listener(self.source)
        listener.failed.get(LIMIT_S)
        assert listener.stop() == []


def test_a_queue_that_may_not_be_used_is_said_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSPACE_ROCKETMQ__ENDPOINTS", "queue.example:8081")
    settings.cache_clear()
    with pytest.raises(ConfigError, match="TSPACE_ROCKETMQ__TLS"):
        hmi_source("rmq", remote_truck())
    monkeypatch.delenv("TSPACE_ROCKETMQ__ENDPOINTS")
    settings.cache_clear()
    with pytest.raises(ConfigError, match="TSPACE_ROCKETMQ__ENDPOINTS"):
        hmi_source("rmq", remote_truck())
