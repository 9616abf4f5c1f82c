"""Frames between Avatar and learner: exact, in any pieces, and refused where they are no frames."""

import struct
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.online.learners import make_records, make_spec
from tspace_core.errors import OnlineError
from tspace_core.online.learner_protocol import (
    BLOCKS_LIMIT,
    HEADER_LIMIT,
    Begin,
    Decoder,
    EpisodeEnd,
    Frame,
    Stop,
    encode,
    encode_records,
)


def decode(data: bytes) -> list[Frame]:
    return list(Decoder().feed(data))


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.lists(st.integers(1, 3000), min_size=9))
@example(counts=[2, 1], sizes=[1])
def test_frames_arrive_whole_in_whatever_pieces(counts: list[int], sizes: list[int]) -> None:
    sent = [make_records(number, count) for number, count in enumerate(counts)]
    stream = b"".join(encode_records(batch) for batch in sent) + encode(Stop())
    decoder, found, place = Decoder(), list[Frame](), 0
    pieces = cycle(sizes)
    while place < len(stream):
        size = next(pieces)
        found += decoder.feed(stream[place : place + size])
        place += size
    assert found[-1] == (Stop(), {})
    for batch, frame in zip(sent, found, strict=False):
        for ours, theirs in zip(batch, frame.records(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert len(found) == len(sent) + 1


def test_a_spec_arrives_as_it_was(tmp_path: Path) -> None:
    begin = Begin(spec=make_spec(tmp_path), parent=7)
    assert decode(encode(begin))[0].message == begin


def test_values_keep_their_bits() -> None:
    batch = make_records(1)
    batch.rewards[0] = np.nextafter(np.float32(0.1), np.float32(1))
    batch.states[0, :3] = [np.nan, np.inf, -0.0]
    found = decode(encode_records(batch))[0].records()
    assert found.states.tobytes() == batch.states.tobytes()
    assert found.rewards.tobytes() == batch.rewards.tobytes()


def framed(text: bytes, body: bytes = b"") -> bytes:
    return struct.pack("<II", len(text), len(body)) + text + body


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "the limits are"),
        (struct.pack("<II", HEADER_LIMIT + 1, 0), "a header of 1048577"),
        (struct.pack("<II", 2, BLOCKS_LIMIT + 1), "blocks of 67108865 bytes"),
        (framed(b"not json"), "is no message"),
        (framed(b"[]"), "is no message"),
        (framed(b'{"kind": "stop"}'), "is no message"),
        (framed(b'{"kind": "fire", "blocks": []}'), "is no message"),
        (framed(b'{"kind": "stop", "blocks": [], "more": 1}'), "is no message"),
        (framed(b'{"kind": "episode_end", "blocks": []}'), "is no message"),
        (framed(b'{"kind": "records", "blocks": [["states", [2, 3]]]}', bytes(20)), "is no message"),
        (framed(b'{"kind": "records", "blocks": [["states", [1]]]}', bytes(8)), "is no message"),
        (framed(b'{"kind": "records", "blocks": [["states", ["a"]]]}', bytes(8)), "is no message"),
        (framed(b'{"kind": "records", "blocks": [["states", [-1]]]}', bytes(8)), "is no message"),
    ],
)
def test_what_is_no_frame_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(OnlineError, match=words):
        decode(data)


@given(st.binary(min_size=8, max_size=200))
def test_any_bytes_are_frames_incomplete_or_refused(data: bytes) -> None:
    try:
        found = decode(data)
    except OnlineError:
        return
    assert found == []  # cut off: more bytes are waited for


def test_records_without_a_field_are_refused() -> None:
    blocks = {"states": np.zeros((1, 3), np.float32)}
    frame = Frame(decode(encode_records(make_records(1)))[0].message, blocks)
    with pytest.raises(OnlineError, match="'actions', 'rewards'"):
        frame.records()
    with pytest.raises(OnlineError, match="holds no records"):
        Frame(EpisodeEnd(number=1, valid=True), dict(make_records(1)._asdict())).records()


def test_too_many_records_at_once_are_refused_by_the_sender() -> None:
    blocks = {"states": np.zeros((BLOCKS_LIMIT // 4 + 1,), np.float32)}
    with pytest.raises(OnlineError, match="send fewer records at a time"):
        encode(Stop(), blocks)
