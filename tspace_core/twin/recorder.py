"""Records simulated drives as CAN logs, as a logger on the bus would, with the flash journal beside."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import TwinError
from tspace_core.records.flash_journal import Flash, write_journal
from tspace_core.twin.blf_writer import write_blf
from tspace_core.twin.can_frames import FrameMaker
from tspace_core.twin.cycles import load_route
from tspace_core.twin.decisions import AppliedFlash, DecisionLoop, PolicyCall
from tspace_core.twin.fleet import Fleet
from tspace_core.twin.route import Route
from tspace_core.twin.trace import Trace
from tspace_core.twin.truck import twin_parameters

DEFAULT_START = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
JOURNAL_SUFFIX = ".flashes.jsonl"


@dataclass(frozen=True)
class DriveSummary:
    """What was recorded.

    Attributes:
        path: the log.
        journal: the flash journal beside it; None where no policy drove.
        vehicle_id, driver_id, cycle, seed: what was driven.
        start: instant of the log's header, UTC.
        frames: CAN frames in the log.
        flashes: flashes that took effect.
        duration_s: trip time.
        distance_m: distance driven.
        energy_wh: energy taken from the battery's terminals, discharge positive.
    """

    path: Path
    journal: Path | None
    vehicle_id: str
    driver_id: str
    cycle: str
    seed: int
    start: datetime
    frames: int
    flashes: int
    duration_s: float
    distance_m: float
    energy_wh: float


def journal_path(log: Path) -> Path:
    """The flash journal that belongs to a log."""
    return log.with_name(log.name + JOURNAL_SUFFIX)


def record_drive(
    vehicle: Vehicle,
    driver: str,
    cycle: str | Route,
    seed: int,
    path: Path,
    policy: PolicyCall | None = None,
    *,
    start: datetime = DEFAULT_START,
) -> DriveSummary:
    """Drive a route once and write what the bus carried to a BLF file.

    The same arguments give the same file, byte for byte.

    Args:
        vehicle: a vehicle with a twin.
        driver: id of a simulated driver.
        cycle: name of a cycle, or a route; driven by place. The generated route is that of ``seed``.
        seed: of the driver's foot, the bus's jitter and the generated route.
        path: the log, ``*.blf``; overwritten. The journal goes to ``<path>.flashes.jsonl``.
        policy: decides every two windows on the window before, states (1, state_dim) -> actions (1, 68);
            None: the default map stays live and there is no journal.
        start: instant of the log's first stamp, kept to the millisecond.

    Raises:
        TwinError: the path is no ``*.blf``, the start has no time zone, the vehicle has no twin, or its DBC
            does not carry the twin's signals.
    """
    if path.suffix.lower() != ".blf":
        message = f"{path}: the twin records BLF; let the name end with .blf"
        raise TwinError(message)
    if start.tzinfo is None:
        message = f"start {start.isoformat()} has no time zone; give an instant, for example with tzinfo=UTC"
        raise TwinError(message)
    start = start.astimezone(UTC).replace(microsecond=start.microsecond // 1000 * 1000)
    rate_hz = 1.0 / twin_parameters(vehicle).step_s
    route = load_route(cycle, seed if cycle == "truck_route" else 0) if isinstance(cycle, str) else cycle
    fleet = Fleet(vehicle, route, [driver], [seed], rate_hz=rate_hz)
    maker = FrameMaker(vehicle, seed)
    trace, flashes = _drive(fleet, policy)
    frames = maker.frames(trace, 0, rate_hz)
    write_blf(path, frames, start)
    journal = journal_path(path)
    if policy is None:
        journal.unlink(missing_ok=True)
    else:
        start_ns = round(start.timestamp() * 1000) * 1_000_000
        write_journal(journal, [_entry(flash, start_ns) for flash in flashes])
    return DriveSummary(
        path=path,
        journal=None if policy is None else journal,
        vehicle_id=vehicle.id,
        driver_id=driver,
        cycle=route.name,
        seed=seed,
        start=start,
        frames=len(frames),
        flashes=len(flashes),
        duration_s=float(fleet.elapsed_s[0]),
        distance_m=float(fleet.distance_m[0]),
        energy_wh=float(fleet.energy_wh[0]),
    )


def _drive(fleet: Fleet, policy: PolicyCall | None) -> tuple[Trace, list[AppliedFlash]]:
    if policy is None:
        return fleet.run(), []
    loop = DecisionLoop(fleet)
    window = loop.first_window()
    blocks = [window]
    flashes: list[AppliedFlash] = []
    limit_s = fleet.route.time_limit_s
    while not np.all(fleet.done):
        if fleet.elapsed_s[0] > limit_s:
            message = (
                f"{fleet.vehicle.id} has not reached the end of {fleet.route.name} within {limit_s:.0f} s; "
                f"it is at {fleet.distance_m[0]:.0f} of {fleet.route.length_m:.0f} m: is the policy too weak?"
            )
            raise TwinError(message)
        step = loop.step(window, policy(loop.states(window)))
        flashes.extend(flash for flash in step.flashes if flash is not None)
        blocks.extend((step.half_step, step.window))
        window = step.window
    return Trace.concat(blocks), flashes


def _entry(flash: AppliedFlash, start_ns: int) -> Flash:
    return Flash(start_ns + round(flash.time_s * 1e9), flash.first_row, flash.torque_nm, "APPLIED")
