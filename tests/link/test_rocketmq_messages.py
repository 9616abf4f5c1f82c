"""The HMI's messages in a queue: what is understood, what is refused and why."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.link.queue_world import truck
from tspace_core.errors import ConfigError, QueueError
from tspace_core.link.rocketmq import CODES, READY_TOPIC, group_of, topic_of
from tspace_core.link.rocketmq_messages import HmiMessage, encode_message, encode_ready, parse_message

VIN = "TWNREMOTE00000001"


def told(**changed: Any) -> bytes:
    return json.dumps({"vin": VIN, "name": "tracker", "code": 1} | changed).encode()


def test_the_contract_of_the_field() -> None:
    assert topic_of(truck()) == "tracker_TWNREMOTE00000001"
    assert READY_TOPIC == "update_ready_state"
    assert encode_ready(truck()) == {"vin": VIN, "is_ready": True}
    assert CODES == {1: "begin", 2: "end_valid", 3: "end_invalid", 4: "exit", 5: "configure"}
    assert encode_message(truck(), "configure") == {"vin": VIN, "name": "tracker", "code": 5}


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("as_text", [False, True])
def test_each_code_is_understood_as_number_and_as_text(code: int, as_text: bool) -> None:
    said = parse_message(told(code=str(code) if as_text else code), VIN)
    status = None if code == 5 else CODES[code]
    assert said == HmiMessage(VIN, "tracker", status)  # type: ignore[arg-type]


def test_a_message_may_have_no_name_and_more_keys_than_known() -> None:
    assert parse_message(json.dumps({"vin": VIN, "code": 4, "when": 1}).encode(), VIN) == HmiMessage(
        VIN, "", "exit"
    )


def test_another_vehicle_is_another_vehicle_whatever_it_is_told() -> None:
    assert parse_message(told(vin="TWNREMOTE00000002"), VIN) is None
    assert parse_message(told(vin="TWNREMOTE00000002", code=99, name=3), VIN) is None


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "no JSON"),
        (b"begin", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 20_000, "nested too deeply"),
        (b"[1]", "no JSON object"),
        (b"null", "no JSON object"),
        (b'{"code": 1}', "vin is missing or no text"),
        (told(vin=1), "vin is missing or no text"),
        (told(vin=""), "vin is missing or no text"),
        (told(name=1), "name is no text"),
        (told(code=None), "code is missing or no whole number"),
        (told(code=True), "code is missing or no whole number"),
        (told(code=1.0), "code is missing or no whole number"),
        (told(code="one"), "code is missing or no whole number"),
        (told(code=[1]), "code is missing or no whole number"),
        (told(code=0), "code 0 is unknown; known are 1 begin"),
        (told(code=6), "code 6 is unknown"),
        (told(code=-1), "code -1 is unknown"),
        (told().replace(b": 1}", b": " + b"9" * 5000 + b"}"), "no JSON"),
        (told(name="x" * 70_000), "at most 65536 are read"),
    ],
)
def test_what_is_not_understood_is_refused_with_what_is_wrong(body: bytes, reason: str) -> None:
    with pytest.raises(QueueError) as caught:
        parse_message(body, VIN)
    assert reason in str(caught.value)
    assert "value seen" in str(caught.value)
    assert len(str(caught.value)) < 700


def test_damage_on_the_way_is_a_reason_of_its_own() -> None:
    with pytest.raises(QueueError, match="its checksum is wrong"):
        parse_message(told(), VIN, damaged="its checksum is wrong")


@given(
    st.binary(max_size=300)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["vin", "name", "code", "x"]), inner, max_size=4)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_nothing_else_ever_happens(body: bytes) -> None:
    try:
        said = parse_message(body, VIN)
    except QueueError:
        return
    assert said is None or (said.vin == VIN and json.loads(body)["vin"] == VIN)


def test_names_that_the_queue_does_not_allow_are_said_at_once() -> None:
    odd = truck().model_copy(update={"vin": "A B"})
    with pytest.raises(ConfigError, match="allows no name 'tracker_A B'"):
        topic_of(odd)
    with pytest.raises(ConfigError, match="allows no name"):
        group_of(odd)
