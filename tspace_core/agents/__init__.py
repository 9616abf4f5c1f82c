"""Agents that learn torque maps from replay, their checkpoints, training and tracking."""

from tspace_core.agents.checkpoint import Checkpoint, CheckpointStore
from tspace_core.agents.ddpg import DDPG
from tspace_core.agents.dpg import DPG, Losses, Mode
from tspace_core.agents.idql import IDQL
from tspace_core.agents.rdpg import RDPG
from tspace_core.agents.session import Session
from tspace_core.errors import CheckpointError
from tspace_core.objects.path import AnyPath

AGENTS: dict[str, type[DPG]] = {DDPG.name: DDPG, RDPG.name: RDPG, IDQL.name: IDQL}
"""Agents by the name in their checkpoints; a new agent is one line here."""


def load_agent(directory: AnyPath, mode: Mode = "infer") -> DPG:
    """The agent of a checkpoint, whichever it is.

    Raises:
        CheckpointError: an unknown agent, or a file that is missing or damaged.
    """
    name = Checkpoint(directory).manifest.agent
    if name not in AGENTS:
        message = f"{directory}: checkpoint of an unknown agent {name!r}; known: {', '.join(AGENTS)}"
        raise CheckpointError(message)
    return AGENTS[name].load(directory, mode)


__all__ = [
    "AGENTS",
    "DDPG",
    "DPG",
    "IDQL",
    "RDPG",
    "Checkpoint",
    "CheckpointStore",
    "Losses",
    "Mode",
    "Session",
    "load_agent",
]
