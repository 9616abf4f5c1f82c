"""A flash that nobody confirmed and that is carried out after the reference map was."""

import threading
from collections.abc import Callable
from pathlib import Path

from tests.guard.fake_rows import FakeRows, RemoteRig, learned, remote_rig
from tspace_core.errors import RemoteNetworkError
from tspace_core.guard.audit import read

LIMIT_S = 32.0


def lost(folder: Path) -> tuple[RemoteRig, Callable[[FakeRows], None]]:
    """A guard whose flash was given up, and what carries that flash out."""
    rig = learned(remote_rig(folder))
    rig.drive(1.5)
    since = len(rig.target.calls)
    rig.target.faults[since] = "lost"
    assert rig.propose(-5.0, first_row=8).result == "UNKNOWN"
    first_row, rows = rig.target.calls[since]

    def carry_out(target: FakeRows) -> None:
        target.table[first_row : first_row + len(rows)] = rows

    return rig, carry_out


def test_the_reference_map_comes_once_more_when_no_flash_can_be_late(tmp_path: Path) -> None:
    rig, carry_out = lost(tmp_path)
    rig.drive(10.0)
    assert rig.in_effect == rig.guard.reference
    carry_out(rig.target)
    assert rig.in_effect != rig.guard.reference
    calls = len(rig.target.calls)
    rig.drive(LIMIT_S - 12.0)
    assert len(rig.target.calls) == calls, "not before its time is over"
    rig.drive(4.0)
    assert rig.in_effect == rig.guard.reference
    assert len(rig.target.calls) == calls + 1
    assert rig.events[-1] == "reference_repeated"
    assert next(reversed(list(read(rig.audit.path))))["reference"] is True
    assert rig.guard.counters["late_flash_s"] == 0
    rig.drive(60.0)
    assert len(rig.target.calls) == calls + 1, "once"


def test_nothing_is_armed_while_a_flash_may_be_late(tmp_path: Path) -> None:
    rig, carry_out = lost(tmp_path)
    rig.drive(5.0)
    answer = rig.guard.arm(by="test", token=None, resume=None)
    assert not answer.ok
    assert "may still be carried out" in answer.reason
    assert "arm again in 27 s" in answer.reason
    assert rig.guard.counters["late_flash_s"] == 27
    carry_out(rig.target)
    rig.drive(LIMIT_S)
    rig.arm()
    assert rig.in_effect == rig.guard.live == rig.guard.reference


def test_a_repetition_in_vain_is_tried_again(tmp_path: Path) -> None:
    rig, carry_out = lost(tmp_path)
    rig.target.broken = "lost"
    rig.drive(LIMIT_S + 5.0)
    assert "reference_unconfirmed" in rig.events
    assert not any(line["reference"] for line in list(read(rig.audit.path))[-2:])
    carry_out(rig.target)
    rig.target.broken = ""
    rig.drive(40.0)
    assert rig.in_effect == rig.guard.reference
    assert rig.events[-1] == "reference_repeated"


def test_an_end_before_its_time_is_over_leaves_it_to_the_next_process(tmp_path: Path) -> None:
    rig, carry_out = lost(tmp_path)
    rig.guard.trip("bridge ends")
    assert "may be carried out for 32 s more" in rig.guard.standing
    after = rig.again()
    after.guard.tick()
    assert after.in_effect == after.guard.reference
    carry_out(after.target)
    assert not after.guard.arm(by="test", token=None, resume=None).ok
    after.drive(LIMIT_S + 1.0)
    assert after.in_effect == after.guard.reference
    after.arm()


def test_a_flash_that_certainly_failed_is_not_waited_for(tmp_path: Path) -> None:
    rig = learned(remote_rig(tmp_path))
    rig.drive(1.5)
    rig.target.faults[len(rig.target.calls)] = "refused"
    assert rig.propose(-5.0).result == "REVERTED"
    rig.guard.trip("end_invalid")
    rig.arm()


def test_after_a_kill_between_two_flashes_nothing_is_waited_for(tmp_path: Path) -> None:
    after = learned(remote_rig(tmp_path)).again()
    after.guard.tick()
    after.arm()
    assert after.in_effect == after.guard.reference


def test_a_flash_that_a_key_called_off_on_its_way_may_be_late_as_well(tmp_path: Path) -> None:
    rig = learned(remote_rig(tmp_path))
    rig.drive(1.5)
    key = threading.Thread(target=lambda: rig.guard.interrupt("revert key"))
    aborted = threading.Event()
    rig.target.abort = lambda cause: aborted.set()  # type: ignore[method-assign]

    def press(_number: int) -> None:
        rig.target.before = None
        key.start()
        assert aborted.wait(20.0)
        raise RemoteNetworkError("it was sent, and given up", 1001, unchanged=False)

    rig.target.before = press
    assert rig.propose(-5.0, first_row=8).result == "REVERTED"
    key.join(20.0)
    assert (rig.state, rig.guard.confirmed) == ("DISARMED", True)
    answer = rig.guard.arm(by="test", token=None, resume=None)
    assert "may still be carried out" in answer.reason
    rig.drive(LIMIT_S + 1.0)
    rig.arm()


def test_an_earlier_try_of_a_confirmed_flash_may_be_late_as_well(tmp_path: Path) -> None:
    rig = learned(remote_rig(tmp_path))
    rig.drive(1.5)
    number = len(rig.target.calls)
    rig.target.doubled.add(number)
    assert rig.propose(-5.0, first_row=8).result == "APPLIED"
    rig.arm()  # a further episode goes on
    first_row, rows = rig.target.calls[number]
    rig.guard.trip("end_invalid")
    assert rig.guard.confirmed
    assert "may still be carried out" in rig.guard.arm(by="test", token=None, resume=None).reason
    rig.drive(2.0)
    rig.target.table[first_row : first_row + len(rows)] = rows
    rig.drive(LIMIT_S)
    assert rig.in_effect == rig.guard.reference
    assert rig.events[-1] == "reference_repeated"
    rig.arm()
