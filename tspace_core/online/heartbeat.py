"""The sign of life of an online run: ``heartbeat.json`` in the vehicle's folder, written every second.

Whoever starts runs reads it: a run whose heartbeat is old has died, whatever else is said of it.
"""

import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from tspace_core.storage.files import write_text
from tspace_core.supervision import Supervisor

_log = logging.getLogger(__name__)

FILE = "heartbeat.json"
EVERY_S = 1.0


class Heartbeat(BaseModel):
    """One beat.

    Attributes:
        vehicle_id: whose run it is.
        run_id: as whoever started the run calls it.
        pid: process of the run.
        state: what it is doing, in words.
        episode: number of the episode that is recorded or was last.
        at: instant of the beat, UTC.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    vehicle_id: str
    run_id: str
    pid: int
    state: str
    episode: int
    at: datetime

    def age_s(self, now: datetime | None = None) -> float:
        """Seconds since the beat."""
        return ((now or datetime.now(UTC)) - self.at).total_seconds()


def read_heartbeat(folder: Path) -> Heartbeat | None:
    """The newest beat in a vehicle's folder; None if there is none, or none that can be read."""
    try:
        return Heartbeat.model_validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def beat(folder: Path, vehicle_id: str, run_id: str, state: str, episode: int) -> Heartbeat:
    """Write one beat: under a temporary name, then renamed."""
    now = Heartbeat(
        vehicle_id=vehicle_id,
        run_id=run_id,
        pid=os.getpid(),
        state=state,
        episode=episode,
        at=datetime.now(UTC),
    )
    write_text(folder / FILE, now.model_dump_json(indent=1))
    return now


def beat_until_stopped(
    supervisor: Supervisor,
    folder: Path,
    vehicle_id: str,
    run_id: str,
    look: Callable[[], tuple[str, int]],
) -> None:
    """Write a beat every second until the supervisor stops; a task of it.

    A beat that cannot be written is logged and the run goes on: a full disk shows where data is stored, and
    a run without a heartbeat is found by whoever reads it.

    Args:
        supervisor: of the run.
        folder: of the vehicle.
        vehicle_id: whose.
        run_id: of the run.
        look: gives state and episode number.
    """
    while True:
        try:
            beat(folder, vehicle_id, run_id, *look())
        except OSError as error:
            _log.warning("%s: no heartbeat written: %s", vehicle_id, error)
        if supervisor.wait(EVERY_S):
            return
