"""Episodes to embed: of numbers, and of the twin."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.storage.replay_episodes import PEDALS, SPEEDS
from tspace_core.config import load_vehicle
from tspace_core.records.episode import Episode
from tspace_core.records.meta import EpisodeMeta
from tspace_core.storage import episodes_table
from tspace_core.storage.episodes_stage import episode_entry
from tspace_core.storage.files import atomic_write, write_text
from tspace_core.storage.ingest import ingest_log
from tspace_core.storage.lake import Lake
from tspace_core.twin.exploration import SmoothExploration
from tspace_core.twin.recorder import record_drive
from tspace_core.twin.route import make_route

VEHICLE = "twin_truck"
WINDOW, SIGNALS, RATE_HZ = 30, ("velocity", "thrust", "brake"), 20.0
STEP_NS = 3_000_000_000
BEGUN_NS = 1_767_600_000_000_000_000
"""2026-01-05 08:00 UTC."""


def course(records: int, seed: int, *, window: int = WINDOW, signals: int = 3) -> NDArray[np.float32]:
    """(records + 1, window, signals) states of a smooth drive."""
    generator = np.random.default_rng(seed)
    samples = (2 * records + 1) * window
    time = np.arange(samples) / RATE_HZ
    phase = generator.uniform(0, 6.28, 3)
    speed = 45 + 25 * np.sin(time / 23 + phase[0]) + 15 * np.sin(time / 7 + phase[1])
    slope = np.gradient(speed, time)
    pedal = np.clip(20 + 12 * slope + 4 * np.sin(time / 3 + phase[2]), 0, 100)
    brake = np.clip(-8 * slope - 20, 0, 100)
    rows = np.stack([np.clip(speed, 0, None), pedal, brake], axis=1)[:, :signals]
    return rows.reshape(-1, window, signals)[::2].astype(np.float32)


def smooth_episode(number: int, records: int, **meta: object) -> Episode:
    """Episode ``number`` of a smooth drive, with an id as the lake has it."""
    fields: dict[str, object] = {
        "episode_id": f"{VEHICLE}/2026-01-05/log{number}.blf#0000",
        "vehicle_id": VEHICLE,
        "driver_id": "tracker",
        "site_id": "proving_ground",
        "timezone": "Europe/Berlin",
        "rate_hz": RATE_HZ,
        "window": WINDOW,
        "signals": SIGNALS,
        "pedal_axis": PEDALS,
        "speed_axis_kmh": SPEEDS,
        "default_map_sha256": "0" * 64,
        "budget_nm": 250.0,
        "upper_factor": 1.0,
        "software_version": "0",
        "log_key": f"{VEHICLE}/2026-01-05/log{number}.blf",
        "time_source": "log_header",
        "action_source": "default_map",
        "reward_kind": "energy",
        "energy_wh": 1.0,
        "distance_m": 10.0,
        "duration_s": 3.0,
        "end_reason": "log ended",
    }
    known = EpisodeMeta.model_validate(fields | meta)
    states = course(records, number, window=known.window, signals=len(known.signals))
    generator = np.random.default_rng(number)
    return Episode(
        states=states.reshape(records + 1, -1),
        actions=generator.uniform(-1, 1, (records, 68)).astype(np.float32),
        rows=np.zeros(records, np.int32),
        rewards=generator.normal(size=records).astype(np.float32),
        times=BEGUN_NS + number * 86_400_000_000_000 + np.arange(records + 1, dtype=np.int64) * STEP_NS,
        flags=np.zeros(records, np.uint8),
        meta=known,
    )


def put_episode(lake: Lake, episode: Episode, version: str = "aaaaaaaa") -> None:
    """Make an episode the only visible one of its log."""
    log = lake.log_of(episode.meta.log_key)
    path = lake.episode(log, version, 0)
    with atomic_write(path) as temporary:
        episodes_table.write(temporary, episode)
    write_manifest(lake, episode, [episode_entry(path, episode)])


def write_manifest(lake: Lake, episode: Episode, entries: list[dict[str, object]]) -> None:
    """Say which episodes of a log are visible."""
    import json

    manifest = lake.episodes_manifest(lake.log_of(episode.meta.log_key))
    write_text(manifest, json.dumps({"summary": {}, "episodes": entries}))


def twin_lake(folder: Path) -> Lake:
    """A lake with three drives of two minutes by different drivers, on different roads."""
    lake, vehicle = Lake(folder / "lake"), load_vehicle(VEHICLE)
    seconds = np.arange(0.0, 181.0)
    for number, driver in enumerate(("tracker", "habitual", "aggressive")):
        knots = np.arange(0.0, 181.0, 20.0)
        speeds = np.clip(np.random.default_rng(number).normal(12, 7, len(knots)), 0, 22)
        speeds[[0, -1]] = 0
        path = folder / f"drive{number}.blf"
        route = make_route(f"road{number}", seconds, np.interp(seconds, knots, speeds))
        record_drive(vehicle, driver, route, number, path, SmoothExploration(vehicle, number))
        ingest_log(lake, path, vehicle)
    return lake
