"""Checksums, frame lengths and keys: against published values and an independent implementation."""

import random

import pytest
from pyxcp import checksum as independent

from tests.link.xcp_doubles import config_of, truck
from tspace_core.config.link import BusConfig
from tspace_core.errors import ConfigError, XcpError, XcpProtocolError
from tspace_core.link.frame_bits import Frame, bits_of, crc_15, frames_for, most_bits, seconds_on_bus
from tspace_core.link.xcp_checksum import checksum
from tspace_core.link.xcp_key import load_key_function
from tspace_core.link.xcp_packets import BlockMode, ChecksumType, Resource, SlaveInfo

CHECK = b"123456789"
CLASSIC = SlaveInfo(Resource.CAL_PAG, "little", 1, 8, 8, slave_block_mode=True, has_comm_mode_info=True)
BUS = BusConfig(interface="virtual", channel="x")


def this_key(seed: bytes, resource: int) -> bytes:
    return seed[::-1] + bytes((resource,))


def failing_key(seed: bytes, resource: int) -> bytes:
    message = "the dongle is missing"
    raise RuntimeError(message)


def text_key(seed: bytes, resource: int) -> str:
    return "key"


def long_key(seed: bytes, resource: int) -> bytes:
    return bytes(256)


NO_FUNCTION = 1


@pytest.mark.parametrize(
    ("kind", "value"),
    [(ChecksumType.CRC_16, 0xBB3D), (ChecksumType.CRC_16_CITT, 0x29B1), (ChecksumType.CRC_32, 0xCBF43926)],
)
def test_published_check_values(kind: ChecksumType, value: int) -> None:
    assert checksum(kind, CHECK) == value


@pytest.mark.parametrize("kind", [one for one in ChecksumType if one is not ChecksumType.USER_DEFINED])
def test_sums_agree_with_an_independent_implementation(kind: ChecksumType) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    for size in (4, 8, 272, 952):
        data = chance.randbytes(size)
        assert checksum(kind, data) == independent.check(data, f"XCP_{kind.name}"), f"seed {seed}"


@pytest.mark.parametrize("kind", [0x00, 0x0A, 0xFF])
def test_a_sum_of_the_makers_own_is_refused(kind: int) -> None:
    with pytest.raises(XcpProtocolError, match="cannot be compared"):
        checksum(kind, CHECK)


def test_a_key_function_is_found_by_name() -> None:
    assert load_key_function(f"{__name__}:this_key")(b"\x01\x02", 1) == b"\x02\x01\x01"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_colon", "module:function"),
        ("no_such_module_at_all:f", "cannot be loaded"),
        (f"{__name__}:no_such_function", "cannot be loaded"),
        (f"{__name__}:NO_FUNCTION", "is a int"),
    ],
)
def test_a_key_function_that_is_none(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_key_function(name)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("failing_key", "the dongle is missing"),
        ("text_key", "returned str"),
        ("long_key", "returned 256 bytes"),
    ],
)
def test_a_key_function_that_fails(function: str, said: str) -> None:
    with pytest.raises(XcpError, match=said):
        load_key_function(f"{__name__}:{function}")(b"seed", 1)


def test_cans_checksum_has_its_published_value() -> None:
    bits = [byte >> at & 1 for byte in CHECK for at in range(7, -1, -1)]
    assert crc_15(bits) == 0x059E


def test_no_frame_is_longer_than_the_worst_case_and_none_shorter_than_unstuffed() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    for _ in range(500):
        extended = chance.random() < 0.5
        size = chance.randrange(9)
        data = bytes(chance.choice((0, 255, chance.randrange(256))) for _ in range(size))
        bits = bits_of(Frame(chance.randrange(1 << (29 if extended else 11)), data, extended)).nominal
        assert (67 if extended else 47) + 8 * size <= bits <= most_bits(size, extended=extended), (
            f"seed {seed}"
        )
    assert most_bits(8) == 135
    assert most_bits(8, extended=True) == 160


def test_stuff_bits_cost_what_they_are() -> None:
    assert bits_of(Frame(0x6F0, b"\xcc" * 8)).nominal < bits_of(Frame(0x6F0, bytes(8))).nominal


def test_four_rows_at_500_kbit() -> None:
    """272 bytes take about 12 ms in block mode and 24 ms with an answer a frame."""
    config = config_of(truck())
    data = random.Random(0).randbytes(272)
    blocks = frames_for(data, 0x80010000, CLASSIC, BlockMode(offered=True, max_bs=43), config)
    single = frames_for(data, 0x80010000, CLASSIC, BlockMode(), config)
    assert len(blocks) == 2 + 46 + 2
    assert len(single) == 2 + 46 + 46
    assert 0.010 < seconds_on_bus(blocks, BUS) < 0.013
    assert 0.020 < seconds_on_bus(single, BUS) < 0.025


def test_fd_frames_are_faster_but_not_for_nothing() -> None:
    config = config_of(truck())
    bus = BusConfig(interface="virtual", channel="x", fd=True, data_bitrate=2_000_000)
    slave = SlaveInfo(Resource.CAL_PAG, "little", 1, 64, 64, slave_block_mode=True, has_comm_mode_info=True)
    frames = frames_for(bytes(272), 0, slave, BlockMode(offered=True, max_bs=5), config, fd=True)
    full = bits_of(next(frame for frame in frames if len(frame.data) == 64))
    assert full.nominal >= 30
    assert full.fast > 64 * 8 + 4 + 21
    assert seconds_on_bus(frames, bus) < 0.004
