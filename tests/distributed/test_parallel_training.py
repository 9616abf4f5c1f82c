"""Training with what places drive: the same weights on every engine, after every stop, whatever dies."""

from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.agents.batches import SMALL
from tests.distributed.conftest import World
from tests.distributed.test_learners import KeptTracker
from tests.distributed.test_rollouts import DYING, PENDULUM, TWIN
from tspace_core.agents import AGENTS, DPG, CheckpointStore
from tspace_core.agents.gymnasium_run import evaluate_in, make_agent
from tspace_core.agents.gymnasium_state import GymnasiumSummary, RunPoint
from tspace_core.agents.mixed_replay import LiveReplay
from tspace_core.config import (
    AgentHyperparameters,
    EngineConfig,
    IDQLHyperparameters,
    RDPGHyperparameters,
    load_hyperparameters,
)
from tspace_core.distributed import Driving, Engine, LocalEngine, train_from_rollouts
from tspace_core.distributed.ray_engine import RayEngine
from tspace_core.errors import AgentError, CheckpointError, EngineError

HYPER: dict[str, AgentHyperparameters] = {
    "ddpg": SMALL,
    "rdpg": RDPGHyperparameters(width=8, layers=1, length=5, burn_in=2, batch_size=4),
    "idql": IDQLHyperparameters(
        value_hidden=(16, 16), actor_width=16, actor_blocks=1, samples=4, batch_size=16
    ),
}
LENGTH = 20
"""Steps of an episode."""


def local(actors: int = 2) -> LocalEngine:
    return LocalEngine(EngineConfig(actors=actors))


def fresh(name: str = "ddpg") -> DPG:
    return make_agent(name, PENDULUM, HYPER[name], seed=1)


def trained(engine: Engine, agent: DPG, episodes: int = 6, **more: Any) -> GymnasiumSummary:
    environment = more.pop("environment", PENDULUM)
    given = {"places": 2, "longest": LENGTH, "warm_up_episodes": 2, "seed": 3, **more}
    return train_from_rollouts(engine, agent, environment, episodes=episodes, **given)


def assert_equal(first: DPG, second: DPG) -> None:
    ours, theirs = first.tensors(), second.tensors()
    for name, component in ours.items():
        for key, tensor in component.items():
            assert torch.equal(tensor, theirs[name][key]), f"{name}.{key}"


def without_times(summary: GymnasiumSummary) -> Mapping[str, Any]:
    return summary.model_dump(exclude={"wall_s", "checkpoint", "resumed_from"})


@pytest.mark.parametrize("name", sorted(HYPER))
def test_every_agent_learns_and_does_so_again(name: str) -> None:
    one, other = fresh(name), fresh(name)
    before = {key: value.clone() for key, value in one.tensors()["normaliser"].items()}
    told = [trained(local(), agent) for agent in (one, other)]
    assert_equal(one, other)
    assert without_times(told[0]) == without_times(told[1])
    assert (told[0].steps, told[0].updates) == (6 * LENGTH, 6 * LENGTH), (
        "one update a step, the warm-up's too"
    )
    assert [episode.length for episode in told[0].episodes] == [LENGTH] * 6
    assert one.normalised
    assert not torch.equal(before["mean"], one.tensors()["normaliser"]["mean"])


def test_how_many_actors_there_are_changes_nothing(world: World, engine: RayEngine) -> None:
    """Four places in turn in this process, and on a cluster that has room for two of three actors."""
    one, other = fresh(), fresh()
    told = [trained(local(actors=1), one, episodes=8, places=4)]
    with RayEngine(world.config(actors=3)) as three:
        told.append(trained(three, other, episodes=8, places=4))
    assert_equal(one, other)
    assert without_times(told[0]) == without_times(told[1])


def test_a_place_that_dies_in_mid_round_changes_nothing(engine: RayEngine, tmp_path: Path) -> None:
    one, other, died = fresh(), fresh(), tmp_path / "died"
    never = tmp_path / "never"
    never.touch()
    trained(local(), one, longest=40)
    options = [{"mark": str(never)}, {"mark": str(died)}]
    summary = trained(engine, other, longest=40, environment=DYING, options=options)
    assert died.exists(), "its process ended in the middle of an episode"
    assert len(summary.episodes) == 6
    assert_equal(one, other)


def test_a_cluster_without_room_for_any_actor(world: World, engine: RayEngine) -> None:
    with (
        RayEngine(world.config(cpus_per_actor=8.0, start_timeout_s=1.0)) as other,
        pytest.raises(
            EngineError, match=r"stopped after step 0: .* no room for an actor of 8 CPUs within 1 s"
        ),
    ):
        trained(other, fresh())


class StoppedError(Exception):
    """What a test stops a run with."""


def stop_at(episodes: int) -> Callable[[int, int, RunPoint], None]:
    def progress(done: int, of: int, point: RunPoint) -> None:
        if done == episodes:
            raise StoppedError

    return progress


