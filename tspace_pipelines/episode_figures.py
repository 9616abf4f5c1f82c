"""What figures of episodes are drawn from, read without judging: judging is the checks' business."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from tspace_core.objects.path import AnyPath, local_copy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def energy_per_km(entries: Iterable[dict[str, Any]]) -> list[float]:
    """Energy per distance in Wh/km of the episodes in a manifest that went anywhere."""
    metas = [entry["meta"] for entry in entries]
    return [meta["energy_wh"] / (meta["distance_m"] / 1000) for meta in metas if meta["distance_m"] > 0]


def rewards_and_speeds(
    paths: Sequence[AnyPath],
) -> "tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]":
    """Time in s, reward, and highest value of the state window's first signal, of all records in order."""
    import numpy as np
    import pyarrow.parquet as pq

    from tspace_core.storage.episodes_table import read_meta

    times, rewards, speeds = [], [], []
    for path in paths:
        table = pq.read_table(local_copy(path), columns=["time", "state", "reward"], partitioning=None)
        table = table.slice(0, len(table) - 1)
        signals = len(read_meta(path).signals)
        states = table.column("state").combine_chunks().flatten().to_numpy(zero_copy_only=False)
        times.append(table.column("time").cast("int64").to_numpy().astype(np.float64) / 1e9)
        rewards.append(table.column("reward").to_numpy().astype(np.float64))
        speeds.append(states.reshape(len(table), -1, signals)[:, :, 0].max(axis=1).astype(np.float64))
    time = np.concatenate(times)
    order = np.argsort(time, kind="stable")
    return time[order] - time.min(), np.concatenate(rewards)[order], np.concatenate(speeds)[order]


def episode_strips(title: str, signal: str, paths: Sequence[AnyPath]) -> dg.MetadataValue[Any]:
    """The plot of episodes: reward, and highest value of the state window's first signal, over time."""
    from tspace_pipelines.strip_chart import Strip, strip_chart

    times, rewards, speeds = rewards_and_speeds(paths)
    return strip_chart(title, [Strip("reward", times, rewards), Strip(f"highest {signal}", times, speeds)])
