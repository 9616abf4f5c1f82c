"""What is refused, and the rates, dense around each limit."""

from typing import Any

import numpy as np
import pytest

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
from tspace_core.guard.envelope import Envelope
from tspace_core.guard.rules import _around, _edges, _rates, guard, guard_resume
from tspace_core.guard.state import Accepted, AppliedRows, Refusal, VehicleState, implausible

every_vehicle = pytest.mark.parametrize("name", FLASHED_VEHICLES)
TRUCK = "twin_truck"
ROW = 8
ROOM = {"driver_point_nm": 1e3, "pedal_zero_drop_nm": 200.0, "lift_off_deceleration_mps2": 3.0}
"""Limits that leave the rates alone at pedal 0."""


def ask(rows: Any, first_row: Any = ROW, name: str = TRUCK, **given: Any) -> Accepted | Refusal:
    """The guard, on the reference map unless said otherwise."""
    reference = reference_of(name)
    return guard(
        rows,
        first_row,
        given.get("live", reference),
        given.get("reference", reference),
        given.get("state", driving()),
        given.get("envelope", envelope_of(name)),
        given.get("recent", ()),
        given.get("now", NOW),
    )


def lowest_column(rows: Floats, change: float) -> Floats:
    """Only pedal 0 is moved down: the one cell a row that may always go lower."""
    rows = rows.copy()
    rows[:, 0] += np.float32(change)
    return rows


@every_vehicle
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [(0, 0), (3, 16), (2, 7)])
def test_no_number_is_refused_and_named(name: str, bad: float, where: tuple[int, int]) -> None:
    rows = rows_of(reference_of(name), ROW)
    rows[where] = bad
    answer = refused(ask(rows, name=name))
    assert answer.rule == "finite"
    assert f"row {ROW + where[0]}, column {where[1]}" in answer.reason
    assert str(bad) in answer.reason


@every_vehicle
def test_rows_of_another_shape_or_kind_are_refused(name: str) -> None:
    rows = rows_of(reference_of(name), ROW)
    for wrong in (rows.T, rows[:3], rows[:, :-1], rows.ravel(), rows[None]):
        assert refused(ask(wrong, name=name)).rule == "shape_of_rows"
    for kind in (
        rows.astype(np.int32),
        rows.astype(object),
        rows > 0,
        rows.astype(complex),
        rows.tolist(),
        None,
    ):
        assert refused(ask(kind, name=name)).rule == "type"


@every_vehicle
def test_a_first_row_that_leaves_no_four_rows_is_refused(name: str) -> None:
    last = len(reference_of(name).table) - FLASHED_ROWS
    for first_row in (-1, last + 1, 16 if name == TRUCK else 18, 10_000):
        answer = refused(ask(rows_of(reference_of(name), last), first_row, name))
        assert answer.rule == "first_row"
        assert f"0 to {last}" in answer.reason
    for wrong in (1.0, True, "1", None):
        assert refused(ask(rows_of(reference_of(name), 1), wrong, name)).rule == "first_row"
    taken(ask(rows_of(reference_of(name), last), last, name))
    taken(ask(rows_of(reference_of(name), 0), np.int32(0), name))


def test_rows_columns_or_bytes_in_another_order_are_refused_not_clipped() -> None:
    rows = rows_of(reference_of(TRUCK), 0)
    for wrong in (rows[::-1], rows[:, ::-1], rows.byteswap().view(rows.dtype)):
        wrong = np.where(np.isfinite(wrong), wrong, 0).astype(np.float32)
        assert refused(ask(wrong, 0)).rule in ("order", "finite")


def test_two_budgets_from_the_reference_are_the_most_that_is_clipped() -> None:
    reference = rows_of(reference_of(TRUCK), ROW).astype(np.float64)
    taken(ask(reference + 500.0))
    taken(ask(reference - 500.0))
    for beyond in (500.001, -500.001):
        rows = reference.copy()
        rows[0, 1] += 500.0  # at the limit, and before the other one
        rows[2, 5] += beyond
        answer = refused(ask(rows))
        assert answer.rule == "order"
        assert "250" in answer.reason
        assert f"{rows[2, 5]:g} Nm is 500 Nm from the reference" in answer.reason, (
            "the cell that is wrong, not another one"
        )


def test_a_double_that_is_no_float32_is_refused() -> None:
    rows = rows_of(reference_of(TRUCK), ROW).astype(np.float64)
    rows[0, 0] = 1e300
    assert refused(ask(rows)).rule == "order"


