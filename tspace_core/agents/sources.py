"""What agents draw batches from: any source of records, or of sequences of them."""

from typing import Protocol, runtime_checkable

import numpy as np

from tspace_core.errors import AgentError
from tspace_core.storage.replay import ReplayBatch
from tspace_core.storage.replay_sequences import SequenceBatch

Batch = ReplayBatch | SequenceBatch


class RecordSource(Protocol):
    """What records are drawn from: a replay buffer (``Replay``, ``GrowingReplay``) or ``LiveReplay``."""

    def __len__(self) -> int:
        """Records there are now."""

    def sample(self, batch: int, generator: np.random.Generator) -> ReplayBatch:
        """Draw records uniformly, with replacement."""


@runtime_checkable
class SequenceSource(RecordSource, Protocol):
    """What sequences are drawn from: a replay buffer or ``LiveReplay``."""

    def sample_sequences(
        self, batch: int, length: int, generator: np.random.Generator, *, burn_in: int = 0, stride: int = 1
    ) -> SequenceBatch:
        """Draw runs of successive records."""


def sequences_of(source: RecordSource) -> SequenceSource:
    """The source, if sequences can be drawn from it.

    Raises:
        AgentError: it keeps records one by one.
    """
    if not isinstance(source, SequenceSource):
        message = (
            f"a {type(source).__name__} keeps records one by one and has no sequences; put the episodes "
            "into a LiveReplay or a growing replay buffer and draw from that"
        )
        raise AgentError(message)
    return source


def mean_reward(batch: Batch) -> float:
    """Mean reward of a batch's records, padding left out."""
    if isinstance(batch, SequenceBatch):
        return float(batch.rewards.sum(dtype=np.float64) / max(batch.mask.sum(dtype=np.float64), 1.0))
    return float(batch.rewards.mean(dtype=np.float64))
