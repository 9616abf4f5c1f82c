"""The envelope of every vehicle that is flashed, dense around each limit, against an independent checker."""

import random
from dataclasses import replace

import numpy as np
import pytest

from tests.guard.slow_checker import broken_rates, broken_rules
from tests.guard.vehicles import (
    FLASHED_VEHICLES,
    NOW,
    SECOND,
    Floats,
    applied,
    driving,
    envelope_of,
    limited,
    reference_of,
    refused,
    rows_of,
    taken,
    with_rows,
)
from tspace_core.config import FLASHED_ROWS, TorqueMap, load_vehicle
from tspace_core.errors import ConfigError
from tspace_core.guard.envelope import Bound, Envelope
from tspace_core.guard.rules import guard
from tspace_core.guard.state import Accepted, AppliedRows, Refusal, VehicleState

every_vehicle = pytest.mark.parametrize("name", FLASHED_VEHICLES)


def just(value: float, direction: float) -> np.float32:
    """The next float32 in a direction."""
    return np.float32(np.nextafter(np.float32(value), np.float32(direction)))


def just_all(values: Floats, direction: float) -> Floats:
    return np.nextafter(values, np.float32(direction))


def bound(name: str, rule: str) -> Bound:
    return next(bound for bound in envelope_of(name).bounds if bound.rule == rule)


def cell(table: TorqueMap, row: int, column: int, value: float) -> TorqueMap:
    cells = table.table.copy()
    cells[row, column] = value
    return TorqueMap(table.pedal_axis, table.speed_axis_kmh, cells)


def test_some_vehicles_are_flashed() -> None:
    assert {"twin_truck", "twin_mule"} <= set(FLASHED_VEHICLES)


@every_vehicle
def test_the_reference_is_always_allowed(name: str) -> None:
    envelope, reference = envelope_of(name), reference_of(name)
    assert envelope.check(reference) is None
    for first_row in range(len(reference.table) - FLASHED_ROWS + 1):
        rows = rows_of(reference, first_row)
        answer = taken(guard(rows, first_row, reference, reference, driving(), envelope, (), NOW))
        assert answer.table == reference
        assert answer.clipped == {}


@every_vehicle
def test_the_envelope_is_what_an_independent_reading_of_the_rules_says(name: str) -> None:
    """Every cell at each of its limits, and one float32 beyond, alone against both checkers."""
    vehicle, envelope, reference = load_vehicle(name), envelope_of(name), reference_of(name)
    lower = np.max([one.lower for one in envelope.bounds], axis=0)
    upper = np.min([one.upper for one in envelope.bounds], axis=0)
    for row, column in np.ndindex(*reference.table.shape):
        if (3 * row + column) % 5:
            continue  # a fifth of the cells covers every kind; the slow checker is slow
        for edge, beyond in ((lower[row, column], -np.inf), (upper[row, column], np.inf)):
            shape_aside = [
                [
                    rule
                    for rule in broken_rules(vehicle, cell(reference, row, column, value))
                    if "shape" not in rule
                ]
                for value in (float(edge), float(just(edge, beyond)))
            ]
            assert shape_aside[0] == [], (row, column, edge)
            assert shape_aside[1] != [], (row, column, edge)


@every_vehicle
def test_the_figures_of_the_bounds(name: str) -> None:
    vehicle, reference = load_vehicle(name), reference_of(name).table.astype(np.float64)
    positive = reference > 0
    np.testing.assert_allclose(bound(name, "factor").lower[positive], 0.8 * reference[positive], rtol=1e-6)
    np.testing.assert_allclose(bound(name, "factor").upper, reference, rtol=1e-6)
    np.testing.assert_allclose(
        bound(name, "budget").lower, reference - vehicle.torque_map.budget_nm, rtol=1e-6
    )
    np.testing.assert_allclose(
        bound(name, "budget").upper, reference + vehicle.torque_map.budget_nm, rtol=1e-6
    )
    np.testing.assert_allclose(bound(name, "pedal_zero").lower[:, 0], reference[:, 0] - 50, rtol=1e-6)
    assert np.isneginf(bound(name, "pedal_zero").lower[:, 1:]).all()
    most = reference.max(axis=1)
    moving = reference_of(name).speed_axis_kmh > 0
    np.testing.assert_allclose(bound(name, "power").upper[moving, -1], most[moving])
    assert np.isposinf(bound(name, "power").upper[~moving]).all(), "at standstill there is no power"
    slow = bound(name, "no_regen").lower[:, 0]
    assert list(slow[:2]) == [0, 0], "rows at 0 and 7 km/h"
    assert np.isneginf(slow[2:]).all()


