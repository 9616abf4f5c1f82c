"""A line to a server that can be cut and joined again: its client loses the server, others go on with it."""

import socket
import socketserver
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

from tests.ports import free_port


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False


class Line:
    """Passes bytes on, both ways, between a port of its own and a server's on this machine."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._ends: list[socket.socket] = []
        self.port = free_port(socket.SOCK_STREAM)
        self.join()

    def join(self) -> None:
        """Listen; again on the same port."""
        line = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                line._pass_on(self.request)

        self._server = _Server(("127.0.0.1", self.port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def cut(self) -> None:
        """End all connections and refuse new ones."""
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._ends.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()

    def _pass_on(self, client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self._target)) as server:
            self._ends += [client, server]
            back = threading.Thread(target=_copy, args=(server, client), daemon=True)
            back.start()
            _copy(client, server)
            back.join(10)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):  # one of the ends is gone
        while part := source.recv(1 << 16):
            target.sendall(part)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
