"""While no run listens for the HMI, the bridge does: `begin` becomes a request for a run.

The address belongs to one process at a time: to the run while an agent is connected, else to the bridge.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from tspace_core.errors import LinkError
from tspace_core.link.datagrams import (
    DatagramError,
    RefusalLimiter,
    Status,
    encode_refusal,
    is_refusal,
    parse,
)
from tspace_core.link.requests import RequestOptions, Spool
from tspace_core.link.udp import DatagramReceiver, udp_context

_LOG = logging.getLogger(__name__)
_FIRST_RETRY_S, _RETRY_S = 0.02, 1.0
"""Between two tries to have the address: at first short, as a run that ends holds it for a moment only."""
_RELEASE_S = 2.0


class HmiStandby:
    """Hears the HMI between runs.

    Args:
        address: host and port of the datagrams.
        spool: where requests go.
        on_begin: told of each `begin` that was heard here: a person stands at the vehicle.

    Attributes:
        listening: set while the address is ours.
        requested: requests written.
        withdrawn: requests taken back.
        refused: datagrams refused.
    """

    def __init__(self, address: tuple[str, int], spool: Spool, on_begin: Callable[[], None]) -> None:
        self._address, self._spool, self._on_begin = address, spool, on_begin
        self._limiter = RefusalLimiter(time.monotonic)
        self._changed = threading.Condition()
        self._wanted, self._ended, self._bound = True, False, False
        self._receiver: DatagramReceiver | None = None
        self._since = datetime.now(UTC)
        self.listening = threading.Event()
        self.requested = self.withdrawn = self.refused = 0

    def run(self) -> None:
        """Listen whenever the address is ours to have, until ``end``."""
        complained, retry_s = "", _FIRST_RETRY_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._ended)
                if self._ended:
                    return
            try:
                self._listen()
                complained, retry_s = "", _FIRST_RETRY_S
            except LinkError as error:
                if str(error) != complained:
                    complained = str(error)
                    _LOG.warning("the HMI cannot be heard yet, tried again: %s", error)
                with self._changed:
                    self._changed.wait_for(lambda: not self._wanted or self._ended, retry_s)
                retry_s = min(2 * retry_s, _RETRY_S)

    def release(self) -> bool:
        """Leave the address to a run; True: it is free now."""
        with self._changed:
            self._wanted = False
            self._wake()
            return self._changed.wait_for(lambda: not self._bound, _RELEASE_S)

    def resume(self) -> None:
        """The run is gone: listen again."""
        with self._changed:
            self._wanted = True
            self._changed.notify_all()

    def end(self) -> None:
        """Let ``run`` return."""
        with self._changed:
            self._ended = True
            self._wake()

    def _wake(self) -> None:
        if self._receiver is not None:
            self._receiver.wake()
        self._changed.notify_all()

    def _may_listen(self) -> bool:
        return self._wanted and not self._ended

    def _listen(self) -> None:
        with self._changed:
            if not self._may_listen():
                return
            self._bound = True
        try:
            with (
                udp_context(*self._address) as bound,
                contextlib.closing(DatagramReceiver(bound)) as receiver,
            ):
                with self._changed:
                    if not self._may_listen():
                        return
                    self._receiver = receiver
                self._since = datetime.now(UTC)
                self.listening.set()
                while (found := receiver.receive()) is not None:
                    self._take(receiver, *found)
        finally:
            with self._changed:
                self.listening.clear()
                self._receiver, self._bound = None, False
                self._changed.notify_all()

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
            try:
                self._act(status)
            except (LinkError, OSError):
                _LOG.exception("HMI: %s could not be passed on", status)

    def _act(self, status: Status) -> None:
        _LOG.info("HMI: %s", status)
        if status != "begin":
            gone = self._spool.withdraw(f"the HMI said {status} before a run began")
            self.withdrawn += len(gone)
            return
        self._on_begin()
        # Requests from before this standby may be those of a run that ends just now, or of one that failed.
        if any(request.event == "begin" and request.at >= self._since for request in self._spool.pending()):
            _LOG.info("HMI: begin again; the request before is still waiting")
            return
        self._spool.write("hmi", "begin", RequestOptions())
        self.requested += 1
