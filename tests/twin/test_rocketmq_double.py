"""The simulated RocketMQ against Apache's own client, as everything else here uses it."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tspace_core.errors import TwinError
from tspace_core.link.rocketmq_vendor import vendor
from tspace_core.twin.rocketmq_double import RocketMqDouble

LIMIT_S = 20.0
TOPIC = "tracker_TWNREMOTE00000001"


@pytest.fixture
def double() -> Iterator[RocketMqDouble]:
    with RocketMqDouble() as server:
        yield server


class Clients:
    """Clients of the vendor that are shut down at the end."""

    def __init__(self) -> None:
        self.open: list[Any] = []

    def consumer(self, double: RocketMqDouble, group: str, topic: str = TOPIC, poll_s: int = 2) -> Any:
        client = vendor().client
        configuration = client.ClientConfiguration(double.endpoints, client.Credentials())
        made = client.SimpleConsumer(
            configuration, group, {topic: client.FilterExpression()}, await_duration=poll_s
        )
        made.startup()
        assert made._init_settings_event.wait(LIMIT_S)
        self.open.append(made)
        return made

    def producer(self, double: RocketMqDouble) -> Any:
        client = vendor().client
        made = client.Producer(client.ClientConfiguration(double.endpoints, client.Credentials()))
        made.startup()
        self.open.append(made)
        return made


@pytest.fixture
def clients() -> Iterator[Clients]:
    made = Clients()
    yield made
    for client in made.open:
        client.shutdown()


def bodies(messages: list[Any]) -> list[bytes]:
    return [message.body for message in messages]


def test_messages_come_in_order_once_acknowledged_never_again(
    double: RocketMqDouble, clients: Clients
) -> None:
    for number in range(5):
        double.publish(TOPIC, {"n": number})
    consumer = clients.consumer(double, "one")
    found = consumer.receive(16, 10)
    assert bodies(found) == [b'{"n": %d}' % number for number in range(5)]
    assert not any(message.corrupted for message in found)
    for message in found:
        consumer.ack(message)
    assert double.settled(TOPIC, LIMIT_S)
    double.publish(TOPIC, {"n": 5})
    assert bodies(consumer.receive(16, 10)) == [b'{"n": 5}']


def test_each_group_gets_everything_and_within_one_each_message_goes_to_one(
    double: RocketMqDouble, clients: Clients
) -> None:
    double.publish(TOPIC, {"n": 1})
    first, second = clients.consumer(double, "same"), clients.consumer(double, "same", poll_s=1)
    other = clients.consumer(double, "other")
    assert len(first.receive(16, 10)) == 1
    assert second.receive(16, 10) == []
    assert len(other.receive(16, 10)) == 1


def test_what_is_not_acknowledged_comes_back_and_an_old_handle_is_refused(
    double: RocketMqDouble, clients: Clients
) -> None:
    double.publish(TOPIC, {"n": 1})
    consumer = clients.consumer(double, "one", poll_s=10)
    (first,) = consumer.receive(16, 1)
    (again,) = consumer.receive(16, 1)
    assert (again.message_id, again.delivery_attempt) == (first.message_id, 2)
    with pytest.raises(Exception, match="stale handle"):
        consumer.ack(first)
    consumer.ack(again)
    assert double.settled(TOPIC, LIMIT_S)


def test_an_invisible_duration_can_be_changed(double: RocketMqDouble, clients: Clients) -> None:
    double.publish(TOPIC, {"n": 1})
    consumer = clients.consumer(double, "one", poll_s=10)
    (first,) = consumer.receive(16, 60)
    consumer.change_invisible_duration(first, 1)
    (again,) = consumer.receive(16, 10)
    assert again.message_id == first.message_id


def test_a_message_wakes_who_waits_for_it(double: RocketMqDouble, clients: Clients) -> None:
    consumer = clients.consumer(double, "one", poll_s=10)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(consumer.receive(16, 10)))
    thread.start()
    began = time.monotonic()
    pause = threading.Event()
    while double.waiting() == 0:
        assert time.monotonic() - began < LIMIT_S
        pause.wait(0.01)
    double.publish(TOPIC, {"n": 1})
    thread.join(LIMIT_S)
    assert bodies(found) == [b'{"n": 1}']


def test_what_clients_send_is_told_in_order_and_delivered_to_others(
    double: RocketMqDouble, clients: Clients
) -> None:
    producer, client = clients.producer(double), vendor().client
    for number in range(2):
        message = client.Message()
        message.topic, message.body = "update_ready_state", b'{"n": %d}' % number
        producer.send(message)
    assert [double.received("update_ready_state", LIMIT_S) for _ in range(2)] == [{"n": 0}, {"n": 1}]
    assert len(clients.consumer(double, "one", "update_ready_state").receive(16, 10)) == 2
    with pytest.raises(TwinError, match="no client sent anything"):
        double.received("update_ready_state", 0.0)


def test_messages_outlive_a_restart_on_the_same_port(double: RocketMqDouble, clients: Clients) -> None:
    endpoints = double.endpoints
    double.publish(TOPIC, {"n": 1})
    double.stop()
    double.publish(TOPIC, {"n": 2})
    double.start()
    assert double.endpoints == endpoints
    assert len(clients.consumer(double, "one").receive(16, 10)) == 2


def test_a_client_that_never_sent_its_settings_is_refused_as_by_a_real_proxy(
    double: RocketMqDouble, clients: Clients
) -> None:
    consumer = clients.consumer(double, "one")
    double.stop()
    double.start()  # the client's telemetry stream is gone, and the server has forgotten it
    with pytest.raises(Exception, match=r"settings of the client|UNAVAILABLE"):
        for _ in range(2):
            consumer.receive(16, 10)


def test_a_taken_port_is_said(double: RocketMqDouble) -> None:
    with pytest.raises(TwinError, match=f"cannot listen on 127.0.0.1:{double.port}"):
        RocketMqDouble(double.port).start()
