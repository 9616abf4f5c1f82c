"""The client of the remote CAN service: what it sends, how it takes turns, and how its calls are ended."""

import gc
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.link.remote_clients import ROWS, SECRET, Later, client, failed, truck
from tests.link.remote_server import LIMIT_S, RemoteServer, answer, body, failure, hang, late
from tspace_core.config import load_vehicle, settings
from tspace_core.errors import ConfigError, RemoteServiceError, RemoteTorqueError
from tspace_core.link.remote_can import RemoteCanClient

WINDOW = answer({"success": True, "result": {"timestamps": ["26060108300012"]}})


@pytest.fixture
def server() -> Iterator[RemoteServer]:
    with RemoteServer() as running:
        yield running


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("remote-can")]


def test_both_calls_send_what_the_wire_contract_says(server: RemoteServer) -> None:
    server.script(WINDOW, WINDOW)
    with client(server, ab_switch=True) as remote:
        assert remote.get_signals(4.0) == {"timestamps": ["26060108300012"]}
        remote.get_signals(0.5)
        remote.send_torque_map(10, ROWS)
        remote.send_torque_map(np.int64(0), np.zeros((14, 17)))  # type: ignore[arg-type]
    window, short, flash, whole = server.requests
    assert window.path == short.path == "/api/get_signal"
    assert window.body == {"vin": "TWNREMOTE00000001", "signal_duration": 4}
    assert isinstance(window.body["signal_duration"], int)
    assert short.body["signal_duration"] == 0.5
    assert flash.path == whole.path == "/api/set_torque"
    assert flash.body == {
        "vin": "TWNREMOTE00000001",
        "torque": ROWS.tolist(),
        "abswitch": True,
        "start_line": 10,
    }
    assert np.shape(whole.body["torque"]) == (14, 17)
    assert window.headers["authorization"] == SECRET
    assert window.headers["content-type"] == "application/json"
    assert window.headers["accept-encoding"] == "identity"
    assert server.connections == 1  # kept alive


def test_float32_torques_arrive_as_they_are(server: RemoteServer) -> None:
    rows = np.random.default_rng(0).normal(0, 1000, (4, 17)).astype(np.float32)
    with client(server) as remote:
        remote.send_torque_map(0, rows)
    sent = np.array(server.requests[0].body["torque"])
    assert np.array_equal(sent.astype(np.float32), rows)
    assert np.array_equal(sent, rows.astype(np.float64))


@pytest.mark.parametrize(
    ("first_row", "rows", "said"),
    [
        (0, ROWS[:3], "(3, 17)"),
        (0, np.zeros((0, 17)), "(0, 17)"),
        (0, ROWS[:, :16], "(4, 16)"),
        (0, np.zeros((4, 18)), "(4, 18)"),
        (0, ROWS[0], "(17,)"),
        (0, np.zeros((1, 4, 17)), "(1, 4, 17)"),
        (0, [[1.0], [2.0, 3.0]], "no table of numbers"),
        (0, [["x"] * 17] * 4, "no table of numbers"),
        (11, ROWS, "row 11"),
        (-1, ROWS, "row -1"),
        (0, np.zeros((15, 17)), "15 rows"),
        (0.0, ROWS, "row 0.0"),
        ("0", ROWS, "row 0"),
    ],
)
def test_rows_of_another_shape_are_not_sent(
    server: RemoteServer, first_row: Any, rows: Any, said: str
) -> None:
    with client(server) as remote:
        with pytest.raises(RemoteTorqueError, match="twin_remote set_torque: code 2003") as caught:
            remote.send_torque_map(first_row, rows)
        assert said in str(caught.value)
        assert caught.value.code == 2003
        assert caught.value.unchanged
        assert remote.failures == {2003: 1}
    assert server.requests == []


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e39])
def test_torques_that_are_no_numbers_are_not_sent(server: RemoteServer, wrong: float) -> None:
    rows = ROWS.astype(np.float64)
    rows[2, 5] = wrong
    with client(server) as remote, np.errstate(over="ignore"):
        with pytest.raises(RemoteTorqueError, match="row 9, column 5") as caught:
            remote.send_torque_map(7, rows)  # type: ignore[arg-type]
        assert (caught.value.code, caught.value.unchanged) == (2004, True)
    assert server.requests == []


