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
    rows = truck.default_map().table[2:6] - 100.0
    vcu.write_rows(2, rows)
    np.testing.assert_array_equal(vcu.working.table[2:6], rows)
    np.testing.assert_array_equal(vcu.working.table[6:], vcu.reference.table[6:])
    assert vcu.torque(0.5, 20.0) == pytest.approx(float(truck.default_map().torque(0.5, 20.0)) - 100.0)
    vcu.select_reference()
    assert vcu.active.sha256() == truck.default_map().sha256()
    vcu.select_working()
    assert vcu.active.sha256() != truck.default_map().sha256()
    vcu.copy_reference()
    assert vcu.active.sha256() == truck.default_map().sha256()


def test_the_active_page_drives_the_vehicle(truck: Vehicle) -> None:
    fleet = Fleet(truck, "udds", ["tracker", "tracker"], [1, 1])
    vcu = Vcu(truck, fleet, 1)
    vcu.write_rows(0, np.minimum(truck.default_map().table, 0.0))
    moved = fleet.advance(60.0)
    assert moved.velocity[0].max() > 20.0
    assert moved.velocity[1].max() == 0.0
    vcu.select_reference()
    assert fleet.advance(20.0).velocity[1].max() > 5.0


@pytest.mark.parametrize(
    ("first_row", "shape"), [(12, (4, 17)), (-1, (4, 17)), (0, (4, 16)), (0, (17,)), (0, (15, 17))]
)
def test_rows_outside_the_map_are_refused(truck: Vehicle, first_row: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(TwinError, match="do not fit a map"):
        Vcu(truck).write_rows(first_row, np.zeros(shape))


def test_values_that_are_not_finite_are_refused(truck: Vehicle) -> None:
    rows = np.zeros((4, 17))
    rows[1, 1] = np.nan
    with pytest.raises(TwinError, match="not finite"):
        Vcu(truck).write_rows(0, rows)


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
