"""What the guard of a vehicle far away does beyond any guard: lost answers, tries, supervision."""

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.guard.fake_rows import FAULTS, FakeRows, Fault, RemoteRig, learned, remote_rig
from tests.guard.vehicles import STILL, rows_of, with_rows
from tspace_core.config import load_vehicle
from tspace_core.errors import ConfigError, RemoteServiceError
from tspace_core.guard.audit import read, verify
from tspace_core.guard.remote import UNCONFIRMED, RemoteGuard
from tspace_core.guard.state import VehicleState

CERTAIN = ("refused",)
LIMIT_S = 20.0


def said_or_so(rig: RemoteRig) -> None:
    """The vehicle drives by what the guard holds for live, or the guard is locked and says otherwise."""
    if rig.guard.confirmed:
        assert rig.in_effect == rig.guard.reference
    elif rig.state == "LOCKED":
        assert UNCONFIRMED in rig.guard.cause
        return
    assert np.array_equal(rig.target.table, rig.guard.live.table), (rig.state, rig.guard.cause)
    assert rig.guard.envelope.check(rig.guard.live) is None
    if rig.state != "ARMED":
        assert rig.guard.live == rig.guard.reference


# A flash and its answer


@pytest.mark.parametrize("fault", FAULTS)
def test_a_flash_that_is_not_confirmed(fault: Fault, tmp_path: Path) -> None:
    rig = learned(remote_rig(tmp_path))
    rig.drive(1.5)
    before, since = rig.guard.live, len(rig.target.calls)
    rig.target.faults[since] = fault
    outcome = rig.propose(-5.0, first_row=8)
    assert outcome.effect_ns is None
    if fault in CERTAIN:
        assert (outcome.result, outcome.code, rig.state) == ("REVERTED", 4, "ARMED")
        assert rig.guard.live == before == rig.in_effect
        assert len(rig.target.calls) == since + 1, "nothing was to be put right"
        rig.drive(1.5)
        assert rig.propose(-5.0).result == "APPLIED"
        return
    assert outcome.result == "UNKNOWN"
    assert rig.state == ("LOCKED" if fault.startswith("bug") else "DISARMED")
    assert outcome.code == (2 if fault.startswith("bug") else 4)
    assert rig.target.sent_reference(rig.guard.reference, since) == 1
    assert rig.in_effect == rig.guard.live == rig.guard.reference
    assert np.array_equal(outcome.rows, rows_of(rig.guard.reference, 8))
    assert "flash UNKNOWN" in rig.guard.cause
    assert rig.guard.confirmed
    lines = list(read(rig.audit.path))
    assert [line["event"] for line in lines[-3:]] == ["flash", "flash_result", "fallen"]
    assert [line["reference"] for line in lines[-3:]] == [False, False, False], "it may come late"


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in CERTAIN])
def test_an_unclear_flash_and_a_service_that_stays_away(fault: Fault, tmp_path: Path) -> None:
    rig = learned(remote_rig(tmp_path))
    rig.drive(1.5)
    since = len(rig.target.calls)
    rig.target.faults[since] = fault
    rig.target.broken = "lost"
    outcome = rig.propose(-5.0, first_row=8)
    assert outcome.result == "UNKNOWN"
    assert rig.state == "LOCKED"
    assert rig.guard.cause.startswith(UNCONFIRMED)
    assert len(rig.target.calls) == since + 2, "the flash and one try"
    rig.drive(60.0)
    assert "NOT CONFIRMED" in rig.guard.standing
    rig.target.broken = ""
    rig.drive(31.0)
    assert rig.guard.confirmed
    assert rig.guard.cause.endswith("confirmed by now")
    assert rig.in_effect == rig.guard.reference
    events = rig.events
    assert events.count("reference_unconfirmed") >= 3
    assert events[-1] == "reference_confirmed"
    rig.guard.clear(by="a person")
    rig.arm()
    assert verify(rig.audit.path).ok


