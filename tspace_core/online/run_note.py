"""A run's note in the lake: what its telematics box uploads meanwhile is the run's, and no raw log."""

import logging
import time

from tspace_core.config import Vehicle
from tspace_core.errors import StorageError
from tspace_core.storage.lake import Lake
from tspace_core.storage.online_runs import close_run, open_run, touch_run
from tspace_core.supervision import Supervisor

_log = logging.getLogger(__name__)

EVERY_S = 30.0
"""Between two signs of life: half of what a run may stay silent."""


class RunNote:
    """Says in the lake that a run of the vehicle goes on, from when this is made until ``keep`` returns.

    Args:
        lake: of the vehicle.
        vehicle: whose run it is.
        run_id: of the run.

    Raises:
        StorageError: the lake cannot be written.
    """

    def __init__(self, lake: Lake, vehicle: Vehicle, run_id: str) -> None:
        self._lake, self._vehicle_id = lake, vehicle.id
        self._run = open_run(lake, vehicle.id, run_id, time.time_ns())

    def keep(self, supervisor: Supervisor) -> None:
        """Task: renew the note until the supervisor stops, then close it.

        A note that cannot be written is logged and the drive goes on.
        """
        while not supervisor.wait(EVERY_S):
            self._write(over=False)
        self._write(over=True)

    def _write(self, *, over: bool) -> None:
        act = close_run if over else touch_run
        try:
            self._run = act(self._lake, self._vehicle_id, self._run, time.time_ns())
        except (OSError, StorageError) as error:
            _log.warning("%s: the note of the run could not be written: %s", self._vehicle_id, error)
