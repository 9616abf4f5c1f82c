"""Driving in several places: the same episodes on every engine, and none lost that was finished."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.agents.batches import SMALL
from tspace_core.agents import AGENTS, DPG
from tspace_core.config import AgentHyperparameters, EngineConfig, IDQLHyperparameters, RDPGHyperparameters
from tspace_core.distributed import Driving, Engine, LocalEngine, Rollout
from tspace_core.distributed.policy_weights import copy_of, take, weights_of
from tspace_core.distributed.ray_engine import RayEngine
from tspace_core.errors import AgentError

PENDULUM = "Pendulum-v1"
DYING = "tests.distributed.dying:Dying-v0"
TWIN = "tspace_core.twin.environment:TorqueMap-v0"


HYPER: dict[str, AgentHyperparameters] = {
    "ddpg": SMALL,
    "rdpg": RDPGHyperparameters(layers=1, width=8),
    "idql": IDQLHyperparameters(value_hidden=(8,), actor_width=8, actor_blocks=1, samples=2),
}


def pendulum_agent(name: str = "ddpg", seed: int = 3) -> DPG:
    agent = AGENTS[name](HYPER[name], 3, 1, seed=seed)
    agent.fit_normaliser(np.zeros(3), np.ones(3))
    return agent


def driving(engine: Engine, environment: str = PENDULUM, **more: Any) -> Driving:
    """In as many places as the engine has actors."""
    return Driving(**{"environment": environment, "places": engine.config.actors, **more})


def first(engine: Engine, agent: DPG, count: int, environment: str = PENDULUM, **more: Any) -> list[Rollout]:
    with engine.rollouts(agent, driving(engine, environment, longest=20, **more)) as rollouts:
        return list(islice(rollouts, count))


def assert_same(ours: list[Rollout], theirs: list[Rollout]) -> None:
    assert [(one.place, one.episode, one.version) for one in ours] == [
        (one.place, one.episode, one.version) for one in theirs
    ]
    for one, other in zip(ours, theirs, strict=True):
        for name, values in one.records._asdict().items():
            np.testing.assert_array_equal(values, getattr(other.records, name), err_msg=name)


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.slow)])
def any_engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    if request.param == "local":
        yield LocalEngine(EngineConfig(actors=2))
    else:
        yield request.getfixturevalue("engine")


def test_records_are_what_happened(any_engine: Engine) -> None:
    found = first(any_engine, pendulum_agent(), 3)
    assert [(one.place, one.episode, one.version, len(one)) for one in found] == [
        (0, 0, 0, 20),
        (1, 0, 0, 20),
        (0, 1, 0, 20),
    ]
    assert not np.array_equal(found[0].records.states, found[1].records.states), "other seeds"
    for one in found:
        np.testing.assert_array_equal(one.records.states[1:], one.records.next_states[:-1])
        assert one.total_reward == pytest.approx(float(one.records.rewards.sum()), rel=1e-6)
        assert np.abs(one.records.actions).max() <= 1.0
        # Pendulum's own equation: the torque of 2 Nm that an action of 1 stands for was applied.
        cos, sin, speed = one.records.states.T
        angle = np.arctan2(sin, cos)
        cost = angle**2 + 0.1 * speed**2 + 0.001 * (2.0 * one.records.actions[:, 0]) ** 2
        np.testing.assert_allclose(one.records.rewards, -cost, atol=1e-4)


def test_engines_drive_the_same_episodes(engine: RayEngine) -> None:
    local = LocalEngine(EngineConfig(actors=2))
    agent, better = pendulum_agent(), pendulum_agent(seed=4)

    def two_versions(engine: Engine) -> list[Rollout]:
        with engine.rollouts(agent, driving(engine, longest=10, seed=7)) as rollouts:
            found = []
            for one in rollouts:
                found.append(one)
                if len(found) == 3:
                    assert rollouts.push(better) == 1
                if len(found) == 6:
                    return found
        raise AssertionError

    ours, theirs = two_versions(local), two_versions(engine)
    assert_same(ours, theirs)
    assert [one.version for one in ours] == [0, 0, 0, 0, 1, 1], "a round is driven with one version"


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_a_place_that_begins_late_drives_as_one_that_took_the_weights(name: str) -> None:
    """An actor may get its first weights at any version; other seeds show what does not come along."""
    before, after = pendulum_agent(name, seed=3), pendulum_agent(name, seed=4)
    taken, late = copy_of(weights_of(before)), copy_of(weights_of(after))
    take(taken, weights_of(after))
    alone = Driving(environment=PENDULUM, places=1, longest=10, seed=7)
    for episode in range(2):
        found, wanted = (alone.drive(alone.place(0), agent, 0, episode) for agent in (taken, late))
        for field, values in wanted.records._asdict().items():
            np.testing.assert_array_equal(getattr(found.records, field), values, err_msg=field)


def test_what_a_recurrent_agent_remembers_comes_along(any_engine: Engine) -> None:
    agent = pendulum_agent("rdpg")
    (found,) = first(any_engine, agent, 1)
    assert found.memory is not None
    assert found.memory.shape == (20, agent.memory_dim)
    assert not found.memory[0].any()
    assert found.memory[1:].any()


def test_the_twin_says_rows_and_energy(any_engine: Engine) -> None:
    agent = AGENTS["ddpg"](SMALL, 90, 68, seed=1)
    options = [{"driver": "tracker"}, {"driver": "habitual"}]
    with any_engine.rollouts(agent, driving(any_engine, TWIN, options=options, longest=4)) as rollouts:
        found = list(islice(rollouts, 2))
    assert all(one.info["total_energy_wh"] != 0 and len(one) == 4 for one in found)
    assert all(set(one.records.first_rows.tolist()) <= set(range(20)) for one in found)


def test_records_behind_a_guard_hold_what_took_effect() -> None:
    agent = AGENTS["ddpg"](SMALL, 90, 68, seed=1)
    agent.tensors()["actor"]["output.bias"].fill_(-5.0)  # it asks for the whole budget less
    actions = []
    for guarded in (False, True):
        step = Driving(environment=TWIN, places=1, options=[{"guarded": guarded}], longest=1)
        with LocalEngine().rollouts(agent, step) as rollouts:
            (found,) = islice(rollouts, 1)
        actions.append(250.0 * found.records.actions[0])
    assert actions[0].max() < -240.0
    assert actions[1].min() == pytest.approx(-50.0, abs=0.01), "the guard lets no cell go further at once"


def test_a_dead_place_is_filled_and_nothing_finished_is_lost(engine: RayEngine, tmp_path: Path) -> None:
    agent = pendulum_agent()
    undisturbed = first(LocalEngine(EngineConfig(actors=2)), agent, 6)
    never = tmp_path / "never"
    never.touch()
    options = [{"mark": str(never)}, {"mark": str(tmp_path / "died")}]
    with engine.rollouts(agent, driving(engine, DYING, options=options, longest=20)) as rollouts:
        found = list(islice(rollouts, 6))
        assert rollouts.replaced == 1
    assert (tmp_path / "died").exists(), "its process ended in the middle of its second episode"
    assert_same(found, undisturbed)


@pytest.mark.slow
def test_arrival_gives_each_episode_once(engine: RayEngine) -> None:
    agent = pendulum_agent()
    found = first(engine, agent, 6, order="arrival")
    assert len({(one.place, one.episode) for one in found}) == 6
    for place in (0, 1):
        episodes = [one.episode for one in found if one.place == place]
        assert episodes == list(range(len(episodes)))
    expected = {
        (one.place, one.episode): one for one in first(LocalEngine(EngineConfig(actors=2)), agent, 12)
    }
    for one in found:
        np.testing.assert_array_equal(one.records.rewards, expected[one.place, one.episode].records.rewards)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ("NoSuch-v0", "Gymnasium knows"),
        ("MountainCarContinuous-v0", "states of 2"),
        ("CartPole-v1", "Box"),
    ],
)
def test_an_environment_that_does_not_fit(environment: str, words: str) -> None:
    with pytest.raises(AgentError, match=words):
        first(LocalEngine(), pendulum_agent(), 1, environment)


@pytest.mark.slow
def test_an_error_of_a_place_names_it_and_is_not_tried_again(engine: RayEngine) -> None:
    with pytest.raises(AgentError, match=r"place [01], episode 0: .*Gymnasium knows"):
        first(engine, pendulum_agent(), 1, "NoSuch-v0")
