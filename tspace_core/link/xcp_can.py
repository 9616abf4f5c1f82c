"""XCP on CAN: a packet is a frame, commands and answers are told apart by their ids."""

import queue
from collections.abc import Collection
from typing import TYPE_CHECKING

from tspace_core.config.link import XcpConfig
from tspace_core.errors import BusError, LinkError, XcpTimeoutError
from tspace_core.link.bus import FD_LENGTHS, SharedBus

if TYPE_CHECKING:
    import can

FILL = 0xCC
"""Fills frames up: its bits alternate in pairs, so it never needs a stuff bit."""
_CLASSIC_BYTES = 8
_FD_BYTES = 64
_WAITING_PACKETS = 1024


class XcpCan:
    """Packets on a ``SharedBus``.

    Every frame is filled to 8 bytes (FD: to the next length): slaves with MAX_DLC_REQUIRED ask for it, the
    others ignore it.

    Args:
        bus: an open bus that hears ``request_id`` and ``response_id``; it stays the caller's.
        config: the ids.

    Raises:
        BusError: the bus is closed.
    """

    def __init__(self, bus: SharedBus, config: XcpConfig) -> None:
        self._bus = bus
        self._config = config
        self._packets: queue.Queue[bytes | LinkError | None] = queue.Queue(_WAITING_PACKETS)  # None: woken
        self._lost: LinkError | None = None
        self._foreign = 0
        self.dropped = 0
        """Packets lost because nobody received them."""
        self._subscription = bus.subscribe(self._take, ids_of(config), self._lose)

    @property
    def max_cto(self) -> int:
        """8 bytes, or 64 on CAN FD."""
        return _FD_BYTES if self._bus.config.fd else _CLASSIC_BYTES

    @property
    def foreign_requests(self) -> int:
        """Frames on ``request_id`` that this process did not send."""
        return self._foreign

    def send(self, packet: bytes) -> None:
        """Send a command, filled up.

        Raises:
            BusError: it does not fit into a frame, or the bus does not take it.
        """
        if len(packet) > self.max_cto:
            message = f"an XCP packet of {len(packet)} bytes does not fit into a frame of {self.max_cto}"
            raise BusError(message)
        self._bus.send(self._config.request_id, filled(packet), extended=self._config.extended)

    def receive(self, timeout_s: float) -> bytes:
        """The next packet from the VCU.

        Raises:
            XcpTimeoutError: none came in time.
            BusError: the bus is lost.
        """
        if self._lost is not None:
            raise self._lost
        try:
            found = self._packets.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            message = (
                f"nothing on id {self._config.response_id:#x} for {timeout_s:.3f} s; check that the VCU is "
                "awake, and request_id, response_id and the bus of the vehicle"
            )
            raise XcpTimeoutError(message) from None
        if found is None:
            message = "the wait for an answer was ended"
            raise XcpTimeoutError(message)
        if isinstance(found, LinkError):
            raise found
        return found

    def exchange(self, packet: bytes, timeout_s: float) -> bytes:
        """Discard what waits, send and receive."""
        self.discard()
        self.send(packet)
        return self.receive(timeout_s)

    def discard(self) -> list[bytes]:
        """Take out all that waits and return it."""
        found: list[bytes] = []
        while True:
            try:
                one = self._packets.get_nowait()
            except queue.Empty:
                return found
            if isinstance(one, bytes):
                found.append(one)

    def wake(self) -> None:
        """End a waiting ``receive``; from any thread."""
        self._put(None)

    def close(self) -> None:
        """Stop listening; the bus stays open."""
        self._subscription.cancel()

    def _take(self, frame: "can.Message") -> None:
        if frame.is_extended_id != self._config.extended:
            return
        if frame.arbitration_id == self._config.request_id:
            self._foreign += 1
        elif frame.data:
            self._put(bytes(frame.data))

    def _lose(self, error: BusError) -> None:
        self._lost = error
        self._put(error)

    def _put(self, item: bytes | LinkError | None) -> None:
        try:
            self._packets.put_nowait(item)
        except queue.Full:
            self.dropped += 1


def filled(packet: bytes) -> bytes:
    """A packet, filled to 8 bytes or the next length of an FD frame."""
    length = next(one for one in FD_LENGTHS if one >= max(len(packet), _CLASSIC_BYTES))
    return packet + bytes((FILL,)) * (length - len(packet))


def ids_of(config: XcpConfig) -> Collection[int]:
    """The ids that a bus for ``XcpCan`` must hear: answers, and commands that another master sends."""
    return (config.request_id, config.response_id)
