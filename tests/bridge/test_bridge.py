"""The bridge as agents, operators and the HMI see it, and where the VCU ends up whatever happens."""

import contextlib
import datetime
import errno
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bridge.world import FIRST_ROW, LATE, LIMIT_S, World, await_message, until, world
from tspace_core.errors import BusError, ChannelError
from tspace_core.guard.audit import read, verify
from tspace_core.link.channel_frames import pack
from tspace_core.link.datagrams import parse
from tspace_core.link.float_buffer import to_hex
from tspace_core.link.messages import (
    Answer,
    Arm,
    Clear,
    Disarm,
    Failed,
    Propose,
    Revert,
    rows_from_hex,
)
from tspace_core.link.requests import Spool
from tspace_core.link.udp import udp_context


@pytest.fixture
def bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with world(tmp_path, monkeypatch) as found:
        yield found


def test_a_proposal_is_flashed_read_back_and_answered_as_it_is_in_effect(bridge: World) -> None:
    agent = bridge.armed()
    answer = agent.flash(bridge.rows(), 7)
    assert (answer.id, answer.result, answer.code, answer.first_row) == (7, "APPLIED", 0, FIRST_ROW)
    page = bridge.vcu.page
    assert page != bridge.vcu.reference_page
    in_effect = bridge.vcu.pages[page][FIRST_ROW : FIRST_ROW + 4]
    np.testing.assert_array_equal(rows_from_hex(answer.rows, 17), in_effect)
    assert not np.array_equal(in_effect, bridge.vcu.pages[0][FIRST_ROW : FIRST_ROW + 4])
    assert answer.effect_ns is not None
    assert any(line.startswith("flash APPLIED, rows 8 to 11") for line in bridge.told)
    report = bridge.report()
    assert (report.state, report.flashes | LATE) == ("ARMED", {"APPLIED": 1} | LATE)
    bridge.end()
    assert bridge.vcu.page == bridge.vcu.reference_page
    assert verify(bridge.audit).ok
    events = [line["event"] for line in read(bridge.audit)]
    assert [event for event in events if not event.endswith("refused")][:2] == ["armed", "flash"]


def test_a_run_gets_the_datagrams_and_the_address(bridge: World) -> None:
    agent = bridge.agent()  # standby gave the address back before it said welcome
    with udp_context("127.0.0.1", bridge.udp) as listener:
        listener.settimeout(LIMIT_S)
        first, second = (parse(listener.recv(4096)) for _ in range(2))
    assert first.sample is not None
    assert first.sample["velocity"] == 50.0
    assert first.seq is not None
    assert second.seq == first.seq + 1
    agent.close()


@pytest.mark.parametrize("end", ["socket", "disarm"])
def test_without_its_agent_the_vehicle_drives_by_its_reference_map(bridge: World, end: str) -> None:
    agent = bridge.flashed()
    if end == "disarm":
        agent.client.send(Disarm(cause="end_invalid"))
        assert "end_invalid" in agent.expect_state("DISARMED").cause
    agent.close()
    assert bridge.on_reference()
    until(lambda: bridge.report().agent is None, "the agent to be gone")
    assert bridge.report().state == "DISARMED"
    assert bridge.flashed().client.welcome.state == "DISARMED"  # the next run may


def test_run_after_run_is_welcome(bridge: World) -> None:
    for _ in range(30):
        agent = bridge.agent()
        bridge.operate(Revert(by="driver"))
        agent.close()


def test_a_hanging_agent_loses_the_map(bridge: World) -> None:
    agent = bridge.flashed()
    agent.beating.clear()
    assert bridge.on_reference()
    assert "no heartbeat" in agent.expect_state("DISARMED").cause


def test_an_operators_revert_holds_against_an_agent_that_only_beats(bridge: World) -> None:
    agent = bridge.flashed()
    answer = bridge.operate(Revert(by="driver"))
    assert bridge.vcu.page == bridge.vcu.reference_page  # before it is answered
    assert (answer.state, answer.cause) == ("DISARMED", "revert by driver")
    refused = agent.propose(2, bridge.rows(0.98))
    assert refused.result == "REFUSED"
    assert "DISARMED" in refused.reason
    assert bridge.vcu.page == bridge.vcu.reference_page


