"""A flash with a fault at every call: what is in effect is known, and it is a map that was accepted."""

from pathlib import Path

import numpy as np
import pytest

from tests.guard.fake_target import FakeTarget
from tests.guard.vehicles import FLASHED_VEHICLES, Rig, limited, rows_of
from tspace_core.config import load_vehicle
from tspace_core.errors import (
    AuditError,
    BusError,
    LinkError,
    XcpCommandError,
    XcpProtocolError,
    XcpTimeoutError,
)
from tspace_core.guard.audit import read
from tspace_core.guard.state import FlashOutcome
from tspace_core.guard.target import Identity, failure_code

every_vehicle = pytest.mark.parametrize("name", FLASHED_VEHICLES)
FAULTS = {
    "time-out": (XcpTimeoutError("no answer"), 4),
    "command": (XcpCommandError("locked", "DOWNLOAD", 0x25), 1),
    "protocol": (XcpProtocolError("nonsense"), 2),
    "bus": (BusError("bus off"), 3),
}
STEPS = ["active_page", "checksum_ok", "idle_page", "write", "read", "checksum_ok", "activate", "active_page"]


def rig_with_learned_map(folder: Path, name: str, **limits: float) -> Rig:
    """Armed, and one flash is in effect already."""
    rig = Rig(folder, limited(load_vehicle(name), **limits))
    rig.arm()
    rig.drive(1.0)
    assert rig.propose().result == "APPLIED"
    rig.drive(1.5)
    rig.target.calls.clear()
    return rig


def is_known(rig: Rig, outcome: FlashOutcome) -> None:
    """What every outcome must say: the rows as they are live, and live what the VCU drives by."""
    assert rig.in_effect == rig.guard.live
    assert np.array_equal(outcome.rows, rows_of(rig.guard.live, outcome.first_row))
    assert (outcome.effect_ns is not None) == (outcome.result == "APPLIED")


@every_vehicle
def test_the_steps_of_a_flash_and_their_order(name: str, tmp_path: Path) -> None:
    rig = rig_with_learned_map(tmp_path, name)
    lines_at_switch: list[str] = []

    def look(_number: int, call: str) -> None:
        if call == "activate":
            lines_at_switch.extend(entry["event"] for entry in read(rig.audit.path))

    rig.target.before = look
    outcome = rig.propose()
    assert rig.target.calls == STEPS
    assert lines_at_switch[-1] == "flash", "on the disk before the page is switched"
    assert outcome.result == "APPLIED"
    assert outcome.code == 0
    is_known(rig, outcome)
    assert outcome.effect_ns is not None
    assert 0 < outcome.duration_s < 0.1
    entries = list(read(rig.audit.path))
    intent = next(entry for entry in reversed(entries) if entry["event"] == "flash")
    assert intent["rows"] == np.ascontiguousarray(outcome.rows, "<f4").tobytes().hex()
    assert intent["map_sha256"] == rig.guard.live.sha256() == entries[-1]["map_sha256"]
    assert entries[-1]["result"] == "APPLIED"


@every_vehicle
def test_the_first_flash_needs_identity_and_key_once(name: str, tmp_path: Path) -> None:
    rig = Rig(tmp_path, load_vehicle(name))
    rig.arm()
    for _ in range(3):
        rig.drive(1.2)
        assert rig.propose(-5).result == "APPLIED"
    assert rig.target.calls.count("identify") == 1
    assert rig.target.calls.count("unlock") == 1


@every_vehicle
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("fault", list(FAULTS))
@pytest.mark.parametrize("step", range(len(STEPS)))
def test_one_fault_at_any_step(name: str, when: str, fault: str, step: int, tmp_path: Path) -> None:
    """The fault comes once; the VCU answers again afterwards."""
    rig = rig_with_learned_map(tmp_path, name)
    before = rig.guard.live
    error, code = FAULTS[fault]

    def fail(number: int, _call: str) -> None:
        if number == step:
            raise error

    setattr(rig.target, when, fail)
    outcome = rig.propose()
    assert outcome.result == "REVERTED"
    assert outcome.code == code
    assert type(error).__name__ in outcome.reason
    is_known(rig, outcome)
    assert rig.guard.live in (before, rig.guard.reference)
    assert rig.state == "ARMED", "one fault ends a flash, no run"
    rig.target.before = rig.target.after = None
    rig.drive(1.5)
    again = rig.propose()
    assert again.result == "APPLIED", again.reason
    assert "identify" in rig.target.calls, "after a failure the VCU is identified anew"
    is_known(rig, again)


