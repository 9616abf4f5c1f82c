"""Arming, resuming and flashing, as the bridge uses them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.guard.vehicles import (
    STILL,
    Rig,
    events,
    every_vehicle,
    learned,
    rig_of,
    rows_of,
    with_rows,
)
from tspace_core.config import TorqueMap
from tspace_core.errors import ConfigError, XcpTimeoutError
from tspace_core.guard.audit import verify
from tspace_core.guard.flash_guard import FlashGuard
from tspace_core.guard.state import Proposal, VehicleState
from tspace_core.guard.target import Identity


@every_vehicle
def test_silent_until_armed(name: str, tmp_path: Path) -> None:
    rig = rig_of(tmp_path, name)
    rig.drive(3.0)
    outcome = rig.propose()
    assert outcome.result == "REFUSED"
    assert outcome.code == 0
    assert "DISARMED" in outcome.reason
    assert rig.target.calls == [], "not one command to the VCU"


@every_vehicle
def test_arming_looks_at_the_vcu_first(name: str, tmp_path: Path) -> None:
    rig = rig_of(tmp_path, name)
    rig.arm()
    assert rig.state == "ARMED"
    assert rig.target.calls == ["identify", "unlock", "activate", "active_page", "read", "checksum_ok"]
    assert rig.guard.live == rig.guard.reference == rig.in_effect
    calls = len(rig.target.calls)
    assert rig.guard.arm(by="the next episode", token=None, resume=None).ok, "the live map goes on"
    assert len(rig.target.calls) == calls, "nothing in the VCU changes"


def test_arming_needs_live_signals(tmp_path: Path) -> None:
    rig = rig_of(tmp_path)
    answer = rig.guard.arm(by="test", token=None, resume=None)
    assert not answer.ok
    assert "is the bus alive" in answer.reason
    rig.drive(0.1)
    rig.clock.pass_s(0.6)
    assert "not alive" in rig.guard.arm(by="test", token=None, resume=None).reason
    rig.guard.observe(replace(rig.sample, at_ns=rig.clock(), thrust_percent=150.0))
    assert "thrust" in rig.guard.arm(by="test", token=None, resume=None).reason
    assert rig.state == "DISARMED"
    assert rig.target.calls == []


@every_vehicle
@pytest.mark.parametrize("field", ["vin", "software_id", "map_address"])
def test_another_vcu_locks(name: str, field: str, tmp_path: Path) -> None:
    rig = rig_of(tmp_path, name)
    found = rig.target.identity
    other: dict[str, Any] = {"vin": "OTHER", "software_id": "OTHER", "map_address": 1}
    values = {"vin": found.vin, "software_id": found.software_id, "map_address": found.map_address}
    rig.target.identity = Identity(**{**values, field: other[field]})
    rig.drive(0.1)
    answer = rig.guard.arm(by="test", token=None, resume=None)
    assert rig.vehicle.xcp is not None
    if field == "map_address" and not rig.vehicle.xcp.parameters:
        # An A2L file gives it, to the target alone: it must stay the same for the run.
        assert answer.ok
        return
    assert not answer.ok
    assert field in answer.reason
    assert rig.state == "LOCKED"
    assert "unlock" not in rig.target.calls, "no key for a stranger"


@every_vehicle
@pytest.mark.parametrize("damage", ["cell", "nan", "shape", "page"])
def test_another_reference_page_locks(name: str, damage: str, tmp_path: Path) -> None:
    rig = rig_of(tmp_path, name)
    cells = rig.target.pages[rig.target.reference_page]
    if damage == "cell":
        cells[3, 3] = np.nextafter(cells[3, 3], np.float32(0))
    elif damage == "nan":
        cells[3, 3] = np.nan
    elif damage == "shape":
        rig.target.pages[rig.target.reference_page] = cells[:-1]
    else:
        rig.target.active = 1
        rig.target.after = lambda _number, _call: setattr(rig.target, "active", 1)
    rig.drive(0.1)
    answer = rig.guard.arm(by="test", token=None, resume=None)
    assert not answer.ok
    assert "page" in answer.reason
    assert rig.state == "LOCKED"


def test_a_reference_page_whose_checksum_differs_locks(tmp_path: Path) -> None:
    rig = rig_of(tmp_path)
    rig.target.checksum_ok = lambda page, table: False  # type: ignore[method-assign]
    rig.drive(0.1)
    assert "checksum" in rig.guard.arm(by="test", token=None, resume=None).reason
    assert rig.state == "LOCKED"


@pytest.mark.parametrize("step", range(6))
def test_a_vcu_that_does_not_answer_is_not_armed_and_may_be_later(step: int, tmp_path: Path) -> None:
    rig = rig_of(tmp_path)

    def fail(number: int, _call: str) -> None:
        if number == step:
            raise XcpTimeoutError("no answer")

    rig.target.before = fail
    rig.drive(0.1)
    answer = rig.guard.arm(by="test", token=None, resume=None)
    assert not answer.ok
    assert "XcpTimeoutError" in answer.reason
    assert rig.state == "DISARMED"
    rig.target.before = None
    rig.arm()


def test_a_broken_target_locks(tmp_path: Path) -> None:
    rig = rig_of(tmp_path)

    def bug(_number: int, call: str) -> None:
        if call == "unlock":
            raise ZeroDivisionError

    rig.target.before = bug
    rig.drive(0.1)
    assert not rig.guard.arm(by="test", token=None, resume=None).ok
    assert rig.state == "LOCKED"


def test_a_vehicle_without_xcp_cannot_have_a_guard(tmp_path: Path) -> None:
    rig = rig_of(tmp_path)
    bare = rig.vehicle.model_copy(update={"xcp": None})
    with pytest.raises(ConfigError, match="no xcp section"):
        FlashGuard(bare, rig.target, rig.audit, now_ns=rig.clock, utc_ns=rig.clock)


# Resume


def saved_map(rig: Rig, change: float = -40.0) -> TorqueMap:
    """Pedal 0 lower in one block."""
    reference = rig.guard.reference
    rows = rows_of(reference, 8)
    rows[:, 0] += np.float32(change)
    return with_rows(reference, 8, rows)


@every_vehicle
def test_a_saved_map_is_resumed_at_standstill(name: str, tmp_path: Path) -> None:
    rig = rig_of(tmp_path, name)
    rig.sample = STILL
    rig.drive(0.1)
    saved = saved_map(rig)
    answer = rig.guard.arm(by="test", token=None, resume=saved)
    assert answer.ok
    assert answer.resumed
    assert answer.live == saved == rig.guard.live == rig.in_effect
    assert rig.guard.reference == rig.vehicle.default_map()
    rig.drive(1.1)
    # The budget is still the reference's: the next flash goes no lower than it allows.
    rig.propose(-50.0, first_row=8)
    floor = rig.guard.reference.table[8:12, 0] - 50
    assert (rig.guard.live.table[8:12, 0] >= floor - 1e-3).all()


@every_vehicle
def test_a_saved_map_that_may_not_be_resumed_leaves_the_reference(name: str, tmp_path: Path) -> None:
    for folder, sample, change, reason in (
        ("moving", VehicleState(45.0, 30.0, 0.0, 0), -40.0, "standstill"),
        ("outside", STILL, -60.0, "pedal_zero"),
    ):
        rig = rig_of(tmp_path / folder, name)
        rig.sample = sample
        rig.drive(0.1)
        answer = rig.guard.arm(by="test", token=None, resume=saved_map(rig, change))
        assert answer.ok
        assert not answer.resumed
        assert reason in answer.reason
        assert answer.live == rig.guard.reference == rig.in_effect


def test_resuming_the_reference_is_no_flash(tmp_path: Path) -> None:
    rig = rig_of(tmp_path)
    rig.drive(0.1)
    answer = rig.guard.arm(by="test", token=None, resume=rig.guard.reference)
    assert answer.ok
    assert answer.resumed
    assert "write" not in rig.target.calls


def test_a_resume_that_fails_leaves_the_reference_and_says_so(tmp_path: Path) -> None:
    rig = rig_of(tmp_path)
    rig.sample = STILL
    rig.drive(0.1)

    def fail(_number: int, call: str) -> None:
        if call == "write":
            raise XcpTimeoutError("no answer")

    rig.target.before = fail
    answer = rig.guard.arm(by="test", token=None, resume=saved_map(rig))
    assert answer.ok
    assert not answer.resumed
    assert "resuming failed" in answer.reason
    assert rig.in_effect == rig.guard.reference


def test_a_resume_whose_end_is_unknown_does_not_arm(tmp_path: Path) -> None:
    rig = rig_of(tmp_path)
    rig.sample = STILL
    rig.drive(0.1)

    def fail(_number: int, call: str) -> None:
        if "write" in rig.target.calls:
            raise XcpTimeoutError("no answer")

    rig.target.before = fail
    answer = rig.guard.arm(by="test", token=None, resume=saved_map(rig))
    assert not answer.ok
    assert rig.state == "LOCKED"


# Proposals


def test_a_stale_proposal_is_never_flashed(tmp_path: Path) -> None:
    rig = rig_of(tmp_path)
    rig.arm()
    rig.drive(1.0)
    rows = rows_of(rig.guard.live, 4) - np.float32(5)
    for age_s, allowed in ((1.000001, False), (-0.001, False), (1.0, True)):
        outcome = rig.guard.propose(Proposal(1, 4, rows, rig.clock() - round(age_s * 1e9)))
        assert (outcome.result == "APPLIED") == allowed, outcome
        assert allowed or outcome.reason.startswith("age")


@pytest.mark.parametrize(("silent_s", "allowed"), [(0.499, True), (0.5, False), (1.0, False)])
def test_no_flash_half_a_second_after_the_last_heartbeat(
    silent_s: float, allowed: bool, tmp_path: Path
) -> None:
    rig = rig_of(tmp_path)
    rig.arm()
    rig.drive(1.0)
    rig.guard.heartbeat()
    rig.clock.pass_s(silent_s)
    rig.guard.observe(replace(rig.sample, at_ns=rig.clock()))
    outcome = rig.propose()
    assert (outcome.result == "APPLIED") == allowed
    assert allowed or outcome.reason.startswith("heartbeat")


def test_the_live_map_proposed_again_is_applied_without_a_flash(tmp_path: Path) -> None:
    rig = learned(rig_of(tmp_path))
    calls = len(rig.target.calls)
    outcome = rig.propose(0.0)
    assert outcome.result == "APPLIED"
    assert outcome.effect_ns is not None
    assert rig.target.calls[calls:] == ["active_page", "checksum_ok"], "it is looked for, nothing is written"


@pytest.mark.parametrize("lost", [False, True])
def test_the_live_map_is_not_said_to_be_applied_where_the_vcu_fell_back(lost: bool, tmp_path: Path) -> None:
    """The agent would learn from a map that did not drive."""
    rig = learned(rig_of(tmp_path))
    rig.target.active = rig.target.reference_page
    if lost:
        rig.target.before = lambda _number, _name: silent()
    outcome = rig.propose(0.0)
    assert outcome.result == ("UNKNOWN" if lost else "REVERTED")
    assert outcome.code == (4 if lost else 2)
    assert rig.state == "LOCKED"


def test_nothing_is_armed_while_the_reference_map_is_coming_back(tmp_path: Path) -> None:
    """Else the end of the revert would meet what was armed after it."""
    rig = learned(rig_of(tmp_path))
    answers = []

    def press(_number: int, call: str) -> None:
        if call == "active_page":
            rig.target.before = None
            answers.append(rig.guard.arm(by="test", token=None, resume=None))

    rig.target.before = press
    rig.guard.interrupt("revert key")
    assert not answers[0].ok
    assert "coming back" in answers[0].reason
    assert rig.state == "DISARMED"
    rig.arm()


def silent() -> None:
    message = "no answer"
    raise XcpTimeoutError(message)


def test_a_refusal_answers_with_the_live_rows_and_is_noted(tmp_path: Path) -> None:
    rig = learned(rig_of(tmp_path))
    for first_row, nearest in ((99, 10), (-5, 0), ("x", 0)):
        rows = np.full((4, 17), np.nan, np.float32)
        outcome = rig.guard.propose(Proposal(9, first_row, rows, rig.clock()))  # type: ignore[arg-type]
        assert outcome.result == "REFUSED"
        assert outcome.code == 0
        assert outcome.effect_ns is None
        assert np.array_equal(outcome.rows, rows_of(rig.guard.live, nearest))
    assert events(rig).count("flash_refused") == 3
    assert verify(rig.audit.path).ok


def test_one_flash_at_a_time(tmp_path: Path) -> None:
    rig = rig_of(tmp_path)
    rig.arm()
    rig.drive(1.0)
    inner = []

    def again(_number: int, call: str) -> None:
        if call == "write":
            rig.target.before = None
            inner.append(rig.propose(-3.0))

    rig.target.before = again
    assert rig.propose().result == "APPLIED"
    assert inner[0].result == "REFUSED"
    assert inner[0].reason.startswith("in_flight")
