"""Which checkpoint a run begins with, and whether another one has been released since."""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tspace_core.agents import AGENTS, Checkpoint, CheckpointStore
from tspace_core.agents.dpg import SCHEDULE, learning
from tspace_core.config import AgentHyperparameters, Vehicle, load_hyperparameters
from tspace_core.errors import CheckpointError, ObjectMissingError, StorageError
from tspace_core.objects.path import AnyPath, local_folder
from tspace_core.online.driver_agent import Successor
from tspace_core.online.learner_protocol import agent_of
from tspace_core.online.lookout import Lookout
from tspace_core.storage.champion import AGENT as CHAMPIONS
from tspace_core.storage.champion import Champion, champion
from tspace_core.storage.lake import Lake
from tspace_core.storage.pointer import pointer_version

_log = logging.getLogger(__name__)

DEFAULT_AGENT = "ddpg"
EVERY_S = 5.0
"""Time between looks that nobody asks for, s: they fetch a release before it is wanted."""


def as_trained(hyper: AgentHyperparameters, checkpoint: AnyPath) -> AgentHyperparameters:
    """The hyperparameters with which learning goes on from a checkpoint: its own.

    They made its networks, and its critic's values mean what discount and scale of the reward say; only when
    to learn and to save (``SCHEDULE``) is as ``hyper`` says.

    Raises:
        CheckpointError: the checkpoint is damaged, or of another agent than ``hyper``.
    """
    agent = AGENTS[agent_of(hyper)]
    theirs = agent.hyperparameters_of(Checkpoint(checkpoint))
    return theirs.model_copy(update={name: getattr(hyper, name) for name in SCHEDULE})


def differing(hyper: AgentHyperparameters, trained: AgentHyperparameters) -> str:
    """What learning goes on with that ``hyper`` says otherwise, in words; empty: nothing."""
    ours, theirs = learning(hyper), learning(trained)
    return ", ".join(
        f"{name} {theirs[name]} (not {ours[name]})" for name in ours if ours[name] != theirs[name]
    )


