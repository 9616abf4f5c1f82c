"""Datagrams: what is taken, what is refused, and what the sender is told."""

import json
import math
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tspace_core.config import load_vehicle
from tspace_core.errors import ConfigError
from tspace_core.link.datagrams import (
    LARGEST_DATAGRAM,
    LOCAL_KEYS,
    STATUSES,
    DatagramError,
    RefusalLimiter,
    encode_refusal,
    encode_sample,
    encode_status,
    is_refusal,
    parse,
    signals_needed,
)

GOOD = {"velocity": 50.0, "pedal": 20.0, "brake_pressure": 0.0, "A": 80.5, "V": 380.0}
SAMPLE = {"velocity": 50.0, "thrust": 20.0, "brake": 0.0, "current": 80.5, "voltage": 380.0}


def encoded(content: object) -> bytes:
    return json.dumps(content).encode()


def refusal(data: bytes) -> DatagramError:
    with pytest.raises(DatagramError) as caught:
        parse(data)
    return caught.value


def test_a_sample_of_numbers_and_one_of_decimal_strings_say_the_same() -> None:
    strings = {"velocity": "50", "pedal": "20.0", "brake_pressure": "-0", "A": "+8.05e1", "V": " 380 "}
    assert parse(encoded({"data": GOOD})).sample == SAMPLE
    assert parse(encoded({"data": strings})).sample == SAMPLE


@pytest.mark.parametrize("status", STATUSES)
def test_status_and_data_may_stand_in_one_datagram(status: str) -> None:
    both = parse(encoded({"status": status, "data": GOOD}))
    assert (both.status, both.sample) == (status, SAMPLE)
    alone = parse(encoded({"status": status}) + b"\n")
    assert (alone.status, alone.sample) == (status, None)


def test_unknown_keys_are_reported_and_not_fatal() -> None:
    datagram = parse(encoded({"data": GOOD | {"soc": 1, "A ": "x"}, "version": [1], "": None}))
    assert datagram.sample == SAMPLE
    assert datagram.extra == ("version", "", "data.soc", "data.A ")


def test_the_stamp_of_our_bridge_is_read_and_anything_else_by_that_key_is_unknown() -> None:
    stamped = parse(encoded({"data": GOOD, "bridge": {"seq": 7, "time_ns": 1_700_000_000_000_000_000}}))
    assert (stamped.seq, stamped.time_ns, stamped.extra) == (7, 1_700_000_000_000_000_000, ())
    others: list[object] = ["v2", {"seq": True}, {"seq": -1}, {"time_ns": 1.5}, {"time_ns": 2**63}, None, []]
    for stamp in others:
        datagram = parse(encoded({"data": GOOD, "bridge": stamp}))
        assert (datagram.seq, datagram.time_ns, datagram.extra) == (None, None, ("bridge",))


def test_only_the_signals_that_a_vehicle_needs_are_needed() -> None:
    without_brake = {key: value for key, value in GOOD.items() if key != "brake_pressure"}
    datagram = parse(encoded({"data": without_brake}), ("velocity", "thrust", "current", "voltage"))
    assert datagram.sample is not None
    assert "brake" not in datagram.sample
    assert refusal(encoded({"data": without_brake})).reason == "data lacks brake_pressure"


def test_a_vehicle_needs_its_state_and_what_energy_is_made_of() -> None:
    vehicle = load_vehicle("twin_truck")
    assert signals_needed(vehicle) == ("velocity", "thrust", "brake", "current", "voltage")
    other = vehicle.model_copy(
        update={"sampling": vehicle.sampling.model_copy(update={"signals": ("velocity", "soc")})}
    )
    with pytest.raises(ConfigError, match=r"\['soc'\], which no datagram carries"):
        signals_needed(other)


REFUSED: list[tuple[bytes, str]] = [
    (b"", "no JSON"),
    (b"\n", "no JSON"),
    (b"begin", "no JSON"),
    (b'{"status": "begin"', "no JSON"),
    (b'{"status": "begin"} trailing', "no JSON"),
    (b"\xff\xfe\x00", "not UTF-8 (byte 0)"),
    (b"[" * 2000, "nested too deeply"),
    (b'[{"status": "begin"}]', "no JSON object"),
    (b'"begin"', "no JSON object"),
    (b"null", "no JSON object"),
    (encoded({"status": "start"}), "status is not known"),
    (encoded({"status": "BEGIN"}), "status is not known"),
    (encoded({"status": None}), "status is not known"),
    (encoded({"status": ["begin"]}), "status is not known"),
    (encoded({"data": None}), "data is no object"),
    (encoded({"data": [1, 2]}), "data is no object"),
    (encoded({"data": {}}), "data lacks velocity, pedal, brake_pressure, A, V"),
    (encoded({"data": GOOD | {"A": True}}), "data.A is no number"),
    (encoded({"data": GOOD | {"A": None}}), "data.A is no number"),
    (encoded({"data": GOOD | {"A": [1]}}), "data.A is no number"),
    (encoded({"data": GOOD | {"A": ""}}), "data.A is no number"),
    (encoded({"data": GOOD | {"A": "12,5"}}), "data.A is no number"),
    (encoded({"data": GOOD | {"A": "1_000"}}), "data.A is no number"),
    (encoded({"data": GOOD | {"A": "0x10"}}), "data.A is no number"),
    (encoded({"data": GOOD | {"A": "nan"}}), "data.A is no number"),
    (encoded({"data": GOOD | {"A": "٣"}}), "data.A is no number"),
    (encoded({"data": GOOD | {"A": "1e999"}}), "data.A is not finite"),
    (b'{"data": {"velocity": NaN}}', "a number is not finite"),
    (b'{"data": {"velocity": -Infinity}}', "a number is not finite"),
    (encoded({"data": GOOD}).replace(b"80.5", b"1e999"), "data.A is not finite"),
    (encoded({"data": GOOD}).replace(b"80.5", b"9" * 1000), "data.A is not finite"),
    (b"x" * (LARGEST_DATAGRAM + 1), "longer than 2048 bytes"),
]