def test_what_never_heals_ends_the_run_by_its_code(tmp_path: Path) -> None:
    rig = learned(remote_rig(tmp_path))
    rig.drive(1.5)

    def unknown_car(_number: int) -> None:
        raise RemoteServiceError("code 303, tsp: car not registered", 303, unchanged=True)

    rig.target.before = unknown_car
    outcome = rig.propose(-5.0)
    assert (outcome.result, outcome.code) == ("REVERTED", 2)
    assert "303" in outcome.reason
    assert "not registered" in outcome.reason


def test_only_the_rows_are_sent_and_the_vehicles_own_limit_holds(tmp_path: Path) -> None:
    rig = learned(remote_rig(tmp_path))
    (_, whole), (first_row, rows) = rig.target.calls
    assert whole.shape == rig.guard.reference.table.shape
    assert (first_row, rows.shape) == (4, (4, 17))
    assert rows.dtype == np.float32
    assert rig.target.limits_s == [32.0, 32.0]


def test_the_live_rows_again_are_sent_again(tmp_path: Path) -> None:
    """Nothing can be read back: only an answer says that they are in effect."""
    rig = learned(remote_rig(tmp_path))
    rig.drive(1.5)
    calls = len(rig.target.calls)
    assert rig.propose(0.0).result == "APPLIED"
    assert len(rig.target.calls) == calls + 1
    rig.drive(1.5)
    rig.target.faults[calls + 1] = "answer lost"
    assert rig.propose(0.0).result == "UNKNOWN"
    said_or_so(rig)


STEPS = ("arm", "resume", "propose", "trip", "lock", "clear", "interrupt", "drive", "wait", "restart")


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(STEPS), st.sampled_from(("", *FAULTS)), st.integers(0, 2)), max_size=14
    )
)
def test_whatever_happens_no_other_map_is_in_effect_unsaid(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Fault, int]]
) -> None:
    """Every call may fail in every way: the guard knows what drives, or is locked and says so."""
    rig = learned(remote_rig(tmp_path_factory.mktemp("world")))
    saved = rig.guard.live
    for step, fault, further in steps:
        calls = len(rig.target.calls)
        rig.target.faults = dict.fromkeys(range(calls, calls + 1 + further), fault)
        match step:
            case "arm":
                rig.guard.arm(by="test", token=None, resume=None)
            case "resume":
                rig.observe(velocity_kmh=0.0, thrust_percent=0.0)
                rig.guard.arm(by="test", token=None, resume=saved)
                rig.guard.heartbeat()
                rig.observe()
            case "propose":
                rig.drive(1.5)
                rig.propose(-4.0)
            case "trip" | "lock" | "interrupt":
                getattr(rig.guard, step)("a cause")
            case "clear":
                rig.guard.clear(by="a person")
            case "drive":
                rig.drive(3.0)
            case "wait":
                rig.alive = False
                rig.drive(3.0, windows=False)
                rig.alive = True
            case _:
                rig = rig.again()
                rig.target.faults = dict.fromkeys(range(1 + further), fault)
                rig.drive(0.1)
        said_or_so(rig)
    rig.target.faults = {}
    rig.alive = False
    rig.drive(40.0)
    assert rig.in_effect == rig.guard.live == rig.guard.reference
    assert rig.guard.confirmed
    assert verify(rig.audit.path).ok
    rig.audit.close()


# Arming


def test_arming_has_the_whole_reference_map_confirmed_first(tmp_path: Path) -> None:
    rig = remote_rig(tmp_path)
    rig.target.table[3:5] -= np.float32(20)  # left behind by somebody
    assert rig.guard.arm(by="test", token=None, resume=None).ok, "no sample is needed for it"
    assert rig.target.sent_reference(rig.guard.reference) == 1
    assert rig.in_effect == rig.guard.reference
    assert rig.events == ["armed"]
    outcome = rig.propose()
    assert outcome.result == "REFUSED"
    assert "no sample of the vehicle yet" in outcome.reason


