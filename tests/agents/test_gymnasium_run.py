"""Agents drive and learn in any environment of Box spaces, the same way each time, and go on after a stop."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.spaces import Dict as DictSpace
from numpy.typing import NDArray

from tests.agents.batches import SMALL
from tests.agents.gymnasium_tasks import Cautious, Misinformed, Spaces, Steering
from tspace_core.agents import DDPG, DPG, CheckpointStore
from tspace_core.agents.gymnasium_run import evaluate_in, make_agent, train_in
from tspace_core.agents.mixed_replay import LiveReplay
from tspace_core.config import (
    AgentHyperparameters,
    DDPGHyperparameters,
    IDQLHyperparameters,
    NoiseParameters,
    RDPGHyperparameters,
)
from tspace_core.errors import AgentError, CheckpointError, DivergedError

NOISE = NoiseParameters(theta=1.0, sigma=0.2, dt=1.0)
HYPER: dict[str, AgentHyperparameters] = {
    "ddpg": SMALL.model_copy(update={"noise": NOISE, "gamma": 0.9}),
    "rdpg": RDPGHyperparameters(width=8, layers=1, length=5, burn_in=2, batch_size=4, noise=NOISE),
    "idql": IDQLHyperparameters(
        value_hidden=(16, 16), actor_width=16, actor_blocks=1, samples=4, batch_size=16, noise=NOISE
    ),
}
PLACES = pytest.mark.parametrize("places", [1, 3])
ALL = pytest.mark.parametrize("name", sorted(HYPER))


def fresh(name: str = "ddpg", seed: int = 1) -> DPG:
    return make_agent(name, Steering, HYPER[name], seed)


def weights(agent: DPG) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{key}": tensor.clone()
        for part, found in agent.tensors().items()
        for key, tensor in found.items()
    }


def assert_equal(first: DPG, second: DPG) -> None:
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


@ALL
@PLACES
def test_every_agent_drives_and_learns_and_does_so_again(name: str, places: int) -> None:
    found = []
    for _ in range(2):
        agent = fresh(name)
        before = weights(agent)
        summary = train_in(Steering, agent, steps=90, warm_up=30, environments=places, seed=4)
        assert summary.steps == 90
        assert summary.updates > 30
        assert agent.normalised
        assert any(not torch.equal(value, before[key]) for key, value in weights(agent).items())
        assert [episode.length for episode in summary.episodes] == [10] * 9
        found.append((agent, summary))
    (first, one), (second, other) = found
    assert_equal(first, second)
    assert one.episodes == other.episodes
    assert one.series == other.series
    evaluated = [evaluate_in(Steering, agent, episodes=5, seed=2) for agent in (first, second)]
    np.testing.assert_array_equal(evaluated[0], evaluated[1])


def test_it_learns_the_task() -> None:
    agent = fresh()
    before = evaluate_in(Steering, agent, episodes=20)
    train_in(Steering, agent, steps=1500, warm_up=200, seed=0)
    after = evaluate_in(Steering, agent, episodes=20)
    assert after.mean() > before.mean() + 2.0, f"{before.mean():.2f} before, {after.mean():.2f} after"


@pytest.mark.parametrize(("ends", "terminal"), [("terminated", 1.0), ("truncated", 0.0)])
@PLACES
def test_only_a_true_end_is_terminal(ends: str, terminal: float, places: int) -> None:
    records = LiveReplay(4, 2, 1000)
    agent = fresh()
    train_in(lambda: Steering(ends), agent, steps=60, warm_up=60, environments=places, replay=records, seed=0)
    found = records.split(records.block(np.arange(60)))
    assert found.terminals.sum() == 6 * terminal
    if places == 1:
        np.testing.assert_array_equal(found.terminals.reshape(6, 10)[:, -1], np.full(6, terminal))
        going_on = np.arange(60) % 10 != 9
        np.testing.assert_array_equal(found.next_states[:-1][going_on[:-1]], found.states[1:][going_on[:-1]])


def test_actions_are_scaled_to_the_spaces_bounds() -> None:
    made: list[Steering] = []

    def environment() -> Steering:
        made.append(Steering())
        return made[-1]

    records = LiveReplay(4, 2, 1000)
    train_in(environment, fresh(), steps=300, warm_up=300, updates_per_step=0, replay=records)
    taken = np.stack(made[0].taken)
    codes = records.split(records.block(np.arange(300))).actions
    np.testing.assert_allclose(taken, np.array([0.5, -1.0]) + codes * np.array([0.5, 3.0]), atol=1e-6)
    assert np.abs(codes).max() > 0.98  # the warm-up uses the whole range
    assert np.abs(codes.mean(axis=0)).max() < 0.15


@PLACES
def test_recurrent_agents_get_whole_episodes_with_what_they_remembered(places: int) -> None:
    agent = fresh("rdpg")
    records = LiveReplay(4, 2, 1000, agent.memory_dim)
    train_in(Steering, agent, steps=60, warm_up=30, environments=places, replay=records, seed=0)
    batch = records.sample_sequences(64, 10, np.random.default_rng(0))
    assert (batch.mask == 1).all()  # every sequence is a whole episode
    assert batch.begins is not None
    assert (batch.begins == 1).all()
    assert batch.memory is not None
    assert (batch.memory == 0).all()
    middle = records.sample_sequences(64, 3, np.random.default_rng(0))
    assert middle.memory is not None
    assert middle.begins is not None
    assert (middle.memory[middle.begins == 0] != 0).any(axis=1).all()


class Settings(TypedDict, total=False):
    """What two runs of ``train_in`` have in common."""

    steps: int
    warm_up: int
    environments: int
    report_every: int
    evaluate_every: int
    keep_records: bool
    seed: int


class _StoppedError(Exception):
    pass


def stop_at(step: int) -> Callable[[int, int, object], None]:
    def progress(done: int, _steps: int, _point: object) -> None:
        if done >= step:
            raise _StoppedError

    return progress


@ALL
def test_a_stopped_run_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    whole, half = fresh(name), fresh(name)
    settings: Settings = {"steps": 120, "warm_up": 30, "report_every": 10, "evaluate_every": 50, "seed": 3}
    store = CheckpointStore(tmp_path / "run", every=25)
    expected = train_in(
        Steering, whole, **settings, checkpoints=CheckpointStore(tmp_path / "other", every=25)
    )
    with pytest.raises(_StoppedError):
        train_in(Steering, half, **settings, checkpoints=store, progress=stop_at(80))
    assert store.steps() == [30, 60]  # at ends of episodes
    again = fresh(name, seed=1)
    found = train_in(Steering, again, **settings, checkpoints=store, resume=True)
    assert found.resumed_from == 60
    assert found.episodes == expected.episodes
    assert found.evaluations == expected.evaluations
    assert found.series == expected.series
    assert_equal(whole, again)


@pytest.mark.parametrize(("places", "keep"), [(3, True), (1, False)])
def test_a_stopped_run_goes_on_where_not_all_is_kept(places: int, keep: bool, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "run", every=25)
    settings: Settings = {
        "steps": 120,
        "warm_up": 30,
        "environments": places,
        "keep_records": keep,
        "report_every": 9,
    }
    with pytest.raises(_StoppedError):
        train_in(Steering, fresh(), **settings, checkpoints=store, progress=stop_at(72))
    begun = store.steps()[-1]
    records = LiveReplay(4, 2, 1000)
    found = train_in(Steering, fresh(), **settings, checkpoints=store, resume=True, replay=records)
    assert found.resumed_from == begun
    assert found.steps == 120
    assert len(records) == (120 if keep else 120 - begun)
    # An update a step once there is a batch of 32: with its records from step 33 on, three at a time; without
    # them from 32 until it was stopped, and from the 32nd new one on.
    assert found.updates == (120 - 30 if keep else 29 + 29)


@pytest.mark.parametrize("file", ["critic.safetensors", "run.json", "records.safetensors", "manifest.json"])
def test_a_torn_checkpoint_is_put_aside_and_the_one_before_is_taken(
    file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings: Settings = {"steps": 90, "warm_up": 30, "report_every": 10}
    store, whole, again = CheckpointStore(tmp_path / "run", every=25), fresh(), fresh(seed=1)
    train_in(Steering, whole, **settings, checkpoints=store)
    assert store.steps() == [30, 60, 90]
    torn = store.path(90) / file
    content = torn.read_bytes()
    torn.write_bytes(content[: len(content) // 2])
    found = train_in(Steering, again, **settings, checkpoints=store, resume=True)
    assert found.resumed_from == 60
    assert_equal(whole, again)
    (aside,) = (tmp_path / "run").glob("damaged-00000090-*")
    assert (aside / file).read_bytes() == content[: len(content) // 2]
    assert file in caplog.text and aside.name in caplog.text


def test_where_every_checkpoint_is_torn_a_run_begins_anew(tmp_path: Path) -> None:
    store, whole, again = CheckpointStore(tmp_path / "run", every=50), fresh(), fresh()
    train_in(Steering, whole, steps=60, warm_up=30, checkpoints=store)
    for path in (tmp_path / "run").glob("*/actor.safetensors"):
        path.write_bytes(b"")
    found = train_in(Steering, again, steps=60, warm_up=30, checkpoints=store, resume=True)
    assert found.resumed_from == 0
    assert_equal(whole, again)


def test_checkpoints_of_another_run_are_refused(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "run", every=20)
    train_in(Steering, fresh(), steps=60, warm_up=30, checkpoints=store, seed=1)
    with pytest.raises(CheckpointError, match=r"holds checkpoints up to step 60.*resume=True"):
        train_in(Steering, fresh(), steps=90, warm_up=30, checkpoints=store, seed=1)
    with pytest.raises(CheckpointError, match="seed is 1, this run has 2"):
        train_in(Steering, fresh(), steps=90, warm_up=30, checkpoints=store, seed=2, resume=True)
    with pytest.raises(CheckpointError, match="places is 1, this run has 2"):
        train_in(
            Steering, fresh(), steps=90, warm_up=30, checkpoints=store, seed=1, resume=True, environments=2
        )


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (
            "observation",
            r"training stopped after step 24: .*observation after step 5 .*1 values that are not finite",
        ),
        ("reward", r"training stopped after step 24: .*reward of step 5 of the episode is nan"),
        ("shape", r"observation after step 5 of the episode has shape \(3,\), its space says \(2, 2\)"),
    ],
)
def test_what_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    bad: str, says: str, tmp_path: Path
) -> None:
    store = CheckpointStore(tmp_path / "run", every=10)
    with pytest.raises(AgentError, match=says) as caught:
        train_in(lambda: Steering(bad=bad), fresh(), steps=90, warm_up=12, checkpoints=store)
    assert f"last good checkpoint: {store.latest()}" in str(caught.value)
    assert store.steps() == [10, 20]
    assert DDPG.load(store.latest()).finite()


def test_divergence_names_the_step_and_the_last_checkpoint(tmp_path: Path) -> None:
    class Huge(Steering):
        def step(
            self, action: NDArray[np.float32]
        ) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
            observation, _, terminated, truncated, info = super().step(action)
            return observation, 1e30, terminated, truncated, info

    store = CheckpointStore(tmp_path / "run", every=10)
    with pytest.raises(
        DivergedError, match=r"stopped after step 32.*critic loss is inf.*checkpoint: .*00000030"
    ):
        train_in(Huge, fresh(), steps=90, warm_up=10, checkpoints=store)


def test_lost_weights_are_not_saved(tmp_path: Path) -> None:
    agent, store = fresh(), CheckpointStore(tmp_path / "run", every=10)

    def lose(*_: object) -> None:
        agent.tensors()["target_critic"]["output.bias"].fill_(float("nan"))

    with pytest.raises(DivergedError, match=r"not finite after step 40.*checkpoint: .*00000030"):
        train_in(Steering, agent, steps=90, warm_up=12, checkpoints=store, report_every=40, progress=lose)
    assert DDPG.load(store.latest()).finite()


def test_learning_waits_until_there_is_a_batch() -> None:
    summary = train_in(Steering, fresh(), steps=60, warm_up=10, updates_per_step=1)
    assert summary.updates == 60 - 32 + 1  # a batch has 32 records
    with pytest.raises(AgentError, match=r"31 steps end before anything is learned.*batch of 32"):
        train_in(Steering, fresh(), steps=31, warm_up=10)
    with pytest.raises(AgentError, match="capacity is 20 records, a batch of the ddpg agent needs 32"):
        train_in(Steering, fresh(), steps=90, warm_up=10, capacity=20)


def test_updates_come_in_rounds() -> None:
    summary = train_in(
        Steering, fresh(), steps=100, warm_up=40, update_every=20, updates_per_step=0.5, report_every=1
    )
    assert [point.step for point in summary.series] == [60, 80, 100]
    assert summary.updates == 30


def test_offline_records_are_mixed_in() -> None:
    offline = LiveReplay(4, 2, 1000)
    train_in(Steering, fresh(), steps=100, warm_up=100, updates_per_step=0, replay=offline, seed=9)
    agent = fresh()
    summary = train_in(Steering, agent, steps=5, warm_up=1, offline=offline, live_share=0.5, seed=0)
    assert summary.updates == 5  # the offline records alone make batches


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ("CartPole-v1", r"CartPole-v1: the action space is Discrete\(2\).*continuous actions"),
        ("NoSuchTask-v0", r"no environment 'NoSuchTask-v0'.*module that registers it in front"),
        ("no.such.module:Task-v0", "no environment 'no.such.module:Task-v0'"),
        (lambda: Spaces(Discrete(3), Box(-1, 1, (1,))), r"observation space is Discrete\(3\)"),
        (lambda: Spaces(DictSpace({}), Box(-1, 1, (1,))), r"observation space is Dict\(\).*Box"),
        (lambda: Spaces(Box(-1, 1, (3,)), Box(-np.inf, np.inf, (1,))), "no finite range.*RescaleAction"),
        (lambda: Spaces(Box(-1, 1, (3,)), Box(-1, 1, ())), "action space is .*at least one number"),
    ],
)
def test_environments_that_do_not_fit_are_refused(environment: str, says: str) -> None:
    with pytest.raises(AgentError, match=says):
        make_agent("ddpg", environment, SMALL, 0)


def test_wrong_agents_are_refused() -> None:
    with pytest.raises(AgentError, match="state_dim is 4, the ddpg agent has 3"):
        train_in(Steering, DDPG(SMALL, 3, 2), steps=90, warm_up=10)
    with pytest.raises(AgentError, match="action_dim is 2, the ddpg agent has 5"):
        evaluate_in(Steering, DDPG(SMALL, 4, 5), episodes=1)
    with pytest.raises(AgentError, match="unknown agent 'td3'; known: ddpg, rdpg, idql"):
        make_agent("td3", Steering, SMALL, 0)
    with pytest.raises(AgentError, match=r"rdpg was given DDPGHyperparameters"):
        make_agent("rdpg", Steering, DDPGHyperparameters(), 0)
    with pytest.raises(AgentError, match="mode 'infer'"):
        train_in(Steering, DDPG(SMALL, 4, 2, mode="infer"), steps=90)
    with pytest.raises(AgentError, match="update_every is 0, at least 1"):
        train_in(Steering, fresh(), steps=90, update_every=0)
    with pytest.raises(AgentError, match="0 episodes"):
        evaluate_in(Steering, fresh(), episodes=0)


def test_bounds_normalise_where_there_are_some() -> None:
    agent = make_agent("ddpg", "MountainCarContinuous-v0", SMALL, 0)
    train_in("MountainCarContinuous-v0", agent, steps=40, warm_up=0, normalise="bounds")
    assert isinstance(agent, DDPG)
    np.testing.assert_allclose(agent.normaliser.mean.numpy(), [-0.3, 0.0], atol=1e-6)
    np.testing.assert_allclose(1 / agent.normaliser.scale.numpy(), np.array([1.8, 0.14]) / 12**0.5, rtol=1e-5)
    with pytest.raises(AgentError, match="no finite bounds to normalise by"):
        train_in(Steering, fresh(), steps=40, warm_up=0, normalise="bounds")


def test_evaluation_does_not_depend_on_how_many_run_at_once() -> None:
    agent = fresh()
    one, many = (evaluate_in(Steering, agent, episodes=7, seed=1, environments=n) for n in (1, 4))
    np.testing.assert_allclose(one, many, rtol=1e-5)
    assert len(np.unique(one)) == 7


@PLACES
@pytest.mark.parametrize("name", ["ddpg", "rdpg"])
def test_what_was_carried_out_is_what_is_learned_from(name: str, places: int) -> None:
    agent = make_agent(name, Cautious, HYPER[name], 1)
    made: list[Cautious] = []

    def cautious() -> Cautious:
        made.append(Cautious())
        return made[-1]

    records = LiveReplay(agent.state_dim, agent.action_dim, 1000, agent.memory_dim)
    train_in(cautious, agent, steps=90, warm_up=30, replay=records, environments=places)
    batch = records.split(records.block(np.arange(len(records))))
    assert np.abs(batch.actions).max() == 0.5
    taken = np.concatenate([place.taken for place in made]) - np.array([0.5, -1.0], np.float32)
    taken /= np.array([0.5, 3.0], np.float32)
    np.testing.assert_allclose(np.sort(batch.actions, axis=0), np.sort(taken, axis=0), atol=1e-6)
    if agent.memory_dim:  # it remembers the action before, and an episode begins with none
        kept = records.component().tensors["memory"].numpy()[:, : agent.action_dim]
        before = kept.reshape(9, 10, agent.action_dim)
        done = batch.actions.reshape(9, 10, agent.action_dim)
        assert not before[:, 0].any()
        np.testing.assert_allclose(before[:, 1:], done[:, :-1], atol=1e-6)


def test_an_evaluation_tells_the_agent_what_was_carried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make_agent("rdpg", Cautious, HYPER["rdpg"], 1)
    session, told = agent.session(2), list[NDArray[np.float32]]()
    monkeypatch.setattr(agent, "session", lambda *_, **__: session)
    monkeypatch.setattr(session, "carried_out", lambda actions: told.append(actions.copy()))
    monkeypatch.setattr(session, "act", lambda *_: np.ones((2, 2), np.float32))
    evaluate_in(Cautious, agent, episodes=2)
    assert len(told) == Cautious.LENGTH
    np.testing.assert_array_equal(np.stack(told), 0.5)


@pytest.mark.parametrize("said", [np.zeros(3, np.float32), np.array([0.0, np.nan], np.float32)])
def test_something_carried_out_that_is_no_action_stops_with_the_step(said: NDArray[np.float32]) -> None:
    with pytest.raises(AgentError, match=r"info\['carried_out'\] of step 1 .* expected 2 finite"):
        train_in(lambda: Misinformed(said), fresh(), steps=40, warm_up=5)


def test_the_trucks_environment_is_one_of_them() -> None:
    environment = "tspace_core.twin.environment:TorqueMap-v0"
    hyper = SMALL.model_copy(update={"action_bands": (0.0, 0.5, 1.0), "batch_size": 4})
    agent = make_agent("ddpg", environment, hyper, 0)
    assert (agent.state_dim, agent.action_dim) == (90, 68)
    summary = train_in(environment, agent, steps=8, warm_up=4)
    assert summary.updates == 5
