"""`guard`: a proposal becomes a map that holds every rule, or a refusal that says which does not hold.

Pure: it reads no clock and keeps nothing. What comes out was verified again as a whole after clipping, and
given back in it is accepted unchanged.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tspace_core.config.torque_map import FLASHED_ROWS, TorqueMap
from tspace_core.guard.envelope import IMPLAUSIBLE_BUDGETS, RATE_WINDOW_S, Bound, Envelope, place
from tspace_core.guard.shape import Doubles, down, lowered, raised, up
from tspace_core.guard.state import Accepted, AppliedRows, Refusal, VehicleState, implausible

_ROUNDING_NM = 1e-6
"""Rounding of an interpolation in float64."""


def guard(
    proposed: NDArray[Any],
    first_row: int,
    live: TorqueMap,
    reference: TorqueMap,
    state: VehicleState,
    envelope: Envelope,
    recent: Sequence[AppliedRows],
    now_ns: int,
) -> Accepted | Refusal:
    """Clip four proposed rows into the envelope, or refuse them.

    Args:
        proposed: torque in Nm, shape (4, columns), of a floating type.
        first_row: index of the first of these rows.
        live: the map in effect.
        reference: the map that the budget is measured against; its hash must be the envelope's.
        state: the newest sample of the vehicle.
        envelope: the vehicle's limits.
        recent: flashes applied, oldest first; those older than 10 s may be left out.
        now_ns: the clock of ``state`` and ``recent``.

    Returns:
        The map to flash with the cells that each rule changed, or the rule that refuses it.
    """
    refusal = (
        _wrong_map(live, reference, envelope)
        or _wrong_rows(proposed, first_row, reference, envelope)
        or wrong_state(state, envelope, now_ns)
    )
    if refusal is not None:
        return refusal
    rows = slice(first_row, first_row + FLASHED_ROWS)
    wanted = np.asarray(proposed, dtype=np.float32).astype(np.float64)
    now = live.table[rows].astype(np.float64)
    if not np.array_equal(wanted, now):
        refusal = _too_soon(recent, envelope, now_ns)
        if refusal is not None:
            return refusal
    bounds = [
        *(bound.rows(first_row, FLASHED_ROWS) for bound in envelope.bounds),
        *_rates(live, first_row, envelope, recent, now_ns),
        _edges(live, first_row, envelope),
    ]
    clipped = _clip(wanted, bounds, live, first_row, envelope)
    if isinstance(clipped, Accepted) and _jump(clipped.table, live, state) > envelope.limits.driver_point_nm:
        bounds.append(_around(live, first_row, state, envelope))
        clipped = _clip(wanted, bounds, live, first_row, envelope)
    if isinstance(clipped, Refusal):
        return clipped
    return _broken(clipped, live, state, envelope, recent, now_ns) or clipped


def guard_resume(
    table: TorqueMap, reference: TorqueMap, state: VehicleState, envelope: Envelope, now_ns: int
) -> Accepted | Refusal:
    """A saved map as a whole: only at standstill, and only as it is; rates do not apply, nothing is clipped.

    The budget is measured against the reference as always, so resuming never moves it.
    """
    refusal = (
        _wrong_map(table, reference, envelope)
        or wrong_state(state, envelope, now_ns)
        or _moving(state, envelope)
        or envelope.check(table)
    )
    return refusal if refusal is not None else Accepted(table, 0)


def wrong_state(state: VehicleState, envelope: Envelope, now_ns: int) -> Refusal | None:
    """Why nothing may be flashed with the vehicle as it is."""
    age_s = (now_ns - state.at_ns) / 1e9
    if not 0 <= age_s <= envelope.stale_s:
        return Refusal(
            "stale", f"the vehicle's signals are {age_s:.3f} s old, allowed are 0 to {envelope.stale_s:g} s"
        )
    why = implausible(state, envelope.limits)
    return None if why is None else Refusal("state", why)


def _moving(state: VehicleState, envelope: Envelope) -> Refusal | None:
    most = envelope.limits.standstill_kmh
    if state.velocity_kmh < most and state.thrust_percent == 0:
        return None
    reason = (
        f"a saved map is resumed below {most:g} km/h with the accelerator released, not at "
        f"{state.velocity_kmh:g} km/h and {state.thrust_percent:g} %"
    )
    return Refusal("standstill", reason)


def _wrong_map(live: TorqueMap, reference: TorqueMap, envelope: Envelope) -> Refusal | None:
    found = reference.sha256()
    if found != envelope.reference_sha256:
        return Refusal(
            "reference",
            f"the reference map has hash {found[:16]}, that of {envelope.vehicle_id} is "
            f"{envelope.reference_sha256[:16]}; it never moves",
        )
    for name in ("pedal_axis", "speed_axis_kmh"):
        if not np.array_equal(getattr(live, name), getattr(reference, name)):
            return Refusal("axes", f"{name} of the map is not that of the reference map")
    return None


def _wrong_rows(
    proposed: NDArray[Any], first_row: int, reference: TorqueMap, envelope: Envelope
) -> Refusal | None:
    count, columns = reference.table.shape
    last = count - FLASHED_ROWS
    if isinstance(first_row, bool) or not isinstance(first_row, int | np.integer):
        return Refusal("first_row", f"first row is {first_row!r}, expected an index from 0 to {last}")
    if not 0 <= first_row <= last:
        reason = f"first row {first_row} leaves no {FLASHED_ROWS} rows in a map of {count}: 0 to {last}"
        return Refusal("first_row", reason)
    if not isinstance(proposed, np.ndarray) or proposed.dtype.kind != "f":
        kind = proposed.dtype if isinstance(proposed, np.ndarray) else type(proposed).__name__
        return Refusal("type", f"proposed rows are {kind}, expected an array of floating numbers in Nm")
    if proposed.shape != (FLASHED_ROWS, columns):
        reason = (
            f"proposed rows have shape {proposed.shape}, expected {(FLASHED_ROWS, columns)}: rows x pedal"
        )
        return Refusal("shape_of_rows", reason)
    if not np.isfinite(proposed).all():
        row, column = (int(index) for index in np.argwhere(~np.isfinite(proposed))[0])
        where = place(reference, first_row + row, column)
        return Refusal("finite", f"{where}: {proposed[row, column]} is no torque; give a number in Nm")
    away = np.abs(proposed.astype(np.float64) - reference.table[first_row : first_row + FLASHED_ROWS])
    most = IMPLAUSIBLE_BUDGETS * envelope.budget_nm
    if (away > most).any():
        row, column = (int(index) for index in np.argwhere(away > most)[0])
        reason = (
            f"{place(reference, first_row + row, column)}: {proposed[row, column]:g} Nm is "
            f"{away[row, column]:.0f} Nm from the reference, an action moves it by {envelope.budget_nm:g}: "
            "are rows, columns or bytes in another order?"
        )
        return Refusal("order", reason)
    return None


def _too_soon(recent: Sequence[AppliedRows], envelope: Envelope, now_ns: int) -> Refusal | None:
    if not recent:
        return None
    passed_s = (now_ns - recent[-1].at_ns) / 1e9
    if passed_s >= envelope.limits.flash_interval_s:
        return None
    return Refusal(
        "interval",
        f"the flash before took effect {passed_s:.3f} s ago, at least {envelope.limits.flash_interval_s:g} s",
    )


def _rates(
    live: TorqueMap, first_row: int, envelope: Envelope, recent: Sequence[AppliedRows], now_ns: int
) -> tuple[Bound, Bound]:
    limits = envelope.limits
    rows = slice(first_row, first_row + FLASHED_ROWS)
    now = live.table.astype(np.float64)
    least, most = now.copy(), now.copy()
    for flash in recent:
        if now_ns - flash.at_ns < RATE_WINDOW_S * 1e9:
            touched = slice(flash.first_row, flash.first_row + len(flash.before))
            for values in (flash.before, flash.after):
                least[touched] = np.minimum(least[touched], values)
                most[touched] = np.maximum(most[touched], values)
    rate, slow = limits.cell_rate_nm, limits.cell_rate_10s_nm
    return (
        Bound("cell_rate", up(now[rows] - rate), down(now[rows] + rate)),
        Bound("cell_rate_10s", up(most[rows] - slow), down(least[rows] + slow)),
    )


def _edges(live: TorqueMap, first_row: int, envelope: Envelope) -> Bound:
    """Steps from the block to the rows beside it, which stay as they are."""
    step, table = envelope.limits.neighbour_step_nm, live.table.astype(np.float64)
    shape = (FLASHED_ROWS, table.shape[1])
    lower, upper = np.full(shape, -np.inf), np.full(shape, np.inf)
    for inside, outside in ((0, first_row - 1), (FLASHED_ROWS - 1, first_row + FLASHED_ROWS)):
        if 0 <= outside < len(table):
            lower[inside] = up(table[outside] - step)
            upper[inside] = down(table[outside] + step)
    return Bound("shape", lower, upper)


def _around(live: TorqueMap, first_row: int, state: VehicleState, envelope: Envelope) -> Bound:
    """The cells that make the torque at the driver's present point."""
    most = envelope.limits.driver_point_nm
    near = np.zeros(live.table.shape, dtype=bool)
    speeds = _beside(live.speed_axis_kmh, state.velocity_kmh)
    near[np.ix_(speeds, _beside(live.pedal_axis, state.thrust_percent / 100))] = True
    rows = slice(first_row, first_row + FLASHED_ROWS)
    now = live.table[rows].astype(np.float64)
    return Bound(
        "driver_point",
        np.where(near[rows], up(now - most), -np.inf),
        np.where(near[rows], down(now + most), np.inf),
    )


