"""Batch inference: an agent over a million records, from episodes on a disk to scores on a disk.

::

    python benchmarks/scoring.py [--json] [--records 1000000] [--workers 2] [--logs 20]

Makes a lake of synthetic episodes (400 records each, state 90, action 68) in a temporary folder, then scores
it as ``tspace score`` does: every log a unit of work, processes of one thread. The time holds all of it,
the processes' start too. Numbers are random, so they do not compress: real ones take less time to read and
write. User and system seconds are those of all processes: they say what it costs where others use the
machine as well. Where the time goes is measured on one log in one process of one thread, best of 5.

``eager, an episode at a time`` is what one would write at first: the modules of the same networks called per
episode, the same columns written with polars; on one log in one process, in turns with ours.
"""

import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from interleaved import Result, arguments, off_stdout, show

from tspace_core.agents import DDPG
from tspace_core.agents.batch_runs import score_logs
from tspace_core.agents.scorers import Recorded
from tspace_core.agents.scores import Tally
from tspace_core.agents.scoring import open_checkpoint, score_episodes, store_scores
from tspace_core.agents.scoring_table import ScoredBlock, scores_file
from tspace_core.config import DDPGHyperparameters, Vehicle, load_site, load_vehicle
from tspace_core.records.episode import Episode
from tspace_core.records.meta import EpisodeMeta, episode_meta
from tspace_core.storage import episodes_table
from tspace_core.storage.episodes_stage import episode_entry
from tspace_core.storage.files import write_text
from tspace_core.storage.lake import Lake, RawLog

VEHICLE, RECORDS, ROUNDS = "twin_truck", 400, 5
POOL = 50_000
"""Rows of random numbers that episodes are cut from: making new ones for each would take minutes."""


def meta_of(vehicle: Vehicle, key: str, number: int) -> EpisodeMeta:
    return episode_meta(
        vehicle,
        load_site(vehicle.site),
        vehicle.default_map(),
        vehicle.driver,
        episode_id=f"{key}#{number:04d}",
        log_key=key,
        time_source="log_header",
        action_source="flash_journal",
        energy_wh=1.0,
        distance_m=1.0,
        duration_s=1.0,
        end_reason="benchmark",
    )


