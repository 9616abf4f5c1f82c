"""Fleets: determinism, independence, equal distance, drivers that differ, speed."""

import numpy as np
import pytest

from tspace_core.config import TorqueMap, Vehicle
from tspace_core.errors import TwinError, UnknownNameError
from tspace_core.twin.cycles import cycle_names
from tspace_core.twin.fleet import Fleet
from tspace_core.twin.trace import SIGNALS, Trace

DRIVERS = ["tracker", "habitual", "aggressive"]


def same(one: Trace, other: Trace) -> None:
    for name in Trace.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_a_seed_gives_one_drive(truck: Vehicle) -> None:
    one, other = (Fleet(truck, "udds", ["habitual"], [seed]).advance(300.0) for seed in (5, 5))
    same(one, other)
    differs = Fleet(truck, "udds", ["habitual"], [6]).advance(300.0)
    assert np.abs(one.thrust - differs.thrust).max() > 0.5


def test_a_fleet_equals_single_drives(truck: Vehicle) -> None:
    seeds = [3, 4, 5]
    fleet = Fleet(truck, "truck_route", DRIVERS, seeds)
    together = fleet.advance(240.0)
    for i, (driver, seed) in enumerate(zip(DRIVERS, seeds, strict=True)):
        single = Fleet(truck, "truck_route", [driver], [seed])
        alone = single.advance(240.0)
        for name in SIGNALS:
            np.testing.assert_array_equal(together.signal(name)[i], alone.signal(name)[0], err_msg=name)
        assert fleet.energy_wh[i] == single.energy_wh[0]


def test_chunks_do_not_matter(truck: Vehicle) -> None:
    whole = Fleet(truck, "udds", DRIVERS, [1, 2, 3]).advance(90.0)
    fleet = Fleet(truck, "udds", DRIVERS, [1, 2, 3])
    same(whole, Trace.concat([fleet.advance(seconds) for seconds in (0.05, 1.45, 28.5, 60.0)]))


@pytest.mark.parametrize("cycle", cycle_names())
def test_every_drive_by_place_covers_the_route(truck: Vehicle, mule: Vehicle, cycle: str) -> None:
    for vehicle in (truck, mule):
        default = vehicle.default_map()
        weak = TorqueMap(default.pedal_axis, default.speed_axis_kmh, default.table - 250.0)
        fleet = Fleet(vehicle, cycle, DRIVERS * 2, [1, 2, 3] * 2, [default] * 3 + [weak] * 3)
        fleet.run()
        assert np.all(fleet.done)
        assert np.abs(fleet.distance_m / fleet.route.length_m - 1).max() < 1e-3
        assert np.all(fleet.elapsed_s < 1.2 * fleet.route.duration_s)


def test_by_time_the_clock_ends_the_drive(truck: Vehicle) -> None:
    fleet = Fleet(truck, "udds", ["tracker"], [1], mode="time")
    trace = fleet.run()
    assert fleet.elapsed_s[0] == pytest.approx(1369.0)
    assert np.count_nonzero(trace.valid) == pytest.approx(1369 * truck.sampling.rate_hz, abs=1)
    error = (trace.velocity - trace.reference)[trace.valid]
    # EPA's tolerance on the dynamometer is +-2 mph within one second.
    assert np.sqrt(np.mean(error**2)) < 0.5
    assert np.abs(error).max() < 2 * 1.609344


def test_a_vehicle_that_arrived_uses_nothing_more(truck: Vehicle) -> None:
    fleet = Fleet(truck, "udds", ["tracker"], [1])
    fleet.run()
    before = fleet.energy_wh[0], fleet.distance_m[0], fleet.elapsed_s[0]
    trace = fleet.advance(5.0)
    assert not trace.valid.any()
    assert before == (fleet.energy_wh[0], fleet.distance_m[0], fleet.elapsed_s[0])


def test_drivers_differ(truck: Vehicle) -> None:
    fleet = Fleet(truck, "truck_route", DRIVERS, [1, 1, 1])
    trace = fleet.run()
    movement, error, braking = [], [], []
    for i in range(3):
        valid = trace.valid[i]
        movement.append(np.abs(np.diff(trace.thrust[i][valid])).mean())
        error.append(np.sqrt(np.mean((trace.velocity - trace.reference)[i][valid] ** 2)))
        braking.append(-trace.acceleration[i][valid].min())
    tracker, habitual, aggressive = range(3)
    assert movement[aggressive] > 1.5 * movement[habitual]
    assert movement[aggressive] > 2.0 * movement[tracker]
    assert error[habitual] > 1.5 * error[tracker]
    assert braking[aggressive] > braking[habitual]
    assert fleet.energy_wh[aggressive] > fleet.energy_wh[habitual]


def test_habit_feels_a_changed_map_and_the_tracker_makes_up_for_it(truck: Vehicle) -> None:
    default = truck.default_map()
    table = np.where(default.table > 0, 0.8 * default.table, default.table)
    weak = TorqueMap(default.pedal_axis, default.speed_axis_kmh, table)
    fleet = Fleet(truck, "udds", ["tracker", "tracker", "habitual", "habitual"], [1] * 4, [default, weak] * 2)
    trace = fleet.run()
    extra_pedal = [
        trace.thrust[i + 1][trace.valid[i + 1]].mean() - trace.thrust[i][trace.valid[i]].mean()
        for i in (0, 2)
    ]
    extra_time = [fleet.elapsed_s[i + 1] - fleet.elapsed_s[i] for i in (0, 2)]
    assert extra_pedal[0] > 1.0
    assert extra_time[1] > extra_time[0] + 1.0


def test_maps_are_exchanged_between_advances(truck: Vehicle) -> None:
    default = truck.default_map()
    dead = TorqueMap(default.pedal_axis, default.speed_axis_kmh, np.minimum(default.table, 0.0))
    fleet = Fleet(truck, "hwfet", ["tracker", "tracker"], [1, 1])
    fleet.advance(60.0)
    fleet.set_map(1, dead)
    assert fleet.map(1) is dead
    trace = fleet.advance(30.0)
    assert trace.velocity[1, -1] < trace.velocity[0, -1] - 5.0
    assert np.all(trace.motor_torque[1, 20:] <= 0.5)


def test_wrong_set_ups_are_refused(truck: Vehicle, mule: Vehicle) -> None:
    with pytest.raises(TwinError, match="2 drivers, 1 seeds"):
        Fleet(truck, "udds", ["tracker", "habitual"], [1])
    with pytest.raises(TwinError, match="has not the vehicle's axes"):
        Fleet(truck, "udds", ["tracker"], [1], [mule.default_map()])
    with pytest.raises(TwinError, match="do not fit the simulation step"):
        Fleet(truck, "udds", ["tracker"], [1], rate_hz=30.0)
    with pytest.raises(TwinError, match=r"multiple of 0\.05 s"):
        Fleet(truck, "udds", ["tracker"], [1]).advance(0.07)
    with pytest.raises(TwinError, match="is a person"):
        Fleet(truck, "udds", ["unknown"], [1])
    with pytest.raises(UnknownNameError, match="no driver named"):
        Fleet(truck, "udds", ["nobody"], [1])
    with pytest.raises(TwinError, match="has no twin"):
        Fleet(truck.model_copy(update={"twin": None}), "udds", ["tracker"], [1])
    with pytest.raises(TwinError, match="have not reached the end"):
        Fleet(truck, "udds", ["tracker"], [1]).run(limit_s=60.0)