def _beside(axis: NDArray[np.float32], value: float) -> list[int]:
    after = int(np.clip(np.searchsorted(axis, value, side="right"), 1, len(axis) - 1))
    return [after - 1, after]


def _jump(table: TorqueMap, live: TorqueMap, state: VehicleState) -> float:
    """Change at the driver's present point, Nm."""
    point = (state.thrust_percent / 100, state.velocity_kmh)
    return max(abs(float(table.torque(*point)) - float(live.torque(*point))) - _ROUNDING_NM, 0.0)


def _clip(
    wanted: Doubles, bounds: Sequence[Bound], live: TorqueMap, first_row: int, envelope: Envelope
) -> Accepted | Refusal:
    lower = np.max([bound.lower for bound in bounds], axis=0)
    upper = np.min([bound.upper for bound in bounds], axis=0)
    step = envelope.limits.neighbour_step_nm
    least = lower if (lower > upper).any() else raised(lower, step)
    if (least > upper).any():
        return _contradiction(bounds, least, upper, live, first_row)
    counts: dict[str, int] = {}

    def note(rule: str, before: Doubles, after: Doubles) -> None:
        changed = int(np.count_nonzero(before != after))
        if changed:
            counts[rule] = counts.get(rule, 0) + changed

    values = wanted
    for bound in bounds:
        inside = np.clip(values, bound.lower, bound.upper)
        note(bound.rule, values, inside)
        values = inside
    shaped = lowered(np.maximum(values, least), step)
    note("shape", values, shaped)
    table = live.table.copy()
    table[first_row : first_row + FLASHED_ROWS] = shaped
    return Accepted(TorqueMap(live.pedal_axis, live.speed_axis_kmh, table), first_row, counts)


