"""What a learner learns from besides the drive going on: the offline buffer and stored online episodes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tspace_core.agents.mixed_replay import LiveReplay, records_of
from tspace_core.errors import TspaceError
from tspace_core.online.learner_protocol import LearnerSpec
from tspace_core.storage import episodes_table
from tspace_core.storage.lake import Lake, read_json
from tspace_core.storage.replay import Replay, ReplayBatch
from tspace_core.storage.replay_manifest import ReplayLayout
from tspace_core.storage.replay_writer import layout_of


def open_offline(spec: LearnerSpec, notes: list[str]) -> Replay | None:
    """The vehicle's latest replay buffer if its records are made as the vehicle's are now; else a note."""
    root = Lake(spec.lake).replay(spec.vehicle_id)
    try:
        replay = Replay.open(root)
    except TspaceError as error:
        notes.append(f"no offline records: {error}")
        return None
    odd = _differing(replay.layout, spec.layout)
    if odd:
        notes.append(
            f"no offline records: {replay.directory} has other {', '.join(odd)} than the vehicle's file; "
            "build the buffer again from episodes cut with the present file"
        )
        return None
    return replay


def read_stored(spec: LearnerSpec, offline: Replay | None, live: LiveReplay, notes: list[str]) -> int:
    """Put the stored online episodes that the offline buffer does not hold into ``live``, oldest first.

    A damaged file or one of another layout costs only itself, with a note. Stored episodes hold nothing of
    what a recurrent agent remembered: their sequences begin with zeros and burn-in. Returns the number of
    records.
    """
    known = {item.id for item in offline.manifest.content.episodes} if offline else set()
    entries = sorted(_entries(spec, notes), key=lambda item: (item[0]["start_ns"], item[0]["file"]))
    chosen: list[ReplayBatch] = []
    records = 0
    for entry, folder in reversed(entries):
        if records >= spec.live_capacity:
            break
        if entry["meta"]["episode_id"] in known:
            continue
        path = folder / entry["file"]
        try:
            episode = episodes_table.read(path)
        except TspaceError as error:
            notes.append(f"left out an online episode: {error}")
            continue
        odd = _differing(layout_of(episode), spec.layout)
        if odd:
            notes.append(f"left out {path.name}: it has other {', '.join(odd)} than the vehicle's file")
            continue
        chosen.append(records_of(episode))
        records += len(episode)
    for batch in reversed(chosen):
        live.end_episode()
        live.add(batch)
    live.end_episode()
    return len(live)


def nominal_states(spec: LearnerSpec) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and deviation of states whose signals are spread evenly over their possible values, (state_dim,).

    For a run that begins without any data: figures of its first records would say little. A signal without
    limits is left as it is.
    """
    means, deviations = [], []
    for limits in spec.ranges:
        low, high = limits or (-np.sqrt(3.0), np.sqrt(3.0))
        means.append((low + high) / 2.0)
        deviations.append((high - low) / np.sqrt(12.0))
    return np.tile(means, spec.layout.window), np.tile(deviations, spec.layout.window)


def _entries(spec: LearnerSpec, notes: list[str]) -> Iterator[tuple[dict[str, Any], Any]]:
    for manifest in Lake(spec.lake).episode_manifests(spec.vehicle_id):
        try:
            entries = read_json(manifest).get("episodes", [])
        except TspaceError as error:
            notes.append(f"left out the online episodes of a manifest: {error}")
            continue
        for entry in entries:
            if entry["meta"]["action_source"] == "agent":
                yield entry, manifest.parent


def _differing(found: ReplayLayout, wanted: ReplayLayout) -> list[str]:
    return [name for name in ReplayLayout.model_fields if getattr(found, name) != getattr(wanted, name)]