@pytest.mark.parametrize("duration", [0.0, -1.0, float("nan"), float("inf")])
def test_a_window_of_no_length_is_not_asked_for(server: RemoteServer, duration: float) -> None:
    with client(server) as remote:
        with pytest.raises(RemoteServiceError, match=f"get_signal: code 206.*{duration}"):
            remote.get_signals(duration)
        assert remote.failures == {206: 1}
    assert server.requests == []


@pytest.mark.parametrize("code", ["304", 310, "-1", "2001", 2000])
def test_a_failure_names_vehicle_call_code_meaning_and_what_to_do(server: RemoteServer, code: Any) -> None:
    server.default = failure(code)
    with client(server) as remote:
        flash, window = failed(lambda: remote.send_torque_map(0, ROWS)), failed(lambda: remote.get_signals(4))
        assert remote.failures == {int(code): 2}
    assert str(flash).startswith(f"twin_remote set_torque: code {code}, ")
    assert str(window).startswith(f"twin_remote get_signal: code {code}, ")
    assert flash.unchanged == (code == "304")
    assert len(server.requests) == 2  # a failure that the service reports is not tried again


def test_two_threads_take_turns(server: RemoteServer) -> None:
    busy, clashes = threading.Lock(), []

    def alone(exchange: Any) -> None:
        if not busy.acquire(blocking=False):
            clashes.append(exchange.request)
        exchange.wait(0.05)
        busy.release()
        WINDOW(exchange)

    server.default = alone
    with client(server) as remote:
        calls = [Later(lambda: remote.get_signals(4.0)) for _ in range(3)]
        calls += [Later(lambda: remote.send_torque_map(0, ROWS)) for _ in range(3)]
        for call in calls:
            assert call.wait().error is None
    assert not clashes
    assert len(server.requests) == 6
    assert server.connections == 1


def test_the_limit_of_a_call_counts_from_its_turn(server: RemoteServer) -> None:
    server.script(late(1.2, WINDOW), late(1.2, WINDOW))
    with client(server, get_signal_margin_s=1.5) as remote:
        first = Later(lambda: remote.get_signals(0.5))
        server.wait_for(1)
        second = Later(lambda: remote.get_signals(0.5))
        assert first.wait().error is None
        assert second.wait().error is None


def test_abort_ends_the_running_call_and_those_that_wait(server: RemoteServer) -> None:
    server.default = hang
    with client(server) as remote:
        running = Later(lambda: remote.send_torque_map(0, ROWS))
        server.wait_for(1)
        waiting = Later(lambda: remote.send_torque_map(0, ROWS))
        assert waiting.begun.wait(LIMIT_S)
        remote.abort("the driver braked")
        for call, unchanged in ((running, False), (waiting, True)):
            error = call.remote_error()
            assert "code 1001" in str(error)
            assert "the driver braked" in str(error)
            assert error.unchanged is unchanged
            assert call.took_s < LIMIT_S / 2
        assert "the driver braked" in str(failed(lambda: remote.get_signals(4)))
        remote.abort("twice is no harm")
        server.default = WINDOW
        remote.resume()
        remote.resume()
        assert remote.get_signals(4)
    assert len(server.requests) == 2


def test_abort_between_tries_does_not_wait_for_the_next(server: RemoteServer) -> None:
    server.default = answer({}, 503, Retry_After="25")
    with client(server) as remote:
        call = Later(lambda: remote.send_torque_map(0, ROWS))
        server.wait_for(1)
        remote.abort("enough")
        error = call.remote_error()
    assert not error.unchanged  # the try before may have had an effect
    assert call.took_s < LIMIT_S / 2


def test_close_ends_calls_and_leaves_nothing_behind(server: RemoteServer) -> None:
    server.default = hang
    remote = client(server)
    call = Later(lambda: remote.get_signals(4))
    server.wait_for(1)
    closing = [Later(remote.close) for _ in range(3)]
    assert "the client is closed" in str(call.remote_error())
    for one in closing:
        assert one.wait().error is None
    remote.close()
    remote.abort("after the end")
    remote.resume()
    assert "the client is closed" in str(failed(lambda: remote.get_signals(4)))
    assert remote.failures == {1001: 2}
    assert remote._loop.is_closed()
    assert ours() == []
    gc.collect()  # sockets left open would be warnings, and warnings are errors here


def test_a_client_that_was_never_used_closes(server: RemoteServer) -> None:
    for _ in range(3):
        client(server).close()
    assert ours() == []
    assert server.connections == 0


