"""A listener to a simulated message queue, for the tests of who hears the HMI."""

import queue
import threading
from pathlib import Path

from tspace_core.config import Vehicle, load_vehicle
from tspace_core.link.datagrams import Status
from tspace_core.link.rocketmq import QueueServers, topic_of
from tspace_core.link.rocketmq_hmi import Ears, HmiQueue
from tspace_core.link.rocketmq_messages import encode_message
from tspace_core.twin.rocketmq_double import RocketMqDouble

LIMIT_S = 30.0


def truck() -> Vehicle:
    """The simulated truck behind a telematics box."""
    return load_vehicle("twin_remote")


def at(double: RocketMqDouble) -> QueueServers:
    """A double's address."""
    return QueueServers((double.endpoints,), tls=False)


class Listening:
    """An ``HmiQueue`` in a thread, and what it told."""

    def __init__(
        self, servers: QueueServers, folder: Path, *, double: RocketMqDouble, vehicle: Vehicle | None = None
    ) -> None:
        self.double, self.vehicle = double, vehicle or truck()
        self.heard: queue.Queue[Status] = queue.Queue()
        self.failed: queue.Queue[str] = queue.Queue()
        self.ignored: queue.Queue[str] = queue.Queue()
        ears = Ears(self.heard.put, self.failed.put, self.ignored.put)
        self.queue = HmiQueue(self.vehicle, ears, servers=servers, folder=folder, invisible_s=1)
        self.thread = threading.Thread(target=self.queue.run, daemon=True)

    @property
    def topic(self) -> str:
        return topic_of(self.vehicle)

    def start(self) -> "Listening":
        self.thread.start()
        return self

    def up(self) -> "Listening":
        self.start()
        assert self.queue.listening.wait(LIMIT_S)
        return self

    def say(self, name: str, *, age_s: float = 0.0) -> None:
        self.double.publish(self.topic, encode_message(self.vehicle, name), age_s=age_s)

    def settle(self) -> None:
        assert self.double.settled(self.topic, LIMIT_S)

    def statuses(self) -> list[Status]:
        """What was heard since the last call."""
        return [self.heard.get_nowait() for _ in range(self.heard.qsize())]

    def end(self) -> None:
        self.queue.end()
        if self.thread.ident is not None:
            self.thread.join(LIMIT_S)
        assert not self.thread.is_alive()
