"""Every simulated fault of the remote CAN service, seen through a plain HTTP client on a real socket."""

import json
import threading
import time
from collections.abc import Callable

import httpx
import numpy as np
import pytest

from tests.twin.cloud.told import PATIENCE_S, ask, code_of, four_rows, get_signal, hang_up, set_torque
from tspace_core.can.box_window import decode_window
from tspace_core.config import Vehicle
from tspace_core.errors import TwinError
from tspace_core.twin.cloud.faults import INSTEAD, KINDS, RemoteFaults, parse_remote_fault
from tspace_core.twin.cloud.live_cloud import CloudTwin

CODES = (-1, 202, 206, 301, 302, 303, 304, 310, 311, 2000, 2001, 2002, 2003, 2004, 2005)
CALLS = ("get_signal", "set_torque")


def call(twin: CloudTwin, vehicle: Vehicle, name: str, less_nm: float = 20.0) -> httpx.Response:
    if name == "get_signal":
        return get_signal(twin.url, vehicle.vin, 2)
    return set_torque(twin.url, vehicle.vin, four_rows(vehicle, 2, less_nm).tolist(), 2)


@pytest.mark.parametrize("name", CALLS)
def test_every_code_of_the_table(twin: CloudTwin, vehicle: Vehicle, name: str) -> None:
    before = twin.state()
    for code in CODES:
        twin.fault(f"code:{name},value={code}")
        assert code_of(call(twin, vehicle, name)) == str(code)
    twin.fault(f"ai_mode_off:{name}")
    assert call(twin, vehicle, name).json() == {"success": False, "AIMode": False}
    assert twin.state()["flashes_applied"] == before["flashes_applied"], "nothing was done"


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("status", [413, 429, 500, 502, 503, 504])
def test_every_status(twin: CloudTwin, vehicle: Vehicle, name: str, status: int) -> None:
    twin.fault(f"status:{name},value={status}")
    assert call(twin, vehicle, name).status_code == status
    assert call(twin, vehicle, name).json()["success"] is True, "one call was hit"


@pytest.mark.parametrize("name", CALLS)
def test_a_page_instead_of_json(twin: CloudTwin, vehicle: Vehicle, name: str) -> None:
    twin.fault("html")
    answer = call(twin, vehicle, name)
    assert (answer.status_code, answer.text[:9]) == (200, "<!DOCTYPE")


@pytest.mark.parametrize("name", CALLS)
def test_json_that_ends_in_the_middle(twin: CloudTwin, vehicle: Vehicle, name: str) -> None:
    twin.fault("truncated")
    answer = call(twin, vehicle, name)
    assert answer.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        answer.json()


@pytest.mark.parametrize("kind", ["drop", "cut", "lost_answer"])
@pytest.mark.parametrize("name", CALLS)
def test_connections_that_break(twin: CloudTwin, vehicle: Vehicle, name: str, kind: str) -> None:
    before = twin.state()["flashes_applied"]
    twin.fault(kind)
    with pytest.raises(httpx.RemoteProtocolError):
        call(twin, vehicle, name)
    done = name == "set_torque" and kind != "drop"
    assert twin.state()["flashes_applied"] == before + done
    assert call(twin, vehicle, name).json()["success"] is True


def test_a_lost_answer_leaves_the_rows_in_effect(twin: CloudTwin, vehicle: Vehicle) -> None:
    twin.fault("lost_answer:set_torque")
    with pytest.raises(httpx.RemoteProtocolError):
        call(twin, vehicle, "set_torque", 33.0)
    table = np.array(twin.state()["rows"], dtype=np.float32)
    np.testing.assert_array_equal(table[2:6], four_rows(vehicle, 2, 33.0))


@pytest.mark.parametrize("kind", ["huge", "huge_stream"])
def test_answers_of_50_megabytes(twin: CloudTwin, vehicle: Vehicle, kind: str) -> None:
    twin.fault(kind)
    content = {"vin": vehicle.vin, "signal_duration": 1}
    with httpx.stream(
        "POST", f"{twin.url}/get_signal", json=content, timeout=PATIENCE_S, trust_env=False
    ) as answer:
        announced = answer.headers.get("content-length")
        assert (announced is not None) == (kind == "huge")
        if announced is not None:
            assert int(announced) > 49_000_000
    # A client that leaves in the middle does the service no harm.
    assert call(twin, vehicle, "get_signal").json()["success"] is True
    twin.fault(f"{kind},value=1")
    assert len(call(twin, vehicle, "get_signal").content) > 900_000


def test_results_of_another_form(twin: CloudTwin, vehicle: Vehicle) -> None:
    twin.fault("not_dict:get_signal")
    assert isinstance(call(twin, vehicle, "get_signal").json()["result"], list)
    twin.fault("not_dict:set_torque")
    assert isinstance(call(twin, vehicle, "set_torque").json(), list)
    twin.fault("no_link")
    assert call(twin, vehicle, "get_signal").json() == {"success": True}
    twin.fault("unknown_form")
    assert "success" not in call(twin, vehicle, "get_signal").json()
    for kind, start in (("foreign_link", "s3://somebody-elses-bucket/"), ("missing_object", "s3://")):
        twin.fault(kind)
        assert call(twin, vehicle, "get_signal").json()["oss_link"].startswith(start)
    twin.fault("wrong_vin")
    assert call(twin, vehicle, "get_signal").json()["vin"] != vehicle.vin


