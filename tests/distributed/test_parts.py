"""A batch's parts: together the whole, and their shares the weights of its mean."""

import numpy as np
import pytest

from tests.agents.batches import SMALL, random_batch
from tspace_core.agents import DDPG
from tspace_core.distributed.learner import part_of
from tspace_core.errors import AgentError
from tspace_core.storage.replay_sequences import SequenceBatch


@pytest.mark.parametrize(("size", "workers"), [(32, 1), (32, 2), (33, 4), (5, 5)])
def test_parts_make_the_whole(size: int, workers: int) -> None:
    batch = random_batch(np.random.default_rng(size), size, 9, 68)
    parts = [part_of(batch, rank, workers) for rank in range(workers)]
    for name, values in batch._asdict().items():
        np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part, _ in parts]), values)
    assert sum(share for _, share in parts) == pytest.approx(1.0, abs=1e-12)


def test_weighted_gradients_of_the_parts_are_the_gradient_of_the_whole() -> None:
    batch = random_batch(np.random.default_rng(1), 31, 9, 68)

    def gradient(part: object, share: float) -> np.ndarray:
        agent, seen = DDPG(SMALL, 9, 68, seed=2), []
        agent.reduce = lambda flat: seen.append(flat.numpy().copy() * share)
        agent.train(part)  # type: ignore[arg-type]
        return seen[0]  # the critic's; the actor's is taken after the critic's step

    whole = gradient(batch, 1.0)
    parts = sum(gradient(*part_of(batch, rank, 3)) for rank in range(3))
    np.testing.assert_allclose(parts, whole, atol=1e-7)
    assert np.abs(whole).max() > 1e-3


def test_sequences_weigh_by_their_records() -> None:
    mask = np.zeros((4, 6), np.float32)
    for row, length in enumerate((6, 5, 4, 3)):
        mask[row, :length] = 1
    zeros = np.zeros((4, 6), np.float32)
    batch = SequenceBatch(
        np.zeros((4, 7, 2), np.float32), np.zeros((4, 6, 1), np.float32), zeros, zeros, mask, zeros, None
    )
    shares = [part_of(batch, rank, 2, burn_in=2)[1] for rank in range(2)]
    assert shares == [pytest.approx(7 / 10), pytest.approx(3 / 10)]
    second, _ = part_of(batch, 1, 2)
    assert isinstance(second, SequenceBatch)
    assert second.mask.sum() == 7


def test_fewer_records_than_workers() -> None:
    with pytest.raises(AgentError, match="a batch of 3 cannot be shared by 4 learners"):
        part_of(random_batch(np.random.default_rng(0), 3, 9, 68), 0, 4)
