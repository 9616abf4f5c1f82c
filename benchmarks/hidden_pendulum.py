"""RDPG with an LSTM and with a Transformer against DDPG on Pendulum-v1 whose velocity is hidden.

::

    python benchmarks/hidden_pendulum.py [--json] [--seeds 0 1 2] [--steps 12000]
        [--folder out/hidden_pendulum] [--subjects rdpg_lstm rdpg_transformer ddpg ddpg_seeing]

Observed are cosine and sine of the angle only. ``ddpg_seeing`` is the same DDPG with the velocity, to show
what it can do where it sees all. Hyperparameters lie in ``conf/hyperparameters/hidden_pendulum_*.yaml``.
All drive the same steps of the environment, the first 1,000 at random; DDPG learns once a step, RDPG once
in four steps, from sequences. A result is the mean return of 20 episodes without noise after the last step.
Every finished run is written to the folder at once, with its seconds; one that is there with the same
settings is not run again.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.wrappers import TransformObservation
from interleaved import Result, arguments, show

from tspace_core.agents.gymnasium_run import evaluate_in, make_agent, train_in
from tspace_core.config.loading import load_hyperparameters

EPISODES, EPISODE_SEED = 20, 7_000
Make = Callable[[], "gymnasium.Env[Any, Any]"]


def hidden_pendulum() -> "gymnasium.Env[Any, Any]":
    """Pendulum-v1 that shows cosine and sine of the angle, not the velocity."""
    space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    return TransformObservation(gymnasium.make("Pendulum-v1"), lambda seen: seen[:2], space)


def pendulum() -> "gymnasium.Env[Any, Any]":
    return gymnasium.make("Pendulum-v1")


SUBJECTS: dict[str, tuple[str, str, Make, float]] = {
    "rdpg_lstm": ("rdpg", "hidden_pendulum_lstm", hidden_pendulum, 0.25),
    "rdpg_transformer": ("rdpg", "hidden_pendulum_transformer", hidden_pendulum, 0.25),
    "ddpg": ("ddpg", "hidden_pendulum_ddpg", hidden_pendulum, 1.0),
    "ddpg_seeing": ("ddpg", "hidden_pendulum_ddpg", pendulum, 1.0),
}
"""Agent, hyperparameters, environment and updates a step."""


def run(subject: str, seed: int, steps: int, path: Path) -> dict[str, Any]:
    """Train and evaluate one seed, or read what was found before with the same settings."""
    name, file, make, updates = SUBJECTS[subject]
    hyper = load_hyperparameters(name, file)
    settings: dict[str, Any] = {
        "subject": subject,
        "seed": seed,
        "steps": steps,
        "updates_per_step": updates,
        "hyperparameters": hyper.model_dump(mode="json", exclude_unset=True),
    }
    if path.is_file():
        known: dict[str, Any] = json.loads(path.read_text())
        theirs = known["settings"]
        kept = {key: theirs["hyperparameters"].get(key) for key in settings["hyperparameters"]}
        if theirs | {"hyperparameters": kept} == settings:
            return known
    began = time.perf_counter()
    agent = make_agent(name, make, hyper, seed)
    summary = train_in(make, agent, steps=steps, updates_per_step=updates, seed=seed, normalise="bounds")
    seconds = time.perf_counter() - began
    returns = evaluate_in(make, agent, episodes=EPISODES, seed=EPISODE_SEED)
    found = {
        "settings": settings,
        "mean": float(returns.mean()),
        "std": float(returns.std()),
        "updates": summary.updates,
        "wall_s": seconds,
        "last_training_returns": [round(episode.value, 1) for episode in summary.episodes[-10:]],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    return found


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--folder", type=Path, default=Path("out/hidden_pendulum"))
    parser.add_argument("--subjects", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, Any]]] = {subject: [] for subject in options.subjects}
    for seed in options.seeds:
        for subject in options.subjects:
            path = options.folder / f"{subject}_{seed}.json"
            found[subject].append(run(subject, seed, options.steps, path))
    results = []
    for subject, runs in found.items():
        results += [
            Result(f"return, seed {one['settings']['seed']}", subject, one["mean"], "", "higher")
            for one in runs
        ]
        results.append(Result("return, worst seed", subject, min(one["mean"] for one in runs), "", "higher"))
        seconds = float(np.median([one["wall_s"] for one in runs]))
        results.append(Result("training, median of the seeds", subject, seconds, "s", "lower"))
    title = f"Pendulum-v1 without velocity, {options.steps} steps, {EPISODES} episodes a seed"
    show(results, as_json=options.json, title=title)


if __name__ == "__main__":
    main()
