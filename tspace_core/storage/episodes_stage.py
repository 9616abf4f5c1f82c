"""Stage signals -> episodes: windows, actions and rewards of one log."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tspace_core.can.report import ReadReport
from tspace_core.config import Vehicle, load_driver, load_site
from tspace_core.errors import ObjectExistsError, StorageError
from tspace_core.objects.path import AnyPath, local_copy
from tspace_core.records.cutting import CutReport, LogContext, cut_episodes
from tspace_core.records.episode import Episode
from tspace_core.records.flash_journal import Flash, read_journal
from tspace_core.storage import episodes_table, frames_table, signals_table
from tspace_core.storage.files import sha256
from tspace_core.storage.fingerprint import fingerprint, vehicle_config
from tspace_core.storage.lake import Lake, RawLog, read_json, read_json_version
from tspace_core.storage.pools.digest import digest, zeroed
from tspace_core.storage.raw_store import driver_of
from tspace_core.storage.summaries import EpisodesSummary, from_metadata, to_metadata
from tspace_core.storage.writer import DIRECT, Writer

EPISODES_VERSION = 2
"""To be raised when this stage makes another result from the same inputs."""


def store_episodes(lake: Lake, raw: RawLog, vehicle: Vehicle, *, writer: Writer = DIRECT) -> EpisodesSummary:
    """Cut a log's signals into episodes; all of them become visible at once, older ones vanish.

    Nothing is done if the result is there already and its inputs are as they were.

    Args:
        lake: with the log's signals.
        raw: the log.
        vehicle: whose.
        writer: a unit of work that the episodes become visible with.

    Raises:
        StorageError: if the log's signals are not stored yet.
        ObjectExistsError: if another run of this stage has stored other episodes of the log meanwhile.
        UnknownNameError: if the driver or site has no file in conf/.
        RecordError: if the flash journal is damaged elsewhere than in a torn last line, which is counted.
    """
    source = lake.signals(raw)
    signals = frames_table.find_metadata(source)
    if signals is None:
        message = f"the signals of {raw.key} are not stored: run the stage before this one (store_signals)"
        raise StorageError(message)
    default, site = vehicle.default_map(), load_site(vehicle.site)
    driver = load_driver(driver_of(raw, vehicle)).id
    journal = raw.journal if raw.journal.is_file() else None
    mark = fingerprint(
        stage="episodes",
        layout=EPISODES_VERSION,
        driver=driver,
        signals=signals["fingerprint"],
        vehicle=vehicle_config(vehicle),
        site=site.model_dump(mode="json"),
        map=default.sha256(),
        journal=sha256(journal) if journal else None,
    )
    manifest = lake.episodes_manifest(raw)
    seen: str | None = None
    found: dict[str, Any] = {}
    if manifest.is_file():
        found, seen = read_json_version(manifest)
        if found["summary"]["fingerprint"] == mark:
            return EpisodesSummary(**from_metadata(found["summary"], lake.root))
    flashes: list[Flash] = []
    read = ReadReport()
    if vehicle.actions == "flash_journal" and journal:
        flashes = read_journal(local_copy(journal), default, read)
    names = [*vehicle.sampling.signals, "velocity", "thrust"]
    if vehicle.actions == "realised_torque":
        names.append("motor_torque")
    table = signals_table.read_grid(source, names)
    context = LogContext(vehicle, site, default, driver, raw.key, signals["time_source"])
    report = CutReport()
    entries = _write_all(lake, raw, mark, cut_episodes(table, context, flashes, report), writer)
    entries += _kept(found, entries)
    summary = _summary(lake, raw, mark, entries, report, vehicle).model_copy(
        update={"dropped": read.dropped, "messages": read.messages}
    )
    content = {"summary": to_metadata(summary, lake.root), "episodes": entries}
    try:
        # Two runs of this stage at once must not remove each other's episodes: the later one gives way.
        writer.text(manifest, json.dumps(content, indent=1), if_absent=seen is None, seen=seen)
    except ObjectExistsError:
        found = read_json(manifest)["summary"]
        if found["fingerprint"] != mark:
            raise
        return EpisodesSummary(**from_metadata(found, lake.root))
    _remove_old(manifest, {entry["file"] for entry in entries}, raw, found, writer)
    return summary


def _kept(found: dict[str, Any], entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a pool has added to the log's episodes: this stage did not make it and does not remove it.

    An episode that it now makes itself takes the place of one of that id.
    """
    own = {entry["meta"]["episode_id"] for entry in entries}
    added = (entry for entry in found.get("episodes", []) if entry.get("pool"))
    return [entry for entry in added if entry["meta"]["episode_id"] not in own]


