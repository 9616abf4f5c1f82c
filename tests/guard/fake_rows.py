"""A vehicle behind a service in memory: takes rows, confirms or fails as told; and a guard in front of it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tests.guard.fake_target import Clock
from tests.guard.vehicles import limited, rows_of
from tspace_core.config import TorqueMap, Vehicle, load_vehicle
from tspace_core.errors import LinkError, RemoteNetworkError, RemoteServiceError, RemoteVehicleError
from tspace_core.guard.audit import AuditLog, read
from tspace_core.guard.remote import RemoteGuard
from tspace_core.guard.state import FlashOutcome, Proposal, VehicleState

Floats = NDArray[np.float32]
Fault = Literal["", "refused", "lost", "answer lost", "half", "unclear", "bug", "bug after"]
FAULTS: tuple[Fault, ...] = ("refused", "lost", "answer lost", "half", "unclear", "bug", "bug after")
"""Certainly unchanged; unclear, not done; unclear, done; done by half; an error of another tree; bugs."""
LASTING = 303


def code_of(error: LinkError) -> int:
    return 2 if getattr(error, "code", None) == LASTING else 4


@dataclass
class FakeRows:
    """A `RowsTarget`; ``table`` is what the vehicle drives by.

    Attributes:
        faults: of the calls to come, by their number from 0; others go well.
        broken: fault of every call that ``faults`` does not name.
        cost_s: how far each call moves the clock.
        before: called with the number of the call before anything is done; may raise or act.
        doubled: calls of which an earlier try may still be carried out.
        after: the same when the rows are in effect and the answer is not given yet.
    """

    table: Floats
    clock: Clock
    faults: dict[int, Fault] = field(default_factory=dict)
    broken: Fault = ""
    cost_s: float = 0.2
    calls: list[tuple[int, Floats]] = field(default_factory=list)
    limits_s: list[float] = field(default_factory=list)
    aborts: list[str] = field(default_factory=list)
    before: Callable[[int], None] | None = None
    after: Callable[[int], None] | None = None
    refusing: bool = False
    doubled: set[int] = field(default_factory=set)

    def send(self, first_row: int, rows: Floats, *, timeout_s: float) -> bool:
        number = len(self.calls)
        self.calls.append((first_row, rows.copy()))
        self.limits_s.append(timeout_s)
        self.clock.pass_s(self.cost_s)
        fault = self.faults.get(number, self.broken)
        if self.before is not None:
            self.before(number)
        if self.refusing:
            raise RemoteNetworkError("aborted before it began", 1001, unchanged=True)
        if fault == "refused":
            raise RemoteServiceError("code 304, tsp: car offline", 304, unchanged=True)
        if fault == "lost":
            raise RemoteNetworkError("code 1002, network timeout", 1002, unchanged=False)
        if fault == "bug":
            raise ZeroDivisionError
        done = rows[: len(rows) // 2] if fault == "half" else rows
        self.table[first_row : first_row + len(done)] = done
        if self.after is not None:
            self.after(number)
        if fault == "answer lost":
            raise RemoteNetworkError("code 1002, network timeout", 1002, unchanged=False)
        if fault == "half":
            raise RemoteVehicleError("code 311, tbox returned an error", 311, unchanged=False)
        if fault == "unclear":
            raise LinkError("something else")
        if fault == "bug after":
            raise ZeroDivisionError
        return number not in self.doubled

    def abort(self, cause: str) -> None:
        self.aborts.append(cause)
        self.refusing = True

    def resume(self) -> None:
        self.refusing = False

    def sent_reference(self, reference: TorqueMap, since: int = 0) -> int:
        """How many calls were the whole reference map."""
        return sum(first == 0 and np.array_equal(rows, reference.table) for first, rows in self.calls[since:])


class RemoteRig:
    """A `RemoteGuard` on a vehicle in memory, with an agent that lives and tells of its windows."""

    def __init__(
        self,
        folder: Path,
        vehicle: Vehicle,
        *,
        table: Floats | None = None,
        wrap: Callable[[FakeRows], Any] | None = None,
    ) -> None:
        self.vehicle = vehicle
        self.clock = Clock()
        self.target = FakeRows(vehicle.default_map().table.copy() if table is None else table, self.clock)
        self.audit = AuditLog(folder / "audit.jsonl", self.clock)
        self.guard = RemoteGuard(
            vehicle,
            self.target if wrap is None else wrap(self.target),
            self.audit,
            now_ns=self.clock,
            utc_ns=self.clock,
            code_of=code_of,
        )
        self.sample = VehicleState(45.0, 30.0, 0.0, 0)
        self.number = 0
        self.alive = True

    def drive(self, seconds: float, *, windows: bool = True) -> None:
        """A sample at the end of each 0.5 s; heartbeats and ticks 20 times a second."""
        for turn in range(round(seconds * 20)):
            self.clock.pass_s(0.05)
            if windows and turn % 10 == 0:
                self.observe()
            if self.alive:
                self.guard.heartbeat()
            self.guard.tick()

    def observe(self, age_s: float = 0.0, **changes: Any) -> None:
        at_ns = self.clock() - round(age_s * 1e9)
        self.guard.observe(replace(self.sample, at_ns=at_ns, **changes))

    def arm(self, **given: Any) -> None:
        answer = self.guard.arm(**{"by": "test", "token": None, "resume": None, **given})
        assert answer.ok, answer.reason
        self.drive(0.1)

    def propose(self, change_nm: float = -10.0, first_row: int = 4) -> FlashOutcome:
        self.number += 1
        rows = rows_of(self.guard.live, first_row) + np.float32(change_nm)
        return self.guard.propose(Proposal(self.number, first_row, rows, self.clock()))

    @property
    def state(self) -> str:
        return self.guard.state

    @property
    def in_effect(self) -> TorqueMap:
        live = self.guard.reference
        return TorqueMap(live.pedal_axis, live.speed_axis_kmh, self.target.table)

    @property
    def events(self) -> list[str]:
        return [entry["event"] for entry in read(self.audit.path)]

    def again(self) -> "RemoteRig":
        """The next process, on the same vehicle and log."""
        self.audit.close()
        return RemoteRig(self.audit.path.parent, self.vehicle, table=self.target.table)


def remote_rig(folder: Path, **limits: Any) -> RemoteRig:
    return RemoteRig(folder, limited(load_vehicle("twin_remote"), **limits))


def learned(rig: RemoteRig) -> RemoteRig:
    """Armed, with a flash in effect."""
    rig.arm()
    rig.drive(1.0)
    outcome = rig.propose()
    assert outcome.result == "APPLIED", outcome.reason
    assert rig.in_effect != rig.guard.reference
    return rig
