"""Which checkpoint a run begins with, and whether another one has been released since."""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

from tspace_core.agents import Checkpoint, CheckpointStore
from tspace_core.agents.ddpg import SCHEDULE
from tspace_core.config import DDPGHyperparameters, Vehicle
from tspace_core.errors import CheckpointError
from tspace_core.storage.champion import AGENT as CHAMPIONS
from tspace_core.storage.champion import Champion, champion
from tspace_core.storage.lake import Lake

_log = logging.getLogger(__name__)

AGENT = "ddpg"


def learner_run(vehicle: Vehicle, hyper: DDPGHyperparameters, released: Champion | None) -> str:
    """Name of the learner's run: another release, window or kind of learning is another run.

    Runs with the same name go on from each other's checkpoints.
    """
    inputs = {
        "hyper": hyper.model_dump(mode="json", exclude=SCHEDULE),
        "sampling": vehicle.sampling.model_dump(mode="json"),
        "reward": vehicle.reward.model_dump(mode="json"),
        "champion": released.sha256 if released is not None else None,
    }
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    return f"{vehicle.id}-online-{digest[:8]}"


@dataclass(frozen=True)
class Choice:
    """What a run begins with.

    Attributes:
        checkpoint: that drives; None: there is none.
        released: the champion, if there is one.
        run: name of the learner's run.
        start_from: what a learner without checkpoints of its own begins with.
    """

    checkpoint: Path | None
    released: Champion | None
    run: str
    start_from: Path | None


def choose(lake: Lake, vehicle: Vehicle, hyper: DDPGHyperparameters, *, infer: bool) -> Choice:
    """Choose what a run begins with.

    Inference: the release, else the newest checkpoint. Training: where the learner's run stands, else the
    release, else the newest checkpoint.

    Raises:
        CheckpointError: the release is damaged.
    """
    released = champion(lake, vehicle.id)
    run = learner_run(vehicle, hyper, released)
    start_from = released.checkpoint if released is not None else _offline(lake, vehicle.id)
    own = _newest(lake, run)
    if infer:
        checkpoint = released.checkpoint if released is not None else _later(own, start_from)
    else:
        checkpoint = own or start_from
    return Choice(checkpoint, released, run, start_from)


class ReleaseWatch:
    """Looks for another release than the one that drives.

    Args:
        lake: where releases are kept.
        vehicle_id: whose.
        present: the release that drives.
    """

    def __init__(self, lake: Lake, vehicle_id: str, present: Champion | None) -> None:
        self._lake = lake
        self._vehicle_id = vehicle_id
        self._pointer = lake.checkpoints(CHAMPIONS, f"{vehicle_id}.json")
        self._stamp = self._look()
        self.present = present

    def newer(self) -> Champion | None:
        """The release, if it became another one since the last call; a damaged one is logged and left."""
        stamp = self._look()
        if stamp == self._stamp:
            return None
        self._stamp = stamp
        try:
            found = champion(self._lake, self._vehicle_id)
        except CheckpointError as error:
            _log.warning("the new release is not taken over: %s", error)
            return None
        if found is None or (self.present is not None and found.sha256 == self.present.sha256):
            return None
        self.present = found
        return found

    def _look(self) -> tuple[int, int] | None:
        try:
            found = self._pointer.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino


def _newest(lake: Lake, run: str) -> Path | None:
    store = CheckpointStore(lake.checkpoints(AGENT, run))
    return store.latest() if store.steps() else None


def _offline(lake: Lake, vehicle_id: str) -> Path | None:
    """The latest checkpoint of offline training, as its pointer says."""
    try:
        content = json.loads(lake.checkpoints(AGENT, f"{vehicle_id}.json").read_text(encoding="utf-8"))
        found = lake.checkpoints(AGENT, str(content["run"])) / f"{int(content['step']):08d}"
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found.is_dir() else None


def _later(one: Path | None, other: Path | None) -> Path | None:
    known = [path for path in (one, other) if path is not None]
    return max(known, key=lambda path: Checkpoint(path).manifest.created, default=None)
