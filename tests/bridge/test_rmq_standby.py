"""The HMI between runs, by message queue, and the hand-over to the run that its begin starts."""

import queue
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.link.queue_world import LIMIT_S, Listening, at, truck
from tests.ports import free_port
from tspace_core.bridge.hmi_standby import HmiStandby
from tspace_core.bridge.rmq_standby import RmqStandby
from tspace_core.bridge.standby import standby_of
from tspace_core.config.settings import settings
from tspace_core.errors import ConfigError
from tspace_core.link.requests import Spool
from tspace_core.link.rocketmq import READY_TOPIC, topic_of
from tspace_core.link.rocketmq_messages import encode_message
from tspace_core.twin.rocketmq_double import RocketMqDouble


class Standing:
    """A standby in a thread, and an HMI that speaks to it."""

    def __init__(self, double: RocketMqDouble, root: Path) -> None:
        self.double = double
        self.spool = Spool(root, truck().id)
        self.begun: queue.Queue[None] = queue.Queue()
        self.standby = RmqStandby(truck(), self.spool, lambda: self.begun.put(None), servers=at(double))
        self.thread = threading.Thread(target=self.standby.run, daemon=True)

    def start(self) -> None:
        self.thread.start()
        assert self.standby.listening.wait(LIMIT_S)

    def say(self, *names: str, age_s: float = 0.0) -> None:
        for name in names:
            self.double.publish(topic_of(truck()), encode_message(truck(), name), age_s=age_s)

    def settle(self) -> None:
        assert self.double.settled(topic_of(truck()), LIMIT_S)

    def run(self) -> Listening:
        """What a run listens with, beside the same spool."""
        return Listening(at(self.double), self.spool.folder, double=self.double)

    def end(self) -> None:
        self.standby.end()
        if self.thread.ident is not None:
            self.thread.join(LIMIT_S)
        assert not self.thread.is_alive()


@pytest.fixture
def double() -> Iterator[RocketMqDouble]:
    with RocketMqDouble(free_port(socket.SOCK_STREAM)) as server:
        yield server


@pytest.fixture
def standing(double: RocketMqDouble, tmp_path: Path) -> Iterator[Standing]:
    made = Standing(double, tmp_path)
    yield made
    made.end()


def test_configure_is_answered_and_begin_becomes_one_request(
    standing: Standing, double: RocketMqDouble
) -> None:
    standing.say("begin", age_s=60.0)  # nobody listened then
    standing.start()
    standing.say("configure", "begin", "begin")
    standing.settle()
    assert double.received(READY_TOPIC, LIMIT_S) == {"vin": truck().vin, "is_ready": True}
    (request,) = standing.spool.pending()
    assert (request.vehicle_id, request.source, request.event) == ("twin_remote", "hmi", "begin")
    assert standing.standby.requested == 1
    assert standing.begun.qsize() == 2  # a person stands at the vehicle, each time


@pytest.mark.parametrize("status", ["exit", "end_valid", "end_invalid"])
def test_an_end_withdraws_what_no_run_has_begun(standing: Standing, status: str) -> None:
    standing.start()
    standing.say("begin", status)
    standing.settle()
    assert standing.spool.pending() == []
    assert standing.standby.withdrawn == 1


def test_garbage_is_counted_and_costs_nothing(standing: Standing, double: RocketMqDouble) -> None:
    standing.start()
    double.publish(topic_of(truck()), b"begin")
    standing.say("begin")
    standing.settle()
    assert len(standing.spool.pending()) == 1
    assert standing.standby.refused == 1


def test_a_spool_that_cannot_be_written_ends_nothing(standing: Standing, tmp_path: Path) -> None:
    requests = tmp_path / truck().id / "requests"
    requests.parent.mkdir()
    requests.write_text("a file where the folder should be")
    standing.start()
    standing.say("begin")
    standing.settle()
    requests.unlink()
    standing.say("begin")
    standing.settle()
    assert len(standing.spool.pending()) == 1


def test_a_queue_that_is_down_at_the_start_is_heard_later(standing: Standing, double: RocketMqDouble) -> None:
    double.stop()
    standing.thread.start()
    assert standing.standby.release()  # a run may come all the same
    standing.standby.resume()
    double.start()
    assert standing.standby.listening.wait(LIMIT_S)
    standing.say("begin")
    standing.settle()
    assert len(standing.spool.pending()) == 1


def test_the_run_gets_neither_the_begin_again_nor_loses_what_came_after(standing: Standing) -> None:
    standing.start()
    standing.say("begin")
    standing.settle()
    (request,) = standing.spool.pending()  # the run that this starts begins its first episode at once
    assert standing.standby.release()
    standing.say("end_valid")  # before the run listens
    run = standing.run().up()
    standing.settle()
    standing.say("begin")
    standing.settle()
    assert run.statuses() == ["end_valid", "begin"]
    assert standing.spool.pending() == [request]
    assert standing.standby.requested == 1
    run.end()


def test_after_the_run_the_bridge_hears_again_and_only_what_the_run_did_not(standing: Standing) -> None:
    standing.start()
    for number in range(1, 4):
        assert standing.standby.release()
        run = standing.run().up()
        standing.say("begin", "end_valid", "exit")
        standing.settle()
        assert run.statuses() == ["begin", "end_valid", "exit"]
        run.end()
        standing.say("begin")  # for the next run, while nobody listens
        standing.standby.resume()
        standing.settle()
        assert standing.standby.requested == number
        assert standing.standby.listening.wait(LIMIT_S)


def test_release_and_resume_by_turns_always_leave_one_listener(standing: Standing) -> None:
    standing.start()
    for _ in range(10):
        assert standing.standby.release()
        assert not standing.standby.listening.is_set()
        standing.standby.resume()
    assert standing.standby.listening.wait(LIMIT_S)
    standing.say("begin")
    standing.settle()
    assert len(standing.spool.pending()) == 1


def test_the_settings_say_where_the_bridge_listens(
    double: RocketMqDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made() -> object:
        settings.cache_clear()
        return standby_of(truck(), ("127.0.0.1", 8002), Spool(tmp_path, "twin_remote"), lambda: None)

    try:
        for source in ("udp", "dummy"):
            monkeypatch.setenv("TSPACE_HMI__SOURCE", source)
            assert isinstance(made(), HmiStandby)
        monkeypatch.setenv("TSPACE_HMI__SOURCE", "rmq")
        with pytest.raises(ConfigError, match="TSPACE_ROCKETMQ__ENDPOINTS"):
            made()
        monkeypatch.setenv("TSPACE_ROCKETMQ__ENDPOINTS", double.endpoints)
        monkeypatch.setenv("TSPACE_ROCKETMQ__TLS", "false")
        assert isinstance(made(), RmqStandby)
    finally:
        monkeypatch.undo()
        settings.cache_clear()
