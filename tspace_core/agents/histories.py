"""A batch of sequences as a recurrent agent learns from it: what warms up its memory, and what teaches."""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tspace_core.errors import AgentError
from tspace_core.storage.replay_sequences import SequenceBatch


class Remembered(NamedTuple):
    """What is kept with a record, split: the step before it, and the actor's recurrent state before it."""

    codes: Tensor
    """(n, size) of the action before, zeros at an episode's begin."""
    rewards: Tensor
    """(n,) that it earned."""
    stored: Tensor | None
    """(n, stored_dim); None: nothing is stored of this kind of model."""


class Histories(NamedTuple):
    """Sequences, cut into burn-in and what is learned from."""

    warm: Tensor | None
    """(n, burn_in, inputs), inputs that bring the memory up to date; None: there are none."""
    inputs: Tensor
    """(n, K + 1, inputs) of the records to learn from, and of the state after them."""
    codes: Tensor
    """(n, K, size) of the actions."""
    rewards: Tensor
    """(n, K), as the replay holds them."""
    terminals: Tensor
    mask: Tensor
    """(n, K), 1 where there is a record to learn from."""
    records: float
    """How many there are, the mask's sum."""
    begins: Tensor
    """(n, 1) bool, sequences that begin their episode: nothing warms up their memory."""
    stored: Tensor | None
    """(n, stored_dim) memory of the actor before the first of ``warm``, or of ``inputs``."""


class InputMaker(Protocol):
    """Makes the networks' inputs of the step before and the present state."""

    def __call__(self, codes: Tensor, rewards: Tensor, states: Tensor, /) -> Tensor:
        """(..., inputs) of (..., size), (...,) and (..., state_dim)."""


def check_sequences(batch: SequenceBatch, state_dim: int, action_dim: int, memory_dim: int) -> None:
    """Refuse what cannot be learned from.

    Raises:
        AgentError: no sequence, a wrong shape, or a value that is not finite, with its sequence and record.
    """
    size, steps = len(batch.mask), batch.mask.shape[-1]
    if not batch.mask.size:
        message = "the batch holds no records; sample at least one sequence"
        raise AgentError(message)
    for name, array, shape in (
        ("states", batch.states, (size, steps + 1, state_dim)),
        ("actions", batch.actions, (size, steps, action_dim)),
        ("rewards", batch.rewards, (size, steps)),
        ("terminals", batch.terminals, (size, steps)),
        ("mask", batch.mask, (size, steps)),
        ("memory", batch.memory, (size, memory_dim)),
        ("begins", batch.begins, (size,)),
    ):
        if array is None:
            continue
        if array.shape != shape:
            message = f"{name} of the batch has shape {array.shape}, this agent expects {shape}"
            if name == "memory":
                message += "; the records were kept by another agent: learn from records of this one"
            raise AgentError(message)
        finite = np.isfinite(array)
        if not finite.all():
            where = np.argwhere(~finite)
            single = name in ("memory", "begins")  # of a sequence, not of its records
            place = f"sequence {where[0][0]}" + ("" if single else f", record {where[0][1]}")
            message = (
                f"{name} of the batch holds {len(where)} values that are not finite, the first in {place}; "
                "nothing was learned from it: check the replay with verify()"
            )
            raise AgentError(message)


def histories_of(
    batch: SequenceBatch,
    codes: NDArray[np.float32],
    burn_in: int,
    remembered: Remembered | None,
    make: InputMaker,
) -> Histories:
    """Cut a batch into burn-in and records to learn from.

    A sequence that begins its episode needs no burn-in, so it is learned from its first record on. Padding at
    the end that all sequences share is left out.

    Args:
        batch: as drawn, checked.
        codes: (n, T, size) of its actions.
        burn_in: records at a sequence's begin to warm up with.
        remembered: what was kept with the first record of each; None: nothing.
        make: see ``InputMaker``.

    Raises:
        AgentError: no sequence is longer than the burn-in.
    """
    size, steps = batch.mask.shape
    counts = batch.mask.sum(axis=1)
    begins = np.zeros(size, np.bool_) if batch.begins is None else batch.begins != 0
    offsets = np.where(begins, 0, burn_in)
    longest = min(int((counts - offsets).max()), steps - burn_in)
    if longest < 1:
        message = (
            f"the batch has no record to learn from: {int(counts.max())} records at most in a sequence, "
            f"burn_in is {burn_in}; keep longer episodes or lower burn_in"
        )
        raise AgentError(message)
    past_codes, past_rewards = tensor(codes), tensor(batch.rewards)
    if remembered is None:
        first_codes, first_rewards = (
            past_codes.new_zeros(size, past_codes.shape[2]),
            past_rewards.new_zeros(size),
        )
    else:
        first_codes, first_rewards = remembered.codes, remembered.rewards
    inputs = make(
        torch.cat([first_codes[:, None], past_codes], dim=1),
        torch.cat([first_rewards[:, None], past_rewards], dim=1),
        tensor(batch.states),
    )
    rows = torch.arange(size)[:, None]
    columns = torch.from_numpy(offsets)[:, None] + torch.arange(longest + 1)
    places = columns[:, :-1]
    mask = tensor(batch.mask)[rows, places]
    return Histories(
        warm=None if burn_in == 0 or begins.all() else inputs[:, :burn_in],
        inputs=inputs[rows, columns],
        codes=past_codes[rows, places],
        rewards=past_rewards[rows, places],
        terminals=tensor(batch.terminals)[rows, places],
        mask=mask,
        records=float(mask.sum()),
        begins=torch.from_numpy(begins)[:, None],
        stored=None if remembered is None else remembered.stored,
    )


def tensor(array: NDArray[np.float32]) -> Tensor:
    """Share the array's memory; torch warns about memory that must not be written, so that is copied."""
    found = np.ascontiguousarray(array, np.float32)
    return torch.from_numpy(found if found.flags.writeable else found.copy())
