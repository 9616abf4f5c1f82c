"""What drives by an exported graph decides as the agent itself does."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.agents.batches import SMALL
from tspace_core.agents import DDPG
from tspace_core.agents.fast_actor import FastSession, fast_session
from tspace_core.config import NoiseParameters
from tspace_core.errors import AgentError

DIM, ACTION = 12, 68
BANDS = (0.0, 0.2, 0.5, 1.0)
EXTREME = (0.0, 1e-30, -1.0, 50.0, 1e6, -1e6, 3e38, -3e38)


def ddpg(seed: int = 3, *, bands: tuple[float, ...] = (), fitted: bool = True) -> DDPG:
    hyper = SMALL.model_copy(update={"action_bands": bands, "noise": NoiseParameters(sigma=5.0)})
    agent = DDPG(hyper, DIM, ACTION, seed=seed)
    if fitted:
        agent.fit_normaliser(np.linspace(-20, 60, DIM), np.linspace(0, 30, DIM))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # beyond what training starts with: outputs of all sizes
        weight = agent.actor.output.weight
        weight += 0.5 * torch.randn(weight.shape, generator=generator)
    return agent


def some_states(seed: int) -> np.ndarray:
    print("seed", seed)
    generator = np.random.default_rng(seed)
    usual = generator.normal(20, 40, (200, DIM))
    extreme = generator.choice(EXTREME, (50, DIM))
    return np.concatenate([usual, extreme]).astype(np.float32)


@pytest.mark.parametrize("bands", [(), BANDS])
@pytest.mark.parametrize("fitted", [True, False])
def test_it_decides_as_the_agent_does(bands: tuple[float, ...], fitted: bool) -> None:
    agent = ddpg(bands=bands, fitted=fitted)
    session = fast_session(agent)
    assert isinstance(session, FastSession)
    states = some_states(1) if fitted else some_states(1)[:200]
    wanted = agent.predict(states)
    assert np.abs(wanted).max() > 0.99
    found = np.concatenate([session.act(state[None]) for state in states])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("bands", [(), BANDS])
def test_it_explores_as_the_agent_does(bands: tuple[float, ...]) -> None:
    agent = ddpg(bands=bands)
    slow, fast = agent.session(explore=True, seed=4), fast_session(agent, explore=True, seed=4)
    for episode in range(3):
        slow.begin()
        fast.begin()
        for state in some_states(episode)[:40]:
            found = fast.act(state[None])
            np.testing.assert_allclose(found, slow.act(state[None]), rtol=0, atol=1e-5)
            assert np.abs(found).max() <= 1.0


def test_answers_are_the_callers_own() -> None:
    session = fast_session(ddpg())
    first = session.act(np.zeros((1, DIM), np.float32))
    kept = first.copy()
    session.act(np.full((1, DIM), 40, np.float32))
    np.testing.assert_array_equal(first, kept)


def test_another_one_goes_on_where_it_stood() -> None:
    agent = ddpg()
    one, other = fast_session(agent, explore=True), fast_session(agent, explore=True, seed=9)
    state = np.full((1, DIM), 5, np.float32)
    one.act(state)
    other.restore(one.component())
    np.testing.assert_array_equal(one.act(state), other.act(state))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_do_not_drive(value: float) -> None:
    agent = ddpg()
    with torch.no_grad():
        agent.actor.hidden[1].weight[0, 0] = value  # type: ignore[operator]
    with pytest.raises(AgentError, match="1 weights of the ddpg actor are not finite: it has diverged"):
        fast_session(agent)


def test_states_are_checked_as_in_any_session() -> None:
    session = fast_session(ddpg())
    with pytest.raises(AgentError, match="expects"):
        session.act(np.zeros((2, DIM), np.float32))
    with pytest.raises(AgentError, match="not finite"):
        session.act(np.full((1, DIM), np.nan, np.float32))


THREADS = """
import os, sys
import numpy as np
import onnxruntime
before = len(os.listdir("/proc/self/task"))
from tests.agents.test_fast_actor import ddpg
from tspace_core.agents.fast_actor import fast_session
import torch
torch.set_num_threads(1)
sessions = [fast_session(ddpg(seed)) for seed in range(3)]
for session in sessions:
    session.act(np.zeros((1, 12), np.float32))
print(len(os.listdir("/proc/self/task")) - before)
"""


def test_it_starts_no_threads() -> None:
    done = subprocess.run(
        [sys.executable, "-c", THREADS],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.strip() == "0"
