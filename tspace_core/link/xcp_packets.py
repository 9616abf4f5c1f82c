"""XCP packets as data: command codes, error codes with their meaning, and the bytes of each command.

Source: ASAM MCD-1 XCP, protocol layer, versions 1.0 to 1.5. Only what a map flash needs is here. Nothing in
this module waits or sends; what the bytes mean for a session is ``xcp_session`` and ``xcp``.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Literal

from tspace_core.errors import XcpProtocolError

ByteOrder = Literal["little", "big"]
SMALLEST_MAX_CTO = 8
MOST_ELEMENTS = 255  # a count is one byte
MIN_ST_UNIT_S = 1e-4


class Command(IntEnum):
    """Codes of the commands, the first byte from the master."""

    CONNECT = 0xFF
    DISCONNECT = 0xFE
    GET_STATUS = 0xFD
    SYNCH = 0xFC
    GET_COMM_MODE_INFO = 0xFB
    GET_SEED = 0xF8
    UNLOCK = 0xF7
    SET_MTA = 0xF6
    UPLOAD = 0xF5
    SHORT_UPLOAD = 0xF4
    BUILD_CHECKSUM = 0xF3
    DOWNLOAD = 0xF0
    DOWNLOAD_NEXT = 0xEF
    SET_CAL_PAGE = 0xEB
    GET_CAL_PAGE = 0xEA


class Pid(IntEnum):
    """First byte from the slave; smaller values are measured data (DAQ)."""

    RESPONSE = 0xFF
    ERROR = 0xFE
    EVENT = 0xFD
    SERVICE = 0xFC


class ErrorCode(IntEnum):
    """Codes of error packets; what they mean and ask for is in ``ERRORS``."""

    ERR_CMD_SYNCH = 0x00
    ERR_CMD_BUSY = 0x10
    ERR_DAQ_ACTIVE = 0x11
    ERR_PGM_ACTIVE = 0x12
    ERR_CMD_UNKNOWN = 0x20
    ERR_CMD_SYNTAX = 0x21
    ERR_OUT_OF_RANGE = 0x22
    ERR_WRITE_PROTECTED = 0x23
    ERR_ACCESS_DENIED = 0x24
    ERR_ACCESS_LOCKED = 0x25
    ERR_PAGE_NOT_VALID = 0x26
    ERR_MODE_NOT_VALID = 0x27
    ERR_SEGMENT_NOT_VALID = 0x28
    ERR_SEQUENCE = 0x29
    ERR_DAQ_CONFIG = 0x2A
    ERR_MEMORY_OVERFLOW = 0x30
    ERR_GENERIC = 0x31
    ERR_VERIFY = 0x32
    ERR_RESOURCE_TEMPORARY_NOT_ACCESSIBLE = 0x33
    ERR_SUBCMD_UNKNOWN = 0x34
    ERR_TIMECORR_STATE_CHANGE = 0x35


@dataclass(frozen=True)
class ErrorText:
    """What an error code means and what a person does about it."""

    meaning: str
    advice: str


ERRORS: dict[ErrorCode, ErrorText] = {
    ErrorCode.ERR_CMD_SYNCH: ErrorText("the command processor is synchronised", "nothing: it answers SYNCH"),
    ErrorCode.ERR_CMD_BUSY: ErrorText(
        "the VCU is busy and did not execute the command", "wait, or find what else keeps its XCP slave busy"
    ),
    ErrorCode.ERR_DAQ_ACTIVE: ErrorText(
        "a measurement runs that forbids the command", "stop the measurement of the other tool"
    ),
    ErrorCode.ERR_PGM_ACTIVE: ErrorText(
        "the VCU's program is being written", "wait until the programming session has ended"
    ),
    ErrorCode.ERR_CMD_UNKNOWN: ErrorText(
        "the VCU does not know the command",
        "check that its XCP slave offers what a flash needs (docs/xcp.md)",
    ),
    ErrorCode.ERR_CMD_SYNTAX: ErrorText(
        "the command's bytes are wrong for this VCU",
        "check the XCP version and report a recording of the bus",
    ),
    ErrorCode.ERR_OUT_OF_RANGE: ErrorText(
        "the command is right, a value in it is not", "check address and length against the VCU's software"
    ),
    ErrorCode.ERR_WRITE_PROTECTED: ErrorText(
        "the memory is write protected", "write a working page, never the reference page; check working_pages"
    ),
    ErrorCode.ERR_ACCESS_DENIED: ErrorText(
        "the memory may not be accessed", "check the address against the A2L file of this software"
    ),
    ErrorCode.ERR_ACCESS_LOCKED: ErrorText(
        "the resource is locked by seed and key", "unlock first; check xcp.unlock of the vehicle"
    ),
    ErrorCode.ERR_PAGE_NOT_VALID: ErrorText(
        "there is no such page", "check reference_page and working_pages of the vehicle"
    ),
    ErrorCode.ERR_MODE_NOT_VALID: ErrorText(
        "the page cannot be used in this mode", "check that the VCU can have it as its active page"
    ),
    ErrorCode.ERR_SEGMENT_NOT_VALID: ErrorText(
        "there is no such calibration segment", "check xcp.segment of the vehicle"
    ),
    ErrorCode.ERR_SEQUENCE: ErrorText(
        "the command came in the wrong order", "connect again; a second master may use the same ids"
    ),
    ErrorCode.ERR_DAQ_CONFIG: ErrorText("the measurement's set-up is not valid", "none of ours: see the VCU"),
    ErrorCode.ERR_MEMORY_OVERFLOW: ErrorText("the VCU has no memory left for it", "restart the VCU"),
    ErrorCode.ERR_GENERIC: ErrorText("the VCU failed in a way of its own", "read the VCU's fault memory"),
    ErrorCode.ERR_VERIFY: ErrorText(
        "the VCU's own check of the data failed", "write it again, then distrust it"
    ),
    ErrorCode.ERR_RESOURCE_TEMPORARY_NOT_ACCESSIBLE: ErrorText(
        "the resource cannot be reached at present", "try again when the VCU is in its normal state"
    ),
    ErrorCode.ERR_SUBCMD_UNKNOWN: ErrorText("the VCU does not know the sub-command", "check the XCP version"),
    ErrorCode.ERR_TIMECORR_STATE_CHANGE: ErrorText("the clocks' state changed", "none of ours: see the VCU"),
}


class EventCode(IntEnum):
    """Codes of event packets."""

    EV_RESUME_MODE = 0x00
    EV_CLEAR_DAQ = 0x01
    EV_STORE_DAQ = 0x02
    EV_STORE_CAL = 0x03
    EV_CMD_PENDING = 0x05
    EV_DAQ_OVERLOAD = 0x06
    EV_SESSION_TERMINATED = 0x07
    EV_TIME_SYNC = 0x08
    EV_STIM_TIMEOUT = 0x09
    EV_SLEEP = 0x0A
    EV_WAKE_UP = 0x0B
    EV_ECU_STATE_CHANGE = 0x0C
    EV_USER = 0xFE
    EV_TRANSPORT = 0xFF


class Resource(IntFlag):
    """Resources of a slave, as CONNECT offers them and GET_STATUS shows them protected."""

    CAL_PAG = 0x01
    DAQ = 0x04
    STIM = 0x08
    PGM = 0x10


class PageMode(IntFlag):
    """For whom SET_CAL_PAGE and GET_CAL_PAGE mean a page: the VCU's own program, or XCP's access."""

    ECU = 0x01
    XCP = 0x02
    ALL = 0x80


class CommMode(IntFlag):
    """Bits of COMM_MODE_BASIC in CONNECT's answer; bits 1 and 2 are the address granularity."""

    BIG_ENDIAN = 0x01
    GRANULARITY = 0x06
    SLAVE_BLOCK_MODE = 0x40
    OPTIONAL = 0x80


