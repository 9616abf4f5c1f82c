"""``tspace twin --remote`` as a person starts it, in one process and in parts."""

import signal
import time

import pytest

from tests.ports import free_port
from tests.twin.cloud.process import remote_twin_process
from tests.twin.cloud.told import PATIENCE_S, code_of, four_rows, get_signal, set_torque
from tspace_core.config import Vehicle

FAST = ("--time-factor", "20")
PROMPT_S = 15.0
"""A process that ends takes well under a second; a busy machine may take longer, a hanging one for ever."""


def test_all_in_one_process(vehicle: Vehicle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSPACE_HMI__UDP_PORT", str(free_port()))
    with remote_twin_process(*FAST, "--fault", "code:get_signal,value=304", "--hmi", "keys") as twin:
        assert twin.started["vin"] == vehicle.vin
        assert twin.started["reference_sha256"] == vehicle.default_map().sha256()
        assert code_of(get_signal(twin.url, vehicle.vin)) == "304"
        assert get_signal(twin.url, vehicle.vin).json()["success"] is True
        twin.wait_for("window")
        rows = four_rows(vehicle).tolist()
        assert set_torque(twin.url, vehicle.vin, rows, 2).json() == {"success": True}
        flashed = twin.wait_for("map", lambda event: event["page"] == "live")
        assert twin.state()["map_sha256"] == flashed["sha256"]
        twin.fault("status,value=502")
        assert get_signal(twin.url, vehicle.vin).status_code == 502
        assert twin.process.stdin is not None
        twin.process.stdin.write("b\n")
        twin.process.stdin.flush()
        assert twin.wait_for("hmi")["status"] == "begin"
        began = time.monotonic()
        assert twin.stop(signal.SIGTERM) == 0
        assert time.monotonic() - began < PROMPT_S
        assert twin.events[-1]["event"] == "stopped"
        assert twin.events[-1]["cause"] == "signal SIGTERM"


def test_box_and_service_in_two_processes(vehicle: Vehicle) -> None:
    with remote_twin_process("--part", "cloud") as cloud:
        assert code_of(get_signal(cloud.url, vehicle.vin)) == "304"
        with remote_twin_process("--part", "vehicle", "--service", cloud.url, *FAST) as box:
            box.wait_for("box_connected")
            assert get_signal(cloud.url, vehicle.vin, 2).json()["success"] is True
            rows = four_rows(vehicle).tolist()
            assert set_torque(cloud.url, vehicle.vin, rows, 2).json() == {"success": True}
            assert cloud.state()["page"] == "live"
            # kill -9: the connection breaks, and with it the line to the vehicle.
            box.process.kill()
            box.process.wait(PATIENCE_S)
        assert code_of(get_signal(cloud.url, vehicle.vin)) in ("301", "304")
        assert cloud.stop() == 0


def test_a_scripted_hmi_over_the_message_queue(vehicle: Vehicle) -> None:
    script = ("--hmi", "script", "--hmi-by", "rmq", "--episodes", "1", "--episode-seconds", "0.1")
    with remote_twin_process(*FAST, *script, "--pause-seconds", "0.1") as twin:
        assert twin.rocketmq.startswith("127.0.0.1:")
        assert twin.wait_for("hmi")["status"] == "configure"
        # Nobody answers that, and the process ends all the same.
        began = time.monotonic()
        assert twin.stop(signal.SIGINT) == 0
        assert time.monotonic() - began < PROMPT_S
