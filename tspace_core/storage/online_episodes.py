"""Episodes that were recorded online: the same layout as those cut from logs, without a raw log.

::

    episodes/vehicle=<vehicle>/date=<date>/online-<HHMMSS>-<episode>.<hash>.<piece>.parquet
                                           online-<HHMMSS>-<episode>.training.json   record by record
                                           online-<HHMMSS>-<episode>.live_map.csv    map at its end
                                           online-<HHMMSS>-<episode>.episodes.json   makes it visible

The manifest is written last. Where anything before it fails, for example because the disk is full, what was
written is removed again and readers never see any of it.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tspace_core.config import TorqueMap, Vehicle
from tspace_core.errors import ObjectError, ObjectExistsError, StorageError
from tspace_core.objects.path import AnyPath, S3Path
from tspace_core.records.episode import Episode
from tspace_core.storage import episodes_table
from tspace_core.storage.episodes_stage import episode_entry, totals
from tspace_core.storage.fingerprint import fingerprint, vehicle_config
from tspace_core.storage.lake import Lake, RawLog, read_json
from tspace_core.storage.summaries import EpisodesSummary, from_metadata, to_metadata
from tspace_core.storage.writer import DIRECT, Writer

ONLINE_VERSION = 1
"""To be raised when the same episode is stored in another way."""
PREFIX = "online-"


@dataclass(frozen=True)
class OnlineCounts:
    """What did not become a record, counted while recording.

    Attributes:
        rows: samples of all windows seen.
        unusable_rows: samples of windows that were not valid, by reason.
        lost_records: steps that are in no stored piece, by reason.
        short_runs: pieces with too few records.
        short_rows: their samples.
        clipped_records: records with a cell beyond the budget.
    """

    rows: int = 0
    unusable_rows: Mapping[str, int] = field(default_factory=dict)
    lost_records: Mapping[str, int] = field(default_factory=dict)
    short_runs: int = 0
    short_rows: int = 0
    clipped_records: int = 0


def online_key(vehicle_id: str, started_ns: int, number: int) -> str:
    """Key of an online episode: ``<vehicle>/<UTC date>/online-<HHMMSS>-<episode number>``.

    Args:
        vehicle_id: whose.
        started_ns: when it began, ns UTC.
        number: counted over all runs of the vehicle, so that no two episodes share a key.
    """
    begun = datetime.fromtimestamp(started_ns / 1e9, UTC)
    return f"{vehicle_id}/{begun:%Y-%m-%d}/{PREFIX}{begun:%H%M%S}-{number:04d}"


def store_online_episode(
    lake: Lake,
    vehicle: Vehicle,
    key: str,
    episodes: Sequence[Episode],
    *,
    counts: OnlineCounts | None = None,
    training_log: Mapping[str, Any] | None = None,
    live_map: TorqueMap | None = None,
    writer: Writer = DIRECT,
) -> EpisodesSummary:
    """Store the pieces of one online episode; all of it becomes visible at once.

    The same episode stored again is left as it is.

    Args:
        lake: where.
        vehicle: whose.
        key: as ``online_key`` gives it; the pieces' ids begin with it.
        episodes: the pieces in order; none is allowed: the episode is then counted, with what it lost.
        counts: what did not become a record.
        training_log: JSON of what happened, stored beside the pieces.
        live_map: map that was live at the end, stored beside them.
        writer: a unit of work that the episode becomes visible with.

    Raises:
        ObjectError: a lake in a bucket cannot be written; nothing of the episode is visible.
        StorageError: the disk is full or a file cannot be written (nothing of the episode is visible then),
            the pieces belong to another key, or another episode has this key.
    """
    log = lake.log_of(key)
    _check(key, vehicle, episodes)
    counts = counts or OnlineCounts()
    mark = _fingerprint(vehicle, key, episodes)
    manifest = lake.episodes_manifest(log)
    if manifest.is_file():
        return _found(lake, manifest, key, mark)
    folder = manifest.parent
    written: list[AnyPath] = []
    entries = []
    try:
        for number, episode in enumerate(episodes):
            path = lake.episode(log, mark, number)
            written.append(path)
            with writer.file(path) as temporary:
                episodes_table.write(temporary, episode)
            entries.append(episode_entry(path, episode))
        if training_log is not None:
            written.append(lake.training_log(log))
            writer.text(written[-1], json.dumps(training_log, indent=1, allow_nan=False))
        if live_map is not None:
            written.append(lake.last_live_map(log))
            with writer.file(written[-1]) as temporary:
                live_map.to_csv(temporary)
        summary = _summary(key, mark, folder, entries, counts)
        content = {"summary": to_metadata(summary, lake.root), "episodes": entries}
        written.append(manifest)
        writer.text(manifest, json.dumps(content, indent=1), if_absent=True)
    except ObjectExistsError:
        # Someone else has just stored an episode of this key: the same, or the key was given twice.
        return _found(lake, manifest, key, mark)
    except BaseException as error:
        if writer is DIRECT:
            _remove(manifest, written)
        if isinstance(error, OSError):
            message = (
                f"online episode {key} of {sum(map(len, episodes))} records is lost: {folder} cannot be "
                f"written ({error}); make room or correct the rights, then begin the run again"
            )
            raise StorageError(message) from error
        raise
    return summary


def read_online_summary(lake: Lake, key: str) -> EpisodesSummary:
    """What is visible of a stored online episode.

    As ``store_online_episode`` returned it, less what was put into the quarantine since.

    Raises:
        StorageError: there is no such episode, or its manifest is damaged.
    """
    manifest = lake.episodes_manifest(lake.log_of(key))
    if not manifest.is_file():
        message = f"no online episode {key}: {manifest} does not exist"
        raise StorageError(message)
    content = read_json(manifest)
    try:
        found = EpisodesSummary(**from_metadata(content["summary"], lake.root))
        return found.model_copy(update=totals(manifest.parent, content["episodes"]))
    except (KeyError, TypeError, ValueError) as error:
        message = f"{manifest} is damaged ({type(error).__name__}: {error}): move it away"
        raise StorageError(message) from error


def is_online(log: RawLog) -> bool:
    """Whether this is the key of an online episode, which has no raw log."""
    return log.name.startswith(PREFIX) and not log.path.is_file()


def _check(key: str, vehicle: Vehicle, episodes: Sequence[Episode]) -> None:
    for number, episode in enumerate(episodes):
        meta = episode.meta
        if (meta.episode_id, meta.log_key, meta.vehicle_id) != (f"{key}#{number:04d}", key, vehicle.id):
            message = (
                f"piece {number} of online episode {key} calls itself {meta.episode_id} of "
                f"{meta.vehicle_id}, expected {key}#{number:04d} of {vehicle.id}: "
                "give the pieces of one episode in order"
            )
            raise StorageError(message)


def _fingerprint(vehicle: Vehicle, key: str, episodes: Sequence[Episode]) -> str:
    return fingerprint(
        stage="online",
        layout=ONLINE_VERSION,
        key=key,
        vehicle=vehicle_config(vehicle),
        times=[[int(episode.times[0]), int(episode.times[-1]), len(episode)] for episode in episodes],
        rewards=[float(episode.rewards.sum(dtype="f8")) for episode in episodes],
    )


def _remove(manifest: AnyPath, written: list[AnyPath]) -> None:
    """Remove what was written, the manifest first, so that it never names what is gone."""
    if isinstance(manifest, S3Path):
        # An answer may have been lost: where the manifest is there, all that it names is there and stays.
        # Where the server is down the files stay as well, named by no manifest.
        with suppress(ObjectError):
            if not manifest.is_file():
                manifest.store.delete(*(path.key for path in written if isinstance(path, S3Path)))
        return
    for path in reversed(written):
        path.unlink(missing_ok=True)


def _found(lake: Lake, manifest: AnyPath, key: str, mark: str) -> EpisodesSummary:
    summary = read_json(manifest)["summary"]
    if summary["fingerprint"] != mark:
        message = f"{manifest} holds another episode of the key {key}: number the episodes of a vehicle on"
        raise StorageError(message)
    return EpisodesSummary(**from_metadata(summary, lake.root))


def _summary(
    key: str, mark: str, folder: AnyPath, entries: list[dict[str, Any]], counts: OnlineCounts
) -> EpisodesSummary:
    return EpisodesSummary(
        key=key,
        fingerprint=mark,
        **totals(folder, entries),
        rows=counts.rows,
        unusable_rows=dict(counts.unusable_rows),
        short_runs=counts.short_runs,
        short_rows=counts.short_rows,
        left_rows=0,
        lost_records=dict(counts.lost_records),
        clipped_records=counts.clipped_records,
        action_source="agent",
    )
