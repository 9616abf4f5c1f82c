"""What acts while a vehicle drives."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.agents.batches import SMALL
from tests.online.builders import taken_over
from tspace_core.agents import DDPG, DPG
from tspace_core.agents.made_for import made_for
from tspace_core.agents.weights import WeightsFolder
from tspace_core.config import Vehicle, load_vehicle
from tspace_core.errors import AgentError, CheckpointError, OnlineError
from tspace_core.online.driver_agent import DriverAgent, first_agent, fresh_agent, typical_states

DIM = 90


@pytest.fixture(scope="module")
def vehicle() -> Vehicle:
    return load_vehicle("twin_truck")


def state(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 60, DIM).astype(np.float32)


def test_in_inference_it_gives_the_policys_own_action_always(tmp_path: Path, vehicle: Vehicle) -> None:
    agent = DDPG(SMALL, DIM, 68, seed=5)
    agent.save(tmp_path / "c")
    driver = first_agent(vehicle, SMALL, checkpoint=tmp_path / "c", replay=None, infer=True)
    for seed in range(5):
        assert np.allclose(driver.act(state(seed)), agent.predict(state(seed)), rtol=0, atol=1e-5)
    assert driver.source == tmp_path / "c"


def test_in_training_it_explores_within_the_limits_and_anew_each_episode(vehicle: Vehicle) -> None:
    driver = first_agent(vehicle, SMALL, checkpoint=None, replay=None, infer=False)
    plain = driver.agent.predict(state())
    driver.begin_episode()
    first = driver.act(state())
    kicks = [first, *(driver.act(state()) for _ in range(2000))]
    assert not np.array_equal(first, plain)
    assert np.abs(kicks).max() <= 1.0
    late = np.abs(kicks[-1] - plain).mean()
    driver.begin_episode()
    assert np.abs(driver.act(state()) - plain).mean() < 0.5 * late


def test_the_same_seed_explores_in_the_same_way(vehicle: Vehicle) -> None:
    one, other = (first_agent(vehicle, SMALL, checkpoint=None, replay=None, infer=False) for _ in range(2))
    for seed in range(10):
        assert np.array_equal(one.act(state(seed)), other.act(state(seed)))


def test_inference_without_a_checkpoint_says_what_to_do(vehicle: Vehicle) -> None:
    with pytest.raises(OnlineError, match="no agent to drive twin_truck with: train one first"):
        first_agent(vehicle, SMALL, checkpoint=None, replay=None, infer=True)


def test_a_checkpoint_for_other_windows_is_refused(tmp_path: Path, vehicle: Vehicle) -> None:
    DDPG(SMALL, 9, 68).save(tmp_path / "c")
    with pytest.raises(OnlineError, match="states of 9 and actions of 68, twin_truck has 90 and 68"):
        first_agent(vehicle, SMALL, checkpoint=tmp_path / "c", replay=None, infer=False)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path, vehicle: Vehicle) -> None:
    DDPG(SMALL, DIM, 68).save(tmp_path / "c")
    (tmp_path / "c" / "actor.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="sha256"):
        first_agent(vehicle, SMALL, checkpoint=tmp_path / "c", replay=None, infer=False)


def test_weights_are_taken_over_whole(tmp_path: Path, vehicle: Vehicle) -> None:
    driver = first_agent(vehicle, SMALL, checkpoint=None, replay=None, infer=False)
    learned = DDPG(SMALL, DIM, 68, seed=9)
    learned.fit_normaliser(*typical_states(vehicle))
    folder = WeightsFolder(tmp_path / "weights")
    path = folder.path(folder.publish(learned, 40))
    assert taken_over(driver, path)
    assert driver.source == path
    assert np.array_equal(driver.agent.predict(state()), learned.predict(state()))


@pytest.mark.parametrize("damage", ["gone", "other size", "cut off", "not finite"])
def test_weights_that_are_no_good_are_left(tmp_path: Path, vehicle: Vehicle, damage: str) -> None:
    driver = first_agent(vehicle, SMALL, checkpoint=None, replay=None, infer=False)
    before = driver.agent.predict(state())
    learned = DDPG(SMALL, 9 if damage == "other size" else DIM, 68, seed=9)
    if damage == "not finite":
        with torch.no_grad():
            learned.actor.output.bias.fill_(float("nan"))
    path = tmp_path / "w"
    learned.save(path)
    if damage == "gone":
        path = tmp_path / "elsewhere"
    if damage == "cut off":
        file = path / "actor.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
    assert not taken_over(driver, path)
    assert np.array_equal(driver.agent.predict(state()), before)
    assert driver.source is None


def diverge(agent: DPG) -> None:
    assert isinstance(agent, DDPG)
    with torch.no_grad():
        agent.actor.output.bias.fill_(float("nan"))


def test_a_policy_that_diverged_does_not_begin_to_drive(vehicle: Vehicle) -> None:
    agent = fresh_agent(vehicle, SMALL, None)
    diverge(agent)
    with pytest.raises(AgentError, match="68 weights of the ddpg actor are not finite: it has diverged"):
        DriverAgent(agent, explore=True)


def test_a_policy_without_export_that_diverges_drives_no_further(
    vehicle: Vehicle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tspace_core.agents.fast_actor.FAST", {})
    agent = fresh_agent(vehicle, SMALL, None)
    driver = DriverAgent(agent, explore=True)
    driver.act(state())
    diverge(agent)
    with pytest.raises(AgentError, match="68 values that are not finite: it has diverged"):
        driver.act(state())


def test_a_checkpoint_for_another_type_of_vehicle_is_refused(tmp_path: Path, vehicle: Vehicle) -> None:
    other = fresh_agent(vehicle, SMALL, None)
    other.made_for = made_for(vehicle).model_copy(update={"signals": ("thrust", "velocity", "brake")})
    other.save(tmp_path / "c")
    with pytest.raises(CheckpointError, match="signals thrust velocity brake, twin_truck has velocity"):
        first_agent(vehicle, SMALL, checkpoint=tmp_path / "c", replay=None, infer=True)
    driver = first_agent(vehicle, SMALL, checkpoint=None, replay=None, infer=False)
    assert not taken_over(driver, tmp_path / "c")
    assert driver.source is None


def test_noise_goes_on_through_new_weights(tmp_path: Path, vehicle: Vehicle) -> None:
    driver, other = (first_agent(vehicle, SMALL, checkpoint=None, replay=None, infer=False) for _ in range(2))
    other.agent.save(tmp_path / "same")
    for number in range(6):
        if number in (2, 4):
            assert taken_over(driver, tmp_path / "same")
        np.testing.assert_array_equal(driver.act(state(number)), other.act(state(number)))


def test_fresh_networks_know_the_range_of_the_signals(vehicle: Vehicle) -> None:
    agent = fresh_agent(vehicle, SMALL, None)
    mean, _ = typical_states(vehicle)
    assert agent.normalised
    assert mean.shape == (90,)
    assert mean[:3].tolist() == [40.0, 20.0, 5.0]
    assert np.abs(agent.predict(np.full(DIM, 100, np.float32))).max() < 0.1
