"""Online episodes as one HTML file: what was driven, flashed, refused, clipped and learned."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from tspace_core.config import TorqueMap, Vehicle
from tspace_core.evaluation.figures import Picture, torque_map_change
from tspace_core.evaluation.figures.online import Course, episode_course
from tspace_core.evaluation.report import environment
from tspace_core.objects.path import local_copy
from tspace_core.records.episode import Episode
from tspace_core.storage import episodes_table
from tspace_core.storage.files import write_text
from tspace_core.storage.lake import Lake, read_json


@dataclass(frozen=True)
class EpisodeSection:
    """One episode in the report.

    Attributes:
        key: in the lake.
        log: its training log.
        energy_wh, distance_m, duration_s: of its records.
        results: decisions by what became of them.
        clipped: cells that the guard changed, by rule.
        refusals: why decisions were not applied, with counts.
        pictures: its course, and the map at its end.
        notes: what could not be shown.
    """

    key: str
    log: dict[str, Any]
    energy_wh: float
    distance_m: float
    duration_s: float
    results: dict[str, int]
    clipped: dict[str, int]
    refusals: dict[str, int]
    pictures: tuple[Picture, ...]
    notes: tuple[str, ...] = ()


def write_online_report(
    path: Path, *, lake: Lake, vehicle: Vehicle, keys: Sequence[str], command: str = ""
) -> Path:
    """Write the report of online episodes atomically.

    Args:
        path: of the HTML file; an existing one is replaced.
        lake: where the episodes lie.
        vehicle: whose they are.
        keys: of the episodes, in the order to be shown.
        command: that makes the report again.

    Returns:
        ``path``.

    Raises:
        StorageError: an episode or its training log is missing or damaged.
    """
    sections = [_section(lake, vehicle, key) for key in keys]
    page = environment().get_template("online.html.j2")
    write_text(
        path, page.render(vehicle=vehicle, episodes=sections, command=command, made_at=datetime.now(UTC))
    )
    return path


def _section(lake: Lake, vehicle: Vehicle, key: str) -> EpisodeSection:
    log = lake.episode_log(key)
    training = read_json(lake.training_log(log))
    pieces = [episodes_table.read(path) for path in lake.episodes(log)]
    steps = training["steps"]
    clipped: Counter[str] = Counter()
    for step in steps:
        clipped.update(step["clipped"])
    pictures, notes = [], []
    if pieces:
        pictures.append(episode_course(key, _course(pieces, steps)))
    default, path = vehicle.default_map(), lake.last_live_map(log)
    live = TorqueMap.from_csv(local_copy(path)) if path.is_file() else None
    if live is not None and live.table.shape != default.table.shape:
        notes.append(
            f"Its map is not shown: {live.table.shape[0]} x {live.table.shape[1]} cells on another axis than "
            f"the {default.table.shape[0]} x {default.table.shape[1]} that the vehicle has now."
        )
    elif live is not None:
        change = live.table.astype(np.float64) - default.table
        caption = (
            "The default torque map (left) and what the live map differed from it at the end (right), in Nm."
        )
        pictures.append(torque_map_change(default, change, name="flashes", caption=caption))
    return EpisodeSection(
        key=key,
        log=training,
        energy_wh=sum(piece.meta.energy_wh for piece in pieces),
        distance_m=sum(piece.meta.distance_m for piece in pieces),
        duration_s=sum(piece.meta.duration_s for piece in pieces),
        results=dict(Counter(step["flash"] for step in steps)),
        clipped=dict(clipped),
        refusals=dict(Counter(step["reason"] for step in steps if step["flash"] not in ("APPLIED", "HELD"))),
        pictures=tuple(pictures),
        notes=tuple(notes),
    )


def _course(pieces: Sequence[Episode], steps: Sequence[dict[str, Any]]) -> Course:
    """Only state windows are kept, so the curves are broken at half steps."""
    meta = pieces[0].meta
    window_s = meta.window / meta.rate_hz
    offsets = np.arange(meta.window) / meta.rate_hz
    begun = min(int(piece.times[0]) for piece in pieces)
    times, speeds, pedals, record_s, rewards = [], [], [], [], []
    gap = np.full(1, np.nan)
    for piece in pieces:
        for instant, state in zip(piece.times, piece.states, strict=True):
            samples = state.reshape(meta.window, len(meta.signals)).astype(np.float64)
            times += [(int(instant) - begun) / 1e9 + offsets, gap]
            speeds += [samples[:, meta.signals.index("velocity")], gap]
            pedals += [samples[:, meta.signals.index("thrust")], gap]
        record_s.append((piece.times[:-1] - begun) / 1e9 + window_s)
        rewards.append(piece.rewards.astype(np.float64))
    return Course(
        time_s=np.concatenate(times),
        velocity_kmh=np.concatenate(speeds),
        thrust_percent=np.concatenate(pedals),
        flash_s=np.array([(step["time_ns"] - begun) / 1e9 + window_s for step in steps]),
        flash_result=[step["flash"] for step in steps],
        record_s=np.concatenate(record_s),
        reward=np.concatenate(rewards),
    )
