"""The bridge hears the HMI's topic while no agent is connected."""

import logging
from collections.abc import Callable

from tspace_core.bridge.standby import Standby
from tspace_core.config import Vehicle
from tspace_core.link.requests import Spool
from tspace_core.link.rocketmq import QueueServers
from tspace_core.link.rocketmq_hmi import Ears, HmiQueue

_LOG = logging.getLogger(__name__)


class RmqStandby(Standby):
    """Hears the HMI between runs, by message queue.

    Bridge and run are one consumer group: what one of them has heard the other does not get, and what is sent
    while neither listens waits for the next. What was acted on is handed over beside the requests.

    Args:
        vehicle: whose HMI.
        spool: where requests go.
        on_begin: told of each `begin` that was heard here: a person stands at the vehicle.
        servers: of the queue; None: the settings'.

    Raises:
        ConfigError: the settings name no queue that may be used.
    """

    def __init__(
        self,
        vehicle: Vehicle,
        spool: Spool,
        on_begin: Callable[[], None],
        *,
        servers: QueueServers | None = None,
    ) -> None:
        super().__init__(spool, on_begin)
        self._vehicle = vehicle
        self._servers = servers or QueueServers.from_settings()
        self._queue: HmiQueue | None = None

    def _listen(self) -> None:
        ears = Ears(heard=self._hear, failed=self._refuse, ignored=lambda _: None, up=self._is_up)
        queue = HmiQueue(self._vehicle, ears, servers=self._servers, folder=self._spool.folder)
        with self._changed:
            if not self._may_listen():
                return
            self._queue = queue
        try:
            queue.run()
        finally:
            with self._changed:
                self._queue = None

    def _stop(self) -> None:
        if self._queue is not None:
            self._queue.end()

    def _refuse(self, reason: str) -> None:
        self.refused += 1
        _LOG.warning("%s", reason)
