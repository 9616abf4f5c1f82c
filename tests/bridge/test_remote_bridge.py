"""The bridge of a vehicle behind a telematics box, as agents and operators see it."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.bridge.remote_world import RemoteWorld, remote_world
from tests.bridge.world import FIRST_ROW, LATE, until, world
from tests.link.remote_server import failure, hang
from tspace_core.bridge.bridge import Bridge
from tspace_core.bridge.choice import bridge_of
from tspace_core.bridge.remote import RemoteBridge
from tspace_core.config import load_vehicle
from tspace_core.errors import ConfigError
from tspace_core.guard.audit import read, verify
from tspace_core.link.float_buffer import to_hex
from tspace_core.link.messages import Answer, Clear, Disarm, Failed, Observe, Propose, Revert, rows_from_hex


@pytest.fixture
def bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteWorld]:
    with remote_world(tmp_path, monkeypatch) as found:
        yield found


def test_the_vehicles_file_says_which_bridge_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSPACE_REMOTE__URL", "http://127.0.0.1:1/api")
    remote = load_vehicle("twin_remote")
    assert isinstance(bridge_of(remote), RemoteBridge)
    assert isinstance(bridge_of(load_vehicle("twin_truck")), Bridge)
    with pytest.raises(ConfigError, match="no remote section"):
        RemoteBridge(remote.model_copy(update={"remote": None}))


def test_a_proposal_is_sent_confirmed_and_answered(bridge: RemoteWorld) -> None:
    agent = bridge.armed()
    rows = len(bridge.car.reference)
    assert bridge.car.calls == [(0, rows)], "the whole reference map before anything else"
    answer = agent.flash(bridge.rows())
    assert (answer.result, answer.code, answer.first_row) == ("APPLIED", 0, FIRST_ROW)
    assert bridge.car.calls[-1] == (FIRST_ROW, 4)
    in_effect = bridge.car.table[FIRST_ROW : FIRST_ROW + 4]
    np.testing.assert_array_equal(rows_from_hex(answer.rows, 17), in_effect)
    assert answer.effect_ns is not None
    report = bridge.report()
    assert (report.state, report.flashes | LATE) == ("ARMED", {"APPLIED": 1} | LATE)
    assert report.signals["velocity"] == 60.0
    assert report.signals["current"] is None, "nobody tells the bridge of it"
    assert report.counters["set_torque_sent"] == 2
    assert report.counters["windows_valid"] == 1
    bridge.end()
    assert bridge.car.on_reference
    assert not bridge.bridge.failed
    assert bridge.told[-1] == "the reference map is in effect"
    assert verify(bridge.audit).ok


def test_a_bridge_that_sees_the_vehicle_itself_takes_no_agents_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world(tmp_path, monkeypatch) as found:
        agent = found.agent()
        agent.client.send(Observe(velocity_kmh=0.0))
        assert "not observe" in agent.expect(Failed).reason


@pytest.mark.parametrize("end", ["socket", "disarm", "revert"])
def test_a_flash_that_hangs_is_not_waited_for(bridge: RemoteWorld, end: str) -> None:
    agent = bridge.armed()
    bridge.server.script(bridge.car.does(hang))
    agent.client.send(Propose(id=1, first_row=FIRST_ROW, rows=to_hex(bridge.rows())))
    assert bridge.car.wait_for(lambda: not bridge.car.on_reference)
    if end == "revert":
        report = bridge.operate(Revert(by="driver"))
        assert (report.state, report.cause) == ("DISARMED", "revert by driver")
        answer = agent.expect(Answer)
        assert answer.result == "REVERTED"
        np.testing.assert_array_equal(
            rows_from_hex(answer.rows, 17), bridge.car.reference[FIRST_ROW : FIRST_ROW + 4]
        )
    elif end == "disarm":
        agent.beating.clear()  # its disarm waits behind the flash, its silence does not
        agent.client.send(Disarm(cause="end_invalid"))
    else:
        agent.close()
    assert bridge.car.wait_for(lambda: bridge.car.on_reference)
    until(lambda: bridge.report().state == "DISARMED", "the state to follow")
    assert bridge.report().counters["guard_queue_full"] == 0


def test_without_its_agent_the_vehicle_drives_by_its_reference_map(bridge: RemoteWorld) -> None:
    agent = bridge.flashed()
    agent.close()
    assert bridge.car.wait_for(lambda: bridge.car.on_reference)
    until(lambda: bridge.report().agent is None, "the agent to be gone")
    again = bridge.flashed()
    again.client.send(Disarm(cause="end_valid"))
    assert "end_valid" in again.expect_state("DISARMED").cause
    assert bridge.car.wait_for(lambda: bridge.car.on_reference)


def test_a_hanging_agent_loses_the_map(bridge: RemoteWorld) -> None:
    agent = bridge.flashed()
    agent.beating.clear()
    assert bridge.car.wait_for(lambda: bridge.car.on_reference)
    assert "no heartbeat" in agent.expect_state("DISARMED").cause


def test_three_invalid_windows_bring_the_reference_map_back(bridge: RemoteWorld) -> None:
    agent = bridge.flashed()
    for _ in range(3):
        agent.observe(reason="unit 2 is empty")
    assert bridge.car.wait_for(lambda: bridge.car.on_reference)
    assert "unit 2 is empty" in agent.expect_state("DISARMED").cause
    assert bridge.report().counters["windows_invalid"] == 3
    assert bridge.report().signals["velocity"] is None


def test_an_answer_that_is_unclear_is_put_right_before_it_is_passed_on(bridge: RemoteWorld) -> None:
    agent = bridge.armed()
    bridge.server.script(bridge.car.does(failure("311")))
    answer = agent.flash(bridge.rows())
    assert (answer.result, answer.code) == ("UNKNOWN", 4)
    assert "311" in answer.reason
    assert bridge.car.on_reference
    np.testing.assert_array_equal(
        rows_from_hex(answer.rows, 17), bridge.car.reference[FIRST_ROW : FIRST_ROW + 4]
    )
    assert bridge.report().state == "DISARMED"
    assert bridge.report().counters["failures_311"] == 1
    assert any(line.startswith("flash UNKNOWN, rows 8 to 11") for line in bridge.told)


@pytest.mark.parametrize(("code", "outcome"), [("304", 4), ("303", 2)])
def test_a_refusal_leaves_the_map_as_it_was(bridge: RemoteWorld, code: str, outcome: int) -> None:
    agent = bridge.flashed()
    before = bridge.car.table.copy()
    bridge.server.script(failure(code), failure(code))
    answer = agent.flash(bridge.rows(0.98))
    assert (answer.result, answer.code) == ("REVERTED", outcome)
    assert code in answer.reason
    np.testing.assert_array_equal(bridge.car.table, before)
    assert bridge.report().state == "ARMED"
    report = bridge.operate(Revert(by="driver"))  # meets the second failure: locked until it is confirmed
    assert report.state == "LOCKED"
    assert "may still be in effect" in report.cause
    assert bridge.car.wait_for(lambda: bridge.car.on_reference)
    until(lambda: "confirmed by now" in bridge.report().cause, "the confirmation to be told")


def test_a_service_that_is_gone_locks_loudly_until_it_is_back(bridge: RemoteWorld) -> None:
    agent = bridge.flashed()
    bridge.server.stop()
    agent.close()
    until(lambda: bridge.report().state == "LOCKED", "the lock")
    loud = "LOCKED: the learned map may still be in effect"
    until(lambda: any(line.startswith(loud) for line in bridge.told), "it to be told")
    assert bridge.operate(Clear(by="somebody")).state == "LOCKED"
    bridge.server.start()
    assert bridge.car.wait_for(lambda: bridge.car.on_reference)
    until(lambda: "confirmed by now" in bridge.report().cause, "the confirmation to be told")
    assert bridge.operate(Clear(by="somebody")).state == "DISARMED"
    events = [line["event"] for line in read(bridge.audit)]
    assert events.index("reference_confirmed") < events.index("cleared")
    bridge.flashed()


def test_an_end_that_cannot_confirm_says_so_and_is_a_failure(bridge: RemoteWorld) -> None:
    bridge.flashed()
    bridge.server.stop()
    bridge.end()
    assert bridge.bridge.failed
    assert bridge.told[-1].startswith("THE REFERENCE MAP IS NOT CONFIRMED: the learned map may still be")
    *_, last = read(bridge.audit)
    assert (last["guard"], last["reference"]) == ("LOCKED", False)
    assert verify(bridge.audit).ok


def test_an_end_in_mid_flash_confirms_the_reference_map(bridge: RemoteWorld) -> None:
    agent = bridge.armed()
    release = threading.Event()
    bridge.server.script(bridge.car.held(release))
    agent.client.send(Propose(id=1, first_row=FIRST_ROW, rows=to_hex(bridge.rows())))
    assert bridge.car.wait_for(lambda: not bridge.car.on_reference)
    bridge.end()
    release.set()
    assert bridge.car.on_reference
    assert not bridge.bridge.failed
    assert "confirmed, but a flash of before may be carried out for" in bridge.told[-1]
    *_, last = read(bridge.audit)
    assert last["reference"] is False, "so the next bridge sends it once more"
