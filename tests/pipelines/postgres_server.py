"""A real PostgreSQL server for tests: the system's own, on a free port, in a folder of its own."""

import atexit
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.objects.seaweed import free_ports

START_S = 60.0
USER = "tspace"


def find_binaries() -> Path | None:
    """The folder with ``initdb`` and ``postgres``; None: no server is installed."""
    folders = [Path(name) for name in os.environ.get("PATH", "").split(os.pathsep) if name]
    packaged = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: _number(path.parent.name))
    for folder in [*reversed(packaged), *folders]:
        if (folder / "initdb").is_file() and (folder / "postgres").is_file():
            return folder
    return None


def _number(name: str) -> int:
    return int(name) if name.isdigit() else 0


def _runs_as() -> dict[str, Any]:
    """Whose process the server is: it refuses to be root's."""
    if os.geteuid():
        return {}
    for name in ("postgres", "nobody"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
    pytest.skip("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")


class PostgresServer:
    """``postgres`` with password authentication; ``stop`` and ``start`` keep port and data."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self._owner = _runs_as()
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        self.password = f"secret-{secrets.token_hex(8)}"
        (self.port,) = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._initialise()

    def _initialise(self) -> None:
        passwords = self.folder / "password"
        passwords.write_text(self.password, encoding="utf-8")
        if self._owner:
            for path in (self.folder, passwords):
                os.chown(path, self._owner["user"], self._owner["group"])
        command: list[str | Path] = [
            self._binaries / "initdb", "--pgdata", self.folder / "data", "--username", USER,
            "--pwfile", passwords, "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C",
            "--no-sync", "--no-instructions",
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=self.folder, **self._owner
        )
        assert done.returncode == 0, done.stderr
        passwords.unlink()

    def start(self) -> Self:
        """Start it, and return when it serves requests."""
        if self._process is not None:
            return self
        settings = {
            "listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": self.folder,
            "fsync": "off", "full_page_writes": "off",
            "shared_buffers": "32MB", "max_connections": 100,
        }  # fmt: skip
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self.folder / "data", *options],
                stdout=log, stderr=subprocess.STDOUT, cwd=self.folder, start_new_session=True, **self._owner,
            )  # fmt: skip
        atexit.register(self.close)
        self._wait_ready()
        return self

    def _wait_ready(self) -> None:
        import psycopg2

        assert self._process is not None
        until, pause, last = time.monotonic() + START_S, threading.Event(), ""
        while time.monotonic() < until and self._process.poll() is None:
            try:
                psycopg2.connect(self.url("postgres"), connect_timeout=5).close()
            except psycopg2.OperationalError as error:
                last = str(error)
                pause.wait(0.05)
            else:
                return
        text = (self.folder / "server.log").read_text(errors="replace")[-4000:]
        self.stop()
        pytest.fail(f"PostgreSQL does not serve within {START_S} s ({last}); its log ends:\n{text}")

    def url(self, database: str, *, password: str | None = None) -> str:
        """URL of a database as its user."""
        return f"postgresql://{USER}:{password or self.password}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """Make an empty database and return its URL."""
        import psycopg2

        name = f"d{secrets.token_hex(6)}"
        connection = psycopg2.connect(self.url("postgres"))
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f"CREATE DATABASE {name}")
        finally:
            connection.close()
        return self.url(name)

    def stop(self) -> None:
        """End it at once; what was committed stays, as far as the system's own buffers go."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(20)
        self._process = None

    def close(self) -> None:
        """End it and remove its data."""
        self.stop()
        atexit.unregister(self.close)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """One server a module of tests."""
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server here (apt-get install postgresql): its storage is not tested")
    server = PostgresServer(binaries)
    try:
        yield server.start()
    finally:
        server.close()