@every_vehicle
def test_another_reference_or_other_axes_are_refused(name: str) -> None:
    reference = reference_of(name)
    moved = with_rows(reference, 0, rows_of(reference, 0) * np.float32(0.99))
    assert refused(ask(rows_of(reference, ROW), name=name, reference=moved)).rule == "reference"
    stretched = TorqueMap(reference.pedal_axis, reference.speed_axis_kmh * np.float32(1.1), reference.table)
    assert refused(ask(rows_of(reference, ROW), name=name, live=stretched)).rule == "axes"


@pytest.mark.parametrize(
    ("age_s", "rule"), [(0.0, None), (0.5, None), (0.5000001, "stale"), (10.0, "stale"), (-0.001, "stale")]
)
def test_signals_older_than_ten_periods_are_stale(age_s: float, rule: str | None) -> None:
    answer = ask(rows_of(reference_of(TRUCK), ROW), state=driving(at_ns=NOW - round(age_s * SECOND)))
    assert (answer.rule if isinstance(answer, Refusal) else None) == rule


@pytest.mark.parametrize(
    ("state", "part"),
    [
        (VehicleState(45, 30, 0, NOW, valid=False, reason="voltage 12 V"), "voltage 12 V"),
        (VehicleState(45, 30, 0, NOW, valid=False), "marked invalid"),
        (VehicleState(np.nan, 30, 0, NOW), "velocity"),
        (VehicleState(np.inf, 30, 0, NOW), "velocity"),
        (VehicleState(-0.1, 30, 0, NOW), "velocity"),
        (VehicleState(45, 100.1, 0, NOW), "thrust"),
        (VehicleState(45, -0.1, 0, NOW), "thrust"),
        (VehicleState(45, np.nan, 0, NOW), "thrust"),
        (VehicleState(45, 0, 100.1, NOW), "brake"),
        (VehicleState(45, 0, -0.1, NOW), "brake"),
        (VehicleState(45, 5.1, 5.1, NOW), "together"),
        (VehicleState(45, 30, 0, NOW, other_velocity_kmh=45 + 7.3), "speed sources"),
        (VehicleState(45, 30, 0, NOW, other_velocity_kmh=45 - 7.3), "speed sources"),
        (VehicleState(45, 30, 0, NOW, other_velocity_kmh=np.nan), "speed sources"),
    ],
)
def test_an_implausible_vehicle_is_not_flashed(state: VehicleState, part: str) -> None:
    answer = refused(ask(rows_of(reference_of(TRUCK), ROW), state=state))
    assert answer.rule == "state"
    assert part in answer.reason


@pytest.mark.parametrize(
    "state",
    [
        VehicleState(0, 0, 0, NOW),
        VehicleState(150, 100, 0, NOW),
        VehicleState(45, 0, 100, NOW),
        VehicleState(45, 5, 5, NOW),
        VehicleState(45, 5, 50, NOW),
        VehicleState(45, 50, 5, NOW),
        VehicleState(45, 30, 0, NOW, other_velocity_kmh=45 + 7.199),
        VehicleState(45, 30, 0, NOW, other_velocity_kmh=45 - 7.199),
    ],
)
def test_a_plausible_vehicle_is_flashed(state: VehicleState) -> None:
    assert implausible(state, load_vehicle(TRUCK).guard) is None
    taken(ask(rows_of(reference_of(TRUCK), ROW), state=state))


@every_vehicle
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_cell_changes_by_at_most_50_nm_a_flash(name: str, sign: int) -> None:
    """Down from the reference, and up again from a map well below it."""
    reference = reference_of(name)
    envelope = Envelope.of(limited(load_vehicle(name), **ROOM))
    live = reference if sign < 0 else with_rows(reference, 8, lowest_column(rows_of(reference, 8), -120))
    for step, clipped in ((49.99, 0), (50.0, 0), (50.01, 4)):
        rows = lowest_column(rows_of(live, 8), sign * step)
        if step == 50.0:  # exactly 50 Nm in float32, however large the cell
            rows[:, 0] = live.table[8:12, 0].astype(np.float64) + sign * 50.0
            exact = np.abs(rows[:, 0].astype(np.float64) - live.table[8:12, 0]) <= 50.0
            rows[~exact, 0] = live.table[8:12, 0][~exact]
        answer = taken(ask(rows, 8, name, live=live, envelope=envelope))
        assert answer.clipped.get("cell_rate", 0) == clipped
        assert np.abs(answer.table.table.astype(np.float64) - live.table).max() <= 50.0


