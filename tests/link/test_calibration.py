"""Flashing a simulated VCU over real buses: content, pages, identity, and what is refused."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import can
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.link.test_xcp_transports import udp_slave
from tests.link.xcp_doubles import IntoVcu, config_of, flashing, simulated_vcu, truck, virtual_bus
from tests.ports import free_port
from tspace_core.config.link import BusConfig
from tspace_core.config.settings import settings
from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import (
    BusError,
    ConfigError,
    LinkError,
    XcpCommandError,
    XcpError,
    XcpProtocolError,
    XcpTimeoutError,
)
from tspace_core.guard.target import FlashTarget, Identity
from tspace_core.link.bus import SharedBus
from tspace_core.link.calibration import Calibration, failure_code
from tspace_core.link.float_buffer import to_bytes
from tspace_core.link.xcp import XcpMaster
from tspace_core.link.xcp_udp import XcpUdp
from tspace_core.twin.vcu import Vcu
from tspace_core.twin.xcp_codes import Checksum

MAP = "TQD_trqTrqSetNormal_MAP_v"
Table = NDArray[np.float32]


def table_of(vehicle: Vehicle, change: float = 0.0) -> Table:
    table = vehicle.default_map().table.copy()
    table[2:6] -= np.float32(change)
    return table


def direct(vehicle: Vehicle, **options: object) -> tuple[Vcu, Calibration, IntoVcu]:
    vcu, slave = simulated_vcu(vehicle, **options)
    link = IntoVcu(slave)
    return vcu, Calibration(XcpMaster(link, config_of(vehicle)), vehicle), link


@pytest.mark.parametrize("vehicle_id", ["twin_truck", "twin_mule"])
@pytest.mark.parametrize("transport", ["virtual", "virtual_fd", "udp_multicast"])
def test_a_flash_over_a_bus(transport: str, vehicle_id: str) -> None:
    vehicle = truck(vehicle_id, timeout_s=2.0)
    bus = {
        "virtual": virtual_bus(),
        "virtual_fd": virtual_bus(fd=True),
        "udp_multicast": BusConfig(interface="udp_multicast", channel="239.74.163.79", port=free_port()),
    }[transport]
    max_cto = 64 if bus.fd else 8
    with flashing(bus, vehicle, max_cto=max_cto) as (vcu, calibration):
        assert calibration.identify() == Identity(vehicle.vin, "TSPACE-TWIN-1", 0x80010000)
        assert calibration.send_float_array(MAP, table_of(vehicle), sw_diff=False) == table_of(vehicle).size
        # Only what changed goes out: on the page used before, or on the second one, which was never written.
        counts = [
            calibration.send_float_array(MAP, table_of(vehicle, step), sw_diff=True) for step in (1, 2, 3)
        ]
        assert counts[1:] == [4 * 17, 4 * 17]
        assert to_bytes(vcu.active.table) == to_bytes(table_of(vehicle, 3))


def test_a_flash_over_udp() -> None:
    vehicle = truck(timeout_s=2.0)
    vcu, slave = simulated_vcu(vehicle, max_cto=255)
    with udp_slave(slave.handle) as port:
        link = XcpUdp("127.0.0.1", port)
        with Calibration(XcpMaster(link, config_of(vehicle)), vehicle) as calibration:
            calibration.send_float_array(MAP, table_of(vehicle, 1), sw_diff=True)
            assert to_bytes(vcu.active.table) == to_bytes(table_of(vehicle, 1))
        link.close()


@pytest.mark.parametrize("kind", list(Checksum))
def test_every_sum_that_a_vcu_may_build(kind: Checksum) -> None:
    vehicle = truck()
    vcu, calibration, _ = direct(vehicle, checksum_kind=kind)
    calibration.send_float_array(MAP, table_of(vehicle, 1), sw_diff=True)
    page = vcu.page
    assert calibration.checksum_ok(page, table_of(vehicle, 1))
    assert not calibration.checksum_ok(page, table_of(vehicle, 2))


def test_it_is_what_the_guard_flashes_through() -> None:
    vehicle = truck()
    vcu, calibration, link = direct(vehicle)
    target: FlashTarget = calibration
    target.identify()
    target.unlock()
    assert target.active_page() == target.reference_page == 0
    page = target.idle_page()
    assert target.write(page, table_of(vehicle, 1)) == table_of(vehicle).size
    assert vcu.page == 0  # nothing is in effect yet
    assert to_bytes(target.read(page, 2, 4)) == to_bytes(table_of(vehicle, 1)[2:6])
    assert target.checksum_ok(page, table_of(vehicle, 1))
    target.activate(page)
    assert target.active_page() == page
    other = target.idle_page()
    assert {page, other} == {1, 2}
    before = link.frames
    target.keep_alive()
    assert link.frames - before == 2


def test_what_is_known_to_be_there_is_not_sent() -> None:
    vehicle = truck()
    _, calibration, link = direct(vehicle)
    calibration.identify()
    calibration.unlock()
    page = calibration.idle_page()
    calibration.read(page, 0, 14)
    before = link.frames
    assert calibration.write(page, table_of(vehicle)) == 0
    assert link.frames - before == 2  # which page is in effect
    changed = table_of(vehicle)
    changed[0, 0] += 1
    changed[13, 16] += 1
    before = link.frames
    assert calibration.write(page, changed) == 2
    assert link.frames - before == 2 + 2 + 2 * (2 + 2)


def test_another_session_knows_nothing_of_the_pages() -> None:
    vehicle = truck()
    vcu, calibration, _ = direct(vehicle)
    calibration.send_float_array(MAP, table_of(vehicle), sw_diff=True)
    calibration.close()
    for page in vcu.working_pages:
        vcu.copy(vcu.reference_page, page)
    assert calibration.send_float_array(MAP, table_of(vehicle, 1), sw_diff=True) == table_of(vehicle).size


def test_one_working_page_is_taken_out_of_effect_before_it_is_written() -> None:
    vehicle = truck("twin_mule")
    vcu, calibration, _ = direct(vehicle)
    calibration.send_float_array(MAP, table_of(vehicle, 1), sw_diff=True)
    assert vcu.page == 1
    assert calibration.idle_page() == 1
    assert vcu.page == vcu.reference_page


def test_the_page_in_effect_and_the_reference_are_never_written() -> None:
    vehicle = truck()
    vcu, calibration, _ = direct(vehicle)
    calibration.send_float_array(MAP, table_of(vehicle, 1), sw_diff=True)
    with pytest.raises(XcpError, match="is in effect"):
        calibration.write(vcu.page, table_of(vehicle, 2))
    for page in (0, 3):
        with pytest.raises(XcpError, match="no working page"):
            calibration.write(page, table_of(vehicle, 2))
    assert to_bytes(vcu.active.table) == to_bytes(table_of(vehicle, 1))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 5000.5, -5001.0])
def test_a_cell_that_the_a2l_does_not_allow_is_refused_before_anything_is_sent(value: float) -> None:
    vehicle = truck()
    _, calibration, link = direct(vehicle)
    calibration.identify()
    table = table_of(vehicle)
    table[3, 5] = value
    before = link.frames
    with pytest.raises(XcpError, match=r"row 3, column 5 is .*nothing was written"):
        calibration.write(1, table)
    assert link.frames == before


def test_a_table_of_another_shape_is_refused() -> None:
    vehicle = truck()
    _, calibration, _ = direct(vehicle)
    calibration.identify()
    with pytest.raises(XcpError, match=r"shape \(14, 17\), got a table of \(4, 17\)"):
        calibration.write(1, table_of(vehicle)[:4])
    with pytest.raises(XcpError, match="rows 12 to 15 are not in a map of 14 rows"):
        calibration.read(1, 12, 4)


def test_another_software_is_not_flashed() -> None:
    vehicle = truck()
    vcu, slave = simulated_vcu(vehicle)
    other = truck(software_id="ANOTHER-1")
    calibration = Calibration(XcpMaster(IntoVcu(slave), config_of(other)), other)
    with pytest.raises(
        XcpProtocolError, match="TSPACE-TWIN-1, the config is for TWNTRUCK000000001 with ANOTHER-1"
    ):
        calibration.send_float_array(MAP, table_of(vehicle, 1), sw_diff=True)
    assert vcu.page == vcu.reference_page


def test_a_locked_vcu_without_a_function_says_what_to_configure() -> None:
    vehicle = truck()
    _, slave = simulated_vcu(vehicle)
    without = truck(unlock=None)
    calibration = Calibration(XcpMaster(IntoVcu(slave), config_of(without)), without)
    with pytest.raises(XcpError, match=r"set xcp\.unlock"):
        calibration.send_float_array(MAP, table_of(vehicle), sw_diff=True)


def wrong_key(seed: bytes, resource: int) -> bytes:
    return bytes(len(seed))


def test_a_wrong_key_is_refused_by_the_vcu() -> None:
    vehicle = truck(unlock=f"{__name__}:wrong_key")
    _, calibration, _ = direct(vehicle)
    with pytest.raises(XcpCommandError, match="ERR_ACCESS_LOCKED"):
        calibration.send_float_array(MAP, table_of(vehicle), sw_diff=True)


def test_the_reference_page_comes_back_though_the_session_was_lost() -> None:
    vehicle = truck()
    vcu, calibration, link = direct(vehicle)
    calibration.send_float_array(MAP, table_of(vehicle, 1), sw_diff=True)
    link.slave._close("power of the XCP slave failed")
    calibration.activate(calibration.reference_page)
    assert vcu.page == vcu.reference_page
    assert calibration.active_page() == vcu.reference_page
    # Whoever answers now must be identified before it is written again.
    with pytest.raises(XcpProtocolError, match="identify"):
        calibration.write(1, table_of(vehicle, 2))
    calibration.send_float_array(MAP, table_of(vehicle, 2), sw_diff=True)
    assert to_bytes(vcu.active.table) == to_bytes(table_of(vehicle, 2))


def test_a_working_page_is_not_activated_beside_a_second_master_but_the_reference_is() -> None:
    vehicle = truck()
    vcu, calibration, link = direct(vehicle)
    calibration.send_float_array(MAP, table_of(vehicle, 1), sw_diff=True)
    link.foreign_requests = 1
    with pytest.raises(XcpProtocolError, match="second master"):
        calibration.activate(1)
    with pytest.raises(XcpProtocolError, match="second master"):
        calibration.keep_alive()
    calibration.activate(calibration.reference_page)
    assert vcu.page == vcu.reference_page


def test_a_second_master_on_the_bus_stops_the_flash() -> None:
    vehicle = truck(timeout_s=1.0)
    bus = virtual_bus()
    with flashing(bus, vehicle) as (vcu, calibration), SharedBus(bus) as other:
        calibration.send_float_array(MAP, table_of(vehicle, 1), sw_diff=True)
        heard = threading.Event()

        def count(frame: can.Message) -> None:
            heard.set()

        with SharedBus(bus) as ear:
            ear.subscribe(count, (config_of(vehicle).request_id,))
            other.send(config_of(vehicle).request_id, bytes.fromhex("fd cc cc cc cc cc cc cc"))
            assert heard.wait(10)
        with pytest.raises(XcpProtocolError, match="second master"):
            for step in range(50):
                calibration.send_float_array(MAP, table_of(vehicle, 2 + step % 2), sw_diff=True)
        calibration.activate(calibration.reference_page)
        assert vcu.page == vcu.reference_page


def test_a_vcu_that_says_nothing_is_a_time_out_in_time() -> None:
    vehicle = truck(timeout_s=0.05)
    with SharedBus(virtual_bus()) as bus:
        from tspace_core.link.xcp_can import XcpCan

        calibration = Calibration(XcpMaster(XcpCan(bus, config_of(vehicle)), config_of(vehicle)), vehicle)
        begun = time.monotonic()
        with pytest.raises(XcpTimeoutError, match="CONNECT: not answered") as silent:
            calibration.send_float_array(MAP, table_of(vehicle), sw_diff=True)
        assert time.monotonic() - begun < 3.0
        assert failure_code(silent.value) == 4


def test_a_flash_that_takes_too_long_is_given_up() -> None:
    """The whole of it is limited, not only each command."""
    vehicle = truck(timeout_s=1.0, attempts=1)
    vcu, slave = simulated_vcu(vehicle)
    answers = threading.Event()

    class Slow(IntoVcu):
        def send(self, packet: bytes) -> None:
            answers.wait(0.2)
            super().send(packet)

    calibration = Calibration(XcpMaster(Slow(slave), config_of(vehicle)), vehicle)
    begun = time.monotonic()
    with pytest.raises(XcpTimeoutError, match=f"flash of {MAP} was not done within 3 s") as late:
        calibration.send_float_array(MAP, table_of(vehicle, 1), sw_diff=True)
    assert time.monotonic() - begun < 6.0
    assert failure_code(late.value) == 4
    assert vcu.page == vcu.reference_page


def test_the_fields_failure_numbers() -> None:
    assert failure_code(XcpCommandError("x", "DOWNLOAD", 0x31)) == 1
    assert failure_code(XcpProtocolError("x")) == 2
    assert failure_code(BusError("x")) == 3
    assert failure_code(LinkError("x")) == 3
    assert failure_code(XcpTimeoutError("x")) == 4


@contextmanager
def a2l_folder(folder: Path, text: str) -> Iterator[None]:
    (folder / "vcu.a2l").write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TSPACE_A2L_PATH", f'["{folder}"]')
        settings.cache_clear()
        yield
    settings.cache_clear()


def truck_a2l() -> str:
    return (settings().a2l_path[0] / "twin_truck.a2l").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("0 7 10 20 30", "0 7 10 25 30", r"line 40: axis .* is \[0\.0, 7\.0, 10\.0, 25\.0"),
        ("0.02 0.04", "0.03 0.04", "axis"),
        ("CM_SPEED 14 0 120", "CM_SPEED 13 0 120", "14 points, 13 are allowed"),
        (
            "ROW_DIR DIRECT\n    /end RECORD_LAYOUT\n    /begin RECORD_LAYOUT RL_TEXT",
            "COLUMN_DIR DIRECT\n    /end RECORD_LAYOUT\n    /begin RECORD_LAYOUT RL_TEXT",
            "pedal by pedal",
        ),
        ("1 FLOAT32_IEEE", "1 FLOAT64_IEEE", "stored as FLOAT64_IEEE"),
        ('IDENTICAL "%8.1" "Nm"', 'LINEAR "%8.1" "Nm" COEFFS_LINEAR 0.1 0', "physical unit"),
        ("TQD_trqTrqSetNormal_MAP_v", "TQD_trqTrqSetNormal_MAP_x", "there is no CHARACTERISTIC"),
    ],
)
def test_an_a2l_that_does_not_fit_the_vehicle_is_refused(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    text = truck_a2l()
    assert old in text
    with a2l_folder(tmp_path, text.replace(old, new)), pytest.raises(ConfigError, match=said):
        direct(truck(a2l="vcu.a2l"))


def test_a_pedal_axis_in_percent_is_the_same_axis(tmp_path: Path) -> None:
    text = (
        truck_a2l()
        .replace('"%5.2" "-"', '"%5.2" "%"')
        .replace(
            "0 0.02 0.04 0.08 0.12 0.16 0.20 0.24 0.28 0.32 0.38 0.44 0.50 0.62 0.74 0.86 1\n",
            "0 2 4 8 12 16 20 24 28 32 38 44 50 62 74 86 100\n",
        )
    )
    with a2l_folder(tmp_path, text):
        direct(truck(a2l="vcu.a2l"))


def test_a_big_endian_map_is_refused(tmp_path: Path) -> None:
    with a2l_folder(tmp_path, truck_a2l().replace("MSB_LAST", "MSB_FIRST")):
        _, calibration, _ = direct(truck(a2l="vcu.a2l"))
        with pytest.raises(XcpProtocolError, match="highest byte first"):
            calibration.open()


def test_a_vehicle_without_xcp_or_addresses_says_what_to_add() -> None:
    vehicle = truck()
    with pytest.raises(ConfigError, match="add it"):
        Calibration(
            XcpMaster(IntoVcu(simulated_vcu(vehicle)[1]), config_of(vehicle)),
            vehicle.model_copy(update={"xcp": None}),
        )
    mule = truck("twin_mule", parameters={})
    with pytest.raises(ConfigError, match=r"xcp\.parameters of twin_mule has no"):
        Calibration(XcpMaster(IntoVcu(simulated_vcu(truck("twin_mule"))[1]), config_of(mule)), mule)