def test_a_revert_cuts_into_a_running_flash(bridge: World) -> None:
    agent = bridge.flashed()
    until(lambda: _may_flash_again(bridge), "the time between two flashes")
    bridge.vcu.writing.clear()
    bridge.vcu.hold.clear()
    agent.client.send(Propose(id=2, first_row=FIRST_ROW, rows=to_hex(bridge.rows(0.98))))
    assert bridge.vcu.writing.wait(LIMIT_S)
    bridge.bridge.revert("the r key")
    bridge.vcu.hold.set()
    answer = agent.expect(Answer)
    assert answer.result in ("REVERTED", "UNKNOWN")
    assert bridge.on_reference()
    reference = bridge.vcu.pages[0][FIRST_ROW : FIRST_ROW + 4]
    np.testing.assert_array_equal(rows_from_hex(answer.rows, 17), reference)


def _may_flash_again(bridge: World) -> bool:
    applied = [line for line in read(bridge.audit) if line["event"] == "flash_result"]
    last = applied[-1]["utc"]
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(last)
    return age.total_seconds() > 1.2


def test_rows_that_are_none_are_refused_with_the_reason(bridge: World) -> None:
    agent = bridge.armed()
    for number, (first_row, rows, reason) in enumerate(
        [
            (FIRST_ROW, np.zeros((4, 16), np.float32), "17 columns"),
            (FIRST_ROW, np.zeros((3, 17), np.float32), ""),
            (13, bridge.rows(), ""),
            (FIRST_ROW, np.full((4, 17), np.nan, np.float32), ""),
        ]
    ):
        answer = agent.propose(number, rows, first_row)
        assert (answer.id, answer.result, answer.code) == (number, "REFUSED", 0)
        assert reason in answer.reason
        assert answer.reason
    assert bridge.vcu.page == bridge.vcu.reference_page


def test_only_one_proposal_at_a_time(bridge: World) -> None:
    agent = bridge.armed()
    bridge.vcu.hold.clear()
    agent.client.send(Propose(id=1, first_row=FIRST_ROW, rows=to_hex(bridge.rows())))
    assert bridge.vcu.writing.wait(LIMIT_S)
    refused = agent.propose(2, bridge.rows())
    assert (refused.id, refused.result) == (2, "REFUSED")
    assert "one at a time" in refused.reason
    bridge.vcu.hold.set()
    assert agent.expect(Answer).id == 1


def test_a_second_agent_is_refused_and_the_first_goes_on(bridge: World) -> None:
    agent = bridge.armed()
    with pytest.raises(ChannelError, match="only one agent may"):
        bridge.connect()
    assert agent.flash(bridge.rows()).result == "APPLIED"


def test_another_key_and_garbage_change_nothing(bridge: World) -> None:
    agent = bridge.flashed()
    with pytest.raises(ChannelError, match="another key"):
        bridge.connect(key=b"x" * 32)
    for garbage in (b"\x00" * 100, pack(b"{}"), (10_000_000).to_bytes(4, "big") + b"x" * 100_000):
        with (
            socket.create_connection(("127.0.0.1", bridge.channel), LIMIT_S) as raw,
            contextlib.suppress(ConnectionError),
        ):
            raw.sendall(garbage)
            while raw.recv(4096):
                pass
    assert bridge.report().state == "ARMED"
    assert bridge.vcu.page != bridge.vcu.reference_page
    agent.close()


def test_each_role_may_only_say_its_own(bridge: World) -> None:
    with bridge.connect("operator") as person:
        person.send(Arm(by="a stranger"))
        answer = await_message(person, Failed)
        assert "an operator sends revert, clear or status, not arm" in answer.reason
    agent = bridge.agent()
    agent.client.send(Clear(by="the agent"))
    assert "not clear" in await_message(agent.client, Failed).reason


