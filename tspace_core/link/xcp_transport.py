"""What the XCP master asks of a transport; ``xcp_can`` and ``xcp_udp`` are the two there are."""

from typing import Protocol, runtime_checkable


class XcpTransport(Protocol):
    """Carries packets to one XCP slave and back, in order; it neither repeats nor understands them.

    One thread uses a transport. What arrives waits in a bounded queue until it is received or discarded.
    """

    @property
    def max_cto(self) -> int:
        """Longest packet that fits into a frame, bytes."""
        ...

    @property
    def foreign_requests(self) -> int:
        """Commands to the same slave that somebody else sent; 0 where none can be seen."""
        ...

    def send(self, packet: bytes) -> None:
        """Send a command.

        Raises:
            LinkError: it cannot be sent.
        """
        ...

    def receive(self, timeout_s: float) -> bytes:
        """The next packet from the slave, with the padding of its frame.

        Raises:
            XcpTimeoutError: none came in time.
            LinkError: the bus or socket is lost.
        """
        ...

    def exchange(self, packet: bytes, timeout_s: float) -> bytes:
        """Discard what waits, send and receive: for diagnosis, the master does it step by step."""
        ...

    def discard(self) -> list[bytes]:
        """Take out all that waits and return it."""
        ...

    def close(self) -> None:
        """Let go of the bus or socket, as often as you like."""
        ...


@runtime_checkable
class WakingTransport(Protocol):
    """A transport whose ``receive`` another thread can end."""

    def wake(self) -> None:
        """End a waiting ``receive`` with XcpTimeoutError; from any thread, never blocks."""
        ...
