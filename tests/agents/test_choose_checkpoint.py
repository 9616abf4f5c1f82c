"""Which checkpoint scores: one that is named, or the latest of the kind that is released."""

from pathlib import Path

import pytest

from tests.agents.batches import SMALL
from tests.agents.scored import VEHICLE, drive
from tspace_core.agents.batch_runs import CHAMPION, choose_checkpoint
from tspace_core.agents.offline_run import Trained, train_agent
from tspace_core.agents.release import release_agent
from tspace_core.config import AgentHyperparameters, load_vehicle
from tspace_core.config.hyperparameters import IDQLHyperparameters
from tspace_core.errors import AgentError, CheckpointError
from tspace_core.storage.champion import champion
from tspace_core.storage.folders import remove_directory
from tspace_core.storage.lake import Lake
from tspace_core.storage.replay import build_replay

HYPER: dict[str, AgentHyperparameters] = {
    "ddpg": SMALL,
    "idql": IDQLHyperparameters(value_hidden=(8,), actor_width=8, actor_blocks=1, samples=2, batch_size=32),
}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    found = Lake(tmp_path / "lake")
    vehicle = load_vehicle(VEHICLE)
    build_replay(found.replay(VEHICLE), [drive(vehicle, f"{VEHICLE}/2026-01-05/a.blf", 0, 40)])
    return found


def train(lake: Lake, agent: str, updates: int = 1) -> Trained:
    return train_agent(lake, VEHICLE, agent=agent, updates=updates, hyper=HYPER[agent])


def release(lake: Lake, trained: Trained) -> None:
    release_agent(lake, load_vehicle(VEHICLE), trained.checkpoint, by="somebody")


def test_the_latest_of_the_kind_that_is_released(lake: Lake) -> None:
    train(lake, "ddpg")
    release(lake, train(lake, "idql"))
    newer = train(lake, "idql", 2)
    train(lake, "ddpg", 2)
    found = choose_checkpoint(lake, VEHICLE)
    assert found.checkpoint == newer.checkpoint
    assert found.why == f"the latest idql agent, {newer.run} step 2 (idql is released)"


def test_where_nothing_is_released_the_agent_that_was_trained_last(lake: Lake) -> None:
    for agent in ("idql", "ddpg", "idql"):
        trained = train(lake, agent, 1 if agent == "ddpg" else 2)
        found = choose_checkpoint(lake, VEHICLE)
        assert found.checkpoint == trained.checkpoint
        assert f"the latest {agent} agent" in found.why and "nothing is released" in found.why


def test_a_kind_that_is_named(lake: Lake) -> None:
    ddpg = train(lake, "ddpg")
    release(lake, train(lake, "idql"))
    found = choose_checkpoint(lake, VEHICLE, agent="ddpg")
    assert found.checkpoint == ddpg.checkpoint and "latest ddpg agent" in found.why
    with pytest.raises(CheckpointError, match="no rdpg agent was trained for twin_truck"):
        choose_checkpoint(lake, VEHICLE, agent="rdpg")
    with pytest.raises(AgentError, match="unknown agent 'ddqn'; known: ddpg, rdpg, idql"):
        choose_checkpoint(lake, VEHICLE, agent="ddqn")
    with pytest.raises(CheckpointError, match="champion of twin_truck is a idql agent, not ddpg"):
        choose_checkpoint(lake, VEHICLE, CHAMPION, agent="ddpg")
    with pytest.raises(CheckpointError, match="both the checkpoint ddpg/x/1 and the agent ddpg are named"):
        choose_checkpoint(lake, VEHICLE, "ddpg/x/1", agent="ddpg")


def test_the_champion(lake: Lake) -> None:
    with pytest.raises(CheckpointError, match="nothing is released for twin_truck"):
        choose_checkpoint(lake, VEHICLE, CHAMPION)
    trained = train(lake, "idql")
    release(lake, trained)
    released = champion(lake, VEHICLE)
    assert released is not None
    assert choose_checkpoint(lake, VEHICLE, CHAMPION).checkpoint == released.checkpoint
    # Another machine has the release alone.
    lake.checkpoints("idql", f"{VEHICLE}.json").unlink()
    found = choose_checkpoint(lake, VEHICLE)
    assert found.checkpoint == released.checkpoint
    assert found.why == f"the champion, idql {trained.run} step 1"


def test_a_latest_that_is_gone_is_no_other_agent(lake: Lake) -> None:
    train(lake, "ddpg")
    release(lake, train(lake, "idql"))
    remove_directory(train(lake, "idql", 2).checkpoint)
    with pytest.raises(CheckpointError, match=r"is gone, though .*idql/twin_truck\.json names it"):
        choose_checkpoint(lake, VEHICLE)
