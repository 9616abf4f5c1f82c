"""What a master may rely on in the simulated VCU: answers and error codes as the standard has them."""

import binascii

import numpy as np
import pytest

from tests.twin.xcp_talk import MAP, OK, SOFTWARE, VIN, Bench, bench
from tspace_core.config import Vehicle
from tspace_core.errors import TwinError
from tspace_core.twin.vcu import Vcu
from tspace_core.twin.vcu_memory import VcuMemory
from tspace_core.twin.xcp_codes import Checksum
from tspace_core.twin.xcp_slave import XcpSlave

SYNTAX, UNKNOWN, RANGE = [b"\xfe\x21"], [b"\xfe\x20"], [b"\xfe\x22"]
PROTECTED, LOCKED = [b"\xfe\x23"], [b"\xfe\x25"]
NO_PAGE, NO_MODE, NO_SEGMENT, SEQUENCE = [b"\xfe\x26"], [b"\xfe\x27"], [b"\xfe\x28"], [b"\xfe\x29"]


@pytest.fixture
def vcu(truck: Vehicle) -> Bench:
    """Connected and unlocked, XCP on working page 1, the reference page in effect."""
    made = bench(truck)
    made.connect()
    made.unlock()
    assert made.say(0xEB, 0x02, 0, 1) == OK
    return made


@pytest.mark.parametrize("vehicle_id", ["twin_truck", "twin_mule"])
def test_addresses_are_those_of_the_config(vehicle_id: str) -> None:
    from tspace_core.config import load_vehicle

    vehicle = load_vehicle(vehicle_id)
    memory = VcuMemory(Vcu(vehicle))
    assert memory.read(0, 0, VIN, 17) == vehicle.vin.encode()
    assert memory.read(0, 0, SOFTWARE, 16) == b"TSPACE-TWIN-1\0\0\0"
    size = vehicle.default_map().table.nbytes
    assert memory.read(0, 0, MAP, size) == vehicle.default_map().table.tobytes()


def test_silent_until_connected(truck: Vehicle) -> None:
    made = bench(truck)
    for command in range(256):
        if command != 0xFF:
            assert made.say(command, bytes(7)) == []
    assert made.say() == []
    assert made.say(0xFF, 1) == []
    assert not made.slave.connected


def test_connect_tells_what_there_is(truck: Vehicle) -> None:
    made = bench(truck)
    assert made.say(0xFF, 0) == [b"\xff\x01\xc0\x08\x08\x00\x01\x01"]
    assert made.say(0xFD) == [b"\xff\x00\x01\x00\x00\x00"]
    assert made.say(0xFB) == [b"\xff\x00\x01\x00\x2b\x00\x00\x10"]
    fd = bench(truck, max_cto=64, block_mode=False)
    assert fd.say(0xFF, 0) == [b"\xff\x01\x80\x40\x40\x00\x01\x01"]
    assert fd.say(0xFB) == [b"\xff\x00\x00\x00\x00\x00\x00\x10"]


def test_disconnect_ends_the_session(vcu: Bench) -> None:
    assert vcu.say(0xFE) == OK
    assert vcu.say(0xFD) == []
    vcu.connect()
    assert vcu.slave.locked


def test_a_second_connect_takes_the_session_over_and_locks_it(vcu: Bench) -> None:
    vcu.connect()
    assert vcu.say(0xEB, 3, 0, 1) == LOCKED
    assert vcu.reasons("xcp_connect") == ["a new session", "a new session takes over"]


def test_unknown_commands_and_synch(vcu: Bench) -> None:
    assert vcu.say(0xFC) == [b"\xfe\x00"]
    for command in (0xC0, 0xDA, 0xE9, 0xEC, 0xF1, 0xF2, 0xF9):
        assert vcu.say(command, bytes(7)) == UNKNOWN
    assert vcu.say(0xBF, bytes(7)) == []


@pytest.mark.parametrize(
    "packet",
    [
        "f6000000000000",
        "f4070000000080",
        "f300000000",
        "f800",
        "f700",
        "eb0300",
        "ea01",
        "f5",
        "f0",
        "e4000000",
    ],
)
def test_short_packets_are_refused(vcu: Bench, packet: str) -> None:
    assert vcu.say(bytes.fromhex(packet)) == SYNTAX


def test_packets_that_hold_less_than_they_say_are_refused(vcu: Bench) -> None:
    vcu.at(MAP)
    assert vcu.say(0xF0, 5, bytes(4)) == SYNTAX
    assert vcu.say(0xEE, bytes(6)) == SYNTAX
    assert vcu.say(0xFD, bytes(8)) == SYNTAX
    vcu.say(0xF0, 10, bytes(6))
    assert vcu.say(0xEF, 4, bytes(3)) == SYNTAX


