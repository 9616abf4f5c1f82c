"""Replay sampling against Stable-Baselines3, TorchRL and cpprb, and against a memory copy of the same bytes.

::

    python benchmarks/replay.py [--json] [--rows 200000] [--batch 256] [--rounds 25]

State 90, action 68, float32, all buffers filled with the same records, one thread, in turns. Ours is the
memory-mapped file that training reads. The peers give what their own agents learn from: Stable-Baselines3 and
TorchRL tensors, cpprb arrays. The copy is of as many bytes as a batch has, from a random place of the same
file in one piece: no gather of random rows can be faster than that.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from interleaved import Result, arguments, left_out, median_ratio, off_stdout, seconds_in_turns, show

from tspace_core.objects.path import local_copy
from tspace_core.records.episode import Episode
from tspace_core.records.meta import EpisodeMeta
from tspace_core.storage.replay import Replay, build_replay

WINDOW, ACTION_DIM, RECORDS = 30, 68, 400
SIGNALS = ("velocity", "thrust", "brake")
STATE_DIM = WINDOW * len(SIGNALS)


def episodes(rows: int) -> Iterator[Episode]:
    generator = np.random.default_rng(0)
    for number in range(rows // (RECORDS + 1)):
        yield Episode(
            states=generator.random((RECORDS + 1, STATE_DIM), np.float32) * 100,
            actions=generator.random((RECORDS, ACTION_DIM), np.float32) * 2 - 1,
            rows=np.zeros(RECORDS, np.int32),
            rewards=generator.random(RECORDS, np.float32),
            times=np.arange(RECORDS + 1, dtype=np.int64) * 3_000_000_000,
            flags=np.zeros(RECORDS, np.uint8),
            meta=EpisodeMeta(
                episode_id=f"e{number}",
                vehicle_id="benchmark",
                driver_id="benchmark",
                site_id="benchmark",
                timezone="UTC",
                rate_hz=20.0,
                window=WINDOW,
                signals=SIGNALS,
                pedal_axis=tuple(k / 16 for k in range(17)),
                speed_axis_kmh=tuple(10.0 * k for k in range(14)),
                default_map_sha256="0" * 64,
                budget_nm=250.0,
                upper_factor=1.0,
                software_version="benchmark",
                log_key="benchmark",
                time_source="clock",
                action_source="default_map",
                reward_kind="energy",
                energy_wh=0.0,
                distance_m=0.0,
                duration_s=0.0,
                end_reason="benchmark",
            ),
        )


def ours(replay: Replay, batch: int) -> Callable[[], object]:
    generator = np.random.default_rng(1)
    return lambda: replay.sample(batch, generator)


def stable_baselines3(replay: Replay, batch: int) -> Callable[[], object]:
    from gymnasium import spaces
    from stable_baselines3.common.buffers import ReplayBuffer

    count = len(replay)
    buffer = ReplayBuffer(
        count,
        spaces.Box(-np.inf, np.inf, (STATE_DIM,), np.float32),
        spaces.Box(-1, 1, (ACTION_DIM,), np.float32),
        device="cpu",
    )
    data = replay.pick(np.arange(count))
    buffer.observations[:, 0] = data.states
    buffer.next_observations[:, 0] = data.next_states
    buffer.actions[:, 0] = data.actions
    buffer.rewards[:, 0] = data.rewards
    buffer.full = True
    return lambda: buffer.sample(batch)


def torchrl(replay: Replay, batch: int) -> Callable[[], object]:
    import torch
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

    torch.set_num_threads(1)
    count = len(replay)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(count), batch_size=batch)
    data = replay.pick(np.arange(count))
    buffer.extend(
        TensorDict(
            {
                "observation": torch.from_numpy(data.states),
                "action": torch.from_numpy(data.actions),
                "next": {
                    "observation": torch.from_numpy(data.next_states),
                    "reward": torch.from_numpy(data.rewards[:, None]),
                    "done": torch.zeros(count, 1, dtype=torch.bool),
                    "terminated": torch.zeros(count, 1, dtype=torch.bool),
                },
            },
            batch_size=[count],
        )
    )
    return lambda: buffer.sample()


def cpprb(replay: Replay, batch: int) -> Callable[[], object]:
    from cpprb import ReplayBuffer

    count = len(replay)
    shapes = {"obs": STATE_DIM, "act": ACTION_DIM, "rew": 1, "next_obs": STATE_DIM, "done": 1}
    buffer = ReplayBuffer(count, {name: {"shape": shape} for name, shape in shapes.items()})
    for first in range(0, count, 10_000):
        data = replay.pick(np.arange(first, min(first + 10_000, count)))
        buffer.add(
            obs=data.states,
            act=data.actions,
            rew=data.rewards,
            next_obs=data.next_states,
            done=np.zeros(len(data.rewards)),
        )
    return lambda: buffer.sample(batch)


def memory_copy(replay: Replay, batch: int) -> Callable[[], object]:
    rows = np.fromfile(local_copy(replay.directory / "rows.f32"), np.float32)
    size = batch * (2 * STATE_DIM + ACTION_DIM + 2)
    target = np.empty(size, np.float32)
    generator = np.random.default_rng(2)

    def copy() -> None:
        first = int(generator.integers(0, len(rows) - size))
        np.copyto(target, rows[first : first + size])

    return copy


PEERS = {"stable-baselines3": stable_baselines3, "torchrl": torchrl, "cpprb": cpprb}


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--rows", type=int, default=200_000, help="rows of the buffers")
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="tspace-replay-"))
    try:
        with off_stdout():
            replay = build_replay(folder / "benchmark", episodes(options.rows))
            subjects = {"tspace": ours(replay, options.batch)}
            for name, build in PEERS.items():
                try:
                    subjects[name] = build(replay, options.batch)
                except ImportError as error:
                    left_out(name, error)
            subjects["memory copy"] = memory_copy(replay, options.batch)
            seconds = seconds_in_turns(subjects, rounds=options.rounds, calls=200)
    finally:
        shutil.rmtree(folder)
    what = f"replay sampling, batch {options.batch}, {options.rows} rows"
    results = [
        Result(what, name, sorted(times)[len(times) // 2] * 1e6, "us", "lower")
        for name, times in seconds.items()
    ]
    results += [
        Result(
            f"{what}, times as fast as {name}",
            "tspace",
            median_ratio(seconds[name], seconds["tspace"]),
            "x",
            "higher",
        )
        for name in seconds
        if name in PEERS
    ]
    share = 100 * median_ratio(seconds["memory copy"], seconds["tspace"])
    results.append(Result(f"{what}, share of a memory copy", "tspace", share, "%", "higher"))
    show(results, as_json=options.json, title="replay sampling, one thread, medians over interleaved rounds")


if __name__ == "__main__":
    main()
