"""What figures of episodes are drawn from, read without judging: judging is the checks' business."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def energy_per_km(entries: Iterable[dict[str, Any]]) -> list[float]:
    """Energy per distance in Wh/km of the episodes in a manifest that went anywhere."""
    metas = [entry["meta"] for entry in entries]
    return [meta["energy_wh"] / (meta["distance_m"] / 1000) for meta in metas if meta["distance_m"] > 0]


def rewards_of(paths: Sequence[Path]) -> list[float]:
    """Rewards of all records in episode files."""
    import polars as pl

    found: list[float] = []
    for path in paths:
        frame = pl.read_parquet(path, columns=["reward"], glob=False, hive_partitioning=False)
        found.extend(frame["reward"].drop_nulls().to_list())
    return found
