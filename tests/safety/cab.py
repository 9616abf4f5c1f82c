"""A bridge and an agent on the wire: the real master, calibration, guard and guard's task, in one thread."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.safety.wire import Killed, Life, Wire, WireEvent, WireTransport
from tspace_core.bridge.guard_task import GuardTask
from tspace_core.config.loading import load_vehicle
from tspace_core.config.torque_map import FLASHED_ROWS, TorqueMap
from tspace_core.config.vehicle import Vehicle
from tspace_core.guard import judge
from tspace_core.guard.audit import AuditLog
from tspace_core.guard.flash_guard import FlashGuard
from tspace_core.guard.state import ArmResult, FlashOutcome, Proposal, VehicleState
from tspace_core.link import xcp_session
from tspace_core.link.calibration import Calibration
from tspace_core.link.xcp import XcpMaster

TURN_S = 0.05
"""One turn of the guard's task on the simulated clock."""
HEARTBEAT_S = 0.1


_parse_default_map = Vehicle.default_map


@cache
def _default_map(vehicle_id: str) -> TorqueMap:
    return _parse_default_map(load_vehicle(vehicle_id))


@contextmanager
def clocked(wire: Wire) -> Iterator[pytest.MonkeyPatch]:
    """The XCP master lives on the wire's clock, and the witness hears what the guard accepts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(xcp_session, "time", SimpleNamespace(monotonic=lambda: wire.ns / 1e9))
        patch.setattr(xcp_session, "threading", SimpleNamespace(Event=partial(WireEvent, wire)))
        # A process parses its map's file a few times when it starts; here thousands start.
        patch.setattr(Vehicle, "default_map", lambda vehicle: _default_map(vehicle.id))
        for rule in ("guard", "guard_resume"):
            patch.setattr(judge, rule, wire.witness.accepting(getattr(judge, rule)))
        yield patch


class MortalLog(AuditLog):
    """An audit log whose process may die before, within and after a line."""

    def __init__(self, path: Path, wire: Wire, life: Life) -> None:
        self._wire, self._life = wire, life
        super().__init__(path, wire.now_ns)

    def _write(self, line: bytes) -> None:
        self._life.check()
        self._wire.moment(self._life)
        try:
            self._wire.moment(self._life)
        except Killed:
            os.write(self._file, line[: len(line) // 2])
            raise
        super()._write(line)
        self._wire.moment(self._life)


class Turns(threading.Event):
    """The event that ends a guard's task; each time it is asked, the world goes on by one turn."""

    def __init__(self, turn: Callable[[], bool]) -> None:
        super().__init__()
        self._turn = turn

    def is_set(self) -> bool:
        return self._turn()


class BridgeProcess:
    """What a bridge's process holds of the way to the VCU."""

    def __init__(self, wire: Wire, folder: Path) -> None:
        vehicle = wire.vehicle
        assert vehicle.xcp is not None
        self.wire = wire
        self.life = Life()
        self.transport = WireTransport(wire, self.life)
        self.audit = MortalLog(folder / "audit.jsonl", wire, self.life)
        wire.witness.recorded = self._announced
        try:
            self.calibration = Calibration(XcpMaster(self.transport, vehicle.xcp), vehicle)
            self.guard = FlashGuard(
                vehicle, self.calibration, self.audit, now_ns=wire.now_ns, utc_ns=wire.now_ns
            )
        except BaseException:
            self.audit.close()
            raise
        self.task = GuardTask(self.guard, lambda _state, _cause: None)
        self._reverts: list[threading.Thread] = []

    def run(self, turn: Callable[[], bool]) -> None:
        """The guard's task until ``turn`` says that it is over; whatever ends it, the process is gone then.

        Raises:
            Killed: it was killed.
        """

        def one() -> bool:
            self.join()
            if turn():
                return True
            self.task.submit(lambda: None)  # else it would wait on the real clock
            return False

        try:
            self.task.run(Turns(one), lambda: "the test's end")
        finally:
            self.life.alive = False
            self.join()
            self.audit.close()

    def revert(self) -> None:
        """The one-key revert, from a thread of its own, cuts into whatever runs."""
        thread = threading.Thread(target=self._interrupt, name="revert")
        thread.start()
        while self.guard.state == "ARMED" and thread.is_alive():
            thread.join(0.001)  # until it has called off the running flash; the rest waits for the command
        self._reverts.append(thread)

    def _interrupt(self) -> None:
        with suppress(Killed):
            self.guard.interrupt("revert key")

    def join(self) -> None:
        while self._reverts:
            self._reverts.pop().join(10.0)

    def _announced(self) -> str | None:
        last = self.audit.last
        return None if last is None or last["event"] != "flash" else str(last["map_sha256"])


@dataclass
class Asked:
    """What an agent asked for and was answered, the guard's live map then, and the one in effect."""

    proposal: Proposal
    outcome: FlashOutcome
    live: TorqueMap
    in_effect: TorqueMap


