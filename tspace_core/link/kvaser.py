"""Kvaser interfaces: which channels there are, what they are set to, and opening one.

Two bindings are used: python-can's kvaser backend moves the frames, Kvaser's own ``canlib`` package answers
questions. Both need Kvaser's library libcanlib, and both fail oddly without it (a NameError, a SystemExit):
they are imported late, and here this is one ``BusError``.
"""

import contextlib
import importlib
import io
import logging
import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tspace_core.config.link import BusConfig
from tspace_core.errors import BusError

if TYPE_CHECKING:
    import can

_log = logging.getLogger(__name__)

HINT = "see the channels with `tspace bus` and close programs that hold this one for themselves"
AUTO = "auto"
"""As a channel: the only Kvaser channel that is connected."""

_STANDARD_IDS = 0x7FF
_EXTENDED_IDS = 0x1FFFFFFF
_INSTALL = (
    "Kvaser's library libcanlib is not found: install Kvaser's Linux drivers (linuxcan; Windows: Kvaser "
    "Drivers) from kvaser.com, or use another bus interface"
)


@dataclass(frozen=True, slots=True)
class KvaserChannel:
    """A channel of a connected Kvaser device.

    Attributes:
        number: channel number for the vehicle's ``bus: {channel: ...}``.
        device: product name.
        serial: serial number of the device, 0 where it has none.
        on_device: which of the device's channels this is, from 1.
        virtual: a channel of Kvaser's virtual bus, without hardware.
    """

    number: int
    device: str
    serial: int
    on_device: int
    virtual: bool

    @property
    def name(self) -> str:
        """The channel in a few words."""
        return f"{self.number}: {self.device}, serial number {self.serial}, channel {self.on_device}"


@dataclass(frozen=True, slots=True)
class BusParameters:
    """What a channel's controller is set to.

    Attributes:
        bitrate: of the arbitration phase, bit/s.
        sample_point: share of a bit at which it is sampled, 0 to 1.
        data_bitrate: of FD's data phase, bit/s; None on a classic channel.
    """

    bitrate: int
    sample_point: float
    data_bitrate: int | None


def load_canlib() -> Any:
    """Kvaser's ``canlib.canlib`` module.

    Raises:
        BusError: it, or the library below it, is not there; says what to install.
    """
    folder = os.getcwd()  # noqa: PTH109, the package changes it and may not come back
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return importlib.import_module("canlib.canlib")
    except ModuleNotFoundError as error:
        message = "Kvaser's Python package is missing: pip install canlib"
        raise BusError(message) from error
    except AttributeError as error:  # a library older than the package
        message = (
            f"Kvaser's library libcanlib is too old for the package canlib ({error}): update its drivers"
        )
        raise BusError(message) from error
    except (SystemExit, OSError) as error:
        raise BusError(_INSTALL) from error
    finally:
        os.chdir(folder)


def find_channels() -> list[KvaserChannel]:
    """All channels of the connected devices, by number.

    Raises:
        BusError: libcanlib is missing or does not answer.
    """
    canlib = load_canlib()
    try:
        canlib.enumerate_hardware()
        return [_describe(canlib, number) for number in range(canlib.getNumberOfChannels())]
    except canlib.CanError as error:
        message = f"Kvaser's channels cannot be listed: {error}; reconnect the device"
        raise BusError(message) from error


def bus_parameters(channel: int, *, fd: bool = False) -> BusParameters:
    """What a channel is set to now, without changing it.

    Args:
        channel: channel number.
        fd: the channel is open for CAN FD.

    Raises:
        BusError: there is no such channel, or it does not answer.
    """
    canlib = load_canlib()
    flags = canlib.Open.NO_INIT_ACCESS | canlib.Open.ACCEPT_VIRTUAL
    if fd:
        flags |= canlib.Open.CAN_FD
    try:
        with canlib.openChannel(channel, flags) as handle:
            bitrate, first, second, *_ = handle.getBusParams()
            data_bitrate = int(handle.getBusParamsFd()[0]) if fd else None
    except (canlib.CanError, TypeError) as error:
        message = f"bus parameters of Kvaser channel {channel} cannot be read: {error}; {_listing()}"
        raise BusError(message) from error
    quanta = 1 + first + second
    return BusParameters(int(bitrate), (1 + first) / quanta, data_bitrate)


