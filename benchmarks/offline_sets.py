"""Data sets of Pendulum-v1 for offline learning, made with our own DDPG, and how policies are scored on it.

``mixed`` is all that a DDPG run saw from its first random step to its end, ``random`` uniform actions,
``noisy expert`` the trained agent with Gaussian noise on a part of its steps. States and rewards as the
environment gives them; actions in [-1, 1], a share of the largest torque. No episode of Pendulum ever ends
truly, so no record is terminal.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from tspace_core.agents import DDPG
from tspace_core.agents.mixed_replay import LiveReplay
from tspace_core.config import DDPGHyperparameters, NoiseParameters
from tspace_core.storage.replay import ReplayBatch

TASK = "Pendulum-v1"
STATE_DIM, ACTION_DIM, STEPS = 3, 1, 200
LARGEST_TORQUE = 2.0
EXPERT_NOISE, NOISY_SHARE = 0.5, 0.5
"""Deviation of the noise on the expert's actions in [-1, 1], and the share of steps that have it."""
HYPER = DDPGHyperparameters(
    gamma=0.98,
    reward_scale=0.1,
    batch_size=128,
    actor_hidden=(128, 128),
    critic_state_hidden=(32, 64),
    critic_action_hidden=(64,),
    critic_joint_hidden=(128, 128),
    noise=NoiseParameters(theta=0.15, sigma=0.2, dt=1.0),
)
Act = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From states (n, 3) to actions (n, 1) in [-1, 1]."""


class Pendulums:
    """Several pendulums side by side, each in an episode of 200 steps."""

    def __init__(self, count: int) -> None:
        self._tasks: list[gymnasium.Env[Any, Any]] = [gymnasium.make(TASK) for _ in range(count)]

    def reset(self, seed: int) -> NDArray[np.float32]:
        """New episodes; the first states (count, 3)."""
        return np.stack([task.reset(seed=seed + place)[0] for place, task in enumerate(self._tasks)])

    def step(self, actions: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The next states (count, 3) and rewards (count,)."""
        found = [
            task.step(LARGEST_TORQUE * action) for task, action in zip(self._tasks, actions, strict=True)
        ]
        return np.stack([step[0] for step in found]), np.array([step[1] for step in found], np.float32)


def returns_of(act: Act, *, episodes: int, seed: int) -> NDArray[np.float64]:
    """(episodes,) undiscounted returns."""
    tasks = Pendulums(episodes)
    states, total = tasks.reset(seed), np.zeros(episodes)
    for _ in range(STEPS):
        states, rewards = tasks.step(act(states))
        total += rewards
    return total


def batch_of(
    states: NDArray[np.float32],
    actions: NDArray[np.float32],
    rewards: NDArray[np.float32],
    next_states: NDArray[np.float32],
) -> ReplayBatch:
    """Records none of which is terminal."""
    zeros = np.zeros(len(rewards), np.float32)
    return ReplayBatch(states, actions, rewards, next_states, zeros, zeros)


def driven(act: Act, *, records: int, seed: int) -> ReplayBatch:
    """Records of ``act`` in ten pendulums."""
    count = 10
    tasks, parts = Pendulums(count), []
    for episode in range(-(-records // (count * STEPS))):
        states = tasks.reset(seed + 1000 * episode)
        for _ in range(STEPS):
            actions = act(states)
            following, rewards = tasks.step(actions)
            parts.append(batch_of(states, actions, rewards, following))
            states = following
    return ReplayBatch(*(np.concatenate(fields)[:records] for fields in zip(*parts, strict=True)))


def trained(records: int, *, seed: int) -> tuple[DDPG, ReplayBatch]:
    """A DDPG agent and all it saw: 1,000 random steps, then an update a step."""
    agent, generator = DDPG(HYPER, STATE_DIM, ACTION_DIM, seed=seed), np.random.default_rng([seed, 1])
    live, task = LiveReplay(STATE_DIM, ACTION_DIM, records), Pendulums(1)
    agent.fit_normaliser(np.zeros(STATE_DIM), np.array([0.7, 0.7, 3.0]))
    session = agent.session(explore=True)
    states = task.reset(seed)
    for step in range(records):
        if step and step % STEPS == 0:
            states = task.reset(seed + step)
            session.begin()
        random = step < 1000
        actions = (
            generator.uniform(-1, 1, (1, ACTION_DIM)).astype(np.float32) if random else session.act(states)
        )
        following, rewards = task.step(actions)
        live.add(batch_of(states, actions, rewards, following))
        states = following
        if not random:
            agent.train(agent.draw(live, generator))
            agent.update_target()
    return agent, live.split(live.block(np.arange(len(live))))


def offline_sets(folder: Path, *, records: int, seed: int) -> tuple[DDPG, dict[str, ReplayBatch]]:
    """The expert and the sets by name; made once and kept in ``folder``."""
    expert_folder, names = folder / f"expert-{seed}-{records}", ("mixed", "random", "noisy expert")
    paths = {name: folder / f"{name.replace(' ', '-')}-{seed}-{records}.npz" for name in names}
    if not all(path.is_file() for path in paths.values()):
        folder.mkdir(parents=True, exist_ok=True)
        expert, mixed = trained(records, seed=seed)
        expert.save_policy(expert_folder)
        generator = np.random.default_rng([seed, 2])

        def random(states: NDArray[np.float32]) -> NDArray[np.float32]:
            return generator.uniform(-1, 1, (len(states), ACTION_DIM)).astype(np.float32)

        def noisy(states: NDArray[np.float32]) -> NDArray[np.float32]:
            actions = expert.predict(states)
            noise = EXPERT_NOISE * generator.standard_normal(actions.shape, np.float32)
            noise *= generator.random(actions.shape) < NOISY_SHARE
            limited: NDArray[np.float32] = np.clip(actions + noise, -1.0, 1.0)
            return limited

        made = (
            mixed,
            driven(random, records=records, seed=10_000 + seed),
            driven(noisy, records=records, seed=20_000 + seed),
        )
        for path, data in zip(paths.values(), made, strict=True):
            np.savez(path, **data._asdict())
    sets = {name: ReplayBatch(**np.load(path)) for name, path in paths.items()}
    return DDPG.load(expert_folder), sets


def replay_of(data: ReplayBatch) -> LiveReplay:
    """A source of batches in memory."""
    live = LiveReplay(STATE_DIM, ACTION_DIM, len(data.rewards))
    live.add(data)
    return live
