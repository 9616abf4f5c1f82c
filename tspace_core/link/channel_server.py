"""The bridge's end of the channel: one thread serves all peers, none of them can hold another one up."""

import contextlib
import logging
import selectors
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from typing import Literal, Protocol

from tspace_core.errors import ChannelError
from tspace_core.link.channel_frames import (
    MAX_FRAME,
    FrameReader,
    ServerChallenge,
    TlsFiles,
    pack,
    require_safe,
)
from tspace_core.link.messages import Failed, Hello, Message, MessageError, Welcome, decode, encode

_LOG = logging.getLogger(__name__)
_CHUNK = 65536
_MAX_PEERS = 16
_MAX_WAITING = 1 << 20
"""Bytes that may wait for a peer that does not read; beyond it the peer is dropped."""
_CHUNKS_A_TURN = 4
"""A peer that sends without end does not keep the others waiting."""
_INTRODUCTION_S = 3.0
"""Time for challenge and hello together."""
_FAREWELL_S = 1.0
"""Time to take the reason why it is sent away."""


@dataclass(frozen=True)
class Peer:
    """Who is at the other end."""

    number: int
    role: Literal["agent", "operator"]
    run_id: str
    address: str

    def __str__(self) -> str:
        return f"{self.role} {self.run_id} from {self.address}"


class ChannelHandler(Protocol):
    """What the bridge does with its peers; called from the server's thread, so it must not block."""

    def opened(self, peer: Peer, hello: Hello) -> Welcome | Failed | None:
        """A peer proved the key and said hello; ``Failed`` sends it away, None has it wait for ``wake``."""

    def received(self, peer: Peer, message: Message) -> Message | None:
        """A welcome peer sent a message; the answer to it, if there is one at once."""

    def closed(self, peer: Peer, cause: str) -> None:
        """A welcome peer is gone."""


class _Connection:
    """One connection, from its first byte on."""

    def __init__(self, raw: socket.socket, address: str, challenge: ServerChallenge) -> None:
        self.socket = raw
        self.address = address
        self.challenge = challenge
        self.stage: Literal["tls", "proof", "hello", "open"] = "proof"
        self.reader = FrameReader()
        self.out = bytearray()
        self.deadline = time.monotonic() + _INTRODUCTION_S
        self.peer: Peer | None = None
        self.hello: Hello | None = None  # said, and not answered yet
        self.leaving = ""  # cause: what is in ``out`` is still sent, then it is closed
        self.wants = selectors.EVENT_READ

    def leave(self, cause: str, last: bytes) -> None:
        """Send ``last``, then close."""
        self.out += pack(last)
        self.leaving, self.deadline = cause, time.monotonic() + _FAREWELL_S


