"""What brings the reference map back: supervision, people, crashes, and the one key."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.guard.fake_target import FakeTarget
from tests.guard.vehicles import (
    Rig,
    events,
    every_vehicle,
    learned,
    rig_of,
    rows_of,
)
from tspace_core.config import load_vehicle
from tspace_core.errors import AuditError, XcpTimeoutError
from tspace_core.guard.audit import AuditLog, verify
from tspace_core.guard.state import Proposal, VehicleState

# What brings the reference map back


@every_vehicle
@pytest.mark.parametrize(("silent_s", "fallen"), [(1.9, False), (2.05, True)])
def test_two_seconds_without_a_heartbeat(name: str, silent_s: float, fallen: bool, tmp_path: Path) -> None:
    rig = learned(rig_of(tmp_path, name))
    rig.alive = False
    rig.drive(silent_s)
    assert (rig.state == "DISARMED") == fallen
    assert (rig.in_effect == rig.guard.reference) == fallen
    assert not fallen or "heartbeat" in rig.guard.cause


@every_vehicle
def test_a_silent_bus_is_three_invalid_windows(name: str, tmp_path: Path) -> None:
    rig = learned(rig_of(tmp_path, name))
    for _ in range(round(20 * 6.1)):
        rig.clock.pass_s(0.05)
        rig.guard.heartbeat()
        rig.guard.tick()
        if rig.state != "ARMED":
            break
    assert rig.state == "DISARMED"
    assert "invalid windows" in rig.guard.cause
    assert rig.in_effect == rig.guard.reference


def test_three_invalid_windows_in_a_row_and_no_fewer(tmp_path: Path) -> None:
    rig = learned(rig_of(tmp_path))
    good, bad = rig.sample, replace(rig.sample, thrust_percent=20.0, brake_percent=20.0)
    for _ in range(3):
        rig.sample = bad
        rig.drive(1.45)  # in two windows at most
        rig.sample = good
        rig.drive(4.0)
        assert rig.state == "ARMED"
    rig.sample = bad
    rig.drive(6.0)
    assert rig.state == "DISARMED"
    assert "together" in rig.guard.cause


@every_vehicle
def test_the_driver_overrides_with_the_brake(name: str, tmp_path: Path) -> None:
    rig = learned(rig_of(tmp_path, name, override_brake_percent=60.0))
    rig.sample = VehicleState(45.0, 0.0, 60.0, 0)
    rig.drive(0.2)
    assert rig.state == "ARMED"
    rig.sample = VehicleState(45.0, 0.0, 60.1, 0)
    rig.drive(0.05)
    assert rig.state == "DISARMED"
    assert "driver override" in rig.guard.cause
    assert rig.in_effect == rig.guard.reference


@every_vehicle
def test_trip_is_the_reference_and_arming_again_begins_with_it(name: str, tmp_path: Path) -> None:
    rig = learned(rig_of(tmp_path, name))
    rig.guard.trip("exit")
    rig.guard.trip("agent gone")
    assert rig.state == "DISARMED"
    assert rig.guard.cause == "exit", "the first cause is kept"
    assert rig.in_effect == rig.guard.live == rig.guard.reference
    refused = rig.guard.propose(Proposal(1, 4, rows_of(rig.guard.live, 4) - np.float32(1), rig.clock()))
    assert refused.result == "REFUSED"
    rig.arm()
    early = rig.propose()
    assert early.result == "REFUSED"
    assert early.reason.startswith("interval"), "also the reference coming back is a change"
    rig.drive(1.0)
    assert rig.propose().result == "APPLIED"


@every_vehicle
def test_a_lock_stays_until_a_person_clears_it(name: str, tmp_path: Path) -> None:
    rig = learned(rig_of(tmp_path, name))
    rig.guard.lock("second master")
    rig.guard.lock("something else")
    rig.guard.trip("exit")
    assert rig.state == "LOCKED"
    assert rig.guard.cause == "second master"
    assert rig.in_effect == rig.guard.reference
    rig.drive(0.1)
    answer = rig.guard.arm(by="agent", token=None, resume=None)
    assert not answer.ok
    assert "second master" in answer.reason
    rig.guard.clear(by="a person")
    assert rig.state == "DISARMED"
    rig.arm()
    rig.guard.clear(by="a person")
    assert rig.state == "ARMED", "there was nothing to clear"


def test_a_trip_that_the_vcu_does_not_confirm_locks_and_tries_on(tmp_path: Path) -> None:
    rig = learned(rig_of(tmp_path))

    def silent(_number: int, _call: str) -> None:
        raise XcpTimeoutError("no answer")

    rig.target.before = silent
    rig.guard.trip("exit")
    assert rig.state == "LOCKED"
    assert "not confirmed" in rig.guard.cause
    rig.drive(2.0)
    rig.guard.clear(by="a person")
    assert rig.state == "LOCKED", "not before the reference page is known to be in effect"
    rig.target.before = None
    rig.drive(0.6)
    assert rig.target.active == rig.target.reference_page
    assert "reference_confirmed" in events(rig)
    rig.guard.clear(by="a person")
    assert rig.state == "DISARMED"


def test_the_session_is_kept_alive_while_armed_and_silent_after(tmp_path: Path) -> None:
    rig = learned(rig_of(tmp_path))
    rig.target.calls.clear()
    rig.drive(5.0)
    assert rig.target.calls.count("keep_alive") in range(8, 12), "every half second"
    rig.guard.trip("exit")
    rig.target.calls.clear()
    rig.drive(5.0)
    assert rig.target.calls == []


def test_a_lost_xcp_session_locks(tmp_path: Path) -> None:
    rig = learned(rig_of(tmp_path))

    def silent(_number: int, _call: str) -> None:
        raise XcpTimeoutError("no answer")

    rig.target.before = silent
    rig.drive(3.0)
    assert rig.state == "LOCKED"
    assert "session lost" in rig.guard.cause


def test_one_unanswered_question_is_no_lost_session(tmp_path: Path) -> None:
    rig = learned(rig_of(tmp_path))

    def once(_number: int, call: str) -> None:
        if call == "keep_alive":
            rig.target.before = None
            raise XcpTimeoutError("no answer")

    for _ in range(4):
        rig.target.before = once
        rig.drive(1.2)
    assert rig.state == "ARMED"


def test_a_second_master_that_switches_the_page_locks(tmp_path: Path) -> None:
    rig = learned(rig_of(tmp_path))
    rig.target.active = next(page for page in rig.target.working if page != rig.target.active)
    rig.drive(0.6)
    assert rig.state == "LOCKED"
    assert "second master" in rig.guard.cause
    assert rig.target.active == rig.target.reference_page


def test_a_vcu_that_fell_back_by_itself_locks(tmp_path: Path) -> None:
    rig = learned(rig_of(tmp_path))
    rig.target.active = rig.target.reference_page
    rig.drive(0.6)
    assert rig.state == "LOCKED"


def test_a_full_disk_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = learned(rig_of(tmp_path))

    def full(_line: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rig.audit, "_write", full)
    rig.drive(1.5)
    outcome = rig.guard.propose(Proposal(5, 99, rows_of(rig.guard.live, 4), rig.clock()))
    assert outcome.result == "REFUSED"
    assert rig.state == "LOCKED"
    assert "No space left" in rig.guard.cause
    assert rig.in_effect == rig.guard.reference


def test_arming_that_cannot_be_noted_does_not_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = rig_of(tmp_path)
    rig.drive(0.1)

    def full(_event: str, **_fields: object) -> None:
        raise AuditError("disk full")

    monkeypatch.setattr(rig.audit, "append", full)
    assert not rig.guard.arm(by="test", token=None, resume=None).ok
    assert rig.state == "LOCKED"


# After a crash


@every_vehicle
def test_a_lock_outlives_the_process(name: str, tmp_path: Path) -> None:
    rig = learned(rig_of(tmp_path, name))
    rig.guard.lock("second master")
    rig.audit.close()
    after = rig_of(tmp_path, name)
    assert after.state == "LOCKED"
    assert after.guard.cause == "second master"
    after.guard.clear(by="a person")
    after.arm()


@every_vehicle
def test_a_map_that_a_killed_guard_left_is_taken_back(name: str, tmp_path: Path) -> None:
    rig = learned(rig_of(tmp_path, name))
    left, page = rig.target.pages, rig.target.active
    rig.audit.close()  # as after kill -9: nothing else is said
    after = rig_of(tmp_path, name)
    after.target.pages, after.target.active = left, page
    assert after.state == "DISARMED"
    after.drive(0.6)
    assert after.target.active == after.target.reference_page
    after.arm()


# One key


class Hanging(FakeTarget):
    """A VCU whose chosen command does not come back until told."""

    hang_in = ""
    entered: threading.Event
    release: threading.Event

    def _call(self, name: str) -> int:
        number = super()._call(name)
        if name == self.hang_in:
            self.hang_in = ""
            self.entered.set()
            assert self.release.wait(20)
        return number


def hanging(target: FakeTarget) -> Hanging:
    """The same VCU, able to hang."""
    other = Hanging(target.identity, target.pages, target.clock, target.reference_page, target.active)
    other.entered, other.release = threading.Event(), threading.Event()
    return other


def hanging_rig(folder: Path, name: str) -> tuple[Rig, Hanging]:
    made: list[Hanging] = []

    def wrap(target: FakeTarget) -> Hanging:
        made.append(hanging(target))
        return made[0]

    rig = Rig(folder, load_vehicle(name), wrap=wrap)
    rig.target = made[0]
    return rig, made[0]


@every_vehicle
@pytest.mark.parametrize("step", ["checksum_ok", "idle_page", "write", "read", "activate", "active_page"])
def test_one_key_reverts_at_any_step_of_a_flash(name: str, step: str, tmp_path: Path) -> None:
    """The command that runs ends, then the reference page comes; nothing of the flash follows."""
    rig, target = hanging_rig(tmp_path, name)
    learned(rig)
    rig.drive(1.2)
    target.hang_in = step
    outcomes = []
    flashing = threading.Thread(target=lambda: outcomes.append(rig.propose()))
    flashing.start()
    assert target.entered.wait(20)
    key = threading.Thread(target=lambda: rig.guard.interrupt("revert key"))
    key.start()
    while rig.state == "ARMED":  # the key is pressed at once; its revert waits for the command
        key.join(0.005)
    target.release.set()
    key.join(20)
    flashing.join(20)
    assert not key.is_alive()
    assert not flashing.is_alive()
    assert outcomes[0].result == "REVERTED"
    assert rig.state == "DISARMED"
    assert rig.guard.cause == "revert key"
    assert target.active == target.reference_page
    assert rig.guard.live == rig.guard.reference == rig.in_effect
    assert np.array_equal(outcomes[0].rows, rows_of(rig.guard.reference, 4))
    rig.guard.tick()
    assert "fallen" in events(rig)
    assert verify(rig.audit.path).ok


@every_vehicle
def test_one_key_does_not_wait_for_the_disk(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The audit log hangs in fsync: the reference page is in effect before the log comes back."""
    rig = learned(rig_of(tmp_path, name))
    rig.drive(1.2)
    entered, release = threading.Event(), threading.Event()
    append = rig.audit.append

    def slow(event: str, **fields: object) -> None:
        if event == "flash":
            entered.set()
            assert release.wait(20)
        append(event, **fields)

    monkeypatch.setattr(rig.audit, "append", slow)
    outcomes = []
    flashing = threading.Thread(target=lambda: outcomes.append(rig.propose()))
    flashing.start()
    assert entered.wait(20)
    rig.guard.interrupt("revert key")
    assert rig.target.active == rig.target.reference_page
    assert flashing.is_alive(), "the disk still hangs"
    release.set()
    flashing.join(20)
    assert outcomes[0].result == "REVERTED"
    assert rig.target.active == rig.target.reference_page


