"""Offline training: what comes out, resuming, and stopping where it must."""

from pathlib import Path

import numpy as np
import pytest

from tests.agents.batches import SMALL
from tests.storage.replay_episodes import STATE_DIM, coded_episode
from tspace_core.agents import DDPG, CheckpointStore
from tspace_core.agents.tracking import NullTracker, Status
from tspace_core.agents.training import SeriesPoint, train_offline
from tspace_core.errors import AgentError, CheckpointError
from tspace_core.objects.path import AnyPath
from tspace_core.records.episode import Episode
from tspace_core.storage.replay import Replay, build_replay


def noisy_episode(number: int, records: int, **meta: object) -> Episode:
    """An episode whose reward is minus the sum of the action's first four cells."""
    episode = coded_episode(number, records, **meta)  # type: ignore[arg-type]
    generator = np.random.default_rng(number)
    episode.states[:] = generator.normal(30, 5, episode.states.shape)
    episode.actions[:] = generator.uniform(-1, 1, episode.actions.shape)
    episode.rewards[:] = -episode.actions[:, :4].sum(axis=1)
    return episode


@pytest.fixture
def replay(tmp_path: Path) -> Replay:
    return build_replay(tmp_path / "replay" / "small", [noisy_episode(1, 60), noisy_episode(2, 40)])


def new_agent(seed: int = 5) -> DDPG:
    return DDPG(SMALL, STATE_DIM, 68, seed=seed)


def everything(path: AnyPath) -> dict[str, bytes]:
    """Content of all files of a checkpoint that do not carry the time."""
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name != "manifest.json"}


def test_summary_says_what_happened(replay: Replay, tmp_path: Path) -> None:
    agent = new_agent()
    seen: list[tuple[int, int, SeriesPoint]] = []
    store = CheckpointStore(tmp_path / "c", every=20)
    summary = train_offline(
        agent,
        replay,
        updates=50,
        checkpoints=store,
        progress=lambda done, total, point: seen.append((done, total, point)),
        report_every=20,
    )
    assert (summary.agent, summary.replay, summary.replay_version) == ("ddpg", "small", "000001")
    assert (summary.updates, summary.resumed_from, agent.updates) == (50, 0, 50)
    assert [point.update for point in summary.series] == [20, 40, 50]
    assert seen == [(point.update, 50, point) for point in summary.series]
    assert store.steps() == [20, 40, 50]
    assert summary.checkpoint == store.path(50)
    assert summary.run_id is None
    assert summary.updates_per_s == pytest.approx(50 / summary.wall_s)
    rewards = replay.pick(np.arange(len(replay))).rewards
    assert all(rewards.min() < point.reward < rewards.max() for point in summary.series)
    low, high = summary.value_range
    assert low == pytest.approx(rewards.min() / (1 - 0.99), rel=1e-5)
    assert high == pytest.approx(rewards.max() / (1 - 0.99), rel=1e-5)
    np.testing.assert_allclose(agent.normaliser.mean, replay.state_mean, rtol=1e-6)


@pytest.mark.parametrize("stops", [[25], [7, 8, 31]])
def test_resuming_is_bit_for_bit(replay: Replay, tmp_path: Path, stops: list[int]) -> None:
    straight, parts = CheckpointStore(tmp_path / "a", every=10), CheckpointStore(tmp_path / "b", every=10)
    agent = new_agent()
    train_offline(agent, replay, updates=50, checkpoints=straight, report_every=25)
    for updates in [*stops, 50]:
        other = new_agent()  # a new process would begin like this
        summary = train_offline(
            other, replay, updates=updates, checkpoints=parts, resume=True, report_every=25
        )
    assert summary.resumed_from == stops[-1]
    states = np.random.default_rng(0).normal(30, 5, (20, STATE_DIM)).astype(np.float32)
    np.testing.assert_array_equal(agent.predict(states), other.predict(states))
    ours, theirs = everything(straight.latest()), everything(parts.latest())
    for name, content in ours.items():
        if name != "training.json":  # its series has a further point at each stop
            assert content == theirs[name], name


