"""RemoteCAN: a real HTTP service, a real channel, real datagrams; service and bridge do as the test says."""

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.link.remote_server import Behaviour, answer, body, broken_off, failure
from tests.online.stage import wait_until
from tests.vehicle.contract import Rig, VehicleInterfaceContract
from tests.vehicle.fake_bridge import applied
from tests.vehicle.remote_rig import RemoteRig, quick_truck
from tests.vehicle.samples import drive_sample
from tspace_core.can.box_window import decode_window
from tspace_core.config import load_vehicle
from tspace_core.config.settings import settings
from tspace_core.errors import ChannelError, ConfigError
from tspace_core.link.datagrams import encode_sample
from tspace_core.link.float_buffer import to_hex
from tspace_core.link.messages import Answer, Arm, Armed, Disarm, Observe, Propose
from tspace_core.supervision import PipelineEmpty
from tspace_core.vehicle.box_windows import Fetched
from tspace_core.vehicle.bridged import NOT_FLASHING
from tspace_core.vehicle.remote import RemoteCAN, RemoteOptions
from tspace_core.vehicle.stream import EpisodeBegun, EpisodeEnded, RunEnded
from tspace_core.vehicle.windows import Window

RigMaker = Callable[..., RemoteRig]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[RigMaker]:
    made: list[RemoteRig] = []

    def build(*args: object, **options: object) -> RemoteRig:
        made.append(RemoteRig(monkeypatch, *args, **options))  # type: ignore[arg-type]
        return made[-1]

    yield build
    for rig in made:
        rig.close()
    settings.cache_clear()


class TestRemoteKeepsTheContract(VehicleInterfaceContract):
    """Every promise of a vehicle interface."""

    @pytest.fixture
    def rig(self, make: RigMaker) -> Iterator[Rig]:
        yield make(flash_timeout_s=2.0)  # most of these flashes are answered, whatever the machine does

    @pytest.fixture
    def impatient_rig(self, make: RigMaker) -> Iterator[Rig]:
        yield make(quick_truck(silence_s=0.2))


VELOCITY, THRUST, BRAKE, CURRENT, VOLTAGE = range(5)


def standing(rig: RemoteRig) -> dict[str, object]:
    """A window of a vehicle that stands, of before the first sample that the rig gives."""
    values = np.zeros((50, 6))
    values[:, VOLTAGE] = 640.0
    return rig.service.window_at(values, rig.service.start_ns - 2_000_000_000)


def wrong_vin(rig: RemoteRig) -> Behaviour:
    return answer({"success": True, "result": standing(rig) | {"vin": "ANOTHERTRUCK00001"}})


