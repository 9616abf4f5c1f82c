"""A real MLflow server for tests, and a line to it that can be cut, or go silent."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, Self
from urllib.error import URLError
from urllib.request import urlopen

from tests.ports import free_port

Mode = Literal["through", "silent"]
TRIES, PAUSE_S = 600, 0.2


class MlflowServer:
    """``mlflow server`` with SQLite and its own pictures; ``stop`` and ``start`` keep port and data."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port(socket.SOCK_STREAM)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Start it and wait until it answers."""
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}", "--workers", "1"),
            *("--artifacts-destination", str(self.folder / "pictures")),
        ]
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, cwd=self.folder, start_new_session=True
            )
        wait = threading.Event()
        for _ in range(TRIES):
            assert self._process.poll() is None, (self.folder / "server.log").read_text()
            with suppress(URLError, OSError), urlopen(f"{self.uri}/health", timeout=2) as answer:
                if answer.status == 200:
                    return self
            wait.wait(PAUSE_S)
        self.stop()
        raise AssertionError((self.folder / "server.log").read_text())

    def stop(self) -> None:
        """Kill it with its workers, as a machine that dies."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


class Line:
    """A port that leads to another one, or refuses, or never answers."""

    def __init__(self, target: int) -> None:
        self._target, self.port = target, free_port(socket.SOCK_STREAM)
        self._listener: socket.socket | None = None
        self._open: list[socket.socket] = []
        self._mode: Mode = "through"
        self.waits: Callable[[int], object] = lambda seconds: None
        """Told how long it is worth to wait for an answer."""
        self.up()

    @property
    def uri(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def up(self) -> None:
        """Let everything through."""
        self.down()
        self.waits(60)
        self._mode = "through"
        self._listen()

    def silent(self) -> None:
        """Take connections and requests, and say nothing."""
        self.down()
        self.waits(1)
        self._mode = "silent"
        self._listen()

    def down(self) -> None:
        """Refuse connections, and cut those there are."""
        if self._listener is not None:
            _close(self._listener)
            self._listener = None
        for one in self._open:
            _close(one)
        self._open.clear()

    def _listen(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port))
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener, self._mode), daemon=True).start()

    def _accept(self, listener: socket.socket, mode: Mode) -> None:
        while True:
            try:
                one, _ = listener.accept()
            except OSError:
                return
            self._open.append(one)
            if mode == "silent":
                continue
            other = socket.create_connection(("127.0.0.1", self._target))
            self._open.append(other)
            for pair in ((one, other), (other, one)):
                threading.Thread(target=_pump, args=pair, daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    _close(source)
    _close(target)


def _close(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


@contextmanager
def mlflow_server(folder: Path) -> Iterator[MlflowServer]:
    """A running server; it is killed at the end."""
    server = MlflowServer(folder)
    try:
        yield server.start()
    finally:
        server.stop()
