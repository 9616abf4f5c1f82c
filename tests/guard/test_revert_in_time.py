"""How soon the reference page is in effect, with the real master, a bus, and a VCU that is slow or silent."""

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.guard.fake_target import FakeTarget
from tests.guard.vehicles import Rig
from tspace_core.config import Vehicle, load_vehicle
from tspace_core.config.link import BusConfig
from tspace_core.errors import LinkError, XcpTimeoutError
from tspace_core.guard.audit import AuditLog
from tspace_core.guard.commands import REVERT_LIMIT_S, Commands
from tspace_core.guard.flash_guard import FlashGuard
from tspace_core.guard.state import FlashOutcome, Proposal, VehicleState
from tspace_core.guard.target import FlashTarget, Interruptible
from tspace_core.link.bus import SharedBus
from tspace_core.link.calibration import Calibration
from tspace_core.link.xcp import XcpMaster
from tspace_core.link.xcp_can import XcpCan
from tspace_core.twin.faults import Fault, Faults
from tspace_core.twin.live_bus import XcpNode
from tspace_core.twin.vcu import Vcu
from tspace_core.twin.xcp_slave import XcpSlave

LIMIT_S = 20.0
REVERT_S = 0.3
TRIES = 3
"""A machine may be busy at one key that is pressed; a guard that is slow is so at each."""
FIRST_ROW = 8


class Flashing:
    """A guard that is armed on a simulated VCU behind a virtual bus, its first flash in effect."""

    def __init__(self, folder: Path, theirs: SharedBus, ours: SharedBus, vehicle: Vehicle) -> None:
        assert vehicle.xcp is not None
        self.vehicle, self.vcu, self.faults = vehicle, Vcu(vehicle), Faults()
        slave = XcpSlave(
            self.vcu, now_ns=time.monotonic_ns, on_event=lambda event: self.pages.append(event.page)
        )
        self.pages: list[int] = []
        self.node = XcpNode(theirs, vehicle.xcp, slave, self.faults)
        self.commands = 0
        self.changed = threading.Condition()
        theirs.subscribe(lambda frame: self._count(), [vehicle.xcp.request_id])
        calibration = Calibration(XcpMaster(XcpCan(ours, vehicle.xcp), vehicle.xcp), vehicle)
        audit = AuditLog(folder / "audit.jsonl", time.time_ns)
        self.guard = FlashGuard(vehicle, calibration, audit, now_ns=time.monotonic_ns, utc_ns=time.time_ns)
        self.alive()
        answer = self.guard.arm(by="test", token=None, resume=None)
        assert answer.ok, answer.reason
        assert self.propose(0.99).result == "APPLIED"
        threading.Event().wait(vehicle.guard.flash_interval_s)

    def _count(self) -> None:
        with self.changed:
            self.commands += 1
            self.changed.notify_all()

    def alive(self) -> None:
        self.guard.observe(VehicleState(50.0, 20.0, 0.0, time.monotonic_ns()))
        self.guard.heartbeat()

    def propose(self, factor: float) -> FlashOutcome:
        self.alive()
        rows = np.array(self.vehicle.default_map().table[FIRST_ROW : FIRST_ROW + 4])
        rows[rows > 0] *= np.float32(factor)
        return self.guard.propose(Proposal(1, FIRST_ROW, rows, time.monotonic_ns()))

    def on_reference(self, within_s: float) -> float:
        """Seconds until the reference page is in effect; the VCU looks at its clock meanwhile."""
        begun, pause = time.monotonic(), threading.Event()
        while self.vcu.page != self.vcu.reference_page:
            assert time.monotonic() - begun < within_s, f"not on the reference page within {within_s:g} s"
            self.node.tick()
            pause.wait(0.002)
        return time.monotonic() - begun


@contextmanager
def flashing(folder: Path, *, block_mode: bool = True) -> Iterator[Flashing]:
    vehicle = load_vehicle("twin_truck")
    assert vehicle.xcp is not None
    vehicle = vehicle.model_copy(update={"xcp": vehicle.xcp.model_copy(update={"block_mode": block_mode})})
    bus = BusConfig(interface="virtual", channel=secrets.token_hex(4))
    with SharedBus(bus) as theirs, SharedBus(bus) as ours:
        made = Flashing(folder, theirs, ours, vehicle)
        try:
            yield made
        finally:
            made.node.close()


