"""Vehicle, cloud and trainer as three hosts; the trainer's cable is pulled for 20 s in mid-episode."""

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.online.stage import Process, Stage, stage, wait_event, wait_until
from tests.safety.namespaces import Network, network, why_not
from tspace_core.config import load_vehicle
from tspace_core.guard.audit import verify

VEHICLE = "twin_remote"
CUT_S = 20.0
PORT = 18080
REFUSED = why_not()

pytestmark = pytest.mark.skipif(REFUSED is not None, reason=f"no network namespaces here: {REFUSED}")


class Hosts:
    """Box on one host, service on the second, bridge and run on the third."""

    def __init__(self, found: Stage, net: Network) -> None:
        self.stage, self.net = found, net
        self.vehicle = load_vehicle(VEHICLE)
        url = f"http://{net.address['cloud']}:{PORT}"
        found.env["TSPACE_REMOTE__URL"] = url
        self.root = url
        self.cloud = self.start("cloud", "cloud", "twin", "--remote", "--part", "cloud", "--host", "0.0.0.0",
                                "--port", str(PORT), "--body")  # fmt: skip
        wait_event(self.cloud, "started")
        self.box = self.start("box", "veh", "twin", "--remote", "--part", "vehicle", "--service", url)
        wait_event(self.box, "started")
        self.bridge = self.start("bridge", "trn", "bridge", "--no-keys")
        self.bridge.wait_for(lambda line: "DISARMED" in line)
        self.run = self.start("run", "trn", "drive", "--hmi", "udp", "--no-track")
        self.run.wait_for(lambda line: "waiting for begin" in line)

    def start(self, name: str, host: str, *arguments: str) -> Process:
        command = [sys.executable, "-m", "tspace_core.cli", *arguments, "--vehicle", VEHICLE]
        return self.stage.run(name, self.net.on(host, *command))

    def ask(self, host: str, *arguments: str) -> str:
        """A tspace command on that host, to its end."""
        asked = self.start(arguments[0], host, *arguments)
        asked.wait()
        return "\n".join(asked.lines)

    def hmi(self, status: str) -> None:
        """The HMI beside the trainer says something."""
        code = (
            "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto("
            f"{json.dumps({'status': status}).encode()!r}, ('127.0.0.1', {self.stage.udp_port}))"
        )
        assert self.stage.run(f"hmi {status}", self.net.on("trn", sys.executable, "-c", code)).wait() == 0

    def state(self) -> dict[str, Any]:
        """What really is in the vehicle, asked on the cloud's own host."""
        code = f"import httpx; print(httpx.get('http://127.0.0.1:{PORT}/twin/state', timeout=10).text)"
        asked = self.stage.run("state", self.net.on("cloud", sys.executable, "-c", code))
        assert asked.wait() == 0, asked.lines
        return dict(json.loads(asked.lines[-1])["vehicles"][self.vehicle.vin])

    def on_reference(self) -> bool:
        return bool(self.state()["map_sha256"] == self.vehicle.default_map().sha256())


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with network("veh", "cloud", "trn") as net, stage(tmp_path, vehicle=VEHICLE, window=50) as found:
        file = tmp_path / "conf" / "vehicles" / f"{VEHICLE}.yaml"
        config = yaml.safe_load(file.read_text())
        # Hosts of a test speak without TLS; a sample is old after 4 s, so that 20 s are too long.
        config["remote"] = {"plain_http": True, "signal_age_s": 4.0}
        config["guard"]["stale_periods"] = 200
        file.write_text(yaml.safe_dump(config, sort_keys=False))
        yield Hosts(found, net)


def test_a_cable_pulled_in_mid_episode(hosts: Hosts) -> None:
    bridge, run = hosts.bridge, hosts.run
    hosts.hmi("begin")
    for _ in range(2):
        said = len(bridge.lines)
        bridge.wait_for(lambda line: "flash APPLIED" in line, since=said)
    assert not hosts.on_reference(), "a learned map is in effect"

    hosts.net.unplug("trn")
    said = len(bridge.lines)
    pulled = threading.Event()
    timer = threading.Timer(CUT_S, pulled.set)
    timer.start()
    # The guard hears nothing of the vehicle any more, wants the reference map back, cannot have it confirmed,
    # says so and locks; the episode is interrupted.
    bridge.wait_for(lambda line: line.startswith("LOCKED") and "may still be in effect" in line, since=said)
    assert not hosts.on_reference(), "nothing can have reached the vehicle"
    assert pulled.wait(2 * CUT_S)
    hosts.net.plug("trn")

    wait_until(hosts.on_reference, "the reference map, once the cable is back")
    bridge.wait_for(lambda line: "confirmed" in line and "LOCKED" in line, since=said)
    # Nobody flashes before a person has looked at it.
    hosts.hmi("end_invalid")
    hosts.hmi("begin")
    wait_until(lambda: "LOCKED" in hosts.ask("trn", "status", "--json"), "the lock to stand")
    assert hosts.on_reference()
    assert "DISARMED" in hosts.ask("trn", "arm")
    said = len(bridge.lines)
    hosts.hmi("begin")
    bridge.wait_for(lambda line: "flash APPLIED" in line, since=said)
    hosts.hmi("exit")
    assert run.wait() == 0, run.lines
    wait_until(hosts.on_reference, "the reference map after exit")
    assert bridge.stop() == 0
    report = verify(hosts.stage.data / "online" / VEHICLE / "audit.jsonl")
    assert report.ok, report
