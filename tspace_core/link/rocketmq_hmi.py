"""Hears one vehicle's HMI in its topic: in order, each message once, nothing from before.

Clocks differ, and the HMI's least of all can be trusted. So a message's age is taken from the server's own
stamps, when it was stored and when it was delivered. A server that stamps nothing leaves the sender's time:
then only what is delivered without waiting, as the queue's backlog is, can be history.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tspace_core.config import Vehicle
from tspace_core.config.settings import settings
from tspace_core.errors import QueueError
from tspace_core.link.datagrams import Status
from tspace_core.link.rocketmq import READY_TOPIC, QueueServers, Received, RmqConsumer, RmqProducer
from tspace_core.link.rocketmq_heard import Heard
from tspace_core.link.rocketmq_messages import encode_ready, group_of, parse_message, topic_of

_LOG = logging.getLogger(__name__)

_FIRST_RETRY_S, _RETRY_S = 0.1, 5.0
LATE_BEGIN_S = 120.0
"""A `begin` that took longer to arrive, because the network was down, begins nothing any more."""
_BACKLOG_S = 0.5
"""A receive that waited longer found the queue empty at first."""


@dataclass(frozen=True)
class Ears:
    """Who is told what.

    Attributes:
        heard: a request of the HMI.
        failed: a message that was refused, or that the queue cannot be reached: once an outage.
        ignored: a message that is not for this vehicle.
        up: the queue is connected, for the first time.
    """

    heard: Callable[[Status], None]
    failed: Callable[[str], None]
    ignored: Callable[[str], None]
    up: Callable[[], None] = lambda: None


class HmiQueue:
    """Listens until it is ended.

    Args:
        vehicle: whose HMI.
        ears: who is told; called in the thread of ``run``.
        servers: of the queue; None: the settings'.
        folder: of the vehicle's online state; None: the settings'.
        invisible_s: see ``RmqConsumer``.

    Attributes:
        listening: set while the queue is connected.
        counts: messages by what became of them: heard, history, again, foreign, refused, late.

    Raises:
        ConfigError: the settings name no queue that may be used.
    """

    def __init__(
        self,
        vehicle: Vehicle,
        ears: Ears,
        *,
        servers: QueueServers | None = None,
        folder: Path | None = None,
        invisible_s: int | None = None,
    ) -> None:
        self.vehicle, self._ears = vehicle, ears
        found = servers or QueueServers.from_settings()
        self._folder = folder or settings().online_dir / vehicle.id
        more = {} if invisible_s is None else {"invisible_s": invisible_s}
        self._consumer = RmqConsumer(found, topic_of(vehicle), group_of(vehicle), **more)
        self._producer = RmqProducer(found, READY_TOPIC)
        self._ended = threading.Event()
        self._heard: Heard
        self._backlog, self._up = True, False
        self._outage = ""
        self.listening = threading.Event()
        self.counts: Counter[str] = Counter()

    def run(self) -> None:
        """Listen until ``end``; connect again whenever the queue is lost."""
        self._heard = Heard.taken_over(self._folder, self._consumer.topic)
        retry_s = _FIRST_RETRY_S
        try:
            while not self._ended.is_set():
                try:
                    self._consumer.open()
                    self._is_up()
                    while not self._ended.is_set():
                        self._hear()
                        retry_s = _FIRST_RETRY_S
                except QueueError as error:
                    self.listening.clear()
                    if not self._ended.is_set():
                        self._lost(error)
                    self._ended.wait(retry_s)
                    retry_s = min(2 * retry_s, _RETRY_S)
        finally:
            self.listening.clear()
            self._consumer.close()
            self._producer.close()
            self._heard.hand_over(self._folder)

    def end(self) -> None:
        """Let ``run`` return soon; from any thread, any number of times."""
        self._ended.set()
        self._consumer.end()
        self._producer.end()

    def _is_up(self) -> None:
        self.listening.set()
        if not self._up:
            self._up = True
            self._ears.up()

    def _hear(self) -> None:
        began = time.monotonic()
        messages = self._consumer.receive()
        if self._outage:
            _LOG.info("the HMI is heard again in topic %s", self._consumer.topic)
            self._outage = ""
        if time.monotonic() - began > _BACKLOG_S:
            self._backlog = False
        for message in messages:
            if self._ended.is_set():
                return  # not acknowledged: it waits for who listens next
            self._take(message)

    def _lost(self, error: QueueError) -> None:
        if not self._outage:
            self._outage = str(error)
            _LOG.warning("the HMI cannot be heard, tried again until it can: %s", error)
            self._ears.failed(f"HMI: {error}")

    def _take(self, message: Received) -> None:
        if not self._heard.is_new(message.id):
            self.counts["again"] += 1
        elif self._is_history(message):
            self.counts["history"] += 1
            _LOG.info("HMI: a message from before this listening is discarded: %r", message.body[:60])
        else:
            self._act(message)
        # Whatever it was: it would be delivered for ever.
        self._consumer.acknowledge(message)

    def _is_history(self, message: Received) -> bool:
        if not message.exact and not self._backlog:
            return False
        return message.stored_s < self._heard.since_s

    def _act(self, message: Received) -> None:
        try:
            said = parse_message(message.body, self.vehicle.vin, damaged=message.damaged)
        except QueueError as error:
            self.counts["refused"] += 1
            self._ears.failed(str(error))
            return
        age_s = time.time() - message.stored_s
        if said is None:
            self.counts["foreign"] += 1
            self._ears.ignored(f"HMI: a message for another vehicle is ignored: {message.body[:60]!r}")
        elif said.status is None:
            self._answer()
        elif said.status == "begin" and message.exact and age_s > LATE_BEGIN_S:
            self.counts["late"] += 1
            self._ears.failed(f"HMI: begin came {age_s:.0f} s late and begins nothing; begin again")
        else:
            self.counts["heard"] += 1
            self._ears.heard(said.status)

    def _answer(self) -> None:
        """Say that somebody listens."""
        try:
            self._producer.send(encode_ready(self.vehicle))
        except QueueError as error:
            self._ears.failed(f"HMI: configure is not answered: {error}")
        else:
            self.counts["configured"] += 1