@pytest.mark.parametrize("fault", FAULTS)
def test_a_service_that_does_not_confirm_is_not_armed_and_may_be_later(fault: Fault, tmp_path: Path) -> None:
    rig = remote_rig(tmp_path)
    rig.target.faults[0] = fault
    answer = rig.guard.arm(by="test", token=None, resume=None)
    assert not answer.ok
    assert rig.state == ("LOCKED" if fault.startswith("bug") else "DISARMED")
    rig.guard.clear(by="a person")
    rig.arm()


def test_a_saved_map_is_sent_in_one_go(tmp_path: Path) -> None:
    rig = remote_rig(tmp_path)
    rig.sample = STILL
    rig.observe()
    lower = rows_of(rig.guard.reference, 8)
    lower[:, 0] -= np.float32(40)
    saved = with_rows(rig.guard.reference, 8, lower)
    assert rig.guard.arm(by="test", token=None, resume=saved).resumed
    (first_row, rows) = rig.target.calls[-1]
    assert (first_row, rows.shape) == (0, saved.table.shape)
    assert rig.in_effect == saved


def test_no_resume_without_a_fresh_sample(tmp_path: Path) -> None:
    rig = remote_rig(tmp_path)
    rig.sample = STILL
    lower = rows_of(rig.guard.reference, 8)
    lower[:, 0] -= np.float32(40)
    saved = with_rows(rig.guard.reference, 8, lower)
    for age_s in (None, 12.5):
        if age_s is not None:
            rig.observe(age_s)
        answer = rig.guard.arm(by="test", token=None, resume=saved)
        assert answer.ok
        assert not answer.resumed
        assert "stale" in answer.reason
        assert rig.in_effect == rig.guard.reference
        rig.guard.trip("once more")


def test_a_resume_whose_answer_is_lost_does_not_arm(tmp_path: Path) -> None:
    rig = remote_rig(tmp_path)
    rig.sample = STILL
    rig.observe()
    lower = rows_of(rig.guard.reference, 8)
    lower[:, 0] -= np.float32(40)
    saved = with_rows(rig.guard.reference, 8, lower)
    rig.target.faults[1] = "answer lost"
    answer = rig.guard.arm(by="test", token=None, resume=saved)
    assert not answer.ok
    assert "1002" in answer.reason
    assert rig.state == "DISARMED"
    assert rig.in_effect == rig.guard.reference
    assert "armed" not in rig.events


def test_a_vehicle_without_a_box_cannot_have_this_guard(tmp_path: Path) -> None:
    rig = remote_rig(tmp_path)
    with pytest.raises(ConfigError, match="no remote section"):
        RemoteGuard(
            load_vehicle("twin_truck"),
            rig.target,
            rig.audit,
            now_ns=rig.clock,
            utc_ns=rig.clock,
            code_of=lambda _error: 4,
        )


# After a crash


def test_the_next_process_sends_the_reference_map_at_once(tmp_path: Path) -> None:
    rig = learned(remote_rig(tmp_path))
    after = rig.again()
    assert after.state == "DISARMED"
    assert after.guard.cause.startswith(UNCONFIRMED)
    after.guard.tick()
    assert after.target.sent_reference(after.guard.reference) == 1
    assert after.guard.confirmed
    assert UNCONFIRMED not in after.guard.cause
    after.guard.tick()
    assert len(after.target.calls) == 1


def test_a_process_that_died_in_mid_flash_is_one_that_left_a_map(tmp_path: Path) -> None:
    rig = learned(remote_rig(tmp_path))
    rig.drive(1.5)
    kept: list[bytes] = []
    rig.target.after = lambda _number: kept.append(rig.audit.path.read_bytes())
    rig.propose(-5.0)
    rig.audit.close()
    rig.audit.path.write_bytes(kept[0])  # as the disk was when the process was killed
    (rig.audit.path.parent / "audit.jsonl.head").unlink()
    after = RemoteRig(tmp_path, rig.vehicle, table=rig.target.table)
    assert not after.guard.confirmed
    after.guard.tick()
    assert after.in_effect == after.guard.reference


