"""The vehicles that the guard's tests are inherited by, and what they need again and again."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.guard.fake_target import Clock, FakeTarget
from tspace_core.config import FLASHED_ROWS, TorqueMap, Vehicle, load_vehicle, vehicle_ids
from tspace_core.guard.audit import AuditLog, read
from tspace_core.guard.envelope import Envelope
from tspace_core.guard.flash_guard import FlashGuard
from tspace_core.guard.state import Accepted, AppliedRows, FlashOutcome, Proposal, Refusal, VehicleState

FLASHED_VEHICLES = [name for name in vehicle_ids() if load_vehicle(name).xcp is not None]
NOW = 1_000_000_000_000
SECOND = 1_000_000_000
Floats = NDArray[np.float32]


def limited(vehicle: Vehicle, **limits: Any) -> Vehicle:
    """The vehicle with other guard limits."""
    return vehicle.model_copy(update={"guard": vehicle.guard.model_copy(update=limits)})


@cache
def envelope_of(name: str) -> Envelope:
    return Envelope.of(load_vehicle(name))


@cache
def reference_of(name: str) -> TorqueMap:
    return load_vehicle(name).default_map()


def with_rows(table: TorqueMap, first_row: int, rows: NDArray[Any]) -> TorqueMap:
    """The map with some rows replaced."""
    cells = table.table.copy()
    cells[first_row : first_row + len(rows)] = rows
    return TorqueMap(table.pedal_axis, table.speed_axis_kmh, cells)


def rows_of(table: TorqueMap, first_row: int) -> Floats:
    """A copy of four rows that may be changed."""
    return np.array(table.table[first_row : first_row + FLASHED_ROWS])


def driving(velocity_kmh: float = 45.0, thrust_percent: float = 30.0, at_ns: int = NOW) -> VehicleState:
    return VehicleState(velocity_kmh, thrust_percent, 0.0, at_ns)


def taken(answer: Accepted | Refusal) -> Accepted:
    assert isinstance(answer, Accepted), answer
    return answer


def refused(answer: Accepted | Refusal) -> Refusal:
    assert isinstance(answer, Refusal), answer
    return answer


def applied(first_row: int, before: TorqueMap, after: TorqueMap, at_ns: int) -> AppliedRows:
    return AppliedRows(at_ns, first_row, rows_of(before, first_row), rows_of(after, first_row))


class Rig:
    """A guard on a VCU in memory, with an agent that lives and a truck that drives.

    ``audit``: the log's file; ``target``: the VCU; ``clock``: moves with every command and with `drive`.
    """

    def __init__(
        self,
        folder: Path,
        vehicle: Vehicle,
        *,
        wrap: Callable[[FakeTarget], Any] | None = None,
    ) -> None:
        self.vehicle = vehicle
        self.clock = Clock()
        self.target = FakeTarget.of(vehicle, self.clock)
        self.audit = AuditLog(folder / "audit.jsonl", self.clock)
        self.guard = FlashGuard(
            vehicle,
            self.target if wrap is None else wrap(self.target),
            self.audit,
            now_ns=self.clock,
            utc_ns=self.clock,
        )
        self.sample = VehicleState(45.0, 30.0, 0.0, 0)
        self.number = 0
        self.alive = True

    def drive(self, seconds: float) -> None:
        """20 samples, heartbeats and ticks a second."""
        for _ in range(round(seconds * 20)):
            self.clock.pass_s(0.05)
            self.guard.observe(replace(self.sample, at_ns=self.clock()))
            if self.alive:
                self.guard.heartbeat()
            self.guard.tick()

    def arm(self, **given: Any) -> None:
        self.drive(0.1)
        answer = self.guard.arm(by="test", token=None, resume=None, **given)
        assert answer.ok, answer.reason

    def propose(self, change_nm: float = -10.0, first_row: int = 4) -> FlashOutcome:
        """Four live rows moved by so much; clipped where that leaves the envelope."""
        self.number += 1
        rows = rows_of(self.guard.live, first_row) + np.float32(change_nm)
        return self.guard.propose(Proposal(self.number, first_row, rows, self.clock()))

    @property
    def state(self) -> str:
        return self.guard.state

    @property
    def in_effect(self) -> TorqueMap:
        """The map that the VCU drives by."""
        live = self.guard.reference
        return TorqueMap(live.pedal_axis, live.speed_axis_kmh, self.target.in_effect)


every_vehicle = pytest.mark.parametrize("name", FLASHED_VEHICLES)
STILL = VehicleState(0.0, 0.0, 20.0, 0)


def rig_of(folder: Path, name: str = "twin_truck", **limits: Any) -> Rig:
    return Rig(folder, limited(load_vehicle(name), **limits))


def learned(rig: Rig) -> Rig:
    """Armed, with a flash in effect."""
    rig.arm()
    rig.drive(1.0)
    assert rig.propose().result == "APPLIED"
    return rig


def events(rig: Rig) -> list[str]:
    return [entry["event"] for entry in read(rig.audit.path)]
