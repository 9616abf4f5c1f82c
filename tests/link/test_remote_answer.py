"""What the service's answers mean, each form that it may take and many that it must not."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tspace_core.config import RemoteConfig
from tspace_core.errors import AiModeOffError, RemoteCanError, RemoteFormatError
from tspace_core.link.remote_answer import Link, read_signals, read_window, require_done
from tspace_core.link.remote_codes import CODES

VIN = "TWNREMOTE00000001"
CONFIG = RemoteConfig(buckets=("windows", "more"))


def signals(content: object) -> dict[str, object] | Link:
    return read_signals(json.dumps(content).encode(), CONFIG, VIN)


def done(content: object) -> None:
    require_done(json.dumps(content).encode(), VIN)


BOTH = pytest.mark.parametrize("read", [signals, done])
Read = Callable[[object], object]


def test_both_forms_of_a_window_are_read() -> None:
    assert signals({"success": True, "result": {"list_speed_1s": []}}) == {"list_speed_1s": []}
    assert signals({"success": True, "result": {"vin": VIN}, "vin": VIN}) == {"vin": VIN}
    link = Link("more", f"a/{VIN}/2026/06/01/083000123.json")
    assert signals({"success": True, "oss_link": f"s3://more/{link.key}"}) == link
    assert signals({"success": True, "oss_link": "s3://more/a b", "result": None}) == Link("more", "a b")
    assert read_window(b'{"timestamps": []}', VIN) == {"timestamps": []}


def test_success_is_enough_for_a_flash() -> None:
    done({"success": True})
    done({"success": True, "vin": None, "more": [1]})


@BOTH
@pytest.mark.parametrize("code", CODES)
def test_each_code_may_come_as_text_or_number(read: Read, code: int) -> None:
    for form in (code, str(code), f" {code} "):
        with pytest.raises(CODES[code].error, match=rf"code {code}, ") as caught:
            read({"success": False, "reason": {"why": {"code": form}}})
        assert caught.value.code == code
        assert caught.value.unchanged == CODES[code].unchanged


@BOTH
def test_ai_mode_off_goes_before_other_reasons(read: Read) -> None:
    for more in ({}, {"reason": {"why": {"code": "304"}}}):
        with pytest.raises(AiModeOffError, match="ask the driver"):
            read({"success": False, "AIMode": False, **more})
    with pytest.raises(RemoteCanError, match="code 304"):
        read({"success": False, "AIMode": True, "reason": {"why": {"code": "304"}}})


UNKNOWN_CODES: list[object] = [
    None, True, 304.0, "0", 0, "", "x", "3.4", [], {}, "٣٠٤", "9" * 5000, 999, "999",
]  # fmt: skip
UNKNOWN_FORMS: list[object] = [
    None, 1, "ok", True, [], [{"success": True}], {}, {"success": None}, {"success": "true"},
    {"success": 1}, {"success": 0}, {"success": False}, {"success": False, "AIMode": 0},
    {"success": False, "reason": "304"}, {"success": False, "reason": {"why": None}},
    {"success": False, "reason": {"why": {}}},
    *({"success": False, "reason": {"why": {"code": code}}} for code in UNKNOWN_CODES),
]  # fmt: skip


@BOTH
@pytest.mark.parametrize("content", UNKNOWN_FORMS)
def test_anything_else_is_an_unknown_form(read: Read, content: object) -> None:
    with pytest.raises(RemoteFormatError) as caught:
        read(content)
    assert caught.value.code == 2005
    assert not caught.value.unchanged
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>It works!</body></html>", "an HTML page"),
        (b'{"success": true, "result": {"list_speed_1s": [[1.0, 2', "no JSON"),
        (b'{"success": true, "result": {"list_speed_1s": [[NaN]]}}', "NaN is no JSON number"),
        (b'{"success": true, "result": {"list_speed_1s": [[-Infinity]]}}', "-Infinity is no JSON number"),
        (b'{"success": true} {}', "no JSON"),
        (b"\xff\xfe\x00", "no JSON"),
        (b'{"success": true, "n": ' + b"9" * 5000 + b"}", "no JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b"x" * 100_000, "100000 bytes"),
    ],
)
def test_a_body_that_is_no_json_is_said_to_be(body: bytes, said: str) -> None:
    reads: tuple[Callable[[], object], ...] = (
        lambda: require_done(body, VIN),
        lambda: read_signals(body, CONFIG, VIN),
        lambda: read_window(body, VIN),
    )
    for read in reads:
        with pytest.raises(RemoteFormatError, match=r"code 2005") as caught:
            read()
        assert said in str(caught.value)
        assert len(str(caught.value)) < 600


@pytest.mark.parametrize("result", [None, [], [1], "x", 1, True, "s3://windows/key"])
def test_a_result_that_is_no_dictionary_is_3000(result: object) -> None:
    reads: tuple[Callable[[], object], ...] = (
        lambda: signals({"success": True, "result": result}),
        lambda: read_window(json.dumps(result).encode(), VIN),
    )
    for read in reads:
        with pytest.raises(RemoteFormatError, match="code 3000, result is not a dictionary"):
            read()


@pytest.mark.parametrize(
    "more",
    [
        {}, {"oss_link": None}, {"oss_link": ""}, {"oss_link": 5}, {"oss_link": ["s3://windows/key"]},
        {"oss_link": "https://windows/key"}, {"oss_link": "s3://windows"}, {"oss_link": "s3://windows/"},
        {"oss_link": "s3:///key"}, {"oss_link": "windows/key"}, {"oss_link": "file:///etc/passwd"},
    ],
)  # fmt: skip
def test_no_link_where_one_is_due_is_3001(more: dict[str, object]) -> None:
    with pytest.raises(RemoteFormatError, match="code 3001, result has no object storage link"):
        signals({"success": True, **more})


@pytest.mark.parametrize("bucket", ["others", "windows2", "Windows", "windows@evil", "windows."])
def test_a_foreign_bucket_is_refused_and_named(bucket: str) -> None:
    with pytest.raises(RemoteFormatError, match="allowed buckets are: windows, more") as caught:
        signals({"success": True, "oss_link": f"s3://{bucket}/key"})
    assert caught.value.code == 3001
    assert f"s3://{bucket}/key" in str(caught.value)
    assert "remote.buckets" in str(caught.value)


def test_another_vehicles_answer_is_refused() -> None:
    other = "TWNREMOTE00000002"
    for read in (
        lambda: done({"success": True, "vin": other}),
        lambda: signals({"success": True, "vin": other, "result": {}}),
        lambda: signals({"success": True, "result": {"vin": other}}),
        lambda: signals({"success": True, "result": {"vin": 7}}),
        lambda: signals({"success": True, "oss_link": f"s3://windows/{other}/2026/06/01/083000123.json"}),
        lambda: signals({"success": True, "oss_link": f"s3://windows/b/{other}/2026/06/01/083000123.json"}),
        lambda: read_window(json.dumps({"vin": other}).encode(), VIN),
    ):
        with pytest.raises(RemoteFormatError, match=VIN) as caught:
            read()
        assert caught.value.code == 2005
        assert not caught.value.unchanged


@given(st.binary(max_size=60) | st.text(max_size=40).map(str.encode))
def test_no_body_raises_anything_else(body: bytes) -> None:
    for prefix in (b"", b'{"success": true, "result": ', b'{"success": false, "reason": {"why": {"code": '):
        for read in (
            lambda: require_done(prefix + body, VIN),  # noqa: B023 - called at once
            lambda: read_signals(prefix + body, CONFIG, VIN),  # noqa: B023
        ):
            try:
                read()
            except RemoteCanError as error:
                assert error.code in CODES