def test_a_next_process_that_cannot_confirm_locks(tmp_path: Path) -> None:
    after = learned(remote_rig(tmp_path)).again()
    after.target.broken = "lost"
    after.guard.tick()
    assert after.state == "LOCKED"
    assert UNCONFIRMED in after.guard.cause
    assert not after.guard.arm(by="agent", token=None, resume=None).ok


def test_a_lock_that_outlives_the_process_says_what_is_so_now(tmp_path: Path) -> None:
    rig = learned(remote_rig(tmp_path))
    rig.target.broken = "lost"
    rig.guard.lock("a full disk")
    after = rig.again()
    assert after.guard.cause.startswith(UNCONFIRMED)
    after.guard.tick()
    assert (after.state, after.guard.cause) == (
        "LOCKED",
        "a full disk; the reference map is confirmed by now",
    )


def test_tries_are_further_and_further_apart(tmp_path: Path) -> None:
    rig = learned(remote_rig(tmp_path))
    rig.target.broken = "lost"
    rig.target.cost_s = 0.0
    rig.guard.trip("exit")
    at: list[float] = [rig.clock() / 1e9]
    rig.target.before = lambda _number: at.append(rig.clock() / 1e9)
    rig.drive(140.0)
    pauses = np.diff(at)
    assert pauses[:6] == pytest.approx([2.5, 5.0, 10.0, 20.0, 30.0, 30.0], abs=0.11)


def test_a_reference_map_that_is_sent_again_in_vain_is_in_effect_all_the_same(tmp_path: Path) -> None:
    rig = remote_rig(tmp_path)
    rig.arm()
    rig.target.broken = "lost"
    rig.guard.trip("exit")
    assert rig.state == "DISARMED", "nothing else was sent since it was confirmed"
    assert rig.guard.confirmed
    assert "not confirmed" in rig.guard.standing
    assert "is in effect" in rig.guard.standing


# Supervision


def test_three_invalid_windows_in_a_row_and_no_fewer(tmp_path: Path) -> None:
    rig = learned(remote_rig(tmp_path))
    for _ in range(3):
        for _ in range(2):
            rig.drive(1.0, windows=False)
            rig.guard.observe(VehicleState(0.0, 0.0, 0.0, rig.clock(), valid=False, reason="unit 2 is empty"))
        assert rig.state == "ARMED"
        rig.observe()
    states = []
    for _ in range(3):
        rig.guard.observe(VehicleState(0.0, 0.0, 0.0, rig.clock(), valid=False, reason="unit 2 is empty"))
        states.append(rig.state)
    assert states == ["ARMED", "ARMED", "DISARMED"]
    assert "unit 2 is empty" in rig.guard.cause
    assert rig.in_effect == rig.guard.reference


def test_nothing_is_flashed_after_an_invalid_window(tmp_path: Path) -> None:
    rig = learned(remote_rig(tmp_path))
    rig.drive(1.5)
    rig.guard.observe(VehicleState(0.0, 0.0, 0.0, rig.clock(), valid=False, reason="unit 2 is empty"))
    outcome = rig.propose()
    assert outcome.result == "REFUSED"
    assert "unit 2 is empty" in outcome.reason


@pytest.mark.parametrize(("age_s", "allowed"), [(11.9, True), (12.1, False)])
def test_a_sample_may_be_as_old_as_a_window_through_the_cloud(
    age_s: float, allowed: bool, tmp_path: Path
) -> None:
    rig = learned(remote_rig(tmp_path))
    rig.drive(1.5)
    rig.observe()
    rig.drive(age_s, windows=False)
    outcome = rig.propose()
    assert (outcome.result == "APPLIED") == allowed, outcome.reason