@every_vehicle
def test_what_is_outside_is_named_with_value_and_limit(name: str) -> None:
    envelope, reference = envelope_of(name), reference_of(name)
    lowest = reference.table[8, 0] - 50
    below = envelope.check(cell(reference, 8, 0, float(reference.table[8, 0]) - 60))
    assert below is not None
    assert below.rule == "pedal_zero"
    assert "row 8, column 0" in below.reason
    assert f"{reference.table[8, 0] - 60:.3f} Nm, at least {lowest:.3f} Nm" in below.reason
    above = envelope.check(cell(reference, 8, 0, float(reference.table[8, 0]) + 1))
    assert above is not None
    assert above.rule == "factor"
    assert f"at most {reference.table[8, 0]:.3f} Nm" in above.reason


@every_vehicle
def test_bounds_are_rounded_towards_their_inside(name: str) -> None:
    """A float32 number within them is within the rule as it is written, in float64."""
    vehicle = limited(load_vehicle(name), positive_factor_max=1.0301)
    upper = {"upper_factor": 1.0301}
    vehicle = vehicle.model_copy(update={"torque_map": vehicle.torque_map.model_copy(update=upper)})
    envelope, table = Envelope.of(vehicle), reference_of(name).table.astype(np.float64)
    budget, factor = envelope.bounds[:2]
    positive = table > 0
    assert (budget.lower >= table - 250.0).all()
    assert (budget.upper <= table + 250.0).all()
    assert (factor.lower[positive] >= 0.8 * table[positive]).all()
    assert (factor.upper[positive] <= 1.0301 * table[positive]).all()
    assert (factor.upper[positive] > 1.03 * table[positive]).all()


@every_vehicle
def test_lift_off_decelerates_by_at_most_the_limit(name: str) -> None:
    """From torque at the floor back to m/s2: mass, rotating mass, shaft, resistances."""
    vehicle = load_vehicle(name)
    road = vehicle.road
    formula = vehicle.torque_map.formula
    assert formula is not None
    for row, kmh in enumerate(reference_of(name).speed_axis_kmh):
        floor = bound(name, "lift_off").lower[row, 0]
        force = -floor * formula.shaft_rad_per_m / vehicle.guard.driveline_efficiency
        force += road.mass_kg * 9.80665 * road.rolling_resistance
        force += 0.5 * road.air_density_kg_m3 * road.drag_area_m2 * (float(kmh) / 3.6) ** 2
        assert force / (road.mass_kg * road.rotating_mass_factor) == pytest.approx(1.3, abs=1e-5)


def test_lift_off_limits_where_it_is_the_tighter_rule() -> None:
    """With a limit that the default map just holds, the proposal's drop at pedal 0 ends there."""
    vehicle = limited(load_vehicle("twin_truck"), lift_off_deceleration_mps2=0.95, driveline_efficiency=0.96)
    envelope, reference = Envelope.of(vehicle), vehicle.default_map()
    rows = rows_of(reference, 6)
    rows[0, 0] -= 45
    answer = taken(guard(rows, 6, reference, reference, driving(), envelope, (), NOW))
    floor = next(one for one in envelope.bounds if one.rule == "lift_off").lower[6, 0]
    assert answer.clipped == {"lift_off": 1}
    assert answer.table.table[6, 0] == floor
    assert reference.table[6, 0] - 45 < floor < reference.table[6, 0]


def test_the_row_power_limits_where_the_factor_does_not() -> None:
    vehicle = limited(load_vehicle("twin_truck"), positive_factor_max=1.05)
    vehicle = vehicle.model_copy(
        update={"torque_map": vehicle.torque_map.model_copy(update={"upper_factor": 1.05})}
    )
    envelope, reference = Envelope.of(vehicle), vehicle.default_map()
    rows = rows_of(reference, 6)
    rows[:, -1] += 20
    rows[:, -2] += 20
    answer = taken(guard(rows, 6, reference, reference, driving(), envelope, (), NOW))
    assert answer.clipped == {"power": 4}
    assert np.array_equal(answer.table.table[6:10, -1], reference.table[6:10, -1])
    assert np.array_equal(answer.table.table[6:10, -2], rows[:, -2])


@pytest.mark.parametrize(
    ("limits", "rule"),
    [
        ({"lift_off_deceleration_mps2": 0.5}, "lift_off"),
        ({"positive_factor_max": 0.9}, "factor"),
        ({"neighbour_step_nm": 600.0}, "shape"),
        ({"no_regen_below_kmh": 12.0}, "no_regen"),
    ],
)
def test_a_config_whose_default_map_is_outside_its_own_limits_is_refused(
    limits: dict[str, float], rule: str
) -> None:
    with pytest.raises(ConfigError, match=f"twin_truck.*outside its own limits.*{rule}|step"):
        Envelope.of(limited(load_vehicle("twin_truck"), **limits))


