"""The kernel's CAN devices (SocketCAN); whoever sets the machine up gives the device its bit rates."""

from pathlib import Path

import can
from can.interfaces.socketcan import SocketcanBus

from tspace_core.config.link import BusConfig
from tspace_core.errors import BusError
from tspace_core.link.opening import describe

HINT = "the kernel needs SocketCAN (as root: modprobe can_raw) and the device must be up"

_NETWORK_DEVICES = Path("/sys/class/net")
_UP = 0x1
_KERNEL_FILTERS = 512
_ALL_BITS = 0x1FFFFFFF


class _Socketcan(SocketcanBus):
    """python-can's, without leaving its socket open where it fails."""

    def __init__(self, channel: str, *, fd: bool, can_filters: can.typechecking.CanFilters | None) -> None:
        try:
            super().__init__(channel, fd=fd, can_filters=can_filters)
        except OSError:
            if hasattr(self, "socket"):
                self.socket.close()
            raise


def open_bus(config: BusConfig, ids: frozenset[int] | None) -> can.BusABC:
    """Open a device that is up; the kernel filters.

    Raises:
        BusError: there is no such device or it is down.
    """
    device = _NETWORK_DEVICES / config.channel
    up = f"ip link set {config.channel} up type can bitrate {config.bitrate}"
    if config.fd:
        up += f" dbitrate {config.data_bitrate} fd on"
    if not device.is_dir():
        found = sorted(one.name for one in _NETWORK_DEVICES.glob("*can*"))
        message = (
            f"{describe(config)} cannot be opened: there is no such network device, CAN devices found: "
            f"{found or 'none'}; connect the interface or correct the channel, then `{up}`"
        )
        raise BusError(message)
    if not int((device / "flags").read_text(), 16) & _UP:
        message = f"{describe(config)} cannot be opened: the device is down; `{up}`"
        raise BusError(message)
    filters: can.typechecking.CanFilters | None = None
    if ids is not None and 0 < len(ids) <= _KERNEL_FILTERS:
        filters = [can.typechecking.CanFilter(can_id=id, can_mask=_ALL_BITS) for id in sorted(ids)]
    return _Socketcan(config.channel, fd=config.fd, can_filters=filters)
