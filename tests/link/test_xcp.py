"""The XCP master against scripts: the bytes of the standard, and what it does with each kind of answer."""

import pytest

from tests.link.xcp_doubles import Scripted, config_of, truck
from tspace_core.config.link import XcpConfig
from tspace_core.errors import XcpCommandError, XcpError, XcpProtocolError, XcpTimeoutError
from tspace_core.link.xcp import XcpMaster
from tspace_core.link.xcp_packets import ERRORS, ErrorCode, PageMode, Resource, error_message
from tspace_core.link.xcp_session import BUSY_LIMIT

OK = [b"\xff"]
SYNCHED = [b"\xfe\x00"]
# CAL/PAG, GET_COMM_MODE_INFO offered, slave block mode, little endian, MAX_CTO 8, MAX_DTO 8
CONNECTED = [bytes.fromhex("ff 01 c0 08 08 00 01 01")]
BLOCKS_OF_3 = [bytes.fromhex("ff 00 01 00 03 00 00 10")]
NO_BLOCKS = [bytes.fromhex("ff 00 00 00 00 00 00 10")]
HELLO = (CONNECTED, SYNCHED, NO_BLOCKS)
HELLO_BLOCKS = (CONNECTED, SYNCHED, BLOCKS_OF_3)


def xcp(**update: object) -> XcpConfig:
    return config_of(truck(timeout_s=0.02)).model_copy(update=update)


def connected(*script: list[bytes], hello: tuple[list[bytes], ...] = HELLO) -> tuple[XcpMaster, Scripted]:
    link = Scripted(*hello, *script)
    master = XcpMaster(link, xcp())
    master.connect()
    link.sent.clear()
    return master, link


def hexes(packets: list[bytes]) -> list[str]:
    return [packet.hex(" ") for packet in packets]


def test_connect_takes_sizes_and_order_from_the_slave() -> None:
    link = Scripted([bytes.fromhex("ff 05 81 40 01 00 01 01")], SYNCHED, BLOCKS_OF_3)
    link.max_cto = 64
    slave = XcpMaster(link, xcp()).connect()
    assert hexes(link.sent) == ["ff 00", "fc", "fb"]
    assert slave.byte_order == "big"
    assert slave.max_cto == 64
    assert slave.max_dto == 256
    assert slave.granularity == 1
    assert not slave.slave_block_mode
    assert Resource.CAL_PAG in slave.resources
    assert slave.download_bytes == 62
    assert slave.upload_bytes == 63


def test_a_classic_frame_bounds_what_the_slave_offers() -> None:
    link = Scripted([bytes.fromhex("ff 01 00 40 40 00 01 01")], SYNCHED)
    assert XcpMaster(link, xcp()).connect().download_bytes == 6
    assert hexes(link.sent) == ["ff 00", "fc"]  # GET_COMM_MODE_INFO is not offered


@pytest.mark.parametrize(
    "answer", ["ff 01 00 07 08 00 01 01", "ff 01 00 08 07 00 01 01", "ff 01 06 08 08 00 01 01", "ff 01 00"]
)
def test_an_answer_to_connect_that_the_standard_forbids(answer: str) -> None:
    master = XcpMaster(Scripted([bytes.fromhex(answer)], SYNCHED, OK, SYNCHED), xcp())
    with pytest.raises(XcpProtocolError, match="check"):
        master.connect()
    with pytest.raises(XcpProtocolError, match="connect"):
        master.get_status()


def test_an_old_answer_is_not_taken_for_that_of_connect() -> None:
    old = [bytes.fromhex("ff 00 00 40 40 00 00 00")]
    link = Scripted([*old, *CONNECTED], SYNCHED, CONNECTED, SYNCHED, NO_BLOCKS)
    assert XcpMaster(link, xcp()).connect().max_cto == 8
    assert hexes(link.sent) == ["ff 00", "fc", "ff 00", "fc", "fb"]


