"""The bridge's channel: TCP, length-prefixed JSON, both ends proved by a shared key before any message.

``ChannelClient`` is the agent's and operator's end, ``ChannelServer`` the bridge's.
"""

import contextlib
import select
import socket
import ssl
import threading
import time
from collections import deque
from types import TracebackType
from typing import Self

from tspace_core.errors import ChannelError
from tspace_core.link.channel_frames import (
    MAX_FRAME,
    ClientChallenge,
    FrameReader,
    TlsFiles,
    pack,
    require_safe,
)
from tspace_core.link.channel_server import ChannelHandler, ChannelServer, Peer
from tspace_core.link.messages import Failed, Hello, Message, Welcome, decode, encode

__all__ = ["ChannelClient", "ChannelHandler", "ChannelServer", "Peer", "TlsFiles"]

_CHUNK = 65536


class ChannelClient:
    """One authenticated connection to the bridge.

    ``send`` may be called from several threads, ``receive`` from one, ``close`` from any.

    Attributes:
        welcome: the bridge's answer to our hello.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._socket.settimeout(0)
        self._reader = FrameReader()
        self._frames: deque[bytes] = deque()
        self._io = threading.Lock()  # TLS connections are not for two threads at once
        self._sending = threading.Lock()
        self._closed = threading.Event()
        self.welcome: Welcome

    @classmethod
    def connect(
        cls,
        host: str,
        port: int,
        key: bytes,
        hello: Hello,
        *,
        tls: TlsFiles | None = None,
        timeout_s: float = 5.0,
    ) -> Self:
        """Connect, prove the key both ways, say hello.

        Raises:
            ChannelError: nobody listens there, the key is another one, or the bridge refuses; says which.
        """
        require_safe(host, key, tls)
        deadline = time.monotonic() + timeout_s
        place = f"bridge at {host}:{port}"
        try:
            connection = socket.create_connection((host, port), timeout_s)
        except OSError as error:
            message = f"no {place} ({error}); start it with `tspace bridge --vehicle {hello.vehicle_id}`"
            raise ChannelError(message) from error
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                connection = tls.client_context().wrap_socket(connection, server_hostname=host)
            client = cls(connection)
            client._introduce(key, hello, deadline)
        except (OSError, ChannelError) as error:
            connection.close()
            message = f"{place}: {error}"
            raise ChannelError(message) from error
        return client

    def _introduce(self, key: bytes, hello: Hello, deadline: float) -> None:
        challenge = ClientChallenge(key)
        self._send(challenge.answer(self._required(deadline)), deadline)
        challenge.check(self._required(deadline))
        self._reader.limit = MAX_FRAME
        self._send(encode(hello), deadline)
        answer = decode(self._required(deadline))
        if isinstance(answer, Failed):
            raise ChannelError(answer.reason)
        if not isinstance(answer, Welcome):
            message = f"it answered hello with {answer.kind!r}, expected a welcome"
            raise ChannelError(message)
        self.welcome = answer

    def send(self, message: Message, timeout_s: float = 1.0) -> None:
        """Send one message.

        Raises:
            ChannelError: the bridge is gone, or does not take it in time; the channel is closed then.
        """
        self._send(encode(message), time.monotonic() + timeout_s)

    def receive(self, timeout_s: float) -> Message | None:
        """The next message; None: none came in time.

        Raises:
            ChannelError: the bridge is gone, the channel was closed, or it sent nonsense.
        """
        frame = self._receive(time.monotonic() + timeout_s)
        return None if frame is None else decode(frame)

    def close(self) -> None:
        """Close the connection; a waiting ``receive`` ends with a ``ChannelError``. Twice is no harm."""
        if self._closed.is_set():
            return
        self._closed.set()
        with contextlib.suppress(OSError):  # the other end was faster
            self._socket.shutdown(socket.SHUT_RDWR)
        with self._io:
            self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _required(self, deadline: float) -> bytes:
        frame = self._receive(deadline)
        if frame is None:
            message = "no answer in time"
            raise ChannelError(message)
        return frame

    def _receive(self, deadline: float) -> bytes | None:
        while not self._frames:
            with self._io:
                data, wanted = self._read_some()
            if data is None:
                if not self._wait(wanted, deadline):
                    return None
                continue
            if not data:
                self.close()
                message = "the bridge closed the channel"
                raise ChannelError(message)
            self._reader.feed(data)
            self._frames.extend(self._reader.frames())
        return self._frames.popleft()

    def _read_some(self) -> tuple[bytes | None, int]:
        self._check_open()
        try:
            return self._socket.recv(_CHUNK), 0
        except (BlockingIOError, ssl.SSLWantReadError):
            return None, select.POLLIN
        except ssl.SSLWantWriteError:
            return None, select.POLLOUT
        except OSError:
            return b"", 0

    def _send(self, payload: bytes, deadline: float) -> None:
        rest = memoryview(pack(payload))
        with self._sending:
            while rest:
                try:
                    with self._io:
                        self._check_open()
                        rest = rest[self._socket.send(rest) :]
                    continue
                except (BlockingIOError, ssl.SSLWantWriteError):
                    wanted = select.POLLOUT
                except ssl.SSLWantReadError:
                    wanted = select.POLLIN
                except OSError as error:
                    self.close()
                    message = f"the bridge is gone ({error})"
                    raise ChannelError(message) from error
                if not self._wait(wanted, deadline):
                    self.close()  # half a frame is out: nothing after it could be understood
                    message = "the bridge did not take a message in time"
                    raise ChannelError(message)

    def _wait(self, wanted: int, deadline: float) -> bool:
        self._check_open()
        poll = select.poll()
        try:
            poll.register(self._socket, wanted)
        except ValueError:
            self._check_open()
            raise
        return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))

    def _check_open(self) -> None:
        if self._closed.is_set():
            message = "the channel to the bridge is closed"
            raise ChannelError(message)
