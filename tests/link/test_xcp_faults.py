"""Each frame of a flash lost, doubled, late or replaced: a defined end, and never a success that is none."""

import random
import threading
import time
from collections.abc import Iterable

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.link.xcp_doubles import (
    Fault,
    Faulty,
    IntoVcu,
    answer,
    before,
    config_of,
    echo_late,
    garbage,
    lose,
    simulated_vcu,
    too_late,
    truck,
    twice,
)
from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import LinkError, XcpProtocolError
from tspace_core.link.calibration import Calibration, failure_code
from tspace_core.link.float_buffer import to_bytes
from tspace_core.link.xcp import XcpMaster
from tspace_core.link.xcp_packets import ErrorCode
from tspace_core.twin.vcu import Vcu

MAP = "TQD_trqTrqSetNormal_MAP_v"
Table = NDArray[np.float32]

ONCE: dict[str, Fault] = {
    "lost": lose,
    "twice": twice,
    "late": too_late,
    "again_late": echo_late,
    "garbage": garbage,
    "busy": answer(0xFE, ErrorCode.ERR_CMD_BUSY),
    "locked": answer(0xFE, ErrorCode.ERR_ACCESS_LOCKED),
    "sequence": answer(0xFE, ErrorCode.ERR_SEQUENCE),
    "unnamed_error": answer(0xFE, 0x99),
    "terminated": answer(0xFD, 0x07),
    "pending": before(0xFD, 0x05),
    "event": before(0xFD, 0x0C),
    "measured": before(0x00, 1, 2, 3),
}


def bench(
    vehicle: Vehicle, fault: Fault, at: int, *, for_ever: bool = False
) -> tuple[Vcu, Faulty, Calibration]:
    vcu, slave = simulated_vcu(vehicle)
    link = Faulty(slave, fault, at, for_ever=for_ever)
    return vcu, link, Calibration(XcpMaster(link, config_of(vehicle)), vehicle)


def tables(vehicle: Vehicle) -> tuple[Table, Table]:
    """A first map, and a second with scattered changes."""
    random_cells = np.random.default_rng(7)
    first = vehicle.default_map().table.copy()
    second = first.copy()
    second[4:8] += random_cells.choice([0.0, 2.5], size=second[4:8].shape).astype(np.float32)
    return first, second


def frames_of_a_flash(vehicle: Vehicle) -> int:
    first, second = tables(vehicle)
    _, slave = simulated_vcu(vehicle)
    link = IntoVcu(slave)
    calibration = Calibration(XcpMaster(link, config_of(vehicle)), vehicle)
    for table in (first, second):
        calibration.send_float_array(MAP, table, sw_diff=True)
    return link.frames


def quick(vehicle_id: str) -> Vehicle:
    return truck(vehicle_id, timeout_s=0.001)  # what busy waits; lost frames cost no time in these doubles


CASES = [
    *(("twin_truck", kind) for kind in ONCE),
    *(("twin_mule", kind) for kind in ("lost", "late", "locked")),
]


@pytest.mark.parametrize(("vehicle_id", "kind"), CASES)
def test_a_fault_at_any_frame_of_a_flash(vehicle_id: str, kind: str) -> None:
    """Each frame of opening, unlocking and switching; of the many alike between them some by chance."""
    frames = frames_of_a_flash(quick(vehicle_id))
    seed = random.randrange(2**32)
    print("seed", seed)
    between = random.Random(seed).sample(range(20, frames - 10), 8)
    hit_every_frame(vehicle_id, kind, [*range(1, 20), *between, *range(frames - 10, frames + 1)])


@pytest.mark.slow
@pytest.mark.parametrize("vehicle_id", ["twin_truck", "twin_mule"])
@pytest.mark.parametrize("kind", ONCE)
def test_a_fault_at_every_frame_of_a_flash(kind: str, vehicle_id: str) -> None:
    hit_every_frame(vehicle_id, kind, range(1, frames_of_a_flash(quick(vehicle_id)) + 1))


def hit_every_frame(vehicle_id: str, kind: str, ats: Iterable[int]) -> None:
    vehicle = quick(vehicle_id)
    first, second = tables(vehicle)
    allowed = {to_bytes(vehicle.default_map().table), to_bytes(first), to_bytes(second)}
    for at in ats:
        vcu, link, calibration = bench(vehicle, ONCE[kind], at)
        for table in (first, second):
            try:
                calibration.send_float_array(MAP, table, sw_diff=True)
            except LinkError as error:
                assert failure_code(error) in (1, 2, 3, 4)
            else:
                assert to_bytes(vcu.active.table) == to_bytes(table), f"wrong success, {kind} at frame {at}"
                assert vcu.page != vcu.reference_page
            assert to_bytes(vcu.active.table) in allowed, f"{kind} at frame {at}"
        assert link.happened == 1 or link.frames < at, f"{kind} at frame {at}"
        # Whatever it was, it was once: the next flash works and ends in the right map.
        link.waiting, link.late = link.waiting + link.late, []
        calibration.send_float_array(MAP, first, sw_diff=True)
        assert to_bytes(vcu.active.table) == to_bytes(first), f"{kind} at frame {at}"
        calibration.activate(calibration.reference_page)
        assert vcu.page == vcu.reference_page


