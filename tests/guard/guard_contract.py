"""What every guard promises, whatever carries its maps: inherited by the tests of each."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.guard.fake_rows import RemoteRig
from tests.guard.vehicles import STILL, Rig, limited, rows_of, with_rows
from tspace_core.config import TorqueMap, load_vehicle
from tspace_core.guard.audit import read, verify
from tspace_core.guard.state import Proposal, VehicleState
from tspace_core.guard.token import Campaign, new_keys, new_nonce, sign

AnyRig = Rig | RemoteRig
Shapes = [(3, 17), (5, 17), (4, 16), (68,), (0, 17)]


class GuardContract:
    """The tests; a subclass makes the guard and breaks what is behind it."""

    def make(self, folder: Path, **limits: Any) -> AnyRig:
        raise NotImplementedError

    def again(self, rig: AnyRig) -> AnyRig:
        """The next process, on the same vehicle and log; the one before was killed."""
        raise NotImplementedError

    def calls(self, rig: AnyRig) -> int:
        """Commands so far to the vehicle."""
        return len(rig.target.calls)

    def silence(self, rig: AnyRig, *, silent: bool) -> None:
        """Let the vehicle answer no more, or again."""
        raise NotImplementedError

    def when_effective(self, rig: AnyRig, then: Callable[[], None]) -> None:
        """Call ``then`` each time another map is about to take effect."""
        raise NotImplementedError

    def patience_s(self) -> float:
        """The guard tries again within it."""
        return 3.0

    def learned(self, rig: AnyRig) -> AnyRig:
        rig.drive(0.1)
        rig.arm()
        rig.drive(1.0)
        outcome = rig.propose()
        assert outcome.result == "APPLIED", outcome.reason
        assert rig.in_effect == rig.guard.live != rig.guard.reference
        return rig

    def expect(self, rig: AnyRig, state: str) -> None:
        assert rig.state == state, rig.guard.cause

    def on_reference(self, rig: AnyRig) -> bool:
        return bool(rig.in_effect == rig.guard.live == rig.guard.reference)

    # Before and while flashing

    def test_silent_until_armed(self, tmp_path: Path) -> None:
        rig = self.make(tmp_path)
        rig.drive(3.0)
        outcome = rig.propose()
        assert (outcome.result, outcome.code) == ("REFUSED", 0)
        assert "DISARMED" in outcome.reason
        assert self.calls(rig) == 0, "not one command to the vehicle"

    def test_a_flash_is_in_effect_and_told(self, tmp_path: Path) -> None:
        rig = self.learned(self.make(tmp_path))
        rig.drive(1.5)
        outcome = rig.propose(-5.0, first_row=8)
        assert (outcome.result, outcome.code, outcome.first_row) == ("APPLIED", 0, 8)
        assert np.array_equal(outcome.rows, rows_of(rig.in_effect, 8))
        assert outcome.effect_ns is not None
        assert not rig.guard.confirmed
        assert verify(rig.audit.path).ok

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e9])
    def test_one_cell_that_is_no_torque_is_refused(self, value: float, tmp_path: Path) -> None:
        rig = self.learned(self.make(tmp_path))
        rig.drive(1.5)
        live, calls = rig.guard.live, self.calls(rig)
        rows = rows_of(live, 4)
        rows[2, 5] = value
        outcome = rig.guard.propose(Proposal(7, 4, rows, rig.clock()))
        assert outcome.result == "REFUSED"
        assert self.calls(rig) == calls
        assert rig.guard.live == live == rig.in_effect

    @pytest.mark.parametrize("shape", Shapes)
    def test_rows_of_another_shape_are_refused(self, shape: tuple[int, ...], tmp_path: Path) -> None:
        rig = self.learned(self.make(tmp_path))
        rig.drive(1.5)
        calls = self.calls(rig)
        rows = np.zeros(shape, np.float32)
        assert rig.guard.propose(Proposal(7, 4, rows, rig.clock())).result == "REFUSED"
        assert self.calls(rig) == calls

    def test_rows_in_another_order_are_refused(self, tmp_path: Path) -> None:
        rig = self.learned(self.make(tmp_path))
        rig.drive(1.5)
        calls = self.calls(rig)
        for rows in (rows_of(rig.guard.live, 4)[:, ::-1], rows_of(rig.guard.live, 4) * np.float32(1000)):
            outcome = rig.guard.propose(Proposal(7, 4, np.ascontiguousarray(rows), rig.clock()))
            assert outcome.result == "REFUSED", outcome
        for first_row in (-1, 11, 99):
            rows = rows_of(rig.guard.live, 4)
            assert rig.guard.propose(Proposal(7, first_row, rows, rig.clock())).result == "REFUSED"
        assert self.calls(rig) == calls

    @pytest.mark.parametrize(("age_s", "allowed"), [(1.0, True), (1.01, False), (-0.01, False)])
    def test_a_stale_proposal_is_refused(self, age_s: float, allowed: bool, tmp_path: Path) -> None:
        rig = self.learned(self.make(tmp_path))
        rig.drive(1.5)
        rows = rows_of(rig.guard.live, 4) - np.float32(5)
        outcome = rig.guard.propose(Proposal(7, 4, rows, rig.clock() - round(age_s * 1e9)))
        assert (outcome.result == "APPLIED") == allowed, outcome.reason

    def test_two_flashes_within_a_second_are_refused(self, tmp_path: Path) -> None:
        rig = self.learned(self.make(tmp_path))
        assert rig.propose().result == "REFUSED"

    def test_the_audit_log_knows_a_map_before_it_takes_effect(self, tmp_path: Path) -> None:
        rig = self.make(tmp_path)
        seen: list[dict[str, Any]] = []

        def note() -> None:
            seen.append(list(read(rig.audit.path))[-1])

        self.learned(rig)
        self.when_effective(rig, note)
        rig.drive(1.5)
        assert rig.propose(-5.0).result == "APPLIED"
        (line,) = seen
        assert line["event"] == "flash"
        assert line["map_sha256"] == rig.guard.live.sha256()
        assert line["reference"] is False, "after a crash the next process knows"

    def test_the_budget_never_moves(self, tmp_path: Path) -> None:
        """Flashed down again and again, resumed, flashed on: still inside what the reference allows."""
        rig = self.make(tmp_path)
        rig.sample = STILL
        saved: TorqueMap | None = None
        for _ in range(4):
            rig.drive(0.1)
            assert rig.guard.arm(by="test", token=None, resume=saved).ok
            for _ in range(4):
                rig.drive(11.0)
                rig.propose(-200.0, first_row=8)
                assert rig.guard.envelope.check(rig.guard.live) is None
            assert rig.guard.reference == rig.vehicle.default_map()
            assert rig.in_effect == rig.guard.live
            saved = rig.guard.live
            rig.guard.trip("the next run")
        floor = rig.guard.reference.table[8:12, 0] - rig.vehicle.guard.pedal_zero_drop_nm
        assert saved is not None
        assert (saved.table[8:12, 0] >= floor - 1e-3).all()

    def test_a_saved_map_is_resumed_only_at_standstill_and_only_inside(self, tmp_path: Path) -> None:
        rows = rows_of(load_vehicle("twin_truck").default_map(), 8)
        for name, sample, change, resumed in (
            ("still", STILL, -40.0, True),
            ("moving", VehicleState(45.0, 30.0, 0.0, 0), -40.0, False),
            ("outside", STILL, -60.0, False),
        ):
            rig = self.make(tmp_path / name)
            rig.sample = sample
            rig.drive(0.1)
            lower = rows.copy()
            lower[:, 0] += np.float32(change)
            saved = with_rows(rig.guard.reference, 8, lower)
            answer = rig.guard.arm(by="test", token=None, resume=saved)
            assert answer.ok, answer.reason
            assert answer.resumed == resumed, answer.reason
            assert answer.live == rig.guard.live == rig.in_effect
            assert (rig.in_effect == saved) == resumed

    def test_a_further_episode_goes_on_with_the_live_map(self, tmp_path: Path) -> None:
        rig = self.learned(self.make(tmp_path))
        live, calls = rig.guard.live, self.calls(rig)
        answer = rig.guard.arm(by="the next episode", token=None, resume=None)
        assert answer.ok
        assert self.calls(rig) == calls
        assert answer.live == rig.guard.live == live == rig.in_effect

    # What brings the reference map back

    @pytest.mark.parametrize(("silent_s", "allowed"), [(0.49, True), (0.51, False)])
    def test_no_flash_without_a_heartbeat(self, silent_s: float, allowed: bool, tmp_path: Path) -> None:
        rig = self.learned(self.make(tmp_path))
        rig.drive(1.5)
        rig.clock.pass_s(silent_s)
        rig.guard.observe(replace(rig.sample, at_ns=rig.clock()))
        outcome = rig.propose()
        assert (outcome.result == "APPLIED") == allowed, outcome.reason

    @pytest.mark.parametrize(("silent_s", "fallen"), [(1.9, False), (2.05, True)])
    def test_two_seconds_without_a_heartbeat(self, silent_s: float, fallen: bool, tmp_path: Path) -> None:
        rig = self.learned(self.make(tmp_path))
        rig.drive(0.1)
        rig.alive = False
        rig.drive(silent_s)
        assert (rig.state == "DISARMED") == fallen
        assert self.on_reference(rig) == fallen

    def test_the_driver_overrides_with_the_brake(self, tmp_path: Path) -> None:
        rig = self.learned(self.make(tmp_path, override_brake_percent=60.0))
        for brake, state in ((60.0, "ARMED"), (60.1, "DISARMED")):
            rig.guard.observe(VehicleState(45.0, 0.0, brake, rig.clock()))
            assert rig.state == state
        assert "driver override" in rig.guard.cause
        assert self.on_reference(rig)

    @pytest.mark.parametrize("event", ["trip", "lock", "interrupt"])
    def test_each_way_back_is_the_reference_map(self, event: str, tmp_path: Path) -> None:
        rig = self.learned(self.make(tmp_path))
        getattr(rig.guard, event)("a cause")
        assert rig.state == ("LOCKED" if event == "lock" else "DISARMED")
        assert rig.guard.cause == "a cause"
        assert rig.guard.confirmed
        assert self.on_reference(rig)
        rig.guard.tick()
        last = list(read(rig.audit.path))[-1]
        assert (last["event"], last["why"], last["reference"]) == ("fallen", "a cause", True)
        assert verify(rig.audit.path).ok

    def test_the_first_cause_is_kept_and_arming_again_begins_with_the_reference(self, tmp_path: Path) -> None:
        rig = self.learned(self.make(tmp_path))
        rig.guard.trip("exit")
        rig.guard.trip("agent gone")
        assert (rig.state, rig.guard.cause) == ("DISARMED", "exit")
        rig.arm()
        assert self.on_reference(rig)
        assert rig.propose().reason.startswith("interval"), "also the reference coming back is a change"

    def test_a_lock_stays_until_a_person_clears_it(self, tmp_path: Path) -> None:
        rig = self.learned(self.make(tmp_path))
        rig.guard.lock("second master")
        rig.guard.lock("something else")
        rig.guard.trip("exit")
        assert (rig.state, rig.guard.cause) == ("LOCKED", "second master")
        rig.drive(0.1)
        answer = rig.guard.arm(by="agent", token=None, resume=None)
        assert not answer.ok
        assert "second master" in answer.reason
        rig.guard.clear(by="a person")
        assert rig.state == "DISARMED"
        rig.arm()
        rig.guard.clear(by="a person")
        assert rig.state == "ARMED", "there was nothing to clear"

    def test_a_lock_outlives_the_process(self, tmp_path: Path) -> None:
        rig = self.learned(self.make(tmp_path))
        rig.guard.lock("second master")
        after = self.again(rig)
        assert (after.state, after.guard.cause) == ("LOCKED", "second master")

    def test_a_map_that_a_killed_guard_left_is_taken_back_without_any_agent(self, tmp_path: Path) -> None:
        after = self.again(self.learned(self.make(tmp_path)))
        assert after.in_effect != after.guard.reference
        after.alive = False
        after.drive(0.6)
        assert self.on_reference(after)
        assert after.guard.confirmed
        assert after.state == "DISARMED"

    def test_what_is_not_confirmed_locks_and_is_tried_until_it_is(self, tmp_path: Path) -> None:
        rig = self.learned(self.make(tmp_path))
        self.silence(rig, silent=True)
        rig.guard.trip("exit")
        self.expect(rig, "LOCKED")
        assert "not confirmed" in rig.guard.cause
        rig.guard.clear(by="a person")
        self.expect(rig, "LOCKED")  # not before the reference map is known to be in effect
        rig.drive(0.1)
        assert not rig.guard.arm(by="agent", token=None, resume=None).ok
        self.silence(rig, silent=False)
        rig.drive(2 * self.patience_s())
        assert self.on_reference(rig)
        assert rig.guard.confirmed
        self.expect(rig, "LOCKED")  # a person has to look at it all the same
        assert "reference_confirmed" in [entry["event"] for entry in read(rig.audit.path)]
        rig.guard.clear(by="a person")
        self.expect(rig, "DISARMED")

    def test_a_full_disk_locks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        rig = self.learned(self.make(tmp_path))
        rig.drive(1.5)
        changes: list[int] = []
        self.when_effective(rig, lambda: changes.append(1))

        def full(_line: bytes) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(rig.audit, "_write", full)
        outcome = rig.propose(-5.0)
        assert outcome.result != "APPLIED"
        assert rig.state == "LOCKED"
        assert "No space left" in rig.guard.cause
        assert self.on_reference(rig)
        assert changes == [1], "only the reference map took effect"

    # Campaigns

    def campaign(self, rig: AnyRig, private: str, **changes: Any) -> str:
        content = {
            "vin": rig.vehicle.vin,
            "driver": rig.vehicle.driver,
            "reference_sha256": rig.guard.reference.sha256(),
            "bounds_sha256": rig.guard.envelope.sha256(),
            "from_ns": 0,
            "until_ns": rig.clock() + 3600 * 10**9,
            "flashes": 2,
            "nonce": new_nonce(),
            "counter": 1,
            **changes,
        }
        return sign(Campaign.model_validate(content), private)

    def test_armed_only_for_a_campaign_and_only_for_its_flashes(self, tmp_path: Path) -> None:
        private, public = new_keys()
        rig = self.make(tmp_path, campaign_required=True, campaign_key=public)
        rig.drive(0.1)
        for wrong in (None, "no token", self.campaign(rig, private, vin="OTHER")):
            assert not rig.guard.arm(by="test", token=wrong, resume=None).ok
            assert rig.state == "DISARMED"
        token = self.campaign(rig, private)
        assert rig.guard.arm(by="test", token=token, resume=None).ok
        for _ in range(2):
            rig.drive(1.5)
            assert rig.propose(-3.0).result == "APPLIED"
        rig.drive(1.5)
        assert rig.propose(-3.0).reason.startswith("campaign")
        rig.guard.trip("exit")
        after = self.again(rig)
        after.drive(0.6)
        answer = after.guard.arm(by="test", token=token, resume=None)
        assert not answer.ok
        assert "spent" in answer.reason

    def test_the_end_of_a_campaign_brings_the_reference_map_back(self, tmp_path: Path) -> None:
        private, public = new_keys()
        rig = self.make(tmp_path, campaign_required=True, campaign_key=public)
        rig.drive(0.1)
        token = self.campaign(rig, private, until_ns=rig.clock() + 5 * 10**9)
        assert rig.guard.arm(by="test", token=token, resume=None).ok
        rig.drive(1.5)
        assert rig.propose(-3.0).result == "APPLIED"
        rig.drive(5.0)
        assert rig.state == "DISARMED"
        assert "campaign" in rig.guard.cause
        assert self.on_reference(rig)


def vehicle_of(name: str, **limits: Any) -> Any:
    return limited(load_vehicle(name), **limits)