def test_waiting_for_the_service_is_told_apart_from_our_own_time(server: RemoteServer) -> None:
    with client(server) as remote:
        server.script(late(1.0, WINDOW), WINDOW)
        remote.get_signals(4)
        assert 1.0 <= remote.last_service_s < LIMIT_S
        remote.get_signals(4)
        assert 0.0 < remote.last_service_s < 1.0
        server.script(answer({}, 503), WINDOW)
        with client(server, backoff_s=0.4) as slow:
            slow.get_signals(4)
            assert slow.last_service_s >= 0.4


def test_the_authorization_is_shown_nowhere(server: RemoteServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    echo = json.dumps({"success": False, "you sent": SECRET, "token": SECRET.split()[1]})
    padded = f'{{"success": false, "x": "{"." * 180}{SECRET}"}}'
    answers = [body(text.encode(), status) for text in (echo, padded) for status in (200, 401, 404)]
    answers.append(body(b"", 302, Location=f"http://elsewhere.example/{SECRET.split()[1]}"))
    with client(server) as remote:
        texts = [repr(remote), str(vars(remote))]
        for one in answers:
            server.script(one)
            error = failed(lambda: remote.send_torque_map(0, ROWS))
            texts += [str(error), repr(error), repr(error.__cause__), repr(error.__context__)]
    assert len(server.requests) == len(answers)
    part = SECRET.split()[1][:10]
    assert part in server.requests[0].headers["authorization"]
    for text in (*texts, caplog.text):
        assert part not in text


def test_settings_give_place_and_secret(server: RemoteServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSPACE_REMOTE__URL", server.url + "/")
    monkeypatch.setenv("TSPACE_REMOTE__AUTHORIZATION", SECRET)
    settings.cache_clear()
    try:
        with RemoteCanClient(truck()) as remote:
            remote.send_torque_map(0, ROWS)
    finally:
        monkeypatch.undo()
        settings.cache_clear()
    assert server.requests[0].path == "/api/set_torque"
    assert server.requests[0].headers["authorization"] == SECRET


@pytest.mark.parametrize(
    "url",
    [
        "http://can.example.com/api", "http://192.0.2.7", "http://127.0.0.1.example.com", "http://[2001:db8::1]/",
        "http://localhost.example.com", "http://user@127.0.0.1/", "https://user:pass@can.example.com/",
        "https://can.example.com/?key=1", "https://can.example.com/#x", "ftp://127.0.0.1/", "127.0.0.1:80",
        "https://", "https://can.example.com:x/", "https://can.example.com:99999/", "nonsense",
    ],
)  # fmt: skip
def test_an_unsafe_or_wrong_url_is_refused(url: str) -> None:
    before = set(threading.enumerate())
    with pytest.raises(ConfigError, match="TSPACE_REMOTE__URL") as caught:
        RemoteCanClient(truck(), url=url)
    assert "pass" not in str(caught.value)
    assert set(threading.enumerate()) <= before  # one of an earlier test may end meanwhile


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "http://localhost:1/", "http://[::1]:1", "http://127.9.9.9"]
)
def test_plain_http_is_for_loopback(url: str) -> None:
    RemoteCanClient(truck(), url=url).close()


def test_plain_http_beyond_loopback_is_the_vehicles_to_allow() -> None:
    with pytest.raises(ConfigError, match=r"remote\.plain_http"):
        RemoteCanClient(truck(), url="http://192.0.2.7/")
    RemoteCanClient(truck(plain_http=True), url="http://192.0.2.7/").close()


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TSPACE_REMOTE__URL", raising=False)
    settings.cache_clear()
    with pytest.raises(ConfigError, match="TSPACE_REMOTE__URL"):
        RemoteCanClient(truck())
    with pytest.raises(ConfigError, match="twin_truck has no telematics box"):
        RemoteCanClient(load_vehicle("twin_truck"), url="https://can.example.com")
    for wrong in ("a\nb", "schlüssel", "x\x00"):
        with pytest.raises(ConfigError, match="TSPACE_REMOTE__AUTHORIZATION") as caught:
            RemoteCanClient(truck(), url="https://can.example.com", authorization=wrong)
        assert wrong not in str(caught.value)


def test_importing_the_client_does_not_import_httpx_nor_boto3() -> None:
    code = (
        "import sys, tspace_core.link.remote_can as module\n"
        "assert not {'httpx', 'boto3', 'torch', 'polars', 'numba'} & set(sys.modules), 'too much'"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, timeout=LIMIT_S, cwd=root)
