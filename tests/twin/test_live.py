"""The live twin as its users see it: a process on a bus."""

import itertools
import queue
import signal
import socket
import threading
from pathlib import Path

import can
import cantools
import numpy as np
import pytest
from cantools.database.can import Database

from tests.twin.live_process import PATIENCE_S, own_conf, twin_process
from tspace_core.config import Vehicle
from tspace_core.link.bus import SharedBus
from tspace_core.twin.seed_and_key import key_of

MAP = 0x80010000


class SmallMaster:
    """Just enough of an XCP master to flash a cell."""

    def __init__(self, bus: SharedBus, vehicle: Vehicle) -> None:
        assert vehicle.xcp is not None
        self._bus = bus
        self._request = vehicle.xcp.request_id
        self._answers: queue.Queue[bytes] = queue.Queue()
        bus.subscribe(lambda message: self._answers.put(bytes(message.data)), [vehicle.xcp.response_id])

    def ask(self, packet: bytes) -> bytes:
        self._bus.send(self._request, packet)
        answer = self._answers.get(timeout=PATIENCE_S)
        assert answer[0] == 0xFF, answer.hex()
        return answer

    def flash(self, offset: int, value: float) -> None:
        """Write a cell of page 1 and put it into effect."""
        self.ask(bytes([0xFF, 0]))
        seed = b""
        mode = 0
        while len(seed) < 8:
            answer = self.ask(bytes([0xF8, mode, 1]))
            seed += answer[2 : 2 + answer[1]]
            mode = 1
        key = key_of(seed[:8], 1)
        self.ask(bytes([0xF7, 8]) + key[:6])
        self.ask(bytes([0xF7, 2]) + key[6:])
        self.ask(bytes([0xEB, 2, 0, 1]))
        self.ask(bytes([0xF6, 0, 0, 0]) + (MAP + offset).to_bytes(4, "little"))
        self.ask(bytes([0xF0, 4]) + np.float32(value).tobytes())
        self.ask(bytes([0xEB, 1, 0, 1]))


def test_messages_arrive_at_the_rates_of_the_dbc(truck: Vehicle, tmp_path: Path) -> None:
    config, _ = own_conf(tmp_path / "conf", "twin_truck")
    dbc = cantools.database.load_file(truck.dbc_files()[0])
    assert isinstance(dbc, Database)
    heard: dict[int, list[can.Message]] = {message.frame_id: [] for message in dbc.messages}
    enough = threading.Event()

    def hear(message: can.Message) -> None:
        heard[message.arbitration_id].append(message)
        if len(heard[288]) >= 500:
            enough.set()

    with (
        SharedBus(config, ids=list(heard)) as bus,
        twin_process(tmp_path / "conf", "--vehicle", "twin_truck") as twin,
    ):
        twin.wait_for("ready")
        bus.subscribe(hear)
        assert enough.wait(PATIENCE_S)
        assert twin.stop() == 0
        assert bus.counters.refused == 0
    pedals = heard[288]
    elapsed_s = pedals[499].timestamp - pedals[0].timestamp
    # Generous: the machine may be busy; the twin makes up for what it lags behind, or says that it does not.
    late_s = sum(event["seconds"] for event in twin.events if event["event"] == "late")
    assert 0.8 * 499 * 0.01 <= elapsed_s <= 1.2 * 499 * 0.01 + late_s
    for message in dbc.messages:
        frames = heard[message.frame_id]
        assert message.cycle_time is not None
        ratio = len(frames) / len(pedals) * message.cycle_time / 10.0
        assert ratio == pytest.approx(1.0, abs=0.03), message.name
        decoded = [message.decode(bytes(frame.data), decode_choices=False) for frame in frames]
        counters = [int(str(value[f"{message.name}_Counter"])) for value in decoded]
        steps = [(later - one) % 16 for one, later in itertools.pairwise(counters)]
        # Multicast may lose a frame on a machine at its limits, but not many.
        assert steps.count(1) > 0.98 * len(steps)
    assert [event["cause"] for event in twin.events if event["event"] == "stopped"] == ["signal SIGTERM"]


