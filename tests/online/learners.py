"""Specs, records and stored episodes that the tests of the learner share."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.agents.batches import SMALL, random_batch
from tests.storage.replay_episodes import STATE_DIM, coded_episode
from tspace_core.objects.path import AnyPath, local_copy
from tspace_core.online.learner_protocol import LearnerSpec
from tspace_core.records.episode import Episode
from tspace_core.storage import episodes_table
from tspace_core.storage.files import write_text
from tspace_core.storage.lake import Lake, RawLog
from tspace_core.storage.replay import Replay, ReplayBatch, build_replay
from tspace_core.storage.replay_writer import layout_of

VEHICLE = "v1"
HYPER = SMALL.model_copy(update={"checkpoint_every": 5, "checkpoints_kept": 3, "updates_per_episode": 6})


def noisy_episode(number: int, records: int, **meta: object) -> Episode:
    """An episode of white noise whose reward is minus the sum of the action's first four cells."""
    episode = coded_episode(number, records, **meta)  # type: ignore[arg-type]
    generator = np.random.default_rng(number)
    episode.states[:] = generator.normal(30, 5, episode.states.shape)
    episode.actions[:] = generator.uniform(-1, 1, episode.actions.shape)
    episode.rewards[:] = -episode.actions[:, :4].sum(axis=1)
    return episode


def make_spec(root: AnyPath, **changes: Any) -> LearnerSpec:
    """A spec of a small agent below a folder."""
    fields: dict[str, Any] = {
        "vehicle_id": VEHICLE,
        "lake": root / "lake",
        "run": "v1-online",
        "folder": root / "learner",
        "layout": layout_of(coded_episode(1, 2)),
        "ranges": ((0.0, 120.0), (0.0, 100.0), None),
        "hyper": HYPER,
        "seed": 3,
    }
    return LearnerSpec.model_validate(fields | changes)


def make_replay(root: AnyPath, *episodes: Episode) -> Replay:
    """The vehicle's offline buffer, by default two episodes of 60 and 40 records."""
    chosen = episodes or (noisy_episode(1, 60), noisy_episode(2, 40))
    return build_replay(Lake(root / "lake").replay(VEHICLE), chosen)


def make_records(seed: int, count: int = 1) -> ReplayBatch:
    """Live records."""
    batch = random_batch(np.random.default_rng(seed), count, STATE_DIM, 68)
    return batch._replace(terminals=np.zeros(count, np.float32))


def store_episode(root: Path, number: int, records: int, **meta: object) -> Episode:
    """Put an online episode into the lake, as the online loop does."""
    fields: dict[str, object] = {"action_source": "agent", "time_source": "clock"}
    episode = noisy_episode(number, records, **(fields | meta))
    lake = Lake(root / "lake")
    log = RawLog(VEHICLE, "2026-01-02", f"online-{number}", root / "none")
    path = lake.episode(log, "0" * 8, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    episodes_table.write(local_copy(path), episode)
    entry = {
        "file": path.name,
        "records": records,
        "start_ns": number,
        "meta": episode.meta.model_dump(mode="json"),
    }
    write_text(lake.episodes_manifest(log), json.dumps({"summary": {}, "episodes": [entry]}))
    return episode


def state_of(checkpoint: AnyPath) -> dict[str, bytes]:
    """Content of all files of a checkpoint that do not carry the time."""
    return {path.name: path.read_bytes() for path in checkpoint.iterdir() if path.name != "manifest.json"}
