"""Between a client and a server of MongoDB's wire protocol: a relay that dies, a server that refuses."""

import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import bson
from pymongo.errors import ServerSelectionTimeoutError

from tspace_core.storage.pools.mongo import MongoPool

PATIENCE_S = 60.0
_HEADER = struct.Struct("<iiii")
_MSG, _QUERY, _REPLY = 2013, 2004, 1
_HELLO = {
    "ismaster": True, "isWritablePrimary": True, "maxBsonObjectSize": 16 << 20,
    "maxMessageSizeBytes": 48_000_000, "maxWriteBatchSize": 100_000,
    "minWireVersion": 0, "maxWireVersion": 21, "readOnly": False, "ok": 1.0,
}  # fmt: skip


def _exactly(connection: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        part = connection.recv(count - len(found))
        if not part:
            raise ConnectionResetError
        found += part
    return found


def _message(connection: socket.socket) -> bytes:
    head = _exactly(connection, _HEADER.size)
    return head + _exactly(connection, _HEADER.unpack(head)[0] - _HEADER.size)


def command_of(message: bytes) -> dict[str, Any]:
    """The command in a message, without the documents that follow it."""
    code = _HEADER.unpack(message[: _HEADER.size])[3]
    # In an OP_QUERY stand flags, the name of a collection and two numbers before it.
    start = _HEADER.size + 5 if code == _MSG else message.index(b"\0", _HEADER.size + 4) + 9
    (size,) = struct.unpack_from("<i", message, start)
    found: dict[str, Any] = bson.decode(message[start : start + size])
    return found


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False


@contextmanager
def _serving(handle: Callable[[socket.socket], None]) -> Iterator[int]:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):  # one of the ends is gone
                handle(self.request)

    with _Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join(10)


def connected(pool: MongoPool) -> MongoPool:
    """The pool, when its server has answered: short timeouts are for a dead one, not for a busy machine."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            pool._client.admin.command("ping")
        except ServerSelectionTimeoutError:
            assert time.monotonic() < until, "the server does not answer"
        else:
            return pool


@contextmanager
def responder(answers: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A server that says hello, and to each command what ``answers`` has for it; gives host and port."""

    def handle(connection: socket.socket) -> None:
        while True:
            message = _message(connection)
            _, number, _, code = _HEADER.unpack(message[: _HEADER.size])
            name = next(iter(command_of(message)))
            hello = name.lower() in ("hello", "ismaster")
            answer = bson.encode(_HELLO if hello else {"ok": 1.0, **answers.get(name, {})})
            if code == _QUERY:
                body, kind = struct.pack("<iqii", 8, 0, 0, 1) + answer, _REPLY
            else:
                body, kind = struct.pack("<iB", 0, 0) + answer, _MSG
            connection.sendall(_HEADER.pack(_HEADER.size + len(body), 1, number, kind) + body)

    with _serving(handle) as port:
        yield f"127.0.0.1:{port}"


class Relay:
    """Passes messages on until ``dies`` says so; then it is dead for good.

    Args:
        port: of the server.
        dies: asked with each command; "before": the server never gets it, "after": the client never gets the
            answer.
    """

    def __init__(self, port: int, dies: Callable[[dict[str, Any]], str | None]) -> None:
        self._target = port
        self._dies = dies
        self.dead = threading.Event()
        self.heals = False
        """Whether it lives on after it has cut one connection."""

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Give its URI, with short timeouts for one that stays dead; see ``connected``."""
        wait_ms = 30_000 if self.heals else 250
        with _serving(self._handle) as port:
            yield f"mongodb://127.0.0.1:{port}/?serverSelectionTimeoutMS={wait_ms}&heartbeatFrequencyMS=500"

    def _handle(self, client: socket.socket) -> None:
        if self.dead.is_set() and not self.heals:
            return
        with socket.create_connection(("127.0.0.1", self._target)) as server:
            while True:
                message = _message(client)
                if self.dead.is_set() and not self.heals:
                    return
                command = command_of(message)
                counts = next(iter(command)).lower() not in ("hello", "ismaster", "ping", "endsessions")
                fate = self._dies(command) if counts and not self.dead.is_set() else None
                if fate == "before":
                    self.dead.set()
                    return
                server.sendall(message)
                answer = _message(server)
                if fate == "after":
                    self.dead.set()
                    return
                client.sendall(answer)
