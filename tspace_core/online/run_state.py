"""What an online run must know of the runs before it: ``run.json`` in the vehicle's folder.

Written whole after every episode, so that a run goes on after any stop, also a kill at any instant. The last
live map stands in it with its hash; ``live_map.csv`` beside it is a copy for people. The reference that
budgets are measured against is no part of it: it is the vehicle's default map, always.
"""

import logging
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tspace_core.config import TorqueMap, Vehicle
from tspace_core.errors import OnlineError
from tspace_core.storage.files import atomic_write, write_text

_log = logging.getLogger(__name__)

FILE = "run.json"
LIVE_MAP = "live_map.csv"


class SavedMap(BaseModel):
    """A live map and its hash (``TorqueMap.sha256``, over axes and table)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    torque_nm: tuple[tuple[float, ...], ...]
    sha256: str

    @classmethod
    def of(cls, live: TorqueMap) -> "SavedMap":
        """The form in which a map is kept."""
        return cls(torque_nm=tuple(tuple(row) for row in live.table.tolist()), sha256=live.sha256())


class RunState(BaseModel):
    """Where a vehicle's online runs stand."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vehicle_id: str
    generation: int = Field(default=0, ge=0, description="runs begun so far")
    episodes: int = Field(default=0, ge=0, description="episodes numbered so far, in all runs")
    run_id: str = Field(default="", description="the newest run")
    reference_sha256: str = Field(default="", description="default map that the live map was made against")
    live_map: SavedMap | None = Field(default=None, description="map that was live last; None: the default")
    learner_run: str | None = Field(default=None, description="name of the learner's checkpoints")
    learner_agent: str = Field(default="ddpg", description="agent that learns in it")
    agent: str | None = Field(default=None, description="checkpoint that drove last")
    champion: str | None = Field(default=None, description="release that drove last")
    running_reward: float | None = Field(default=None, description="smoothed return of the episodes")
    ended: str = Field(default="", description="why the newest run ended; empty while it goes on")
    updated: datetime = datetime.min


class RunStateFile:
    """The ``run.json`` of one vehicle.

    Args:
        folder: of the vehicle's online state.
        vehicle: whose.
    """

    def __init__(self, folder: Path, vehicle: Vehicle) -> None:
        self.folder = folder
        self._vehicle = vehicle
        self._reference = vehicle.default_map()

    def load(self) -> RunState:
        """The state of the last run; a fresh one where there was none.

        Raises:
            OnlineError: the file is damaged or another vehicle's.
        """
        path = self.folder / FILE
        try:
            state = RunState.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return RunState(vehicle_id=self._vehicle.id)
        except (OSError, ValidationError) as error:
            message = (
                f"{path}: not the state of a run ({error}); move it away to begin with the default map, and "
                "set `episodes` in a new one if episodes are stored already"
            )
            raise OnlineError(message) from error
        if state.vehicle_id != self._vehicle.id:
            message = (
                f"{path}: is of {state.vehicle_id}, expected {self._vehicle.id}: move it where it belongs"
            )
            raise OnlineError(message)
        return state

    def save(self, state: RunState, live: TorqueMap | None = None) -> RunState:
        """Write the state, with ``live`` as the last live map if one is given, and return it.

        Raises:
            OSError: the disk is full or cannot be written; the old state stays.
        """
        changes: dict[str, object] = {"updated": datetime.now(UTC)}
        if live is not None:
            changes |= {"live_map": SavedMap.of(live), "reference_sha256": self._reference.sha256()}
        state = state.model_copy(update=changes)
        write_text(self.folder / FILE, state.model_dump_json(indent=1))
        if live is not None:
            with atomic_write(self.folder / LIVE_MAP) as temporary:
                live.to_csv(temporary)
        return state

    def resumable(self, state: RunState) -> TorqueMap | None:
        """The last live map, to go on from; None where the default map is to be begun with.

        It is left out, with a line in the log, where it is damaged or was made against another default map:
        then it says nothing about this one. Whether it may be flashed is for the guard to judge.
        """
        saved = state.live_map
        if saved is None:
            return None
        reference = self._reference
        if state.reference_sha256 != reference.sha256():
            _log.warning(
                "%s: the last live map was made against another default map (%s..., now %s...): begin with "
                "the default",
                self._vehicle.id,
                state.reference_sha256[:12],
                reference.sha256()[:12],
            )
            return None
        table = np.array(saved.torque_nm, np.float32)
        if table.shape == reference.table.shape and np.isfinite(table).all():
            live = TorqueMap(reference.pedal_axis, reference.speed_axis_kmh, table)
            if live.sha256() == saved.sha256:
                return live
        _log.warning("%s: the last live map in %s is damaged: begin with the default", state.vehicle_id, FILE)
        return None