def descent(name: str, times_s: list[float], step: float) -> tuple[list[AppliedRows], TorqueMap]:
    """Pedal 0 went down by ``step`` so many seconds before NOW, oldest first: history and live map."""
    live, history = reference_of(name), []
    for ago in times_s:
        after = with_rows(live, 8, lowest_column(rows_of(live, 8), -step))
        history.append(applied(8, live, after, NOW - round(ago * SECOND)))
        live = after
    return history, live


@every_vehicle
@pytest.mark.parametrize(
    ("oldest_s", "room"),
    [(9.999999, 10.0), (10.0, 40.0), (10.000001, 40.0)],
)
def test_a_cell_changes_by_at_most_100_nm_within_10_s(name: str, oldest_s: float, room: float) -> None:
    """Three steps of 30 Nm leave 10 Nm, until the first of them is 10 s ago."""
    envelope = Envelope.of(limited(load_vehicle(name), **ROOM))
    history, live = descent(name, [oldest_s, 6.0, 3.0], 30.0)
    rows = lowest_column(rows_of(live, 8), -48)
    answer = taken(ask(rows, 8, name, live=live, envelope=envelope, recent=history))
    change = live.table[8:12, 0] - answer.table.table[8:12, 0]
    assert change == pytest.approx(np.full(4, room), abs=1e-3)
    assert answer.clipped == {"cell_rate_10s": 4}
    # Upwards there is all the room that one flash has.
    up = taken(ask(rows_of(reference_of(name), 8), 8, name, live=live, envelope=envelope, recent=history))
    assert (up.table.table[8:12, 0] - live.table[8:12, 0]) == pytest.approx(np.full(4, 50.0), abs=1e-3)


@pytest.mark.parametrize(
    ("passed_s", "rule"), [(0.0, "interval"), (0.999999, "interval"), (1.0, None), (1.5, None)]
)
def test_flashes_are_a_second_apart(passed_s: float, rule: str | None) -> None:
    history, live = descent(TRUCK, [passed_s], 5.0)
    answer = ask(lowest_column(rows_of(live, ROW), -1), live=live, recent=history)
    assert (answer.rule if isinstance(answer, Refusal) else None) == rule


def test_the_live_map_is_accepted_at_once_because_nothing_changes() -> None:
    history, live = descent(TRUCK, [0.1], 5.0)
    answer = taken(ask(rows_of(live, ROW), live=live, recent=history))
    assert answer.table == live
    assert answer.clipped == {}


@pytest.mark.parametrize(("change", "clipped"), [(19.99, False), (20.0, False), (20.01, True)])
def test_the_drivers_present_point_moves_by_at_most_its_limit(change: float, clipped: bool) -> None:
    """Between the four cells around 75 km/h and pedal 0.44 .. 0.50, interpolated."""
    envelope = Envelope.of(limited(load_vehicle("twin_mule"), driver_point_nm=20.0))
    reference = reference_of("twin_mule")
    rows = rows_of(reference, 14)
    state = driving(72.5, 0.0)
    rows[:, 0] = reference.table[14:18, 0].astype(np.float64) - change
    answer = taken(ask(rows, 14, "twin_mule", envelope=envelope, state=state))
    assert ("driver_point" in answer.clipped) == clipped
    at = (0.0, 72.5)
    assert abs(float(answer.table.torque(*at)) - float(reference.torque(*at))) <= 20.0 + 1e-4
    # Elsewhere the same change is nothing to the driver's foot.
    away = taken(ask(rows, 14, "twin_mule", envelope=envelope, state=driving(30.0, 50.0)))
    assert away.clipped == {}


def test_the_drivers_point_beyond_the_axes_is_their_end() -> None:
    envelope = Envelope.of(limited(load_vehicle(TRUCK), driver_point_nm=20.0))
    reference = reference_of(TRUCK)
    rows = lowest_column(rows_of(reference, 10), -45)
    answer = taken(ask(rows, 10, envelope=envelope, state=driving(300.0, 0.0)))
    assert answer.clipped == {"driver_point": 2}, "pedal 0 at 110 and 120 km/h"


