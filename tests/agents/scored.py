"""Episodes of a vehicle in a lake, and small checkpoints, for the tests of scoring."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.agents.batches import SMALL
from tspace_core.agents import DDPG
from tspace_core.config import Vehicle, load_site
from tspace_core.objects.path import AnyPath
from tspace_core.records.episode import Episode
from tspace_core.records.meta import episode_meta
from tspace_core.storage import episodes_table
from tspace_core.storage.episodes_stage import episode_entry
from tspace_core.storage.files import atomic_write, write_text
from tspace_core.storage.fingerprint import fingerprint
from tspace_core.storage.lake import Lake

VEHICLE = "twin_truck"
DAY_NS = 1_767_571_200_000_000_000
"""2026-01-05 in UTC."""


def drive(vehicle: Vehicle, key: str, number: int, records: int, *, seed: int = 0, **meta: Any) -> Episode:
    """Random but plausible states and actions; ``meta`` overrides what the episode says of itself."""
    generator = np.random.default_rng([seed, number])
    sampling = vehicle.sampling
    states = generator.uniform(0, 100, (records + 1, sampling.state_dim)).astype(np.float32)
    default = vehicle.default_map()
    own = {
        "episode_id": f"{key}#{number:04d}",
        "log_key": key,
        "time_source": "log_header",
        "action_source": "flash_journal",
        "energy_wh": 1.0,
        "distance_m": 10.0,
        "duration_s": 3.0 * records,
        "end_reason": "log ended",
    }
    described = episode_meta(vehicle, load_site(vehicle.site), default, vehicle.driver, **own)
    start = DAY_NS + number * 3_600_000_000_000
    return Episode(
        states=states,
        actions=generator.uniform(-1, 1, (records, vehicle.action_dim)).astype(np.float32),
        rows=generator.integers(0, 5, records).astype(np.int32),
        rewards=generator.normal(size=records).astype(np.float32),
        times=start + np.arange(records + 1, dtype=np.int64) * 3_000_000_000,
        flags=np.zeros(records, np.uint8),
        meta=described.model_copy(update=meta),
    )


def put_episodes(lake: Lake, key: str, episodes: Sequence[Episode]) -> list[AnyPath]:
    """Make episodes those of a log, as the stage does that cuts them."""
    log = lake.log_of(key)
    mark = fingerprint(rewards=[float(episode.rewards.sum()) for episode in episodes])
    entries, paths = [], []
    for number, episode in enumerate(episodes):
        path = lake.episode(log, mark, number)
        with atomic_write(path) as temporary:
            episodes_table.write(temporary, episode)
        entries.append(episode_entry(path, episode))
        paths.append(path)
    content = {"summary": {"fingerprint": mark}, "episodes": entries}
    write_text(lake.episodes_manifest(log), json.dumps(content))
    return paths


def put_agent(
    folder: AnyPath | Path, vehicle: Vehicle, *, seed: int = 0, state_dim: int | None = None
) -> DDPG:
    """A fresh agent, saved as a checkpoint."""
    dim = state_dim or vehicle.sampling.state_dim
    agent = DDPG(SMALL, dim, vehicle.action_dim, seed=seed)
    agent.fit_normaliser(np.full(dim, 50.0), np.full(dim, 25.0))
    generator = np.random.default_rng(seed)
    # Beyond what training starts with: proposals shall reach the limits.
    agent.actor.output.weight.data += 0.3 * _noise(generator, agent.actor.output.weight)
    agent.critic.output.weight.data += 0.3 * _noise(generator, agent.critic.output.weight)
    agent.save(folder, step=7)
    return agent


def _noise(generator: np.random.Generator, like: Any) -> Any:
    import torch

    return torch.from_numpy(generator.normal(size=tuple(like.shape)).astype(np.float32))
