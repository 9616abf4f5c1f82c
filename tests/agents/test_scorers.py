"""Every agent answers for recorded episodes what it would have done while they were driven."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.agents.test_fast_agents import BANDS, DRAWING, RECURRENT, Hyper, make
from tspace_core.agents import AGENTS, DDPG, IDQL, RDPG, Checkpoint
from tspace_core.agents import scorers as scorers_module
from tspace_core.agents.scorers import SCORERS, Recorded, Values
from tspace_core.config import DDPGHyperparameters
from tspace_core.errors import CheckpointError

DIM, ACTION = 6, 68
LENGTHS = (7, 1, 12, 5)
HYPERS: dict[str, Hyper] = {
    "ddpg": DDPGHyperparameters(actor_hidden=(16,)),
    "ddpg in bands": DDPGHyperparameters(actor_hidden=(16,), action_bands=BANDS),
    **RECURRENT,
    **DRAWING,
}


def recorded(seed: int = 1) -> Recorded:
    generator = np.random.default_rng(seed)
    n = sum(LENGTHS)
    begins = np.zeros(n, np.bool_)
    begins[np.cumsum((0, *LENGTHS[:-1]))] = True
    return Recorded(
        generator.normal(20, 40, (n, DIM)).astype(np.float32),
        generator.uniform(-1, 1, (n, ACTION)).astype(np.float32),
        generator.normal(0, 50, n).astype(np.float32),
        begins,
    )


def score(folder: Path, cuts: tuple[int, ...] = ()) -> Values:
    """Values of all records, given in pieces."""
    checkpoint = Checkpoint(folder)
    scorer = SCORERS[checkpoint.manifest.agent](checkpoint)
    records = recorded()
    ends = [*cuts, len(records.begins)]
    parts = [scorer(records.part(slice(a, b))) for a, b in zip([0, *cuts], ends, strict=True)]
    return Values(*(np.concatenate(values) for values in zip(*parts, strict=True)))


@pytest.mark.parametrize("name", HYPERS)
def test_proposals_are_what_a_session_would_have_done(name: str, tmp_path: Path) -> None:
    agent = make(HYPERS[name])
    agent.save(tmp_path / "c")
    found = score(tmp_path / "c")
    session, records, reward = agent.session(), recorded(), np.zeros(1, np.float32)
    for number in range(len(records.begins)):
        if records.begins[number]:
            session.begin()
        action = session.act(records.states[number][None], reward)
        np.testing.assert_allclose(found.actions[number], action[0], rtol=0, atol=2e-4)
        session.carried_out(records.actions[number][None])
        reward = records.rewards[number][None]


@pytest.mark.parametrize("name", HYPERS)
def test_pieces_leave_no_seam(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(HYPERS[name]).save(tmp_path / "c")
    whole = score(tmp_path / "c")
    monkeypatch.setattr(scorers_module, "STEPS", 3)
    monkeypatch.setattr(scorers_module, "STEP", 4)
    for one, other in zip(score(tmp_path / "c", (2, 7, 11, 13)), whole, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("name", HYPERS)
def test_values_are_the_critics_own(name: str, tmp_path: Path) -> None:
    agent = make(HYPERS[name])
    agent.save(tmp_path / "c")
    found, records = score(tmp_path / "c"), recorded()
    first = torch.from_numpy(records.states[:1])
    for actions, values in ((found.actions, found.q_proposal), (records.actions, found.q_behaviour)):
        code = torch.from_numpy(agent.basis.project(actions[:1]))
        with torch.no_grad():
            if isinstance(agent, DDPG):
                value = agent.critic(agent.normaliser(first), code)
            elif isinstance(agent, IDQL):
                value = agent.target_critic(agent.normaliser(first), code).amin()
            else:
                assert isinstance(agent, RDPG)
                start = torch.zeros(1, agent.basis.size), torch.zeros(1)
                value = agent.critic(agent._inputs(*start, first)[:, None], code[:, None], None)
        assert values[0] == pytest.approx(float(value), rel=1e-4, abs=1e-5)


def test_all_agents_score() -> None:
    assert set(SCORERS) == set(AGENTS)


@pytest.mark.parametrize("name", ["ddpg", "lstm"])
def test_a_policy_alone_has_no_opinion(name: str, tmp_path: Path) -> None:
    make(HYPERS[name]).save_policy(tmp_path / "c")
    with pytest.raises(CheckpointError, match="has no component 'critic'"):
        score(tmp_path / "c")
