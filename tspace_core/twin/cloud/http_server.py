"""An ASGI application on a real socket, in a thread of its own, started and stopped cleanly."""

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tspace_core.errors import TwinError

PATIENCE_S = 15.0
"""Longest wait for the server to come up or to end."""


class _Protocol(H11Protocol):
    """Shows the application its connection, so that it can break it: ``scope["state"]["transport"]``."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = threading.Event()
        self.loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.loop = asyncio.get_running_loop()
        self.up.set()


class HttpServer:
    """Serves an application from ``start`` to ``stop``.

    Args:
        app: ASGI application; answers that wait have to end when it is told to stop.
        host: address to listen at.
        port: port; 0: a free one.
        certificate: PEM file; with ``key`` it speaks https.
        key: PEM file.

    Attributes:
        port: the port it listens at.

    Raises:
        TwinError: the address is taken or cannot be listened at.
    """

    def __init__(
        self, app: Any, host: str, port: int, certificate: Path | None = None, key: Path | None = None
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # With its protocol named: asyncio turns Nagle off only then, which would cost 40 ms an answer.
        self._socket = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
            self._socket.listen(128)
        except OSError as error:
            self._socket.close()
            message = f"nothing can be served at {host}:{port} ({error.strerror}); choose another port"
            raise TwinError(message) from error
        self.port: int = self._socket.getsockname()[1]
        self._server = _Server(
            uvicorn.Config(
                app,
                loop="asyncio",
                http=_Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=3,
                ssl_certfile=certificate,
                ssl_keyfile=key,
            )
        )
        scheme = "http" if certificate is None else "https"
        shown = f"[{host}]" if ":" in host else host
        self.url = f"{scheme}://{shown}:{self.port}"
        self._thread = threading.Thread(target=self._run, name=f"http {self.port}", daemon=True)
        self._failure: BaseException | None = None

    def call(self, action: Callable[[], None]) -> None:
        """Have something done in the server's loop, while it runs."""
        loop = self._server.loop
        if loop is not None:
            # It may close in between.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(action)

    def start(self) -> None:
        """Serve from now on.

        Raises:
            TwinError: it did not come up.
        """
        self._thread.start()
        if not self._server.up.wait(PATIENCE_S) or self._failure is not None:
            self._socket.close()
            message = f"the server at {self.url} did not come up: {self._failure or 'it took too long'}"
            raise TwinError(message)

    def stop(self) -> None:
        """Take no more calls, end those that there are, and close the socket; again is no matter."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(PATIENCE_S)
        self._socket.close()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        except BaseException as error:
            self._failure = error
        finally:
            self._server.up.set()