@every_vehicle
@pytest.mark.parametrize("step", range(len(STEPS)))
def test_a_vcu_that_falls_silent_at_any_step_locks(name: str, step: int, tmp_path: Path) -> None:
    rig = rig_with_learned_map(tmp_path, name)

    def silent(number: int, _call: str) -> None:
        if number >= step:
            raise XcpTimeoutError("no answer")

    rig.target.before = silent
    outcome = rig.propose()
    assert outcome.result == "UNKNOWN"
    assert outcome.code == 4
    assert rig.state == "LOCKED"
    # It answers again: the reference page is put into effect by itself, and the lock stays.
    rig.target.before = None
    rig.drive(1.0)
    assert rig.target.active == rig.target.reference_page
    assert rig.state == "LOCKED"
    assert not rig.guard.arm(by="test", token=None, resume=None).ok


@every_vehicle
def test_what_is_read_back_differs_in_one_bit(name: str, tmp_path: Path) -> None:
    rig = rig_with_learned_map(tmp_path, name)

    def flip(_number: int, call: str) -> None:
        if call == "read":
            page = next(page for page in rig.target.working if page != rig.target.active)
            rig.target.pages[page].view(np.uint32)[5, 3] ^= 1

    rig.target.before = flip
    outcome = rig.propose()
    assert outcome.result == "REVERTED"
    assert outcome.code == 1
    assert "read back" in outcome.reason
    is_known(rig, outcome)


@every_vehicle
@pytest.mark.parametrize(("after", "found_by"), [("write", "read back"), ("read", "checksum")])
def test_what_lies_outside_the_block_is_found(name: str, after: str, found_by: str, tmp_path: Path) -> None:
    rig = rig_with_learned_map(tmp_path, name)

    def spoil(_number: int, call: str) -> None:
        if call == after:
            page = next(page for page in rig.target.working if page != rig.target.active)
            rig.target.pages[page][12, 3] += 1

    rig.target.after = spoil
    outcome = rig.propose()
    assert outcome.result == "REVERTED"
    assert outcome.code == 1
    assert found_by in outcome.reason
    is_known(rig, outcome)


@every_vehicle
def test_a_switch_that_does_not_happen_is_seen(name: str, tmp_path: Path) -> None:
    rig = rig_with_learned_map(tmp_path, name)
    pages: list[int] = []

    def remember(_number: int, call: str) -> None:
        if call == "activate":
            pages.append(rig.target.active)

    def stuck(_number: int, call: str) -> None:
        if call == "activate" and len(pages) == 1:
            rig.target.active = pages[0]

    rig.target.before, rig.target.after = remember, stuck
    outcome = rig.propose()
    assert outcome.result == "REVERTED"
    assert "after the switch" in outcome.reason
    assert rig.target.active == rig.target.reference_page
    is_known(rig, outcome)


@every_vehicle
def test_a_second_master_is_seen_before_the_next_flash(name: str, tmp_path: Path) -> None:
    rig = rig_with_learned_map(tmp_path, name)
    rig.target.pages[rig.target.active][3, 3] += 7
    outcome = rig.propose()
    assert outcome.result == "REVERTED"
    assert outcome.code == 2
    assert "another map" in outcome.reason
    assert rig.state == "LOCKED"
    assert rig.target.active == rig.target.reference_page


@every_vehicle
def test_a_page_that_somebody_switched_is_seen_before_the_next_flash(name: str, tmp_path: Path) -> None:
    rig = rig_with_learned_map(tmp_path, name)
    rig.target.active = rig.target.reference_page
    outcome = rig.propose()
    assert outcome.result == "REVERTED"
    assert "fell back by itself" in outcome.reason
    assert "write" not in rig.target.calls
    assert rig.state == "LOCKED"


@every_vehicle
def test_another_vcu_after_a_failure_locks(name: str, tmp_path: Path) -> None:
    rig = rig_with_learned_map(tmp_path, name)

    def fail(number: int, _call: str) -> None:
        if number == 3:
            raise XcpTimeoutError("no answer")

    rig.target.before = fail
    rig.propose()
    rig.target.before = None
    found = rig.target.identity
    rig.target.identity = Identity("ANOTHER0000000001", found.software_id, found.map_address)
    rig.drive(1.5)
    outcome = rig.propose()
    assert outcome.result == "REVERTED"
    assert "vin" in outcome.reason
    assert rig.state == "LOCKED"


