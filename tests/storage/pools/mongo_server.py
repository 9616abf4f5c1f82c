"""A server of MongoDB's wire protocol for tests: nx-27017, which keeps documents in SQLite."""

import atexit
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

import pytest

from tests.objects.seaweed import free_ports

START_S = 60.0


class MongoServer:
    """``nx-27017`` with a data folder of its own; ``stop`` and ``start`` keep port and data."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mongo-"))
        (self.port,) = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def uri(self) -> str:
        """Where it is."""
        return f"mongodb://127.0.0.1:{self.port}"

    def client(self) -> Any:
        """A client as patient as the start of a server is."""
        return self._client(START_S)

    def _client(self, patience_s: float) -> Any:
        from pymongo import MongoClient

        return MongoClient(self.uri, serverSelectionTimeoutMS=round(1000 * patience_s), tz_aware=True)

    def start(self) -> Self:
        """Start it, and return when it answers."""
        if self._process is not None:
            return self
        program = shutil.which(
            "nx-27017", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        )
        if program is None:
            pytest.fail("no `nx-27017`: pip install -e '.[dev]' installs it")
        self._log = (self.folder / "out.log").open("ab")
        command = [
            program, "--host", "127.0.0.1", "-p", str(self.port), "--data-dir", str(self.folder / "data"),
            "--log-file", str(self.folder / "server.log"), "--pid-file", str(self.folder / "pid"),
        ]  # fmt: skip
        (self.folder / "pid").unlink(missing_ok=True)  # of one that was killed
        self._process = subprocess.Popen(  # a group of its own: Ctrl-C is for pytest, which stops it then
            command, stdout=self._log, stderr=subprocess.STDOUT, cwd=self.folder, start_new_session=True
        )
        atexit.register(self.close)
        self._wait_ready()
        return self

    def _wait_ready(self) -> None:
        from pymongo.errors import PyMongoError

        assert self._process is not None
        until, last, pause = time.monotonic() + START_S, "", threading.Event()
        with self._client(0.3) as client:
            while time.monotonic() < until and self._process.poll() is None:
                try:
                    client.admin.command("ping")
                except PyMongoError as error:
                    last = repr(error)[:500]
                    pause.wait(0.05)
                else:
                    return
        text = (self.folder / "out.log").read_text(errors="replace")[-4000:]
        self.stop()
        pytest.fail(f"nx-27017 does not answer after {START_S} s ({last}); its log ends:\n{text}")

    def stop(self) -> None:
        """End it at once, as a crash would; what was written stays."""
        if self._process is None:
            return
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)
        self._process = None
        if self._log is not None:
            self._log.close()

    def close(self) -> None:
        """End it and remove its data."""
        self.stop()
        atexit.unregister(self.close)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def mongo_server() -> Iterator[MongoServer]:
    """One server a session (with pytest-xdist: a worker); do not stop it, others use it."""
    server = MongoServer()
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
def own_mongo_server() -> Iterator[MongoServer]:
    """A server of the test's own, which it may stop and start."""
    server = MongoServer()
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
def mongo_database(mongo_server: MongoServer) -> Iterator[str]:
    """Name of a database that nobody else uses; it is dropped after the test."""
    name = f"t{secrets.token_hex(6)}"
    yield name
    with mongo_server.client() as client:
        client.drop_database(name)