def test_identity_is_read_without_a_key(truck: Vehicle) -> None:
    made = bench(truck)
    made.connect()
    made.at(VIN)
    answers = made.say(0xF5, 17)
    assert b"".join(answer[1:] for answer in answers) == b"TWNTRUCK000000001"
    assert [len(answer) for answer in answers] == [8, 8, 4]
    assert made.say(0xF4, 7, 0, 0, SOFTWARE.to_bytes(4, "little")) == [b"\xffTSPACE-"]
    assert made.say(0xF5, 6) == [b"\xffTWIN-1"]
    assert made.say(0xFA, 0) == [b"\xff\x00\x00\x00\x0d\x00\x00\x00"]
    assert b"".join(answer[1:] for answer in made.say(0xF5, 13)) == b"TSPACE-TWIN-1"
    assert made.say(0xFA, 4) == [b"\xff\x00\x00\x00\x00\x00\x00\x00"]


def test_locked_without_the_key(truck: Vehicle) -> None:
    made = bench(truck)
    made.connect()
    made.at(MAP)
    assert made.say(0xF0, 4, bytes(4)) == LOCKED
    assert made.say(0xEE, bytes(7)) == LOCKED
    assert made.say(0xEB, 3, 0, 1) == LOCKED
    assert made.say(0xE4, 0, 0, 0, 1) == LOCKED
    assert len(made.say(0xF5, 4)[0]) == 5


def test_a_wrong_key_ends_the_session(truck: Vehicle) -> None:
    made = bench(truck)
    made.connect()
    made.say(0xF8, 0, 1)
    made.say(0xF8, 1, 1)
    assert made.say(0xF7, 8, bytes(6)) == [b"\xff\x01"]
    assert made.say(0xF7, 2, bytes(2)) == LOCKED
    assert not made.slave.connected
    assert made.reasons("xcp_disconnect") == ["wrong key"]


def test_seed_and_key_in_their_order(truck: Vehicle) -> None:
    made = bench(truck)
    made.connect()
    assert made.say(0xF7, 8, bytes(6)) == SEQUENCE
    assert made.say(0xF8, 1, 1) == SEQUENCE
    assert made.say(0xF8, 0, 4) == RANGE
    assert made.say(0xF8, 2, 1) == NO_MODE
    made.say(0xF8, 0, 1)
    assert made.say(0xF7, 8, bytes(6)) == SEQUENCE
    made.unlock()
    assert made.say(0xF8, 0, 1) == [b"\xff\x00"]
    assert made.reasons("xcp_unlock") == ["right key"]


def test_a_vcu_without_a_key_is_open(truck: Vehicle) -> None:
    assert truck.xcp is not None
    made = bench(truck.model_copy(update={"xcp": truck.xcp.model_copy(update={"unlock": None})}))
    made.connect()
    assert made.say(0xFD) == [b"\xff\x00\x00\x00\x00\x00"]
    assert made.say(0xEB, 3, 0, 2) == OK


def test_download_and_upload(vcu: Bench) -> None:
    vcu.at(MAP + 8)
    assert vcu.say(0xF0, 4, np.float32(12.5).tobytes()) == OK
    assert vcu.say(0xF0, 6, b"abcdef") == OK
    assert vcu.say(0xEE, b"ghijklm") == OK
    vcu.at(MAP + 8)
    answers = vcu.say(0xF5, 17)
    assert b"".join(answer[1:] for answer in answers) == np.float32(12.5).tobytes() + b"abcdefghijklm"
    assert vcu.vcu.table(1)[0, 2] == 12.5
    assert vcu.vcu.active == vcu.vcu.reference
    assert vcu.reasons("written") == []


def test_blocks(vcu: Bench) -> None:
    data = bytes(range(20))
    vcu.at(MAP)
    assert vcu.say(0xF0, 20, data[:6]) == []
    assert vcu.say(0xEF, 14, data[6:12]) == []
    assert vcu.say(0xEF, 8, data[12:18]) == []
    assert vcu.say(0xEF, 2, data[18:], bytes(4)) == OK
    assert vcu.vcu.read(1, 0, 20) == data
    assert vcu.vcu.read(1, 20, 4) == vcu.vcu.read(0, 20, 4)
    assert vcu.say(0xF5, 1)[0][1:] == vcu.vcu.read(0, 20, 1)


def test_a_block_out_of_sequence_says_what_is_due(vcu: Bench) -> None:
    vcu.at(MAP)
    assert vcu.say(0xEF, 6, bytes(6)) == [b"\xfe\x29\x00"]
    vcu.say(0xF0, 20, bytes(6))
    assert vcu.say(0xEF, 8, bytes(6)) == [b"\xfe\x29\x0e"]
    assert vcu.say(0xEF, 14, bytes(6)) == []
    assert vcu.say(0xEF, 14, bytes(6)) == [b"\xfe\x29\x08"]