def test_connect_gives_up_where_nobody_answers() -> None:
    link = Scripted()
    with pytest.raises(XcpTimeoutError, match=r"CONNECT: not answered within 0\.02 s in 2 tries"):
        XcpMaster(link, xcp()).connect()
    assert len(link.sent) == 2


def test_set_mta_and_pages_in_bytes() -> None:
    master, link = connected(OK, OK, [bytes.fromhex("ff 00 00 02")], [bytes.fromhex("ff 00 01 00 00 00")])
    master.set_mta(0x80010004, 2)
    master.set_cal_page(PageMode.XCP, 1, 2)
    assert master.get_cal_page(PageMode.ECU, 1) == 2
    assert master.get_status().protected == Resource.CAL_PAG
    assert hexes(link.sent) == ["f6 00 00 02 04 00 01 80", "eb 02 01 02", "ea 01 01", "fd"]


def test_big_endian_addresses_and_wide_elements() -> None:
    hello = ([bytes.fromhex("ff 01 83 08 00 08 01 01")], SYNCHED, NO_BLOCKS)  # words of 2 bytes
    master, link = connected(OK, OK, [bytes.fromhex("ff 00 01 02 03 04 05 06")], hello=hello)
    assert master.slave.granularity == 2
    master.set_mta(0x1234)
    master.download(b"abcd")
    assert master.short_upload(0x10, 6) == bytes.fromhex("01 02 03 04 05 06")
    assert hexes(link.sent) == ["f6 00 00 00 00 00 12 34", "f0 02 61 62 63 64", "f4 03 00 00 00 00 00 10"]
    with pytest.raises(XcpError, match="whole number"):
        master.download(b"abc")


def test_download_without_block_mode_is_answered_packet_by_packet() -> None:
    master, link = connected(OK, OK, OK, OK)
    master.set_mta(0)
    master.download(b"0123456789abcd")
    assert hexes(link.sent[1:]) == [
        "f0 06 30 31 32 33 34 35",
        "f0 06 36 37 38 39 61 62",
        "f0 02 63 64",
    ]


def test_download_in_blocks_is_answered_block_by_block() -> None:
    master, link = connected(OK, [], [], OK, [], OK, hello=HELLO_BLOCKS)
    master.set_mta(0)
    master.download(bytes(range(26)))
    assert hexes(link.sent[1:]) == [
        "f0 12 00 01 02 03 04 05",
        "ef 0c 06 07 08 09 0a 0b",
        "ef 06 0c 0d 0e 0f 10 11",
        "f0 08 12 13 14 15 16 17",
        "ef 02 18 19",
    ]


def test_block_mode_can_be_forbidden() -> None:
    link = Scripted(*HELLO_BLOCKS, OK, OK, OK)
    master = XcpMaster(link, xcp(block_mode=False))
    master.connect()
    master.set_mta(0)
    master.download(bytes(12))
    assert [packet[0] for packet in link.sent[-2:]] == [0xF0, 0xF0]


def test_a_download_whose_answer_is_lost_sets_the_mta_again() -> None:
    """The MTA has moved: the same DOWNLOAD once more would write behind itself."""
    master, link = connected(OK, OK, [], SYNCHED, OK, OK, OK)
    master.set_mta(0x100)
    master.download(b"abcdef")
    master.download(b"ghijkl")
    assert hexes(link.sent) == [
        "f6 00 00 00 00 01 00 00",
        "f0 06 61 62 63 64 65 66",
        "f0 06 67 68 69 6a 6b 6c",
        "fc",
        "f6 00 00 00 06 01 00 00",
        "f0 06 67 68 69 6a 6b 6c",
    ]


def test_a_block_out_of_sequence_is_sent_again_from_its_start() -> None:
    wrong = [b"\xfe\x29\x06"]
    master, link = connected(OK, [], wrong, SYNCHED, OK, [], OK, hello=HELLO_BLOCKS)
    master.set_mta(0x100)
    master.download(bytes(12))
    assert [packet[0] for packet in link.sent] == [0xF6, 0xF0, 0xEF, 0xFC, 0xF6, 0xF0, 0xEF]


