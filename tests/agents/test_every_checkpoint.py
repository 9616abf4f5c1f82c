"""Whatever the agent: a torn checkpoint is an error that names the file, and diverged weights go nowhere."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.agents.test_fast_agents import DRAWING, RECURRENT, Hyper, make
from tspace_core.agents import AGENTS, Checkpoint, load_agent
from tspace_core.agents.weights import WeightsFolder, read_info
from tspace_core.config import DDPGHyperparameters
from tspace_core.errors import CheckpointError
from tspace_core.online.driver_agent import DriverAgent

HYPERS: dict[str, Hyper] = {
    "ddpg": DDPGHyperparameters(actor_hidden=(16,)),
    "lstm": RECURRENT["lstm"],
    "transformer": RECURRENT["transformer"],
    "idql": DRAWING["idql"],
}
STATE = np.linspace(0, 50, 6, dtype=np.float32)


def policy_files(name: str) -> list[str]:
    """The files that the policy of an agent is in."""
    kind = next(agent for agent in AGENTS.values() if agent.hyper_class is type(HYPERS[name]))
    return [f"{part}.{end}" for part in kind.policy_components for end in ("safetensors", "json")]


@pytest.mark.parametrize("name", HYPERS)
@pytest.mark.parametrize("mode", ["train", "infer"])
def test_it_comes_back_as_it_was(name: str, mode: str, tmp_path: Path) -> None:
    agent = make(HYPERS[name])
    agent.save(tmp_path / "c")
    again = load_agent(tmp_path / "c", "train" if mode == "train" else "infer")
    np.testing.assert_array_equal(again.predict(STATE), agent.predict(STATE))
    assert again.memory_dim == agent.memory_dim


@pytest.mark.parametrize("name", HYPERS)
@pytest.mark.parametrize("damage", ["cut off", "one bit", "gone"])
def test_any_torn_file_is_named_and_nothing_is_driven_by_it(name: str, damage: str, tmp_path: Path) -> None:
    agent = make(HYPERS[name])
    driver = DriverAgent(make(HYPERS[name]), explore=False)
    before = driver.act(STATE)
    for file in [*policy_files(name), "manifest.json"]:
        folder = tmp_path / file
        agent.save(folder)
        path = folder / file
        data = bytearray(path.read_bytes())
        if damage == "one bit" and file.endswith("json"):
            continue  # a bit of a number may make another number: hashed where it counts, see the values
        data[len(data) // 2] ^= 1
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(data if damage == "one bit" else data[: len(data) // 2])
        with pytest.raises(CheckpointError, match=file.replace(".", r"\.")):
            load_agent(folder)
        assert driver.prepare(folder) is None
    driver.begin_episode()
    np.testing.assert_array_equal(driver.act(STATE), before)


@pytest.mark.parametrize("name", HYPERS)
def test_diverged_weights_are_not_taken_over(name: str, tmp_path: Path) -> None:
    agent = make(HYPERS[name])
    driver = DriverAgent(make(HYPERS[name]), explore=True)
    assert agent.finite()
    for component in agent.policy_components:
        for tensor in agent._components()[component].tensors.values():
            kept = tensor.clone()
            with torch.no_grad():
                tensor.view(-1)[-1] = np.nan
            assert not agent.finite()
            folder = tmp_path / f"{component}{len(list(tmp_path.iterdir()))}"
            agent.save_policy(folder)
            assert driver.prepare(folder) is None
            with torch.no_grad():
                tensor.copy_(kept)
    assert driver.source is None


@pytest.mark.parametrize("name", HYPERS)
def test_weights_are_published_and_driven_by(name: str, tmp_path: Path) -> None:
    agent, folder = make(HYPERS[name]), WeightsFolder(tmp_path / "weights", keep=2)
    driver = DriverAgent(make(HYPERS[name]), explore=False)
    for updates in (3, 5, 8):
        path = folder.path(folder.publish(agent, updates))
    assert folder.versions() == [2, 3]
    assert read_info(path) == (3, 8, agent.hyper.noise)
    assert Checkpoint(path).manifest.agent == agent.name
    successor = driver.prepare(path)
    assert successor is not None
    driver.take_over(successor)
    np.testing.assert_allclose(driver.act(STATE), agent.predict(STATE), rtol=0, atol=2e-4)
