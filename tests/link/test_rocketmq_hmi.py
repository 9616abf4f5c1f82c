"""Hearing the HMI through the vendor's client: order, history, garbage, outages, hand-over."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.link.queue_world import LIMIT_S, Listening, at, truck
from tests.ports import free_port
from tspace_core.link.rocketmq import READY_TOPIC, QueueServers
from tspace_core.link.rocketmq_heard import FILE, KEPT, Heard
from tspace_core.link.rocketmq_hmi import LATE_BEGIN_S
from tspace_core.link.rocketmq_messages import encode_message
from tspace_core.twin.rocketmq_double import RocketMqDouble


@pytest.fixture(params=[True, False], ids=["stamped", "unstamped"])
def double(request: pytest.FixtureRequest) -> Iterator[RocketMqDouble]:
    """A server that stamps messages with its time, and one that does not."""
    with RocketMqDouble(free_port(socket.SOCK_STREAM), stamps=request.param) as server:
        yield server


@pytest.fixture
def listening(double: RocketMqDouble, tmp_path: Path) -> Iterator[Listening]:
    made = Listening(at(double), tmp_path, double=double)
    yield made
    made.end()


def test_every_code_is_followed_in_its_order(double: RocketMqDouble, listening: Listening) -> None:
    listening.up()
    names = ["configure", "begin", "end_valid", "begin", "end_invalid", "exit"]
    for name in names:
        listening.say(name)
    listening.settle()
    assert listening.statuses() == names[1:]
    assert double.received(READY_TOPIC, LIMIT_S) == {"vin": truck().vin, "is_ready": True}
    assert listening.failed.empty()


def test_each_configure_is_answered(double: RocketMqDouble, listening: Listening) -> None:
    listening.up()
    for _ in range(3):
        listening.say("configure")
        assert double.received(READY_TOPIC, LIMIT_S)["is_ready"] is True
    assert listening.statuses() == []


def test_what_waited_before_the_start_is_discarded(double: RocketMqDouble, listening: Listening) -> None:
    for name in ("configure", "begin", "end_valid", "exit") * 10:  # more than one receive brings
        listening.say(name, age_s=60.0)
    listening.up()
    listening.settle()
    assert listening.statuses() == []
    assert listening.queue.counts == {"history": 40}
    listening.say("begin")
    assert listening.heard.get(timeout=LIMIT_S) == "begin"
    assert double.calls["SendMessage"] == 0  # no ready message for a configure of long ago


@pytest.mark.parametrize("clock_s", [-3600.0, 3600.0])
def test_the_clock_of_the_hmi_does_not_matter_where_the_server_stamps(tmp_path: Path, clock_s: float) -> None:
    with RocketMqDouble() as double:
        listening = Listening(at(double), tmp_path, double=double)
        double.publish(listening.topic, encode_message(truck(), "exit"), clock_s=clock_s, age_s=5.0)
        listening.up()
        double.publish(listening.topic, encode_message(truck(), "begin"), clock_s=clock_s)
        listening.settle()
        assert listening.statuses() == ["begin"]
        listening.end()


def test_a_late_clock_alone_loses_nothing_once_the_backlog_is_through(tmp_path: Path) -> None:
    with RocketMqDouble(stamps=False) as double:
        listening = Listening(at(double), tmp_path, double=double).up()
        pause = threading.Event()
        while double.waiting() == 0:
            pause.wait(0.01)
        pause.wait(1.0)  # the queue was found empty: from here on nothing can be history
        double.publish(listening.topic, encode_message(truck(), "begin"), clock_s=-3600.0)
        assert listening.heard.get(timeout=LIMIT_S) == "begin"
        listening.end()


def test_a_message_for_another_vehicle_is_ignored(double: RocketMqDouble, listening: Listening) -> None:
    listening.up()
    double.publish(listening.topic, {"vin": "TWNREMOTE00000002", "name": "x", "code": 1})
    listening.say("exit")
    listening.settle()
    assert listening.statuses() == ["exit"]
    assert "TWNREMOTE00000002" in listening.ignored.get_nowait()
    assert listening.failed.empty()
    assert listening.queue.counts["foreign"] == 1


@pytest.mark.parametrize(
    "body",
    [b"begin", b"{", b"[]", b"\xff", b'{"vin": 1, "code": 1}', b'{"vin": "TWNREMOTE00000001", "code": 77}'],
)
def test_garbage_is_one_failure_and_is_not_delivered_again(
    double: RocketMqDouble, listening: Listening, body: bytes
) -> None:
    listening.up()
    double.publish(listening.topic, body)
    listening.say("begin")
    listening.settle()
    assert listening.statuses() == ["begin"]
    assert "refused" in listening.failed.get_nowait()
    assert listening.failed.empty()


def test_a_message_that_is_delivered_twice_is_followed_once(
    double: RocketMqDouble, listening: Listening
) -> None:
    listening.up()
    for _ in range(2):
        double.publish(listening.topic, encode_message(truck(), "begin"), message_id="same")
        listening.say("end_invalid")
    listening.settle()
    assert listening.statuses() == ["begin", "end_invalid", "end_invalid"]


def test_a_server_that_is_down_and_back_costs_one_failure_and_no_message(
    double: RocketMqDouble, listening: Listening, caplog: pytest.LogCaptureFixture
) -> None:
    listening.up()
    listening.say("begin")
    listening.settle()
    for status in ("end_valid", "exit"):
        double.stop()
        assert "UNAVAILABLE" in listening.failed.get(timeout=LIMIT_S)
        listening.say(status)
        threading.Event().wait(0.6)  # several tries fail meanwhile
        double.start()
        listening.settle()
    assert listening.statuses() == ["begin", "end_valid", "exit"]
    assert listening.failed.empty()
    assert caplog.text.count("cannot be heard, tried again") == 2
    assert double.endpoints in caplog.text


def test_a_server_that_comes_up_late_is_found(tmp_path: Path) -> None:
    double = RocketMqDouble(free_port(socket.SOCK_STREAM)).start()
    double.stop()
    listening = Listening(at(double), tmp_path, double=double).start()
    assert "UNAVAILABLE" in listening.failed.get(timeout=LIMIT_S)
    with double:
        assert listening.queue.listening.wait(LIMIT_S)
        listening.say("begin")
        assert listening.heard.get(timeout=LIMIT_S) == "begin"
        listening.end()
    assert listening.failed.empty()


def test_of_several_servers_the_one_that_is_up_is_used(tmp_path: Path) -> None:
    gone = RocketMqDouble(free_port(socket.SOCK_STREAM)).start()
    gone.stop()
    with RocketMqDouble() as double:
        servers = QueueServers((gone.endpoints, double.endpoints), tls=False)
        listening = Listening(servers, tmp_path, double=double).up()
        listening.say("begin")
        assert listening.heard.get(timeout=LIMIT_S) == "begin"
        listening.end()


def test_it_ends_while_no_server_answers(tmp_path: Path) -> None:
    double = RocketMqDouble(free_port(socket.SOCK_STREAM)).start()
    double.stop()
    listening = Listening(at(double), tmp_path, double=double).start()
    listening.failed.get(timeout=LIMIT_S)
    listening.end()
    Listening(at(double), tmp_path, double=double).end()  # before it began


def test_a_begin_that_the_network_held_back_for_minutes_begins_nothing(tmp_path: Path) -> None:
    with RocketMqDouble() as double:
        Heard(Listening(at(double), tmp_path, double=double).topic, 0.0).hand_over(tmp_path)
        listening = Listening(at(double), tmp_path, double=double).up()
        listening.say("begin", age_s=LATE_BEGIN_S + 5)
        listening.say("exit", age_s=LATE_BEGIN_S + 5)
        listening.settle()
        assert listening.statuses() == ["exit"]
        assert "begins nothing" in listening.failed.get_nowait()
        listening.end()


def test_the_next_one_hears_what_the_one_before_did_not(double: RocketMqDouble, tmp_path: Path) -> None:
    first = Listening(at(double), tmp_path, double=double).up()
    first.say("begin")
    first.settle()
    first.end()
    first.say("end_valid")  # between the two, when nobody listens
    second = Listening(at(double), tmp_path, double=double).up()
    second.settle()
    assert (first.statuses(), second.statuses()) == (["begin"], ["end_valid"])
    second.end()
    assert second.queue.counts == {"heard": 1}


def test_what_was_acted_on_and_comes_again_is_not_acted_on_by_the_next(
    double: RocketMqDouble, tmp_path: Path
) -> None:
    """As where the acknowledgement was lost."""
    first = Listening(at(double), tmp_path, double=double).up()
    double.publish(first.topic, encode_message(truck(), "begin"), message_id="same")
    assert first.heard.get(timeout=LIMIT_S) == "begin"
    first.end()
    double.publish(first.topic, encode_message(truck(), "begin"), message_id="same")
    second = Listening(at(double), tmp_path, double=double).up()
    second.say("exit")
    assert second.heard.get(timeout=LIMIT_S) == "exit"
    assert second.heard.empty()
    second.end()


def test_a_hand_over_of_long_ago_or_of_another_topic_means_nothing(tmp_path: Path) -> None:
    Heard("topic", 100.0, ("a",)).hand_over(tmp_path)
    assert Heard.taken_over(tmp_path, "topic").since_s == pytest.approx(100.0, abs=5.0)
    assert Heard.taken_over(tmp_path, "other").since_s > 1e6
    path = tmp_path / FILE
    text = path.read_text().replace('"until_s":', '"until_s":1e6,"x":')
    path.write_text(text)
    late = Heard.taken_over(tmp_path, "topic")
    assert late.since_s > 1e6
    assert not late.is_new("a")  # what was acted on stays so


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[]", b'{"topic": "topic"}'])
def test_a_damaged_hand_over_is_said_and_begins_anew(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert Heard.taken_over(tmp_path, "topic").since_s > 1e6
    assert "not what was heard before" in caplog.text


def test_a_hand_over_that_cannot_be_written_does_no_harm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    Heard("topic", 0.0).hand_over(tmp_path / "file")
    assert "could not be written" in caplog.text


def test_a_clock_that_is_set_back_makes_history_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard("topic", time.time())
    set_back = SimpleNamespace(time=lambda: time.time() - 3600.0, monotonic=time.monotonic)
    monkeypatch.setattr("tspace_core.link.rocketmq_heard.time", set_back)
    assert heard.since_s <= set_back.time()
    assert heard.since_s == pytest.approx(set_back.time(), abs=60.0)


def test_so_many_ids_are_remembered_and_no_more() -> None:
    heard = Heard("topic", 0.0)
    assert all(heard.is_new(str(number)) for number in range(KEPT + 1))
    assert not heard.is_new("1")
    assert heard.is_new("0")
