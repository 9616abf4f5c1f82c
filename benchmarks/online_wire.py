"""A classic CAN bus with a bit rate, simulated in one process: every frame takes the time of its bits.

A thread is the wire. Of the frames that wait when it gets free the one with the lowest id goes next; its
receivers get it when its last bit, stuff bits and the gap to the next frame included, would be over. The
schedule is exact; only the receivers are woken late by what the machine takes to wake a thread (some 60 us).
"""

import ctypes
import functools
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import can

from tspace_core.config.link import BusConfig
from tspace_core.link import bus as shared_bus
from tspace_core.link.frame_bits import Frame, bits_of, most_bits

_SET_TIMER_SLACK = 29  # of prctl: a sleeping thread is woken this many ns late at most, by the timer itself
_UNSTUFFED_BITS = 47  # of a classic frame with an 11-bit id and no data, the gap of 3 bits included


@dataclass(frozen=True)
class Traffic:
    """What went over a bus.

    Attributes:
        frames: how many.
        bits: with the stuff bits that they really had.
        most: with the worst stuffing that frames of these lengths can have.
        least: without stuff bits.
    """

    frames: int = 0
    bits: int = 0
    most: int = 0
    least: int = 0

    def __sub__(self, before: "Traffic") -> "Traffic":
        return Traffic(
            self.frames - before.frames,
            self.bits - before.bits,
            self.most - before.most,
            self.least - before.least,
        )

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(
            self.frames + other.frames,
            self.bits + other.bits,
            self.most + other.most,
            self.least + other.least,
        )


@functools.cache
def _traffic_of(id: int, data: bytes, *, extended: bool) -> Traffic:
    """One frame. Kept, since to count its bits takes as long as to send it."""
    return Traffic(
        1,
        bits_of(Frame(id, data, extended)).nominal,
        most_bits(len(data), extended=extended),
        _UNSTUFFED_BITS + 8 * len(data) + 20 * extended,
    )


class Wire:
    """The medium; ``port`` connects a node.

    Attributes:
        traffic: what went over it so far.
    """

    def __init__(self, bitrate: int) -> None:
        self._bitrate = bitrate
        self._ports: list[WirePort] = []
        self._changed = threading.Condition()
        self._closed = False
        self.traffic = Traffic()
        self._thread = threading.Thread(target=self._run, name="wire", daemon=True)
        self._thread.start()

    def port(self) -> "WirePort":
        """Connect a node."""
        with self._changed:
            port = WirePort(self)
            self._ports.append(port)
            return port

    def close(self) -> None:
        """Carry nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def put(self, port: "WirePort", message: can.Message) -> None:
        """Take a frame of a node's transmit buffer."""
        with self._changed:
            port.waiting.append((time.perf_counter(), message))
            self._changed.notify()

    def leave(self, port: "WirePort") -> None:
        """Disconnect a node."""
        with self._changed:
            if port in self._ports:
                self._ports.remove(port)

    def _next(self, free: float) -> tuple[float, "WirePort", can.Message] | None:
        """Wait for a frame; of those that were there when the bus got free, the one that wins."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or any(port.waiting for port in self._ports))
            if self._closed:
                return None
            heads = [(port.waiting[0], port) for port in self._ports if port.waiting]
            start = max(free, min(since for (since, _), _ in heads))
            _, port = min(
                ((head, port) for head, port in heads if head[0] <= start),
                key=lambda pair: pair[0][1].arbitration_id,
            )
            return start, port, port.waiting.popleft()[1]

    def _run(self) -> None:
        ctypes.CDLL(None).prctl(_SET_TIMER_SLACK, 1, 0, 0, 0)
        free = 0.0
        while (found := self._next(free)) is not None:
            start, sender, message = found
            frame = _traffic_of(message.arbitration_id, bytes(message.data), extended=message.is_extended_id)
            free = start + frame.bits / self._bitrate
            self.traffic += frame
            with self._changed:
                others = [port for port in self._ports if port is not sender]
            time.sleep(max(free - time.perf_counter(), 0.0))
            for port in others:
                port.heard.put(message)


class WirePort(can.BusABC):
    """A node's controller: an endless transmit buffer, an endless receive buffer."""

    def __init__(self, wire: Wire) -> None:
        self.channel_info = "simulated wire"
        self._wire = wire
        self.waiting: deque[tuple[float, can.Message]] = deque()
        self.heard: queue.SimpleQueue[can.Message] = queue.SimpleQueue()
        super().__init__(channel="wire")

    def send(self, msg: can.Message, timeout: float | None = None) -> None:
        """Put a frame into the transmit buffer."""
        del timeout
        self._wire.put(self, msg)

    def _recv_internal(self, timeout: float | None) -> tuple[can.Message | None, bool]:
        try:
            return self.heard.get(timeout=timeout), False
        except queue.Empty:
            return None, False

    def shutdown(self) -> None:
        """Leave the bus."""
        self._wire.leave(self)
        super().shutdown()


@contextmanager
def simulated_wire(bitrate: int) -> Iterator[Wire]:
    """A wire that every ``SharedBus`` opened within the block is connected to, whatever its config says."""
    wire = Wire(bitrate)

    def open_bus(config: BusConfig, ids: frozenset[int] | None) -> can.BusABC:
        del config, ids
        return wire.port()

    try:
        with patch.object(shared_bus, "open_bus", open_bus):
            yield wire
    finally:
        wire.close()