def test_a_killed_run_goes_on_from_its_latest_checkpoint(replay: Replay, tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def kill(done: int, total: int, point: SeriesPoint) -> None:
        if done == 24:
            raise KilledError

    straight, broken = CheckpointStore(tmp_path / "a", every=10), CheckpointStore(tmp_path / "b", every=10)
    train_offline(new_agent(), replay, updates=40, checkpoints=straight, report_every=8)
    with pytest.raises(KilledError):
        train_offline(new_agent(), replay, updates=40, checkpoints=broken, report_every=8, progress=kill)
    assert broken.steps() == [10, 20]
    summary = train_offline(new_agent(), replay, updates=40, checkpoints=broken, report_every=8, resume=True)
    assert summary.resumed_from == 20
    assert everything(straight.latest()) == everything(broken.latest())  # its series too


def test_a_finished_run_is_left_as_it_is(replay: Replay, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "c", every=10)
    first = train_offline(new_agent(), replay, updates=10, checkpoints=store)
    again = train_offline(new_agent(), replay, updates=10, checkpoints=store, resume=True)
    assert (again.updates, again.resumed_from, again.series) == (10, 10, first.series)


def test_a_new_run_does_not_mix_with_an_old_one(replay: Replay, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "c", every=10)
    train_offline(new_agent(), replay, updates=10, checkpoints=store)
    agent = new_agent()
    with pytest.raises(CheckpointError, match="up to step 10; go on from them with resume=True"):
        train_offline(agent, replay, updates=20, checkpoints=store)
    assert agent.updates == 0


def test_resuming_on_other_data_is_refused(replay: Replay, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "c")
    train_offline(new_agent(), replay, updates=5, checkpoints=store)
    other = build_replay(replay.directory.parent, [noisy_episode(3, 40)])
    with pytest.raises(AgentError, match="resume with the same replay version"):
        train_offline(new_agent(), other, updates=10, checkpoints=store, resume=True)


def test_divergence_names_update_and_last_good_checkpoint(replay: Replay, tmp_path: Path) -> None:
    agent, store = new_agent(), CheckpointStore(tmp_path / "c", every=10)

    def spoil(done: int, total: int, point: SeriesPoint) -> None:
        if done == 15:
            agent.target_critic.output.bias.data.fill_(float("inf"))

    with pytest.raises(AgentError, match=r"stopped at update 16: critic loss is .*checkpoint: .*00000010\)"):
        train_offline(agent, replay, updates=30, checkpoints=store, progress=spoil, report_every=5)
    assert store.steps() == [10]


def test_a_failing_tracker_does_not_hide_why_training_ended(
    replay: Replay, caplog: pytest.LogCaptureFixture
) -> None:
    class Unreachable(NullTracker):
        def finish(self, status: Status = "FINISHED") -> None:
            message = f"server gone, {status}"
            raise OSError(message)

    agent = new_agent()
    agent.target_critic.output.bias.data.fill_(float("nan"))
    with pytest.raises(AgentError, match="critic loss is nan"):
        train_offline(agent, replay, updates=3, tracker=Unreachable())
    assert "server gone, FAILED" in caplog.text


def test_values_beyond_what_rewards_allow_are_reported(replay: Replay) -> None:
    agent = new_agent()
    assert not train_offline(agent, replay, updates=5).overestimating
    agent.critic.output.bias.data.fill_(1000.0)
    assert train_offline(agent, replay, updates=5).overestimating


def test_what_does_not_fit_is_refused(replay: Replay, tmp_path: Path) -> None:
    with pytest.raises(AgentError, match=r"states of 9 and actions of 68, the agent has 12 and 68"):
        train_offline(DDPG(SMALL, 12, 68), replay, updates=1)
    with pytest.raises(AgentError, match="updates is 0"):
        train_offline(new_agent(), replay, updates=0)
    with pytest.raises(AgentError, match="mode 'infer'"):
        train_offline(DDPG(SMALL, STATE_DIM, 68, mode="infer"), replay, updates=1)
    shaped = build_replay(tmp_path / "s", [noisy_episode(1, 40, reward_kind="energy_shaped", gamma=0.9)])
    with pytest.raises(AgentError, match=r"shaped for gamma 0\.9, the agent discounts with 0\.99"):
        train_offline(new_agent(), shaped, updates=1)


@pytest.mark.parametrize("sign", [1, -1])
def test_learns_what_the_buffer_rewards(tmp_path: Path, sign: int) -> None:
    episode = noisy_episode(1, 100)
    episode.rewards[:] *= sign
    replay = build_replay(tmp_path / "r", [episode])
    agent = DDPG(SMALL.model_copy(update={"gamma": 0.0}), STATE_DIM, 68, seed=1)
    train_offline(agent, replay, updates=300)
    actions = agent.predict(episode.states).mean(axis=0)
    assert (sign * actions[:4]).max() < -0.5
