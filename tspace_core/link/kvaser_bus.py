"""python-can's kvaser bus, which gives its handles back also where the device has gone."""

import contextlib
from typing import Any

import can
from can.interfaces.kvaser import KvaserBus, canlib

AVAILABLE = hasattr(canlib, "canOpenChannel")
"""Whether libcanlib was found."""
CLASSIC_RATES: dict[int, int] = canlib.BITRATE_OBJS
FD_RATES: dict[int, int] = canlib.BITRATE_FD
"""Bit rates that CANlib has settings for, bit/s."""


class Bus(KvaserBus):
    """As python-can's; a handle that stays open would hold the channel until the process ends."""

    def __init__(self, channel: int, **options: Any) -> None:
        try:
            super().__init__(channel, **options)
        except can.CanError:
            self._close_handles()
            raise

    def shutdown(self) -> None:
        """Go off the bus and give the handles back; an unplugged device cannot keep them."""
        if not self._is_shutdown:
            can.BusABC.shutdown(self)
            self._close_handles()

    def _close_handles(self) -> None:
        for name in ("_read_handle", "_write_handle"):
            handle = self.__dict__.pop(name, None)
            if handle is None:
                continue
            with contextlib.suppress(can.CanError):
                if name == "_write_handle":
                    canlib.canWriteSync(handle, 100)
            with contextlib.suppress(can.CanError):
                canlib.canBusOff(handle)
            with contextlib.suppress(can.CanError):
                canlib.canClose(handle)
