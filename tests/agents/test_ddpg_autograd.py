"""DDPG's hand-written update is the textbook's: the same weights after a hundred steps."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.agents.batches import random_batch
from tests.agents.plain_ddpg import PlainDDPG
from tspace_core.agents import DDPG
from tspace_core.config import DDPGHyperparameters
from tspace_core.storage.replay import ReplayBatch

STEPS = 100
NETWORKS = ("actor", "critic", "target_actor", "target_critic")
NARROW = {"actor_hidden": (64, 48), "critic_joint_hidden": (64, 48)}
BANDS = (0.0, 0.15, 0.4, 1.0)


def agent_of(state_dim: int, action_dim: int, **changes: object) -> DDPG:
    agent = DDPG(DDPGHyperparameters.model_validate({**NARROW, **changes}), state_dim, action_dim, seed=3)
    agent.fit_normaliser(np.full(state_dim, 0.5), np.full(state_dim, 2.0))
    return agent


@pytest.fixture
def double() -> Iterator[None]:
    """Networks in float64, where nothing but a wrong formula tells two computations apart."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def distances(agent: DDPG, plain: PlainDDPG) -> dict[str, Tensor]:
    """How far each network's weights are from the textbook's."""
    return {
        name: torch.cat(
            [
                (value - getattr(agent, name).state_dict()[key]).abs().flatten()
                for key, value in getattr(plain, name).state_dict().items()
            ]
        )
        for name in NETWORKS
    }


def both(size: int, action_dim: int, changes: dict[str, object]) -> tuple[DDPG, PlainDDPG]:
    """Agent and textbook after a hundred updates with the same batches."""
    agent = agent_of(90, action_dim, **changes)
    plain = PlainDDPG(agent, 0.5, 2.0)
    before = {name: getattr(agent, name).output.weight.detach().clone() for name in NETWORKS}
    generator = np.random.default_rng(size)
    for _ in range(STEPS):
        batch = random_batch(generator, size, 90, action_dim)
        agent.train(batch)
        agent.update_target()
        plain.update(batch)
    for name in NETWORKS:  # they are not where they began
        assert float((getattr(agent, name).output.weight.detach() - before[name]).abs().max()) > 1e-3
    return agent, plain


CASES = pytest.mark.parametrize(
    ("action_dim", "changes"),
    [
        (68, {}),
        (68, {"action_bands": BANDS}),
        (3, {"gamma": 0.9, "reward_scale": 0.1, "code_penalty": 0.02, "tau": 0.05}),
    ],
    ids=["cells", "bands", "other hyperparameters"],
)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("size", [64, 256])
@CASES
def test_a_hundred_updates_are_those_of_autograd(
    size: int, action_dim: int, changes: dict[str, object]
) -> None:
    for name, far in distances(*both(size, action_dim, changes)).items():
        assert float(far.max()) <= 1e-5, f"{name} is {float(far.max()):.2e} away"


@pytest.mark.parametrize("size", [64, 256])
def test_float32_rounds_nothing_away(size: int) -> None:
    """Weights as agents have them stay with autograd's, too.

    Not every one: where a sample lies on the border of a ReLU, the order of a sum decides whether the unit
    learns from it, and Adam makes a whole step even of the smallest gradient. That hits all of a unit's
    weights.
    """
    for name, far in distances(*both(size, 68, {})).items():
        share = float((far <= 1e-5).double().mean())
        assert share >= 0.9, f"{name}: {share:.2%} of the weights are within 1e-5"


def test_two_workers_that_average_their_gradients_learn_what_one_learns_from_all() -> None:
    whole, halves = agent_of(6, 4), [agent_of(6, 4), agent_of(6, 4)]
    generator = np.random.default_rng(8)
    batches = [random_batch(generator, 64, 6, 4) for _ in range(20)]
    met, given = threading.Barrier(2, timeout=60), [torch.empty(0), torch.empty(0)]
    calls = [0, 0]

    def work(number: int) -> None:
        def average(flat: Tensor) -> None:
            calls[number] += 1
            given[number] = flat.clone()
            met.wait()
            flat.copy_((given[0] + given[1]) / 2)
            met.wait()

        agent, part = halves[number], slice(32 * number, 32 * (number + 1))
        agent.reduce = average
        try:
            for batch in batches:
                agent.train(ReplayBatch(*(array[part] for array in batch)))
                agent.update_target()
        except BaseException:
            met.abort()
            raise

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work, number) for number in (0, 1)]:
            done.result(timeout=60)
    for batch in batches:
        whole.train(batch)
        whole.update_target()
    assert calls == [40, 40]  # critic and actor, once an update
    for name in NETWORKS:
        one, other = (getattr(agent, name).state_dict() for agent in halves)
        for key, value in getattr(whole, name).state_dict().items():
            torch.testing.assert_close(one[key], other[key], rtol=0, atol=0)
            torch.testing.assert_close(one[key], value, rtol=0, atol=1e-5)