def pressed_during(made: Flashing, fault: Fault, after: int) -> tuple[threading.Thread, list[FlashOutcome]]:
    """A flash whose VCU has the fault, when so many commands of it were sent."""
    made.faults.add(fault)
    outcomes: list[FlashOutcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(made.propose(0.98)))
    before = made.commands
    thread.start()
    with made.changed:
        assert made.changed.wait_for(lambda: made.commands >= before + after, LIMIT_S)
    return thread, outcomes


@pytest.mark.parametrize("after", [2, 8])
@pytest.mark.parametrize(
    "fault",
    [
        Fault("delay", count=None, value=0.08),
        Fault("delay", count=None, value=0.5),
        Fault("lose_answer", count=None),
    ],
    ids=["slow", "slower than the time-out", "answers lost"],
)
def test_a_vcu_that_hears_takes_its_reference_page_at_once(tmp_path: Path, fault: Fault, after: int) -> None:
    """Whether or not it answers in time: the command that runs is ended, and the page called for unasked."""
    took_s: list[float] = []
    while not took_s or (took_s[-1] >= REVERT_S and len(took_s) < TRIES):
        (folder := tmp_path / str(len(took_s))).mkdir()
        took_s.append(seconds_to_revert(folder, fault, after))
    assert min(took_s) < REVERT_S


def seconds_to_revert(folder: Path, fault: Fault, after: int) -> float:
    """From the key, pressed in mid-flash, to the reference page."""
    with flashing(folder) as made:
        assert made.vcu.page != made.vcu.reference_page
        thread, outcomes = pressed_during(made, fault, after if fault.kind == "delay" else 1)
        pressed = time.monotonic()
        key = threading.Thread(target=lambda: made.guard.interrupt("revert key"))
        key.start()
        took_s = made.on_reference(within_s=LIMIT_S)
        key.join(LIMIT_S)
        ended_s = time.monotonic() - pressed
        thread.join(LIMIT_S)
        assert ended_s < 3.0, "also an answer that never comes is waited for in bounded time"
        assert outcomes[0].result in ("REVERTED", "UNKNOWN")
        assert made.vcu.page == made.vcu.reference_page
        assert made.guard.state in ("DISARMED", "LOCKED")
        assert made.guard.live == made.guard.reference
    return took_s


def test_a_vcu_that_hears_nothing_falls_back_by_itself(tmp_path: Path) -> None:
    """The tries to reach it keep nothing alive: it is on its reference page within 3 s."""
    with flashing(tmp_path) as made:
        thread, outcomes = pressed_during(made, Fault("freeze", after=4, count=None), 6)
        pressed = time.monotonic()
        made.guard.interrupt("revert key")
        assert time.monotonic() - pressed < 3.0
        thread.join(LIMIT_S)
        assert outcomes[0].result == "UNKNOWN"
        assert made.guard.state == "LOCKED"
        made.on_reference(within_s=3.0)


def test_a_slow_vcu_does_not_stretch_the_hard_limit_of_a_flash(tmp_path: Path) -> None:
    """Each answer comes in time, all of them take 10 s: it is given up after 2 s, in a command's middle."""
    with flashing(tmp_path, block_mode=False) as made:
        made.faults.add(Fault("delay", count=None, value=0.05))
        begun = time.monotonic()
        outcome = made.propose(0.98)
        took_s = time.monotonic() - begun
        assert outcome.result == "REVERTED"
        assert outcome.code == 4
        assert "time limit" in outcome.reason
        assert made.vehicle.guard.flash_time_limit_s == 2.0
        assert took_s < 4.0