def test_another_command_gives_a_block_up(vcu: Bench) -> None:
    vcu.at(MAP)
    vcu.say(0xF0, 20, bytes(6))
    assert vcu.say(0xFC) == [b"\xfe\x00"]
    assert vcu.say(0xEF, 14, bytes(6)) == [b"\xfe\x29\x00"]


def test_no_blocks_without_block_mode(truck: Vehicle) -> None:
    made = bench(truck, block_mode=False)
    made.connect()
    made.unlock()
    made.say(0xEB, 2, 0, 1)
    made.at(MAP)
    assert made.say(0xF0, 7, bytes(6)) == RANGE
    assert made.say(0xF5, 8) == RANGE
    assert made.say(0xF0, 6, bytes(6)) == OK


def test_only_memory_that_is_there(vcu: Bench) -> None:
    size = vcu.vcu.size
    for address, extension, count in (
        (MAP - 1, 0, 1),
        (MAP + size, 0, 1),
        (MAP + size - 3, 0, 4),
        (MAP, 1, 1),
        (VIN + 16, 0, 2),
        (0, 0, 1),
        (0xFFFFFFFF, 0, 4),
    ):
        vcu.at(address, extension)
        assert vcu.say(0xF5, count) == RANGE
        assert vcu.say(0xF0, count, bytes(count)) == RANGE
        assert vcu.say(0xF3, 0, 0, 0, count.to_bytes(4, "little")) == RANGE
    vcu.at(MAP + size - 4)
    assert vcu.say(0xF0, 4, bytes(4)) == OK
    assert vcu.say(0xF0, 1, b"x") == RANGE
    for count in (0, 8):
        assert vcu.say(0xF4, count, 0, 0, MAP.to_bytes(4, "little")) == RANGE
    assert vcu.say(0xF0, 0) == vcu.say(0xF5, 0) == RANGE


def test_no_address_no_transfer(truck: Vehicle) -> None:
    made = bench(truck)
    made.connect()
    made.unlock()
    assert made.say(0xF5, 4) == made.say(0xF0, 4, bytes(4)) == SEQUENCE


def test_reference_page_and_texts_are_write_protected(vcu: Bench) -> None:
    vcu.at(VIN)
    assert vcu.say(0xF0, 4, b"EVIL") == PROTECTED
    vcu.say(0xEB, 2, 0, 0)
    vcu.at(MAP)
    assert vcu.say(0xF0, 4, bytes(4)) == PROTECTED
    assert vcu.say(0xF0, 200, bytes(6)) == PROTECTED
    assert vcu.say(0xE4, 0, 1, 0, 0) == PROTECTED
    assert vcu.vcu.table(0).tobytes() == vcu.vcu.reference.table.tobytes()


def test_pages_of_ecu_and_xcp_are_set_apart(vcu: Bench) -> None:
    assert vcu.say(0xEA, 1, 0) == [b"\xff\x00\x00\x00"]
    assert vcu.say(0xEA, 2, 0) == [b"\xff\x00\x00\x01"]
    assert vcu.say(0xEB, 1, 0, 2) == OK
    assert vcu.say(0xEA, 1, 0) == [b"\xff\x00\x00\x02"]
    assert vcu.say(0xEA, 2, 0) == [b"\xff\x00\x00\x01"]
    assert vcu.say(0xEB, 0x83, 9, 0) == OK
    assert vcu.vcu.page == vcu.slave.xcp_page == 0


@pytest.mark.parametrize(
    ("packet", "answer"),
    [
        ((0xEB, 3, 0, 3), NO_PAGE),
        ((0xEB, 3, 1, 1), NO_SEGMENT),
        ((0xEB, 0, 0, 1), NO_MODE),
        ((0xEB, 0x80, 0, 1), NO_MODE),
        ((0xEB, 4, 0, 1), NO_MODE),
        ((0xEA, 3, 0), NO_MODE),
        ((0xEA, 0, 0), NO_MODE),
        ((0xEA, 1, 1), NO_SEGMENT),
        ((0xE4, 0, 3, 0, 1), NO_PAGE),
        ((0xE4, 0, 0, 1, 1), NO_SEGMENT),
    ],
)
def test_pages_and_segments_that_there_are_not(
    vcu: Bench, packet: tuple[int, ...], answer: list[bytes]
) -> None:
    assert vcu.say(bytes(packet)) == answer
    assert vcu.vcu.page == 0


def test_a_page_is_copied(vcu: Bench) -> None:
    vcu.at(MAP)
    vcu.say(0xF0, 4, np.float32(5.0).tobytes())
    assert vcu.say(0xE4, 0, 1, 0, 2) == OK
    assert vcu.vcu.table(2)[0, 0] == 5.0
    vcu.say(0xEB, 1, 0, 2)
    assert vcu.say(0xE4, 0, 0, 0, 2) == OK
    assert vcu.vcu.active == vcu.vcu.reference
    assert vcu.reasons("written") == ["page 0 copied over the page in effect"]


