"""Codes of ASAM MCD-1 XCP that the simulated VCU knows, written down apart from the master's."""

from enum import IntEnum

POSITIVE, ERROR = 0xFF, 0xFE
"""First byte of an answer."""
FIRST_COMMAND = 0xC0
"""Packets that start below are stimulation data, no commands."""

CAL_PAG = 0x01
"""Resource: calibration and paging."""
ECU_ACCESS, XCP_ACCESS, ALL_SEGMENTS = 0x01, 0x02, 0x80
"""Mode bits of SET_CAL_PAGE: page the ECU runs on, page that XCP reads and writes, every segment."""


class Command(IntEnum):
    """First byte of a command."""

    CONNECT = 0xFF
    DISCONNECT = 0xFE
    GET_STATUS = 0xFD
    SYNCH = 0xFC
    GET_COMM_MODE_INFO = 0xFB
    GET_ID = 0xFA
    GET_SEED = 0xF8
    UNLOCK = 0xF7
    SET_MTA = 0xF6
    UPLOAD = 0xF5
    SHORT_UPLOAD = 0xF4
    BUILD_CHECKSUM = 0xF3
    DOWNLOAD = 0xF0
    DOWNLOAD_NEXT = 0xEF
    DOWNLOAD_MAX = 0xEE
    SET_CAL_PAGE = 0xEB
    GET_CAL_PAGE = 0xEA
    COPY_CAL_PAGE = 0xE4


class ErrorCode(IntEnum):
    """Second byte of an error's answer."""

    CMD_SYNCH = 0x00
    CMD_BUSY = 0x10
    CMD_UNKNOWN = 0x20
    CMD_SYNTAX = 0x21
    OUT_OF_RANGE = 0x22
    WRITE_PROTECTED = 0x23
    ACCESS_DENIED = 0x24
    ACCESS_LOCKED = 0x25
    PAGE_NOT_VALID = 0x26
    MODE_NOT_VALID = 0x27
    SEGMENT_NOT_VALID = 0x28
    SEQUENCE = 0x29
    MEMORY_OVERFLOW = 0x30
    GENERIC = 0x31


class Checksum(IntEnum):
    """Kinds of checksum of BUILD_CHECKSUM."""

    ADD_11 = 0x01
    ADD_14 = 0x03
    CRC_16_CITT = 0x08
    CRC_32 = 0x09


class XcpFault(Exception):  # noqa: N818
    """A command that cannot be done; becomes an answer with its error code and never leaves the slave."""

    def __init__(self, code: ErrorCode, detail: bytes = b"") -> None:
        super().__init__(code.name)
        self.code = code
        self.detail = detail

    def answer(self) -> bytes:
        """The packet that tells the master."""
        return bytes([ERROR, self.code]) + self.detail
