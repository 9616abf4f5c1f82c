"""While no run listens for the HMI, the bridge does: `begin` becomes a request for a run.

Siblings differ in where they listen. Whose turn it is the bridge decides: the run has it while an agent is
connected, else the bridge.
"""

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import UTC, datetime

from tspace_core.config import Vehicle
from tspace_core.config.settings import settings
from tspace_core.errors import LinkError
from tspace_core.link.datagrams import Status
from tspace_core.link.requests import RequestOptions, Spool

_LOG = logging.getLogger(__name__)
_FIRST_RETRY_S, _RETRY_S = 0.02, 1.0
"""Between two tries to listen: at first short, as a run that ends holds an address for a moment only."""
_RELEASE_S = 2.0


class Standby(ABC):
    """Hears the HMI between runs.

    Args:
        spool: where requests go.
        on_begin: told of each `begin` that was heard here: a person stands at the vehicle.

    Attributes:
        listening: set while it listens.
        requested: requests written.
        withdrawn: requests taken back.
        refused: what was not understood.
    """

    def __init__(self, spool: Spool, on_begin: Callable[[], None]) -> None:
        self._spool, self._on_begin = spool, on_begin
        self._changed = threading.Condition()
        self._wanted, self._ended, self._bound = True, False, False
        self._since = datetime.now(UTC)
        self.listening = threading.Event()
        self.requested = self.withdrawn = self.refused = 0

    def run(self) -> None:
        """Listen whenever it is this process's turn, until ``end``."""
        complained, retry_s = "", _FIRST_RETRY_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._ended)
                if self._ended:
                    return
            try:
                self._take_turn()
                complained, retry_s = "", _FIRST_RETRY_S
            except LinkError as error:
                if str(error) != complained:
                    complained = str(error)
                    _LOG.warning("the HMI cannot be heard yet, tried again: %s", error)
                with self._changed:
                    self._changed.wait_for(lambda: not self._wanted or self._ended, retry_s)
                retry_s = min(2 * retry_s, _RETRY_S)

    def release(self) -> bool:
        """Leave the listening to a run; True: it may begin now."""
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

    @abstractmethod
    def _listen(self) -> None:
        """Listen until told to stop, passing what is heard to ``_hear``; call ``_is_up`` once it does.

        Raises:
            LinkError: it cannot just now.
        """

    @abstractmethod
    def _stop(self) -> None:
        """Let ``_listen`` return, if it runs; called with the lock held."""

    def _wake(self) -> None:
        self._stop()
        self._changed.notify_all()

    def _may_listen(self) -> bool:
        return self._wanted and not self._ended

    def _take_turn(self) -> None:
        with self._changed:
            if not self._may_listen():
                return
            self._bound = True
        try:
            self._listen()
        finally:
            with self._changed:
                self.listening.clear()
                self._bound = False
                self._changed.notify_all()

    def _is_up(self) -> None:
        self._since = datetime.now(UTC)
        self.listening.set()

    def _hear(self, status: Status) -> None:
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


def standby_of(
    vehicle: Vehicle, address: tuple[str, int], spool: Spool, on_begin: Callable[[], None]
) -> Standby:
    """What hears the vehicle's HMI between runs, as ``hmi.source`` says.

    Args:
        vehicle: whose bridge it is.
        address: host and port of the datagrams.
        spool: where requests go.
        on_begin: told of each `begin` that was heard.

    Raises:
        ConfigError: the settings name no message queue that may be used.
    """
    # Late: the siblings import this module, and one of them a large client.
    if settings().hmi.source == "rmq":
        from tspace_core.bridge.rmq_standby import RmqStandby

        return RmqStandby(vehicle, spool, on_begin)
    from tspace_core.bridge.hmi_standby import HmiStandby

    return HmiStandby(address, spool, on_begin)
