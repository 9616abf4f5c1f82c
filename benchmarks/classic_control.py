"""DDPG on public tasks, beside Stable-Baselines3's DDPG with the hyperparameters of rl-zoo in the same run.

::

    python benchmarks/classic_control.py pendulum [--json] [--seeds 5] [--peer-seeds 3] [--alike]
    python benchmarks/classic_control.py mountain_car [--json] --seeds 3 --peer-seeds 0

``--alike`` trains the peer's seeds once more with our batch, discount, rates, warm-up and layers' width
instead of rl-zoo's, so that the same work is timed.

Each seed trains a fresh agent on one thread and is then judged over 100 episodes without noise, which start
alike for all agents and seeds. Our hyperparameters lie in conf/hyperparameters/<task>.yaml. Ours and the
peer's seeds take turns, so that what else the machine does hits both; beside the wall time stands the
processor's time, which a busy machine distorts less. Both include all driving, none of the judging.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from interleaved import left_out, off_stdout
from numpy.typing import NDArray

from tspace_core.agents.gymnasium_run import evaluate_in, make_agent, train_in
from tspace_core.agents.gymnasium_spaces import EVALUATION, episode_seed
from tspace_core.config import DDPGHyperparameters, load_hyperparameters

EPISODES = 100
PEER, ALIKE = "stable-baselines3", "stable-baselines3 (our settings)"
JUDGED_WITH = 12345
"""Seed of the episodes that all are judged by."""


@dataclass(frozen=True)
class Task:
    """A public task, how it is trained, and the mean return that counts as solved."""

    environment: str
    steps: int
    solved: float
    ours: dict[str, Any]
    """Of ``train_in``."""
    peer: dict[str, Any]
    """Of Stable-Baselines3's DDPG, from rl-zoo3's hyperparams/ddpg.yml."""
    peer_noise: tuple[str, float]
    peer_network: list[int] = field(default_factory=lambda: [400, 300])


TASKS = {
    "pendulum": Task(
        environment="Pendulum-v1",
        steps=20_000,
        solved=-200.0,
        ours={"warm_up": 1000},
        peer={"gamma": 0.98, "buffer_size": 200_000, "learning_starts": 10_000, "learning_rate": 1e-3},
        peer_noise=("normal", 0.1),
    ),
    "mountain_car": Task(
        environment="MountainCarContinuous-v0",
        steps=60_000,
        solved=90.0,
        ours={"warm_up": 0, "normalise": "bounds", "update_every": 4, "updates_per_step": 0.5},
        peer={},
        peer_noise=("ornstein-uhlenbeck", 0.5),
    ),
}


@dataclass(frozen=True)
class Outcome:
    """One seed of one subject."""

    subject: str
    seed: int
    returns: NDArray[np.float64]
    wall_s: float
    cpu_s: float


def timed(train: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    train()
    return time.perf_counter() - wall, time.process_time() - cpu


def ours(name: str, task: Task, seed: int) -> Outcome:
    agent = make_agent("ddpg", task.environment, load_hyperparameters("ddpg", name), seed)
    wall, cpu = timed(lambda: train_in(task.environment, agent, steps=task.steps, seed=seed, **task.ours))
    returns = evaluate_in(task.environment, agent, episodes=EPISODES, seed=JUDGED_WITH)
    return Outcome("tspace", seed, returns, wall, cpu)


def stable_baselines3(task: Task, seed: int, alike: DDPGHyperparameters | None = None) -> Outcome:
    from stable_baselines3 import DDPG
    from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise

    env = gymnasium.make(task.environment)
    assert env.action_space.shape is not None
    kind, sigma = task.peer_noise
    made = NormalActionNoise if kind == "normal" else OrnsteinUhlenbeckActionNoise
    noise = made(np.zeros(env.action_space.shape), np.full(env.action_space.shape, sigma))
    network, hyper = task.peer_network, task.peer
    if alike is not None:
        network = list(alike.actor_hidden)
        hyper = {
            "gamma": alike.gamma,
            "batch_size": alike.batch_size,
            "learning_rate": alike.critic_learning_rate,
            "learning_starts": task.ours["warm_up"],
        }
    model = DDPG(
        "MlpPolicy",
        env,
        action_noise=noise,
        policy_kwargs={"net_arch": network},
        seed=seed,
        device="cpu",
        **hyper,
    )
    wall, cpu = timed(lambda: model.learn(task.steps))
    returns = []
    for episode in range(EPISODES):
        observation, _ = env.reset(seed=episode_seed(JUDGED_WITH, EVALUATION, 0, episode))
        total, over = 0.0, False
        while not over:
            action, _ = model.predict(observation, deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            over = terminated or truncated
        returns.append(total)
    return Outcome(PEER if alike is None else ALIKE, seed, np.array(returns), wall, cpu)


def answers(name: str, task: Task, found: list[Outcome]) -> list[dict[str, Any]]:
    """What ``--json`` prints."""
    what = f"{task.environment}, {task.steps} steps, DDPG"

    def line(text: str, subject: str, value: float, unit: str, better: str, **more: Any) -> dict[str, Any]:
        found = {"what": f"{what}{text}", "subject": subject, "value": value, "unit": unit, "better": better}
        return found | more

    lines = [
        line(
            f", mean return of {EPISODES} episodes",
            one.subject,
            round(float(one.returns.mean()), 2),
            "return",
            "higher",
            seed=one.seed,
            std=round(float(one.returns.std()), 2),
            wall_s=round(one.wall_s, 1),
            cpu_s=round(one.cpu_s, 1),
        )
        for one in found
    ]
    of = {subject: [one for one in found if one.subject == subject] for subject in ("tspace", PEER, ALIKE)}
    solved = sum(one.returns.mean() >= task.solved for one in of["tspace"])
    lines.append(
        line(
            f", seeds of {len(of['tspace'])} at {task.solved:g} or more", "tspace", int(solved), "", "higher"
        )
    )
    for clock in ("wall", "cpu"):
        medians = {
            subject: statistics.median(getattr(one, f"{clock}_s") for one in outcomes)
            for subject, outcomes in of.items()
            if outcomes
        }
        lines += [
            line(f", {clock} time, median", subject, round(value, 1), "s", "lower")
            for subject, value in medians.items()
        ]
        for peer in (PEER, ALIKE):
            if peer in medians:
                ratio = medians["tspace"] / medians[peer]
                text = f", {clock} time as a share of {peer}'s"
                lines.append(line(text, "tspace", round(ratio, 3), "x", "lower"))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=sorted(TASKS))
    parser.add_argument("--json", action="store_true", help="print one JSON list and nothing else")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--peer-seeds", type=int, default=3, help="the first seeds that the peer trains, too")
    parser.add_argument("--alike", action="store_true", help="the peer with our settings, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    task, found = TASKS[options.task], []
    hyper = load_hyperparameters("ddpg", options.task)
    assert isinstance(hyper, DDPGHyperparameters)
    with off_stdout():
        for seed in range(options.seeds):
            subjects: list[Callable[[], Outcome]] = [partial(ours, options.task, task, seed)]
            if seed < options.peer_seeds:
                subjects.append(partial(stable_baselines3, task, seed))
                if options.alike:
                    subjects.append(partial(stable_baselines3, task, seed, hyper))
            for subject in subjects:
                try:
                    one = subject()
                except ImportError as error:
                    left_out("stable-baselines3", error)
                    continue
                found.append(one)
                print(
                    f"{one.subject} seed {one.seed}: {one.returns.mean():.1f} +- {one.returns.std():.1f}, "
                    f"wall {one.wall_s:.1f} s, processor {one.cpu_s:.1f} s",
                    file=sys.stderr,
                    flush=True,
                )
    lines = answers(options.task, task, found)
    if options.json:
        print(json.dumps(lines))
        return
    print(f"{task.environment}, {task.steps} steps")
    for line in lines:
        name = f"{line['subject']} seed {line['seed']}" if "seed" in line else line["subject"]
        text = line["what"].split(", ", 3)[3]
        print(f"  {text:<60} {name:<40} {line['value']:>9} {line['unit']}")


if __name__ == "__main__":
    main()
