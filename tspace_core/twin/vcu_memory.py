"""The simulated VCU's memory as XCP sees it: the map's pages, the texts that identify it, their addresses."""

import zlib
from collections.abc import Callable
from typing import Protocol

from tspace_core.config.link import XcpConfig
from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import TwinError
from tspace_core.twin.vcu import Vcu
from tspace_core.twin.xcp_codes import Checksum, ErrorCode, XcpFault

IDENTITY_EXTENSION = 0xFF
"""Address extension of the text that GET_ID points to."""
VIN_BYTES, SOFTWARE_BYTES = 17, 16
"""Lengths of the texts where their addresses come from an A2L file."""


class Place(Protocol):
    """Where something lies: a ``Parameter`` of the config, or one of an A2L file."""

    @property
    def address(self) -> int:
        """Address in the VCU."""
        ...

    @property
    def extension(self) -> int:
        """XCP address extension."""
        ...


def xcp_config(vehicle: Vehicle) -> XcpConfig:
    """The vehicle's XCP slave.

    Raises:
        TwinError: it has none.
    """
    if vehicle.xcp is None:
        message = f"vehicle {vehicle.id} has no XCP slave: add an `xcp:` section to its file in conf/vehicles"
        raise TwinError(message)
    return vehicle.xcp


def places(config: XcpConfig) -> dict[str, tuple[int, int]]:
    """Address and extension of map, VIN and software id by their names, as the master finds them."""
    names = (config.map_name, config.vin_name, config.software_name)
    found: dict[str, Place]
    if config.a2l is None:
        found = {name: config.parameters[name] for name in names}
    else:
        from tspace_core.config.settings import find_a2l
        from tspace_core.link.a2l import read_parameters

        found = dict(read_parameters(find_a2l(config.a2l), names))
    return {name: (found[name].address, found[name].extension) for name in names}


class VcuMemory:
    """Reads and writes by address: the map page by page, the texts the same on every page.

    Args:
        vcu: holds the pages. Its vehicle's ``xcp`` gives the addresses.
        addresses: (address, extension) by name; None: those of the config or its A2L file.

    Raises:
        TwinError: the vehicle has no XCP slave.
    """

    def __init__(self, vcu: Vcu, addresses: dict[str, tuple[int, int]] | None = None) -> None:
        config = xcp_config(vcu.vehicle)
        found = places(config) if addresses is None else addresses
        self._vcu = vcu
        self._map_address, self._map_extension = found[config.map_name]
        identity = config.software_id.encode("ascii")
        self._texts = {
            found[config.vin_name]: _padded(vcu.vehicle.vin, VIN_BYTES),
            found[config.software_name]: _padded(config.software_id, SOFTWARE_BYTES),
            (0, IDENTITY_EXTENSION): identity,
        }

    @property
    def identity(self) -> tuple[int, int, int]:
        """Address, extension and length of the text that GET_ID points to."""
        return 0, IDENTITY_EXTENSION, len(self._texts[0, IDENTITY_EXTENSION])

    def read(self, page: int, extension: int, address: int, count: int) -> bytes:
        """``count`` bytes; those of the map from ``page``.

        Raises:
            XcpFault: OUT_OF_RANGE, they are not all inside one region.
        """
        if self.in_map(extension, address, count):
            return self._vcu.read(page, address - self._map_address, count)
        for (start, kind), text in self._texts.items():
            if kind == extension and start <= address and address + count <= start + len(text):
                return text[address - start : address - start + count]
        raise XcpFault(ErrorCode.OUT_OF_RANGE)

    def check_writable(self, page: int, extension: int, address: int, count: int) -> None:
        """Whether ``count`` bytes may be written.

        Raises:
            XcpFault: OUT_OF_RANGE, or WRITE_PROTECTED for the reference page and for texts.
        """
        if not self.in_map(extension, address, count):
            self.read(page, extension, address, count)
            raise XcpFault(ErrorCode.WRITE_PROTECTED)
        if page == self._vcu.reference_page:
            raise XcpFault(ErrorCode.WRITE_PROTECTED)

    def write(self, page: int, extension: int, address: int, data: bytes) -> None:
        """Write to a working page of the map.

        Raises:
            XcpFault: as ``check_writable``.
        """
        self.check_writable(page, extension, address, len(data))
        self._vcu.write(page, address - self._map_address, data)

    def in_map(self, extension: int, address: int, count: int) -> bool:
        """Whether ``count`` bytes from ``address`` lie inside the map."""
        return (
            extension == self._map_extension
            and self._map_address <= address
            and address + count <= self._map_address + self._vcu.size
        )


def checksum(kind: Checksum, data: bytes) -> int:
    """Checksum of BUILD_CHECKSUM over ``data``."""
    return _CHECKSUMS[kind](data)


def _crc_16_citt(data: bytes) -> int:
    value = 0xFFFF
    for byte in data:
        value ^= byte << 8
        for _ in range(8):
            value = (value << 1) ^ 0x1021 if value & 0x8000 else value << 1
        value &= 0xFFFF
    return value


_CHECKSUMS: dict[Checksum, Callable[[bytes], int]] = {
    Checksum.ADD_11: lambda data: sum(data) & 0xFF,
    Checksum.ADD_14: lambda data: sum(data) & 0xFFFFFFFF,
    Checksum.CRC_16_CITT: _crc_16_citt,
    Checksum.CRC_32: zlib.crc32,
}


def _padded(text: str, size: int) -> bytes:
    content = text.encode("ascii")
    if len(content) > size:
        message = f"{text!r} has {len(content)} bytes; the VCU keeps {size}"
        raise TwinError(message)
    return content.ljust(size, b"\0")