@pytest.mark.parametrize(("data", "reason"), REFUSED, ids=[f"{r} {d[:12]!r}" for d, r in REFUSED])
def test_what_is_wrong_is_refused_with_reason_value_and_what_to_do(data: bytes, reason: str) -> None:
    error = refusal(data)
    assert reason in error.reason
    assert len(error.value) < 100
    assert error.what_to_do.startswith("send ")
    assert str(error) == f"{error.reason} (value seen: {error.value}); {error.what_to_do}"


def test_a_valid_status_beside_wrong_data_is_kept_for_the_receiver_to_judge() -> None:
    assert refusal(encoded({"status": "exit", "data": {}})).status == "exit"
    assert refusal(encoded({"status": "leave", "data": {}})).status is None


def test_ten_kilobytes_are_refused_by_their_size_without_parsing() -> None:
    """Field failure: a bad datagram parsed for ever."""
    nested = b'{"a":' * 2_000_000
    began = time.process_time()
    for _ in range(1000):
        error = refusal(nested)
    assert time.process_time() - began < 1.0
    assert error.value == f"{len(nested)} bytes"
    assert "longer" in refusal(encoded({"status": "begin"}).ljust(10_000)).reason
    assert parse(encoded({"status": "begin"}).ljust(LARGEST_DATAGRAM)).status == "begin"


@given(st.binary(max_size=2100))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    try:
        datagram = parse(data)
    except DatagramError as error:
        answer = encode_refusal(error)
        assert len(answer) < LARGEST_DATAGRAM
    else:
        assert datagram.sample is None or all(map(math.isfinite, datagram.sample.values()))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from([*LOCAL_KEYS.values(), "x"])


@given(
    st.dictionaries(
        st.sampled_from(["status", "data", "bridge", "z"]),
        st.sampled_from(STATUSES) | json_values | st.dictionaries(keys, st.floats() | json_values),
    )
)
def test_any_json_object_is_parsed_or_refused(content: dict[str, object]) -> None:
    try:
        datagram = parse(encoded(content))
    except DatagramError as error:
        assert is_refusal(encode_refusal(error))
    else:
        assert datagram.status in (None, *STATUSES)
        if datagram.sample is not None:
            assert list(datagram.sample) == list(SAMPLE)
            assert all(math.isfinite(value) for value in datagram.sample.values())


def test_what_is_encoded_is_parsed_again_bit_for_bit() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for seq in range(200):
        sample = {name: rng.uniform(-1e4, 1e4) * 10 ** rng.randint(-12, 3) for name in LOCAL_KEYS}
        time_ns = rng.randrange(2**63)
        data = encode_sample(sample | {"gear": 3.0}, seq=seq, time_ns=time_ns, status="begin")
        datagram = parse(data)
        assert (datagram.sample, datagram.seq, datagram.time_ns) == (sample, seq, time_ns)
        assert (datagram.status, datagram.extra) == ("begin", ())
    assert parse(encode_sample(SAMPLE)).seq is None
    assert [parse(encode_status(status)).status for status in STATUSES] == list(STATUSES)


def test_a_sample_that_is_not_finite_is_not_encoded() -> None:
    with pytest.raises(DatagramError, match="voltage is not finite"):
        encode_sample(SAMPLE | {"voltage": math.nan})


def test_a_refusal_is_one_readable_line_and_is_known_as_one() -> None:
    line = encode_refusal(refusal(encoded({"status": "start"})))
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == {
        "refused": "status is not known",
        "value": '"start"',
        "what_to_do": "send one of begin, end_valid, end_invalid, exit",
    }
    assert is_refusal(line)
    assert is_refusal(line[:20])
    assert not is_refusal(encoded({"status": "start"}))
    assert parse(line).sample is None


def test_answers_are_limited_for_each_sender_and_for_all_together() -> None:
    now = 100.0
    limiter = RefusalLimiter(lambda: now, per_sender_s=1.0, per_second=3)
    one, two = ("127.0.0.1", 1), ("127.0.0.1", 2)
    assert [limiter.allows(one), limiter.allows(one), limiter.allows(two)] == [True, False, True]
    now = 100.999
    assert not limiter.allows(one)
    now = 101.0
    assert [limiter.allows(("127.0.0.1", port)) for port in range(1, 6)] == [True] * 3 + [False] * 2


def test_a_limiter_keeps_its_memory_bounded_under_invented_senders() -> None:
    now = 0.0
    limiter = RefusalLimiter(lambda: now, per_second=10_000)
    assert all(limiter.allows(("127.0.0.1", port)) for port in range(5000))
    assert len(limiter._last) <= 256
