"""Updates on a device are those of ``DDPG.train``; on CUDA they are replayed from a graph."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.agents.batches import SMALL
from tests.storage.replay_episodes import STATE_DIM, coded_episode
from tspace_core.agents import DDPG, CheckpointStore
from tspace_core.agents.ddpg_graph import DDPGGraph
from tspace_core.agents.device_replay import DeviceReplay
from tspace_core.agents.graph_update import GraphUpdate, graph_update
from tspace_core.agents.training import train_offline
from tspace_core.config import DDPGHyperparameters
from tspace_core.errors import AgentError, DivergedError
from tspace_core.records.policy import ACTION_DIM
from tspace_core.storage.replay import Replay, build_replay

HYPER = SMALL.model_copy(update={"batch_size": 32})
BANDS = HYPER.model_copy(update={"action_bands": (0.0, 0.3, 1.0)})


@pytest.fixture
def version(tmp_path: Path) -> Replay:
    episodes = [coded_episode(n, 9 * n, end_reason=("end", "terminal")[n % 2]) for n in range(1, 9)]
    return build_replay(tmp_path / "v", episodes)


def new_agent(replay: Replay, hyper: DDPGHyperparameters = HYPER) -> DDPG:
    agent = DDPG(hyper, STATE_DIM, ACTION_DIM, seed=5)
    agent.fit_normaliser(replay.state_mean, replay.state_std)
    return agent


@pytest.mark.parametrize("hyper", [HYPER, BANDS], ids=["cells", "bands"])
def test_the_same_batches_give_the_same_weights(
    version: Replay, device: str, hyper: DDPGHyperparameters
) -> None:
    ours, theirs = new_agent(version, hyper), new_agent(version, hyper)
    replay = DeviceReplay(version, device)
    graph, generator = DDPGGraph(ours, replay), np.random.default_rng(3)
    for _ in range(30):
        records = generator.integers(len(version), size=hyper.batch_size)
        with torch.no_grad():
            graph.update(replay.pick(torch.from_numpy(records).to(device)))
        theirs.train(version.pick(records))
        theirs.update_target()
    graph.write_back()
    for name, tensors in theirs.tensors().items():
        for key, tensor in tensors.items():
            torch.testing.assert_close(ours.tensors()[name][key], tensor, atol=1e-5, rtol=1e-4)


def test_a_run_counts_tells_and_follows_its_seed(version: Replay, device: str) -> None:
    replay, told = DeviceReplay(version, device), []
    agents = [new_agent(version) for _ in range(3)]
    for agent, seeds in zip(agents, ((1, 2), (1, 2), (1, 3)), strict=True):
        graph = DDPGGraph(agent, replay)
        told.append([graph.run(10, seed) for seed in seeds])
        graph.write_back()
    assert agents[0].updates == 20
    assert told[0] == told[1]
    assert told[0][0] == told[2][0]
    assert told[0][1] != told[2][1]
    state = np.full((1, STATE_DIM), 3.0, np.float32)
    np.testing.assert_array_equal(agents[0].predict(state), agents[1].predict(state))
    assert (agents[0].predict(state) != agents[2].predict(state)).any()
    assert (agents[0].predict(state) != new_agent(version).predict(state)).any()


def test_going_on_after_write_back_is_going_on(version: Replay, device: str) -> None:
    replay = DeviceReplay(version, device)
    straight, stopped = new_agent(version), new_agent(version)
    graph = DDPGGraph(straight, replay)
    for seed in (1, 2):
        graph.run(10, seed)
    graph.write_back()
    for seed in (1, 2):  # as a new process would
        graph = DDPGGraph(stopped, replay)
        graph.run(10, seed)
        graph.write_back()
    for name, tensors in straight.tensors().items():
        for key, tensor in tensors.items():
            assert torch.equal(stopped.tensors()[name][key], tensor), f"{name}.{key}"


def test_divergence_is_noticed_and_the_agent_keeps_its_weights(version: Replay, device: str) -> None:
    agent = new_agent(version, HYPER.model_copy(update={"reward_scale": 1e30}))
    before = {key: tensor.clone() for key, tensor in agent.tensors()["actor"].items()}
    with pytest.raises(DivergedError, match="mean critic loss of 10 updates is inf"):
        DDPGGraph(agent, DeviceReplay(version, device)).run(10, 1)
    assert all(torch.equal(agent.tensors()["actor"][key], tensor) for key, tensor in before.items())
    assert agent.updates == 0


def test_what_cannot_learn_in_a_graph_is_refused(version: Replay, device: str) -> None:
    replay = DeviceReplay(version, device)
    with pytest.raises(AgentError, match="normaliser is not fitted"):
        DDPGGraph(DDPG(HYPER, STATE_DIM, ACTION_DIM), replay)
    with pytest.raises(AgentError, match="mode 'infer'"):
        DDPGGraph(DDPG(HYPER, STATE_DIM, ACTION_DIM, mode="infer"), replay)
    other = DDPG(HYPER, STATE_DIM + 1, ACTION_DIM)
    other.fit_normaliser(np.zeros(STATE_DIM + 1), np.ones(STATE_DIM + 1))
    with pytest.raises(AgentError, match=f"states of {STATE_DIM} "):
        DDPGGraph(other, replay)


def test_a_training_in_intervals_goes_on_where_it_stopped(
    version: Replay, device: str, tmp_path: Path
) -> None:
    straight, parts = (CheckpointStore(tmp_path / name, every=20) for name in ("a", "b"))
    agents = [new_agent(version) for _ in range(3)]
    whole, first, rest = (
        train_offline(
            agent,
            version,
            updates=updates,
            checkpoints=store,
            resume=True,
            report_every=10,
            update=GraphUpdate(device),
        )
        for agent, updates, store in zip(agents, (60, 40, 60), (straight, parts, parts), strict=True)
    )
    assert (first.updates, rest.resumed_from, rest.updates) == (40, 40, 60)
    assert [point.update for point in whole.series] == [10, 20, 30, 40, 50, 60]
    assert rest.series == whole.series
    state = np.full((1, STATE_DIM), 3.0, np.float32)
    np.testing.assert_array_equal(agents[2].predict(state), agents[0].predict(state))


def test_divergence_in_an_interval_stops_the_training(version: Replay, device: str) -> None:
    agent = new_agent(version, HYPER.model_copy(update={"reward_scale": 1e30}))
    with pytest.raises(
        DivergedError, match=r"at update 1: mean critic loss of 50 updates .* finite numbers only"
    ):
        train_offline(agent, version, updates=50, update=GraphUpdate(device))


def test_without_a_device_training_is_on_the_host(version: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert graph_update(new_agent(version), version) is None


def test_where_the_device_has_no_room_for_the_agent_training_is_on_the_host(
    version: Replay, device: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        message = "out of memory"
        raise torch.OutOfMemoryError(message)

    monkeypatch.setattr("tspace_core.agents.ddpg_graph.DDPGGraph", full)
    with pytest.raises(AgentError, match=f"no room on {device} beside the buffer of .*: out of memory"):
        GraphUpdate(device).begin(new_agent(version), version)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert graph_update(new_agent(version), version) is None
    assert "learning on the host: " in caplog.text
