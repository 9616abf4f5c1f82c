"""An agent is of use to a vehicle of its own type only, however alike the lengths of states and actions."""

import json
from pathlib import Path

import pytest

from tests.agents.batches import SMALL
from tspace_core.agents import DDPG, Checkpoint, load_agent
from tspace_core.agents.made_for import MadeFor, made_for, require_alike, require_vehicle
from tspace_core.agents.release import release_agent
from tspace_core.agents.scoring import check_fits, open_checkpoint
from tspace_core.agents.weights import WeightsFolder
from tspace_core.config import Vehicle, load_vehicle
from tspace_core.errors import CheckpointError
from tspace_core.online.learner_protocol import LearnerSpec
from tspace_core.storage.champion import champion
from tspace_core.storage.lake import Lake

DIMENSIONS = 90, 68


@pytest.fixture(scope="module")
def vehicle() -> Vehicle:
    return load_vehicle("twin_truck")


def agent(vehicle: Vehicle, **changes: object) -> DDPG:
    found = DDPG(SMALL, *DIMENSIONS, seed=1)
    found.made_for = made_for(vehicle).model_copy(update=changes)
    return found


def test_a_vehicle_and_its_records_are_of_one_type(vehicle: Vehicle, tmp_path: Path) -> None:
    spec = LearnerSpec.of(vehicle, SMALL, lake=tmp_path, folder=tmp_path, run="r")
    assert made_for(vehicle) == made_for(spec.layout)


def test_checkpoints_and_weights_carry_it(vehicle: Vehicle, tmp_path: Path) -> None:
    one = agent(vehicle)
    one.save(tmp_path / "c")
    folder = WeightsFolder(tmp_path / "weights")
    weights = folder.path(folder.publish(one, 1))
    for path in (tmp_path / "c", weights):
        assert Checkpoint(path).manifest.made_for == load_agent(path).made_for == made_for(vehicle)


def test_an_agent_that_goes_on_from_a_checkpoint_saves_its_type_again(
    vehicle: Vehicle, tmp_path: Path
) -> None:
    agent(vehicle).save(tmp_path / "c")
    unknown = DDPG(SMALL, *DIMENSIONS, seed=2)
    unknown.restore(Checkpoint(tmp_path / "c"))
    unknown.save(tmp_path / "again")
    assert Checkpoint(tmp_path / "again").manifest.made_for == made_for(vehicle)


DIFFERENCES = {
    "signals": ("thrust", "velocity", "brake"),
    "window": 45,
    "rate_hz": 30.0,
    "action_rows": 2,
    "pedal_axis": (0.0, 1.0),
    "speed_axis_kmh": (0.0, 120.0),
    "budget_nm": 100.0,
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_another_type_is_named_on_both_sides(vehicle: Vehicle, tmp_path: Path, name: str) -> None:
    other = made_for(vehicle).model_copy(update={name: DIFFERENCES[name]})
    with pytest.raises(CheckpointError, match=f"another type of vehicle: {name} .*, twin_truck has .*train"):
        require_vehicle(other, vehicle, tmp_path)


def test_every_part_of_a_type_is_compared(vehicle: Vehicle) -> None:
    assert {*DIFFERENCES, "reward_kind"} == set(MadeFor.model_fields)


def test_another_reward_is_in_the_way_of_learning_not_of_driving(vehicle: Vehicle, tmp_path: Path) -> None:
    path = tmp_path / "c"
    agent(vehicle, reward_kind="another").save(path)
    require_vehicle(load_agent(path).made_for, vehicle, path)
    agent(vehicle).take_policy(Checkpoint(path))
    with pytest.raises(CheckpointError, match="reward_kind another, this agent has"):
        agent(vehicle).restore(Checkpoint(path))


def test_nothing_of_another_type_is_taken_over(vehicle: Vehicle, tmp_path: Path) -> None:
    path = tmp_path / "c"
    agent(vehicle, signals=("velocity", "brake", "thrust")).save(path)
    driving = agent(vehicle)
    before = driving.actor.output.weight.detach().clone()
    for take in (driving.take_policy, driving.restore):
        with pytest.raises(CheckpointError, match="velocity brake thrust, this agent has velocity thrust"):
            take(Checkpoint(path))
    assert bool((driving.actor.output.weight == before).all())


def test_checkpoints_of_before_it_was_kept_are_as_good_as_ever(vehicle: Vehicle, tmp_path: Path) -> None:
    path = tmp_path / "c"
    agent(vehicle).save(path)
    manifest = path / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    del content["made_for"]
    manifest.write_text(json.dumps(content), encoding="utf-8")
    assert load_agent(path).made_for is None
    agent(vehicle).restore(Checkpoint(path))
    require_alike(None, made_for(vehicle), path, "anybody")


def test_another_type_is_neither_scored_nor_released(vehicle: Vehicle, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "00000001"
    agent(vehicle, pedal_axis=(0.0, 0.5, 1.0)).save(folder)
    with pytest.raises(CheckpointError, match=r"pedal_axis 0\.0 0\.5 1\.0, twin_truck has 0\.0 0\.02"):
        check_fits(open_checkpoint(str(folder)), vehicle)
    lake = Lake(tmp_path / "lake")
    with pytest.raises(CheckpointError, match="another type of vehicle: pedal_axis"):
        release_agent(lake, vehicle, folder, by="test")
    assert champion(lake, vehicle.id) is None
