"""An offline training run in a unit of work: its checkpoint and its pointer are there together."""

from pathlib import Path

import pytest

from tests.agents.batches import SMALL
from tests.agents.scored import VEHICLE, drive
from tspace_core.agents import CheckpointStore, offline_run
from tspace_core.agents.offline_run import latest_agent, run_name, train_agent
from tspace_core.agents.release import latest_checkpoint
from tspace_core.config import load_vehicle
from tspace_core.config.hyperparameters import IDQLHyperparameters
from tspace_core.errors import CheckpointError
from tspace_core.storage.lake import Lake
from tspace_core.storage.replay import build_replay
from tspace_core.storage.unit_of_work import UnitOfWork


class StoppedError(Exception):
    """Somebody pulled the plug."""


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    found = Lake(tmp_path / "lake")
    vehicle = load_vehicle(VEHICLE)
    episodes = (drive(vehicle, f"{VEHICLE}/2026-01-05/a.blf", k, 30) for k in range(3))
    build_replay(found.replay(VEHICLE), episodes)
    hyper = SMALL.model_copy(update={"offline_checkpoint_every": 5, "checkpoints_kept": 2})
    monkeypatch.setattr(offline_run, "load_hyperparameters", lambda agent: hyper)
    return found


def steps(lake: Lake) -> list[int]:
    return CheckpointStore(lake.checkpoints("ddpg", run_name(lake, VEHICLE))).steps()


def test_a_unit_that_is_not_committed_leaves_what_a_resumed_run_needs(lake: Lake) -> None:
    def stopped() -> None:
        with UnitOfWork(lake, name="training") as unit:
            train_agent(lake, VEHICLE, updates=12, writer=unit)
            assert steps(lake) == [5, 10], "the last checkpoint is staged, those before it are at hand"
            raise StoppedError

    with pytest.raises(StoppedError):
        stopped()
    assert steps(lake) == [5, 10]
    with pytest.raises(CheckpointError, match="no agent was trained"):
        latest_agent(lake, VEHICLE)
    with UnitOfWork(lake, name="training") as unit:
        trained = train_agent(lake, VEHICLE, updates=12, writer=unit)
        assert trained.summary.resumed_from == 10
    assert latest_agent(lake, VEHICLE).checkpoint == trained.checkpoint == trained.summary.checkpoint
    assert steps(lake)[-1] == 12


def test_stopped_or_not_the_weights_are_the_same(lake: Lake, tmp_path: Path) -> None:
    for updates in (7, 12):
        with UnitOfWork(lake) as unit:
            halves = train_agent(lake, VEHICLE, updates=updates, writer=unit)
    other = Lake(tmp_path / "other")
    vehicle = load_vehicle(VEHICLE)
    episodes = (drive(vehicle, f"{VEHICLE}/2026-01-05/a.blf", k, 30) for k in range(3))
    build_replay(other.replay(VEHICLE), episodes)
    whole = train_agent(other, VEHICLE, updates=12)
    for name in ("actor", "critic"):
        left, right = (item.checkpoint / f"{name}.safetensors" for item in (halves, whole))
        assert left.read_bytes() == right.read_bytes()


def test_a_run_is_named_by_what_it_learns_from_and_how(lake: Lake) -> None:
    assert run_name(lake, VEHICLE) == run_name(lake, VEHICLE, seed=SMALL.seed)
    assert run_name(lake, VEHICLE) != run_name(lake, VEHICLE, seed=SMALL.seed + 1)
    assert train_agent(lake, VEHICLE, updates=1).run == run_name(lake, VEHICLE)


def test_what_is_released_by_default_is_the_newest_of_all_kinds(lake: Lake) -> None:
    with pytest.raises(
        CheckpointError, match=r"no agent was trained for .*: train one, or name a checkpoint"
    ):
        latest_checkpoint(lake, VEHICLE)
    small = IDQLHyperparameters(value_hidden=(8,), actor_width=8, actor_blocks=1, samples=2, batch_size=32)
    idql = train_agent(lake, VEHICLE, agent="idql", updates=1, hyper=small)
    assert latest_checkpoint(lake, VEHICLE) == idql.checkpoint
    ddpg = train_agent(lake, VEHICLE, updates=1)
    assert latest_checkpoint(lake, VEHICLE) == ddpg.checkpoint
    newer = train_agent(lake, VEHICLE, agent="idql", updates=2, hyper=small)
    assert latest_checkpoint(lake, VEHICLE) == newer.checkpoint
