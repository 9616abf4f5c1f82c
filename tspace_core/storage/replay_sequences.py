"""Sequences of records for recurrent agents: what a batch of them holds."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class SequenceBatch(NamedTuple):
    """A batch of runs of successive records, each within one episode; T is burn-in plus length.

    Where an episode is shorter than T, the sequence begins with its records and the rest is padding: there
    the mask and all other numbers are 0. The state after the last record is there, at index n of a sequence
    of n records. A recurrent agent's input of step t is (action t-1, reward t-1, state t); it begins with
    zeros.
    """

    states: NDArray[np.float32]
    """(batch, T + 1, state_dim), physical units of the signals."""
    actions: NDArray[np.float32]
    """(batch, T, action_dim) in [-1, 1]."""
    rewards: NDArray[np.float32]
    """(batch, T), unit of the reward kind (energy: minus Wh)."""
    terminals: NDArray[np.float32]
    """(batch, T), 1 only at a true end of the task."""
    mask: NDArray[np.float32]
    """(batch, T), 1 where there is a record, 0 where there is padding."""
    first_rows: NDArray[np.float32]
    """(batch, T), first row of the torque map that each action stands for."""
    memory: NDArray[np.float32] | None
    """(batch, memory_dim) recurrent state at each sequence's first record, zeros where none was stored; None
    where the source keeps none."""
    begins: NDArray[np.float32] | None = None
    """(batch,) 1 where a sequence's first record is the first that is there of its episode: nothing was
    before it to be remembered. None where the source does not say."""
