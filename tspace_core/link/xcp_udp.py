"""XCP on UDP: packets in datagrams, each with a header of length and counter (two little endian words)."""

import contextlib
import logging
import socket
import struct
import time
from collections import deque

from tspace_core.errors import LinkError, XcpTimeoutError

_log = logging.getLogger(__name__)

_HEADER = struct.Struct("<HH")
_DATAGRAM_BYTES = 65_535
_MAX_CTO = 255  # MAX_CTO is one byte in CONNECT's answer
_COUNTS = 1 << 16
_LATE = 1 << 15
_MOST_WAITING = 1024


class XcpUdp:
    """Packets to and from one slave on Ethernet.

    The slave counts its packets: one that comes twice or late is dropped and counted, so that it is never
    taken for the answer to a newer command.

    Args:
        host: address of the VCU.
        port: its XCP port, 5555 by custom.

    Raises:
        LinkError: the address cannot be used.
    """

    def __init__(self, host: str, port: int) -> None:
        self.name = f"XCP on UDP {host}:{port}"
        self._counter = 0
        self._expected: int | None = None
        self._waiting: deque[bytes] = deque()
        self.missed = 0
        """Packets that the slave counted and that did not arrive."""
        self.late = 0
        """Packets that came twice or after a newer one, dropped."""
        self.malformed = 0
        """Datagrams whose header contradicts their length, dropped."""
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            self._socket = socket.socket(family, kind, protocol)
            self._socket.connect(address)
        except OSError as error:
            message = f"{self.name} cannot be reached: {error}; check host and port of the VCU"
            raise LinkError(message) from error

    @property
    def max_cto(self) -> int:
        """255 bytes, the most that CONNECT can offer."""
        return _MAX_CTO

    @property
    def foreign_requests(self) -> int:
        """0: what others send to the VCU is not seen."""
        return 0

    def send(self, packet: bytes) -> None:
        """Send a command with the next count.

        Raises:
            LinkError: the socket does not take it, or nothing listens there.
        """
        datagram = _HEADER.pack(len(packet), self._counter) + packet
        self._counter = (self._counter + 1) % _COUNTS
        try:
            self._socket.send(datagram)
        except ConnectionRefusedError:
            self._send_again(datagram)
        except OSError as error:
            raise self._failed(error) from error

    def receive(self, timeout_s: float) -> bytes:
        """The next packet from the VCU.

        Raises:
            XcpTimeoutError: none came in time.
            LinkError: nothing listens at the address, or the socket is closed.
        """
        deadline = time.monotonic() + timeout_s
        while not self._waiting:
            remaining = deadline - time.monotonic()
            if not self._hear(max(0.0, remaining)) and remaining <= 0:
                message = f"{self.name}: no answer for {timeout_s:.3f} s; check that the VCU is awake"
                raise XcpTimeoutError(message)
        return self._waiting.popleft()

    def exchange(self, packet: bytes, timeout_s: float) -> bytes:
        """Discard what waits, send and receive."""
        self.discard()
        self.send(packet)
        return self.receive(timeout_s)

    def discard(self) -> list[bytes]:
        """Take out all that waits and return it."""
        # What an earlier datagram met (nobody listened yet) is no fault of the next: sending it will tell.
        with contextlib.suppress(LinkError):
            while len(self._waiting) < _MOST_WAITING and self._hear(0.0):
                pass
        found = list(self._waiting)
        self._waiting.clear()
        return found

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _send_again(self, datagram: bytes) -> None:
        """An earlier datagram was refused, which the system tells at the next call: this one did not go."""
        try:
            self._socket.send(datagram)
        except OSError as error:
            raise self._failed(error) from error

    def _hear(self, timeout_s: float) -> bool:
        """Take one datagram in; False: none came."""
        try:
            self._socket.settimeout(timeout_s)
            datagram = self._socket.recv(_DATAGRAM_BYTES)
        except (TimeoutError, BlockingIOError):
            return False
        except OSError as error:
            raise self._failed(error) from error
        at = 0
        while at < len(datagram):
            if len(datagram) - at < _HEADER.size:
                self.malformed += 1
                break
            length, counter = _HEADER.unpack_from(datagram, at)
            at += _HEADER.size
            if length == 0 or at + length > len(datagram):
                self.malformed += 1
                break
            self._take(datagram[at : at + length], counter)
            at += length
        return True

    def _take(self, packet: bytes, counter: int) -> None:
        ahead = 0 if self._expected is None else (counter - self._expected) % _COUNTS
        if ahead >= _LATE:
            self.late += 1
            _log.info("%s: packet %d came twice or late and is dropped", self.name, counter)
            return
        self.missed += ahead
        self._expected = (counter + 1) % _COUNTS
        self._waiting.append(packet)

    def _failed(self, error: OSError) -> LinkError:
        if isinstance(error, ConnectionRefusedError):
            return LinkError(
                f"{self.name}: nothing listens there; check host, port and that the VCU is awake"
            )
        return LinkError(f"{self.name} failed: {error}; open it again")