@pytest.mark.parametrize(("silent_s", "fallen"), [(23.7, False), (24.3, True)])
def test_so_long_without_a_valid_sample(silent_s: float, fallen: bool, tmp_path: Path) -> None:
    rig = learned(remote_rig(tmp_path))
    rig.drive(0.05)
    rig.drive(silent_s, windows=False)
    assert (rig.state == "DISARMED") == fallen
    assert not fallen or "no valid sample" in rig.guard.cause
    assert (rig.in_effect == rig.guard.reference) == fallen


def test_a_slow_flash_is_no_silence_of_the_vehicle(tmp_path: Path) -> None:
    """No window can come while the guard holds the vehicle's one connection."""
    rig = learned(remote_rig(tmp_path))
    rig.drive(1.5)
    rig.target.cost_s = 31.0
    rig.target.before = lambda _number: rig.guard.heartbeat()
    assert rig.propose().result == "APPLIED"
    rig.drive(10.0, windows=False)
    assert rig.state == "ARMED"


def test_old_news_is_an_invalid_window(tmp_path: Path) -> None:
    rig = learned(remote_rig(tmp_path))
    for _ in range(3):
        rig.observe(age_s=13.0)
    assert rig.state == "DISARMED"
    assert "13.0 s old" in rig.guard.cause


# One key


class Hanging(FakeRows):
    """A service whose chosen call hangs until it is aborted, or told to go on."""

    hang = -1
    entered: threading.Event
    ended: threading.Event

    def send(self, first_row: int, rows: np.ndarray, *, timeout_s: float) -> bool:
        if len(self.calls) == self.hang:
            self.entered.set()
            assert self.ended.wait(LIMIT_S)
        return super().send(first_row, rows, timeout_s=timeout_s)

    def abort(self, cause: str) -> None:
        super().abort(cause)
        self.ended.set()


def hanging_rig(folder: Path) -> tuple[RemoteRig, Hanging]:
    made: list[Hanging] = []

    def wrap(target: FakeRows) -> Hanging:
        made.append(Hanging(target.table, target.clock))
        made[0].entered, made[0].ended = threading.Event(), threading.Event()
        return made[0]

    rig = RemoteRig(folder, load_vehicle("twin_remote"), wrap=wrap)
    rig.target = made[0]
    return rig, made[0]


def test_one_key_ends_a_flash_that_hangs(tmp_path: Path) -> None:
    rig, target = hanging_rig(tmp_path)
    learned(rig)
    rig.drive(1.5)
    target.hang = len(target.calls)
    outcomes = []
    flashing = threading.Thread(target=lambda: outcomes.append(rig.propose(-5.0)))
    flashing.start()
    assert target.entered.wait(LIMIT_S)
    assert rig.guard.flying
    rig.guard.interrupt("revert key")
    flashing.join(LIMIT_S)
    assert outcomes[0].result == "REVERTED"
    assert target.aborts == ["the reference map was called for"]
    assert (rig.state, rig.guard.cause) == ("DISARMED", "revert key")
    assert rig.in_effect == rig.guard.live == rig.guard.reference
    rig.guard.tick()
    assert "fallen" in rig.events
    rig.arm()


def test_one_key_while_the_reference_map_is_on_its_way_locks_nothing(tmp_path: Path) -> None:
    """As at each run's end: the agent disarms, and is gone before the service has answered."""
    rig, target = hanging_rig(tmp_path)
    learned(rig)
    target.hang = len(target.calls)
    tripping = threading.Thread(target=lambda: rig.guard.trip("exit"))
    tripping.start()
    assert target.entered.wait(LIMIT_S)
    rig.guard.interrupt("the agent is gone")
    tripping.join(LIMIT_S)
    assert (rig.state, rig.guard.cause, rig.guard.confirmed) == ("DISARMED", "exit", True)
    assert rig.in_effect == rig.guard.live == rig.guard.reference
    rig.arm()