class Agent:
    """Sends heartbeats and what its script says; it knows of the vehicle only what it is answered.

    Args:
        vehicle: whose map it changes.
        chance: decides what it proposes; the same for the same seed, whatever happens to it.
    """

    def __init__(self, vehicle: Vehicle, chance: Random) -> None:
        self.alive = True
        self._chance = chance
        self._numbers = np.random.default_rng(chance.randrange(2**32))
        self._shape = vehicle.default_map().table.shape
        self._asked = 0
        self.answers: list[Asked] = []
        self.armed: list[ArmResult] = []
        self.saved: TorqueMap | None = None

    def arm(self, bridge: BridgeProcess, *, resume: bool) -> None:
        def command() -> None:
            table = self.saved if resume else None
            self.armed.append(bridge.guard.arm(by="agent", token=None, resume=table))

        bridge.task.submit(command)

    def propose(self, bridge: BridgeProcess) -> None:
        guard, wire = bridge.guard, bridge.wire
        first_row, rows = self._rows(guard.live)
        proposal = Proposal(len(self.answers), first_row, rows, wire.ns)

        def command() -> None:
            outcome = guard.propose(proposal)
            self.answers.append(Asked(proposal, outcome, guard.live, wire.vcu.active))
            self.saved = guard.live if outcome.result == "APPLIED" else self.saved

        bridge.task.submit(command)

    def _rows(self, live: TorqueMap) -> tuple[int, NDArray[np.float32]]:
        count, columns = self._shape
        first_row = self._chance.randrange(count - FLASHED_ROWS + 1)
        noise = self._numbers.normal(-10.0, 30.0, (FLASHED_ROWS, columns))
        noise *= self._numbers.random(noise.shape) < self._chance.choice([0.1, 0.5, 1.0])
        rows = (live.table[first_row : first_row + FLASHED_ROWS] + noise).astype(np.float32)
        kind = self._chance.random() if self._asked else 1.0  # the first one is never nonsense
        self._asked += 1
        if kind < 0.05:
            rows[1, 2] = np.nan
        elif kind < 0.1:
            first_row = 16
        elif kind < 0.15:
            rows = rows[:, :-1]
        return first_row, rows


class Cab:
    """One bridge after the other, one agent, a driver: what happens when nothing goes wrong.

    Args:
        wire: the VCU.
        folder: of the audit log.
        seed: of all that is proposed and when.
    """

    def __init__(self, wire: Wire, folder: Path, seed: int) -> None:
        self.wire, self.folder = wire, folder
        self.chance = Random(seed)
        self.agent = Agent(wire.vehicle, self.chance)
        self.bridge = BridgeProcess(wire, folder)
        self._script = list(self._plan())
        self._over_s = self._script[-1][0] + 0.3
        self._begun_ns = self._sampled_ns = self._beaten_ns = wire.ns
        self.standing = True
        self.ends_ns: int | None = None  # stopped in order then, whatever the script says
        self.before_end: Callable[[], None] = lambda: None

    def run(self) -> None:
        """Until the script is over, or ``ends_ns``.

        Raises:
            Killed: the bridge was killed.
        """
        self.bridge.run(self.turn)

    def turn(self) -> bool:
        wire = self.wire
        wire.run_until(wire.ns + round(TURN_S * 1e9))
        wire.moment(self.bridge.life)
        while self._sampled_ns + 50_000_000 <= wire.ns:  # also those that came while the guard was busy
            self._sampled_ns += 50_000_000
            self.bridge.task.observe(self._sample(self._sampled_ns))
        if self.agent.alive and wire.ns - self._beaten_ns >= HEARTBEAT_S * 1e9:
            self._beaten_ns = wire.ns
            self.bridge.task.submit(self.bridge.guard.heartbeat)
        passed_s = (wire.ns - self._begun_ns) / 1e9
        while self._script and self._script[0][0] <= passed_s:
            _, act = self._script.pop(0)
            if self.agent.alive:
                act()
        over = passed_s >= self._over_s if self.ends_ns is None else wire.ns >= self.ends_ns
        if over:
            self.before_end()
        return over

    def begin_again(self, script: list[tuple[float, Callable[[], None]]]) -> None:
        """A new bridge, and a script that begins now."""
        self.bridge = BridgeProcess(self.wire, self.folder)
        self._script = script
        self._over_s = script[-1][0] + 0.3 if script else 0.0
        self._begun_ns = self._sampled_ns = self.wire.ns
        self.standing = True

    def arm(self, *, resume: bool = False) -> None:
        self.agent.arm(self.bridge, resume=resume)

    def propose(self) -> None:
        self.standing = False
        self.agent.propose(self.bridge)

    def leave_it(self) -> None:
        """Nobody arms or proposes any more."""
        self._script.clear()

    def clear(self) -> None:
        """A person clears a lock."""
        guard = self.bridge.guard
        self.bridge.task.submit(lambda: guard.clear("a person"))

    def end_episode(self) -> None:
        self.standing = True
        guard = self.bridge.guard
        self.bridge.task.submit(lambda: guard.trip("end of the episode"))

    def flashes(self, at_s: float, count: int) -> Iterator[tuple[float, Callable[[], None]]]:
        """So many proposals; some of them come too early."""
        for _ in range(count):
            yield at_s, self.propose
            at_s += self.chance.choice([0.4, 1.1, 1.2])

    def _plan(self) -> Iterator[tuple[float, Callable[[], None]]]:
        yield 0.2, self.arm
        if self.chance.random() < 0.5:
            yield from self.flashes(0.4, 3)
            return
        yield from self.flashes(0.4, 1)
        yield 0.9, self.end_episode
        yield 1.2, partial(self.arm, resume=True)
        yield from self.flashes(2.3, 2)

    def _sample(self, at_ns: int) -> VehicleState:
        if self.standing:
            return VehicleState(0.0, 0.0, 20.0, at_ns)
        return VehicleState(45.0, 30.0, 0.0, at_ns)