def test_the_mta_is_void_after_a_failure() -> None:
    master, _ = connected(OK, [b"\xfe\x24"])
    with pytest.raises(XcpProtocolError, match="set_mta"):
        master.download(b"abcd")
    master.set_mta(0)
    with pytest.raises(XcpCommandError) as refused:
        master.download(b"abcd")
    assert refused.value.code == ErrorCode.ERR_ACCESS_DENIED
    with pytest.raises(XcpProtocolError, match="set_mta"):
        master.download(b"abcd")


def test_upload_in_blocks_of_the_slave() -> None:
    master, link = connected(OK, [b"\xff" + b"abcdefg", b"\xff" + b"hij" + bytes(4)])
    master.set_mta(0)
    assert master.upload(10) == b"abcdefghij"
    assert hexes(link.sent[1:]) == ["f5 0a"]


def test_a_part_of_an_upload_that_is_lost_is_read_again_whole() -> None:
    master, link = connected(
        OK, [b"\xff" + b"abcdefg"], SYNCHED, OK, [b"\xff" + b"abcdefg", b"\xff" + b"hij" + bytes(4)]
    )
    master.set_mta(4)
    assert master.upload(10) == b"abcdefghij"
    assert [packet[0] for packet in link.sent] == [0xF6, 0xF5, 0xFC, 0xF6, 0xF5]


def test_an_upload_that_is_too_short_is_refused() -> None:
    master, _ = connected(OK, [b"\xffab"])
    master.set_mta(0)
    with pytest.raises(XcpProtocolError, match="3 bytes, the standard asks for 5"):
        master.upload(4)


def test_long_seed_and_key_travel_in_parts() -> None:
    master, link = connected(
        [bytes.fromhex("ff 08 01 02 03 04 05 06")],
        [bytes.fromhex("ff 02 07 08 00 00 00 00")],
        [b"\xff\x01"],
        [b"\xff\x01"],
        [b"\xff\x00"],
    )
    seeds = []

    def key_of(seed: bytes, resource: int) -> bytes:
        seeds.append((seed, resource))
        return bytes(range(0x10, 0x1E))

    master.unlock_resource(Resource.CAL_PAG, key_of)
    assert seeds == [(bytes(range(1, 9)), 1)]
    assert hexes(link.sent) == [
        "f8 00 01",
        "f8 01 01",
        "f7 0e 10 11 12 13 14 15",
        "f7 08 16 17 18 19 1a 1b",
        "f7 02 1c 1d",
    ]


def test_a_lost_part_of_the_seed_begins_anew() -> None:
    first, rest = [bytes.fromhex("ff 08 01 02 03 04 05 06")], [bytes.fromhex("ff 02 07 08 00 00 00 00")]
    master, link = connected(first, [], SYNCHED, first, rest, [b"\xff\x01"], [b"\xff\x00"])
    master.unlock_resource(Resource.CAL_PAG, lambda seed, _: seed)
    assert [packet[0] for packet in link.sent] == [0xF8, 0xF8, 0xFC, 0xF8, 0xF8, 0xF7, 0xF7]


def test_a_seed_whose_parts_contradict_each_other() -> None:
    master, _ = connected(
        [bytes.fromhex("ff 08 01 02 03 04 05 06")], [bytes.fromhex("ff 03 07 08 09 00 00 00")]
    )
    with pytest.raises(XcpProtocolError, match="3 bytes are left by the VCU's count, 2 by ours"):
        master.get_seed(Resource.CAL_PAG)


def test_a_resource_that_is_not_locked_needs_no_key() -> None:
    master, link = connected([b"\xff\x00"])
    master.unlock_resource(Resource.CAL_PAG, lambda *_: b"never")
    assert hexes(link.sent) == ["f8 00 01"]