def test_writing_the_page_in_effect_acts_at_once(vcu: Bench) -> None:
    vcu.say(0xEB, 1, 0, 1)
    vcu.at(MAP + 4)
    vcu.say(0xF0, 4, np.float32(-7.0).tobytes())
    assert vcu.vcu.active.table[0, 1] == -7.0
    assert vcu.reasons("written") == ["4 bytes at 0x80010004 while the page is in effect"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Checksum.CRC_32, 0xCBF43926),
        (Checksum.CRC_16_CITT, 0x29B1),
        (Checksum.ADD_11, 0xDD),
        (Checksum.ADD_14, 0x1DD),
    ],
)
def test_checksum(truck: Vehicle, kind: Checksum, expected: int) -> None:
    made = bench(truck, checksum_kind=kind)
    made.connect()
    made.unlock()
    made.say(0xEB, 2, 0, 1)
    made.at(MAP)
    made.say(0xF0, 9, b"123456")
    assert made.say(0xEF, 3, b"789") == OK
    made.at(MAP)
    (answer,) = made.say(0xF3, 0, 0, 0, (9).to_bytes(4, "little"))
    assert answer == bytes([0xFF, kind, 0, 0]) + expected.to_bytes(4, "little")


def test_checksum_is_of_the_page_that_xcp_reads(vcu: Bench) -> None:
    vcu.at(MAP)
    vcu.say(0xF0, 4, b"else")
    sums = []
    for page in (0, 1):
        vcu.say(0xEB, 2, 0, page)
        vcu.at(MAP)
        (answer,) = vcu.say(0xF3, 0, 0, 0, vcu.vcu.size.to_bytes(4, "little"))
        sums.append(int.from_bytes(answer[4:], "little"))
    assert sums == [binascii.crc32(vcu.vcu.read(page, 0, vcu.vcu.size)) for page in (0, 1)]
    assert sums[0] != sums[1]


def test_silence_brings_the_reference_page_back(vcu: Bench) -> None:
    vcu.say(0xEB, 3, 0, 1)
    vcu.clock.wait(1.999)
    vcu.slave.tick()
    assert vcu.vcu.page == 1
    vcu.clock.wait(0.001)
    vcu.slave.tick()
    assert vcu.vcu.page == vcu.slave.xcp_page == 0
    assert not vcu.slave.connected
    assert vcu.say(0xFD) == []
    last = [(event.kind, event.page, event.reason) for event in vcu.events[-2:]]
    assert last == [("page", 0, "xcp silent for 2 s"), ("xcp_disconnect", 0, "xcp silent for 2 s")]
    assert vcu.events[-1].at_ns == vcu.clock.ns


def test_any_command_keeps_the_working_page(vcu: Bench) -> None:
    vcu.say(0xEB, 3, 0, 1)
    for _ in range(5):
        vcu.clock.wait(1.9)
        assert vcu.say(0xFD)
        vcu.slave.tick()
    assert vcu.vcu.page == 1


def test_a_command_after_the_silence_comes_too_late(vcu: Bench) -> None:
    vcu.say(0xEB, 3, 0, 1)
    vcu.clock.wait(2.0)
    assert vcu.say(0xFD) == []
    assert vcu.vcu.page == 0


def test_disconnecting_on_a_working_page_does_not_keep_it(vcu: Bench) -> None:
    vcu.say(0xEB, 3, 0, 1)
    vcu.say(0xFE)
    vcu.clock.wait(2.0)
    vcu.slave.tick()
    assert vcu.vcu.page == 0


def test_strangers_do_not_keep_the_working_page(vcu: Bench) -> None:
    vcu.say(0xEB, 3, 0, 1)
    vcu.say(0xFE)
    for _ in range(4):
        vcu.clock.wait(0.6)
        vcu.say(0xFD)
    assert vcu.vcu.page == 0


def test_silence_on_the_reference_page_leaves_the_session(vcu: Bench) -> None:
    vcu.clock.wait(60.0)
    vcu.slave.tick()
    assert vcu.say(0xFD) == [b"\xff\x00\x00\x00\x00\x00"]


@pytest.mark.parametrize("max_cto", [7, 256])
def test_packet_lengths_that_xcp_does_not_have(truck: Vehicle, max_cto: int) -> None:
    with pytest.raises(TwinError, match="max_cto"):
        bench(truck, max_cto=max_cto)


def test_a_vehicle_without_xcp_has_no_slave(truck: Vehicle) -> None:
    vehicle = truck.model_copy(update={"xcp": None})
    with pytest.raises(TwinError, match="no XCP slave"):
        XcpSlave(Vcu(vehicle), now_ns=lambda: 0)