def learner_run(vehicle: Vehicle, hyper: AgentHyperparameters, released: Champion | None) -> str:
    """Name of the learner's run: another agent, release, window or kind of learning is another run.

    Runs with the same name go on from each other's checkpoints.
    """
    inputs = {
        "agent": agent_of(hyper),
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
        agent: name of the agent that drives and learns.
        hyper: its hyperparameters: those of the checkpoint that is gone on from, where there is one.
        only: whether releases of another agent are left out, because this one was asked for.
        notes: what is not as it might be expected.
        checkpoint: that drives; None: there is none.
        released: the champion, if there is one and it is not left out.
        run: name of the learner's run.
        start_from: what a learner without checkpoints of its own begins with.
        version: of the pointer to the champion, before it was looked up; see ``ReleaseWatch``.
    """

    agent: str
    hyper: AgentHyperparameters
    only: bool
    notes: tuple[str, ...]
    checkpoint: AnyPath | None
    released: Champion | None
    run: str
    start_from: AnyPath | None
    version: str | None = None


def choose(
    lake: Lake,
    vehicle: Vehicle,
    *,
    infer: bool,
    agent: str | None = None,
    hyper: AgentHyperparameters | None = None,
) -> Choice:
    """Choose what a run begins with.

    Inference: the release, else the newest checkpoint. Training: where the learner's run stands, else the
    release, else the newest checkpoint. All of one agent: the one that is asked for, by whoever starts the
    run or in the vehicle's file; else the release's; else ``DEFAULT_AGENT``.

    Args:
        lake: where releases and checkpoints are.
        vehicle: whose.
        infer: whether nothing is to be learned.
        agent: asked for; None: as the vehicle's file says.
        hyper: of that agent, for what begins with fresh networks; None: those in conf/.

    Raises:
        CheckpointError: the release, or the checkpoint to go on from, is damaged.
        ConfigError: there is no such agent.
    """
    asked = agent_of(hyper) if hyper is not None else agent or vehicle.online.agent
    version = pointer_version(_champions(lake, vehicle.id))
    released, notes = champion(lake, vehicle.id), []
    if released is not None and asked is not None and released.agent != asked:
        notes.append(f"{_named(released)}, but {asked} is asked for: the release is left out")
        released = None
    name = asked or (released.agent if released is not None else DEFAULT_AGENT)
    hyper = hyper or load_hyperparameters(name)
    start_from = released.checkpoint if released is not None else _offline(lake, name, vehicle.id)
    run = learner_run(vehicle, hyper, released)
    own = _newest(lake, name, run)
    if own is None and start_from is not None:
        hyper, note = _going_on(hyper, start_from)
        run = learner_run(vehicle, hyper, released)
        own = _newest(lake, name, run)
        notes += [note] if note and not infer else []
    if infer:
        checkpoint = released.checkpoint if released is not None else _later(own, start_from)
    else:
        checkpoint = own or start_from
    only = asked is not None
    return Choice(name, hyper, only, tuple(notes), checkpoint, released, run, start_from, version)


def choose_again(found: Choice, vehicle: Vehicle, released: Champion) -> Choice:
    """What a run that has begun goes on with after a release.

    Raises:
        CheckpointError: the release is damaged.
    """
    same = released.agent == found.agent
    hyper, note = _going_on(
        found.hyper if same else load_hyperparameters(released.agent), released.checkpoint
    )
    return replace(
        found,
        agent=released.agent,
        hyper=hyper,
        notes=(note,) if note else (),
        checkpoint=released.checkpoint,
        released=released,
        run=learner_run(vehicle, hyper, released),
        start_from=released.checkpoint,
    )


def _going_on(hyper: AgentHyperparameters, checkpoint: AnyPath) -> tuple[AgentHyperparameters, str]:
    trained = as_trained(hyper, checkpoint)
    odd = differing(hyper, trained)
    note = f"what is learned goes on as {checkpoint} was trained, with {odd}" if odd else ""
    return trained, note


@dataclass(frozen=True)
class Released:
    """A release that was found, and a folder on this machine with its files.

    ``successor`` is its policy, ready to drive; None where nobody prepares any.
    """

    champion: Champion
    folder: Path
    successor: Successor | None


class ReleaseWatch(Lookout[Released]):
    """Looks for another release than the one that drives, and prepares it.

    Args:
        lake: where releases are kept.
        vehicle_id: whose.
        present: the release that drives.
        version: of the pointer when that was chosen, so that what was released since is found; None: there
            was none, or it is looked up anyway.
        only: the agent whose releases count; None: any.
        prepare: makes the policy in a folder ready to drive, called by the name that comes second; None from
            it: it cannot drive. Default: releases are only looked for.
    """

    def __init__(
        self,
        lake: Lake,
        vehicle_id: str,
        present: Champion | None,
        *,
        version: str | None = None,
        only: str | None = None,
        prepare: Callable[[AnyPath, AnyPath], Successor | None] | None = None,
    ) -> None:
        super().__init__(EVERY_S)
        self._only = only
        self._lake = lake
        self._vehicle_id = vehicle_id
        self._prepare = prepare
        self._pointer = _champions(lake, vehicle_id)
        self._version = version
        self.present = present

    def find(self) -> Released | None:
        """Another release; a damaged one, or a lake out of reach, is logged and left."""
        try:
            version = pointer_version(self._pointer)
            if version == self._version:
                return None
            found = champion(self._lake, self._vehicle_id)
            folder = None if found is None else local_folder(found.checkpoint)
        except StorageError as error:  # the lake: the next look sees it
            _log.warning("no look for a new release: %s", error)
            return None
        except CheckpointError as error:
            _log.warning("the new release is not taken over: %s", error)
            found = folder = None
        self._version = version
        driving = None if self.present is None else self.present.sha256
        if found is None or folder is None or found.sha256 == driving:
            return None
        if self._only not in (None, found.agent):
            _log.warning("%s, but %s is asked for: the release is left out", _named(found), self._only)
            return None
        successor = None if self._prepare is None else self._prepare(folder, found.checkpoint)
        if self._prepare is not None and successor is None:
            return None
        self.present = found
        return Released(found, folder, successor)


def _champions(lake: Lake, vehicle_id: str) -> AnyPath:
    return lake.checkpoints(CHAMPIONS, f"{vehicle_id}.json")


def _named(released: Champion) -> str:
    return f"{released.run} step {released.step} is released, an agent of the kind {released.agent}"


def _newest(lake: Lake, agent: str, run: str) -> AnyPath | None:
    store = CheckpointStore(lake.checkpoints(agent, run))
    return store.latest() if store.steps() else None


def _offline(lake: Lake, agent: str, vehicle_id: str) -> AnyPath | None:
    """The latest checkpoint of offline training, as its pointer says."""
    try:
        content = json.loads(lake.checkpoints(agent, f"{vehicle_id}.json").read_text(encoding="utf-8"))
        found = lake.checkpoints(agent, str(content["run"])) / f"{int(content['step']):08d}"
    except (OSError, ObjectMissingError, ValueError, KeyError, TypeError):
        return None
    return found if found.is_dir() else None


def _later(one: AnyPath | None, other: AnyPath | None) -> AnyPath | None:
    known = [path for path in (one, other) if path is not None]
    return max(known, key=lambda path: Checkpoint(path).manifest.created, default=None)