def test_a_wrong_key_ends_the_session() -> None:
    master, _ = connected([bytes.fromhex("ff 01 07 00 00 00 00 00")], [b"\xfe\x25"])
    with pytest.raises(XcpCommandError, match="ERR_ACCESS_LOCKED"):
        master.unlock_resource(Resource.CAL_PAG, lambda *_: b"wrong")
    assert not master.connected


def test_checksum_and_its_largest_block() -> None:
    master, link = connected(
        OK,
        [bytes.fromhex("ff 09 00 00 78 56 34 12")],
        OK,
        [bytes.fromhex("fe 22 00 00 00 02 00 00")],
    )
    master.set_mta(0)
    found = master.build_checksum(952)
    assert (found.type, found.value) == (9, 0x12345678)
    assert hexes(link.sent[1:]) == ["f3 00 00 00 b8 03 00 00"]
    master.set_mta(0)
    with pytest.raises(XcpCommandError, match="at most 512 bytes at once, 952 were asked for"):
        master.build_checksum(952)


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_error_code_says_what_it_means_and_what_to_do(code: ErrorCode) -> None:
    text = error_message("DOWNLOAD", code)
    assert code.name in text
    assert ERRORS[code].meaning in text
    assert ERRORS[code].advice in text


@pytest.mark.parametrize("code", [code for code in range(1, 256) if code != ErrorCode.ERR_CMD_BUSY])
def test_every_error_packet_is_an_exception_with_its_code(code: int) -> None:
    master, link = connected([bytes((0xFE, code))])
    with pytest.raises(XcpCommandError, match="SET_CAL_PAGE") as raised:
        master.set_cal_page(PageMode.ECU, 0, 1)
    assert raised.value.code == code
    assert raised.value.command == "SET_CAL_PAGE"
    assert len(link.sent) == 1


def test_a_busy_vcu_is_asked_again_but_not_for_ever() -> None:
    busy = [b"\xfe\x10"]
    master, _ = connected(busy, busy, OK)
    master.set_cal_page(PageMode.ECU, 0, 1)
    master, link = connected(*[busy] * 20)
    with pytest.raises(XcpCommandError, match="ERR_CMD_BUSY"):
        master.set_cal_page(PageMode.ECU, 0, 1)
    assert len(link.sent) == BUSY_LIMIT + 1


def test_pending_prolongs_the_wait() -> None:
    master, _ = connected([b"\xfd\x05"] * 5 + OK)
    master.set_cal_page(PageMode.ECU, 0, 1)


def test_other_events_and_measured_values_do_not_disturb() -> None:
    master, _ = connected([b"\xfd\x0c", b"\x01abc", b"\xfc\x01hello", b"\xfe\x00", *OK])
    master.set_cal_page(PageMode.ECU, 0, 1)


def test_a_vcu_that_ends_the_session_is_believed() -> None:
    master, link = connected([b"\xfd\x07"])
    with pytest.raises(XcpProtocolError, match="EV_SESSION_TERMINATED"):
        master.set_cal_page(PageMode.ECU, 0, 1)
    sent = len(link.sent)
    with pytest.raises(XcpProtocolError, match="connect"):
        master.set_cal_page(PageMode.ECU, 0, 1)
    assert len(link.sent) == sent


def test_the_end_of_the_session_between_two_commands_is_seen() -> None:
    master, link = connected()
    link.waiting.append(b"\xfd\x07")
    with pytest.raises(XcpProtocolError, match="EV_SESSION_TERMINATED"):
        master.get_status()
    assert not link.sent


def test_a_command_without_answer_is_repeated_after_synch() -> None:
    master, link = connected([], SYNCHED, OK)
    master.set_cal_page(PageMode.ECU, 0, 1)
    assert hexes(link.sent) == ["eb 01 00 01", "fc", "eb 01 00 01"]