class CommModeOptional(IntFlag):
    """Bits of COMM_MODE_OPTIONAL in GET_COMM_MODE_INFO's answer."""

    MASTER_BLOCK_MODE = 0x01
    INTERLEAVED = 0x02


class ChecksumType(IntEnum):
    """How BUILD_CHECKSUM summed; the digits are the bytes of an element and of the sum."""

    ADD_11 = 0x01
    ADD_12 = 0x02
    ADD_14 = 0x03
    ADD_22 = 0x04
    ADD_24 = 0x05
    ADD_44 = 0x06
    CRC_16 = 0x07
    CRC_16_CITT = 0x08
    CRC_32 = 0x09
    USER_DEFINED = 0xFF


@dataclass(frozen=True)
class SlaveInfo:
    """What CONNECT tells about the slave.

    Attributes:
        resources: what it offers.
        byte_order: order of words in packets and in its memory.
        granularity: bytes at one address, 1, 2 or 4.
        max_cto: longest command or response, bytes.
        max_dto: longest measured packet and longest packet of an upload, bytes.
        slave_block_mode: whether one UPLOAD may be answered by several packets.
        has_comm_mode_info: whether GET_COMM_MODE_INFO is answered.
    """

    resources: Resource
    byte_order: ByteOrder
    granularity: int
    max_cto: int
    max_dto: int
    slave_block_mode: bool
    has_comm_mode_info: bool

    def word(self, value: int) -> bytes:
        """Two bytes in the slave's order."""
        return value.to_bytes(2, self.byte_order)

    def double_word(self, value: int) -> bytes:
        """Four bytes in the slave's order."""
        return value.to_bytes(4, self.byte_order)

    @property
    def download_bytes(self) -> int:
        """Most data bytes of one DOWNLOAD or DOWNLOAD_NEXT."""
        head = 2 if self.granularity < 4 else 4
        return (self.max_cto - head) // self.granularity * self.granularity

    @property
    def upload_bytes(self) -> int:
        """Most data bytes of one packet that answers UPLOAD or SHORT_UPLOAD."""
        longest = min(self.max_cto, self.max_dto)
        return (longest - self.granularity) // self.granularity * self.granularity


