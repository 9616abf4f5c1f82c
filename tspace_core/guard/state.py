"""What the guard is told about the vehicle, and what it answers: plain data, nothing that acts."""

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tspace_core.config.guard import GuardLimits
from tspace_core.config.torque_map import FLASHED_ROWS, TorqueMap

GuardState = Literal["DISARMED", "ARMED", "LOCKED"]
FlashResult = Literal["APPLIED", "REFUSED", "REVERTED", "UNKNOWN"]
Rows = NDArray[np.float32]


@dataclass(frozen=True)
class VehicleState:
    """One sample of what the driver and the vehicle do.

    Attributes:
        velocity_kmh: speed, km/h.
        thrust_percent: accelerator pedal, % of full travel.
        brake_percent: brake pedal, % of full travel.
        at_ns: when the oldest of them was sampled, on the guard's monotonic clock, ns.
        valid: whether who decoded it holds it for usable (stale, voltage, current, sentinels, ...).
        reason: why not.
        counter_errors: wrong message counters and checksums since the sample before.
        other_velocity_kmh: speed from a second source, km/h, where the vehicle has one.
    """

    velocity_kmh: float
    thrust_percent: float
    brake_percent: float
    at_ns: int
    valid: bool = True
    reason: str = ""
    counter_errors: int = 0
    other_velocity_kmh: float | None = None


def implausible(state: VehicleState, limits: GuardLimits) -> str | None:
    """Why a sample must not be relied on, with value and limit; None where it may be."""
    if not state.valid:
        return state.reason or "marked invalid by who decoded it"
    for name, value, most in (
        ("velocity", state.velocity_kmh, math.inf),
        ("thrust", state.thrust_percent, 100.0),
        ("brake", state.brake_percent, 100.0),
    ):
        if not math.isfinite(value):
            return f"{name} is {value}, no number"
        if not 0.0 <= value <= most:
            return f"{name} is {value:g}, possible is 0 to {most:g}"
    if state.other_velocity_kmh is not None:
        apart = abs(state.velocity_kmh - state.other_velocity_kmh) / 3.6
        if not apart <= limits.speed_difference_mps:
            return f"two speed sources are {apart:.2f} m/s apart, at most {limits.speed_difference_mps:g}"
    if min(state.thrust_percent, state.brake_percent) > limits.both_pedals_percent:
        return (
            f"accelerator {state.thrust_percent:g} % and brake {state.brake_percent:g} % together, "
            f"more than {limits.both_pedals_percent:g} % each"
        )
    return None


@dataclass(frozen=True, eq=False)
class Proposal:
    """Four rows that an agent wants flashed.

    Attributes:
        id: number of the proposal, unique within a run.
        first_row: index of the first of the rows.
        rows: torque in Nm, float32, shape (4, columns).
        decided_ns: when the agent decided, on the guard's monotonic clock, ns.
    """

    id: int
    first_row: int
    rows: Rows
    decided_ns: int


@dataclass(frozen=True, eq=False)
class AppliedRows:
    """A flash that took effect.

    Attributes:
        at_ns: when, on the guard's monotonic clock, ns.
        first_row: index of the first row.
        before, after: the rows before and after it, Nm, shape (rows, columns).
    """

    at_ns: int
    first_row: int
    before: Rows
    after: Rows


@dataclass(frozen=True)
class Accepted:
    """A map that may be flashed.

    Attributes:
        table: the whole live map as it will be.
        first_row: index of the first flashed row.
        clipped: by rule, how many cells of the proposal the rule changed; empty: taken as proposed.
    """

    table: TorqueMap
    first_row: int
    clipped: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """A map that may not be flashed: the rule, and why with value and limit."""

    rule: str
    reason: str


@dataclass(frozen=True, eq=False)
class ArmResult:
    """Answer to `arm`: ``resumed`` says whether the given map is in effect; ``reason`` also why it is not."""

    ok: bool
    reason: str
    resumed: bool
    live: TorqueMap


@dataclass(frozen=True, eq=False)
class FlashOutcome:
    """What became of a proposal.

    Attributes:
        result: only APPLIED means that the VCU drives by ``rows``: read back, or confirmed by the service.
        code: 0, or the failure code 1 to 4 of a flash over CAN; 2 and 4 through the remote CAN service.
        reason: why, where it was not applied.
        first_row: index of the first row.
        rows: these rows as they are live after it, Nm, float32, shape (4, columns).
        effect_ns: when they took effect, on the guard's monotonic clock; None unless APPLIED.
        duration_s: from the call to the answer, s.
        clipped: by rule, cells that were changed before the flash.
    """

    result: FlashResult
    code: int
    reason: str
    first_row: int
    rows: Rows
    effect_ns: int | None
    duration_s: float
    clipped: dict[str, int] = field(default_factory=dict)


def outcome(
    live: TorqueMap,
    proposal: Proposal,
    duration_ns: int,
    result: FlashResult,
    code: int,
    reason: str,
    *,
    effect_ns: int | None = None,
    clipped: dict[str, int] | None = None,
) -> FlashOutcome:
    """The answer to a proposal, with its rows as they are live, or the nearest rows that exist."""
    last, first = len(live.table) - FLASHED_ROWS, proposal.first_row
    row = min(max(int(first), 0), last) if isinstance(first, int | np.integer) else 0
    return FlashOutcome(
        result,
        code,
        reason,
        first,
        np.array(live.table[row : row + FLASHED_ROWS]),
        effect_ns if result == "APPLIED" else None,
        duration_ns / 1e9,
        clipped or {},
    )
