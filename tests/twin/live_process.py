"""The live twin as a process of its own, and its events as another process reads them."""

import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.ports import free_port
from tspace_core.config.link import BusConfig

PROJECT = Path(__file__).resolve().parents[2]
PATIENCE_S = 180.0
"""Longest wait for anything; a busy machine may take its time to compile the twin's core."""
Event = dict[str, Any]


def own_conf(folder: Path, vehicle_id: str) -> tuple[BusConfig, int]:
    """A copy of conf/ in which a vehicle has ports of its own; its bus and its UDP port."""
    shutil.copytree(PROJECT / "conf", folder)
    file = folder / "vehicles" / f"{vehicle_id}.yaml"
    bus_port, udp_port = free_port(), free_port()
    text = re.sub(r"port: \d+", f"port: {bus_port}", file.read_text())
    file.write_text(f"{text}\nports: {{udp: {udp_port}}}\n")
    fd = vehicle_id == "twin_mule"
    group = re.search(r"channel: ([\d.]+)", text)
    assert group is not None
    config = BusConfig(
        interface="udp_multicast",
        channel=group[1],
        port=bus_port,
        fd=fd,
        data_bitrate=2_000_000 if fd else None,
    )
    return config, udp_port


class TwinProcess:
    """A running ``tspace twin``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.events: list[Event] = []
        self._arrived: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._arrived.put(json.loads(line))
        self._arrived.put(None)

    def wait_for(self, name: str, such: Callable[[Event], bool] = lambda event: True) -> Event:
        """The next event of that name; fails after a minute, with what came instead."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            event = self._arrived.get(timeout=max(deadline - time.monotonic(), 0.001))
            assert event is not None, f"the twin ended before {name}: {self.events}"
            self.events.append(event)
            if event["event"] == name and such(event):
                return event

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        while (event := self._arrived.get()) is not None:
            self.events.append(event)
        return code


@contextmanager
def twin_process(conf: Path, *arguments: str) -> Iterator[TwinProcess]:
    """Start ``tspace twin`` with these arguments; killed at the end if it still runs."""
    environment = os.environ | {"TSPACE_CONF_DIR": str(conf), "TSPACE_PROJECT_DIR": str(PROJECT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "tspace_core.cli", "twin", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        yield TwinProcess(process)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE_S)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
