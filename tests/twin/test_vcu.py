"""The VCU interpolates as the torque map itself does, and keeps its pages apart."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tspace_core.config import Vehicle, formula_map, load_vehicle
from tspace_core.errors import TwinError
from tspace_core.twin.fleet import Fleet
from tspace_core.twin.vcu import Vcu

VCUS = {vehicle_id: Vcu(load_vehicle(vehicle_id)) for vehicle_id in ("twin_truck", "twin_mule")}


@settings(max_examples=300, deadline=None)
@given(
    pedal=st.one_of(st.floats(-0.2, 1.2), st.sampled_from([0.0, 0.02, 0.16, 0.86, 1.0])),
    speed=st.one_of(st.floats(-5.0, 160.0), st.sampled_from([0.0, 7.0, 10.0, 20.0, 100.0, 120.0])),
    vehicle_id=st.sampled_from(["twin_truck", "twin_mule"]),
)
def test_same_torque_as_the_map(pedal: float, speed: float, vehicle_id: str) -> None:
    vcu = VCUS[vehicle_id]
    expected = float(vcu.reference.torque(pedal, speed))
    assert vcu.torque(pedal, speed) == pytest.approx(expected, rel=1e-12, abs=1e-9)


def test_pages(truck: Vehicle) -> None:
    vcu = Vcu(truck)
    assert vcu.page == vcu.reference_page == 0
    first, second = vcu.working_pages
    rows = truck.default_map().table[2:6] - 100.0
    vcu.write_rows(first, 2, rows)
    np.testing.assert_array_equal(vcu.table(first)[2:6], rows)
    np.testing.assert_array_equal(vcu.table(first)[6:], vcu.reference.table[6:])
    np.testing.assert_array_equal(vcu.table(second), vcu.reference.table)
    assert vcu.active.sha256() == truck.default_map().sha256() == vcu.sha256(0)
    vcu.select(first)
    assert vcu.torque(0.5, 20.0) == pytest.approx(float(truck.default_map().torque(0.5, 20.0)) - 100.0)
    assert vcu.active.sha256() == vcu.sha256(first) != vcu.sha256(0)
    vcu.copy(0, first)
    assert vcu.active.sha256() == truck.default_map().sha256()


def test_the_page_in_effect_drives_the_vehicle(truck: Vehicle) -> None:
    fleet = Fleet(truck, "udds", ["tracker", "tracker"], [1, 1])
    vcu = Vcu(truck, fleet, 1)
    vcu.select(1)
    vcu.write_rows(1, 0, np.minimum(truck.default_map().table, 0.0))
    moved = fleet.advance(60.0)
    assert moved.velocity[0].max() > 20.0
    assert moved.velocity[1].max() == 0.0
    vcu.select(0)
    assert fleet.advance(20.0).velocity[1].max() > 5.0


def test_writing_the_page_in_effect_acts_cell_by_cell(truck: Vehicle) -> None:
    vcu = Vcu(truck)
    vcu.select(1)
    cell = 3 * 17 + 8
    vcu.write(1, 4 * cell, np.float32(77.0).tobytes())
    assert vcu.active.table[3, 8] == 77.0
    changed = vcu.active.table != vcu.reference.table
    assert changed.sum() == 1
    vcu.write(1, 4 * cell, np.float32(np.nan).tobytes())
    assert vcu.active == vcu.reference
    assert np.isnan(vcu.table(1)[3, 8])


def test_the_reference_page_is_never_written(truck: Vehicle) -> None:
    vcu = Vcu(truck)
    before = vcu.read(0, 0, vcu.size)
    with pytest.raises(TwinError, match="reference page and cannot be written"):
        vcu.write(0, 0, bytes(4))
    with pytest.raises(TwinError, match="reference page and cannot be written"):
        vcu.copy(1, 0)
    assert vcu.read(0, 0, vcu.size) == before


@pytest.mark.parametrize(("offset", "count"), [(-1, 1), (0, 953), (952, 1), (951, 2), (0, -1)])
def test_bytes_outside_a_page_are_refused(truck: Vehicle, offset: int, count: int) -> None:
    vcu = Vcu(truck)
    assert vcu.size == 952
    with pytest.raises(TwinError, match="not inside a page"):
        vcu.read(1, offset, count)
    if count >= 0:
        with pytest.raises(TwinError, match="not inside a page"):
            vcu.write(1, offset, bytes(count))


def test_unknown_pages_are_refused(truck: Vehicle) -> None:
    vcu = Vcu(truck)
    with pytest.raises(TwinError, match="no page 3"):
        vcu.select(3)
    with pytest.raises(TwinError, match="no page 3"):
        vcu.table(3)


@pytest.mark.parametrize(
    ("first_row", "shape"), [(12, (4, 17)), (-1, (4, 17)), (0, (4, 16)), (0, (17,)), (0, (15, 17))]
)
def test_rows_outside_the_map_are_refused(truck: Vehicle, first_row: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(TwinError, match="do not fit a map"):
        Vcu(truck).write_rows(1, first_row, np.zeros(shape))


def test_values_that_are_not_finite_are_refused(truck: Vehicle) -> None:
    rows = np.zeros((4, 17))
    rows[1, 1] = np.nan
    with pytest.raises(TwinError, match="not finite"):
        Vcu(truck).write_rows(1, 0, rows)


@pytest.mark.parametrize("vehicle_id", ["twin_truck", "twin_mule"])
def test_default_maps_are_those_of_the_formula(vehicle_id: str) -> None:
    vehicle = load_vehicle(vehicle_id)
    config = vehicle.torque_map
    assert config.formula is not None
    made = formula_map(config.formula, config.pedal_axis, config.speed_axis_kmh)
    assert vehicle.default_map().sha256() == made.sha256()
    table = vehicle.default_map().table
    assert np.abs(table).max() <= 4500.0
    assert np.all(np.diff(table, axis=1) > 0)
    assert np.all(table[3:, 0] < 0)
    assert np.all(table[:2, 0] == 0)
