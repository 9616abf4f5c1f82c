"""A service that fails, is slow, or talks nonsense: a code, a reason, and the truth about the map."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.link.remote_clients import ROWS, Later, client, failed
from tests.link.remote_server import (
    LIMIT_S,
    OK,
    Behaviour,
    Exchange,
    Huge,
    RemoteServer,
    answer,
    body,
    broken_off,
    drip,
    failure,
    hang,
    head,
    late,
    reset,
)
from tspace_core.errors import RemoteFormatError, RemoteNetworkError
from tspace_core.link.remote_can import RemoteCanClient
from tspace_core.link.remote_http import RETRIED

WINDOW = answer({"success": True, "result": {"timestamps": []}})


@pytest.fixture
def server() -> Iterator[RemoteServer]:
    with RemoteServer() as running:
        yield running


def flash(remote: RemoteCanClient, **options: Any) -> Callable[[], object]:
    return lambda: remote.send_torque_map(0, ROWS, **options)


def window(remote: RemoteCanClient) -> Callable[[], object]:
    return lambda: remote.get_signals(4.0)


@pytest.mark.parametrize("status", sorted(RETRIED))
def test_a_status_that_may_pass_is_tried_again(server: RemoteServer, status: int) -> None:
    with client(server) as remote:
        server.script(answer({}, status), body(b"<html>busy</html>", status), WINDOW)
        assert remote.get_signals(4.0) == {"timestamps": []}
        assert len(server.requests) == 3
        server.script(answer({}, status))
        only = remote.send_torque_map(0, ROWS)
        assert only == (status in (413, 429)), "what a server in trouble began may be carried out still"
        assert len(server.requests) == 5
        assert remote.send_torque_map(0, ROWS)
        assert remote.failures == {}
    assert {413, 429, 500, 502, 503, 504} == RETRIED


@pytest.mark.parametrize("attempts", [1, 3, 4])
def test_tries_are_counted_and_end(server: RemoteServer, attempts: int) -> None:
    server.default = body(b"<html>  out of\norder </html>", 503)
    with client(server, attempts=attempts) as remote:
        error = failed(flash(remote))
    assert len(server.requests) == attempts
    assert type(error) is RemoteNetworkError
    assert (error.code, error.unchanged) == (1, False)
    counted = "1 try" if attempts == 1 else f"{attempts} tries"
    assert f"HTTP status 503, {counted}: <html> out of order </html>" in str(error)


def test_pauses_between_tries_double(server: RemoteServer) -> None:
    server.default = answer({}, 503)
    with client(server, backoff_s=0.15) as remote:
        failed(flash(remote))
    first, second, third = (request.at for request in server.requests)
    assert second - first >= 0.14
    assert third - second >= 0.29


@pytest.mark.parametrize(
    "status", [201, 202, 204, 301, 302, 307, 400, 401, 403, 404, 405, 408, 409, 501, 505]
)
def test_any_other_status_is_final(server: RemoteServer, status: int) -> None:
    server.default = body(b"" if status == 204 else b"why not", status)
    with client(server) as remote:
        error = failed(flash(remote))
    assert len(server.requests) == 1
    assert type(error) is RemoteNetworkError
    assert error.code == 1
    assert f"HTTP status {status}" in str(error)
    # Whoever refuses a request has not passed it on; a redirect may come after it was done.
    assert error.unchanged == (400 <= status < 500 and status != 408)
    assert ("TSPACE_REMOTE__AUTHORIZATION and what it is allowed" in str(error)) == (status in (401, 403))


def test_what_an_earlier_try_may_have_done_is_not_forgotten(server: RemoteServer) -> None:
    with client(server) as remote:
        for later in (failure("304"), answer({"success": False, "AIMode": False}), answer({}, 404)):
            server.script(later)
            assert failed(flash(remote)).unchanged
            server.script(answer({}, 502), later)
            assert not failed(flash(remote)).unchanged
            server.script(answer({}, 429), later)
            assert failed(flash(remote)).unchanged

        def gone(exchange: Exchange) -> None:
            server.refuse()
            exchange.send(head(502, 0, Connection="close"))

        server.script(gone)
        error = failed(flash(remote))
        assert (error.code, error.unchanged) == (1000, False)
        error = failed(flash(remote))
        assert (error.code, error.unchanged) == (1000, True)


def test_retry_after_is_waited_for(server: RemoteServer) -> None:
    server.script(answer({}, 429, Retry_After="1"))
    with client(server) as remote:
        remote.send_torque_map(0, ROWS)
    assert server.requests[1].at - server.requests[0].at >= 0.95


def test_retry_after_beyond_the_limit_ends_the_call_at_once(server: RemoteServer) -> None:
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 3600))
    with client(server) as remote:
        for header in ("3600", later):
            server.script(answer({}, 503, Retry_After=header))
            call = Later(flash(remote))
            error = call.remote_error()
            assert error.code == 1
            assert "asks to come back in 3" in str(error)
            assert call.took_s < LIMIT_S
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "header", ["soon", "-5", "", "1e9", "99999999999999999999", "Mon, 99 Foo 2026 99:00 GMT"]
)
def test_a_retry_after_that_makes_no_sense_is_as_none(server: RemoteServer, header: str) -> None:
    server.script(answer({}, 503, Retry_After=header))
    with client(server) as remote:
        remote.send_torque_map(0, ROWS)
    assert len(server.requests) == 2


@pytest.mark.parametrize("attempts", [1, 5])
def test_a_refused_connection_is_tried_again_and_has_changed_nothing(
    server: RemoteServer, attempts: int
) -> None:
    with client(server, connect_attempts=attempts) as remote:
        server.stop()
        error = failed(flash(remote))
        server.start()
    assert type(error) is RemoteNetworkError
    assert (error.code, error.unchanged) == (1000, True)
    assert f"{attempts} {'try' if attempts == 1 else 'tries'} to connect" in str(error)
    assert "TSPACE_REMOTE__URL" in str(error)


def test_an_outage_costs_the_calls_within_it_and_no_more(server: RemoteServer) -> None:
    server.default = WINDOW
    with client(server) as remote:
        for outage in (1, 2):
            remote.get_signals(4.0)
            server.stop()
            assert [failed(window(remote)).code for _ in range(3)] == [1000] * 3
            server.start()
            remote.get_signals(4.0)
            assert remote.failures == {1000: 3 * outage}
    assert len(server.requests) == 4


def test_a_server_that_comes_back_in_time_is_reached_by_the_same_call(server: RemoteServer) -> None:
    server.stop()
    with client(server, connect_attempts=20, backoff_s=0.05) as remote:
        call = Later(flash(remote, timeout_s=LIMIT_S))
        server.start()
        assert call.wait().error is None
    assert len(server.requests) == 1


BREAKS: list[Behaviour] = [
    reset(),
    reset(head(200, 1000) + b'{"success": true'),
    broken_off(b""),
    broken_off(b'{"success": true}'),
    lambda exchange: exchange.connection.shutdown(2),
    lambda exchange: exchange.send(b"220 mail.example.com ESMTP\r\n\r\n"),
    lambda exchange: exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"),
    lambda exchange: exchange.send(b"HTTP/1.1 200 OK\r\n" + b"X-Header: endless\r\n" * 20_000),
]


@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_connection_is_tried_again_for_a_window_but_not_for_a_flash(
    server: RemoteServer, broken: Behaviour
) -> None:
    with client(server) as remote:
        server.script(broken, WINDOW)
        remote.get_signals(4.0)
        assert len(server.requests) == 2
        server.script(broken)
        error = failed(flash(remote))
        assert len(server.requests) == 3
        assert type(error) is RemoteNetworkError
        assert (error.code, error.unchanged) == (1001, False)
        server.script(broken, broken, broken)
        assert "3 tries" in str(failed(window(remote)))
        remote.send_torque_map(0, ROWS)


def test_a_connection_closed_while_idle_costs_nothing(server: RemoteServer) -> None:
    closed = threading.Event()

    def answer_and_leave(exchange: Exchange) -> None:
        OK(exchange)
        exchange.connection.shutdown(2)
        closed.set()

    with client(server) as remote:
        for _ in range(3):
            server.script(answer_and_leave)
            remote.send_torque_map(0, ROWS)
            assert closed.wait(LIMIT_S)
            closed.clear()
            remote.send_torque_map(0, ROWS)
        assert remote.failures == {}
    assert len(server.requests) == 6


@pytest.mark.parametrize("slow", [hang, drip, late(LIMIT_S, OK)])
def test_nothing_exceeds_the_limit(server: RemoteServer, slow: Behaviour) -> None:
    server.script(slow, slow)
    with client(server, get_signal_margin_s=0.8) as remote:
        call = Later(flash(remote, timeout_s=1.0))
        error = call.remote_error()
        assert type(error) is RemoteNetworkError
        assert (error.code, error.unchanged) == (1002, False)
        assert "not done within 1 s, it was sent" in str(error)
        assert 1.0 <= call.took_s < LIMIT_S / 2
        call = Later(lambda: remote.get_signals(0.2))
        assert call.remote_error().code == 1002
        assert 1.0 <= call.took_s < LIMIT_S / 2
        remote.send_torque_map(0, ROWS)
    assert len(server.requests) == 3


def test_the_limit_holds_over_all_tries_together(server: RemoteServer) -> None:
    server.default = late(0.8, answer({}, 503))  # the limit falls far from where a try begins or ends
    with client(server, attempts=10, set_torque_s=2.0) as remote:
        call = Later(flash(remote))
        error = call.remote_error()
        assert (error.code, error.unchanged) == (1002, False)
        assert "before that: " in str(error)
        assert "HTTP status 503" in str(error)
        seen = len(server.requests)
        assert 1 < seen < 10
        # After its limit nothing of the call goes out any more, also not when the next one does.
        server.default = OK
        remote.send_torque_map(0, ROWS)
        assert len(server.requests) == seen + 1


def test_a_limit_that_is_over_before_anything_was_sent_has_changed_nothing(server: RemoteServer) -> None:
    with client(server) as remote:
        error = failed(flash(remote, timeout_s=0.0))
        assert (error.code, error.unchanged) == (1002, True)
        assert "it was not sent yet" in str(error)
        server.stop()
        error = failed(flash(remote, timeout_s=0.02))
        assert error.unchanged
        server.start()
    assert server.requests == []


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("kind", ["window", "flash"])
def test_a_huge_answer_is_refused_without_reading_it(
    server: RemoteServer, announced: bool, kind: str
) -> None:
    huge = Huge(50 << 20, announced=announced)
    server.script(huge)
    with client(server, answer_bytes=1 << 20) as remote:
        error = failed(window(remote) if kind == "window" else flash(remote))
        assert type(error) is RemoteFormatError
        assert (error.code, error.unchanged) == (2005, False)
        assert "allowed are 1048576" in str(error)
        assert "remote.answer_bytes" in str(error)
        remote.send_torque_map(0, ROWS)
    assert huge.sent.get(timeout=LIMIT_S) < huge.size / 2  # the rest are buffers of both ends
    assert len(server.requests) == 2


def test_the_largest_allowed_answer_is_read(server: RemoteServer) -> None:
    content = json.dumps({"success": True, "result": {"x": "y" * 100_000}}).encode()
    with client(server, answer_bytes=len(content)) as remote:
        server.script(body(content))
        assert remote.get_signals(4.0) == {"x": "y" * 100_000}
    with client(server, answer_bytes=len(content) - 1) as remote:
        server.script(body(content))
        assert failed(window(remote)).code == 2005


@pytest.mark.parametrize(
    ("nonsense", "code", "said"),
    [
        (body(b"<html><body>Please log in</body></html>"), 2005, "an HTML page"),
        (body(b'{"success": true, "result": {"timestamps": ["2606'), 2005, "no JSON"),
        (body(b'{"success": true, "result": {"list_speed_1s": [[NaN]]}}'), 2005, "NaN is no JSON number"),
        (body(b""), 2005, "empty"),
        (body(b"\x1f\x8b\x08\x00", Content_Encoding="gzip"), 2005, "compressed"),
        (answer([1, 2]), 2005, "expected an object"),
        (answer({"success": True, "result": [1]}), 3000, "a list of 1"),
        (answer({"success": True}), 3001, "neither result nor oss_link"),
        (answer({"success": True, "oss_link": "s3://foreign/key"}), 3001, "allowed buckets are: windows"),
        (answer({"success": True, "vin": "X", "result": {}}), 2005, "asked for was TWNREMOTE00000001"),
    ],
)
def test_nonsense_is_one_counted_failure_with_a_reason(
    server: RemoteServer, nonsense: Behaviour, code: int, said: str
) -> None:
    server.script(nonsense, WINDOW)
    with client(server) as remote:
        error = failed(window(remote))
        assert type(error) is RemoteFormatError
        assert error.code == code
        assert said in str(error)
        assert remote.failures == {code: 1}
        remote.get_signals(4.0)
    assert len(server.requests) == 2


def test_a_redirect_is_not_followed(server: RemoteServer) -> None:
    with RemoteServer() as elsewhere, client(server) as remote:
        for status in (301, 302, 303, 307, 308):
            server.script(body(b"", status, Location=elsewhere.url + "/set_torque"))
            error = failed(flash(remote))
            assert (error.code, error.unchanged) == (1, False)
            assert f"a redirect to 127.0.0.1:{elsewhere.port}" in str(error)
            assert "redirects are not followed" in str(error)
        assert elsewhere.connections == 0
    assert len(server.requests) == 5