def test_a_config_without_a_shaft_is_refused_and_guard_shaft_helps() -> None:
    vehicle = load_vehicle("twin_truck")
    bare = vehicle.model_copy(update={"torque_map": vehicle.torque_map.model_copy(update={"formula": None})})
    with pytest.raises(ConfigError, match=r"guard\.shaft_rad_per_m is missing"):
        Envelope.of(bare)
    assert Envelope.of(limited(bare, shaft_rad_per_m=10.76)).check(vehicle.default_map()) is None


def test_the_hash_of_the_limits_changes_with_any_of_them() -> None:
    vehicle = load_vehicle("twin_truck")
    first = Envelope.of(vehicle).sha256()
    assert Envelope.of(vehicle).sha256() == first
    for limits in ({"cell_rate_nm": 49.0}, {"pedal_zero_drop_nm": 49.0}, {"driveline_efficiency": 0.91}):
        assert Envelope.of(limited(vehicle, **limits)).sha256() != first
    heavier = vehicle.model_copy(update={"road": vehicle.road.model_copy(update={"mass_kg": 12_001.0})})
    assert Envelope.of(heavier).sha256() != first, "what only a lower bound is made of"
    wide = limited(vehicle, positive_factor_max=1.05)
    hashes = set()
    for factor in (1.01, 1.02):
        changed = wide.torque_map.model_copy(update={"upper_factor": factor})
        hashes.add(Envelope.of(wide.model_copy(update={"torque_map": changed})).sha256())
    assert len(hashes) == 2, "what only an upper bound is made of"
    # Who signs campaigns is no limit: the token is signed for limits, not for its own key.
    assert Envelope.of(limited(vehicle, campaign_key="0" * 64)).sha256() == first


def random_rows(rng: random.Random, live: TorqueMap, reference: TorqueMap, first_row: int) -> np.ndarray:
    """What agents propose and what they should not: noise, steps, extremes, single cells, falling rows."""
    base = rows_of(rng.choice((live, reference)), first_row).astype(np.float64)
    numbers = np.random.default_rng(rng.getrandbits(32))
    kind = rng.randrange(6)
    if kind == 0:
        base += numbers.uniform(-250, 250, base.shape)
    elif kind == 1:
        base += rng.choice((-250, -50, -49.99, 0, 50, 250))
    elif kind == 2:
        base[rng.randrange(4), rng.randrange(base.shape[1])] += rng.uniform(-450, 450)
    elif kind == 3:
        base += numbers.normal(0, 20, base.shape)
    elif kind == 4:
        base *= rng.uniform(0.75, 1.05)
    else:
        base = base + np.where(numbers.random(base.shape) < 0.5, -250, 250)
    return base.astype(np.float32)