@pytest.mark.parametrize("kind", ["lost", "garbage", "busy", "terminated"])
def test_a_fault_from_any_frame_on_ends_in_an_error_within_bounded_frames(kind: str) -> None:
    vehicle = quick("twin_truck")
    first, second = tables(vehicle)
    for at in range(1, frames_of_a_flash(vehicle), 17):
        vcu, link, calibration = bench(vehicle, ONCE[kind], at, for_ever=True)
        failed = 0
        for table in (first, second):
            try:
                calibration.send_float_array(MAP, table, sw_diff=True)
            except LinkError:
                failed += 1
            else:
                assert to_bytes(vcu.active.table) == to_bytes(table)
        with pytest.raises(LinkError):
            calibration.send_float_array(MAP, first, sw_diff=False)
        assert link.happened < 80, f"{kind} from frame {at}: {link.happened} frames into nothing"


def test_a_busy_vcu_costs_bounded_time() -> None:
    vehicle = truck(timeout_s=0.01)
    _, _, calibration = bench(vehicle, ONCE["busy"], 3, for_ever=True)
    begun = time.monotonic()
    with pytest.raises(LinkError):
        calibration.identify()
    assert time.monotonic() - begun < 5.0


@pytest.mark.parametrize("kind", ["lost", "late", "pending", "event", "measured", "sequence"])
def test_writes_survive_what_happens_once(kind: str) -> None:
    """Without read-back: what ``write`` calls written is there, in every cell."""
    vehicle = quick("twin_truck")
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = np.random.default_rng(seed)
    succeeded = 0
    for _ in range(60):
        at = int(chance.integers(1, 120))
        vcu, slave = simulated_vcu(vehicle)
        link = Faulty(slave, ONCE[kind], 10**9)
        calibration = Calibration(XcpMaster(link, config_of(vehicle)), vehicle)
        calibration.identify()
        calibration.unlock()
        table = vehicle.default_map().table.copy()
        page = calibration.idle_page()
        calibration.write(page, table)
        table[chance.random(table.shape) < chance.choice([0.02, 0.1, 0.5])] += np.float32(1.25)
        link.at = link.frames + at
        try:
            calibration.write(page, table)
        except LinkError:
            continue
        succeeded += 1
        assert bytes(vcu.read(page, 0, vcu.size)) == to_bytes(table), f"{kind} at {at}, seed {seed}"
    assert succeeded > 30


def test_random_maps_and_diffs_arrive_bit_for_bit() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = np.random.default_rng(seed)
    for vehicle_id in ("twin_truck", "twin_mule"):
        for block_mode in (True, False):
            vehicle = truck(vehicle_id, block_mode=block_mode)
            vcu, slave = simulated_vcu(vehicle)
            calibration = Calibration(XcpMaster(IntoVcu(slave), config_of(vehicle)), vehicle)
            table = vehicle.default_map().table.copy()
            for _ in range(40):
                share = chance.choice([0.0, 0.01, 0.1, 0.6, 1.0])
                cells = chance.random(table.shape) < share
                table[cells] = chance.uniform(-900, 3000, size=int(cells.sum())).astype(np.float32)
                calibration.send_float_array(MAP, table, sw_diff=bool(chance.random() < 0.8))
                assert to_bytes(vcu.active.table) == to_bytes(table)


def test_an_abort_from_another_thread_ends_a_flash() -> None:
    vehicle = truck(timeout_s=0.05)
    first, _ = tables(vehicle)
    vcu, slave = simulated_vcu(vehicle)
    reached, go_on = threading.Event(), threading.Event()

    class Pausing(IntoVcu):
        def send(self, packet: bytes) -> None:
            if self.frames > 40:
                reached.set()
                go_on.wait(10)
            super().send(packet)

    calibration = Calibration(XcpMaster(Pausing(slave), config_of(vehicle)), vehicle)
    caught: list[LinkError] = []

    def flash() -> None:
        try:
            calibration.send_float_array(MAP, first, sw_diff=True)
        except LinkError as error:
            caught.append(error)

    thread = threading.Thread(target=flash)
    thread.start()
    assert reached.wait(10)
    calibration.abort("revert")
    go_on.set()
    thread.join(10)
    assert not thread.is_alive()
    assert "given up: revert" in str(caught[0])
    assert vcu.page == vcu.reference_page
    calibration.resume()
    calibration.activate(calibration.reference_page)
    calibration.send_float_array(MAP, first, sw_diff=True)
    assert to_bytes(vcu.active.table) == to_bytes(first)


def test_a_cell_that_the_vcu_stored_wrong_is_not_put_into_effect() -> None:
    """Regression: no read-back."""
    vehicle = quick("twin_truck")
    first, second = tables(vehicle)
    vcu, slave = simulated_vcu(vehicle)
    calibration = Calibration(XcpMaster(IntoVcu(slave), config_of(vehicle)), vehicle)
    calibration.send_float_array(MAP, first, sw_diff=True)
    write = vcu.write

    def wrong(page: int, offset: int, data: bytes) -> None:
        write(page, offset, bytes((data[0] ^ 1,)) + data[1:])

    vcu.write = wrong  # type: ignore[method-assign]
    with pytest.raises(XcpProtocolError, match="reads back otherwise"):
        calibration.send_float_array(MAP, second, sw_diff=True)
    assert to_bytes(vcu.active.table) == to_bytes(first)
    vcu.write = write  # type: ignore[method-assign]
    calibration.send_float_array(MAP, second, sw_diff=True)
    assert to_bytes(vcu.active.table) == to_bytes(second)
