"""From get_signal to the proposal: a whole run (``Avatar`` with RemoteCAN) beside a service that never waits.

A decision's time is that from just before the call of get_signals to the proposal written to the bridge's
channel, less what the service itself took to make the answer: request, way there and back, JSON, decoding,
judging, the guard's sample, all waking of threads, prediction and proposal remain. The learner learns
beside it as in any run.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from interleaved import Result
from online_bridge import KEY
from remote_service import VEHICLE

from tspace_core.config import Vehicle, load_vehicle, settings
from tspace_core.link.endpoints import Endpoints
from tspace_core.link.messages import Message, Propose
from tspace_core.online.avatar import Avatar
from tspace_core.online.cars import AvatarOptions
from tspace_core.storage.lake import Lake
from tspace_core.supervision import Supervisor
from tspace_core.vehicle.box_windows import Fetched
from tspace_core.vehicle.bridge_link import Client
from tspace_core.vehicle.remote import RemoteCAN, RemoteOptions
from tspace_core.vehicle.states import Event

PATIENCE_S = 120.0
WARM = 10
"""Decisions until everything is warm."""


class TimedClient:
    """Notes when each proposal is out."""

    def __init__(self, client: Client, car: "TimedRemote") -> None:
        self._client, self._car = client, car
        self.welcome = client.welcome

    def send(self, message: Message, timeout_s: float = 1.0) -> None:
        """Send a message."""
        self._client.send(message, timeout_s)
        if isinstance(message, Propose):
            self._car.proposed(time.perf_counter())

    def receive(self, timeout_s: float) -> Message | None:
        """The next message."""
        return self._client.receive(timeout_s)

    def close(self) -> None:
        """Close the channel."""
        self._client.close()


class TimedRemote(RemoteCAN):
    """RemoteCAN that notes when it asked for which window and when a proposal followed it."""

    def __init__(self, vehicle: Vehicle, options: RemoteOptions, decisions: int) -> None:
        super().__init__(vehicle, options)
        self._asked: list[float] = []
        self._wanted = decisions
        self.times: dict[int, float] = {}
        self.enough = threading.Event()

    def connect(self, supervisor: Supervisor) -> None:
        """Connect and listen in on the channel."""
        super().connect(supervisor)
        assert self.bridge is not None
        self.bridge._client = TimedClient(self.bridge._client, self)

    def proposed(self, now: float) -> None:
        """A proposal for the window asked for last was written."""
        self.times[len(self._asked) - 1] = now - self._asked[-1]
        if len(self.times) >= self._wanted:
            self.enough.set()

    def _ask(self, seconds: float, *, units: int) -> Fetched:
        self._asked.append(time.perf_counter())
        return super()._ask(seconds, units=units)


@contextmanager
def _service() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(Path(__file__).with_name("remote_service.py"))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def measure(decisions: int) -> list[float]:
    """Seconds of each decision, the service's own time taken off."""
    vehicle = load_vehicle(VEHICLE)
    assert vehicle.remote is not None
    # The service's windows run ahead of the clock: there is nothing to wait for.
    remote = vehicle.remote.model_copy(update={"future_s": 1e9, "past_s": 1e9})
    vehicle = vehicle.model_copy(update={"remote": remote})
    with tempfile.TemporaryDirectory(prefix="tspace-remote-") as folder, _service() as service:
        assert service.stdout is not None
        told = json.loads(service.stdout.readline())
        os.environ["TSPACE_REMOTE__URL"] = told["url"]
        settings.cache_clear()
        addresses = Endpoints("127.0.0.1", 0, "127.0.0.1", told["bridge"])
        car = TimedRemote(vehicle, RemoteOptions(hmi="dummy", addresses=addresses, key=KEY), decisions + WARM)
        avatar = Avatar(
            vehicle,
            Lake(Path(folder)),
            AvatarOptions(track=False, hmi="dummy"),
            car=lambda vehicle, options, resume: car,
        )
        thread = threading.Thread(target=avatar.run, name="avatar")
        thread.start()
        if not car.enough.wait(PATIENCE_S):
            sys.exit(f"{len(car.times)} decisions within {PATIENCE_S:g} s: {car.watchdog.reasons}")
        car.control.post(Event.EXIT, "enough")
        thread.join(PATIENCE_S)
        own, _ = service.communicate(timeout=PATIENCE_S)
    took = json.loads(own.strip().splitlines()[-1])
    if car.watchdog.reasons:
        print(f"failures: {dict(car.watchdog.reasons)}", file=sys.stderr)
    return [seconds - took[number] for number, seconds in sorted(car.times.items())][WARM:]


def results(seconds: list[float]) -> list[Result]:
    """p50 and p99."""
    ms = 1e3 * np.array(seconds)
    name = "get_signals -> window -> proposal, without the service's own time"
    return [
        Result(f"{name}: p50", "tspace", float(np.quantile(ms, 0.5)), "ms", "lower"),
        Result(f"{name}: p99", "tspace", float(np.quantile(ms, 0.99)), "ms", "lower"),
        Result(f"{name}: decisions", "tspace", float(len(ms)), "decisions", "higher"),
    ]
