"""Two processes on one udp_multicast bus, which is how twin and bridge meet where there is no hardware."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.link.bus_contract import PATIENCE_S, Ear
from tests.link.bus_peer import ANSWER, STOP
from tests.ports import free_port
from tspace_core.config.link import BusConfig
from tspace_core.link.bus import SharedBus

PROJECT = Path(__file__).resolve().parents[2]
FRAMES = 16_000
"""4 s of a full classic bus at 500 kbit/s."""
UNANSWERED = 300
"""Frames that may be on their way: fewer than the kernel buffers, so that a busy machine loses none."""


@pytest.mark.parametrize("rates", [{}, {"fd": True, "data_bitrate": 2_000_000}], ids=["classic", "fd"])
def test_two_processes_exchange_a_full_bus_without_loss(rates: dict[str, Any]) -> None:
    config = BusConfig.model_validate(
        {"interface": "udp_multicast", "channel": "239.74.163.78", "port": free_port(), **rates}
    )
    length = 64 if config.fd else 8
    command = [sys.executable, "-m", "tests.link.bus_peer", config.model_dump_json()]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as peer:
        try:
            assert peer.stdout is not None
            assert peer.stdout.readline() == "ready\n"
            with SharedBus(config) as bus:
                ear = Ear()
                bus.subscribe(ear)
                started = time.perf_counter()
                for number in range(FRAMES):
                    bus.send(number % 0x300, number.to_bytes(length, "little"))
                    if number % 100 == 0:
                        ear.wait(number - UNANSWERED)
                answers = ear.wait(FRAMES)
                took = time.perf_counter() - started
                bus.send(STOP, b"")
                report = json.loads(peer.communicate(timeout=PATIENCE_S)[0])
        finally:
            peer.kill()
    print(f"{FRAMES} frames there and back in {took:.2f} s: {FRAMES / took:.0f} frames/s each way")
    assert [int.from_bytes(one.data, "big") for one in answers] == list(range(FRAMES))
    assert [one.arbitration_id - ANSWER for one in answers] == [number % 0x300 for number in range(FRAMES)]
    assert (report["rx"], report["tx"]) == (FRAMES + 1, FRAMES)
    early, late = report["memory"]
    assert late - early < 4_000_000, f"{early} bytes after 4000 frames, {late} after {FRAMES}"
