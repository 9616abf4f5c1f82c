"""python-can's virtual bus, within one process; a reader that falls behind loses the oldest frames."""

import queue

import can
from can.interfaces.virtual import VirtualBus, channels_lock

from tspace_core.config.link import BusConfig

HINT = "choose another channel name"
QUEUED_FRAMES = 20_000
"""Frames that wait for a reader: 5 s of a full bus."""


class _NewestQueue(queue.Queue[can.Message]):
    """A queue that loses its oldest item rather than to grow or to block who puts."""

    def put(self, item: can.Message, block: bool = True, timeout: float | None = None) -> None:  # noqa: FBT001, FBT002
        with self.mutex:
            if len(self.queue) >= self.maxsize:
                self.queue.popleft()
            self.queue.append(item)
            self.not_empty.notify()


def open_bus(config: BusConfig, ids: frozenset[int] | None) -> can.BusABC:
    """Join the channel of this process; nothing is filtered here."""
    del ids
    protocol = can.CanProtocol.CAN_FD if config.fd else can.CanProtocol.CAN_20
    bus = VirtualBus(config.channel, protocol=protocol)
    with channels_lock:
        bus.channel.remove(bus.queue)
        bus.queue = _NewestQueue(QUEUED_FRAMES)
        bus.channel.append(bus.queue)
    return bus