def test_steps_to_the_rows_beside_the_block_are_bounded() -> None:
    """The block's edge: the row above stays at the reference while the block goes as low as it may."""
    reference = reference_of(TRUCK)
    at_edge = float(reference.table[4, 16]) - float(reference.table[5, 16])  # 30 to 40 km/h, full pedal
    envelope = Envelope.of(limited(load_vehicle(TRUCK), neighbour_step_nm=750.0))
    assert at_edge < 750
    live = reference
    now = NOW
    for _ in range(8):
        rows = rows_of(live, 5) - np.float32(50)
        now += 10 * SECOND
        answer = taken(ask(rows, 5, live=live, envelope=envelope, state=driving(at_ns=now), now=now))
        live = answer.table
    assert float(live.table[4, 16]) - float(live.table[5, 16]) == 750.0
    assert answer.clipped["shape"] >= 1
    assert np.array_equal(live.table[:5], reference.table[:5])


def test_rows_that_fall_along_the_pedal_are_lifted_into_shape() -> None:
    reference = reference_of(TRUCK)
    rows = rows_of(reference, ROW)
    rows[1, 2], rows[1, 3] = rows[1, 3], rows[1, 2] - np.float32(1)
    answer = taken(ask(rows))
    assert (np.diff(answer.table.table, axis=1) >= 0).all()
    assert answer.clipped.get("shape", 0) + answer.clipped.get("factor", 0) >= 1


@every_vehicle
def test_a_live_map_outside_the_envelope_contradicts_and_is_refused(name: str) -> None:
    """Bounds ask for more than the rate allows: both rules, the cell and the way out are named."""
    reference = reference_of(name)
    live = with_rows(reference, 8, lowest_column(rows_of(reference, 8), -120))
    answer = refused(ask(rows_of(reference, 8), 8, name, live=live))
    assert answer.rule == "contradiction"
    assert "row 8, column 0" in answer.reason
    floor, most = reference.table[8, 0] - 50, live.table[8, 0] + 50
    assert f"rule pedal_zero asks for at least {floor:.3f} Nm" in answer.reason
    assert f"rule cell_rate for at most {most:.3f} Nm" in answer.reason
    assert "go back to the reference" in answer.reason


def test_a_live_map_outside_elsewhere_is_refused_by_the_rule_it_breaks() -> None:
    reference = reference_of(TRUCK)
    live = with_rows(reference, 0, lowest_column(rows_of(reference, 0), -60))
    answer = refused(ask(lowest_column(rows_of(reference, ROW), -1), live=live))
    assert answer.rule in ("pedal_zero", "no_regen")


def test_a_shape_that_no_clipping_can_reach_is_a_contradiction() -> None:
    """The rows beside the block were torn away from it: no block in reach holds the steps."""
    reference = reference_of(TRUCK)
    cells = reference.table.copy()
    cells[7] += np.float32(2000)
    torn = TorqueMap(reference.pedal_axis, reference.speed_axis_kmh, cells)
    answer = refused(ask(rows_of(reference, ROW), live=torn))
    assert answer.rule == "contradiction"
    assert "shape" in answer.reason


def test_lower_is_not_safer_where_the_map_is_negative() -> None:
    """A lower torque brakes harder on lift-off: it is limited as much as a higher one."""
    reference = reference_of(TRUCK)
    answer = taken(ask(lowest_column(rows_of(reference, ROW), -400)))
    assert (answer.table.table[ROW : ROW + 4, 0] >= reference.table[ROW : ROW + 4, 0] - 50.001).all()
    assert answer.clipped["pedal_zero"] == 4


@every_vehicle
@pytest.mark.parametrize(
    ("velocity", "thrust", "ok"),
    [(0.0, 0.0, True), (0.999, 0.0, True), (1.0, 0.0, False), (0.0, 0.001, False), (45.0, 30.0, False)],
)
def test_a_saved_map_is_resumed_at_standstill_only(
    name: str, velocity: float, thrust: float, ok: bool
) -> None:
    reference = reference_of(name)
    saved = with_rows(reference, 8, lowest_column(rows_of(reference, 8), -45))
    state = VehicleState(velocity, thrust, 0.0, NOW)
    answer = guard_resume(saved, reference, state, envelope_of(name), NOW)
    if ok:
        assert taken(answer).table == saved
    else:
        assert refused(answer).rule == "standstill"