def _write_all(
    lake: Lake, raw: RawLog, mark: str, episodes: Iterator[Episode], writer: Writer
) -> list[dict[str, Any]]:
    entries = []
    for number, episode in enumerate(episodes):
        path = lake.episode(raw, mark, number)
        with writer.file(path) as temporary:
            episodes_table.write(temporary, episode)
        entries.append(episode_entry(path, episode))
    return entries


def episode_entry(path: AnyPath, episode: Episode) -> dict[str, Any]:
    """Return what a manifest says of an episode file."""
    return {
        "file": path.name,
        "records": len(episode),
        "start_ns": int(episode.times[0]),
        "end_ns": int(episode.times[-1]),
        "reward_sum": float(episode.rewards.sum(dtype="f8")),
        "reward_min": float(episode.rewards.min()),
        "reward_max": float(episode.rewards.max()),
        "invalid": zeroed(episode),
        "digest": digest(episode),
        "meta": episode.meta.model_dump(mode="json"),
    }


def totals(folder: AnyPath, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the entries of a manifest come to: fields of ``EpisodesSummary``."""
    records = sum(entry["records"] for entry in entries)
    return {
        "paths": [folder / entry["file"] for entry in entries],
        "episodes": len(entries),
        "records": records,
        "energy_wh": sum(entry["meta"]["energy_wh"] for entry in entries),
        "distance_m": sum(entry["meta"]["distance_m"] for entry in entries),
        "duration_s": sum(entry["meta"]["duration_s"] for entry in entries),
        "reward_min": min((entry["reward_min"] for entry in entries), default=None),
        "reward_max": max((entry["reward_max"] for entry in entries), default=None),
        "reward_mean": sum(entry["reward_sum"] for entry in entries) / records if records else None,
        "ended": dict(Counter(entry["meta"]["end_reason"] for entry in entries)),
    }


def _summary(
    lake: Lake, raw: RawLog, mark: str, entries: list[dict[str, Any]], report: CutReport, vehicle: Vehicle
) -> EpisodesSummary:
    return EpisodesSummary(
        key=raw.key,
        fingerprint=mark,
        **totals(lake.episodes_manifest(raw).parent, entries),
        rows=report.rows,
        unusable_rows=dict(report.unusable_rows),
        short_runs=report.short_runs,
        short_rows=report.short_rows,
        left_rows=report.left_rows,
        lost_records={reason: count for reason, count in report.lost_records.items() if count},
        clipped_records=report.clipped_records,
        action_source=vehicle.actions,
    )


def _remove_old(
    manifest: AnyPath, current: set[str], raw: RawLog, found: dict[str, Any], writer: Writer
) -> None:
    """Remove episode files of this log that the manifest no longer names; a pool's by their names."""
    for entry in found.get("episodes", []):
        if entry.get("pool") and entry["file"] not in current:
            writer.remove(manifest.parent / entry["file"])
    prefix = f"{raw.name}."
    for path in manifest.parent.iterdir():
        rest = path.name.removeprefix(prefix)
        parts = rest.split(".")
        mine = rest != path.name and len(parts) == 3 and parts[2] == "parquet" and len(parts[0]) == 8
        if mine and path.name not in current:
            writer.remove(path)
