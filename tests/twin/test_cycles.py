"""Cycles hold their published figures; routes can be looked up by place and by time."""

import csv
from pathlib import Path

import numpy as np
import pytest

from tspace_core.errors import TwinError, UnknownNameError
from tspace_core.twin.cycles import PUBLISHED, cycle_names, load_route, read_table
from tspace_core.twin.route import make_route
from tspace_core.twin.truck_route import MAX_SPEED_KMH

# Published totals: EPA "Dynamometer Drive Schedules" (miles, mph, s); UN GTR No. 15, annex 1 (m, km/h, s).
MILE, MPH = 1609.344, 1.609344
TOTALS = {
    "udds": (7.45 * MILE, 56.7 * MPH, 1369),
    "hwfet": (10.26 * MILE, 59.9 * MPH, 765),
    "us06": (8.01 * MILE, 80.3 * MPH, 600),
    "wltc_class3b": (23266.0, 131.3, 1800),
}
FASTSIM_NAMES = {"udds": "udds", "hwfet": "hwfet", "us06": "us06", "wltc_class3b": "wltc_3b"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_totals(name: str) -> None:
    route = load_route(name)
    distance, top, duration = TOTALS[name]
    assert route.length_m == pytest.approx(distance, abs=0.005 * MILE)
    assert 3.6 * route.speed_mps.max() == pytest.approx(top, abs=0.01)
    assert route.duration_s == duration


def test_wltc_check_sum() -> None:
    # GTR 15 gives the sum over all speeds for class 3b.
    assert read_table("wltc_class3b")[1].sum() == pytest.approx(83758.6, abs=0.05)


@pytest.mark.parametrize("name", PUBLISHED)
def test_same_figures_as_fastsim(name: str, shared_data: Path) -> None:
    path = shared_data / "cycles" / f"{FASTSIM_NAMES[name]}.csv"
    with path.open(encoding="utf-8-sig") as file:
        theirs = np.array([float(row["cycMps"]) for row in csv.DictReader(file)])
    ours = load_route(name).speed_mps
    assert ours.shape == theirs.shape
    # Half a published step of 0.1 mph or 0.1 km/h would be 0.022 and 0.014 m/s; they agree far better.
    assert np.abs(ours - theirs).max() < 1e-3


@pytest.mark.parametrize("name", cycle_names())
def test_place_and_time_lookups_agree(name: str) -> None:
    route = load_route(name, 4)
    moving = route.speed_mps > 1.0
    by_place = route.speed_by_place(route.distance_at[moving])
    assert np.abs(by_place - route.speed_mps[moving]).max() < 0.6
    assert np.sqrt(np.mean((by_place - route.speed_mps[moving]) ** 2)) < 0.05
    np.testing.assert_array_equal(route.speed_at(route.time_s), route.speed_mps)


def test_stops_carry_their_dwell_times() -> None:
    route = make_route("own", np.arange(13.0), [0, 0, 0, 2, 4, 2, 0, 0, 0, 0, 3, 1, 0])
    place, dwell = route.stops()
    np.testing.assert_allclose(place, [0.0, 8.0, 12.0])
    np.testing.assert_allclose(dwell, [2.0, 3.0, 0.0])


def test_truck_route_is_seeded_and_within_limits() -> None:
    one, same, other = (
        load_route("truck_route", 7),
        load_route("truck_route", 7),
        load_route("truck_route", 8),
    )
    np.testing.assert_array_equal(one.speed_mps, same.speed_mps)
    np.testing.assert_array_equal(one.grade, same.grade)
    assert one.length_m != other.length_m
    assert 3.6 * one.speed_mps.max() <= MAX_SPEED_KMH + 1e-9
    assert 3.6 * one.speed_mps.max() > 75.0
    assert len(one.stops()[0]) >= 5
    assert np.abs(one.grade).max() <= 0.04
    assert np.abs(one.grade).max() > 0.005
    assert np.abs(np.diff(one.speed_mps)).max() / 0.5 < 1.0


def test_unknown_cycle_is_named() -> None:
    with pytest.raises(UnknownNameError, match=r"'nedc'; known: udds, hwfet"):
        load_route("nedc")


@pytest.mark.parametrize(
    ("time", "speed"),
    [([0, 1, 3], [0, 2, 0]), ([1, 2, 3], [0, 2, 0]), ([0, 1, 2], [0, -2, 0]), ([0, 1, 2], [0, 0.1, 0])],
)
def test_broken_traces_are_refused(time: list[float], speed: list[float]) -> None:
    with pytest.raises(TwinError, match="cycle own"):
        make_route("own", time, speed)