def _contradiction(
    bounds: Sequence[Bound], least: Doubles, upper: Doubles, live: TorqueMap, first_row: int
) -> Refusal:
    row, column = (int(index) for index in np.argwhere(least > upper)[0])
    below = max(bounds, key=lambda bound: float(bound.lower[row, column]))
    above = min(bounds, key=lambda bound: float(bound.upper[row, column]))
    cell = (row, column)
    from_below = below.rule if below.lower[cell] > above.upper[cell] else "shape"
    reason = (
        f"{place(live, first_row + row, column)}: rule {from_below} asks for at least "
        f"{least[cell]:.3f} Nm, rule {above.rule} for at most {upper[cell]:.3f} Nm; the live map "
        f"({live.table[first_row + row, column]:.3f} Nm there) is outside the envelope: go back to the "
        "reference map"
    )
    return Refusal("contradiction", reason)


def _broken(
    accepted: Accepted,
    live: TorqueMap,
    state: VehicleState,
    envelope: Envelope,
    recent: Sequence[AppliedRows],
    now_ns: int,
) -> Refusal | None:
    """Every rule again, on the whole map as it would be."""
    outside = envelope.check(accepted.table)
    if outside is not None:
        return outside
    rows = slice(accepted.first_row, accepted.first_row + FLASHED_ROWS)
    values = accepted.table.table[rows].astype(np.float64)
    for bound in _rates(live, accepted.first_row, envelope, recent, now_ns):
        wrong = (values < bound.lower) | (values > bound.upper)
        if wrong.any():
            row, column = (int(index) for index in np.argwhere(wrong)[0])
            where = place(live, accepted.first_row + row, column)
            reason = (
                f"{where}: {values[row, column]:.3f} Nm, by rule {bound.rule} within "
                f"{bound.lower[row, column]:.3f} to {bound.upper[row, column]:.3f} Nm"
            )
            return Refusal(bound.rule, reason)
    jump, most = _jump(accepted.table, live, state), envelope.limits.driver_point_nm
    if jump > most:
        return Refusal("driver_point", f"{jump:.3f} Nm at the driver's present point, at most {most:g} Nm")
    return None
