"""What becomes of each datagram."""

import json
import logging

import pytest

from tests.vehicle.samples import SIGNALS, START_NS, drive_sample, truck
from tspace_core.link.datagrams import encode_sample, encode_status, is_refusal, parse
from tspace_core.vehicle.intake import Intake

SENDER = ("127.0.0.1", 5000)
ENDINGS = ("end_valid", "end_invalid", "exit")


class Clocks:
    """Both clocks, as the test says."""

    def __init__(self) -> None:
        self.monotonic_ns = 7_000_000_000
        self.wall_ns = START_NS

    def intake(self) -> Intake:
        return Intake(truck(), lambda: self.monotonic_ns, lambda: self.wall_ns)


def test_samples_of_a_bridge_of_others_get_the_time_of_arrival() -> None:
    clocks = Clocks()
    intake = clocks.intake()
    clocks.monotonic_ns += 50_000_000
    clocks.wall_ns -= 3_600_000_000_000  # somebody sets the clock: a window must not bend
    taken = intake.take(encode_sample(drive_sample(1)), SENDER)
    assert taken.observation is not None
    assert taken.observation.time_ns == START_NS + 50_000_000
    assert not taken.observation.stamped
    assert taken.observation.values.tolist() == [drive_sample(1)[name] for name in SIGNALS]


def test_samples_of_our_bridge_keep_its_stamp_and_number() -> None:
    taken = Clocks().intake().take(encode_sample(drive_sample(1), seq=9, time_ns=START_NS - 5), SENDER)
    assert taken.observation is not None
    assert (taken.observation.time_ns, taken.observation.seq) == (START_NS - 5, 9)
    assert taken.observation.received_ns == START_NS


def test_request_and_sample_in_one_datagram_are_both_taken() -> None:
    taken = Clocks().intake().take(encode_sample(drive_sample(1), status="begin"), SENDER)
    assert taken.status == "begin"
    assert taken.observation is not None


def test_a_refused_datagram_is_a_failure_with_reason_and_is_answered_once_a_second() -> None:
    clocks = Clocks()
    intake = clocks.intake()
    first, second = intake.take(b"{", SENDER), intake.take(b"{", SENDER)
    assert first.refused is not None
    assert first.refused.startswith("datagram from 127.0.0.1:5000 refused: the datagram is no JSON")
    assert first.answer is not None
    assert json.loads(first.answer)["what_to_do"].startswith("send one JSON object")
    assert second.refused is not None
    assert second.answer is None
    clocks.monotonic_ns += 1_000_000_000
    assert intake.take(b"{", SENDER).answer is not None
    assert intake.refused == 3


def test_two_receivers_never_answer_each_others_answers() -> None:
    """A refusal sent back and forth would go on for ever, whole, cut or spoilt."""
    intake = Clocks().intake()
    answer = intake.take(b"{", SENDER).answer
    assert answer is not None
    for data in (answer, answer[:30], b" " + answer + b"}", answer.ljust(10_000)):
        taken = intake.take(data, ("127.0.0.1", 6000))
        assert (taken.answer, taken.refused) == (None, None)
    assert is_refusal(answer)
    assert parse(answer).status is None


@pytest.mark.parametrize("status", ENDINGS)
def test_a_request_to_end_is_followed_even_beside_wrong_data(status: str) -> None:
    taken = Clocks().intake().take(json.dumps({"status": status, "data": {}}).encode(), SENDER)
    assert taken.status == status
    assert taken.refused is not None


def test_a_request_to_begin_beside_wrong_data_is_not_followed() -> None:
    taken = Clocks().intake().take(b'{"status": "begin", "data": {}}', SENDER)
    assert taken.status is None
    assert taken.refused is not None


def test_unknown_keys_are_logged_once_each_and_never_without_end(caplog: pytest.LogCaptureFixture) -> None:
    intake = Clocks().intake()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert intake.take(b'{"status": "exit", "soc": 1, "bus": 2}', SENDER).refused is None
        assert len(caplog.records) == 2
        for number in range(1000):
            intake.take(json.dumps({f"key {number}": 1}).encode(), SENDER)
    assert len(caplog.records) == 100


def test_a_plain_request_carries_no_sample() -> None:
    taken = Clocks().intake().take(encode_status("begin"), SENDER)
    assert (taken.status, taken.observation, taken.refused) == ("begin", None, None)


def test_a_mistyped_key_is_no_failure_but_its_sender_hears_of_it() -> None:
    taken = Clocks().intake().take(b'{"staus": "begin"}', SENDER)
    assert (taken.status, taken.refused) == (None, None)
    assert taken.answer is not None
    assert json.loads(taken.answer)["refused"] == "the datagram has neither status nor data"


def test_where_samples_come_in_another_way_only_requests_are_looked_at() -> None:
    intake = Intake(truck(), requests_only=True)
    sender = ("127.0.0.1", 9)
    none = intake.take(b'{"data": {"velocity": "fast"}}', sender)
    assert (none.status, none.observation, none.refused, none.answer) == (None, None, None, None)
    both = intake.take(b'{"status": "exit", "data": 1}', sender)
    assert (both.status, both.observation, both.refused) == ("exit", None, None)
    assert intake.take(b'{"status": "sleep"}', sender).refused is not None
    assert (intake.samples, intake.refused) == (0, 1)
