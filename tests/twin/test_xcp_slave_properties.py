"""Whatever is said to the simulated VCU, in whatever order: it answers in form, its reference page stays."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.twin.xcp_talk import MAP, OK, VIN, Bench, bench
from tspace_core.config import Vehicle, load_vehicle
from tspace_core.twin.xcp_codes import ErrorCode

TRUCK = load_vehicle("twin_truck")
MULE = load_vehicle("twin_mule")
Step = bytes | float

addresses = st.sampled_from([MAP, MAP + 4, MAP + 100, MAP + 944, MAP + 951, VIN, 0, 0xFFFFFFFF])
likely = st.one_of(
    st.just(bytes([0xFF, 0])),
    st.sampled_from([bytes([code]) for code in (0xFE, 0xFD, 0xFC, 0xFB)]),
    st.builds(lambda place: bytes([0xF6, 0, 0, 0]) + place.to_bytes(4, "little"), addresses),
    st.builds(lambda count: bytes([0xF5, count]), st.integers(0, 255)),
    st.builds(
        lambda count, place: bytes([0xF4, count, 0, 0]) + place.to_bytes(4, "little"),
        st.integers(0, 9),
        addresses,
    ),
    st.builds(lambda count, data: bytes([0xF0, count]) + data, st.integers(0, 40), st.binary(max_size=6)),
    st.builds(lambda count, data: bytes([0xEF, count]) + data, st.integers(0, 34), st.binary(max_size=6)),
    st.builds(lambda data: bytes([0xEE]) + data, st.binary(min_size=6, max_size=7)),
    st.builds(
        lambda mode, segment, page: bytes([0xEB, mode, segment, page]),
        st.sampled_from([0, 1, 2, 3, 0x83, 0x80, 7]),
        st.integers(0, 1),
        st.integers(0, 3),
    ),
    st.builds(lambda mode: bytes([0xEA, mode, 0]), st.integers(0, 3)),
    st.builds(
        lambda pages: bytes([0xE4, 0, pages[0], 0, pages[1]]), st.tuples(st.integers(0, 3), st.integers(0, 3))
    ),
    st.builds(
        lambda size: bytes([0xF3, 0, 0, 0]) + size.to_bytes(4, "little"),
        st.sampled_from([0, 1, 952, 2**32 - 1]),
    ),
    st.builds(lambda mode: bytes([0xF8, mode, 1]), st.integers(0, 2)),
    st.builds(lambda key: bytes([0xF7, len(key)]) + key, st.binary(min_size=1, max_size=6)),
    st.just(bytes([0xFA, 0])),
)
UNLOCK = b""
"""Stands for a whole, right exchange of seed and key."""
steps = st.lists(
    st.one_of(likely, likely, st.just(UNLOCK), st.binary(max_size=70), st.floats(0.0, 3.0)), max_size=60
)


def check(made: Bench, packet: bytes, answers: list[bytes]) -> None:
    for answer in answers:
        assert 1 <= len(answer) <= 8
        assert answer[0] in (0xFF, 0xFE)
        if answer[0] == 0xFE:
            ErrorCode(answer[1])
            assert len(answers) == 1
    reference = made.vcu.reference.table
    assert made.vcu.read(0, 0, made.vcu.size) == reference.tobytes()
    assert made.vcu.page in made.vcu.pages
    assert np.all(np.isfinite(made.vcu.active.table))
    if made.vcu.page == 0:
        assert made.vcu.active.table.tobytes() == reference.tobytes()
    if made.slave.locked and packet[:1] in (b"\xf0", b"\xef", b"\xee", b"\xeb", b"\xe4"):
        assert answers != OK


@settings(max_examples=400, deadline=None, print_blob=True)
@given(said=steps, vehicle=st.sampled_from([TRUCK, MULE]), block_mode=st.booleans())
@example(said=[bytes([0xFF, 0]), UNLOCK, bytes([0xEB, 3, 0, 1]), 2.5], vehicle=TRUCK, block_mode=True)
def test_any_conversation(said: list[Step], vehicle: Vehicle, *, block_mode: bool) -> None:
    made = bench(vehicle, block_mode=block_mode)
    pages = {page: made.vcu.read(page, 0, made.vcu.size) for page in made.vcu.pages}
    unlocked = False
    for step in said:
        if isinstance(step, float):
            made.clock.wait(step)
            made.slave.tick()
            if step >= 2.0:
                assert made.vcu.page == 0
        elif step == UNLOCK:
            if made.slave.connected and made.slave.locked:
                made.unlock()
                unlocked = True
        else:
            check(made, step, made.slave.handle(step))
    if not unlocked:
        assert pages == {page: made.vcu.read(page, 0, made.vcu.size) for page in made.vcu.pages}
        assert made.vcu.page == 0


@pytest.mark.parametrize("max_cto", [8, 12, 64, 255])
@settings(max_examples=60, deadline=None, print_blob=True)
@given(data=st.binary(min_size=1, max_size=255), offset=st.integers(0, 951), lazy=st.booleans())
def test_what_is_written_is_read_back(max_cto: int, data: bytes, offset: int, *, lazy: bool) -> None:
    made = bench(TRUCK, max_cto=max_cto)
    made.connect()
    made.unlock(max_cto - 2)
    made.say(0xEB, 2, 0, 2)
    data = data[: made.vcu.size - offset]
    room = max_cto - 2
    made.at(MAP + offset)
    if lazy:
        for first in range(0, len(data), room):
            part = data[first : first + room]
            assert made.say(0xF0, len(part), part) == OK
    else:
        answers = made.say(0xF0, len(data), data[:room])
        for first in range(room, len(data), room):
            assert answers == []
            answers = made.say(0xEF, len(data) - first, data[first : first + room])
        assert answers == OK
    made.at(MAP + offset)
    answers = made.say(0xF5, len(data))
    assert b"".join(answer[1:] for answer in answers) == data
    whole = bytearray(made.vcu.reference.table.tobytes())
    whole[offset : offset + len(data)] = data
    assert made.vcu.read(2, 0, made.vcu.size) == bytes(whole)
    assert made.vcu.read(1, 0, made.vcu.size) == made.vcu.reference.table.tobytes()