@pytest.mark.parametrize("what", ["arm", "tick"])
def test_one_key_ends_a_try_that_hangs_and_makes_its_own(what: str, tmp_path: Path) -> None:
    rig, target = hanging_rig(tmp_path)
    if what == "tick":
        learned(rig)
        target.broken = "lost"
        rig.guard.trip("exit")
        target.broken = ""
        rig.clock.pass_s(3.0)
    target.hang = len(target.calls)
    answers = []
    work = rig.guard.tick if what == "tick" else lambda: answers.append(arm(rig))
    trying = threading.Thread(target=work)
    trying.start()
    assert target.entered.wait(LIMIT_S)
    rig.guard.interrupt("revert key")
    trying.join(LIMIT_S)
    assert not trying.is_alive()
    assert rig.guard.confirmed
    assert rig.in_effect == rig.guard.reference
    assert UNCONFIRMED not in rig.guard.cause
    assert what == "tick" or "Aborted" in answers[0]


@pytest.mark.parametrize("broken", ["", "lost"])
def test_a_way_back_that_a_key_calls_off_is_no_reason_to_lock_but_what_comes_of_the_keys(
    broken: Fault, tmp_path: Path
) -> None:
    rig, target = hanging_rig(tmp_path)
    learned(rig)
    target.hang = len(target.calls)
    tripping = threading.Thread(target=rig.guard.trip, args=("end_valid",))
    tripping.start()
    assert target.entered.wait(LIMIT_S)
    target.broken = broken
    rig.guard.interrupt("revert key")
    tripping.join(LIMIT_S)
    assert not tripping.is_alive()
    assert rig.guard.cause.endswith("end_valid")
    assert rig.state == ("LOCKED" if broken else "DISARMED")
    assert rig.guard.confirmed == (not broken)
    said_or_so(rig)


def arm(rig: RemoteRig) -> str:
    return rig.guard.arm(by="test", token=None, resume=None).reason


def test_who_wants_the_reference_map_while_a_key_fetches_it_waits_for_that(tmp_path: Path) -> None:
    """As at the end of a bridge: the key's try and the end of the guard's task are one call."""
    rig, target = hanging_rig(tmp_path)
    learned(rig)
    calls = target.hang = len(target.calls)
    pressing = threading.Thread(target=rig.guard.interrupt, args=("bridge ends",))
    pressing.start()
    assert target.entered.wait(LIMIT_S)
    ending = threading.Thread(target=rig.guard.trip, args=("bridge ends",))
    ending.start()
    ending.join(0.05)
    assert ending.is_alive()
    target.ended.set()
    for thread in (pressing, ending):
        thread.join(LIMIT_S)
        assert not thread.is_alive()
    assert len(target.calls) == calls + 1
    assert rig.guard.confirmed


def test_who_watches_hears_of_the_change_before_the_call(tmp_path: Path) -> None:
    rig = learned(remote_rig(tmp_path))
    told: list[tuple[str, int]] = []
    rig.guard.on_change = lambda: told.append((rig.state, len(rig.target.calls)))
    calls = len(rig.target.calls)
    rig.guard.trip("exit")
    assert told == [("DISARMED", calls)]


def test_the_last_tries_are_short(tmp_path: Path) -> None:
    rig = learned(remote_rig(tmp_path))
    rig.guard.hurry()
    rig.guard.interrupt("bridge ends")
    assert rig.target.limits_s[-1] == 10.0


def test_a_key_pressed_just_before_a_flash_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = learned(remote_rig(tmp_path))
    rig.drive(1.5)
    append, calls = rig.audit.append, len(rig.target.calls)

    def press(event: str, **fields: object) -> None:
        append(event, **fields)
        if event == "flash":
            rig.guard.interrupt("revert key")

    monkeypatch.setattr(rig.audit, "append", press)
    outcome = rig.propose(-5.0)
    assert outcome.result == "REVERTED"
    assert rig.target.sent_reference(rig.guard.reference, calls) == len(rig.target.calls) - calls
    assert rig.in_effect == rig.guard.reference
