"""The store of one bucket against a real server: whole objects, conditions, parts, errors with words."""

import http.server
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.objects.seaweed import S3
from tspace_core.config.settings import settings
from tspace_core.errors import (
    ObjectAccessError,
    ObjectError,
    ObjectExistsError,
    ObjectMissingError,
    ObjectServerError,
)
from tspace_core.objects import store as store_module
from tspace_core.objects import transfer
from tspace_core.objects.client import s3_client
from tspace_core.objects.store import ObjectStore


@pytest.fixture
def store(s3: S3) -> ObjectStore:
    return ObjectStore(s3.bucket)


def calls(client: Any, name: str) -> list[dict[str, Any]]:
    """Collect the requests of a kind that a client makes from now on."""
    made: list[dict[str, Any]] = []
    client.meta.events.register(f"before-parameter-build.s3.{name}", lambda params, **_: made.append(params))
    return made


def test_what_is_put_is_got_listed_copied_and_removed(store: ObjectStore) -> None:
    etag = store.put("a/x ü+&.json", b"one")
    found = store.head("a/x ü+&.json")
    assert found is not None
    assert (found.size, found.etag) == (3, etag)
    assert store.get("a/x ü+&.json") == b"one"
    assert store.put("a/x ü+&.json", b"two") != etag
    store.copy("a/x ü+&.json", "b/c/d")
    store.put("b/e", b"")
    keys = ["a/x ü+&.json", "b/c/d", "b/e"]
    assert [info.key for info in store.list()] == keys
    assert [info.key for info in store.list(after=keys[0])] == keys[1:]
    assert [info.key for info in store.list("b/", limit=1)] == ["b/c/d"]
    assert list(store.folders("")) == ["a/", "b/"]
    assert list(store.folders("b/")) == ["b/c/"]
    assert store.tail("b/c/d", 2) == b"wo"
    assert store.tail("b/c/d", 100) == b"two"
    assert b"".join(store.blocks("b/c/d")) == b"two"
    store.delete(*keys, "never/there")
    assert list(store.list()) == []
    assert store.head("b/e") is None


def test_a_listing_goes_on_page_by_page(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_BATCH", 3)
    for number in range(8):
        store.put(f"k/{number}", b"")
    made = calls(store._client, "ListObjectsV2")
    assert [info.key[-1] for info in store.list("k/")] == list("01234567")
    assert len(made) == 3
    assert next(store.list("k/", after="k/5")).key == "k/6"
    assert len(made) == 4


def test_conditions(store: ObjectStore) -> None:
    first = store.put("m", b"1", if_absent=True)
    with pytest.raises(ObjectExistsError, match=rf"s3://{store.bucket}/m at http://127.*look at it again"):
        store.put("m", b"2", if_absent=True)
    second = store.put("m", b"2", if_match=first)
    with pytest.raises(ObjectExistsError):
        store.put("m", b"3", if_match=first)
    content, info = store.get_with_info("m")
    assert (content, info.etag) == (b"2", second)


@pytest.mark.parametrize("kind", ["absent", "match"])
def test_of_many_writers_at_once_one_wins(store: ObjectStore, kind: str) -> None:
    seen = store.put("m", b"old") if kind == "match" else None

    def write(number: int) -> int | None:
        try:
            store.put("m", b"%d" % number, if_absent=seen is None, if_match=seen)
        except ObjectExistsError:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(write, range(8)) if number is not None]
    assert len(winners) == 1
    assert store.get("m") == b"%d" % winners[0]