def make_lake(root: Path, vehicle: Vehicle, records: int, logs: int) -> list[RawLog]:
    """Logs of equal length; the files are written plainly, as nothing is to be proved by their making."""
    lake = Lake(root)
    generator = np.random.default_rng(0)
    states = generator.random((POOL + 1, vehicle.sampling.state_dim), np.float32) * 100
    actions = generator.random((POOL, vehicle.action_dim), np.float32) * 2 - 1
    meta = meta_of(vehicle, "", 0)
    made = []
    for log_number in range(logs):
        log = lake.log_of(f"{VEHICLE}/2026-01-05/{log_number:04d}.blf")
        lake.episodes_manifest(log).parent.mkdir(parents=True, exist_ok=True)
        entries = []
        for number in range(max(1, records // logs // RECORDS)):
            first = int(generator.integers(0, POOL - RECORDS))
            part = slice(first, first + RECORDS)
            episode = Episode(
                states=states[first : first + RECORDS + 1],
                actions=actions[part],
                rows=np.zeros(RECORDS, np.int32),
                rewards=actions[part, 0],
                times=np.arange(RECORDS + 1, dtype=np.int64) * 3_000_000_000,
                flags=np.zeros(RECORDS, np.uint8),
                meta=meta.model_copy(update={"episode_id": f"{log.key}#{number:04d}", "log_key": log.key}),
            )
            path = lake.episode(log, f"{log_number:08x}", number)
            episodes_table.write(Path(str(path)), episode)
            entries.append(episode_entry(path, episode))
        content = {"summary": {"fingerprint": log.key}, "episodes": entries}
        write_text(lake.episodes_manifest(log), json.dumps(content))
        made.append(log)
    return made


def make_checkpoint(folder: Path, vehicle: Vehicle) -> None:
    agent = DDPG(DDPGHyperparameters(), vehicle.sampling.state_dim, vehicle.action_dim)
    agent.fit_normaliser(np.full(agent.state_dim, 50.0), np.full(agent.state_dim, 29.0))
    generator = torch.Generator().manual_seed(0)
    agent.actor.output.weight.data += 0.1 * torch.randn(agent.actor.output.weight.shape, generator=generator)
    agent.save(folder, step=1)


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(item.ru_utime + item.ru_stime for item in used)


def whole(lake: Lake, vehicle: Vehicle, logs: list[RawLog], checkpoint: Path, workers: int) -> list[Result]:
    before, began = cpu_seconds(), time.perf_counter()
    report = score_logs(lake, vehicle, logs, checkpoint, workers=workers, again=True)
    wall, cpu = time.perf_counter() - began, cpu_seconds() - before
    assert not report.failed, report.failed
    records = sum(item.records for item in report.scores.values())
    read = sum(Path(str(path)).stat().st_size for path in lake.episodes(vehicle_id=vehicle.id))
    written = sum(Path(str(item.path)).stat().st_size for item in report.scores.values())
    name = f"{records} records, {workers} processes"
    began = time.perf_counter()
    skipped = score_logs(lake, vehicle, logs, checkpoint, workers=workers)
    again = time.perf_counter() - began
    assert len(skipped.skipped) == len(logs)
    return [
        Result(f"{name}: wall", "tspace", wall, "s", "lower"),
        Result(f"{name}: user and system", "tspace", cpu, "s", "lower"),
        Result(f"{name}: a second", "tspace", records / wall, "records/s", "higher"),
        Result(f"{name}: a million, wall", "tspace", 1e6 * wall / records, "s", "lower"),
        Result("read, a record", "tspace", read / records, "bytes", "lower"),
        Result("written, a record", "tspace", written / records, "bytes", "lower"),
        Result(f"{name}: again, nothing to do", "tspace", again, "s", "lower"),
    ]


def best(call: Callable[[], object]) -> float:
    found = []
    for _ in range(ROUNDS):
        began = time.process_time()
        call()
        found.append(time.process_time() - began)
    return min(found)


def parts(lake: Lake, vehicle: Vehicle, log: RawLog, checkpoint: Path, folder: Path) -> list[Result]:
    """Processor time of each part, a record, on one log."""
    opened = open_checkpoint(str(checkpoint))
    paths = lake.episodes(log)
    episodes = [episodes_table.read(path) for path in paths]
    states = np.concatenate([episode.states[:-1] for episode in episodes])
    actions = np.concatenate([episode.actions for episode in episodes])
    n = len(states)
    blocks: list[ScoredBlock] = []

    class Kept:
        def write(self, block: ScoredBlock) -> None:
            blocks.append(block)

    kept: Any = Kept()
    score_episodes(opened, episodes, kept, Tally(vehicle))
    first_rows = np.concatenate([block.first_rows for block in blocks])
    proposals = np.concatenate([block.actions for block in blocks])
    default, limits = vehicle.default_map(), vehicle.torque_map

    def write() -> None:
        with scores_file(folder / "parts.parquet") as file:
            for block in blocks:
                file.write(block)

    def tally() -> None:
        found = Tally(vehicle)
        for block in blocks:
            found.add(block)

    records = Recorded(states, actions, np.zeros(len(states), np.float32), np.arange(len(states)) == 0)
    seconds = {
        "read episodes": best(lambda: [episodes_table.read(path) for path in paths]),
        "networks": best(lambda: opened.scorer(records)),
        "limits": best(
            lambda: default.flashed_rows(
                proposals, first_rows, budget_nm=limits.budget_nm, upper_factor=limits.upper_factor
            )
        ),
        "summary": best(tally),
        "write Parquet": best(write),
        "all": best(lambda: store_scores(lake, log.key, str(checkpoint), vehicle=vehicle, again=True)),
        "all, eager, an episode at a time": best(lambda: eager(lake, vehicle, log, checkpoint, folder)),
    }
    return [
        Result(f"processor time a record: {what}", "tspace", 1e6 * value / n, "us", "lower")
        if "eager" not in what
        else Result("processor time a record: all", "eager", 1e6 * value / n, "us", "lower")
        for what, value in seconds.items()
    ]


def eager(lake: Lake, vehicle: Vehicle, log: RawLog, checkpoint: Path, folder: Path) -> None:
    """An episode at a time through the modules; one frame a log, written with polars' defaults."""
    import polars as pl

    agent = DDPG.load(checkpoint, mode="train")
    default, limits = vehicle.default_map(), vehicle.torque_map
    frames = []
    for path in lake.episodes(log):
        episode = episodes_table.read(path)
        n = len(episode)
        states = episode.states[:-1]
        proposals = agent.predict(states)
        with torch.no_grad():
            normal = agent.normaliser(torch.from_numpy(states.copy()))
            values = [
                agent.critic(normal, torch.from_numpy(np.array(chosen)))[:, 0].numpy()
                for chosen in (proposals, episode.actions)
            ]
        speed = states.reshape(n, vehicle.sampling.window, -1)[:, :, 0].max(axis=1)
        rows = default.first_row(speed)
        torque, beyond = default.flashed_rows(
            proposals, rows, budget_nm=limits.budget_nm, upper_factor=limits.upper_factor
        )
        frames.append(
            pl.DataFrame(
                {
                    "time": episode.times[:-1],
                    "episode_id": [episode.meta.episode_id] * n,
                    "record": np.arange(n, dtype=np.int32),
                    "first_row": rows,
                    "action": proposals,
                    "torque": torque.reshape(n, -1),
                    "q_proposal": values[0],
                    "q_behaviour": values[1],
                    "clipped": beyond.reshape(n, -1).mean(axis=1, dtype=np.float32),
                    "distance": np.sqrt(np.square(proposals - episode.actions).mean(axis=1)),
                }
            )
        )
    pl.concat(frames).write_parquet(folder / "eager.parquet")


def main() -> None:
    parser = arguments("Batch inference over a million records.")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--logs", type=int, default=20, help="that the records are in")
    chosen = parser.parse_args()
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    torch.set_num_threads(1)
    vehicle = load_vehicle(VEHICLE)
    folder = Path(tempfile.mkdtemp(prefix="tspace-scoring-"))
    try:
        with off_stdout():
            lake, checkpoint = Lake(folder / "lake"), folder / "lake" / "checkpoints" / "ddpg" / "run" / "1"
            logs = make_lake(folder / "lake", vehicle, chosen.records, chosen.logs)
            make_checkpoint(checkpoint, vehicle)
            results = whole(lake, vehicle, logs, checkpoint, chosen.workers)
            results += parts(lake, vehicle, logs[0], checkpoint, folder)
    finally:
        shutil.rmtree(folder)
    show(results, as_json=chosen.json, title="Batch inference")


if __name__ == "__main__":
    main()
