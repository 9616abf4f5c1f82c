"""Says which batch made training stop: what is wrong in it, and which records of which episodes that is."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tspace_core.agents.dpg import DPG
from tspace_core.agents.sources import Batch
from tspace_core.storage.replay import Replay

_BLOCK = 4096
_NAMED = 5


def describe_batch(agent: DPG, replay: Replay, generator: Mapping[str, Any]) -> str:
    """What was in the batch that an agent draws with a generator in this state.

    Args:
        agent: that drew it.
        replay: what it was drawn from.
        generator: state of the generator before the draw.
    """
    again = np.random.default_rng()
    again.bit_generator.state = generator
    batch = agent.draw(replay, again)
    where = bad_places(batch)
    return f"not finite: {where}. {bad_records(replay)}" if where else weights_at_fault(batch)


def bad_places(batch: Batch) -> str:
    """Where a batch holds numbers that are not finite, in words; empty: nowhere."""
    fields = {name: value for name, value in batch._asdict().items() if isinstance(value, np.ndarray)}
    bad = {name: _places(value) for name, value in fields.items() if not np.isfinite(value).all()}
    return "; ".join(f"{name} at {_some(places)} of the batch" for name, places in bad.items())


def weights_at_fault(batch: Batch) -> str:
    """What is said of a batch that there is nothing wrong with."""
    rewards = batch.rewards
    return (
        f"the batch of {len(rewards)} holds finite numbers only, rewards {rewards.min():.6g} to "
        f"{rewards.max():.6g}: the weights are at fault, not the data"
    )


def bad_records(replay: Replay) -> str:
    """Which records of a buffer hold numbers that are not finite; reads all of it."""
    found: list[int] = []
    for first in range(0, len(replay), _BLOCK):
        numbers = np.arange(first, min(first + _BLOCK, len(replay)))
        found.extend((first + _rows(replay.pick(numbers))).tolist())
    if not found:
        return f"{replay.directory} itself holds finite numbers only"
    episodes = [
        (item.id, at + offset)
        for item in replay.manifest.content.episodes
        for at, count in item.runs
        for offset in range(count)
    ]
    named = ", ".join(
        f"record {number} (episode {episodes[number][0]}, its record {episodes[number][1]})"
        for number in found[:_NAMED]
    )
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return (
        f"{replay.directory} holds them in {named}{more}: check those episodes and build the buffer again "
        "(materialize replay_buffer)"
    )


def _rows(batch: Batch) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Numbers of the records with anything that is not finite."""
    bad = np.zeros(len(batch.rewards), bool)
    for value in batch._asdict().values():
        if isinstance(value, np.ndarray):
            bad |= ~np.isfinite(value.reshape(len(bad), -1)).all(axis=1)
    return np.flatnonzero(bad)


def _places(value: "np.ndarray[Any, Any]") -> list[int]:
    return np.flatnonzero(~np.isfinite(value.reshape(len(value), -1)).all(axis=1)).tolist()


def _some(places: list[int]) -> str:
    more = f" and {len(places) - _NAMED} more places" if len(places) > _NAMED else ""
    return "places " + ", ".join(map(str, places[:_NAMED])) + more
