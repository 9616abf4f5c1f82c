"""``tspace bus`` as a user in the cab calls it, on a bus of its own."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.ports import free_port
from tspace_core.cli import app, main
from tspace_core.config.link import BusConfig
from tspace_core.config.settings import settings
from tspace_core.link.bus import SharedBus

CONF = Path(__file__).resolve().parents[2] / "conf"
IDS = {"VCU_Speed": 272, "VCU_Pedals": 288, "VCU_Gear": 304, "BMS_HighVoltage": 528, "BMS_Status": 544}
MOTOR = 784
HEARD_S = "2"
"""So long a busy machine does not hold everybody up who sends."""


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of conf/ whose vehicle twin_truck is on the bus that a test writes."""
    folder = tmp_path / "conf"
    shutil.copytree(CONF, folder)
    monkeypatch.setenv("TSPACE_CONF_DIR", str(folder))
    settings.cache_clear()
    yield folder
    monkeypatch.undo()
    settings.cache_clear()


def put_on(conf: Path, bus: str | None) -> None:
    file = conf / "vehicles" / "twin_truck.yaml"
    lines = [line for line in file.read_text().splitlines() if not line.startswith("bus:")]
    file.write_text("\n".join([*lines, *([f"bus: {bus}"] if bus else []), ""]))


def listen(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["bus", "--vehicle", "twin_truck", *arguments])


@pytest.fixture
def traffic(conf: Path) -> Iterator[dict[int, bytes]]:
    """What is sent on the bus, about 100 times a second, while a test runs."""
    port = free_port()
    put_on(conf, f"{{interface: udp_multicast, channel: 239.74.163.79, port: {port}}}")
    frames: dict[int, bytes] = {}
    done = threading.Event()
    config = BusConfig(interface="udp_multicast", channel="239.74.163.79", port=port)
    with SharedBus(config) as bus:

        def send() -> None:
            while not done.wait(0.01):
                for id, data in list(frames.items()):
                    bus.send(id, data)

        thread = threading.Thread(target=send)
        thread.start()
        yield frames
        done.set()
        thread.join()


def test_a_bus_with_everything_on_it_is_said_to_be_complete(traffic: dict[int, bytes]) -> None:
    traffic.update(dict.fromkeys([*IDS.values(), MOTOR], bytes(8)))
    result = listen("--seconds", HEARD_S)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith("twin_truck: CAN bus udp_multicast 239.74.163.79:")
    assert lines[0].endswith(", 500000 bit/s")
    assert "of 6 ids" in lines[1]
    assert any(line.split()[:2] == ["0x110", "VCU_Speed"] and "velocity" in line for line in lines)
    assert lines[-1] == "all signals of the vehicle are there"


def test_missing_short_and_unknown_messages_are_named(traffic: dict[int, bytes]) -> None:
    traffic.update({IDS["VCU_Speed"]: bytes(8), IDS["VCU_Pedals"]: bytes(2), 0x5A5: b"?"})
    result = listen("--seconds", HEARD_S)
    assert result.exit_code == 1
    assert "ids that no DBC of the vehicle has: 0x5a5" in result.output
    assert "messages of the DBC not heard: VCU_Gear, BMS_HighVoltage, BMS_Status, INV_Motor" in result.output
    assert "ONLY 2 of 8 bytes" in result.output
    last = result.output.splitlines()[-1]
    assert last.startswith(
        "missing for the vehicle's signals: VCU_Gear (0x130): gear; BMS_HighVoltage (0x210): "
    )


def test_a_silent_bus_is_told(conf: Path) -> None:
    put_on(conf, f"{{interface: udp_multicast, channel: 239.74.163.79, port: {free_port()}}}")
    result = listen("--seconds", "0.2")
    assert result.exit_code == 1
    assert "heard 0 frames" in result.output
    assert "the bus is silent: start the program that is to be on it" in result.output


@pytest.mark.parametrize(
    ("bus", "words"),
    [
        (None, "vehicle twin_truck has no bus: "),
        ("{interface: socketcan, channel: can99}", "there is no such network device"),
    ],
)
def test_a_bus_that_cannot_be_opened_is_one_line_and_exit_code_2(
    conf: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    bus: str | None,
    words: str,
) -> None:
    put_on(conf, bus)
    monkeypatch.setattr("sys.argv", ["tspace", "bus", "--vehicle", "twin_truck"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ")
    assert words in said
    assert "\n" not in said
