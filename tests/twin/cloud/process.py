"""``tspace twin --remote`` as a process of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from tests.twin.live_process import PATIENCE_S, PROJECT, Event, TwinProcess

VEHICLE = "twin_remote"


class RemoteTwinProcess(TwinProcess):
    """A running ``tspace twin --remote``; ``started`` is the event that says where everything is."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        super().__init__(process)
        self.started: Event = self.wait_for("started")

    @property
    def url(self) -> str:
        """For TSPACE_REMOTE__URL."""
        return str(self.started["url"])

    @property
    def rocketmq(self) -> str:
        """For TSPACE_ROCKETMQ__ENDPOINTS, where it was started with ``--hmi-by rmq``."""
        assert self.started["rocketmq"] is not None, "start it with --hmi-by rmq"
        return str(self.started["rocketmq"])

    def state(self, vin: str | None = None) -> dict[str, Any]:
        """What is really in effect in the vehicle."""
        answer = httpx.get(f"{self.url}/twin/state", timeout=PATIENCE_S, trust_env=False)
        vehicles = answer.raise_for_status().json()["vehicles"]
        return dict(vehicles[vin or self.started["vin"]])

    def fault(self, words: str) -> None:
        """Have one more simulated fault."""
        url = f"{self.url}/twin/faults"
        httpx.post(url, json={"fault": words}, timeout=PATIENCE_S, trust_env=False).raise_for_status()

    def clear_faults(self) -> None:
        """Have none any more."""
        httpx.delete(f"{self.url}/twin/faults", timeout=PATIENCE_S, trust_env=False).raise_for_status()


@contextmanager
def remote_twin_process(
    *arguments: str, vehicle: str = VEHICLE, env: Mapping[str, str] | None = None
) -> Iterator[RemoteTwinProcess]:
    """Start it with these arguments and wait for ``started``; killed at the end if it still runs."""
    command = [sys.executable, "-m", "tspace_core.cli", "twin", "--remote", "--vehicle", vehicle, *arguments]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TSPACE_PROJECT_DIR": str(PROJECT), "PYTHONWARNINGS": "default", **(env or {})},
    )
    try:
        yield RemoteTwinProcess(process)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE_S)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