@every_vehicle
@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_accepted_holds_every_rule(name: str, seed: int) -> None:
    """Random drives of random proposals; each accepted map goes through the slow checker and back in."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    vehicle, envelope, reference = load_vehicle(name), envelope_of(name), reference_of(name)
    if seed == 2:  # the driver's point tighter than the cells' rate
        vehicle = limited(vehicle, driver_point_nm=12.0)
        envelope = Envelope.of(vehicle)
    history: list[AppliedRows] = []
    live, now = reference, NOW
    accepted = 0
    for _ in range(60):
        now += round(rng.choice((0.3, 1.0, 1.5, 3.0, 11.0)) * SECOND)
        first_row = rng.randrange(len(reference.table) - FLASHED_ROWS + 1)
        rows = random_rows(rng, live, reference, first_row)
        state = VehicleState(rng.uniform(0, 130), rng.uniform(0, 100), 0.0, now)
        answer = guard(rows, first_row, live, reference, state, envelope, history, now)
        if isinstance(answer, Refusal):
            assert answer.rule in ("interval", "order"), answer
            continue
        accepted += 1
        assert broken_rules(vehicle, answer.table) == []
        assert broken_rates(vehicle, live, answer.table, state, history, now) == []
        unclipped = np.array_equal(answer.table.table[first_row : first_row + 4], rows)
        assert unclipped == (answer.clipped == {}), "what was changed is reported, what was not is not"
        again = taken(
            guard(rows_of(answer.table, first_row), first_row, live, reference, state, envelope, history, now)
        )
        assert again.table == answer.table
        assert again.clipped == {}
        if answer.table != live:
            history.append(applied(first_row, live, answer.table, now))
            live = answer.table
    assert accepted > 20


@every_vehicle
def test_what_holds_every_rule_is_taken_as_it_is(name: str) -> None:
    """The other direction: no rule is stricter than it says."""
    vehicle, envelope, reference = load_vehicle(name), envelope_of(name), reference_of(name)
    rng = random.Random(11)
    taken_as_proposed = 0
    for _ in range(150):
        first_row = rng.randrange(len(reference.table) - FLASHED_ROWS + 1)
        rows = (rows_of(reference, first_row) * np.float32(rng.uniform(0.97, 1.0))).astype(np.float32)
        rows -= np.where(rows < 0, np.float32(rng.uniform(0, 40)), np.float32(0))
        state = driving(rng.uniform(0, 120), rng.uniform(0, 100))
        wanted = with_rows(reference, first_row, rows)
        holds = not broken_rules(vehicle, wanted) and not broken_rates(
            vehicle, reference, wanted, state, (), NOW
        )
        answer = guard(rows, first_row, reference, reference, state, envelope, (), NOW)
        assert holds == (isinstance(answer, Accepted) and answer.clipped == {}), (first_row, answer)
        taken_as_proposed += holds
    assert taken_as_proposed > 15


@every_vehicle
def test_positive_cells_around_their_lower_limit(name: str) -> None:
    """Just inside and at the limit: as proposed. One float32 below: the limit, and the rule that made it."""
    reference = reference_of(name)
    slack = {"cell_rate_nm": 1e4, "cell_rate_10s_nm": 1e4, "driver_point_nm": 1e4}
    limits = envelope_of(name).limits.model_copy(update=slack)
    envelope = replace(envelope_of(name), limits=limits)
    first_row = len(reference.table) - FLASHED_ROWS
    positive = rows_of(reference, first_row) > 0
    lower = {one.rule: one.lower[first_row:] for one in envelope.bounds}
    limit = np.maximum(lower["factor"], lower["budget"])
    by_factor = int(np.count_nonzero(positive & (lower["factor"] >= limit)))
    for beyond, clipped in ((np.inf, False), (None, False), (-np.inf, True)):
        value = limit.astype(np.float32)
        value = value if beyond is None else np.nextafter(value, np.float32(beyond))
        rows = np.where(positive, value, rows_of(reference, first_row))
        answer = taken(guard(rows, first_row, reference, reference, driving(), envelope, (), NOW))
        assert sum(answer.clipped.values()) == (np.count_nonzero(positive) if clipped else 0)
        assert answer.clipped.get("factor", 0) == (by_factor if clipped else 0)
        expected = np.where(clipped & positive, limit, rows)
        assert np.array_equal(answer.table.table[first_row:], expected)


@every_vehicle
def test_pedal_zero_around_its_lower_limit(name: str) -> None:
    envelope, reference = envelope_of(name), reference_of(name)
    limit = envelope_of(name).bounds[3].lower[6:10, 0].astype(np.float32)
    assert np.allclose(limit, reference.table[6:10, 0] - 50, rtol=1e-6)
    for value, clipped in ((just_all(limit, np.inf), 0), (limit, 0), (just_all(limit, -np.inf), 4)):
        rows = rows_of(reference, 6)
        rows[:, 0] = value
        answer = taken(guard(rows, 6, reference, reference, driving(45, 90), envelope, (), NOW))
        assert answer.clipped.get("pedal_zero", 0) == clipped
        assert np.array_equal(answer.table.table[6:10, 0], limit if clipped else value)


@every_vehicle
@pytest.mark.parametrize("kmh", [0.0, 7.0])
def test_no_negative_torque_at_pedal_zero_where_it_is_felt_below_7_kmh(name: str, kmh: float) -> None:
    envelope, reference = envelope_of(name), reference_of(name)
    row = list(reference.speed_axis_kmh).index(kmh)
    rows = rows_of(reference, 0)
    rows[row, 0] = just(0, -np.inf)
    answer = taken(guard(rows, 0, reference, reference, driving(), envelope, (), NOW))
    assert answer.clipped == {"no_regen": 1}
    assert answer.table.table[row, 0] == 0


def test_recent_flashes_of_other_rows_count_for_their_own_cells_only() -> None:
    name = "twin_truck"
    envelope, reference = envelope_of(name), reference_of(name)
    low = rows_of(reference, 8) - np.float32(50)
    history = [AppliedRows(NOW - 5 * SECOND, 8, low + np.float32(100), rows_of(reference, 8))]
    rows = rows_of(reference, 2)
    rows[:, 0] -= np.float32(0.5)
    rows[0, 0] = reference.table[2, 0]
    answer = taken(guard(rows, 2, reference, reference, driving(), envelope, history, NOW))
    assert answer.clipped == {}


def test_refused_for_the_first_broken_input_only() -> None:
    reference = reference_of("twin_truck")
    answer = refused(
        guard(np.zeros((2, 2)), 99, reference, reference, driving(), envelope_of("twin_truck"), (), NOW)
    )
    assert answer.rule == "first_row"
