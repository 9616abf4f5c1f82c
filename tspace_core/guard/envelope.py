"""What a map may be: the limits of one vehicle as tables of lower and upper torque, made from its config.

================  =====================================================================================
rule              limit
================  =====================================================================================
``budget``        reference - budget to reference + budget
``factor``        positive cells within [0.8, 1.0] x reference; others not above the reference
``power``         torque x speed not above the greatest of the reference's row (the speed is the row's)
``pedal_zero``    pedal 0: not below reference - 50 Nm
``lift_off``      pedal 0: deceleration on the level at most 1.3 m/s2
``no_regen``      pedal 0: nothing negative where it would be felt below 7 km/h
``shape``         not falling along the pedal; at most 600 Nm between neighbours
================  =====================================================================================

The figures are the defaults; `GuardLimits` and the vehicle's `torque_map` and `road` hold them. "Lower is
safer" is false where a map is negative: lower brakes harder on lift-off.
"""

import hashlib
import json
from dataclasses import dataclass

import numpy as np

from tspace_core.config.guard import GuardLimits
from tspace_core.config.torque_map import TorqueMap
from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import ConfigError
from tspace_core.guard.shape import Doubles, down, first_break, up
from tspace_core.guard.state import Refusal

GRAVITY = 9.80665
RATE_WINDOW_S = 10.0
"""The time of `GuardLimits.cell_rate_10s_nm`."""
IMPLAUSIBLE_BUDGETS = 2.0
"""An action of [-1, 1] moves a cell by one budget; a proposal this many away is no clipped action but has its
rows, columns or bytes in another order."""


@dataclass(frozen=True, eq=False)
class Bound:
    """A rule as closed limits of every cell, float32 numbers in Nm, shape (rows, columns)."""

    rule: str
    lower: Doubles
    upper: Doubles

    def rows(self, first_row: int, count: int) -> "Bound":
        """The same rule for some of the rows."""
        rows = slice(first_row, first_row + count)
        return Bound(self.rule, self.lower[rows], self.upper[rows])


@dataclass(frozen=True, eq=False)
class Envelope:
    """All limits of one vehicle.

    Attributes:
        vehicle_id: whose.
        reference_sha256: hash of the reference map that everything is measured against.
        bounds: the rules that limit single cells.
        limits: the scalar limits.
        budget_nm: largest change from the reference.
        stale_s: a vehicle state older than this is stale.
    """

    vehicle_id: str
    reference_sha256: str
    bounds: tuple[Bound, ...]
    limits: GuardLimits
    budget_nm: float
    stale_s: float

    @classmethod
    def of(cls, vehicle: Vehicle) -> "Envelope":
        """The envelope of ``vehicle`` around its default map.

        Raises:
            ConfigError: the config lacks what a limit is made of, or the default map itself is outside.
        """
        reference = vehicle.default_map()
        envelope = cls(
            vehicle.id,
            reference.sha256(),
            _bounds(vehicle, reference),
            vehicle.guard,
            vehicle.torque_map.budget_nm,
            vehicle.guard.stale_periods / vehicle.sampling.rate_hz,
        )
        outside = envelope.check(reference)
        if outside is not None:
            message = (
                f"vehicle {vehicle.id}: its default map, which must always be allowed, is outside its own "
                f"limits: {outside.reason}; correct guard: or torque_map: in its file"
            )
            raise ConfigError(message)
        return envelope

    def check(self, table: TorqueMap) -> Refusal | None:
        """The first rule that a whole map breaks, rates aside; None: it is inside."""
        values = table.table.astype(np.float64)
        for bound in self.bounds:
            for limit, wrong in ((bound.lower, values < bound.lower), (bound.upper, values > bound.upper)):
                if wrong.any():
                    row, column = (int(index) for index in np.argwhere(wrong)[0])
                    side = "least" if limit is bound.lower else "most"
                    reason = (
                        f"{place(table, row, column)}: {values[row, column]:.3f} Nm, at {side} "
                        f"{limit[row, column]:.3f} Nm by rule {bound.rule}"
                    )
                    return Refusal(bound.rule, reason)
        broken = first_break(values, self.limits.neighbour_step_nm)
        if broken is None:
            return None
        what, row, column, step = broken
        reason = (
            f"{place(table, row, column)}: {what} by {step:.3f} Nm to the next cell, allowed are 0 to "
            f"{self.limits.neighbour_step_nm:g} Nm along the pedal and as much either way along the speed"
        )
        return Refusal("shape", reason)

    def sha256(self) -> str:
        """Hash over all limits: what a campaign token names as its bounds."""
        scalars = self.limits.model_dump(mode="json", exclude={"campaign_key", "campaign_required"})
        digest = hashlib.sha256(json.dumps(scalars, sort_keys=True).encode())
        digest.update(
            f"{self.vehicle_id} {self.reference_sha256} {self.budget_nm!r} {self.stale_s!r}".encode()
        )
        for bound in self.bounds:
            digest.update(bound.rule.encode())
            for side in (bound.lower, bound.upper):
                digest.update(np.ascontiguousarray(side, dtype="<f8").tobytes())
        return digest.hexdigest()


