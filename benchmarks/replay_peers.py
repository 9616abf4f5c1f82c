"""The records of ``benchmarks/replay.py`` in other packages' replay buffers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tspace_core.records.episode import Episode
from tspace_core.records.meta import EpisodeMeta
from tspace_core.storage.replay import Replay

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


def cpprb(replay: Replay, batch: int, *, folder: Path | None = None) -> Callable[[], object]:
    from cpprb import ReplayBuffer

    count = len(replay)
    shapes = {"obs": STATE_DIM, "act": ACTION_DIM, "rew": 1, "next_obs": STATE_DIM, "done": 1}
    mapped = {"mmap_prefix": str(folder / "cpprb")} if folder else {}
    buffer = ReplayBuffer(count, {name: {"shape": shape} for name, shape in shapes.items()}, **mapped)
    for first, last in blocks(count):
        data = replay.pick(np.arange(first, last))
        buffer.add(
            obs=data.states,
            act=data.actions,
            rew=data.rewards,
            next_obs=data.next_states,
            done=np.zeros(len(data.rewards)),
        )
    return lambda: buffer.sample(batch)


def torchrl(replay: Replay, batch: int, *, folder: Path | None = None) -> Callable[[], object]:
    """Records drawn at random; memory-mapped where a folder is given."""
    from torchrl.data import RandomSampler, TensorDictReplayBuffer

    storage = torchrl_storage(replay, folder)
    buffer = TensorDictReplayBuffer(storage=storage, sampler=RandomSampler(), batch_size=batch)
    return lambda: buffer.sample()


def torchrl_slices(
    replay: Replay, slices: int, length: int, *, folder: Path | None = None
) -> Callable[[], object]:
    """Sequences within episodes."""
    from torchrl.data import SliceSampler, TensorDictReplayBuffer

    sampler = SliceSampler(num_slices=slices, traj_key="episode", cache_values=True)
    buffer = TensorDictReplayBuffer(
        storage=torchrl_storage(replay, folder), sampler=sampler, batch_size=slices * length
    )
    return lambda: buffer.sample()


def torchrl_storage(replay: Replay, folder: Path | None) -> Any:
    import torch
    from torchrl.data import LazyMemmapStorage, LazyTensorStorage, TensorDictReplayBuffer

    torch.set_num_threads(1)
    count = len(replay)
    if folder is None:
        storage = LazyTensorStorage(count)
    else:
        storage = LazyMemmapStorage(count, scratch_dir=folder / "torchrl")
    buffer = TensorDictReplayBuffer(storage=storage, batch_size=1)
    for first, last in blocks(count):
        buffer.extend(_tensors(replay, first, last))
    return storage


def _tensors(replay: Replay, first: int, last: int) -> Any:
    import torch
    from tensordict import TensorDict

    count = last - first
    data = replay.pick(np.arange(first, last))
    ends = torch.zeros(count, 1, dtype=torch.bool)
    return TensorDict(
        {
            "observation": torch.from_numpy(data.states),
            "action": torch.from_numpy(data.actions),
            "episode": torch.arange(first, last) // RECORDS,
            "next": {
                "observation": torch.from_numpy(data.next_states),
                "reward": torch.from_numpy(data.rewards[:, None]),
                "done": ends,
                "terminated": ends.clone(),
            },
        },
        batch_size=[count],
    )


def blocks(count: int, size: int = 10_000) -> Iterator[tuple[int, int]]:
    for first in range(0, count, size):
        yield first, min(first + size, count)


def memory_copy(rows: Any, size: int) -> Callable[[], object]:
    """Copies ``size`` floats from a random place of ``rows`` in one piece."""
    target = np.empty(size, np.float32)
    generator = np.random.default_rng(2)

    def copy() -> None:
        first = int(generator.integers(0, len(rows) - size))
        np.copyto(target, rows[first : first + size])

    return copy
