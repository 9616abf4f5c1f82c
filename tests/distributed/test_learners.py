"""Learning on a real cluster of two nodes: the same as in one process, whatever dies."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.distributed.conftest import RAY_WARNINGS, World, new_agent
from tests.storage.replay_episodes import STATE_DIM
from tspace_core.agents import DPG, IDQL, RDPG, CheckpointStore
from tspace_core.agents.tracking import NullTracker, Status
from tspace_core.agents.training import SeriesPoint, train_offline
from tspace_core.config import IDQLHyperparameters, RDPGHyperparameters
from tspace_core.distributed.ray_engine import RayEngine
from tspace_core.errors import DivergedError, EngineError
from tspace_core.storage.replay import Replay

pytestmark = pytest.mark.filterwarnings(RAY_WARNINGS)


class KeptTracker(NullTracker):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.points: list[int] = []

    def start(
        self, params: Mapping[str, object], tags: Mapping[str, str], *, resume: str | None = None
    ) -> str | None:
        self.told.append(f"start {tags['agent']}")
        return "run-1"

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        if "critic_loss" in values:
            self.points.append(step)

    def figure(self, figure: object, name: str) -> None:
        self.told.append(name)

    def finish(self, status: Status = "FINISHED") -> None:
        self.told.append(status)


def largest_difference(one: DPG, other: DPG) -> float:
    """Over weights, targets and moments of the optimizers."""
    ours, theirs = one._components(), other._components()
    return max(
        float((tensor - theirs[name].tensors[key]).abs().max())
        for name, component in ours.items()
        for key, tensor in component.tensors.items()
    )


def test_two_workers_learn_what_one_process_learns(engine: RayEngine, replay: Replay, tmp_path: Path) -> None:
    alone, shared, tracker = new_agent(), new_agent(), KeptTracker()
    stores = [CheckpointStore(tmp_path / name, every=20) for name in "ab"]
    one = train_offline(alone, replay, updates=50, checkpoints=stores[0], report_every=20)
    seen: list[SeriesPoint] = []
    two = engine.train_offline(
        shared,
        replay,
        updates=50,
        tracker=tracker,
        checkpoints=stores[1],
        progress=lambda done, of, point: seen.append(point),
        report_every=20,
    )
    assert largest_difference(alone, shared) < 1e-4
    assert shared.updates == 50
    assert stores[1].steps() == [0, 20, 40, 50]
    assert two.checkpoint == stores[1].path(50)
    assert two.run_id == "run-1"
    assert tuple(seen) == two.series
    for ours, theirs in zip(one.series, two.series, strict=True):  # of the whole batch, not of a part
        assert theirs.model_dump() == pytest.approx(ours.model_dump(), abs=1e-4)
    assert tracker.told == ["start ddpg", "map_change.png", "FINISHED"]
    assert tracker.points == [20, 40, 50]

    # One process goes on where they were, and is where it would be on its own.
    train_offline(shared, replay, updates=60, checkpoints=stores[1], resume=True)
    train_offline(alone, replay, updates=60, checkpoints=stores[0], resume=True)
    assert largest_difference(alone, shared) < 1e-4


def test_recurrent_learners_share_sequences(engine: RayEngine, replay: Replay, tmp_path: Path) -> None:
    """Each learns from its sequences; the gradients are weighted by the records in them."""
    hyper = RDPGHyperparameters(width=16, layers=1, length=12, burn_in=4, batch_size=6)
    alone, shared = (RDPG(hyper, STATE_DIM, 68, seed=5) for _ in range(2))
    fresh = {key: value.clone() for key, value in alone.tensors()["actor"].items()}
    one = train_offline(alone, replay, updates=20, report_every=10)
    two = engine.train_offline(
        shared, replay, updates=20, checkpoints=CheckpointStore(tmp_path / "c"), report_every=10
    )
    assert largest_difference(alone, shared) < 1e-4
    assert any(not value.equal(fresh[key]) for key, value in shared.tensors()["actor"].items())
    for ours, theirs in zip(one.series, two.series, strict=True):
        assert theirs.model_dump() == pytest.approx(ours.model_dump(), abs=1e-4)


@pytest.mark.slow
def test_learners_of_a_diffusion_policy_learn_alike(
    engine: RayEngine, replay: Replay, tmp_path: Path
) -> None:
    """Each draws noise of its own: the same in distribution, not the same numbers."""
    hyper = IDQLHyperparameters(
        value_hidden=(32, 32), actor_width=32, actor_blocks=1, samples=4, batch_size=64
    )
    alone, shared = (IDQL(hyper, STATE_DIM, 68, seed=5) for _ in range(2))
    one = train_offline(alone, replay, updates=200, report_every=50)
    two = engine.train_offline(
        shared, replay, updates=200, checkpoints=CheckpointStore(tmp_path / "c"), report_every=50
    )
    assert shared.finite()
    assert shared.updates == 200
    for series in (one.series, two.series):
        assert series[-1].actor_loss < 0.85 * series[0].actor_loss, "it learns to give back the actions"
        assert series[-1].critic_loss < 0.5 * series[0].critic_loss
    assert two.series[-1].actor_loss == pytest.approx(one.series[-1].actor_loss, rel=0.1)
    assert two.series[-1].critic_loss == pytest.approx(one.series[-1].critic_loss, rel=0.5)


def test_a_killed_node_costs_no_more_than_the_updates_since_the_last_checkpoint(
    world: World, engine: RayEngine, replay: Replay, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed: list[int] = []

    def progress(done: int, of: int, point: SeriesPoint) -> None:
        if done == 75 and not killed:
            killed.append(done)
            world.kill_second()

    alone, shared, tracker = new_agent(), new_agent(), KeptTracker()
    store = CheckpointStore(tmp_path / "c", every=50)
    summary = engine.train_offline(
        shared,
        replay,
        updates=150,
        tracker=tracker,
        checkpoints=store,
        progress=progress,
        report_every=25,
    )
    assert killed == [75]
    assert caplog.text.count("learners died") == 1
    assert f"begin again with {store.path(50)}" in caplog.text
    assert summary.updates == shared.updates == 150
    assert store.steps() == [0, 50, 100, 150]
    assert [point.update for point in summary.series] == [25, 50, 75, 100, 125, 150]
    assert tracker.points == [25, 50, 75, 75, 100, 125, 150], "no more is lost than since the checkpoint"
    assert tracker.told == ["start ddpg", "map_change.png", "FINISHED"]
    train_offline(alone, replay, updates=150)
    assert largest_difference(alone, shared) < 1e-3, "one learner of two goes on with whole batches"
    world.whole_again()


def test_a_cluster_that_is_gone_is_said_with_the_last_good_checkpoint(
    world: World, engine: RayEngine, replay: Replay, tmp_path: Path
) -> None:
    def progress(done: int, of: int, point: SeriesPoint) -> None:
        if done == 75:
            world.kill_courier()

    store, tracker = CheckpointStore(tmp_path / "c", every=50), KeptTracker()
    with pytest.raises(EngineError, match=r"cluster is gone.*00000050: run again with resume=True"):
        engine.train_offline(
            new_agent(), replay, updates=150, tracker=tracker, checkpoints=store, progress=progress,
            report_every=25,
        )  # fmt: skip
    assert store.steps() == [0, 50]
    assert tracker.told == ["start ddpg", "FAILED"]
    on, alone = new_agent(), new_agent()
    again = engine.train_offline(on, replay, updates=150, checkpoints=store, resume=True, report_every=25)
    train_offline(alone, replay, updates=150)
    assert (again.resumed_from, again.updates) == (50, 150)
    assert largest_difference(alone, on) < 1e-3


@pytest.mark.slow
def test_errors_of_learning_are_not_tried_again(
    engine: RayEngine, replay: Replay, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    agent, store = new_agent(), CheckpointStore(tmp_path / "d", every=50)
    agent.fit_normaliser(replay.state_mean, replay.state_std)
    agent.critic.parameters().__next__().data.fill_(1e30)
    with pytest.raises(DivergedError, match=r"stopped at update 1: .*last good checkpoint"):
        engine.train_offline(agent, replay, updates=50, checkpoints=store)
    assert "learners died" not in caplog.text