@dataclass(frozen=True)
class Status:
    """What GET_STATUS tells: the session's bits and which resources are locked."""

    session: int
    protected: Resource


@dataclass(frozen=True)
class BlockMode:
    """What GET_COMM_MODE_INFO tells of the master's block mode.

    Attributes:
        offered: whether a DOWNLOAD may go on in DOWNLOAD_NEXT packets without an answer in between.
        max_bs: most packets of a block.
        min_st_s: least time between two packets of a block, s.
    """

    offered: bool = False
    max_bs: int = 1
    min_st_s: float = 0.0


@dataclass(frozen=True)
class Checksum:
    """BUILD_CHECKSUM's answer: how it was summed (as sent, known or not) and the sum."""

    type: int
    value: int


def error_name(code: int) -> str:
    """Name of an error code, or its number where the standard has none."""
    return ErrorCode(code).name if code in ERRORS else f"error {code:#04x}"


def error_message(command: str, code: int) -> str:
    """One line for a person: command, error, what it means, what to do."""
    if code not in ERRORS:
        return (
            f"{command}: the VCU answered error {code:#04x}, which the standard does not name; see its manual"
        )
    text = ERRORS[ErrorCode(code)]
    return f"{command}: the VCU answered {error_name(code)} ({code:#04x}): {text.meaning}; {text.advice}"


def connect() -> bytes:
    """CONNECT in normal mode."""
    return bytes((Command.CONNECT, 0))


def set_mta(slave: SlaveInfo, address: int, extension: int) -> bytes:
    """SET_MTA: where the next DOWNLOAD, UPLOAD or BUILD_CHECKSUM works."""
    return bytes((Command.SET_MTA, 0, 0, extension)) + slave.double_word(address)


def short_upload(slave: SlaveInfo, count: int, address: int, extension: int) -> bytes:
    """SHORT_UPLOAD of ``count`` elements."""
    return bytes((Command.SHORT_UPLOAD, count, 0, extension)) + slave.double_word(address)


def upload(count: int) -> bytes:
    """UPLOAD of ``count`` elements from the MTA."""
    return bytes((Command.UPLOAD, count))


def download(slave: SlaveInfo, data: bytes) -> list[bytes]:
    """The packets that write ``data`` at the MTA: DOWNLOAD, then DOWNLOAD_NEXT each with what remains.

    Args:
        slave: what CONNECT told.
        data: whole elements, at most 255 of them; one packet's worth where block mode is not offered.
    """
    head = bytes(2) if slave.granularity == 4 else b""
    packets = []
    for start in range(0, len(data), slave.download_bytes):
        code = Command.DOWNLOAD if start == 0 else Command.DOWNLOAD_NEXT
        remaining = (len(data) - start) // slave.granularity
        packets.append(bytes((code, remaining)) + head + data[start : start + slave.download_bytes])
    return packets


