"""Agents with memory, and those that draw and judge, drive by exported graphs as they do in torch."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch

from tspace_core.agents import AGENTS, DDPG, DPG, IDQL, RDPG
from tspace_core.agents.fast_actor import FAST, fast_session
from tspace_core.agents.onnx_diffusion import idql_graph
from tspace_core.agents.session import Session
from tspace_core.config import DDPGHyperparameters, IDQLHyperparameters, NoiseParameters, RDPGHyperparameters
from tspace_core.errors import AgentError

DIM, ACTION = 6, 68
BANDS = (0.0, 0.3, 1.0)
NOISE = NoiseParameters(sigma=3.0)
EXTREME = (0.0, -1e30, 1e6, 3e38, 40.0)
Hyper = RDPGHyperparameters | IDQLHyperparameters | DDPGHyperparameters

RECURRENT = {
    "lstm": RDPGHyperparameters(width=16, layers=2, noise=NOISE),
    "lstm of one layer, in bands": RDPGHyperparameters(width=8, layers=1, action_bands=BANDS, noise=NOISE),
    "transformer": RDPGHyperparameters(
        sequence_model="transformer", width=16, layers=2, heads=4, context=7, noise=NOISE
    ),
    "transformer that sees one step": RDPGHyperparameters(
        sequence_model="transformer", width=8, layers=1, heads=2, context=1, reward_scale=0.1, noise=NOISE
    ),
}
DRAWING = {
    "idql": IDQLHyperparameters(actor_width=16, value_hidden=(16, 12), samples=8, noise=NOISE),
    "idql in bands": IDQLHyperparameters(
        actor_width=16, actor_blocks=1, value_hidden=(8,), samples=8, action_bands=BANDS, noise=NOISE
    ),
}


def make(hyper: Hyper, *, fitted: bool = True) -> DPG:
    kind = next(agent for agent in AGENTS.values() if agent.hyper_class is type(hyper))
    agent = kind(hyper, DIM, ACTION, seed=5)
    if fitted:
        agent.fit_normaliser(np.linspace(-20, 60, DIM), np.linspace(0, 30, DIM))
    if isinstance(agent, RDPG):  # beyond what training starts with: outputs of all sizes
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            weight = agent.actor.output.weight
            weight += 0.5 * torch.randn(weight.shape, generator=generator)
    return agent


def drive(session: Session, steps: int, seed: int) -> list[np.ndarray]:
    """Actions and memories of three episodes in which some actions are not carried out."""
    generator = np.random.default_rng(seed)
    found = []
    for step in range(steps):
        state = generator.normal(20, 40, (1, DIM)).astype(np.float32)
        if step % 5 == 4:
            state[0, :3] = generator.choice(EXTREME, 3)
        begins = step % (steps // 3) == 0
        if begins:
            session.begin()
        reward = None if begins else generator.normal(0, 200, 1).astype(np.float32)
        found.append(session.act(state, reward))
        if session.memory is not None:
            found.append(session.memory)
        if step % 4 == 3:
            session.carried_out(generator.uniform(-1, 1, (1, ACTION)).astype(np.float32))
    return found


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize("explore", [False, True])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_recurrent_agent_decides_and_remembers_alike(name: str, explore: bool, seed: int) -> None:
    agent = make(RECURRENT[name])
    fast = fast_session(agent, explore=explore, seed=seed)
    slow = agent.session(explore=explore, seed=seed)
    wanted = drive(slow, 60, seed)
    assert max(np.abs(action).max() for action in wanted[::2]) > 0.9
    for one, other in zip(drive(fast, 60, seed), wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", DRAWING)
@pytest.mark.parametrize("explore", [False, True])
def test_what_draws_and_judges_decides_alike(name: str, explore: bool) -> None:
    agent = make(DRAWING[name])
    wanted = drive(agent.session(explore=explore, seed=3), 60, 3)
    found = drive(fast_session(agent, explore=explore, seed=3), 60, 3)
    # Rounding grows from step to step of the draw.
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(wanted), rtol=0, atol=2e-4)


@pytest.mark.parametrize("hyper", [RECURRENT["lstm"], DRAWING["idql"]])
def test_states_as_they_come_where_nothing_was_fitted(hyper: Hyper) -> None:
    agent = make(hyper, fitted=False)
    state = np.linspace(-1, 1, DIM, dtype=np.float32)[None]
    np.testing.assert_allclose(fast_session(agent).act(state), agent.session().act(state), rtol=0, atol=1e-4)


def test_an_export_is_of_use_in_all_agents() -> None:
    assert set(FAST) == set(AGENTS)


def test_weights_that_each_step_of_a_draw_uses_are_in_its_graph_once() -> None:
    agent = make(DRAWING["idql"])
    assert isinstance(agent, IDQL)
    networks = (agent.target_actor, agent.target_critic)
    weights = sum(weight.numel() for network in networks for weight in network.parameters())
    graph = onnx.load_from_string(idql_graph(agent)).graph
    held = sum(int(np.prod(constant.dims)) for constant in graph.initializer)
    beside = 2 * DIM + 100  # the normaliser, and numbers such as the schedule's
    assert weights <= held <= weights + beside


@pytest.mark.parametrize("hyper", [*RECURRENT.values(), *DRAWING.values()])
def test_the_agent_itself_goes_on_in_torch(hyper: Hyper) -> None:
    agent = make(hyper)
    state = np.ones((3, DIM), np.float32)
    before = agent.predict(state)
    fast = fast_session(agent)
    fast.act(state[:1])
    np.testing.assert_array_equal(agent.predict(state), before)
    assert agent.session(3).act(state).shape == (3, ACTION)


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_another_session_goes_on_with_what_was_remembered(name: str) -> None:
    agent = make(RECURRENT[name])
    one, other = fast_session(agent, explore=True), fast_session(agent, explore=True, seed=9)
    drive(one, 9, 1)
    other.restore(one.component())
    state, reward = np.full((1, DIM), 30, np.float32), np.ones(1, np.float32)
    np.testing.assert_array_equal(one.act(state, reward), other.act(state, reward))


def _lstm(agent: DPG) -> torch.Tensor:
    assert isinstance(agent, RDPG)
    return dict(agent.actor.named_parameters())["model.cells.weight_hh_l1"]


def _draw(agent: DPG) -> torch.Tensor:
    assert isinstance(agent, IDQL)
    return agent.target_actor.step


def _critic(agent: DPG) -> torch.Tensor:
    assert isinstance(agent, IDQL)
    return agent.target_critic.second.output.bias


def _actor(agent: DPG) -> torch.Tensor:
    assert isinstance(agent, DDPG)
    return agent.actor.output.bias


@pytest.mark.parametrize(
    ("hyper", "weight"),
    [
        (DDPGHyperparameters(), _actor),
        (RECURRENT["lstm"], _lstm),
        (DRAWING["idql"], _draw),
        (DRAWING["idql"], _critic),
    ],
)
def test_one_weight_that_is_not_finite_is_enough(hyper: Hyper, weight: Callable[[DPG], torch.Tensor]) -> None:
    agent = make(hyper)
    with torch.no_grad():
        weight(agent).view(-1)[-1] = np.nan
    with pytest.raises(AgentError, match=r"1 weights of the .* are not finite: it has diverged"):
        fast_session(agent)
