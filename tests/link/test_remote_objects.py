"""Windows that the service only links to: read from object storage, however late, and from nowhere else."""

import json
from collections.abc import Iterator

import numpy as np
import pytest

from tests.link.remote_clients import Later, client, failed, truck
from tests.link.remote_server import (
    LIMIT_S,
    Behaviour,
    Huge,
    RemoteServer,
    answer,
    body,
    hang,
)
from tests.objects.seaweed import S3
from tspace_core.can.box_window import decode_window, encode_window
from tspace_core.config import load_site
from tspace_core.config.settings import settings
from tspace_core.errors import RemoteDataError, RemoteFormatError
from tspace_core.link.remote_can import RemoteCanClient
from tspace_core.objects.store import ObjectStore

VIN = "TWNREMOTE00000001"
KEY = f"{VIN}/2026/06/01/083000123.json"
RESULT = {"timestamps": [], "vin": VIN}
STAMPS = {"ETag": '"0123"', "Last-Modified": "Mon, 01 Jun 2026 06:30:00 GMT"}


def stored(content: bytes) -> Behaviour:
    return body(content, 200, **{name.replace("-", "_"): value for name, value in STAMPS.items()})


def refused(status: int, code: str) -> Behaviour:
    return body(f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode(), status)


MISSING = refused(404, "NoSuchKey")


@pytest.fixture
def server() -> Iterator[RemoteServer]:
    with RemoteServer(answer({"success": True, "oss_link": f"s3://windows/{KEY}"})) as running:
        yield running


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteServer]:
    """An object storage that answers as it is told."""
    with RemoteServer(stored(json.dumps(RESULT).encode())) as running:
        monkeypatch.setenv("TSPACE_S3__ENDPOINT", running.url.removesuffix("/api"))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        settings.cache_clear()
        yield running
        monkeypatch.undo()
        settings.cache_clear()


def test_a_window_is_read_from_a_real_storage(server: RemoteServer, s3: S3) -> None:
    vehicle, start_ns = truck(buckets=(s3.bucket,)), 1_780_000_000_120_000_000
    values = np.round(np.random.default_rng(0).uniform(0, 100, (200, 6)), 3)
    values[:, 5] = 3.0
    window = encode_window(values, start_ns, load_site(vehicle.site).zone)
    ObjectStore(s3.bucket).put(KEY, json.dumps(window).encode())
    server.default = answer({"success": True, "oss_link": f"s3://{s3.bucket}/{KEY}"})
    with RemoteCanClient(vehicle, url=server.url) as remote:
        found = decode_window(remote.get_signals(4.0), vehicle, near_ns=start_ns, units=4)
        server.default = answer({"success": True, "oss_link": f"s3://{s3.bucket}/{VIN}/missing.json"})
        with RemoteCanClient(truck(buckets=(s3.bucket,), get_signal_margin_s=1.5), url=server.url) as quick:
            error = failed(lambda: quick.get_signals(0.2))
    assert found.reason == ""
    assert found.time_ns[0] == start_ns
    assert np.array_equal(found.values, values)
    assert type(error) is RemoteDataError
    assert error.code == 2002


def test_an_object_not_yet_there_is_waited_for(server: RemoteServer, storage: RemoteServer) -> None:
    storage.script(MISSING, refused(404, "NoSuchBucket"), MISSING, refused(503, "SlowDown"))
    with client(server) as remote:
        assert remote.get_signals(4.0) == RESULT
        assert remote.failures == {}
        assert remote.last_service_s > 0.0
    assert [request.path for request in storage.requests] == [f"/windows/{KEY}"] * 5
    assert len(server.requests) == 1  # the service is not bothered again