def test_a_vcu_that_is_off_is_no_crash_and_arms_when_it_is_on(bridge: World) -> None:
    bridge.vcu.dead = True
    agent = bridge.agent()
    answer = agent.arm()
    assert not answer.ok
    assert "the VCU does not answer" in answer.reason
    bridge.vcu.dead = False
    assert agent.arm().ok


def test_a_map_to_resume_from_that_is_none_is_refused(bridge: World) -> None:
    agent = bridge.agent()
    answer = agent.arm(resume=to_hex(np.zeros((3, 17))))
    assert not answer.ok
    assert "cannot be used" in answer.reason
    np.testing.assert_array_equal(rows_from_hex(answer.live, 17), bridge.vehicle.default_map().table)


def test_a_second_master_locks_until_a_person_clears_it(bridge: World) -> None:
    agent = bridge.flashed()
    assert bridge.vehicle.xcp is not None
    bridge.bus.send(bridge.vehicle.xcp.request_id, b"\xff\x00")
    assert "second XCP master" in agent.expect_state("LOCKED").cause
    assert bridge.on_reference()
    refused = agent.arm()
    assert not refused.ok
    assert "locked" in refused.reason
    assert bridge.operate(Clear(by="engineer")).state == "DISARMED"
    assert agent.arm().ok


def test_a_silent_bus_brings_the_reference_map_back(bridge: World) -> None:
    agent = bridge.flashed()
    bridge.truck.rolling.clear()
    assert bridge.on_reference()
    assert agent.expect_state("DISARMED").cause


