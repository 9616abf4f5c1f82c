"""One run of the world in which something dies at one moment, and what must hold from then on."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest

from tests.safety.cab import Cab, clocked
from tests.safety.wire import Killed, Wire, corrupt, doubled, late, lost
from tspace_core.config import Vehicle, load_vehicle
from tspace_core.guard.audit import AuditLog, read, verify
from tspace_core.twin.xcp_slave import SILENCE_S

QUICK = next((str(path) for path in (Path("/dev/shm"),) if os.access(path, os.W_OK)), None)
"""Where the audit logs lie: in memory where that can be had, since each line waits for its disk."""
BACK_S = 3.0
"""This long after anything died the VCU drives by its reference map."""
DEATHS = (
    "agent",
    "bridge",
    "bridge",  # twice as often: it is the one that holds the flash
    "bridge and agent",
    "vcu",
    "everything",
    "revert key",
    "stop",
    "stall",
    "lost frame",
    "late frame",
    "doubled frame",
    "corrupt frame",
)
Mutation = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Setup:
    """A vehicle and its bus."""

    vehicle: str
    fd: bool
    block_mode: bool
    seed: int

    def __str__(self) -> str:
        frames = "fd" if self.fd else "classic"
        return f"{self.vehicle}, {frames}, {'' if self.block_mode else 'no '}blocks, seed {self.seed}"


@dataclass(frozen=True)
class Kill:
    """What dies, and at which moment of the run; ``seed`` decides what else there is to decide."""

    what: str
    moment: int
    seed: int


class InvariantError(AssertionError):
    """Something is in effect that must not be."""


@cache
def vehicle_of(name: str) -> Vehicle:
    return load_vehicle(name)


class KillRun:
    """One run.

    Args:
        folder: of the audit log.
        setup: vehicle, bus and script.
        kill: None: nothing dies.
        silence_s: of the VCU's own supervision.
    """

    def __init__(
        self, folder: Path, setup: Setup, kill: Kill | None, *, silence_s: float = SILENCE_S
    ) -> None:
        self.folder, self.setup, self.kill = folder, setup, kill
        self.wire = Wire(
            vehicle_of(setup.vehicle), fd=setup.fd, block_mode=setup.block_mode, silence_s=silence_s
        )
        self.chance = Random(kill.seed if kill else 0)
        self.killed_ns: int | None = None
        self.moments = 0
        self.page_then: int | None = None  # in effect when it was killed
        self.cab: Cab

    def run(self, mutation: Mutation | None = None) -> None:
        """Run it to its end.

        Raises:
            InvariantError: with all that is needed to run it again.
        """
        with clocked(self.wire) as patch:
            if mutation is not None:
                mutation(patch)
            if self.kill is not None:
                self.wire.plan[self.kill.moment] = partial(self._die, self.kill.what)
            self.cab = Cab(self.wire, self.folder, self.setup.seed)
            try:
                self.cab.run()
            except Killed:
                self._look()
                self._without_bridge()
            self.moments = self.wire.moments
            self._look()
            self._at_the_end()

    def _die(self, what: str) -> None:
        cab, wire = self.cab, self.wire
        self.killed_ns, self.page_then = wire.ns, wire.vcu.page
        match what:
            case "agent":
                cab.agent.alive = False
                self._check_back()
            case "bridge":
                cab.bridge.life.alive = False
            case "bridge and agent":
                cab.bridge.life.alive = cab.agent.alive = False
            case "vcu":
                wire.restart_vcu()
                self._check_back()
            case "everything":
                cab.bridge.life.alive = cab.agent.alive = False
                wire.restart_vcu()
            case "revert key":
                cab.bridge.revert()
                cab.leave_it()
                self._check_back()
            case "stop":
                cab.ends_ns = wire.ns
            case "stall":
                wire.run_until(wire.ns + round(self.chance.choice([0.1, 0.6, 1.9, 2.1, 5.0]) * 1e9))
            case "lost frame":
                wire.tamper_next(lost)
            case "late frame":
                wire.tamper_next(late(self.chance))
            case "doubled frame":
                wire.tamper_next(doubled)
            case "corrupt frame":
                wire.tamper_next(corrupt(self.chance))
            case _:
                raise ValueError(what)

    def _check_back(self) -> None:
        """The bridge lives on, and is stopped in order when the VCU must have been back for a while."""
        assert self.killed_ns is not None
        self.cab.ends_ns = self.killed_ns + round(BACK_S * 1e9)
        self.cab.before_end = self._back

    def _back(self) -> None:
        """After the agent's death, a revert or a restart of the VCU, with the bridge still alive."""
        assert self.kill is not None
        guard, vcu = self.cab.bridge.guard, self.wire.vcu
        if self.kill.what == "vcu" and guard.state == "ARMED":
            # The agent is alive and may have had another map flashed, which the witness has judged.
            if not vcu.holds(guard.live.table.astype("<f4").tobytes()):
                self._wrong(f"the guard takes another map for the live one than page {vcu.page} in effect")
            return
        if guard.state == "ARMED":
            self._wrong(f"{BACK_S:g} s later the guard is still armed")
        self._check_reference()

    def _without_bridge(self) -> None:
        """Only the VCU's own supervision is left, and perhaps a new bridge."""
        wire, cab = self.wire, self.cab
        assert self.killed_ns is not None
        back_ns = self.killed_ns + round(BACK_S * 1e9)
        if self.chance.random() < 0.5:
            wire.run_until(back_ns)
            self._check_reference()
            return
        wire.run_until(wire.ns + round(self.chance.uniform(0.0, 1.5) * 1e9))
        begun = wire.ns
        cab.agent.alive = True
        locked = self._last_state() == "LOCKED"
        script: list[tuple[float, Callable[[], None]]] = []
        again = self.chance.random() < 0.5
        if again:
            script = [(0.2, cab.clear), (0.3, partial(cab.arm, resume=True)), (1.5, cab.propose)]
        cab.begin_again(script)
        if locked and cab.bridge.guard.state != "LOCKED":
            self._wrong("a lock ended with the process, without a person")
        cab.ends_ns = max(back_ns, begun + 2_000_000_000)
        if not again:
            cab.before_end = self._check_reference
        cab.run()

    def _last_state(self) -> str | None:
        """The guard's state as the newest whole line of the audit log says."""
        state = None
        for entry in read(self.folder / "audit.jsonl"):
            state = entry.get("guard", state)
        return state

    def _at_the_end(self) -> None:
        """The bridge was stopped in order, or the VCU fell back: nothing but the reference map is left."""
        wire = self.wire
        wire.run_until(wire.ns + round(BACK_S * 1e9))
        self._check_reference()
        self._look()
        path = self.folder / "audit.jsonl"
        AuditLog(path, wire.now_ns).close()  # moves a torn line aside, as every start of a bridge does
        report = verify(path)
        if not report.ok:
            self._wrong(f"the audit log does not hold: {report.problems}")
        if self.kill is None or self.kill.what not in ("stall", "revert key", "vcu", "everything"):
            self._check_answers()

    def _check_answers(self) -> None:
        """What an agent was answered is what is in effect."""
        for asked in self.cab.agent.answers:
            first = asked.outcome.first_row
            rows = asked.live.table[first : first + 4]
            if asked.outcome.result == "APPLIED" and asked.outcome.rows.tobytes() != rows.tobytes():
                self._wrong(f"proposal {asked.proposal.id} was answered with rows that are not live")
            if asked.outcome.result != "UNKNOWN" and asked.in_effect != asked.live:
                self._wrong(f"proposal {asked.proposal.id}: {asked.outcome.result}, another map is in effect")

    def _check_reference(self) -> None:
        if self.wire.vcu.page != self.wire.vcu.reference_page:
            self._wrong(f"page {self.wire.vcu.page} is in effect, not the reference page")

    def _look(self) -> None:
        if self.wire.witness.broken:
            self._wrong(self.wire.witness.broken[0])

    def _wrong(self, what: str) -> None:
        message = f"{what} ({self.setup}; {self.kill})"
        raise InvariantError(message)


@cache
def length_of(setup: Setup) -> int:
    """Moments of a run in which nothing dies."""
    with TemporaryDirectory(dir=QUICK) as folder:
        run = KillRun(Path(folder), setup, None)
        run.run()
    return run.moments


def kills(setup: Setup, count: int, chance: Random) -> list[Kill]:
    """So many random kill points, any process, any moment."""
    moments = length_of(setup)
    return [
        Kill(chance.choice(DEATHS), chance.randint(1, moments), chance.randrange(2**32)) for _ in range(count)
    ]


def run_kill(
    setup: Setup, kill: Kill, mutation: Mutation | None = None, *, silence_s: float = SILENCE_S
) -> KillRun:
    """One kill point, in a folder of its own."""
    with TemporaryDirectory(dir=QUICK) as folder:
        run = KillRun(Path(folder), setup, kill, silence_s=silence_s)
        run.run(mutation)
    return run