def build_checksum(slave: SlaveInfo, count: int) -> bytes:
    """BUILD_CHECKSUM over ``count`` elements from the MTA."""
    return bytes((Command.BUILD_CHECKSUM, 0, 0, 0)) + slave.double_word(count)


def get_seed(resource: int, *, first: bool) -> bytes:
    """GET_SEED: the first part of the seed, or the next."""
    return bytes((Command.GET_SEED, 0 if first else 1, resource))


def unlock(slave: SlaveInfo, key: bytes) -> list[bytes]:
    """The UNLOCK packets of a key, each with the length that remains."""
    room = slave.max_cto - 2
    return [bytes((Command.UNLOCK, len(key) - at)) + key[at : at + room] for at in range(0, len(key), room)]


def set_cal_page(mode: PageMode, segment: int, page: int) -> bytes:
    """SET_CAL_PAGE."""
    return bytes((Command.SET_CAL_PAGE, mode, segment, page))


def get_cal_page(mode: PageMode, segment: int) -> bytes:
    """GET_CAL_PAGE."""
    return bytes((Command.GET_CAL_PAGE, mode, segment))


def parse_connect(answer: bytes) -> SlaveInfo:
    """What CONNECT was answered.

    Raises:
        XcpProtocolError: too short, or with sizes that the standard forbids.
    """
    need(answer, 8, Command.CONNECT)
    _, resource, mode, max_cto = answer[:4]
    order: ByteOrder = "big" if mode & CommMode.BIG_ENDIAN else "little"
    step = (mode & CommMode.GRANULARITY) >> 1
    max_dto = int.from_bytes(answer[4:6], order)
    if step > 2 or max_cto < SMALLEST_MAX_CTO or max_dto < SMALLEST_MAX_CTO:
        message = (
            f"CONNECT: the VCU offers MAX_CTO {max_cto}, MAX_DTO {max_dto}, address granularity code {step}; "
            f"the standard asks for 8 or more twice and 2 or less: check the ids"
        )
        raise XcpProtocolError(message)
    return SlaveInfo(
        resources=Resource(resource & (Resource.CAL_PAG | Resource.DAQ | Resource.STIM | Resource.PGM)),
        byte_order=order,
        granularity=1 << step,
        max_cto=max_cto,
        max_dto=max_dto,
        slave_block_mode=bool(mode & CommMode.SLAVE_BLOCK_MODE),
        has_comm_mode_info=bool(mode & CommMode.OPTIONAL),
    )


def parse_status(answer: bytes) -> Status:
    """What GET_STATUS was answered."""
    need(answer, 3, Command.GET_STATUS)
    return Status(session=answer[1], protected=protected(answer[2]))


def parse_comm_mode_info(answer: bytes) -> BlockMode:
    """What GET_COMM_MODE_INFO was answered."""
    need(answer, 6, Command.GET_COMM_MODE_INFO)
    offered = bool(answer[2] & CommModeOptional.MASTER_BLOCK_MODE) and answer[4] > 1
    return BlockMode(offered=offered, max_bs=max(1, answer[4]), min_st_s=answer[5] * MIN_ST_UNIT_S)


def parse_checksum(slave: SlaveInfo, answer: bytes) -> Checksum:
    """What BUILD_CHECKSUM was answered."""
    need(answer, 8, Command.BUILD_CHECKSUM)
    return Checksum(
        type=answer[1], value=struct.unpack("<I" if slave.byte_order == "little" else ">I", answer[4:8])[0]
    )


def protected(value: int) -> Resource:
    """The protection bits of GET_STATUS and UNLOCK, without reserved ones."""
    return Resource(value & (Resource.CAL_PAG | Resource.DAQ | Resource.STIM | Resource.PGM))


def need(answer: bytes, length: int, command: Command) -> None:
    """Refuse an answer that is too short.

    Raises:
        XcpProtocolError: with the bytes seen.
    """
    if len(answer) < length:
        message = (
            f"{command.name}: the VCU's answer {answer.hex(' ')} has {len(answer)} bytes, the standard asks "
            f"for {length}; check that request_id and response_id belong to its XCP slave"
        )
        raise XcpProtocolError(message)