@pytest.mark.parametrize(("name", "stopped_after"), [("ddpg", 2), ("rdpg", 6)])
def test_a_stopped_run_goes_on_bit_for_bit(name: str, stopped_after: int, tmp_path: Path) -> None:
    whole, parts = fresh(name), fresh(name)
    uninterrupted = trained(local(), whole, episodes=8)
    store = CheckpointStore(tmp_path / "c", every=2 * LENGTH)
    with pytest.raises(StoppedError):
        trained(local(), parts, episodes=8, checkpoints=store, progress=stop_at(stopped_after))
    # What the stopped process had in memory is gone.
    again = fresh(name)
    rest = trained(local(), again, episodes=8, checkpoints=store, resume=True)
    assert rest.resumed_from == (stopped_after - 2) * LENGTH, "of the last round that was finished and saved"
    assert_equal(whole, again)
    assert without_times(rest) == without_times(uninterrupted)
    with pytest.raises(CheckpointError, match="resume=True"):
        trained(local(), fresh(name), checkpoints=store)
    with pytest.raises(CheckpointError, match="places is 2, this run has 4"):
        trained(local(), fresh(name), places=4, episodes=8, checkpoints=store, resume=True)


def test_a_run_stopped_in_its_warm_up_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole, again = fresh(), fresh()
    trained(local(), whole, warm_up_episodes=4)
    store = CheckpointStore(tmp_path / "c", every=1)
    trained(local(), fresh(), episodes=2, warm_up_episodes=4, checkpoints=store)
    trained(local(), again, warm_up_episodes=4, checkpoints=store, resume=True)
    assert_equal(whole, again)


def test_a_run_stopped_before_its_first_whole_update_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """An update takes 50 steps, a round has 40: what was due at the stop is not counted twice."""
    whole, again = fresh(), fresh()
    trained(local(), whole, updates_per_step=0.02)
    store = CheckpointStore(tmp_path / "c", every=1)
    assert trained(local(), fresh(), episodes=2, updates_per_step=0.02, checkpoints=store).updates == 0
    rest = trained(local(), again, updates_per_step=0.02, checkpoints=store, resume=True)
    assert rest.updates == 2
    assert_equal(whole, again)


def test_without_records_it_drives_a_warm_up_before_it_learns_on(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "c")
    first = trained(local(), fresh(), checkpoints=store, keep_records=False)
    records = LiveReplay(3, 1, 1000)
    rest = trained(
        local(), fresh(), episodes=10, checkpoints=store, keep_records=False, resume=True, replay=records
    )
    assert (first.updates, rest.updates) == (6 * LENGTH, 10 * LENGTH)
    assert len(records) == 4 * LENGTH


def test_the_tracker_and_who_waits_are_told() -> None:
    tracker, seen = KeptTracker(), []
    summary = trained(local(), fresh(), tracker=tracker, progress=lambda *found: seen.append(found[:2]))
    assert tracker.told == ["start ddpg", "FINISHED"]
    assert tracker.points == [2 * LENGTH, 4 * LENGTH, 6 * LENGTH] == [point.step for point in summary.series]
    assert seen == [(2, 6), (4, 6), (6, 6)]


def test_the_warm_up_is_random_and_what_follows_is_the_agents() -> None:
    agent = fresh()
    engine = local()
    driving = Driving(
        environment=PENDULUM, places=engine.config.actors, longest=200, warm_up=3, explore=False
    )
    with engine.rollouts(agent, driving) as rollouts:
        found = list(islice(rollouts, 4))
    for one in found[:3]:
        actions = one.records.actions[:, 0]
        assert actions.min() < -0.9 < 0.9 < actions.max()
        assert abs(float(np.corrcoef(actions[:-1], actions[1:])[0, 1])) < 0.3
    expected = np.concatenate([agent.predict(state[None]) for state in found[3].records.states])
    np.testing.assert_array_equal(found[3].records.actions, expected)


@pytest.mark.slow
def test_it_learns_the_task() -> None:
    agent = make_agent("ddpg", PENDULUM, load_hyperparameters("ddpg", "pendulum"), seed=1)
    before = evaluate_in(PENDULUM, agent, episodes=10)
    trained(local(), agent, episodes=48, places=4, longest=None, warm_up_episodes=4)
    after = evaluate_in(PENDULUM, agent, episodes=10)
    assert before.mean() < -800.0
    assert after.mean() > -400.0, f"{before.mean():.0f} before, {after.mean():.0f} after"


def test_the_twin_drives_with_a_driver_a_place() -> None:
    agent = AGENTS["ddpg"](SMALL, 90, 68, seed=1)
    options = [{"driver": driver, "guarded": True} for driver in ("tracker", "habitual")]
    summary = trained(local(), agent, episodes=4, environment=TWIN, options=options, longest=20)
    assert (summary.steps, summary.environment) == (80, TWIN)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"episodes": 5}, r"no whole rounds of 2 places; drive 6"),
        ({"places": 0}, "places is 0"),
        ({"options": []}, "no options"),
        ({"capacity": 3}, "capacity is 3 records"),
        ({"environment": "MountainCarContinuous-v0"}, "states of 2"),
        ({"environment": "NoSuch-v0"}, "Gymnasium knows"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_driven(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(AgentError, match=words):
        trained(local(), fresh(), **wrong)