def open_bus(config: BusConfig, ids: frozenset[int] | None) -> "can.BusABC":
    """Open python-can's kvaser bus and see that it runs at the config's bit rates.

    Raises:
        BusError: libcanlib or the channel is missing, the channel is taken or set to other bit rates.
    """
    from can import CanError

    from tspace_core.link import kvaser_bus

    if not kvaser_bus.AVAILABLE:
        raise BusError(_INSTALL)
    _check_rates(config, kvaser_bus.FD_RATES if config.fd else kvaser_bus.CLASSIC_RATES)
    number = _number(config)
    filters = None if ids is None else _common_filter(ids)
    try:
        bus = kvaser_bus.Bus(
            number,
            can_filters=filters,
            bitrate=config.bitrate,
            fd=config.fd,
            data_bitrate=config.data_bitrate,
        )
    except CanError as error:
        message = (
            f"Kvaser channel {number} cannot be opened: {error}; close programs that hold it for themselves; "
            f"{_listing()}"
        )
        raise BusError(message) from error
    try:
        _check_parameters(config, number)
    except BusError:
        bus.shutdown()
        raise
    return bus


def _describe(canlib: Any, number: int) -> KvaserChannel:
    data = canlib.ChannelData(number)
    return KvaserChannel(
        number=number,
        device=data.devdescr_ascii,
        serial=data.card_serial_no,
        on_device=data.chan_no_on_card + 1,
        virtual=bool(data.channel_cap & canlib.ChannelCap.VIRTUAL),
    )


def _listing() -> str:
    """The channels there are, for the end of a message."""
    try:
        channels = find_channels()
    except BusError as error:
        return str(error)
    if not channels:
        return "no Kvaser channel is connected"
    return f"channels found: {'; '.join(one.name for one in channels)}"


def _number(config: BusConfig) -> int:
    if config.channel != AUTO:
        try:
            return int(config.channel)
        except ValueError as error:
            message = (
                f"Kvaser channel {config.channel!r} is neither a number nor {AUTO!r}: correct the bus of the "
                f"vehicle; {_listing()}"
            )
            raise BusError(message) from error
    found = find_channels()
    channels = [one for one in found if not one.virtual] or found
    if len(channels) != 1:
        message = (
            f"channel: {AUTO} needs exactly one Kvaser channel, and there are {len(channels)}: give its "
            f"number; {_listing()}"
        )
        raise BusError(message)
    return channels[0].number


def _check_rates(config: BusConfig, known: Collection[int]) -> None:
    """CANlib has settings for these bit rates only."""
    for rate in (config.bitrate, config.data_bitrate if config.fd else None):
        if rate is not None and rate not in known:
            message = f"{rate} bit/s is no bit rate that Kvaser's driver has settings for: {sorted(known)}"
            raise BusError(message)


def _check_parameters(config: BusConfig, number: int) -> None:
    """A channel that another program has on the bus keeps that program's bit rates, without a word."""
    try:
        found = bus_parameters(number, fd=config.fd)
    except BusError as error:
        _log.info("bit rates of Kvaser channel %d are not checked: %s", number, error)
        return
    wanted = (config.bitrate, config.data_bitrate if config.fd else None)
    if (found.bitrate, found.data_bitrate) != wanted:
        message = (
            f"Kvaser channel {number} runs at {_rates(found.bitrate, found.data_bitrate)} and the vehicle's "
            f"bus at {_rates(*wanted)}: close the program that set it, or correct the vehicle's bus"
        )
        raise BusError(message)


def _rates(bitrate: int, data_bitrate: int | None) -> str:
    return f"{bitrate} bit/s" + (f" and {data_bitrate} bit/s (data)" if data_bitrate is not None else "")


def _common_filter(ids: frozenset[int]) -> Any:
    """The narrowest acceptance filter, code and mask, that lets all ids pass; the rest is dropped later."""
    extended = {id > _STANDARD_IDS for id in ids}
    if len(extended) != 1:
        return None
    code = min(ids)
    differing = 0
    for id in ids:
        differing |= id ^ code
    mask = (_EXTENDED_IDS if True in extended else _STANDARD_IDS) & ~differing
    return [{"can_id": code, "can_mask": mask, "extended": True in extended}]