def test_an_object_that_does_not_come_is_2002_at_the_limit(
    server: RemoteServer, storage: RemoteServer
) -> None:
    with client(server) as remote:
        remote.get_signals(4.0)  # making the storage's client takes its time, once a process
    storage.default = MISSING
    with client(server, get_signal_margin_s=0.7) as remote:
        call = Later(lambda: remote.get_signals(0.5))
        error = call.remote_error()
        assert type(error) is RemoteDataError
        assert error.code == 2002
        assert KEY in str(error)
        assert "telematics box uploads" in str(error)
        assert call.took_s < LIMIT_S
        assert remote.failures == {2002: 1}
    assert len(storage.requests) > 2


def test_a_storage_that_hangs_exceeds_no_limit(server: RemoteServer, storage: RemoteServer) -> None:
    storage.script(hang)
    with client(server, get_signal_margin_s=1.2) as remote:
        call = Later(lambda: remote.get_signals(0.3))
        error = call.remote_error()
        assert error.code == 2002
        assert "not done within 1.5 s, reading s3://windows" in str(error)
        assert call.took_s < LIMIT_S / 2


def test_a_read_of_a_hanging_storage_can_be_aborted(server: RemoteServer, storage: RemoteServer) -> None:
    storage.script(hang)
    with client(server) as remote:
        call = Later(lambda: remote.get_signals(4.0))
        storage.wait_for(1)
        remote.abort("the driver braked")
        assert "the driver braked" in str(call.remote_error())
        assert call.took_s < LIMIT_S / 2
        remote.close()


@pytest.mark.parametrize(
    ("behaviour", "code", "said"),
    [
        (refused(403, "AccessDenied"), 2002, "AWS_ACCESS_KEY_ID"),
        (refused(403, "InvalidAccessKeyId"), 2002, "AWS_ACCESS_KEY_ID"),
        (refused(400, "InvalidRequest"), 2005, "InvalidRequest"),
        (stored(b"<html>"), 2005, "the linked object is an HTML page"),
        (stored(b'{"timestamps": ["26'), 2005, "the linked object is no JSON"),
        (stored(b'{"list_speed_1s": [[NaN]]}'), 2005, "NaN is no JSON number"),
        (stored(b""), 2005, "empty"),
        (stored(b"[1, 2]"), 3000, "the linked object is a list of 2"),
        (stored(b'{"vin": "TWNREMOTE00000002"}'), 2005, "for vin TWNREMOTE00000002"),
    ],
)
def test_what_is_no_window_of_ours_is_refused(
    server: RemoteServer, storage: RemoteServer, behaviour: Behaviour, code: int, said: str
) -> None:
    storage.default = behaviour
    with client(server) as remote:
        error = failed(lambda: remote.get_signals(4.0))
        assert error.code == code
        assert said in str(error)
        assert remote.failures == {code: 1}
    assert len(storage.requests) == 1


@pytest.mark.parametrize("announced", [True, False])
def test_a_huge_object_is_refused_without_reading_it(
    server: RemoteServer, storage: RemoteServer, announced: bool
) -> None:
    huge = Huge(50 << 20, announced=announced, headers=STAMPS)
    storage.script(huge)
    with client(server, answer_bytes=1 << 20) as remote:
        error = failed(lambda: remote.get_signals(4.0))
        assert type(error) is RemoteFormatError
        assert error.code == 2005
        assert "allowed are 1048576" in str(error)
    assert huge.sent.get(timeout=LIMIT_S) < huge.size / 2


@pytest.mark.parametrize(
    ("link", "code"),
    [
        ("s3://foreign/key", 3001),
        ("https://windows/key", 3001),
        (f"s3://windows/{KEY.replace('1/', '2/', 1)}", 2005),
    ],
)
def test_a_link_that_is_not_ours_is_never_followed(
    server: RemoteServer, storage: RemoteServer, link: str, code: int
) -> None:
    server.default = answer({"success": True, "oss_link": link})
    with client(server) as remote:
        error = failed(lambda: remote.get_signals(4.0))
    assert type(error) is RemoteFormatError
    assert error.code == code
    assert link in str(error)
    assert storage.connections == 0