def test_a_late_answer_is_not_taken_for_the_next_ones() -> None:
    """The answer to the first try comes with that to SYNCH; the page number must not be read out of it."""
    late = bytes.fromhex("ff 00 00 09")
    master, _ = connected([], [late, *SYNCHED], [bytes.fromhex("ff 00 00 01")])
    assert master.get_cal_page(PageMode.ECU, 0) == 1


def test_an_answer_that_nobody_asked_for_makes_the_master_synchronise() -> None:
    master, link = connected(SYNCHED, [bytes.fromhex("ff 00 00 01")])
    link.waiting.append(bytes.fromhex("ff 00 00 09"))
    assert master.get_cal_page(PageMode.ECU, 0) == 1
    assert hexes(link.sent) == ["fc", "ea 01 00"]


def test_a_session_that_does_not_answer_synch_is_lost() -> None:
    master, link = connected()
    with pytest.raises(XcpTimeoutError, match="session is lost"):
        master.set_cal_page(PageMode.ECU, 0, 1)
    assert len(link.sent) == 3
    assert not master.connected


def test_a_session_that_only_was_silent_is_regained() -> None:
    """A disturbance of the bus is over: what was written is still there, and the VCU never fell back."""
    master, link = connected()
    with pytest.raises(XcpTimeoutError):
        master.get_status()
    with pytest.raises(XcpTimeoutError):
        master.get_status()
    link.sent.clear()
    with pytest.raises(XcpProtocolError, match="no XCP session"):
        master.set_cal_page(PageMode.ECU, 0, 1)
    assert not link.sent
    link.script = [SYNCHED, [bytes.fromhex("ff 00 00 00 00 00")], OK]
    master.get_status()
    assert master.connected
    master.set_cal_page(PageMode.ECU, 0, 1)


def test_a_session_that_the_vcu_ended_is_not_regained() -> None:
    master, link = connected([b"\xfd\x07"])
    with pytest.raises(XcpProtocolError, match="EV_SESSION_TERMINATED"):
        master.get_status()
    link.script = [SYNCHED, OK]
    with pytest.raises(XcpProtocolError, match="no XCP session"):
        master.get_status()


def test_after_giving_up_the_next_command_synchronises_first() -> None:
    master, link = connected([], SYNCHED, [], SYNCHED, [bytes.fromhex("ff 00 00 01")])
    with pytest.raises(XcpTimeoutError, match="2 tries"):
        master.set_cal_page(PageMode.ECU, 0, 1)
    assert master.get_cal_page(PageMode.ECU, 0) == 1
    assert hexes(link.sent) == ["eb 01 00 01", "fc", "eb 01 00 01", "fc", "ea 01 00"]


def test_a_second_master_stops_everything_but_the_pages() -> None:
    master, link = connected(OK)
    link.foreign_requests = 3
    with pytest.raises(XcpProtocolError, match="second master sent 3 commands"):
        master.get_status()
    with pytest.raises(XcpProtocolError, match="second master"):
        master.set_mta(0)
    assert not link.sent
    master.set_cal_page(PageMode.ECU, 0, 0)  # the reference page can always be put into effect


def test_what_was_aborted_raises_until_it_is_resumed() -> None:
    master, link = connected(OK)
    master.abort("the driver pressed revert")
    with pytest.raises(XcpError, match="the driver pressed revert"):
        master.get_status()
    assert not link.sent
    master.resume()
    master.set_cal_page(PageMode.ECU, 0, 0)


def test_a_time_limit_ends_a_row_of_commands() -> None:
    master, _ = connected(OK)
    with master.limited(10.0, "outer"):
        master.set_cal_page(PageMode.ECU, 0, 0)
        with (
            pytest.raises(XcpTimeoutError, match="flash was not done within 0 s"),
            master.limited(0.0, "flash"),
        ):
            master.set_cal_page(PageMode.ECU, 0, 0)


def test_disconnect_from_a_slave_that_is_gone_is_no_error() -> None:
    master, link = connected()
    master.disconnect()
    master.disconnect()
    assert hexes(link.sent) == ["fe"]
    assert not master.connected