def test_a_command_that_never_ends_does_not_hold_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The VCU falls back by itself then; the guard says that it could not confirm it."""
    monkeypatch.setattr("tspace_core.guard.commands.REVERT_WAIT_S", 0.05)
    rig, target = hanging_rig(tmp_path, "twin_truck")
    learned(rig)
    rig.drive(1.2)
    target.hang_in = "write"
    flashing = threading.Thread(target=rig.propose)
    flashing.start()
    assert target.entered.wait(20)
    rig.guard.interrupt("revert key")
    assert rig.state == "LOCKED"
    assert "did not end" in rig.guard.cause
    target.release.set()
    flashing.join(20)
    assert target.active == target.reference_page


def test_one_key_while_arming(tmp_path: Path) -> None:
    rig = rig_of(tmp_path)
    rig.drive(0.1)

    def press(_number: int, call: str) -> None:
        if call == "read":
            threading.Thread(target=rig.guard.interrupt, args=("revert key",)).start()
            while rig.guard._commands.mark() == 0:
                threading.Event().wait(0.001)

    rig.target.before = press
    answer = rig.guard.arm(by="test", token=None, resume=None)
    assert not answer.ok
    assert rig.state == "DISARMED"
    assert "AbortedError" in answer.reason


def test_one_key_just_before_armed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = rig_of(tmp_path)
    rig.drive(0.1)
    append = rig.audit.append

    def press(event: str, **fields: object) -> None:
        if event == "armed":
            rig.guard.interrupt("revert key")
        append(event, **fields)

    monkeypatch.setattr(rig.audit, "append", press)
    answer = rig.guard.arm(by="test", token=None, resume=None)
    assert not answer.ok
    assert "called off" in answer.reason
    assert rig.state == "DISARMED"


def test_one_key_while_nothing_was_to_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = learned(rig_of(tmp_path))
    append = rig.audit.append

    def press(event: str, **fields: object) -> None:
        if event == "flash_unchanged":
            rig.guard.interrupt("revert key")
        append(event, **fields)

    monkeypatch.setattr(rig.audit, "append", press)
    assert rig.propose(0.0).result == "REVERTED"


def test_one_key_on_a_disarmed_guard_asks_the_vcu_all_the_same(tmp_path: Path) -> None:
    rig = rig_of(tmp_path)
    rig.target.active = 1
    rig.guard.interrupt("revert key")
    assert rig.target.active == rig.target.reference_page
    assert rig.state == "DISARMED"


def test_a_log_of_another_guard_is_gone_on_with(tmp_path: Path) -> None:
    rig = learned(rig_of(tmp_path))
    rig.guard.trip("exit")
    rig.audit.close()
    again = AuditLog(tmp_path / "audit.jsonl", rig.clock)
    assert again.last is not None
    assert again.last["reference"] is True
    again.close()


def test_flashes_older_than_ten_seconds_are_forgotten(tmp_path: Path) -> None:
    """40 Nm a minute is no rate; only what was changed within 10 s is added up."""
    rig = rig_of(tmp_path, pedal_zero_drop_nm=200.0)
    rig.arm()
    for _ in range(4):
        rig.drive(10.5)
        outcome = rig.propose(-40.0, first_row=8)
        assert outcome.result == "APPLIED"
        assert "cell_rate_10s" not in outcome.clipped
    assert len(rig.guard._recent.newer(rig.clock())) <= 2


def test_a_clearing_that_cannot_be_noted_does_not_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = rig_of(tmp_path)
    rig.guard.lock("second master")

    def full(_event: str, **_fields: object) -> None:
        raise AuditError("disk full")

    monkeypatch.setattr(rig.audit, "append", full)
    rig.guard.clear(by="a person")
    assert rig.state == "LOCKED"


def test_a_further_episode_that_cannot_be_noted_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = learned(rig_of(tmp_path))

    def full(_event: str, **_fields: object) -> None:
        raise AuditError("disk full")

    monkeypatch.setattr(rig.audit, "append", full)
    assert not rig.guard.arm(by="the next episode", token=None, resume=None).ok
    assert rig.state == "LOCKED"
    assert rig.in_effect == rig.guard.reference
