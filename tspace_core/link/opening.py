"""Open python-can's interfaces; whatever they raise becomes one sentence that says what to do."""

import errno
import ipaddress
import logging
import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import can

from tspace_core.config.link import BusConfig
from tspace_core.errors import BusError

_NETWORK_DEVICES = Path("/sys/class/net")
_UP = 0x1
_QUEUED_FRAMES = 20_000
"""Frames that wait for a reader in the process: 5 s of a full bus."""
_KERNEL_FILTERS = 512
_ALL_BITS = 0x1FFFFFFF
_KVASER_FULL = -13
"""canERR_TXBUFOFL of CANlib."""


def describe(config: BusConfig) -> str:
    """The bus in a few words, as messages name it."""
    place = f":{config.port}" if config.interface == "udp_multicast" else ""
    kind = " (FD)" if config.fd else ""
    return f"CAN bus {config.interface} {config.channel}{place}{kind}"


def is_overflow(error: Exception) -> bool:
    """Whether a frame was not sent for want of room in the transmit buffer, which empties by itself."""
    return isinstance(error, can.CanError) and error.error_code in (errno.ENOBUFS, _KVASER_FULL)


def open_bus(config: BusConfig, ids: frozenset[int] | None) -> can.BusABC:
    """Open the bus as the config says; files and variables of python-can's own are not read.

    Args:
        config: interface, channel and bit rates.
        ids: arbitration ids that matter, for interfaces that can filter; None: all.

    Raises:
        BusError: it cannot be opened.
    """
    try:
        with _python_can_silent():
            return _OPENERS[config.interface](config, ids)
    except BusError:
        raise
    except (can.CanError, OSError, ValueError) as error:
        cause = error.__cause__ or error
        message = f"{describe(config)} cannot be opened: {cause}; {_HINTS[config.interface]}"
        raise BusError(message) from error


@contextmanager
def _python_can_silent() -> Iterator[None]:
    """What it logs while it opens a bus is in the error, once."""
    logger = logging.getLogger("can")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


class _NewestQueue(queue.Queue[Any]):
    """A queue that loses its oldest item rather than to grow or to block who puts."""

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:  # noqa: FBT001, FBT002
        with self.mutex:
            if len(self.queue) >= self.maxsize:
                self.queue.popleft()
            self.queue.append(item)
            self.not_empty.notify()


def _open_virtual(config: BusConfig, ids: frozenset[int] | None) -> can.BusABC:
    del ids  # the reader filters
    from can.interfaces.virtual import VirtualBus, channels_lock

    protocol = can.CanProtocol.CAN_FD if config.fd else can.CanProtocol.CAN_20
    bus = VirtualBus(config.channel, protocol=protocol)
    with channels_lock:
        bus.channel.remove(bus.queue)
        bus.queue = _NewestQueue(_QUEUED_FRAMES)
        bus.channel.append(bus.queue)
    return bus


def _open_multicast(config: BusConfig, ids: frozenset[int] | None) -> can.BusABC:
    try:
        is_group = ipaddress.ip_address(config.channel).is_multicast
    except ValueError:
        is_group = False
    if not is_group:
        message = (
            f"{describe(config)} cannot be opened: channel {config.channel!r} is no multicast group; "
            "give one as 239.74.163.2"
        )
        raise BusError(message)
    try:
        from tspace_core.link.multicast import MulticastBus
    except ImportError as error:
        message = f"{describe(config)} needs msgpack: pip install 'python-can[multicast]'"
        raise BusError(message) from error
    return MulticastBus(config.channel, config.port, fd=config.fd, ids=ids)


def _open_socketcan(config: BusConfig, ids: frozenset[int] | None) -> can.BusABC:
    device = _NETWORK_DEVICES / config.channel
    up = f"ip link set {config.channel} up type can bitrate {config.bitrate}"
    if config.fd:
        up += f" dbitrate {config.data_bitrate} fd on"
    if not device.is_dir():
        found = sorted(one.name for one in _NETWORK_DEVICES.glob("*can*"))
        message = (
            f"{describe(config)} cannot be opened: no network device {config.channel!r}, CAN devices "
            f"found: {found or 'none'}; connect the interface, correct the channel, then `{up}`"
        )
        raise BusError(message)
    if not int((device / "flags").read_text(), 16) & _UP:
        message = f"{describe(config)} cannot be opened: the device is down; `{up}`"
        raise BusError(message)
    from can.interfaces.socketcan import SocketcanBus

    filters = None
    if ids is not None and 0 < len(ids) <= _KERNEL_FILTERS:
        filters = [can.typechecking.CanFilter(can_id=id, can_mask=_ALL_BITS) for id in sorted(ids)]
    return SocketcanBus(config.channel, fd=config.fd, can_filters=filters)


def _open_kvaser(config: BusConfig, ids: frozenset[int] | None) -> can.BusABC:
    from tspace_core.link.kvaser import open_kvaser

    return open_kvaser(config, ids)


_OPENERS: dict[str, Callable[[BusConfig, frozenset[int] | None], can.BusABC]] = {
    "virtual": _open_virtual,
    "udp_multicast": _open_multicast,
    "socketcan": _open_socketcan,
    "kvaser": _open_kvaser,
}

_HINTS = {
    "virtual": "choose another channel name",
    "udp_multicast": (
        "another program may hold the port for itself (choose another one), or the machine has no route for "
        "multicast (as root: ip route add 224.0.0.0/4 dev lo)"
    ),
    "socketcan": "the kernel needs SocketCAN (as root: modprobe can_raw) and the device must be up",
    "kvaser": "see the channels with `tspace bus` and close programs that hold this one for themselves",
}
