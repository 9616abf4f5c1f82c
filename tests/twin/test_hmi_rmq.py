"""The simulated HMI that asks by message queue, against a listener as a run has it."""

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.link.queue_world import LIMIT_S, Listening, at, truck
from tspace_core.link.rocketmq import READY_TOPIC
from tspace_core.twin.hmi import HmiScript
from tspace_core.twin.hmi_rmq import RmqHmi
from tspace_core.twin.rocketmq_double import RocketMqDouble


@pytest.fixture
def double() -> Iterator[RocketMqDouble]:
    with RocketMqDouble() as server:
        yield server


class Told:
    """What an HMI tells."""

    def __init__(self) -> None:
        self.events: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()

    def __call__(self, event: str, **facts: Any) -> None:
        self.events.put((event, facts))

    def wait_for(self, event: str) -> dict[str, Any]:
        while True:
            name, facts = self.events.get(timeout=LIMIT_S)
            if name == event:
                return facts


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def hmi(double: RocketMqDouble, told: Told) -> Iterator[RmqHmi]:
    made = RmqHmi(truck(), told, servers=at(double))
    yield made
    made.close()


def test_a_script_begins_when_somebody_is_ready_and_is_heard_in_order(
    double: RocketMqDouble, hmi: RmqHmi, told: Told, tmp_path: Path
) -> None:
    listening = Listening(at(double), tmp_path, double=double).up()
    script = HmiScript(episodes=2, episode_s=0.0, pause_s=0.0, end="end_invalid")
    hmi.run_script(script, threading.Event())
    heard = [listening.heard.get(timeout=LIMIT_S) for _ in range(5)]
    assert heard == ["begin", "end_invalid", "begin", "end_invalid", "exit"]
    assert told.wait_for("hmi_done") == {"episodes": 2}
    listening.end()


def test_it_begins_nothing_while_nobody_is_ready(hmi: RmqHmi, told: Told, double: RocketMqDouble) -> None:
    double.publish(READY_TOPIC, {"vin": "TWNREMOTE00000002", "is_ready": True})  # another vehicle's
    double.publish(READY_TOPIC, b"ready")
    hmi.run_script(HmiScript(longest_wait_s=0.5), threading.Event())
    assert told.wait_for("hmi_failed") == {"status": "configure", "reason": "no ready message in time"}
    assert double.settled(READY_TOPIC, LIMIT_S)


def test_an_episode_waits_for_its_flashes_and_a_stop_ends_the_script(
    double: RocketMqDouble, hmi: RmqHmi, told: Told, tmp_path: Path
) -> None:
    listening = Listening(at(double), tmp_path, double=double).up()
    stopping = threading.Event()
    script = HmiScript(episodes=2, episode_s=0.0, pause_s=0.0, flashes=2)
    thread = threading.Thread(target=hmi.run_script, args=(script, stopping))
    thread.start()
    assert listening.heard.get(timeout=LIMIT_S) == "begin"
    hmi.flashed()
    hmi.flashed()
    assert listening.heard.get(timeout=LIMIT_S) == "end_valid"
    assert listening.heard.get(timeout=LIMIT_S) == "begin"
    stopping.set()
    hmi.wake()
    thread.join(LIMIT_S)
    assert not thread.is_alive()
    listening.end()


def test_a_request_is_tried_until_the_queue_is_back(
    double: RocketMqDouble, hmi: RmqHmi, told: Told, tmp_path: Path
) -> None:
    listening = Listening(at(double), tmp_path, double=double).up()
    double.stop()
    thread = threading.Thread(target=hmi.send, args=("exit",))
    thread.start()
    assert "UNAVAILABLE" in told.wait_for("hmi_failed")["reason"]
    double.start()
    thread.join(LIMIT_S)
    assert listening.heard.get(timeout=LIMIT_S) == "exit"
    listening.end()


def test_closing_gives_up_what_cannot_be_sent(double: RocketMqDouble, told: Told) -> None:
    hmi = RmqHmi(truck(), told, servers=at(double))
    double.stop()
    thread = threading.Thread(target=hmi.send, args=("exit",))
    thread.start()
    told.wait_for("hmi_failed")
    hmi.close()
    thread.join(LIMIT_S)
    assert not thread.is_alive()


def test_a_script_that_is_stopped_gives_up_what_cannot_be_sent(
    double: RocketMqDouble, hmi: RmqHmi, told: Told
) -> None:
    double.stop()
    stopping = threading.Event()
    thread = threading.Thread(target=hmi.run_script, args=(HmiScript(), stopping))
    thread.start()
    told.wait_for("hmi_failed")
    stopping.set()
    hmi.wake()
    thread.join(LIMIT_S)
    assert not thread.is_alive()
