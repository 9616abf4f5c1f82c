"""A training in the twin that was stopped goes on, and ends as one that was not."""

import os
from pathlib import Path
from typing import Any

import pytest

from tspace_core.agents import DDPG
from tspace_core.agents.offline_run import has_agent, latest_agent, note_trained
from tspace_core.config import DDPGHyperparameters, EngineConfig, Vehicle, load_hyperparameters
from tspace_core.distributed import LocalEngine
from tspace_core.errors import AgentError, WriterBusyError
from tspace_core.evaluation.twin_run import TwinRun, run_name, train_vehicle_in_twin
from tspace_core.evaluation.twin_training import TwinTraining
from tspace_core.storage.folders import remove_directory
from tspace_core.storage.lake import Lake

PLAN = TwinTraining(
    episodes=6,
    minutes=1.5,
    places=2,
    drivers=("tracker", "aggressive"),
    cycle="hwfet",
    warm_up_episodes=2,
    gate_checkpoints=2,
    gate_every=2,
    gate_seeds=(7,),
)


class StoppedError(Exception):
    """What a test stops a run with."""


def hyper(batch: int = 32) -> DDPGHyperparameters:
    found = load_hyperparameters("ddpg", "torque_map")
    assert isinstance(found, DDPGHyperparameters)
    return found.model_copy(update={"batch_size": batch})


def train(
    lake: Lake, vehicle: Vehicle, plan: TwinTraining = PLAN, *, stop: str = "", batch: int = 32
) -> TwinRun:
    def tell(line: str) -> None:
        if stop and line.startswith(stop):
            raise StoppedError

    return train_vehicle_in_twin(
        lake, vehicle, hyper(batch), plan, LocalEngine(EngineConfig()), seed=3, tell=tell
    )


@pytest.mark.parametrize("stop", ["66 %", "100 %"])
def test_a_stopped_run_goes_on_bit_for_bit(vehicle: Vehicle, tmp_path: Path, stop: str) -> None:
    whole = train(Lake(tmp_path / "whole"), vehicle)
    lake = Lake(tmp_path / "stopped")
    with pytest.raises(StoppedError):
        train(lake, vehicle, stop=stop)
    assert not has_agent(lake, vehicle.id), "only a finished run is noted"
    rest = train(lake, vehicle)
    assert rest.trained.summary.resumed_from > 0
    assert whole.found is not None
    assert rest.found is not None
    assert rest.found.gate == whole.found.gate
    ours, theirs = (DDPG.load(run.trained.checkpoint, mode="train").tensors() for run in (rest, whole))
    for name, component in ours.items():
        for key, tensor in component.items():
            assert tensor.equal(theirs[name][key]), f"{name}.{key}"


SHORT = TwinTraining(
    episodes=2,
    minutes=1.5,
    places=2,
    drivers=("tracker",),
    cycle="hwfet",
    warm_up_episodes=1,
    gate_checkpoints=1,
    gate_every=2,
    gate_seeds=(7,),
)


def test_a_finished_run_is_not_done_again_whatever_was_trained_since(
    vehicle: Vehicle, tmp_path: Path
) -> None:
    lake = Lake(tmp_path / "lake")
    done = train(lake, vehicle, SHORT).trained
    since = done.model_copy(update={"run": "trained-since"})
    note_trained(lake, since)
    again = train(lake, vehicle, SHORT)
    assert again.found is None
    assert again.trained == done
    assert latest_agent(lake, vehicle.id) == done, "the one that was asked for last"


def test_a_run_whose_checkpoint_is_gone_is_done_anew(vehicle: Vehicle, tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    done = train(lake, vehicle, SHORT).trained
    remove_directory(done.checkpoint)
    again = train(lake, vehicle, SHORT)
    assert again.found is not None
    assert again.trained.checkpoint == done.checkpoint
    assert done.checkpoint.is_dir()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            {"warm_up_episodes": 3, "minutes": 12.0},
            r"2 episodes end before anything is learned: a warm-up of 3",
        ),
        ({"minutes": 0.5}, r"2 episodes of 0.5 minutes give 20 decisions, a batch takes 480"),
        ({"cycle": "us06", "minutes": 12.0}, r"nothing was learned from the \d+ decisions of 2 episodes"),
    ],
)
def test_fresh_networks_are_never_noted_as_an_agent(
    vehicle: Vehicle, tmp_path: Path, wrong: dict[str, Any], words: str
) -> None:
    """Too long a warm-up, too short episodes, or drives that arrive before there is a batch of records."""
    lake = Lake(tmp_path / "lake")
    plan = TwinTraining.model_validate({**SHORT.model_dump(), **wrong})
    with pytest.raises(AgentError, match=words):
        train(lake, vehicle, plan, batch=480)
    assert not has_agent(lake, vehicle.id)


def test_the_same_training_is_not_done_twice_at_once(vehicle: Vehicle, tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    refused: list[str] = []

    def tell(line: str) -> None:
        del line
        with pytest.raises(WriterBusyError) as caught:
            train(lake, vehicle, SHORT)
        refused.append(str(caught.value))

    run = train_vehicle_in_twin(
        lake, vehicle, hyper(), SHORT, LocalEngine(EngineConfig()), seed=3, tell=tell
    ).trained.run
    assert refused
    assert set(refused) == {
        f"{run}: process {os.getpid()} is doing this training; wait for it, or stop it first"
    }


def test_another_plan_is_another_run(vehicle: Vehicle) -> None:
    other = PLAN.model_copy(update={"episodes": 8})
    names = {run_name(vehicle, hyper(), plan, seed) for plan in (PLAN, other) for seed in (0, 1)}
    assert len(names) == 4


def test_episodes_that_are_no_whole_rounds(vehicle: Vehicle, tmp_path: Path) -> None:
    plan = PLAN.model_copy(update={"episodes": 5})
    with pytest.raises(AgentError, match=r"5 episodes are no whole rounds of 2 places; drive 6"):
        train(Lake(tmp_path / "lake"), vehicle, plan)
