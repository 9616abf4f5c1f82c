"""Decoding is bit for bit cantools' own, whatever the database and the payload."""

import os
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cantools.database.can import Database, Message
from cantools.database.errors import DecodeError

from tests.can.databases import payloads, random_database, reference, same_bits
from tspace_core.can.dbc import load_database
from tspace_core.can.decode import decode, decode_signals
from tspace_core.can.frames import FrameBatch
from tspace_core.can.layout import MessageLayout, SignalLayout
from tspace_core.can.readers import open_log
from tspace_core.errors import DatabaseError


def assert_as_cantools(
    layout: MessageLayout, message: Message, payload: np.ndarray[Any, Any], length: np.ndarray[Any, Any]
) -> None:
    decoded = decode(layout, payload, length)
    assert set(decoded) == {signal.name for signal in message.signals}
    for row in range(len(length)):
        data = payload[row, : length[row]].tobytes()
        wanted = reference(message, data)
        present = {name for name, (_, there) in decoded.items() if there[row]}
        assert present == set(wanted), (message.name, data.hex())
        for name, value in wanted.items():
            got = decoded[name][0][row]
            assert same_bits(float(got), float(value)), (message.name, name, data.hex(), got, value)


def test_random_databases(tmp_path: Path) -> None:
    seed = int(os.environ.get("TSPACE_TEST_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"TSPACE_TEST_SEED={seed}")
    generator = np.random.default_rng(seed)
    path = tmp_path / "random.dbc"
    path.write_text(random_database(generator, 40).as_dbc_string(), encoding="cp1252", newline="")
    oracle = Database()
    oracle.add_dbc_file(str(path))
    database = load_database([path])
    assert database.dropped == []
    for message in oracle.messages:
        longest = message.length + int(generator.integers(0, 3)) * 4
        payload, length = payloads(generator, 60, min(longest, 64))
        layout = database.find(message.frame_id, extended=message.is_extended_frame)
        assert_as_cantools(layout, message, payload, length)


def test_the_oracle_is_what_cantools_decodes() -> None:
    """Where cantools does not raise, the reference is its public ``decode_message``."""
    generator = np.random.default_rng(5)
    database = random_database(generator, 20)
    compared = refused = 0
    for message in database.messages:
        for data in generator.integers(0, 256, (20, message.length), dtype=np.uint8):
            mine = reference(message, data.tobytes())
            try:
                theirs: Any = message.decode(data.tobytes(), decode_choices=False)
            except DecodeError:
                refused += 1
                continue
            compared += 1
            assert mine.keys() == theirs.keys()
            assert all(same_bits(float(mine[name]), float(theirs[name])) for name in mine)
    assert compared > 100
    assert refused > 0


@pytest.mark.parametrize(
    "name", ["leaf/EV-can_AZE0.dbc", "leaf/EV-can_ZE0.dbc", "kia_ev6/can9-database-01.09.dbc"]
)
def test_published_databases(shared_data: Path, name: str) -> None:
    generator = np.random.default_rng(11)
    path = shared_data / "dbc" / name
    oracle = Database()
    oracle.add_dbc_file(str(path))
    database = load_database([path])
    for message in oracle.messages:
        layout = database.find(message.frame_id, extended=message.is_extended_frame)
        payload, length = payloads(generator, 40, max(message.length, 8))
        assert_as_cantools(layout, message, payload, length)


def test_published_frames(shared_data: Path) -> None:
    path = shared_data / "dbc/leaf/EV-can_AZE0.dbc"
    oracle = Database()
    oracle.add_dbc_file(str(path))
    database = load_database([path])
    log = open_log(shared_data / "can/leaf_gen1/leafon_reverse10m_stop_leafoff.csv")
    frames = FrameBatch.concat(log.batches())
    known = [message for message in oracle.messages if np.any(frames.id == message.frame_id)]
    assert len(known) > 5
    for message in known:
        rows = np.flatnonzero(frames.id == message.frame_id)[::5]
        layout = database.find(message.frame_id)
        assert_as_cantools(layout, message, frames.payload[rows], frames.length[rows])


WIDE = {
    "exact beyond 53 bits": SignalLayout("S", 0, 64, scale=3, offset=1),
    "signed beyond 53 bits": SignalLayout("S", 0, 63, signed=True, scale=-7, offset=11),
    "whole factor written as a float": SignalLayout("S", 0, 60, scale=10.0, offset=2.0),
    "whole factor, broken offset": SignalLayout("S", 0, 64, scale=3, offset=0.5),
    "unsigned 64 bits": SignalLayout("S", 0, 64),
    "unsigned 64 bits, broken factor": SignalLayout("S", 7, 64, little_endian=False, scale=0.1, offset=-3),
    "over nine bytes": SignalLayout("S", 13, 62, scale=0.5),
    "over nine bytes, big endian": SignalLayout("S", 12, 63, little_endian=False, signed=True, scale=0.5),
    "longer than 64 bits": SignalLayout("S", 3, 80, scale=2),
    "longer than 64 bits, big endian": SignalLayout("S", 4, 77, little_endian=False, signed=True, scale=0.5),
}


@pytest.mark.parametrize("kind", WIDE)
def test_wide_signals(kind: str) -> None:
    signal = WIDE[kind]
    generator = np.random.default_rng(3)
    width = 8 if signal.end_bit <= 64 else 64
    payload = generator.integers(0, 256, (200, width), dtype=np.uint8)
    length = np.full(200, width, np.uint8)
    values, present = decode(MessageLayout(1, False, "M", width, {"S": signal}), payload, length)["S"]
    assert present.all()
    for row, data in enumerate(payload):
        word = int.from_bytes(data.tobytes(), "little" if signal.little_endian else "big")
        word >>= signal.start if signal.little_endian else 8 * width - signal.end_bit
        word &= (1 << signal.length) - 1
        if signal.signed and word >> (signal.length - 1):
            word -= 1 << signal.length
        whole = float(signal.scale).is_integer() and float(signal.offset).is_integer()
        exact = (
            word * int(signal.scale) + int(signal.offset) if whole else word * signal.scale + signal.offset
        )
        assert same_bits(float(values[row]), float(exact))


def test_negative_zero_and_nan_of_floats_stay() -> None:
    layout = MessageLayout(1, False, "M", 4, {"S": SignalLayout("S", 0, 32, is_float=True)})
    bits = np.array([0x80000000, 0x7FC00000, 0x7F800000, 0x00000001, 0x7F800001], "<u4")
    payload = np.zeros((5, 8), np.uint8)
    payload[:, :4] = bits.view(np.uint8).reshape(5, 4)
    values, present = decode(layout, payload, np.full(5, 4, np.uint8))["S"]
    assert present.all()
    assert np.signbit(values[0])
    assert values[0] == 0
    assert np.isnan(values[[1, 4]]).all()
    assert values[2] == np.inf
    assert values[3] == 2.0**-149


def test_half_floats() -> None:
    layout = MessageLayout(
        1, False, "M", 2, {"S": SignalLayout("S", 7, 16, little_endian=False, is_float=True)}
    )
    bits = np.arange(1 << 16, dtype=">u2")
    payload = np.zeros((1 << 16, 8), np.uint8)
    payload[:, :2] = bits.view(np.uint8).reshape(-1, 2)
    values, _ = decode(layout, payload, np.full(1 << 16, 2, np.uint8))["S"]
    for number in range(0, 1 << 16, 37):
        (wanted,) = struct.unpack(">e", number.to_bytes(2, "big"))
        assert same_bits(float(values[number]), wanted)


SWITCHED = MessageLayout(
    0x10,
    False,
    "Switched",
    3,
    {
        "Mode": SignalLayout("Mode", 0, 8),
        "A": SignalLayout("A", 8, 8, multiplexer="Mode", multiplexer_ids=frozenset({1})),
        "B": SignalLayout("B", 16, 8, multiplexer="Mode", multiplexer_ids=frozenset({2, 3})),
    },
    {"Mode": frozenset({1, 2, 3})},
)


def test_why_a_value_is_absent() -> None:
    payload = np.zeros((5, 8), np.uint8)
    payload[:, :3] = [[1, 10, 20], [2, 10, 20], [9, 10, 20], [3, 10, 0], [0, 0, 0]]
    length = np.array([3, 3, 3, 2, 0], np.uint8)
    decoded = decode_signals(SWITCHED, payload, length, ["A", "B"])
    assert decoded["A"].present.tolist() == [True, False, False, False, False]
    assert decoded["B"].present.tolist() == [False, True, False, False, False]
    assert decoded["A"].unknown_multiplexer.tolist() == [False, False, True, False, False]
    assert decoded["B"].unknown_multiplexer.tolist() == [False, False, True, False, False]
    assert decoded["A"].too_short.tolist() == [False, False, False, False, True]
    assert decoded["B"].too_short.tolist() == [False, False, False, True, True]
    for one in decoded.values():
        assert np.array_equal(np.isnan(one.value), ~one.present)


def test_a_signal_beyond_the_batch_is_absent() -> None:
    layout = MessageLayout(1, False, "Fd", 64, {"Far": SignalLayout("Far", 500, 8)})
    values, present = decode(layout, np.zeros((3, 8), np.uint8), np.full(3, 8, np.uint8))["Far"]
    assert not present.any()
    assert np.isnan(values).all()


def test_no_frames_and_unknown_names() -> None:
    empty = np.empty((0, 8), np.uint8), np.empty(0, np.uint8)
    assert {name: len(value) for name, (value, _) in decode(SWITCHED, *empty).items()} == {
        "Mode": 0,
        "A": 0,
        "B": 0,
    }
    with pytest.raises(DatabaseError, match="0x10 Switched has no signal 'Mood'; did you mean 'Mode'"):
        decode(SWITCHED, *empty, ["Mood"])
