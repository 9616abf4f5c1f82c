"""A remote CAN service on real sockets that answers as it is told, also as no service should."""

import contextlib
import json
import queue
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from tests.ports import free_port

LIMIT_S = 20.0


@dataclass
class Request:
    """What a client asked for."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float = field(default_factory=time.monotonic)


@dataclass
class Exchange:
    """One request, and the means to answer it, well or not."""

    request: Request
    connection: socket.socket
    ending: threading.Event
    sent: int = 0

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)
        self.sent += len(data)

    def reset(self) -> None:
        """End the connection with RST instead of FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def wait(self, seconds: float) -> None:
        self.ending.wait(seconds)


Behaviour = Callable[[Exchange], None]


def head(status: int = 200, length: int | None = None, /, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Because", "Content-Type: application/json"]
    lines += [] if length is None else [f"Content-Length: {length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def body(content: bytes, status: int = 200, /, **headers: str) -> Behaviour:
    """A whole answer with that body."""
    return lambda exchange: exchange.send(head(status, len(content), **headers) + content)


def answer(content: object, status: int = 200, /, **headers: str) -> Behaviour:
    """A whole answer in JSON."""
    return body(json.dumps(content).encode(), status, **headers)


def failure(code: object) -> Behaviour:
    return answer({"success": False, "reason": {"why": {"code": code}}})


OK = answer({"success": True})


def hang(exchange: Exchange) -> None:
    """No answer at all until the client or the server ends."""
    exchange.wait(LIMIT_S)


def late(seconds: float, then: Behaviour) -> Behaviour:
    def behave(exchange: Exchange) -> None:
        exchange.wait(seconds)
        then(exchange)

    return behave


def drip(exchange: Exchange) -> None:
    """A byte of the body now and then, for ever."""
    exchange.send(head(200, 1_000_000))
    while not exchange.ending.is_set():
        exchange.send(b" ")
        exchange.wait(0.02)


def reset(after: bytes = b"") -> Behaviour:
    def behave(exchange: Exchange) -> None:
        exchange.send(after)
        exchange.reset()

    return behave


def broken_off(content: bytes) -> Behaviour:
    """Announces more than it sends, then closes."""

    def behave(exchange: Exchange) -> None:
        exchange.send(head(200, 2 * len(content) + 1) + content)
        exchange.connection.shutdown(socket.SHUT_RDWR)

    return behave


class Huge:
    """An answer of ``size`` bytes; ``sent`` tells how many of them the client took."""

    def __init__(self, size: int, *, announced: bool, headers: dict[str, str] | None = None) -> None:
        self.size, self.announced = size, announced
        self._headers = {name.replace("-", "_"): value for name, value in (headers or {}).items()}
        self.sent: queue.Queue[int] = queue.Queue()

    def __call__(self, exchange: Exchange) -> None:
        block = b" " * 65536
        try:
            if self.announced:
                exchange.send(head(200, self.size, **self._headers))
            else:
                exchange.send(head(200, None, Transfer_Encoding="chunked", **self._headers))
            while exchange.sent < self.size:
                exchange.send(block if self.announced else b"10000\r\n" + block + b"\r\n")
        finally:
            self.sent.put(exchange.sent)


class RemoteServer:
    """Answers each request with the next behaviour of its script, then with ``default``.

    Attributes:
        requests: all there were.
        connections: how many were accepted.
    """

    def __init__(self, default: Behaviour = OK, tls: ssl.SSLContext | None = None) -> None:
        self.default, self._tls = default, tls
        self._script: queue.Queue[Behaviour] = queue.Queue()
        self.requests: list[Request] = []
        self.connections = 0
        self.port = free_port(socket.SOCK_STREAM)  # stays ours while nobody listens
        self._seen = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self.start()

    @property
    def url(self) -> str:
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self.port}/api"

    def script(self, *behaviours: Behaviour) -> None:
        for behaviour in behaviours:
            self._script.put(behaviour)

    def wait_for(self, count: int) -> None:
        """Until so many requests have come."""
        with self._seen:
            assert self._seen.wait_for(lambda: len(self.requests) >= count, LIMIT_S)

    def start(self) -> None:
        """Listen; after ``stop`` on the same port again."""
        self._ending = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=16)
        self._spawn(self._accept, self._listener, self._ending)

    def stop(self) -> None:
        """End everything at once; nobody listens any more."""
        self._ending.set()
        self.refuse()
        with self._seen:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(LIMIT_S)
            assert not thread.is_alive()
        self._threads.clear()

    def refuse(self) -> None:
        """Take no new connections; those there are go on."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _spawn(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, name="remote test server", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket, ending: threading.Event) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self._seen:
                if ending.is_set():
                    connection.close()
                    return
                self.connections += 1
                self._open.add(connection)
                self._spawn(self._serve, connection, ending)

    def _serve(self, plain: socket.socket, ending: threading.Event) -> None:
        connection = plain
        try:
            with contextlib.suppress(OSError):  # whoever is gone has nothing to be told
                if self._tls is not None:
                    connection = self._tls.wrap_socket(plain, server_side=True)
                while (request := _read(connection)) is not None:
                    with self._seen:
                        # Together: who has seen this one may send the next, which is not to be answered so.
                        behave = self._behaviour()
                        self.requests.append(request)
                        self._seen.notify_all()
                    behave(Exchange(request, connection, ending))
        finally:
            with self._seen:
                self._open.discard(plain)
            connection.close()

    def _behaviour(self) -> Behaviour:
        try:
            return self._script.get_nowait()
        except queue.Empty:
            return self.default


def _read(connection: socket.socket) -> Request | None:
    """The next request; no file object is made of the connection, which would keep it open."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (block := connection.recv(65536)):
            return None
        data += block
        if not data[:3].isalpha():
            return None  # no HTTP
    begin, _, content = data.partition(b"\r\n\r\n")
    first, *lines = begin.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(content) < int(headers.get("content-length", 0)):
        if not (block := connection.recv(65536)):
            return None
        content += block
    return Request(first.split()[1], headers, json.loads(content or b"{}"))
