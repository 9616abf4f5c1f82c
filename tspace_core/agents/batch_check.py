"""Refuses batches that would spoil an agent, before anything is learned from them."""

import numpy as np

from tspace_core.agents.sources import Batch
from tspace_core.errors import AgentError
from tspace_core.storage.replay import ReplayBatch


def checked_shapes(batch: Batch, agent: str, state_dim: int, action_dim: int) -> ReplayBatch:
    """The batch, if its shapes are those of an agent of these dimensions.

    Raises:
        AgentError: it is one of sequences, is empty, or a field has a wrong shape.
    """
    if not isinstance(batch, ReplayBatch):
        message = f"{agent} learns from a ReplayBatch, got a {type(batch).__name__}; use draw"
        raise AgentError(message)
    size = len(batch.rewards)
    if size == 0:
        message = "the batch holds no records; sample at least one"
        raise AgentError(message)
    for name, array, shape in (
        ("states", batch.states, (size, state_dim)),
        ("actions", batch.actions, (size, action_dim)),
        ("rewards", batch.rewards, (size,)),
        ("next_states", batch.next_states, (size, state_dim)),
        ("terminals", batch.terminals, (size,)),
    ):
        if array.shape != shape:
            message = f"{name} of the batch has shape {array.shape}, this agent expects {shape}"
            raise AgentError(message)
    return batch


def checked_records(batch: Batch, agent: str, state_dim: int, action_dim: int) -> ReplayBatch:
    """The batch, if an agent of these dimensions can learn from it.

    Raises:
        AgentError: as ``checked_shapes``, or a field has values that are not finite.
    """
    records = checked_shapes(batch, agent, state_dim, action_dim)
    for name in ("states", "actions", "rewards", "next_states", "terminals"):
        finite = np.isfinite(getattr(records, name))
        if not finite.all():
            message = (
                f"{name} of the batch holds {finite.size - int(finite.sum())} values that are not "
                "finite; nothing was learned from it: check the replay with verify()"
            )
            raise AgentError(message)
    return records
