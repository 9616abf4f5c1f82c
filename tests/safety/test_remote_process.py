"""`tspace bridge` of a vehicle behind a telematics box: whoever dies, the reference map comes."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.bridge.remote_world import Car, RemoteAgent
from tests.bridge.world import FIRST_ROW, LATE
from tests.link.remote_server import LIMIT_S, hang
from tests.online.stage import Process, Stage, stage
from tspace_core.config import load_vehicle
from tspace_core.guard.audit import read, verify
from tspace_core.link.channel import ChannelClient
from tspace_core.link.float_buffer import to_hex
from tspace_core.link.messages import Hello, Propose

VEHICLE = "twin_remote"
AGENT = """
import sys, threading
from tests.bridge.remote_world import RemoteAgent
from tspace_core.link.channel import ChannelClient
from tspace_core.link.messages import Hello, rows_from_hex
import numpy as np
hello = Hello(role="agent", vehicle_id="twin_remote", run_id="victim", version="0")
agent = RemoteAgent(ChannelClient.connect("127.0.0.1", int(sys.argv[1]), bytes.fromhex(sys.argv[2]), hello))
rows = rows_from_hex(agent.armed().live, 17)[8:12]
print(agent.flash(np.where(rows > 0, rows * np.float32(0.99), rows)).result, flush=True)
threading.Event().wait(60)
"""


class Drive:
    """A car behind a service of this process, and the bridge as a process."""

    def __init__(self, found: Stage) -> None:
        self.stage = found
        self.car = Car(load_vehicle(VEHICLE))
        found.env["TSPACE_REMOTE__URL"] = self.car.server.url
        self.bridge = self.start()
        self.key = (found.data / "online" / "bridge.key").read_bytes().strip()

    def start(self) -> Process:
        bridge = self.stage.start("bridge", "bridge", "--no-keys")
        bridge.wait_for(lambda line: line.startswith(("DISARMED", "LOCKED")))
        return bridge

    def agent(self) -> RemoteAgent:
        hello = Hello(role="agent", vehicle_id=VEHICLE, run_id="test", version="0")
        port = self.stage.bridge_port
        return RemoteAgent(ChannelClient.connect("127.0.0.1", port, self.key, hello, timeout_s=LIMIT_S))

    def rows(self) -> np.ndarray:
        rows = np.array(self.car.reference[FIRST_ROW : FIRST_ROW + 4])
        return np.where(rows > 0, rows * np.float32(0.99), rows)

    def flashed(self) -> RemoteAgent:
        agent = self.agent()
        agent.armed()
        answer = agent.flash(self.rows())
        assert answer.result == "APPLIED", answer.reason
        assert not self.car.on_reference
        return agent

    @property
    def audit(self) -> Path:
        return self.stage.data / "online" / VEHICLE / "audit.jsonl"

    def ask(self, command: str, *arguments: str) -> tuple[int, list[str]]:
        process = self.stage.start(command, command, *arguments)
        return process.wait(), process.lines


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Drive]:
    with stage(tmp_path, vehicle=VEHICLE, window=50) as found:
        drive = Drive(found)
        with drive.car.server:
            yield drive


def test_the_commands_of_an_operator_and_an_end_in_order(drive: Drive) -> None:
    agent = drive.flashed()
    status, lines = drive.ask("status", "--json")
    report = json.loads("\n".join(lines))
    assert (status, report["state"]) == (0, "ARMED")
    assert report["flashes"] | LATE == {"APPLIED": 1} | LATE
    assert report["counters"]["set_torque_sent"] == 2
    status, lines = drive.ask("revert")
    assert (status, drive.car.on_reference) == (0, True)
    assert "DISARMED: revert by" in lines[-1]
    agent.close()
    assert drive.bridge.stop() == 0
    assert drive.bridge.lines[-2:] == ["the reference map is in effect", "ended: signal SIGTERM"]
    assert verify(drive.audit).ok


def test_a_killed_agent_loses_the_map_within_2_s_and_a_call(drive: Drive) -> None:
    port = str(drive.stage.bridge_port)
    victim = drive.stage.run("agent", [sys.executable, "-c", AGENT, port, drive.key.hex()])
    victim.wait_for(lambda line: line == "APPLIED")
    assert not drive.car.on_reference
    killed = time.monotonic()
    os.kill(victim.pid, signal.SIGKILL)
    assert drive.car.wait_for(lambda: drive.car.on_reference, 10.0)
    assert time.monotonic() - killed < 5.0
    drive.bridge.wait_for(lambda line: line.startswith("DISARMED: agent victim is gone"))


def test_a_bridge_killed_in_mid_flash_is_put_right_by_the_next_one_without_an_agent(drive: Drive) -> None:
    agent = drive.agent()
    agent.armed()
    drive.car.server.script(drive.car.does(hang))
    agent.client.send(Propose(id=1, first_row=FIRST_ROW, rows=to_hex(drive.rows())))
    assert drive.car.wait_for(lambda: not drive.car.on_reference)
    drive.bridge.kill()
    agent.close()
    assert list(read(drive.audit))[-1]["event"] == "flash"
    calls = len(drive.car.calls)
    bridge = drive.start()
    assert drive.car.wait_for(lambda: drive.car.on_reference)
    assert drive.car.calls[calls] == (0, len(drive.car.reference)), "the whole map, before anything else"
    bridge.wait_for(lambda line: "the reference map is confirmed by now" in line)
    again = drive.agent()
    assert "may still be carried out" in again.arm().reason
    again.close()


def test_a_bridge_that_ends_without_the_service_says_so_and_the_next_one_puts_it_right(drive: Drive) -> None:
    agent = drive.flashed()
    drive.car.server.stop()
    assert drive.bridge.stop() == 1
    assert any(line.startswith("THE REFERENCE MAP IS NOT CONFIRMED") for line in drive.bridge.lines)
    agent.close()
    bridge = drive.start()
    bridge.wait_for(lambda line: line.startswith("LOCKED: the learned map may still be in effect"))
    drive.car.server.start()
    assert drive.car.wait_for(lambda: drive.car.on_reference, 60.0)
    bridge.wait_for(lambda line: "the reference map is confirmed by now" in line)
    status, lines = drive.ask("arm")
    assert (status, "DISARMED: cleared by" in lines[-1]) == (0, True)
    assert verify(drive.audit).ok
