"""Weights go from a learning agent to a driving one whole, checked, and without its noise."""

from pathlib import Path

import numpy as np
import pytest

from tests.agents.batches import SMALL, random_batch
from tspace_core.agents import DDPG, Checkpoint, CheckpointStore, load_agent
from tspace_core.agents.checkpoint import Component
from tspace_core.agents.weights import WeightsFolder, read_info
from tspace_core.errors import CheckpointError

STATES = np.random.default_rng(5).normal(size=(9, 6)).astype(np.float32)


def learned(updates: int = 8) -> DDPG:
    agent = DDPG(SMALL, 6, 5, seed=3)
    agent.fit_normaliser(np.arange(6.0), np.arange(1.0, 7.0))
    generator = np.random.default_rng(1)
    for _ in range(updates):
        agent.train(random_batch(generator, 32, 6, 5))
        agent.update_target()
    return agent


@pytest.mark.parametrize("mode", ["train", "infer"])
def test_what_drives_acts_as_what_learned(tmp_path: Path, mode: str) -> None:
    learner, folder = learned(), WeightsFolder(tmp_path / "w")
    path = folder.path(folder.publish(learner, 8))
    driver = DDPG(SMALL, 6, 5, seed=9, mode=mode)  # type: ignore[arg-type]
    driver.take_policy(Checkpoint(path))
    np.testing.assert_array_equal(driver.predict(STATES), learner.predict(STATES))
    np.testing.assert_array_equal(driver.predict_target(STATES), learner.predict_target(STATES))
    np.testing.assert_array_equal(load_agent(path).predict(STATES), learner.predict(STATES))
    assert read_info(path) == (1, 8, SMALL.noise)


def test_exploration_goes_on_across_a_take_over(tmp_path: Path) -> None:
    folder = WeightsFolder(tmp_path / "w")
    path = folder.path(folder.publish(learned(), 8))
    one, other = (DDPG(SMALL, 6, 5, seed=9) for _ in range(2))
    sessions = [agent.session(explore=True) for agent in (one, other)]
    for session in sessions:
        session.begin()
        session.act(STATES[:1])
    one.take_policy(Checkpoint(path))
    noise, undisturbed = (session.act(STATES[:1]) - session.agent.predict(STATES[:1]) for session in sessions)
    np.testing.assert_allclose(noise, undisturbed, atol=1e-6)
    assert np.abs(noise).max() > 0


def test_versions_go_on_and_the_newest_stay(tmp_path: Path) -> None:
    agent = learned(1)
    folder = WeightsFolder(tmp_path / "w", keep=3)
    assert [folder.publish(agent, 1) for _ in range(5)] == [1, 2, 3, 4, 5]
    assert folder.versions() == [3, 4, 5]
    assert WeightsFolder(tmp_path / "w", keep=3).publish(agent, 1) == 6


def test_damaged_weights_leave_the_driver_as_it_was(tmp_path: Path) -> None:
    folder = WeightsFolder(tmp_path / "w")
    path = folder.path(folder.publish(learned(), 8))
    whole = (path / "normaliser.safetensors").read_bytes()
    (path / "normaliser.safetensors").write_bytes(whole[:-1])
    driver = DDPG(SMALL, 6, 5, seed=9)
    before = driver.predict(STATES)
    with pytest.raises(CheckpointError, match="cut off or changed"):
        driver.take_policy(Checkpoint(path))
    with pytest.raises(CheckpointError, match="state_dim is 6, this agent has 7"):
        DDPG(SMALL, 7, 5).take_policy(Checkpoint(path))
    np.testing.assert_array_equal(driver.predict(STATES), before)
    with pytest.raises(CheckpointError, match="has no component 'weights'"):
        learned(1).save(tmp_path / "c")
        read_info(tmp_path / "c")


def test_a_changed_or_missing_plain_value_is_told(tmp_path: Path) -> None:
    agent = learned(1)
    agent.save(tmp_path / "c", extra={"more": Component(values={"done": 5, "share": 0.1})})
    assert Checkpoint(tmp_path / "c").component("more", ("done",)).values == {"done": 5, "share": 0.1}
    with pytest.raises(CheckpointError, match=r"more\.json: lacks the value 'credit'"):
        Checkpoint(tmp_path / "c").component("more", ("done", "credit"))
    part = tmp_path / "c" / "counters.json"
    part.write_text(part.read_text().replace('"updates": 1', '"updates": 7'))
    with pytest.raises(CheckpointError, match=r"counters\.json: its values are not those"):
        DDPG.load(tmp_path / "c", mode="train")


def test_a_checkpoint_from_before_values_were_hashed_is_read(tmp_path: Path) -> None:
    agent = learned(2)
    agent.save(tmp_path / "c")
    for part in (tmp_path / "c").glob("*.json"):
        kept = [line for line in part.read_text().splitlines() if "values_sha256" not in line]
        text = "\n".join(kept)
        part.write_text(text.replace("},\n}", "}\n}"))
    loaded = DDPG.load(tmp_path / "c", mode="train")
    assert loaded.updates == 2
    np.testing.assert_array_equal(loaded.predict(STATES), agent.predict(STATES))


def test_what_a_killed_removal_left_stands_in_no_ones_way(tmp_path: Path) -> None:
    agent, store = learned(1), CheckpointStore(tmp_path, keep=2, every=1)
    store.save(agent, 1)
    (tmp_path / ".00000001.tmp").mkdir()
    (tmp_path / ".00000001.tmp" / "actor.json").write_text("{}")
    for step in (2, 3):
        store.save(agent, step)
    assert store.steps() == [2, 3]
    store.clear()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000002", "00000003"]


def test_an_agent_with_a_number_that_is_not_finite_says_so() -> None:
    agent = learned(1)
    assert agent.finite()
    agent.critic.output.weight.data[0, 0] = np.nan
    assert not agent.finite()
