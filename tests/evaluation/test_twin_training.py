"""An agent learns in the twin through the product's door, and what is kept is what passed the gate best."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tspace_core.agents.ddpg import DDPG
from tspace_core.agents.policy import AgentPolicy
from tspace_core.config import DDPGHyperparameters, Vehicle, load_hyperparameters
from tspace_core.errors import CheckpointError
from tspace_core.evaluation import twin_training
from tspace_core.evaluation.comparison import Comparison, compare
from tspace_core.evaluation.twin_training import (
    AVERAGE,
    TwinTrained,
    TwinTraining,
    averaged,
    pass_gate,
    percent_more,
    train_in_twin,
    twin_places,
)

PLAN = TwinTraining(
    episodes=4,
    minutes=3.0,
    places=2,
    drivers=("tracker", "aggressive"),
    cycle="hwfet",
    warm_up_episodes=2,
    gate_checkpoints=2,
    gate_every=2,
    gate_seeds=(7,),
)
HYPER = load_hyperparameters("ddpg", "torque_map")


def run(vehicle: Vehicle, folder: Path, seed: int) -> TwinTrained:
    assert isinstance(HYPER, DDPGHyperparameters)
    small = HYPER.model_copy(update={"batch_size": 32})
    return train_in_twin(vehicle, small, PLAN, seed=seed, folder=folder)


@pytest.fixture(scope="module")
def made(vehicle: Vehicle, tmp_path_factory: pytest.TempPathFactory) -> tuple[TwinTrained, Path]:
    """A short run, and its folder."""
    folder = tmp_path_factory.mktemp("twin") / "agent"
    return run(vehicle, folder, 3), folder


def test_it_drives_what_it_says(made: tuple[TwinTrained, Path]) -> None:
    done, _ = made
    assert done.decisions == 4 * 60  # 3 minutes in steps of 3 s
    assert [episode.length for episode in done.summary.episodes] == [60] * 4
    assert done.summary.updates == 122  # one for each decision from the end of the warm-up on
    assert done.gate_drives == (3 + 1) * 2 * 1


def test_the_best_of_the_gate_is_kept(made: tuple[TwinTrained, Path]) -> None:
    done, _ = made
    scores = {result.name: result.score for result in done.gate}
    assert set(scores) == {"step-120", "step-240", AVERAGE}
    assert scores[done.chosen] == max(scores.values())
    assert np.isfinite(list(scores.values())).all()
    kept, states = AgentPolicy.load(done.policy), np.random.default_rng(0).uniform(0, 50, (5, 90))
    actions = kept(states.astype(np.float32))
    np.testing.assert_allclose(actions, done.agent.predict(states.astype(np.float32)), atol=1e-6)
    assert np.ptp(actions.reshape(5, 4, 17), axis=1).max() < 1e-6  # bands: equal in all rows


def test_an_equal_seed_gives_an_equal_agent(
    vehicle: Vehicle, made: tuple[TwinTrained, Path], tmp_path: Path
) -> None:
    done, _ = made
    again = run(vehicle, tmp_path / "agent", 3)
    assert again.gate == done.gate
    for name, tensor in done.agent.tensors()["actor"].items():
        assert torch.equal(tensor, again.agent.tensors()["actor"][name])


def test_a_used_folder_is_refused(vehicle: Vehicle, made: tuple[TwinTrained, Path]) -> None:
    with pytest.raises(CheckpointError, match="choose a new run"):
        run(vehicle, made[1], 3)


def test_the_average_has_the_mean_weights() -> None:
    agents = {str(seed): DDPG(DDPGHyperparameters(), 90, 68, seed=seed) for seed in range(3)}
    for agent in agents.values():
        agent.fit_normaliser(np.full(90, 2.0), np.full(90, 4.0))
    mean = averaged(agents)
    for name, tensor in mean.tensors()["actor"].items():
        parts = torch.stack([agent.tensors()["actor"][name] for agent in agents.values()])
        assert torch.allclose(tensor, parts.mean(dim=0))
    assert mean.normalised
    assert mean.mode == "infer"


def test_places_take_the_drivers_in_turn(vehicle: Vehicle) -> None:
    make = twin_places(vehicle, PLAN.model_copy(update={"minutes": 1.0}))
    energies = []
    for _ in range(3):
        env = make()
        env.reset(seed=1)
        for _ in range(20):
            *_, info = env.step(np.zeros(68, np.float32))
        energies.append(info["total_energy_wh"])
    assert energies[0] == energies[2] != energies[1]


def test_reward_and_level_reach_the_environment(vehicle: Vehicle) -> None:
    spread = {}
    for level in (False, True):
        env = twin_places(vehicle, TwinTraining(level=level))()
        env.reset(seed=1)
        spread[level] = np.std([env.step(np.zeros(68, np.float32))[1] for _ in range(100)])
    assert spread[True] < 0.6 * spread[False]


def test_it_is_chosen_behind_the_guard_and_learns_there_where_told_to(
    vehicle: Vehicle, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def compared(*arguments: Any, guarded: bool, **more: Any) -> Comparison:
        asked.append(guarded)
        return compare(*arguments, guarded=guarded, **more)

    monkeypatch.setattr(twin_training, "compare", compared)
    agent = DDPG(DDPGHyperparameters(), 90, 68, seed=1, mode="infer")
    for change, learned in (({}, False), ({"learn_guarded": True}, True), ({"guarded": False}, False)):
        plan = PLAN.model_copy(update=change)
        env = twin_places(vehicle, plan)()
        env.reset(seed=1)
        assert ("rule" in env.step(-np.ones(68, np.float32))[-1]) is learned
        pass_gate(vehicle, {"one": agent}, plan)
    assert asked == [True, True, False]


def test_factors_reach_the_environment_only_with_the_reward_they_are_for(vehicle: Vehicle) -> None:
    rewards = {}
    for kind, factor in (("loss", 0.9), ("loss", 0.5), ("energy", 0.9), ("energy", 0.5)):
        env = twin_places(vehicle, TwinTraining(reward=kind, level=False, braking_factor=factor))()
        env.reset(seed=1)
        rewards[kind, factor] = [env.step(np.zeros(68, np.float32))[1] for _ in range(100)]
    assert rewards["loss", 0.9] != rewards["loss", 0.5]
    assert rewards["energy", 0.9] == rewards["energy", 0.5]


def test_a_share_of_nothing_is_not_known() -> None:
    assert percent_more(1.1, 1.0) == pytest.approx(10.0)
    assert np.isnan([percent_more(None, 1.0), percent_more(1.0, None), percent_more(1.0, 0.0)]).all()
