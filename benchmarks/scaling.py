"""Learners and places in one process and on a Ray cluster of this machine.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/scaling.py [--json] [--updates 300] [--steps 150]

Updates a second of DDPG in the field's sizes (state 90, action 68, batch 256), from the first point to the
last; steps a second of TorqueMap-v0 with an exploring agent, from the second round on; seconds a round of a
training there (4 episodes driven, an update a step, networks of conf/hyperparameters/torque_map.yaml); and
how long one exchange of gradients takes. Everything shares this machine's cores: whatever else runs slows all
of them.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import tempfile
import time
from itertools import islice
from pathlib import Path

import torch
from interleaved import Result, show
from replay_peers import episodes

from tspace_core.agents import DDPG, CheckpointStore
from tspace_core.config import DDPGHyperparameters, EngineConfig, load_hyperparameters
from tspace_core.distributed import Driving, Engine, LocalEngine, train_from_rollouts
from tspace_core.distributed.ray_cluster import import_ray
from tspace_core.distributed.ray_engine import RayEngine
from tspace_core.storage.replay import Replay, build_replay

TWIN = "tspace_core.twin.environment:TorqueMap-v0"
STATE_DIM, ACTION_DIM = 90, 68
POINT = 50
ROUND = "a round of 4 episodes, driven and learned from"


def updates_a_second(engine: Engine, replay: Replay, folder: Path, updates: int) -> float:
    """While learning: neither the start nor the first point counts."""
    times: list[float] = []
    engine.train_offline(
        DDPG(DDPGHyperparameters(), STATE_DIM, ACTION_DIM, seed=0),
        replay,
        updates=updates,
        checkpoints=CheckpointStore(folder, every=updates),
        progress=lambda done, of, point: times.append(time.perf_counter()),
        report_every=POINT,
    )
    return (updates - POINT) / (times[-1] - times[0])


def steps_a_second(engine: Engine, places: int, steps: int) -> float:
    """While driving: the first episode of each place, which starts it, does not count."""
    agent = DDPG(DDPGHyperparameters(), STATE_DIM, ACTION_DIM, seed=0)
    with engine.rollouts(agent, Driving(environment=TWIN, places=places, longest=steps)) as rollouts:
        source = iter(rollouts)
        list(islice(source, places))
        began = time.perf_counter()
        found = list(islice(source, 3 * places))
        return sum(map(len, found)) / (time.perf_counter() - began)


def round_s(engine: Engine, steps: int) -> float:
    """Of a training with what 4 places drive, from the first round on."""
    times: list[float] = []
    hyper = load_hyperparameters("ddpg", "torque_map")
    assert isinstance(hyper, DDPGHyperparameters)
    train_from_rollouts(
        engine,
        DDPG(hyper, STATE_DIM, ACTION_DIM, seed=0),
        TWIN,
        episodes=16,
        places=4,
        warm_up_episodes=4,
        longest=steps,
        progress=lambda done, of, point: times.append(time.perf_counter()),
    )
    return (times[-1] - times[0]) / (len(times) - 1)


def exchange_us(numbers: int, workers: int) -> float:
    """Adding up so many float32 over the workers, mean of 200, in us."""
    ray = import_ray()

    @ray.remote(num_cpus=1)  # type: ignore[untyped-decorator]
    def work(rank: int, place: str) -> float:
        import torch.distributed as group

        torch.set_num_threads(1)
        group.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=workers)
        values = torch.ones(numbers)
        for _ in range(20):
            group.all_reduce(values)
        began = time.perf_counter()
        for _ in range(200):
            group.all_reduce(values)
        taken = (time.perf_counter() - began) / 200
        group.destroy_process_group()
        return taken

    with tempfile.TemporaryDirectory() as folder:
        place = f"{folder}/store"
        return 1e6 * float(max(ray.get([work.remote(rank, place) for rank in range(workers)])))


def measure(folder: Path, updates: int, steps: int) -> list[Result]:
    torch.set_num_threads(1)
    replay = build_replay(folder / "replay" / "bench", episodes(10_000))
    what = "DDPG updates, batch 256"
    local = LocalEngine(EngineConfig(actors=1))
    speed = updates_a_second(local, replay, folder / "local", updates)
    found = [Result(what, "tspace, one process", speed, "1/s", "higher")]
    drives = [Result("twin steps", "tspace, one process", steps_a_second(local, 1, steps), "1/s", "higher")]
    rounds = [Result(ROUND, "tspace, one process", round_s(local, steps), "s", "lower")]
    for number in (1, 2):
        with RayEngine(EngineConfig(kind="ray", workers=number, actors=number)) as engine:
            began = time.perf_counter()
            speed = updates_a_second(engine, replay, folder / f"ray{number}", updates)
            wall = time.perf_counter() - began
            name = f"tspace, ray {number}"
            found += [
                Result(what, name, speed, "1/s", "higher"),
                Result("start and end of a training", name, wall - updates / speed, "s", "lower"),
            ]
            drives.append(Result("twin steps", name, steps_a_second(engine, number, steps), "1/s", "higher"))
            rounds.append(Result(ROUND, name, round_s(engine, steps), "s", "lower"))
            if number == 2:
                agent = DDPG(DDPGHyperparameters(), STATE_DIM, ACTION_DIM)
                for title, size in (
                    ("exchange of the actor's gradient", agent._actor.values.numel()),
                    ("exchange of the critic's gradient", agent._critic.values.numel()),
                    ("exchange of four losses", 8),
                ):
                    found.append(Result(f"{title}, {size}", name, exchange_us(size, 2), "us", "lower"))
    return found + drives + rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--steps", type=int, default=150, help="of an episode")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scale", dir="/tmp") as folder:
        results = measure(Path(folder), chosen.updates, chosen.steps)
    title = f"seed 0, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end"
    show(results, as_json=chosen.json, title=title)


if __name__ == "__main__":
    main()
