"""Which checkpoint a run begins with, and whether another one has been released since."""

import hashlib
import json
import logging
import threading
from dataclasses import dataclass
from pathlib import Path

from tspace_core.agents import Checkpoint, CheckpointStore
from tspace_core.agents.ddpg import SCHEDULE
from tspace_core.config import DDPGHyperparameters, Vehicle
from tspace_core.errors import CheckpointError, ObjectMissingError, StorageError
from tspace_core.objects.path import AnyPath, local_folder
from tspace_core.storage.champion import AGENT as CHAMPIONS
from tspace_core.storage.champion import Champion, champion
from tspace_core.storage.lake import Lake
from tspace_core.storage.pointer import pointer_version

_log = logging.getLogger(__name__)

AGENT = "ddpg"
LOOK_S = 0.5
"""How long a look for a release may take at the begin of an episode, s; its first window takes longer."""
EVERY_S = 5.0
"""Time between looks that nobody asks for, s: they fetch a release before it is wanted."""


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

    checkpoint: AnyPath | None
    released: Champion | None
    run: str
    start_from: AnyPath | None


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


@dataclass(frozen=True)
class Released:
    """A release that was found, and a folder on this machine with its files."""

    champion: Champion
    folder: Path


class ReleaseWatch:
    """Looks for another release than the one that drives; never keeps the control loop waiting for a lake.

    ``look`` may take its time and belongs on a task of its own; ``newer`` gives what it has found.

    Args:
        lake: where releases are kept.
        vehicle_id: whose.
        present: the release that drives.
    """

    def __init__(self, lake: Lake, vehicle_id: str, present: Champion | None) -> None:
        self._lake = lake
        self._vehicle_id = vehicle_id
        self._pointer = lake.checkpoints(CHAMPIONS, f"{vehicle_id}.json")
        self._version = pointer_version(self._pointer)
        self._changed = threading.Condition()
        self._asked = self._looked = 0
        self._found: Released | None = None
        self._closed = False
        self.present = present

    def newer(self, wait_s: float = LOOK_S) -> Released | None:
        """The release, if it became another one since the last call.

        A look is asked for and waited for, that long at most: one that takes longer counts for the next call.
        """
        with self._changed:
            self._asked += 1
            asked = self._asked
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._looked >= asked or self._closed, wait_s)
            found, self._found = self._found, None
        return found

    def watch(self) -> None:
        """Look when it is asked for, and now and then, until ``close``; a task of the run's supervisor."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._asked > self._looked or self._closed, EVERY_S)
                if self._closed:
                    return
                asked = self._asked
            self.look()
            with self._changed:
                self._looked = asked
                self._changed.notify_all()

    def close(self) -> None:
        """Look no more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def look(self) -> None:
        """Look for another release; a damaged one, or a lake out of reach, is logged and left."""
        try:
            version = pointer_version(self._pointer)
            if version == self._version:
                return
            found = champion(self._lake, self._vehicle_id)
            folder = None if found is None else local_folder(found.checkpoint)
        except StorageError as error:  # the lake: the next look sees it
            _log.warning("no look for a new release: %s", error)
            return
        except CheckpointError as error:
            _log.warning("the new release is not taken over: %s", error)
            found = folder = None
        self._version = version
        driving = None if self.present is None else self.present.sha256
        if found is None or folder is None or found.sha256 == driving:
            return
        self.present = found
        with self._changed:
            self._found = Released(found, folder)


def _newest(lake: Lake, run: str) -> AnyPath | None:
    store = CheckpointStore(lake.checkpoints(AGENT, run))
    return store.latest() if store.steps() else None


def _offline(lake: Lake, vehicle_id: str) -> AnyPath | None:
    """The latest checkpoint of offline training, as its pointer says."""
    try:
        content = json.loads(lake.checkpoints(AGENT, f"{vehicle_id}.json").read_text(encoding="utf-8"))
        found = lake.checkpoints(AGENT, str(content["run"])) / f"{int(content['step']):08d}"
    except (OSError, ObjectMissingError, ValueError, KeyError, TypeError):
        return None
    return found if found.is_dir() else None


def _later(one: AnyPath | None, other: AnyPath | None) -> AnyPath | None:
    known = [path for path in (one, other) if path is not None]
    return max(known, key=lambda path: Checkpoint(path).manifest.created, default=None)