FAILURES: dict[str, tuple[Callable[[RemoteRig], Behaviour], str]] = {
    "offline": (lambda rig: failure("304"), "code 304, tsp: car offline"),
    "internal": (lambda rig: failure(-1), "code -1, tsp internal error"),
    "no data": (lambda rig: failure("2002"), "code 2002"),
    "unknown code": (lambda rig: failure("9999"), "code 2005, unknown format: code 9999"),
    "html": (lambda rig: body(b"<html>proxy login</html>"), "code 2005, unknown format: .*HTML page"),
    "truncated": (lambda rig: broken_off(b'{"success": tr'), "code 1001, network unknown error"),
    "not json": (lambda rig: body(b'{"success": tr'), "code 2005, unknown format"),
    "status": (lambda rig: body(b"out of order", 500), "code 1, cannot connect.*HTTP status 500"),
    "no dictionary": (lambda rig: answer({"success": True, "result": [1]}), "code 3000"),
    "no link": (lambda rig: answer({"success": True}), "code 3001"),
    "wrong vin": (wrong_vin, "code 2005.*for vin ANOTHERTRUCK00001"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failed_call_is_one_failure_with_its_reason_and_nothing_is_lost(make: RigMaker, name: str) -> None:
    make_behaviour, reason = FAILURES[name]
    rig = make()
    rig.interface.ignite(rig.supervisor)
    rig.service.script(make_behaviour(rig))
    rig.begin()
    rig.samples(rig.length)
    window = rig.next()
    assert isinstance(window, Window)
    assert window.valid
    np.testing.assert_array_equal(
        window.samples[:, 0], np.array([drive_sample(n)["velocity"] for n in range(50)], np.float32)
    )
    assert rig.interface.watchdog.counts == {"capture": 1, "flash": 0}
    (told,) = rig.interface.watchdog.reasons
    assert re.search(reason, told), told
    assert told.startswith("twin_remote get_signal: ")


RESULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "empty": (lambda result: {}, "timestamps is missing"),
    "an empty unit": (lambda result: result | {"list_speed_1s": [[]]}, "list_speed_1s, unit 0 has 0 samples"),
    "nan": (lambda result: result | {"list_current_1s": [["NaN"] * 50]}, 'a sample "NaN"'),
    "too fast": (
        lambda result: result | {"list_speed_1s": [[300] * 50]},
        "velocity is 300 km/h, possible is",
    ),
    "both pedals": (
        lambda result: result | {"list_pedal_1s": [[50] * 50], "list_brake_pressure_1s": [[50] * 50]},
        "accelerator 50 % and brake 50 % together",
    ),
    "ahead": (lambda result: result | {"timestamps": ["991231235959000"]}, "ahead of our clock"),
    "ago": (lambda result: result | {"timestamps": ["200101000000000"]}, "s ago, at most 60 s"),
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_window_that_cannot_be_used_is_one_invalid_window_and_one_failure(
    make: RigMaker, name: str
) -> None:
    spoil, reason = RESULTS[name]
    rig = make()
    rig.interface.ignite(rig.supervisor)
    rig.service.script(answer({"success": True, "result": spoil(standing(rig))}))
    rig.begin()
    rig.samples(rig.length)
    first, second = rig.next(), rig.next()
    assert isinstance(first, Window)
    assert isinstance(second, Window)
    assert (first.valid, second.valid) == (False, True), (first.reason, second.reason)
    assert reason in first.reason
    assert rig.interface.watchdog.counts == {"capture": 1, "flash": 0}
    assert rig.interface.watchdog.reasons == Counter({f"invalid window: {first.reason}": 1})
    told = [rig.observed(), rig.observed()]
    assert [(seen.valid, seen.reason) for seen in told] == [(False, first.reason), (True, "")]


def test_the_bridge_is_told_the_last_sample_and_its_age_before_anything_is_decided(make: RigMaker) -> None:
    rig = make()
    rig.interface.ignite(rig.supervisor)
    rig.begin()
    rig.samples(rig.length, thrust=30.0)
    assert isinstance(rig.next(), Window)
    assert isinstance(rig.bridge.next(), Arm)
    told = rig.bridge.next()
    assert isinstance(told, Observe)
    assert told.velocity_kmh == pytest.approx(drive_sample(49)["velocity"])
    assert (told.thrust_percent, told.brake_percent, told.valid) == (30.0, 0.0, True)
    assert 25_000 < told.age_ms < 60_000


def test_a_repeated_window_is_not_taken_twice_nor_asked_for_in_a_busy_loop(make: RigMaker) -> None:
    rig = make()
    rig.interface.ignite(rig.supervisor)
    rig.begin()
    rig.service.server.default = answer({"success": True, "result": standing(rig)})
    first, second, third = rig.next(), rig.next(), rig.next()
    assert isinstance(first, Window)
    assert first.valid
    for window in (second, third):
        assert isinstance(window, Window)
        assert "repeated" in window.reason
    waiting = threading.Event()
    waiting.wait(0.3)
    assert len(rig.service.server.requests) < 8


def test_a_service_that_goes_down_and_comes_back_costs_failures_and_no_episode(make: RigMaker) -> None:
    rig = make()
    rig.interface.ignite(rig.supervisor)
    rig.begin()
    rig.samples(rig.length)
    assert isinstance(rig.next(), Window)
    rig.service.stop()
    with pytest.raises(PipelineEmpty):
        rig.interface.stream.get(0.8)
    rig.service.start()
    rig.samples(rig.length)
    window = rig.next()
    assert isinstance(window, Window)
    assert window.valid
    assert 1 <= rig.interface.watchdog.counts["capture"] <= 4
    assert all("code 1000" in reason or "code 1001" in reason for reason in rig.interface.watchdog.reasons)


def test_a_service_that_stays_down_ends_the_run(make: RigMaker) -> None:
    vehicle = quick_truck()
    limits = vehicle.online.watchdog.model_copy(update={"capture_failures": 2})
    rig = make(vehicle.model_copy(update={"online": vehicle.online.model_copy(update={"watchdog": limits})}))
    rig.interface.ignite(rig.supervisor)
    rig.service.stop()
    rig.begin()
    over = rig.rest()[-1]
    assert isinstance(over, RunEnded)
    assert over.failed
    assert over.cause.startswith(
        "watchdog: 2 capture failures within 600 s, the last: twin_remote get_signal"
    )
    assert rig.reference_causes(1) == [over.cause]
    rig.service.start()


@pytest.mark.parametrize("code", ["202", "206", "303", "2000"])
def test_an_error_that_no_waiting_heals_ends_the_run(make: RigMaker, code: str) -> None:
    rig = make()
    rig.interface.ignite(rig.supervisor)
    rig.service.script(failure(code))
    rig.begin()
    over = rig.rest()[-1]
    assert isinstance(over, RunEnded)
    assert over.failed
    assert f"code {code}," in over.cause
    assert rig.reference_causes(1) == [over.cause]
    assert rig.interface.watchdog.counts["capture"] == 1


def test_the_driver_who_switches_the_ai_mode_off_interrupts_the_episode(make: RigMaker) -> None:
    rig = make()
    rig.interface.ignite(rig.supervisor)
    rig.service.script(answer({"success": False, "AIMode": False}))
    rig.begin()
    with pytest.raises(PipelineEmpty):
        rig.interface.stream.get(0.2)
    assert "code 2, AI mode shut down by the driver" in rig.reference_causes(1)[0]
    assert not rig.interface.control.capturing
    assert rig.interface.watchdog.counts == {"capture": 1, "flash": 0}
    rig.say("begin")
    ended, begun = rig.next(), rig.next()
    assert isinstance(ended, EpisodeEnded)
    assert isinstance(begun, EpisodeBegun)
    rig.samples(rig.length)
    assert isinstance(rig.next(), Window)


def test_nothing_is_asked_for_outside_an_episode(make: RigMaker) -> None:
    rig = make()
    rig.interface.ignite(rig.supervisor)
    with pytest.raises(PipelineEmpty):
        rig.interface.stream.get(0.2)
    assert rig.service.calls == []
    rig.begin()
    rig.samples(rig.length)
    assert isinstance(rig.next(), Window)
    with pytest.raises(PipelineEmpty):
        rig.interface.stream.get(0.1)
    rig.service.wait_for_calls(2)  # else one that is given up at the end may be heard of after it
    rig.say("end_valid")
    assert isinstance(rig.next(), EpisodeEnded)
    rig.service.wait_until_idle()
    with pytest.raises(PipelineEmpty):
        rig.interface.stream.get(0.2)
    assert len(rig.service.calls) == 2


def test_the_connection_is_left_alone_until_a_decision_has_been_answered(make: RigMaker) -> None:
    rig = make()
    rig.interface.ignite(rig.supervisor)
    rig.begin()
    meanwhile = threading.Event()
    seen: list[bool] = []

    def slowly(propose: Propose) -> Answer:
        rig.service.busy.set()
        seen.append(rig.service.under_way.is_set())
        meanwhile.wait(0.05)
        rig.service.busy.clear()
        return applied(propose)

    rig.bridge.answer = slowly
    for number in range(1, 11):
        rig.samples(rig.length)
        assert isinstance(rig.next(), Window)
        rig.service.wait_until_idle()  # its answer is here before it has put down its pen
        meanwhile.wait(0.02)  # the agent thinks
        assert len(rig.service.calls) == number
        assert rig.interface.consume(rig.proposal()).applied
    assert seen == [False] * 10
    assert rig.service.wrong == []


def test_a_window_of_another_epoch_never_comes_through(make: RigMaker) -> None:
    rig = make()
    rig.interface.ignite(rig.supervisor)
    rig.begin()
    old = decode_window(standing(rig), rig.vehicle, near_ns=time.time_ns())
    epoch = rig.interface.control.epoch
    with pytest.raises(PipelineEmpty):
        rig.interface.stream.get(0.1)
    rig.service.wait_for_calls(1)
    rig.say("end_invalid")
    assert isinstance(rig.next(), EpisodeEnded)
    rig.service.wait_until_idle()
    rig.begin()
    rig.car.observe(Fetched(old, time.time_ns()), epoch)
    rig.samples(rig.length)
    window = rig.next()
    assert isinstance(window, Window)
    assert window.top_speed_kmh > 30.0
    assert rig.interface.watchdog.counts == {"capture": 0, "flash": 0}, (
        "a call that was given up is no failure"
    )


def hang_in_a_call(rig: RemoteRig) -> None:
    """Begin, and let the control thread wait until a call hangs."""
    rig.begin()
    with pytest.raises(PipelineEmpty):
        rig.interface.stream.get(0.1)
    rig.service.wait_for_calls(1)


def test_an_exit_does_not_wait_for_a_call_that_hangs(make: RigMaker) -> None:
    rig = make()
    rig.interface.ignite(rig.supervisor)
    hang_in_a_call(rig)
    asked = time.monotonic()
    rig.say("exit")
    assert rig.rest()[-1] == RunEnded("HMI: exit", failed=False)
    assert time.monotonic() - asked < 4.0, "the call itself would go on for 8 s"
    assert rig.interface.watchdog.counts["capture"] == 0
    rig.links_closed()


def test_an_exit_does_not_wait_for_the_answer_to_arming(make: RigMaker) -> None:
    rig = make()
    rig.bridge.armed = None
    rig.interface.ignite(rig.supervisor)
    rig.say("begin")
    assert isinstance(rig.bridge.next(), Arm)
    asked = time.monotonic()
    rig.say("exit")
    assert rig.rest()[-1] == RunEnded("HMI: exit", failed=False)
    assert time.monotonic() - asked < 10.0, "arming itself would wait for 30 s"


def test_an_episode_thrown_away_does_not_wait_for_the_answer_to_arming(make: RigMaker) -> None:
    rig = make()
    whole, rig.bridge.armed = rig.bridge.armed, None
    assert isinstance(whole, Armed)
    rig.interface.ignite(rig.supervisor)
    rig.say("begin")
    assert isinstance(rig.bridge.next(), Arm)
    asked = time.monotonic()
    rig.say("end_invalid")
    begun, ended = rig.next(), rig.next()
    assert isinstance(begun, EpisodeBegun)
    assert not begun.armed
    assert isinstance(ended, EpisodeEnded)
    assert not ended.valid
    assert time.monotonic() - asked < 10.0, "arming itself would wait for 30 s"
    assert rig.interface.watchdog.counts == {"capture": 0, "flash": 0}, "a person's wish is no failure"
    assert isinstance(rig.bridge.next(), Disarm)
    # The answer that comes late belongs to the episode that is over.
    rig.bridge.server.push(Armed(ok=True, reason="late", live=whole.live))
    link = rig.car.bridge
    assert link is not None
    wait_until(lambda: not link._unanswered, "the late answer")  # pushed by another thread than answers are
    rig.bridge.armed = Armed(ok=True, reason="in time", live=whole.live)
    assert rig.begin().reason == "in time"


def test_an_exit_does_not_wait_for_the_look_before_resuming(make: RigMaker) -> None:
    rig = make()
    rig.resume = rig.vehicle.default_map().table - np.float32(10)
    rig.interface.ignite(rig.supervisor)
    rig.say("begin")
    rig.service.wait_for_calls(1)
    asked = time.monotonic()
    rig.say("exit")
    assert rig.rest()[-1] == RunEnded("HMI: exit", failed=False)
    assert time.monotonic() - asked < 4.0, "the call itself would go on for 8 s"
    assert rig.bridge.counts["arm"] == 0


def test_the_bridge_hears_how_fast_the_vehicle_is_before_it_resumes_a_map(make: RigMaker) -> None:
    rig = make()
    rig.resume = rig.vehicle.default_map().table - np.float32(10)
    rig.service.script(answer({"success": True, "result": standing(rig)}))
    rig.interface.ignite(rig.supervisor)
    rig.begin()
    told, arm = rig.bridge.next(), rig.bridge.next()
    assert isinstance(told, Observe)
    assert (told.velocity_kmh, told.valid) == (0.0, True)
    assert isinstance(arm, Arm)
    assert arm.resume == to_hex(rig.resume)
    assert rig.service.calls[:1] == [1.0]


def test_no_look_is_needed_to_begin_with_the_default_map(make: RigMaker) -> None:
    rig = make()
    rig.resume = rig.vehicle.default_map().table
    rig.interface.ignite(rig.supervisor)
    rig.begin()
    assert isinstance(rig.bridge.next(), Arm)
    assert rig.service.calls == []


def test_a_bridge_that_is_killed_ends_the_run_while_a_call_hangs(make: RigMaker) -> None:
    rig = make()
    rig.interface.ignite(rig.supervisor)
    hang_in_a_call(rig)
    rig.bridge.stop()
    over = rig.rest()[-1]
    assert isinstance(over, RunEnded)
    assert over.failed
    assert "bridge" in over.cause
    rig.links_closed()


def test_samples_in_datagrams_are_none_of_a_vehicle_behind_a_box(
    make: RigMaker, caplog: pytest.LogCaptureFixture
) -> None:
    rig = make()
    rig.interface.ignite(rig.supervisor)
    for number in range(3):
        rig.send(encode_sample(drive_sample(number)))
    rig.send(b'{"data": "anything"}')
    rig.begin()
    assert rig.interface.watchdog.counts["capture"] == 0
    assert [line for line in caplog.messages if "'data'" in line] == [
        "datagrams carry the key 'data', which nobody knows; it is ignored"
    ]


def test_to_observe_no_bridge_is_needed(make: RigMaker) -> None:
    rig = make(observe_only=True)
    rig.interface.ignite(rig.supervisor)
    assert not rig.begin().armed
    rig.samples(rig.length)
    assert isinstance(rig.next(), Window)
    outcome = rig.interface.consume(rig.proposal())
    assert (outcome.result, outcome.code, outcome.reason) == ("REFUSED", 0, NOT_FLASHING)
    assert not rig.bridge.came.is_set()


def test_without_a_person_it_begins_at_start_and_keeps_the_episode_at_the_stop(make: RigMaker) -> None:
    rig = make(hmi="dummy")
    rig.interface.ignite(rig.supervisor)
    assert isinstance(rig.next(), EpisodeBegun)
    rig.samples(rig.length)
    assert isinstance(rig.next(), Window)
    rig.supervisor.stop("signal SIGINT")
    ended, over = rig.rest()
    assert isinstance(ended, EpisodeEnded)
    assert ended.valid
    assert over == RunEnded("signal SIGINT", failed=False)


def test_without_a_service_the_run_says_which_setting_is_missing(
    make: RigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make()
    monkeypatch.delenv("TSPACE_REMOTE__URL")
    settings.cache_clear()
    with pytest.raises(ConfigError, match="TSPACE_REMOTE__URL"):
        rig.interface.ignite(rig.supervisor)
    rig.links_closed()


def test_without_a_bridge_the_run_says_how_to_start_one(make: RigMaker) -> None:
    rig = make()
    rig.bridge.stop()
    with pytest.raises(ChannelError, match="tspace bridge --vehicle twin_remote"):
        rig.interface.ignite(rig.supervisor)
    rig.links_closed()


def test_time_limits_leave_room_for_what_the_wire_contract_allows() -> None:
    car = RemoteCAN(load_vehicle("twin_remote"), RemoteOptions(hmi="udp"))
    assert car.flash_timeout_s > 32.0
    assert car.arm_timeout_s > 32.0
