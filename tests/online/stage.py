"""A vehicle's world for tests: twin, bridge and HMI as real processes on a bus and ports of their own."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import PROJECT
from tests.ports import free_port

VEHICLE = "twin_truck"
PATIENCE_S = 180.0
"""Longest wait for anything that must happen; only a broken test takes that long."""

Line = dict[str, Any]


class Process:
    """A process whose lines are read as they come, so that a test can wait for one."""

    def __init__(self, name: str, command: list[str], env: dict[str, str]) -> None:
        self.name = name
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            command,
            env=env,
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=f"{name} reader", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def wait_for(
        self, wanted: Callable[[str], bool], *, since: int = 0, timeout_s: float = PATIENCE_S
    ) -> str:
        """The first line from number ``since`` on that is wanted."""

        def found() -> str | None:
            return next((line for line in self.lines[since:] if wanted(line)), None)

        with self._changed:
            self._changed.wait_for(lambda: found() is not None or not self._reader.is_alive(), timeout_s)
            line = found()
        assert line is not None, f"{self.name} never said it; it said:\n" + "\n".join(
            self.lines[since:][-60:]
        )
        return line

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """The exit status."""
        status = self._process.wait(timeout_s)
        self._reader.join(timeout_s)
        if self._process.stdout is not None:
            self._process.stdout.close()
        return status

    def stop(self) -> int:
        """Ask it to end, as a person or service manager does."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """kill -9 of the process and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self.wait()


class Stage:
    """Settings, ports and processes of one vehicle.

    Args:
        root: folder for conf and data.
        vehicle: which.
        window: samples of a window; short windows make short tests.
        online: changes to the vehicle's ``online`` section.
    """

    def __init__(
        self,
        root: Path,
        *,
        vehicle: str = VEHICLE,
        window: int = 15,
        online: dict[str, Any] | None = None,
    ) -> None:
        self.root = root
        self.vehicle = vehicle
        self.data = root / "data"
        conf = root / "conf"
        shutil.copytree(PROJECT / "conf", conf)
        file = conf / "vehicles" / f"{vehicle}.yaml"
        config = yaml.safe_load(file.read_text())
        if "bus" in config:
            config["bus"]["port"] = free_port()
        if "xcp" in config:
            config["xcp"]["timeout_s"] = 0.5  # a VCU of its own never waits for a processor; the twin's does
        config["sampling"]["window"] = window
        # A busy machine holds a process up for longer than a sample of a real vehicle is fresh, or one of
        # these short windows lasts; a record that is lost by that leaves the others of its episode.
        guard = config.get("guard", {})
        config["guard"] = {**guard, "stale_periods": max(60, guard.get("stale_periods", 0))}
        config["episodes"] = {"minimum_records": 1}
        config["online"] = {
            "late_flash_s": 30.0,
            **config.get("online", {}),
            "countdown_s": 1.5,
            **(online or {}),
        }
        file.write_text(yaml.safe_dump(config, sort_keys=False))
        self.udp_port = free_port()
        self.bridge_port = free_port(socket.SOCK_STREAM)
        self.env = {
            **os.environ,
            "TSPACE_CONF_DIR": str(conf),
            "TSPACE_DATA_DIR": str(self.data),
            "TSPACE_OUT_DIR": str(root / "out"),
            "TSPACE_INBOX_DIR": str(root / "inbox"),
            "TSPACE_HMI__SOURCE": "udp",
            "TSPACE_HMI__UDP_PORT": str(self.udp_port),
            "TSPACE_BRIDGE__PORT": str(self.bridge_port),
            "DAGSTER_HOME": str(PROJECT),
            "DAGSTER_DISABLE_TELEMETRY": "yes",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        }
        self.processes: list[Process] = []

    def start(self, name: str, *arguments: str) -> Process:
        """Start a tspace command for the vehicle."""
        command = [sys.executable, "-m", "tspace_core.cli", *arguments, "--vehicle", self.vehicle]
        return self.run(name, command)

    def run(self, name: str, command: list[str]) -> Process:
        """Start a command in this stage's environment."""
        process = Process(name, command, self.env)
        self.processes.append(process)
        return process

    def hmi(self, status: str) -> None:
        """The training HMI says something."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(json.dumps({"status": status}).encode(), ("127.0.0.1", self.udp_port))

    def close(self) -> None:
        """End what is left; what it said last is shown where the test failed."""
        for process in reversed(self.processes):
            process.kill()
            print(f"--- {process.name} said last:", *(line[:300] for line in process.lines[-25:]), sep="\n")


@contextmanager
def stage(root: Path, **options: Any) -> Iterator[Stage]:
    """A stage whose processes are gone at the end."""
    found = Stage(root, **options)
    try:
        yield found
    finally:
        found.close()


def events(process: Process, kind: str, since: int = 0) -> list[Line]:
    """JSON lines of a twin that tell of one kind of event."""
    found = []
    for line in process.lines[since:]:
        if line.startswith("{"):
            event = json.loads(line)
            if event.get("event") == kind:
                found.append(event)
    return found


def wait_event(process: Process, kind: str, since: int = 0, **fields: Any) -> Line:
    """The first event of that kind with these fields."""

    def wanted(line: str) -> bool:
        if not line.startswith("{"):
            return False
        event = json.loads(line)
        return event.get("event") == kind and all(event.get(key) == value for key, value in fields.items())

    return dict(json.loads(process.wait_for(wanted, since=since)))


def wait_until(done: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Wait for something that only polling can see, such as a row in a database."""
    pause = threading.Event()
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for {what}"
        pause.wait(0.1)
