"""A training HMI that asks by message queue, sibling of the one that sends datagrams."""

import json
import threading
import time

from tspace_core.config import Vehicle
from tspace_core.errors import QueueError
from tspace_core.link.datagrams import Status
from tspace_core.link.rocketmq import QueueServers, RmqConsumer, RmqProducer
from tspace_core.link.rocketmq_messages import (
    READY_TOPIC,
    encode_message,
    encode_ready,
    topic_of,
)
from tspace_core.twin.hmi import HmiScript, ScriptedHmi
from tspace_core.twin.live_events import Tell

AGAIN_S = 5.0
"""Without the ready message ``configure`` is said again after this long, s."""
SEND_S = 60.0
"""A request is tried so long while the queue is down, s."""
_RETRY_S = 0.5


class RmqHmi(ScriptedHmi):
    """Writes an HMI's messages; ``send`` and ``run_script`` are one thread's, the rest any thread's.

    Args:
        vehicle: whose HMI.
        tell: gets an event ``hmi`` for each request, ``hmi_ready`` for the ready message.
        servers: of the queue; None: the settings'.
        group: consumer group for ready messages; each HMI needs its own, so that it gets all of them.
    """

    def __init__(
        self,
        vehicle: Vehicle,
        tell: Tell,
        *,
        servers: QueueServers | None = None,
        group: str | None = None,
    ) -> None:
        super().__init__(tell)
        self.vehicle = vehicle
        found = servers or QueueServers.from_settings()
        self._producer = RmqProducer(found, topic_of(vehicle))
        self._consumer = RmqConsumer(found, READY_TOPIC, group or f"hmi_{vehicle.vin}")
        self._ready = 0
        self._ended = False
        self._stopping = threading.Event()
        self._listener = threading.Thread(target=self._listen, name="hmi ready messages", daemon=True)
        self._listener.start()

    def send(self, status: Status) -> None:
        """Ask for something; tried again while the queue cannot be reached."""
        self._say(status)

    def configure(self, longest_wait_s: float) -> bool:
        """Ask who listens until somebody answers; whether that came in time."""
        deadline = time.monotonic() + longest_wait_s
        with self._changed:
            seen = self._ready
        while not self._is_over():
            self._say("configure")
            left_s = deadline - time.monotonic()
            with self._changed:
                self._changed.wait_for(
                    lambda: self._ready > seen or self._is_over(), max(min(AGAIN_S, left_s), 0.0)
                )
                if self._ready > seen:
                    return True
            if time.monotonic() >= deadline:
                return False
        return False

    def close(self) -> None:
        """Leave the queue."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._consumer.end()
        self._listener.join()
        self._producer.close()

    def run_script(self, script: HmiScript, stopping: threading.Event) -> None:
        """Go through a script, or to where ``stopping`` is set (and ``wake`` called).

        It begins when somebody has answered ``configure``.
        """
        self._stopping = stopping
        if stopping.wait(script.delay_s):
            return
        if not self.configure(script.longest_wait_s):
            if not stopping.is_set():
                self._tell("hmi_failed", status="configure", reason="no ready message in time")
            return
        self._episodes(script, stopping)

    def _is_over(self) -> bool:
        return self._ended or self._stopping.is_set()

    def _say(self, name: str) -> None:
        deadline = time.monotonic() + SEND_S
        told = False
        while True:
            try:
                self._producer.send(encode_message(self.vehicle, name))
            except QueueError as error:
                if not told:
                    self._tell("hmi_failed", status=name, reason=str(error))
                told = True
                with self._changed:
                    self._changed.wait_for(self._is_over, _RETRY_S)
                if self._is_over() or time.monotonic() > deadline:
                    return
            else:
                self._tell("hmi", status=name)
                return

    def _listen(self) -> None:
        """Ready messages for this vehicle; those of others are theirs."""
        try:
            while not self._ended:
                try:
                    messages = self._consumer.receive()
                except QueueError:
                    with self._changed:
                        self._changed.wait_for(lambda: self._ended, _RETRY_S)
                    continue
                for message in messages:
                    self._consumer.acknowledge(message)
                    if _is_ready(message.body, self.vehicle):
                        self._tell("hmi_ready")
                        with self._changed:
                            self._ready += 1
                            self._changed.notify_all()
        finally:
            self._consumer.close()


def _is_ready(body: bytes, vehicle: Vehicle) -> bool:
    try:
        return bool(json.loads(body) == encode_ready(vehicle))
    except (ValueError, RecursionError):
        return False
