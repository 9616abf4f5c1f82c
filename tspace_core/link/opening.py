"""Open a vehicle's bus; whatever python-can and its drivers raise becomes one sentence that says what to do.

A module an interface, each with ``open_bus(config, ids)`` and ``HINT``: what to do in general.
They are imported when their interface is asked for: some need a driver or an extra package.
"""

import errno
import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import can

from tspace_core.config.link import BusConfig
from tspace_core.errors import BusError

_MODULES = {
    "virtual": "tspace_core.link.virtual",
    "udp_multicast": "tspace_core.link.multicast",
    "socketcan": "tspace_core.link.socketcan",
    "kvaser": "tspace_core.link.kvaser",
}
_EXTRAS = {"udp_multicast": "pip install 'python-can[multicast]'"}
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


def open_bus(config: BusConfig, ids: frozenset[int] | None = None) -> can.BusABC:
    """Open the bus as the config says; python-can's own files and variables are not read.

    Args:
        config: interface, channel and bit rates.
        ids: arbitration ids that matter, for interfaces that can filter; None: all.

    Raises:
        BusError: it cannot be opened.
    """
    try:
        module = importlib.import_module(_MODULES[config.interface])
    except ImportError as error:
        install = _EXTRAS.get(config.interface, "reinstall python-can")
        message = f"{describe(config)} cannot be opened: {error}; {install}"
        raise BusError(message) from error
    try:
        with _python_can_silent():
            bus: can.BusABC = module.open_bus(config, ids)
    except (can.CanError, OSError, ValueError) as error:
        message = f"{describe(config)} cannot be opened: {error.__cause__ or error}; {module.HINT}"
        raise BusError(message) from error
    return bus


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
