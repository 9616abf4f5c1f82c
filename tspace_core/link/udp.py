"""A bound UDP socket, and waiting on it so that another thread can wake the waiter."""

import errno
import math
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tspace_core.errors import LinkError

Address = tuple[str, int]

RECEIVE_BUFFER = 1 << 20
"""Bytes the kernel keeps for a reader that is late: some 5000 datagrams, minutes of a bridge's 20 Hz."""

_LARGEST = 65_535


@contextmanager
def udp_context(host: str, port: int) -> Iterator[socket.socket]:
    """Bind a datagram socket and close it when the block is left.

    Args:
        host: IPv4 address or name, e.g. 127.0.0.1.
        port: 1 to 65535; 0 lets the system choose, ``getsockname`` tells which.

    Raises:
        LinkError: the address is taken, is not one of this machine, or cannot be resolved.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        # No SO_REUSEADDR: on Linux a second process could then take the datagrams away unnoticed.
        try:
            bound.bind((host, port))
        except (OSError, OverflowError) as error:
            raise LinkError(_why_not_bound(host, port, error)) from error
        yield bound


def _why_not_bound(host: str, port: int, error: OSError | OverflowError) -> str:
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.EADDRINUSE:
        return (
            f"UDP address {host}:{port} is taken: another run of this vehicle, a bridge in standby or some "
            f"program listens there; find it with `ss -ulpn 'sport = :{port}'` and end it, or give the "
            "vehicle another port (ports.udp)"
        )
    if code == errno.EACCES:
        return f"UDP port {port} needs privileges: choose one from 1024 to 65535 (hmi.udp_port or ports.udp)"
    return (
        f"UDP address {host}:{port} cannot be bound ({error}): correct hmi.udp_host and hmi.udp_port in the "
        "settings, or ports.udp of the vehicle"
    )


class DatagramReceiver:
    """Waits for datagrams on a socket, without naps, until one comes, time is up, or ``wake`` is called.

    Args:
        bound: a bound datagram socket; it stays the caller's to close.
    """

    def __init__(self, bound: socket.socket) -> None:
        self.socket = bound
        self.address: Address = bound.getsockname()
        bound.settimeout(0.0)
        self._hear, self._call = socket.socketpair()
        self._hear.settimeout(0.0)
        self._call.settimeout(0.0)
        # poll, not select, which cannot wait on descriptors from 1024 on.
        self._poll = select.poll()
        self._poll.register(self._hear, select.POLLIN)
        self._poll.register(bound, select.POLLIN)

    def receive(self, timeout_s: float | None = None) -> tuple[bytes, Address] | None:
        """Return the next datagram, whole whatever its size, and its sender; None on time-out or wake.

        Once woken it returns None for ever, even while datagrams wait.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            ready = self._poll.poll(None if left_s is None else math.ceil(left_s * 1000))
            if not ready or self._hear.fileno() in (descriptor for descriptor, _ in ready):
                return None
            try:
                data, sender = self.socket.recvfrom(_LARGEST)
            except (BlockingIOError, ConnectionError):
                # A datagram with a wrong checksum, or word that an answer of ours found nobody: wait on.
                continue
            return data, sender

    def drain(self) -> int:
        """Throw away the datagrams that wait; return how many."""
        count = 0
        while True:
            try:
                self.socket.recvfrom(0)
            except BlockingIOError:
                return count
            except ConnectionError:
                continue
            count += 1

    def answer(self, data: bytes, receiver: Address) -> bool:
        """Send a datagram from the bound address, never waiting; return whether it went out."""
        try:
            self.socket.sendto(data, receiver)
        except (OSError, OverflowError):
            return False
        return True

    def wake(self) -> None:
        """End the wait of ``receive``, now and from now on; from any thread, any number of times."""
        try:
            self._call.send(b"!")
        except OSError:
            return  # full of calls already, or closed

    def close(self) -> None:
        """Give the waking pair back."""
        self._hear.close()
        self._call.close()
