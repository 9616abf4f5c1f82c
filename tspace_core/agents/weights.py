"""Weights on their way from a learner to what drives: a policy's checkpoint a version, visible as a whole.

::

    <root>/00000012/   manifest.json, actor, target_actor, normaliser, weights (version, updates, noise)

A folder is a checkpoint for mode ``infer``: ``load_agent`` and ``DPG.take_policy`` read it. The newest few
stay, so that a reader that was told of one can still read it while the next ones are written.
"""

from pathlib import Path
from typing import Any, NamedTuple

from tspace_core.agents.checkpoint import Checkpoint, CheckpointStore, Component
from tspace_core.agents.dpg import DPG
from tspace_core.config import NoiseParameters
from tspace_core.objects.path import AnyPath

WEIGHTS = "weights"
KEPT = 5


class WeightsInfo(NamedTuple):
    """What a version is."""

    version: int
    updates: int
    """Updates of the learner's loop when it was written."""
    noise: NoiseParameters
    """Exploration noise that belongs to it."""


class WeightsFolder:
    """The versions of weights below a folder; one process writes."""

    def __init__(self, root: Path, *, keep: int = KEPT) -> None:
        self.root = root
        self._versions = CheckpointStore(root, keep=keep)

    def versions(self) -> list[int]:
        """Complete versions, ascending."""
        return self._versions.steps()

    def path(self, version: int) -> Path:
        """Folder of a version."""
        return self.root / f"{version:08d}"

    def publish(self, agent: DPG, updates: int) -> int:
        """Write the agent's policy as the next version, remove the oldest, return the version."""
        known = self.versions()
        version = known[-1] + 1 if known else 1
        values = {"version": version, "updates": updates, "noise": agent.hyper.noise.model_dump()}
        agent.save_policy(self.path(version), step=version, extra={WEIGHTS: Component(values=values)})
        self._versions.trim()
        return version


def read_info(path: AnyPath) -> WeightsInfo:
    """What the weights in a folder are.

    Raises:
        CheckpointError: they are gone, damaged, or no weights.
    """
    values: Any = Checkpoint(path).component(WEIGHTS, ("version", "updates", "noise")).values
    return WeightsInfo(
        int(values["version"]), int(values["updates"]), NoiseParameters.model_validate(values["noise"])
    )
