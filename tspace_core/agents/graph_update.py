"""Offline training on a CUDA device: intervals of updates that the host only starts."""

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch

from tspace_core.agents.ddpg import DDPG
from tspace_core.agents.dpg import DPG, Losses
from tspace_core.errors import AgentError
from tspace_core.storage.replay import Replay

if TYPE_CHECKING:
    from tspace_core.agents.ddpg_graph import DDPGGraph
    from tspace_core.agents.sources import RecordSource

_log = logging.getLogger(__name__)


def graph_update(agent: DPG, replay: Replay) -> "GraphUpdate | None":
    """How to learn on this machine's CUDA device; None: on the host.

    On a device learns DDPG, alone, with a fitted normaliser, where the buffer has room there.
    """
    if not isinstance(agent, DDPG) or agent.reduce is not None or not torch.cuda.is_available():
        return None
    update = GraphUpdate("cuda")
    try:
        update.begin(agent, replay)
    except AgentError as error:
        _log.warning("learning on the host: %s", error)
        return None
    return update


class GraphUpdate:
    """Updates of one DDPG agent from one buffer on a device, as ``training.Update``.

    An interval's batches are decided by one number of the host's generator, so that a run that stops between
    two intervals goes on as if it had not; they are other batches than those on the host. After each interval
    the agent holds what was learned.

    Args:
        device: of torch.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._graph: DDPGGraph | None = None

    def begin(self, agent: DPG, replay: "RecordSource") -> "DDPGGraph":
        """Copy agent and buffer to the device; the first call does it, if nobody did before.

        Raises:
            AgentError: the device has no room for buffer and agent, or the agent cannot learn in a graph.
        """
        from tspace_core.agents.ddpg_graph import DDPGGraph
        from tspace_core.agents.device_replay import DeviceReplay

        if not isinstance(agent, DDPG) or not isinstance(replay, Replay):
            message = f"a {agent.name} agent does not learn from a {type(replay).__name__} in a graph"
            raise AgentError(message)
        copied = DeviceReplay(replay, self._device)
        try:
            self._graph = DDPGGraph(agent, copied)
        except RuntimeError as error:  # torch's way to say that there is no memory
            message = f"no room on {self._device} beside the buffer of {replay.directory}: {error}"
            raise AgentError(message) from error
        return self._graph

    def __call__(
        self, agent: DPG, source: "RecordSource", generator: np.random.Generator, limit: int
    ) -> tuple[Losses, float, int]:
        """``limit`` updates, always of the same agent: mean losses, mean reward of the records, ``limit``.

        Raises:
            AgentError: see ``begin``.
            DivergedError: a loss of the interval is not finite; the agent is as it was before it.
        """
        graph = self._graph or self.begin(agent, source)
        losses, reward = graph.run(limit, int(generator.integers(2**62)))
        graph.write_back()
        return losses, reward, limit