@every_vehicle
def test_a_saved_map_is_measured_against_the_reference_and_never_clipped(name: str) -> None:
    reference = reference_of(name)
    still = VehicleState(0.0, 0.0, 0.0, NOW)
    outside = with_rows(reference, 8, lowest_column(rows_of(reference, 8), -51))
    assert refused(guard_resume(outside, reference, still, envelope_of(name), NOW)).rule == "pedal_zero"
    stale = VehicleState(0.0, 0.0, 0.0, NOW - SECOND)
    assert refused(guard_resume(reference, reference, stale, envelope_of(name), NOW)).rule == "stale"
    assert refused(guard_resume(reference, outside, still, envelope_of(name), NOW)).rule == "reference"


def test_what_clipping_would_get_wrong_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The map is verified as a whole after clipping; here clipping is broken on purpose."""
    reference = reference_of(TRUCK)

    def broken(change: float, first_row: int = ROW) -> Any:
        rows = lowest_column(rows_of(reference, first_row), change)
        return lambda *_: Accepted(with_rows(reference, first_row, rows), first_row)

    tight = Envelope.of(limited(load_vehicle(TRUCK), driver_point_nm=20.0))
    loose = Envelope.of(limited(load_vehicle(TRUCK), **ROOM))
    for change, rule, envelope in (
        (-51.0, "pedal_zero", envelope_of(TRUCK)),
        (-51.0, "cell_rate", loose),
        (-30.0, "driver_point", tight),
    ):
        monkeypatch.setattr("tspace_core.guard.rules._clip", broken(change))
        answer = refused(ask(rows_of(reference, ROW), envelope=envelope, state=driving(85.0, 0.0)))
        assert answer.rule == rule
    monkeypatch.setattr("tspace_core.guard.rules._clip", broken(-40.0))
    history = [
        AppliedRows(NOW - 5 * SECOND, ROW, rows_of(reference, ROW) + np.float32(70), rows_of(reference, ROW))
    ]
    answer = refused(ask(lowest_column(rows_of(reference, ROW), -1), recent=history, envelope=loose))
    assert answer.rule == "cell_rate_10s"


@every_vehicle
def test_the_rows_beside_the_block_are_those_that_exist(name: str) -> None:
    """Also the map's first and last row are neighbours; beyond them there is none."""
    reference, envelope = reference_of(name), envelope_of(name)
    last = len(reference.table) - FLASHED_ROWS
    step = envelope.limits.neighbour_step_nm
    for first_row in (0, 1, 5, last - 1, last):
        edges = _edges(reference, first_row, envelope)
        assert np.isfinite(edges.lower).any(axis=1).tolist() == [
            first_row > 0,
            False,
            False,
            first_row < last,
        ]
        if first_row > 0:
            assert edges.upper[0] == pytest.approx(reference.table[first_row - 1] + step)
            assert edges.lower[0] == pytest.approx(reference.table[first_row - 1] - step)
        if first_row < last:
            assert edges.upper[3] == pytest.approx(reference.table[first_row + 4] + step)
            assert edges.lower[3] == pytest.approx(reference.table[first_row + 4] - step)


@every_vehicle
def test_the_limits_of_a_flash_are_rounded_towards_their_inside(name: str) -> None:
    """Limits that are no float32 numbers: what is within them is within the rule, in float64."""
    figures = {
        "cell_rate_nm": 49.9,
        "cell_rate_10s_nm": 99.9,
        "driver_point_nm": 33.3,
        "neighbour_step_nm": 800.1,
    }
    envelope, reference = Envelope.of(limited(load_vehicle(name), **figures)), reference_of(name)
    now = rows_of(reference, ROW).astype(np.float64)
    cells = reference.table.astype(np.float64)
    rate, slow = _rates(reference, ROW, envelope, (), NOW)
    around = _around(reference, ROW, driving(float(reference.speed_axis_kmh[ROW + 1]) + 1, 95.0), envelope)
    edges = _edges(reference, ROW, envelope)
    near = np.isfinite(around.lower)
    assert near.sum() == 4
    for one, middle, most, where in (
        (rate, now, 49.9, np.ones_like(near)),
        (slow, now, 99.9, np.ones_like(near)),
        (around, now, 33.3, near),
        (edges, np.stack([cells[ROW - 1]] * 2 + [cells[ROW + 4]] * 2), 800.1, np.isfinite(edges.lower)),
    ):
        for side in (one.lower[where], one.upper[where]):
            assert np.array_equal(side, side.astype(np.float32))
            assert (np.abs(side - middle[where]) <= most).all()
            assert (np.abs(side - middle[where]) > most - 1e-3).all()