class Pending:
    """A slave that says for ever that it needs more time."""

    max_cto = 8
    foreign_requests = 0

    def __init__(self) -> None:
        self.sent = 0
        self._pause = threading.Event()

    def send(self, packet: bytes) -> None:
        self.sent += 1

    def receive(self, timeout_s: float) -> bytes:
        if self._pause.wait(min(timeout_s, 0.02)) or timeout_s <= 0:
            message = "nothing"
            raise XcpTimeoutError(message)
        return bytes((0xFD, 0x05))

    def exchange(self, packet: bytes, timeout_s: float) -> bytes:
        self.send(packet)
        return self.receive(timeout_s)

    def discard(self) -> list[bytes]:
        return []

    def close(self) -> None:
        pass


def test_a_vcu_that_is_busy_for_ever_does_not_hold_the_revert() -> None:
    """Else its commands would keep the session alive that has to fall silent."""
    vehicle = load_vehicle("twin_truck")
    assert vehicle.xcp is not None
    commands = Commands(Calibration(XcpMaster(Pending(), vehicle.xcp), vehicle), time.monotonic_ns)
    begun = time.monotonic()
    problem = commands.revert()
    assert problem is not None
    assert "the way back to the reference page was not done" in problem
    assert time.monotonic() - begun < REVERT_LIMIT_S + 1.0


def test_between_two_tries_the_vcu_hears_nothing_for_longer_than_its_patience(tmp_path: Path) -> None:
    """However long a try takes: the silence after it is what lets the VCU fall back by itself."""
    times: list[int] = []

    class Deaf(FakeTarget):
        def _call(self, name: str) -> int:
            if self.dead:
                times.append(self.clock())
                self.clock.pass_s(1.4)
                times.append(self.clock())
                message = "no answer"
                raise LinkError(message)
            return super()._call(name)

        dead = False

    made: list[Deaf] = []

    def wrap(target: FakeTarget) -> Deaf:
        made.append(Deaf(target.identity, target.pages, target.clock))
        return made[0]

    rig = Rig(tmp_path, load_vehicle("twin_truck"), wrap=wrap)
    rig.arm()
    rig.drive(1.0)
    made[0].dead = True
    rig.guard.trip("test")
    assert rig.guard.state == "LOCKED"
    begun = len(times)
    for _ in range(400):
        rig.clock.pass_s(0.05)
        rig.guard.tick()
    tries = times[begun:]
    assert len(tries) >= 8
    gaps = [(later - ended) / 1e9 for ended, later in zip(tries[1::2], tries[2::2], strict=False)]
    assert min(gaps) > 2.2, gaps


def test_the_target_on_can_is_interruptible_and_stays_usable(tmp_path: Path) -> None:
    """An abort that comes when nothing runs disturbs no later command."""
    with flashing(tmp_path) as made:
        target: FlashTarget = made.guard._commands._target
        assert isinstance(target, Interruptible)
        made.guard._commands.abort()
        assert made.guard._commands.revert() is None
        assert made.vcu.page == made.vcu.reference_page
        assert made.guard._commands.identify().vin == made.vehicle.vin


def test_an_abort_at_any_moment_ends_only_the_transaction(tmp_path: Path) -> None:
    """Flashes called off at random moments: the revert always does what it says, the next flash works."""
    seed = secrets.randbits(32)
    print("seed", seed)
    chance = np.random.default_rng(seed)
    with flashing(tmp_path) as made:
        table = made.vehicle.default_map().table
        commands = made.guard._commands
        commands.revert()
        for _ in range(30):
            mark, pause = commands.mark(), chance.uniform(0, 0.03)

            def flash(mark: int = mark) -> None:
                with (
                    pytest.raises(Exception, match="reference map was called for"),
                    commands.transaction(mark, 5.0),
                ):
                    while True:
                        page = commands.idle_page()
                        commands.write(page, table * np.float32(chance.uniform(0.8, 1.0)))
                        commands.read(page, 0, len(table))
                        commands.activate(page)

            thread = threading.Thread(target=flash)
            thread.start()
            threading.Event().wait(pause)
            commands.abort()
            assert commands.revert() is None
            thread.join(LIMIT_S)
            assert not thread.is_alive()
            assert commands.revert() is None
            assert made.vcu.page == made.vcu.reference_page