class ChannelServer:
    """Listens, authenticates, passes messages on; ``send`` and ``push`` never block.

    Args:
        host: loopback, unless ``tls`` is given.
        port: 0: any free one, see ``port`` afterwards.
        key: the shared key.
        handler: what is done with messages.
        tls: certificates, where the channel is open to other machines.

    Attributes:
        port: the port listened at.
        refused: peers sent away before they were welcome.

    Raises:
        ChannelError: the address is taken, not ours, or open to others without TLS.
    """

    def __init__(
        self, host: str, port: int, key: bytes, handler: ChannelHandler, *, tls: TlsFiles | None = None
    ) -> None:
        require_safe(host, key, tls)
        self._key, self._handler = key, handler
        self._context = tls.server_context() if tls is not None else None
        try:
            self._listener = socket.create_server((host, port), backlog=_MAX_PEERS)
        except OSError as error:
            message = (
                f"cannot listen for agents at {host}:{port} ({error}); is another bridge running? "
                "ports.bridge of the vehicle or TSPACE_BRIDGE__PORT gives another port"
            )
            raise ChannelError(message) from error
        self._listener.settimeout(0)
        self.port: int = self._listener.getsockname()[1]
        self.refused = 0
        self._connections: dict[int, _Connection] = {}
        self._numbers = 0
        self._again: list[_Connection] = []  # have more to read than one turn allows
        self._lock = threading.Lock()  # guards _outbox
        self._outbox: list[tuple[int | None, bytes]] = []
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.settimeout(0)
        self._wake_out.settimeout(0)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_in, selectors.EVENT_READ)

    def serve(self, stopping: threading.Event) -> None:
        """Serve until ``stopping`` is set and ``wake`` called, then send what waits and close everything."""
        try:
            while not stopping.is_set():
                self._turn(self._until_next_deadline())
            self._flush_outbox()
        finally:
            self._close_all()

    def send(self, peer: Peer, message: Message) -> None:
        """Send to one peer, from any thread; a peer that is gone is no error."""
        self._put(peer.number, message)

    def push(self, message: Message) -> None:
        """Send to every welcome peer, from any thread."""
        self._put(None, message)

    def wake(self) -> None:
        """Let ``serve`` look at its stop event, and ask the handler again about peers that wait."""
        with contextlib.suppress(OSError):  # full: it will wake anyway; closed: nobody to wake
            self._wake_out.send(b"\0")

    def _put(self, number: int | None, message: Message) -> None:
        with self._lock:
            self._outbox.append((number, pack(encode(message))))
        self.wake()

    def _until_next_deadline(self) -> float | None:
        waiting = [one.deadline for one in self._connections.values() if one.stage != "open" or one.leaving]
        return max(0.0, min(waiting) - time.monotonic()) if waiting else None

    def _turn(self, timeout: float | None) -> None:
        again, self._again = self._again, []
        for key, _ in self._selector.select(0 if again else timeout):
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj is self._wake_in:
                with contextlib.suppress(BlockingIOError):
                    self._wake_in.recv(_CHUNK)
            elif key.data in self._connections:
                self._step(self._connections[key.data])
        for one in again:
            if one in self._connections.values():
                self._step(one)
        for one in list(self._connections.values()):
            if one.hello is not None and not one.leaving:
                self._welcome(one, one.hello)
                self._step(one)
        self._flush_outbox()
        now = time.monotonic()
        for one in list(self._connections.values()):
            if (one.stage != "open" or one.leaving) and now >= one.deadline:
                self._drop(one, one.leaving or _too_late(one))

    def _accept(self) -> None:
        try:
            raw, place = self._listener.accept()
        except OSError:
            return  # gone again before it was taken
        raw.settimeout(0)
        address = f"{place[0]}:{place[1]}"
        if len(self._connections) >= _MAX_PEERS:
            self._refuse(address, f"{_MAX_PEERS} peers are connected already")
            raw.close()
            return
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        challenge = ServerChallenge(self._key)
        connection = _Connection(raw, address, challenge)
        if self._context is not None:
            connection.stage = "tls"
            connection.socket = self._context.wrap_socket(
                raw, server_side=True, do_handshake_on_connect=False
            )
        connection.out += pack(challenge.opening())
        self._numbers += 1
        self._connections[self._numbers] = connection
        self._selector.register(connection.socket, selectors.EVENT_READ, self._numbers)
        self._step(connection)

    def _step(self, one: _Connection) -> None:
        """Do all that can be done now: handshake, write, read."""
        try:
            if one.stage == "tls":
                assert isinstance(one.socket, ssl.SSLSocket)
                one.socket.do_handshake()
                one.stage = "proof"
            self._write(one)
            if not one.leaving:
                self._read(one)
            if one.leaving and not one.out:
                self._drop(one, one.leaving)
        except (BlockingIOError, ssl.SSLWantReadError):
            self._want(one)
        except ssl.SSLWantWriteError:
            self._want(one, selectors.EVENT_WRITE)
        except (OSError, ChannelError) as error:
            self._drop(one, str(error))

    def _write(self, one: _Connection) -> None:
        while one.out:
            try:
                sent = one.socket.send(one.out)
            except (BlockingIOError, ssl.SSLWantWriteError):
                break
            del one.out[:sent]

    def _read(self, one: _Connection) -> None:
        for _ in range(_CHUNKS_A_TURN):
            data = one.socket.recv(_CHUNK)
            if not data:
                message = "closed by the peer"
                raise ChannelError(message)
            one.reader.feed(data)
            for frame in one.reader.frames():
                self._take(one, frame)
                if one.leaving:
                    self._write(one)
                    self._want(one)
                    return
            self._write(one)
        self._again.append(one)

    def _take(self, one: _Connection, frame: bytes) -> None:
        if one.stage == "proof":
            try:
                one.out += pack(one.challenge.answer(frame))
            except ChannelError as error:
                one.leave(str(error), b'{"failed": "the proof is wrong: another key"}')
                return
            one.stage, one.reader.limit = "hello", MAX_FRAME
            return
        try:
            message = decode(frame)
        except MessageError as error:
            _LOG.warning("channel: %s: %s", one.peer or one.address, error)
            failed = encode(Failed(reason=str(error)[:2000]))
            if one.stage == "hello":
                one.leave(str(error), failed)
            else:
                one.out += pack(failed)
            return
        if one.hello is not None:
            one.leave("spoke before its welcome", encode(Failed(reason="wait for the welcome first")))
        elif one.stage == "hello":
            self._welcome(one, message)
        elif one.peer is not None:
            answer = self._handler.received(one.peer, message)
            if answer is not None:
                one.out += pack(encode(answer))

    def _welcome(self, one: _Connection, message: Message) -> None:
        if not isinstance(message, Hello):
            reason = f"the first message is a hello, not {message.kind!r}"
            one.leave(reason, encode(Failed(reason=reason)))
            return
        number = next(key for key, value in self._connections.items() if value is one)
        peer = Peer(number, message.role, message.run_id, one.address)
        answer = self._handler.opened(peer, message)
        one.hello = message if answer is None else None
        if isinstance(answer, Failed):
            one.leave(answer.reason, encode(answer))
        elif isinstance(answer, Welcome):
            one.peer, one.stage = peer, "open"
            one.out += pack(encode(answer))

    def _want(self, one: _Connection, events: int = 0) -> None:
        events |= selectors.EVENT_READ
        if one.out:
            events |= selectors.EVENT_WRITE
        if events != one.wants:
            one.wants = events
            self._selector.modify(one.socket, events, self._selector.get_key(one.socket).data)

    def _flush_outbox(self) -> None:
        with self._lock:
            outbox, self._outbox = self._outbox, []
        touched = []
        for number, frame in outbox:
            for key, one in list(self._connections.items()):
                if one.stage == "open" and not one.leaving and number in (None, key):
                    one.out += frame
                    touched.append(one)
        for one in dict.fromkeys(touched):
            try:
                self._write(one)
                self._want(one)
            except OSError as error:
                self._drop(one, str(error))
            if len(one.out) > _MAX_WAITING:
                self._drop(one, f"does not read: {len(one.out)} bytes wait for it")

    def _drop(self, one: _Connection, cause: str) -> None:
        number = next((key for key, value in self._connections.items() if value is one), None)
        if number is None:
            return
        del self._connections[number]
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(one.socket)
        if one.peer is None:
            self._refuse(one.address, cause)
        else:
            _LOG.info("channel: %s: %s", one.peer, cause)
            self._handler.closed(one.peer, cause)
        one.socket.close()

    def _refuse(self, address: str, cause: str) -> None:
        self.refused += 1
        _LOG.warning("channel: refused a peer at %s: %s", address, cause)

    def _close_all(self) -> None:
        for one in list(self._connections.values()):
            self._drop(one, "the bridge ends")
        self._selector.close()
        for each in (self._listener, self._wake_in, self._wake_out):
            each.close()


def _too_late(one: _Connection) -> str:
    if one.hello is not None:
        return "the bridge was not ready for it in time"
    return "did not prove the key and say hello in time"
