"""A bridge process and a twin process on a real bus: what the VCU really uses, whoever dies."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import can
import numpy as np
import pytest
import yaml

from tests.bridge.world import FIRST_ROW, AgentTwin, await_message, until
from tests.online.stage import VEHICLE, Process, Stage, events, stage, wait_event
from tspace_core.config import load_vehicle
from tspace_core.guard.audit import verify
from tspace_core.link.channel import ChannelClient
from tspace_core.link.messages import Answer, Hello, Report, Status, rows_from_hex

LIMIT_S = 60.0
AGENT = """
import sys, threading
from tests.bridge.world import AgentTwin
from tspace_core.link.channel import ChannelClient
from tspace_core.link.messages import Hello, rows_from_hex
import numpy as np
hello = Hello(role="agent", vehicle_id="twin_truck", run_id="victim", version="0")
agent = AgentTwin(ChannelClient.connect("127.0.0.1", int(sys.argv[1]), bytes.fromhex(sys.argv[2]), hello))
armed = agent.arm()
while "sample" in armed.reason or "alive" in armed.reason:
    threading.Event().wait(0.1)
    armed = agent.arm()
rows = rows_from_hex(armed.live, 17)[8:12]
rows = np.where(rows > 0, rows * np.float32(0.99), rows)
print(agent.flash(rows).result, flush=True)
threading.Event().wait(60)
"""


class Drive:
    """A bridge beside a twin, and the channel's key."""

    def __init__(self, found: Stage, twin: Process) -> None:
        self.stage = found
        self.twin = twin
        self.bridge = self.start_bridge()
        self.key = (found.data / "online" / "bridge.key").read_bytes().strip()
        self.reference = load_vehicle(VEHICLE).default_map().table

    def start_bridge(self) -> Process:
        bridge = self.stage.start("bridge", "bridge", "--no-keys")
        bridge.wait_for(lambda line: line.startswith("DISARMED"))
        return bridge

    def connect(self, role: str = "agent") -> ChannelClient:
        hello = Hello.model_validate({"role": role, "vehicle_id": VEHICLE, "run_id": "test", "version": "0"})
        return ChannelClient.connect("127.0.0.1", self.stage.bridge_port, self.key, hello, timeout_s=LIMIT_S)

    def armed(self) -> AgentTwin:
        agent = AgentTwin(self.connect())
        deadline = time.monotonic() + LIMIT_S
        while not (answer := agent.arm()).ok:
            assert time.monotonic() < deadline, answer.reason
            threading.Event().wait(0.1)
        return agent

    def rows(self, factor: float = 0.99) -> np.ndarray:
        rows = np.array(self.reference[FIRST_ROW : FIRST_ROW + 4])
        return np.where(rows > 0, rows * np.float32(factor), rows)

    def flashed(self) -> tuple[AgentTwin, Answer]:
        agent = self.armed()
        answer = agent.flash(self.rows())
        assert answer.result == "APPLIED", answer.reason
        return agent, answer

    def report(self) -> Report:
        with self.connect("operator") as client:
            client.send(Status())
            return await_message(client, Report)

    def page_after(self, since: int) -> dict[str, object]:
        """The first event from line ``since`` on by which the twin uses its reference page."""
        return wait_event(self.twin, "page", since, page=0)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, Process]]:
    """One twin for all: it is left on its reference map by every test, which is what they prove."""
    with stage(tmp_path_factory.mktemp("scene")) as found:
        twin = found.start("twin", "twin")
        wait_event(twin, "ready")
        yield found, twin


@pytest.fixture
def drive(scene: tuple[Stage, Process]) -> Iterator[Drive]:
    drive = Drive(*scene)
    yield drive
    for process in scene[0].processes[1:]:
        process.kill()


def test_a_flash_is_what_the_twin_really_uses_until_sigterm(drive: Drive) -> None:
    since = len(drive.twin.lines)
    agent, answer = drive.flashed()

    def flashed_pages() -> list[dict[str, object]]:
        return [event for event in events(drive.twin, "page", since) if event["page"] != 0]

    until(lambda: bool(flashed_pages()), "the twin to tell of its page")
    change = flashed_pages()[0]
    applied = wait_event(drive.twin, "map", since, page=change["page"])
    in_effect = rows_from_hex("".join(applied["rows"]), 17)
    np.testing.assert_array_equal(in_effect[FIRST_ROW : FIRST_ROW + 4], rows_from_hex(answer.rows, 17))
    assert not np.array_equal(in_effect, drive.reference)
    since = len(drive.twin.lines)
    assert drive.bridge.stop() == 0
    assert drive.page_after(since)["page"] == 0
    assert any("flash APPLIED, rows 8 to 11" in line for line in drive.bridge.lines)
    assert drive.bridge.lines[-1] == "ended: signal SIGTERM"
    assert verify(drive.stage.data / "online" / VEHICLE / "audit.jsonl").ok
    agent.close()