@pytest.mark.parametrize("vehicle_id", ["twin_truck", "twin_mule"])
def test_the_vcu_leaves_a_flashed_page_when_nobody_speaks(
    vehicle_id: str, truck: Vehicle, mule: Vehicle, tmp_path: Path
) -> None:
    vehicle = {"twin_truck": truck, "twin_mule": mule}[vehicle_id]
    config, _ = own_conf(tmp_path / "conf", vehicle_id)
    with SharedBus(config) as bus, twin_process(tmp_path / "conf", "--vehicle", vehicle_id) as twin:
        ready = twin.wait_for("ready")
        assert ready["reference_sha256"] == vehicle.default_map().sha256()
        SmallMaster(bus, vehicle).flash(4 * 5, 3.25)
        flashed = twin.wait_for("map", lambda event: event["page"] == 1)
        first_row = np.frombuffer(bytes.fromhex(flashed["rows"][0]), dtype="<f4")
        assert first_row[5] == 3.25
        assert flashed["sha256"] != ready["reference_sha256"]
        fallen = twin.wait_for("map", lambda event: event["page"] == 0)
        assert fallen["reason"] == "xcp silent for 2 s"
        assert fallen["sha256"] == ready["reference_sha256"]
        silent_s = (fallen["monotonic_ns"] - flashed["monotonic_ns"]) / 1e9
        assert 1.99 <= silent_s < 10.0
        twin.wait_for("xcp_disconnect")
        assert twin.stop(signal.SIGINT) == 0


def test_a_scripted_hmi(mule: Vehicle, tmp_path: Path) -> None:
    del mule
    _, udp_port = own_conf(tmp_path / "conf", "twin_mule")
    events = tmp_path / "events" / "twin.jsonl"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as run:
        run.bind(("127.0.0.1", udp_port))
        run.settimeout(PATIENCE_S)
        arguments = [
            "--hmi",
            "script",
            "--episodes",
            "2",
            "--episode-seconds",
            "0.1",
            "--pause-seconds",
            "0.1",
        ]
        with twin_process(
            tmp_path / "conf", "--vehicle", "twin_mule", *arguments, "--events", str(events)
        ) as twin:
            heard = [run.recv(2048) for _ in range(5)]
            assert twin.stop() == 0
    assert heard == [
        b'{"status": "begin"}',
        b'{"status": "end_valid"}',
        b'{"status": "begin"}',
        b'{"status": "end_valid"}',
        b'{"status": "exit"}',
    ]
    assert '"event": "hmi_done"' in events.read_text()


def test_keys_of_a_person(tmp_path: Path) -> None:
    _, udp_port = own_conf(tmp_path / "conf", "twin_mule")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as run:
        run.bind(("127.0.0.1", udp_port))
        run.settimeout(PATIENCE_S)
        with twin_process(tmp_path / "conf", "--vehicle", "twin_mule", "--hmi", "keys") as twin:
            twin.wait_for("ready")
            assert twin.process.stdin is not None
            twin.process.stdin.write("b\nwhat\n V\ni\nx\n")
            twin.process.stdin.flush()
            heard = [run.recv(2048) for _ in range(4)]
            assert twin.stop() == 0
    assert [text.decode()[12:-2] for text in heard] == ["begin", "end_valid", "end_invalid", "exit"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "say which vehicle with --vehicle"),
        (("--vehicle", "bmw_i3"), "has no bus"),
        (("--vehicle", "twin_mule", "--fault", "explode"), "no kind 'explode'"),
        (("--vehicle", "twin_mule", "--time-factor", "0"), "outside 0..1000"),
        (("--vehicle", "twin_mule", "--cycle", "moon"), "no cycle named 'moon'"),
    ],
)
def test_what_cannot_begin_says_why(arguments: tuple[str, ...], text: str) -> None:
    from typer.testing import CliRunner

    from tspace_core.cli import app

    result = CliRunner().invoke(app, ["twin", *arguments])
    assert result.exception is not None
    assert text in str(result.exception)