@every_vehicle
def test_a_flash_that_is_late_before_the_switch_is_given_up(name: str, tmp_path: Path) -> None:
    rig = rig_with_learned_map(tmp_path, name)

    def slow(_number: int, call: str) -> None:
        if call == "read":
            rig.clock.pass_s(2.0)

    rig.target.before = slow
    outcome = rig.propose()
    assert outcome.result == "REVERTED"
    assert outcome.code == 4
    assert "activate" not in rig.target.calls[: STEPS.index("activate")]
    is_known(rig, outcome)


@every_vehicle
@pytest.mark.parametrize(("extra_s", "result"), [(1.9, "APPLIED"), (2.0, "UNKNOWN")])
def test_a_flash_that_is_late_after_the_switch_is_unknown(
    name: str, extra_s: float, result: str, tmp_path: Path
) -> None:
    rig = rig_with_learned_map(tmp_path, name)

    def slow(_number: int, call: str) -> None:
        if call == "activate" and rig.target.active != rig.target.reference_page:
            rig.clock.pass_s(extra_s)

    rig.target.after = slow
    outcome = rig.propose()
    assert outcome.result == result
    assert (rig.state == "LOCKED") == (result == "UNKNOWN")
    if result == "UNKNOWN":
        assert outcome.code == 4
        assert rig.target.active == rig.target.reference_page


@every_vehicle
def test_no_audit_log_no_switch(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full when the flash is to be noted: the page in effect stays, the guard locks."""
    rig = rig_with_learned_map(tmp_path, name)

    def full(_line: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rig.audit, "_write", full)
    switches = len(rig.target.switches)
    outcome = rig.propose()
    assert outcome.result == "REVERTED"
    assert outcome.code == 2
    assert "AuditError" in outcome.reason
    assert rig.state == "LOCKED"
    assert rig.target.switches[switches:] == [rig.target.reference_page]


@every_vehicle
def test_an_audit_log_that_fails_after_the_switch_takes_the_flash_back(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = rig_with_learned_map(tmp_path, name)
    append = rig.audit.append

    def fail(event: str, **fields: object) -> None:
        if event == "flash_result":
            raise AuditError("disk full")
        append(event, **fields)

    monkeypatch.setattr(rig.audit, "append", fail)
    outcome = rig.propose()
    assert outcome.result == "REVERTED"
    assert rig.state == "LOCKED"
    assert rig.target.active == rig.target.reference_page
    is_known(rig, outcome)


@every_vehicle
def test_an_error_that_nobody_thought_of_locks(name: str, tmp_path: Path) -> None:
    rig = rig_with_learned_map(tmp_path, name)

    def bug(_number: int, call: str) -> None:
        if call == "write":
            raise ZeroDivisionError

    rig.target.before = bug
    outcome = rig.propose()
    assert outcome.result == "REVERTED"
    assert outcome.code == 2
    assert rig.state == "LOCKED"
    assert rig.target.active == rig.target.reference_page


def test_one_working_page_is_written_while_the_reference_is_in_effect(tmp_path: Path) -> None:
    rig = rig_with_learned_map(tmp_path, "twin_mule")
    in_effect_while_writing = []

    def look(_number: int, call: str) -> None:
        if call == "write":
            in_effect_while_writing.append(rig.target.active)

    rig.target.before = look
    assert rig.propose().result == "APPLIED"
    assert in_effect_while_writing == [rig.target.reference_page]


def test_two_working_pages_take_turns_and_the_old_one_stays_whole(tmp_path: Path) -> None:
    rig = rig_with_learned_map(tmp_path, "twin_truck")
    first = rig.target.active
    before = rig.in_effect
    assert rig.propose().result == "APPLIED"
    assert rig.target.active != first
    assert np.array_equal(rig.target.pages[first], before.table)


@pytest.mark.parametrize(
    ("error", "code"), [*FAULTS.values(), (LinkError("something"), 3)], ids=[*FAULTS, "other"]
)
def test_the_fields_numbers_of_failures(error: LinkError, code: int) -> None:
    assert failure_code(error) == code


def test_the_fake_is_as_strict_as_a_vcu(tmp_path: Path) -> None:
    target = Rig(tmp_path, load_vehicle("twin_truck")).target
    with pytest.raises(AssertionError, match="seed and key"):
        target.write(1, target.pages[0])
    target.unlock()
    with pytest.raises(AssertionError, match="reference page was written"):
        target.write(0, target.pages[0])
    target.activate(1)
    with pytest.raises(AssertionError, match="in effect was written"):
        target.write(1, target.pages[0])
    assert isinstance(target, FakeTarget)
