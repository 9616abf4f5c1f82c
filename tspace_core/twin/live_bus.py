"""The VCU's XCP end on a CAN bus: it answers in the thread that hears and waits for no simulation step."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Collection
from typing import Any, Protocol

import can

from tspace_core.config.link import XcpConfig
from tspace_core.errors import BusError
from tspace_core.link.bus import FD_LENGTHS
from tspace_core.twin.faults import Faults
from tspace_core.twin.xcp_slave import XcpSlave

_CLOSE_S = 2.0


class NodeBus(Protocol):
    """What a simulated node needs of a bus; ``SharedBus`` has it."""

    def subscribe(self, callback: Callable[[can.Message], None], ids: Collection[int] | None = None) -> Any:
        """Have ``callback`` called with frames of these ids; returns what has a ``cancel``."""
        ...

    def send(self, id: int, data: bytes, *, extended: bool = False) -> None:
        """Send a frame."""
        ...


class XcpNode:
    """Connects an XCP slave to a bus.

    Args:
        bus: where commands are heard and answered.
        config: the ids.
        slave: answers.
        faults: simulated faults of commands and answers.

    Attributes:
        lock: held while the slave works; whoever changes its VCU takes it, too.
        failed_answers: answers that the bus did not take.
    """

    def __init__(
        self, bus: NodeBus, config: XcpConfig, slave: XcpSlave, faults: Faults | None = None
    ) -> None:
        self._bus = bus
        self._config = config
        self._slave = slave
        self._faults = Faults() if faults is None else faults
        self.lock = threading.Lock()
        self._late: list[tuple[float, int, bytes]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._later: threading.Thread | None = None
        self.failed_answers = 0
        self._subscription = bus.subscribe(self._hear, [config.request_id])

    def tick(self) -> None:
        """Let the slave look at its clock."""
        with self.lock:
            self._slave.tick()

    def close(self) -> None:
        """Hear and answer no more."""
        self._subscription.cancel()
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._later is not None:
            self._later.join(_CLOSE_S)

    def _hear(self, message: can.Message) -> None:
        if message.is_extended_id != self._config.extended:
            return
        with self.lock:
            answers = self._faults.answer(self._slave.handle, bytes(message.data))
        if answers.delay_s > 0.0:
            self._postpone(answers.packets, answers.delay_s)
            return
        for packet in answers.packets:
            self._send(packet)

    def _send(self, packet: bytes) -> None:
        if self._faults.silent(None):
            return
        size = next(length for length in FD_LENGTHS if length >= len(packet))
        try:
            self._bus.send(
                self._config.response_id, packet.ljust(size, b"\0"), extended=self._config.extended
            )
        except BusError:
            # The master sees a time-out, as with any answer that is lost on the way.
            self.failed_answers += 1

    def _postpone(self, packets: list[bytes], delay_s: float) -> None:
        with self._changed:
            due = time.monotonic() + delay_s
            for packet in packets:
                heapq.heappush(self._late, (due, next(self._order), packet))
            if self._later is None:
                self._later = threading.Thread(target=self._send_late, name="late answers", daemon=True)
                self._later.start()
            self._changed.notify()

    def _send_late(self) -> None:
        while True:
            with self._changed:
                while not self._closed:
                    wait = self._late[0][0] - time.monotonic() if self._late else None
                    if wait is not None and wait <= 0.0:
                        break
                    self._changed.wait(wait)
                if self._closed:
                    return
                packet = heapq.heappop(self._late)[2]
            self._send(packet)
