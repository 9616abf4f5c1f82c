"""IDQL learns offline, stops and goes on, and learns on online with a mix of both."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from tests.storage.replay_episodes import STATE_DIM, coded_episode
from tspace_core.agents import IDQL, CheckpointStore
from tspace_core.agents.gymnasium_run import train_in
from tspace_core.agents.mixed_replay import LiveReplay
from tspace_core.agents.training import train_offline
from tspace_core.config import IDQLHyperparameters, NoiseParameters
from tspace_core.objects.path import AnyPath
from tspace_core.storage.replay import Replay, ReplayBatch, build_replay

BEST = 0.5


class OneStep(gymnasium.Env[Any, Any]):  # type: ignore[misc]
    """Any state, one step, truly at its end; the best action is 0.5."""

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """A state by chance."""
        super().reset(seed=seed, options=options)
        return self.np_random.uniform(-1, 1, 1).astype(np.float32), {}

    def step(self, action: NDArray[np.float32]) -> Any:
        """Earns the square of what is missing."""
        return np.zeros(1, np.float32), -float((action[0] - BEST) ** 2), True, False, {}


def loss(agent: IDQL) -> float:
    states = np.linspace(-1, 1, 9, dtype=np.float32)[:, None]
    return float(np.square(agent.predict(states) - BEST).mean())


def test_fine_tuning_finds_what_the_data_does_not_hold() -> None:
    # In the data next to no action is above 0.2, so that only driving can find the best one.
    hyper = IDQLHyperparameters(
        value_hidden=(24, 16),
        actor_width=32,
        actor_blocks=2,
        samples=16,
        actor_learning_rate=3e-3,
        critic_learning_rate=3e-3,
        batch_size=64,
        tau=0.05,
        actor_ema=0.05,
        noise=NoiseParameters(theta=0.5, sigma=0.3, dt=1.0),
    )
    agent, generator = IDQL(hyper, 1, 1, seed=0), np.random.default_rng(0)
    states = generator.uniform(-1, 1, (1000, 1)).astype(np.float32)
    actions = np.clip(generator.normal(-0.4, 0.25, (1000, 1)), -1, 1).astype(np.float32)
    rewards, ones = -np.square(actions[:, 0] - BEST), np.ones(1000, np.float32)
    offline = LiveReplay(1, 1, 1000)
    offline.add(ReplayBatch(states, actions, rewards, states, ones, 0 * ones))
    for _ in range(150):
        agent.train(agent.draw(offline, generator))
        agent.update_target()
    before = loss(agent)
    assert before < 0.5 * -float(rewards.mean())  # already better than the data
    summary = train_in(
        OneStep,
        agent,
        steps=1920,
        warm_up=0,
        updates_per_step=1 / 16,
        environments=16,
        offline=offline,
        live_share=1.0 - hyper.offline_share,
        normalise="no",
    )
    assert summary.updates == 120
    assert loss(agent) < 0.5 * before, f"{loss(agent):.3f} after {before:.3f}"


def small_replay(folder: Path) -> Replay:
    episodes = [coded_episode(number, 40) for number in (1, 2)]
    for number, episode in enumerate(episodes):
        generator = np.random.default_rng(number)
        episode.states[:] = generator.normal(30, 5, episode.states.shape)
        episode.actions[:] = generator.uniform(-1, 1, episode.actions.shape)
        episode.rewards[:] = -episode.actions[:, :4].sum(axis=1)
    return build_replay(folder / "replay" / "small", episodes)


def everything(path: AnyPath) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name != "manifest.json"}


def test_resuming_is_bit_for_bit(tmp_path: Path) -> None:
    hyper = IDQLHyperparameters(
        value_hidden=(16,),
        actor_width=8,
        actor_blocks=1,
        samples=4,
        batch_size=16,
        action_bands=(0.0, 0.5, 1.0),
    )
    replay, ends = small_replay(tmp_path), []
    for name, stops in (("whole", [12]), ("stopped", [3, 8, 12])):
        store = CheckpointStore(tmp_path / name, every=4)
        for updates in stops:  # a fresh agent each, as after a stop
            agent = IDQL(hyper, STATE_DIM, 68, seed=5)
            summary = train_offline(agent, replay, updates=updates, checkpoints=store, resume=True)
        assert (summary.agent, summary.updates) == ("idql", 12)
        ends.append(everything(store.path(12)))
    assert ends[0].keys() == ends[1].keys()
    different = [name for name, data in ends[0].items() if ends[1][name] != data and name != "training.json"]
    assert different == []