def test_a_write_whose_answer_was_lost_is_not_taken_for_another_writers(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first try is done, its answer is lost, the second is refused because of the first."""
    from botocore.httpsession import URLLib3Session

    lost: list[Any] = []
    send = URLLib3Session.send

    def lose_one(self: URLLib3Session, request: Any) -> Any:
        answer = send(self, request)
        if request.method == "PUT" and not lost:
            lost.append(request)
            answer.status_code = 503
        return answer

    monkeypatch.setattr(URLLib3Session, "send", lose_one)
    etag = store.put("m", b"mine", if_absent=True)
    assert lost
    assert store.get_with_info("m")[1].etag == etag
    with pytest.raises(ObjectExistsError):
        store.put("m", b"mine", if_absent=True)


def test_a_large_file_goes_in_parts_and_comes_back_by_ranges(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "LARGE", 5 << 20)
    monkeypatch.setattr(store_module, "LARGE", 5 << 20)
    monkeypatch.setattr(transfer, "PART", 5 << 20)
    data = np.random.default_rng(1).bytes((10 << 20) + 17)
    (tmp_path / "a").write_bytes(data)
    parts, ranges = calls(store._client, "UploadPart"), calls(store._client, "GetObject")
    etag = store.upload(tmp_path / "a", "big", if_absent=True)
    assert sorted(part["PartNumber"] for part in parts) == [1, 2, 3]
    info = store.download("big", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == data
    assert info.etag == etag
    assert len(ranges) == 3
    with pytest.raises(ObjectExistsError):
        store.upload(tmp_path / "a", "big", if_absent=True)

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    # A writer that stops in the middle leaves the old object, and no parts.
    client = s3_client()
    monkeypatch.setattr(client, "complete_multipart_upload", fail)
    with pytest.raises(KeyboardInterrupt):
        store.upload(tmp_path / "b", "big")
    assert store.abort_uploads(older_than_s=0) == 0
    head = store.head("big")
    assert head is not None
    assert head.etag == etag
    monkeypatch.setattr(client, "abort_multipart_upload", fail)  # killed before it could clean up
    with pytest.raises(KeyboardInterrupt):
        store.upload(tmp_path / "b", "other")
    monkeypatch.undo()
    assert store.head("other") is None


def test_parts_of_a_killed_writer_are_swept(store: ObjectStore) -> None:
    client = s3_client()
    client.create_multipart_upload(Bucket=store.bucket, Key="logs/a")
    assert store.abort_uploads("logs/", older_than_s=3600) == 0
    assert store.abort_uploads("other/", older_than_s=-5) == 0
    assert store.abort_uploads("logs/", older_than_s=-5) == 1
    assert store.abort_uploads("logs/", older_than_s=-5) == 0


def test_an_object_replaced_while_it_is_fetched_is_fetched_anew(store: ObjectStore, tmp_path: Path) -> None:
    store.put("m", b"old")
    stale = store.head("m")
    store.put("m", b"newer")
    info = store.download("m", tmp_path / "a", stale)
    assert (tmp_path / "a").read_bytes() == b"newer"
    assert info.size == 5
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_large_answer_is_refused_before_it_is_read(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.response import StreamingBody

    store.put("big", bytes(50_000_000))
    monkeypatch.setattr(StreamingBody, "read", lambda *_: pytest.fail("the body was read"))
    with pytest.raises(ObjectError, match=r"has 50000000 bytes, allowed are 4194304: it was not read"):
        store.get("big", limit=4 << 20)


READERS: list[Callable[[ObjectStore, Path], object]] = [
    lambda store, _: store.get("gone"),
    lambda store, folder: store.download("gone", folder / "a"),
    lambda store, _: store.tail("gone", 8),
    lambda store, _: list(store.blocks("gone")),
    lambda store, _: store.copy("gone", "a"),
]


@pytest.mark.parametrize("read", READERS)
def test_what_is_not_there_is_named(
    store: ObjectStore, read: Callable[[ObjectStore, Path], object], tmp_path: Path
) -> None:
    with pytest.raises(ObjectMissingError, match=rf"s3://{store.bucket}/gone at http://127"):
        read(store, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("s3")
def test_a_bucket_that_is_not_there_is_named() -> None:
    other = ObjectStore("no-such-bucket")
    for act in (lambda: other.get("a"), lambda: list(other.list())):
        with pytest.raises(ObjectMissingError, match="no-such-bucket"):
            act()


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "check AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "check AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "set AWS_ACCESS_KEY_ID"),
    ],
)
def test_refused_or_missing_credentials_are_told(
    s3: S3, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str | None], words: str, tmp_path: Path
) -> None:
    ObjectStore(s3.bucket).put("a", b"1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    store = ObjectStore(s3.bucket)
    for act in (lambda: store.get("a"), lambda: store.head("a"), lambda: store.put("a", b"2")):
        with pytest.raises(ObjectAccessError, match=words) as failure:
            act()
        assert f"s3://{s3.bucket}/a" in str(failure.value)
        assert s3.server.secret_key not in str(failure.value)


@pytest.mark.usefixtures("s3")
def test_an_endpoint_that_is_no_url_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSPACE_S3__ENDPOINT", "nonsense")
    settings.cache_clear()
    with pytest.raises(ObjectError, match="correct TSPACE_S3__ENDPOINT"):
        ObjectStore("a")


def test_an_answer_that_breaks_off_is_read_again(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from botocore.exceptions import ReadTimeoutError
    from botocore.response import StreamingBody

    store.put("a", b"whole")
    read, failures = StreamingBody.read, [1, 1]

    def break_off(self: StreamingBody, amt: int | None = None) -> bytes:
        if failures:
            failures.pop()
            raise ReadTimeoutError(endpoint_url="x")
        return bytes(read(self, amt))

    monkeypatch.setattr(StreamingBody, "read", break_off)
    assert store.get("a") == b"whole"
    failures[:] = [1]
    store.download("a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"whole"
    failures[:] = [1] * 10
    with pytest.raises(ObjectServerError, match="then try again"):
        store.get("a")


class Odd(http.server.BaseHTTPRequestHandler):
    """A server that answers reads without Content-Length, and everything else with a page of HTML."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        if self.path.startswith("/b/chunked"):
            self.send_header("ETag", '"1"')
            self.send_header("Last-Modified", "Mon, 05 Jan 2026 07:00:00 GMT")
        self.end_headers()
        for piece in (b"<html>", b"please log in<br>", b""):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        page = b"<html>please log in<br>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)


@pytest.fixture
def odd(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Odd)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("TSPACE_S3__ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    settings.cache_clear()
    yield ObjectStore("b")
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_answer_without_its_length_is_read_as_far_as_allowed(odd: ObjectStore) -> None:
    content, info = odd.get_with_info("chunked", limit=23)
    assert content == b"<html>please log in<br>"
    assert (info.size, info.etag) == (23, "1")
    with pytest.raises(ObjectError, match="has more than 22 bytes, allowed are 22"):
        odd.get("chunked", limit=22)


@pytest.mark.parametrize(
    "act",
    [
        lambda store: store.head("a"),
        lambda store: store.get("a"),
        lambda store: list(store.list()),
        lambda store: store.copy("a", "b"),
        lambda store: store.put("a", b"1"),
    ],
)
def test_a_page_instead_of_an_answer_is_an_error_of_the_server(
    odd: ObjectStore, act: Callable[[ObjectStore], object]
) -> None:
    with pytest.raises(ObjectServerError, match=r"s3://b/a? at http://127"):
        act(odd)