def agent_process(drive: Drive) -> Process:
    victim = drive.stage.run(
        "agent", [sys.executable, "-c", AGENT, str(drive.stage.bridge_port), drive.key.hex()]
    )
    victim.wait_for(lambda line: line == "APPLIED")
    return victim


def test_a_killed_agent_leaves_the_reference_map_within_3_s(drive: Drive) -> None:
    victim = agent_process(drive)
    since, killed = len(drive.twin.lines), time.monotonic_ns()
    os.kill(victim.pid, signal.SIGKILL)
    event = drive.page_after(since)
    assert (int(str(event["monotonic_ns"])) - killed) / 1e9 < 3.0
    drive.bridge.wait_for(lambda line: line.startswith("DISARMED: agent victim is gone"))


def test_a_stopped_agent_leaves_the_reference_map_within_3_s(drive: Drive) -> None:
    victim = agent_process(drive)
    since, stopped = len(drive.twin.lines), time.monotonic_ns()
    os.kill(victim.pid, signal.SIGSTOP)  # hangs with its sockets open
    event = drive.page_after(since)
    assert (int(str(event["monotonic_ns"])) - stopped) / 1e9 < 3.0


def test_a_killed_bridge_leaves_the_reference_map_within_3_s(drive: Drive) -> None:
    agent, _ = drive.flashed()
    since, killed = len(drive.twin.lines), time.monotonic_ns()
    drive.bridge.kill()
    event = drive.page_after(since)
    assert (int(str(event["monotonic_ns"])) - killed) / 1e9 < 3.0
    agent.close()
    drive.start_bridge()
    assert drive.report().state == "DISARMED"


def test_the_commands_of_an_operator(drive: Drive) -> None:
    agent, _ = drive.flashed()  # says nothing but heartbeats from here on
    shown = drive.stage.start("status", "status", "--json")
    assert shown.wait() == 0
    assert json.loads("\n".join(shown.lines))["state"] == "ARMED"
    since = len(drive.twin.lines)
    reverted = drive.stage.start("revert", "revert")
    assert reverted.wait() == 0
    assert "DISARMED: revert by" in reverted.lines[-1]
    assert drive.page_after(since)["page"] == 0
    armed = drive.stage.start("arm", "arm")
    assert armed.wait() == 0
    assert "DISARMED" in armed.lines[-1]
    asked = drive.stage.start("request", "request", "--infer", "--episodes", "2")
    assert asked.wait() == 0
    pending = drive.stage.data / "online" / VEHICLE / "requests" / "pending"
    (request,) = [json.loads(path.read_text()) for path in pending.glob("*.json")]
    assert request["options"] == {"infer": True, "observe": False, "episodes": 2}
    agent.close()


def test_the_keys_r_and_q(scene: tuple[Stage, Process]) -> None:
    command = [sys.executable, "-m", "tspace_core.cli", "bridge", "--vehicle", VEHICLE]
    with subprocess.Popen(
        command, env=scene[0].env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as bridge:
        watchdog = threading.Timer(LIMIT_S, bridge.kill)
        watchdog.start()
        assert bridge.stdin is not None
        assert bridge.stdout is not None
        lines = iter(bridge.stdout)
        assert next(lines).startswith("DISARMED")
        for key, answer in (
            ("x", "r + Enter"),
            ("r", "revert by the r key: DISARMED"),
            ("q", "ended: the q key"),
        ):
            bridge.stdin.write(f"{key}\n")
            bridge.stdin.flush()
            assert any(line.startswith(answer) for line in lines), answer  # the watchdog ends the lines
        assert bridge.wait(LIMIT_S) == 0
        watchdog.cancel()


def test_a_full_bus_costs_no_signal_and_no_flash(drive: Drive) -> None:
    """Foreign frames as many as 500 kbit/s carry, some 4000 a second."""
    agent = drive.armed()
    config = load_vehicle(VEHICLE).bus
    assert config is not None
    file = drive.stage.root / "conf" / "vehicles" / f"{VEHICLE}.yaml"
    port = yaml.safe_load(file.read_text())["bus"]["port"]
    stop = threading.Event()
    sent = 0

    def flood() -> None:
        nonlocal sent
        pause = threading.Event()
        with can.Bus(interface="udp_multicast", channel=config.channel, port=port) as bus:
            while not stop.is_set():
                for number in range(40):
                    bus.send(can.Message(arbitration_id=0x400 + number, data=bytes(8), is_extended_id=False))
                sent += 40
                pause.wait(0.01)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        before = drive.report()
        answer = agent.propose(1, drive.rows())
        until(
            lambda: drive.report().counters["datagrams_sent"] > before.counters["datagrams_sent"] + 40, "2 s"
        )
    finally:
        stop.set()
        thread.join(LIMIT_S)
    after = drive.report()
    assert sent > 1000
    assert answer.result == "APPLIED", answer.reason
    assert after.state == "ARMED"
    assert all(value is not None for value in after.signals.values())
    agent.close()
