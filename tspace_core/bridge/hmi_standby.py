"""The bridge hears the HMI's datagrams while no agent is connected.

The address belongs to one process at a time: to the run while an agent is connected, else to the bridge.
"""

import contextlib
import logging
import time
from collections.abc import Callable

from tspace_core.bridge.standby import Standby
from tspace_core.link.datagrams import (
    DatagramError,
    RefusalLimiter,
    encode_refusal,
    is_refusal,
    parse,
)
from tspace_core.link.requests import Spool
from tspace_core.link.udp import DatagramReceiver, udp_context

_LOG = logging.getLogger(__name__)


class HmiStandby(Standby):
    """Hears the HMI between runs, by datagram.

    Args:
        address: host and port of the datagrams.
        spool: where requests go.
        on_begin: told of each `begin` that was heard here: a person stands at the vehicle.
    """

    def __init__(self, address: tuple[str, int], spool: Spool, on_begin: Callable[[], None]) -> None:
        super().__init__(spool, on_begin)
        self._address = address
        self._limiter = RefusalLimiter(time.monotonic)
        self._receiver: DatagramReceiver | None = None

    def _listen(self) -> None:
        with (
            udp_context(*self._address) as bound,
            contextlib.closing(DatagramReceiver(bound)) as receiver,
        ):
            with self._changed:
                if not self._may_listen():
                    return
                self._receiver = receiver
            try:
                self._is_up()
                while (found := receiver.receive()) is not None:
                    self._take(receiver, *found)
            finally:
                with self._changed:
                    self._receiver = None

    def _stop(self) -> None:
        if self._receiver is not None:
            self._receiver.wake()

    def _take(self, receiver: DatagramReceiver, data: bytes, sender: tuple[str, int]) -> None:
        if is_refusal(data):
            return
        try:
            status = parse(data).status
        except DatagramError as error:
            self.refused += 1
            if self._limiter.allows(sender):
                _LOG.warning("datagram from %s:%d refused: %s", *sender, error)
                receiver.answer(encode_refusal(error), sender)
            return
        if status is not None:
            self._hear(status)