def test_a_full_disk_locks(bridge: World, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = bridge.flashed()
    original = os.write

    def full(descriptor: int, data: Any) -> int:
        if Path(f"/proc/self/fd/{descriptor}").readlink() == bridge.audit:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(descriptor, data)

    monkeypatch.setattr("tspace_core.guard.audit.os.write", full)
    answer = agent.propose(2, bridge.rows(0.98))
    assert answer.result != "APPLIED"
    assert "No space left" in agent.expect_state("LOCKED").cause
    assert bridge.on_reference()


def test_a_lost_bus_ends_the_bridge_with_the_cause(bridge: World, monkeypatch: pytest.MonkeyPatch) -> None:
    bridge.flashed()

    def lost(timeout: float | None = None) -> None:
        raise OSError(errno.ENODEV, "the interface was pulled out")

    monkeypatch.setattr(bridge.bridge._bus._bus, "recv", lost)
    until(lambda: bool(bridge.cause), "the bridge to end")
    assert "the interface was pulled out" in bridge.cause
    assert bridge.bridge.failed
    assert bridge.vcu.page == bridge.vcu.reference_page
    assert verify(bridge.audit).ok


def test_a_crash_in_the_guards_thread_ends_on_the_reference_map(
    bridge: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge.flashed()

    def broken() -> None:
        message = "a bug"
        raise ValueError(message)

    monkeypatch.setattr(bridge.bridge._task.guard, "tick", broken)
    until(lambda: bool(bridge.cause) or bridge.error is not None, "the bridge to end")
    assert bridge.cause == "guard: a bug"
    assert bridge.bridge.failed
    assert bridge.vcu.page == bridge.vcu.reference_page


def test_the_end_of_the_bridge_reaches_the_agent_and_the_vcu(bridge: World) -> None:
    agent = bridge.flashed()
    bridge.bridge.stop("signal SIGTERM")
    assert "signal SIGTERM" in agent.expect_state("DISARMED").cause
    bridge.end()
    assert bridge.cause == "signal SIGTERM"
    assert not bridge.bridge.failed
    assert bridge.vcu.page == bridge.vcu.reference_page
    *_, last = read(bridge.audit)
    assert last["guard"] == "DISARMED"


def test_begin_between_runs_becomes_a_request_and_clears_a_lock(bridge: World) -> None:
    assert bridge.vehicle.xcp is not None
    bridge.bus.send(bridge.vehicle.xcp.request_id, b"\xff\x00")
    until(lambda: bridge.report().state == "LOCKED", "the lock")
    bridge.hmi("begin")
    until(lambda: bridge.report().state == "DISARMED", "the lock to be cleared")
    spool = Spool(bridge.audit.parents[1], bridge.vehicle.id)
    until(lambda: len(spool.pending()) == 1, "the request")
    assert bridge.report().cause == "cleared by HMI: begin"


def test_begin_does_not_clear_a_lock_while_the_reference_page_is_not_confirmed(bridge: World) -> None:
    agent = bridge.flashed()
    bridge.vcu.dead = True
    agent.close()
    until(lambda: bridge.report().state == "LOCKED", "the lock")
    assert "not confirmed" in bridge.report().cause
    bridge.hmi("begin")
    spool = Spool(bridge.audit.parents[1], bridge.vehicle.id)
    until(lambda: len(spool.pending()) == 1, "the request")
    until(lambda: any(line["event"] == "clear_refused" for line in read(bridge.audit)), "the refusal")
    assert bridge.report().state == "LOCKED"


def test_a_second_bridge_of_the_vehicle_is_refused(bridge: World) -> None:
    from tspace_core.bridge.bridge import Bridge

    with pytest.raises(ChannelError, match="is another bridge running"):
        Bridge(bridge.vehicle, connect=lambda vehicle, bus: bridge.vcu).run(signals=())
    assert bridge.report().state == "DISARMED"


def test_a_bus_that_cannot_be_opened_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tspace_core.bridge.bridge import Bridge
    from tspace_core.config import load_vehicle
    from tspace_core.config.link import BusConfig

    monkeypatch.setenv("TSPACE_DATA_DIR", str(tmp_path))
    bus = BusConfig(interface="socketcan", channel="no_such_can")
    vehicle = load_vehicle("twin_truck").model_copy(update={"bus": bus})
    with pytest.raises(BusError, match="no_such_can"):
        Bridge(vehicle).run(signals=())


def test_a_watcher_of_second_masters_that_fails_ends_the_bridge(
    bridge: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unwatched the bus is not flashed over: never on without the watcher, and never in silence."""
    bridge.flashed()
    assert bridge.vehicle.xcp is not None

    def broken(cause: str, then: object = None) -> None:
        message = "the watcher is broken"
        raise RuntimeError(message)

    monkeypatch.setattr(bridge.bridge._task, "revert", broken)
    bridge.bus.send(bridge.vehicle.xcp.request_id, b"\xff\x00")
    until(lambda: bool(bridge.cause), "the bridge to end")
    assert "the watcher is broken" in bridge.cause
    assert bridge.bridge.failed
    assert bridge.vcu.page == bridge.vcu.reference_page


def test_heartbeats_that_waited_behind_a_flash_do_not_make_their_sender_younger(bridge: World) -> None:
    """The agent falls silent while the guard's thread is held up: what it said before counts from then."""
    agent = bridge.flashed()
    until(lambda: _may_flash_again(bridge), "the time between two flashes")
    heartbeats: list[float] = []
    guard = bridge.bridge._task.guard
    heard = guard.heartbeat

    def heartbeat(at_ns: int | None = None) -> None:
        assert at_ns is not None
        heartbeats.append((time.monotonic_ns() - at_ns) / 1e9)
        heard(at_ns)

    guard.heartbeat = heartbeat  # type: ignore[method-assign]
    bridge.vcu.writing.clear()
    bridge.vcu.hold.clear()
    agent.client.send(Propose(id=2, first_row=FIRST_ROW, rows=to_hex(bridge.rows(0.98))))
    assert bridge.vcu.writing.wait(LIMIT_S)
    threading.Event().wait(0.5)
    agent.beating.clear()
    threading.Event().wait(0.5)
    bridge.vcu.hold.set()
    agent.expect(Answer)
    assert agent.expect_state("DISARMED").cause
    assert bridge.on_reference()
    assert max(heartbeats) > 0.5, "those that waited are as old as they are"