Judge = Callable[[dict[str, list[list[object]]]], bool]
WINDOWS: dict[str, tuple[Judge, str | None]] = {
    "nan": (lambda window: window["list_speed_1s"][-1][7] == "NaN", "expected a finite number"),
    "nan_literal": (lambda window: str(window["list_speed_1s"][-1][7]) == "nan", "expected a finite number"),
    "strings": (lambda window: isinstance(window["list_current_1s"][0][0], str), None),
    "ragged": (lambda window: list(map(len, window["list_speed_1s"])) == [47, 53], None),
    "empty_unit": (lambda window: window["list_current_1s"][0] == [], "0 samples"),
    "no_signal": (lambda window: "list_brake_pressure_1s" not in window, "is missing"),
    "few_units": (lambda window: len(window["timestamps"]) == 1, "1 units, expected 2"),
}


@pytest.mark.parametrize("kind", WINDOWS)
def test_windows_that_are_spoilt(twin: CloudTwin, vehicle: Vehicle, kind: str) -> None:
    looks, reason = WINDOWS[kind]
    twin.fault(kind)
    window = call(twin, vehicle, "get_signal").json()["result"]
    assert looks(window)
    decoded = decode_window(window, vehicle, near_ns=time.time_ns(), units=2)
    assert decoded.reason == "" if reason is None else reason in decoded.reason


@pytest.mark.parametrize("kind,sign", [("future", 1), ("past", -1)])
def test_stamps_of_another_time(twin: CloudTwin, vehicle: Vehicle, kind: str, sign: int) -> None:
    def instant() -> int:
        window = call(twin, vehicle, "get_signal").json()["result"]
        return int(decode_window(window, vehicle, near_ns=time.time_ns()).time_ns[0])

    plain = instant()
    twin.fault(f"{kind},value=100000")
    # Between the two calls the fast clock of the test's truck goes on, by far less.
    assert abs((instant() - plain) / 1e9 - sign * 100_000) < 10_000


def test_a_slow_answer_is_late_and_whole(twin: CloudTwin, vehicle: Vehicle) -> None:
    twin.fault("slow,value=0.7")
    answer = call(twin, vehicle, "set_torque")
    assert answer.json() == {"success": True}
    assert float(answer.headers["x-service-seconds"]) >= 0.7


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_hangs_is_counted_until_its_caller_goes(
    twin: CloudTwin, vehicle: Vehicle, name: str
) -> None:
    before = twin.state()
    twin.fault("hang")
    hang_up(twin, name, {"vin": vehicle.vin})
    assert call(twin, vehicle, name).json()["success"] is True
    state = twin.state()
    assert state["calls"][name] == before["calls"].get(name, 0) + 2
    assert state["calls_now"] == 0


def test_faults_by_http(twin: CloudTwin, vehicle: Vehicle) -> None:
    url = f"{twin.url}/twin/faults"
    fields = {"kind": "code", "call": "set_torque", "value": 310, "count": 2, "after": 1}
    ask("POST", url, json=fields).raise_for_status()
    found = [call(twin, vehicle, "set_torque").json()["success"] for _ in range(4)]
    assert found == [True, False, False, True]
    words = {"fault": "status,value=502,count=all"}
    ask("POST", url, json=words).raise_for_status()
    assert [call(twin, vehicle, name).status_code for name in CALLS] == [502, 502]
    ask("DELETE", url).raise_for_status()
    assert call(twin, vehicle, "set_torque").json() == {"success": True}
    for wrong in ({"fault": "nonsense"}, {"kind": "code", "value": "x"}, {}, ["code"]):
        answer = ask("POST", url, json=wrong)
        assert answer.status_code == 400
        assert answer.json()["error"]


def test_a_fault_lasts_as_long_as_it_is_told() -> None:
    clock = [0.0]
    faults = RemoteFaults([parse_remote_fault("html,at_s=5,for_s=3")], lambda: clock[0])

    def hits_at(now: float) -> int:
        clock[0] = now
        return len(faults.hit("get_signal"))

    hits = [hits_at(now) for now in (0.0, 4.9, 5.0, 7.9, 8.0, 100.0)]
    assert hits == [0, 0, 1, 1, 0, 0]


def test_a_fault_counts_the_calls_of_its_kind_only() -> None:
    faults = RemoteFaults([parse_remote_fault("drop:set_torque,after=1,count=2")])
    assert [bool(faults.hit(name)) for name in ("get_signal", "set_torque") * 4] == (
        [False, False, False, True, False, True, False, False]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_asked_for_in_words(kind: str) -> None:
    fault = parse_remote_fault(f"{kind}:set_torque, after=1, count=all")
    assert (fault.kind, fault.call, fault.after, fault.count) == (kind, "set_torque", 1, None)
    assert kind in INSTEAD or fault.number >= 0


@pytest.mark.parametrize(
    "words,named",
    [
        ("nonsense", "no kind 'nonsense'"),
        ("code:fly", "no call 'fly'"),
        ("code,colour=red", "no key 'colour'"),
        ("code,value=x", "value='x'"),
        ("code,after=1.5", "after='1.5'"),
        ("code,count=-1", "count='-1'"),
        ("slow,value=nan", "value='nan'"),
        ("slow,value", "value=''"),
    ],
)
def test_words_that_say_nothing(words: str, named: str) -> None:
    with pytest.raises(TwinError, match=named):
        parse_remote_fault(words)


def test_faults_of_parallel_calls_are_given_out_once() -> None:
    faults = RemoteFaults([parse_remote_fault("drop,count=50")])
    hits: list[int] = []

    def take() -> None:
        hits.append(sum(bool(faults.hit("get_signal")) for _ in range(100)))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert sum(hits) == 50
