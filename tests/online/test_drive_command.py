"""`tspace drive` as a person starts it, and a bridge written by others that only sends datagrams."""

import json
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.online.stage import VEHICLE, Stage, stage
from tspace_core.storage import episodes_table
from tspace_core.storage.lake import Lake, read_json


class ForeignBridge:
    """Speaks section 4 of the wire contract and nothing else: JSON with numbers, some as decimal strings."""

    def __init__(self, port: int) -> None:
        self._address = ("127.0.0.1", port)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="foreign bridge")
        self.sent = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)
        self._socket.close()

    def say(self, content: Any) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self._socket.sendto(data, self._address)

    def _run(self) -> None:
        start = time.monotonic()
        # By the clock, not 50 ms after the one before: on a busy machine that would be too few a second.
        while not self._stop.wait(max(start + 0.05 * self.sent - time.monotonic(), 0.0)):
            k = self.sent
            self.sent += 1
            data = {
                "velocity": 40 + 10 * math.sin(k / 40),
                "pedal": "20.5",
                "brake_pressure": 0,
                "A": 100.0,
                "V": "650.25",
                "gear": 3,
            }
            self.say({"data": data, "sender": "a bridge written by others"})


@contextmanager
def foreign_bridge(port: int) -> Iterator[ForeignBridge]:
    bridge = ForeignBridge(port)
    bridge.start()
    try:
        yield bridge
    finally:
        bridge.stop()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Stage]:
    with stage(tmp_path) as found:
        yield found


def test_a_bridge_written_by_others_is_enough_to_observe(scene: Stage) -> None:
    drive = scene.start("drive", "drive", "--observe", "--no-track")
    drive.wait_for(lambda line: "observe, waiting for begin" in line)
    with foreign_bridge(scene.udp_port) as bridge:
        bridge.say({"status": "begin"})
        drive.wait_for(lambda line: "episode 1 begins" in line)
        bridge.say(b"{")
        bridge.say({"data": {"velocity": "fast"}})
        threading.Event().wait(6.5)
        bridge.say({"status": "end_valid"})
        drive.wait_for(lambda line: line.startswith("episode 1 (end_valid)"))
        bridge.say({"status": "exit"})
        assert drive.wait() == 0, drive.lines
    assert "1 episodes stored, 0 thrown away" in drive.lines[-1]
    lake = Lake(scene.data)
    (manifest,) = lake.episode_manifests(VEHICLE)
    summary = read_json(manifest)["summary"]
    (path,) = lake.episodes()
    episode = episodes_table.read(path)
    assert len(episode) >= 3
    assert not episode.actions.any()
    assert summary["records"] == len(episode)
    # 65 kW for 1.5 s a record
    assert episode.rewards.mean() == pytest.approx(-100 * 650.25 * 1.5 / 3600, rel=0.15)
    assert episode.meta.action_note.startswith("zeros")


def test_without_a_bridge_it_says_so_and_could_not_begin(scene: Stage) -> None:
    drive = scene.start("drive", "drive", "--no-track")
    assert drive.wait() == 2
    assert any(line.startswith("error: ") and str(scene.bridge_port) in line for line in drive.lines)


def test_inference_without_an_agent_says_what_to_do(scene: Stage) -> None:
    drive = scene.start("drive", "drive", "--infer", "--no-track")
    assert drive.wait() == 2
    assert any("no agent to drive twin_truck with" in line for line in drive.lines)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_it_with_state_saved(scene: Stage, name: str) -> None:
    drive = scene.start("drive", "drive", "--observe", "--no-track")
    drive.wait_for(lambda line: "waiting for begin" in line)
    os.kill(drive.pid, getattr(signal, name))
    assert drive.wait() == 0, drive.lines
    assert f"ended: signal {name}" in drive.lines[-1]
    state = json.loads((scene.data / "online" / VEHICLE / "run.json").read_text())
    assert (state["generation"], state["ended"]) == (1, f"signal {name}")
