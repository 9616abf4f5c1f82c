"""The sums that BUILD_CHECKSUM can come back with, computed over our own copy of the bytes.

Words are little endian, as the map is. CRC_16 and CRC_16_CITT are the standard's: polynomial 0x8005,
reflected, start 0 (its test value over "123456789" is 0xBB3D), and 0x1021, start 0xFFFF (0x29B1).
"""

import zlib
from collections.abc import Callable

from tspace_core.errors import XcpProtocolError
from tspace_core.link.xcp_packets import ChecksumType


def _words(size: int, modulus_bytes: int) -> Callable[[bytes], int]:
    def total(data: bytes) -> int:
        words = (data[at : at + size] for at in range(0, len(data), size))
        return sum(int.from_bytes(word, "little") for word in words) % (1 << 8 * modulus_bytes)

    return total


def _crc_16(data: bytes) -> int:
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xA001 if value & 1 else 0)
    return value


def _crc_16_citt(data: bytes) -> int:
    value = 0xFFFF
    for byte in data:
        value ^= byte << 8
        for _ in range(8):
            value = (value << 1 ^ (0x1021 if value & 0x8000 else 0)) & 0xFFFF
    return value


_SUMS: dict[int, Callable[[bytes], int]] = {
    ChecksumType.ADD_11: _words(1, 1),
    ChecksumType.ADD_12: _words(1, 2),
    ChecksumType.ADD_14: _words(1, 4),
    ChecksumType.ADD_22: _words(2, 2),
    ChecksumType.ADD_24: _words(2, 4),
    ChecksumType.ADD_44: _words(4, 4),
    ChecksumType.CRC_16: _crc_16,
    ChecksumType.CRC_16_CITT: _crc_16_citt,
    ChecksumType.CRC_32: zlib.crc32,
}


def checksum(kind: int, data: bytes) -> int:
    """The sum of ``data`` as the VCU would build it.

    Args:
        kind: the type in BUILD_CHECKSUM's answer.
        data: as in the VCU's memory; whole words of the type.

    Raises:
        XcpProtocolError: the type is the maker's own or unknown, so that nothing can be compared.
    """
    if kind not in _SUMS:
        known = ", ".join(f"{one.value:#04x} {one.name}" for one in ChecksumType if one in _SUMS)
        message = (
            f"BUILD_CHECKSUM: the VCU sums in its own way (type {kind:#04x}), which cannot be compared; "
            f"known are {known}: have the VCU's XCP slave configured for one of them"
        )
        raise XcpProtocolError(message)
    return _SUMS[kind](data)