def place(table: TorqueMap, row: int, column: int) -> str:
    """A cell in words."""
    return (
        f"row {row}, column {column} ({table.speed_axis_kmh[row]:g} km/h, "
        f"pedal {100 * table.pedal_axis[column]:g} %)"
    )


def _bounds(vehicle: Vehicle, reference: TorqueMap) -> tuple[Bound, ...]:
    limits, budget = vehicle.guard, vehicle.torque_map.budget_nm
    table = reference.table.astype(np.float64)
    speed = reference.speed_axis_kmh.astype(np.float64)
    positive = table > 0
    free_below, free_above = np.full(table.shape, -np.inf), np.full(table.shape, np.inf)

    factor_max = min(limits.positive_factor_max, vehicle.torque_map.upper_factor)
    factor = Bound(
        "factor",
        np.where(positive, up(table * limits.positive_factor_min), free_below),
        np.where(positive, down(table * factor_max), table),
    )
    # Torque x speed against the row's own power: the speed is the same on both sides, and 0 x torque is 0.
    most = np.broadcast_to(table.max(axis=1, keepdims=True), table.shape)
    power = Bound("power", free_below, np.where(speed[:, None] > 0, most, free_above))

    def at_pedal_zero(rule: str, lower: Doubles) -> Bound:
        cells = free_below.copy()
        cells[:, 0] = up(lower)
        return Bound(rule, cells, free_above)

    # Below 7 km/h the map is interpolated from every row whose neighbour below lies there.
    felt = np.concatenate(([True], speed[:-1] < limits.no_regen_below_kmh))
    return (
        Bound("budget", up(table - budget), down(table + budget)),
        factor,
        power,
        at_pedal_zero("pedal_zero", table[:, 0] - limits.pedal_zero_drop_nm),
        at_pedal_zero("lift_off", _lift_off_floor(vehicle, speed)),
        at_pedal_zero("no_regen", np.where(felt, 0.0, -np.inf)),
    )


def _lift_off_floor(vehicle: Vehicle, speed_kmh: Doubles) -> Doubles:
    """The torque at which lifting off decelerates as strongly as allowed, level road, no wind, Nm.

    The braking torque acts on the wheels divided by the driveline's efficiency. Between two rows the torque
    is a line and the drag curved upwards, so the rows are the worst places.
    """
    road, limits = vehicle.road, vehicle.guard
    shaft = limits.shaft_rad_per_m
    if shaft is None and vehicle.torque_map.formula is not None:
        shaft = vehicle.torque_map.formula.shaft_rad_per_m
    if shaft is None:
        message = (
            f"vehicle {vehicle.id}: guard.shaft_rad_per_m is missing and no torque_map.formula gives it; "
            "write there gear ratio / wheel radius of the shaft that the map acts on, rad/m"
        )
        raise ConfigError(message)
    resistance = (
        road.mass_kg * GRAVITY * road.rolling_resistance
        + 0.5 * road.air_density_kg_m3 * road.drag_area_m2 * (speed_kmh / 3.6) ** 2
    )
    allowed = limits.lift_off_deceleration_mps2 * road.mass_kg * road.rotating_mass_factor
    return -(allowed - resistance) * limits.driveline_efficiency / shaft
