"""Anything dies at any moment: the VCU ends on its reference map or on one that was accepted and read back.

A failure names its run: ``run_kill(Setup(...), Kill(...))`` of `tests.safety.killing` is the same once more.
"""

import random
from pathlib import Path

import pytest

from tests.safety.bench import Bench, learned
from tests.safety.killing import Setup, kills, run_kill
from tests.safety.wire import Frame
from tspace_core.guard.audit import AuditLog, head_path, verify
from tspace_core.link.xcp_packets import Command, ErrorCode

SETUPS = [
    pytest.param(
        vehicle, fd, block_mode, id=f"{vehicle}-{'fd' if fd else 'classic'}{'-blocks' if block_mode else ''}"
    )
    for vehicle in ("twin_truck", "twin_mule")  # two working pages, one
    for fd in (False, True)
    for block_mode in (False, True)
]
every_setup = pytest.mark.parametrize(("vehicle", "fd", "block_mode"), SETUPS)
SCRIPTS = 5


def run_many(vehicle: str, *, fd: bool, block_mode: bool, scripts: int, points: int) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    switches = flashed = 0
    for _ in range(scripts):
        setup = Setup(vehicle, fd, block_mode, chance.randrange(2**32))
        for kill in kills(setup, points, chance):
            run = run_kill(setup, kill)
            switches += run.wire.witness.switches
            flashed += run.page_then not in (None, run.wire.vcu.reference_page)
    assert switches > scripts * points / 10, "hardly anything was flashed, so nothing was shown"
    print("killed with a learned map in effect:", flashed)
    assert flashed or not fd, "nothing died while a learned map was in effect"


@every_setup
def test_a_thousand_kill_points(*, vehicle: str, fd: bool, block_mode: bool) -> None:
    """600 on the four with FD, whose runs are shorter, and 400 on those without."""
    run_many(vehicle, fd=fd, block_mode=block_mode, scripts=SCRIPTS, points=30 if fd else 20)


@pytest.mark.slow
@every_setup
def test_twenty_thousand_kill_points(*, vehicle: str, fd: bool, block_mode: bool) -> None:
    run_many(vehicle, fd=fd, block_mode=block_mode, scripts=40, points=75 if fd else 50)


def test_a_lock_outlives_a_process_killed_within_a_line_of_the_audit_log() -> None:
    with learned("twin_truck", fd=True, block_mode=True) as bench:
        bench.guard.lock("a person must see this")
        path = bench.bridge.audit.path
        bench.bridge.audit.close()
        with path.open("ab") as file:
            file.write(b'{"asked":"trip","before"')
        again = Bench(bench.wire, path.parent)
        assert (again.state, again.guard.cause) == ("LOCKED", "a person must see this")
        again.drive(1.0)
        assert not again.guard.arm(by="test", token=None, resume=None).ok
        again.bridge.audit.close()


def test_a_vcu_that_refuses_its_reference_page_is_left_in_silence() -> None:
    """Each refused try keeps its session alive; only where nobody asks does it fall back by itself."""

    def refuse(frame: Frame) -> None:
        if frame.to_vcu and frame.data[0] == Command.SET_CAL_PAGE:
            frame.lost = True
            bench.wire.answer(bytes((0xFE, ErrorCode.ERR_GENERIC)))

    with learned("twin_mule", fd=True, block_mode=True) as bench:
        assert bench.wire.vcu.page != bench.wire.vcu.reference_page
        bench.wire.tamper = refuse
        bench.guard.trip("the episode is over")
        assert bench.state == "LOCKED"
        bench.drive(3.0)
        assert bench.wire.vcu.page == bench.wire.vcu.reference_page


def test_a_process_killed_after_its_very_first_line_of_the_audit_log(tmp_path: Path) -> None:
    """The file beside the log that names its newest line is not there yet; the next start makes it."""
    with AuditLog(tmp_path / "audit.jsonl", lambda: 0) as log:
        log.append("arm_refused")
    head_path(log.path).unlink()
    AuditLog(log.path, lambda: 0).close()
    assert verify(log.path).problems == ()
