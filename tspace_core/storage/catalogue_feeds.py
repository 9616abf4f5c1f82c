"""Which files of the lake the catalogue's rows are read from, and how each kind is read.

Reading is a function of one file. What it cannot make sense of it says by a ``StorageError``: the file is
then listed in the table ``damaged``, costs only its own rows, and is looked at again the next time.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from tspace_core.errors import StorageError
from tspace_core.objects.path import AnyPath, any_path
from tspace_core.storage.bucket_folder import MANIFEST
from tspace_core.storage.catalogue_flashes import journal_rows, training_rows, vehicle_mark
from tspace_core.storage.catalogue_listing import Area, Listed, list_area
from tspace_core.storage.catalogue_tables import Row, Rows
from tspace_core.storage.lake import EPISODES_SUFFIX, JOURNAL_SUFFIX, ORIGIN_SUFFIX, Lake, RawLog, read_json

_TRAINING_SUFFIX = ".training.json"
_REASON_SUFFIX = ".reason.json"
_LISTED = (
    "raw", "frames", "signals", "episodes", "replay", "checkpoints", "quarantine", "metrics",
    "policy_actions",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A file that rows are read from.

    Attributes:
        path: of the file.
        stamp: changes when the file, or what else its rows depend on, changes.
        read: gives its rows.
    """

    path: str
    stamp: str
    read: Callable[[], Rows]


class Seen:
    """What lies in the lake, seen once by the constructor.

    Raises:
        ObjectError: a bucket cannot be listed.
        OSError: a folder cannot be read.
    """

    def __init__(self, lake: Lake) -> None:
        self.lake = lake
        self.areas: dict[str, Area] = {area: list_area(lake.root / area) for area in _LISTED}

    def mark(self) -> str:
        """Changes when any file of the lake that the catalogue looks at comes, goes or changes."""
        digest = hashlib.sha256()
        for area in self.areas.values():
            for listed in area.values():
                digest.update(f"{listed.path}\0{listed.stamp}\0".encode())
        return digest.hexdigest()

    def logs(self) -> tuple[list[Row], list[Row]]:
        """Rows of ``logs``, and of ``damaged`` for what lies in ``raw`` and is no log."""
        rows: list[Row] = []
        damaged: list[Row] = []
        stored = self.areas["frames"].keys() | self.areas["signals"].keys() | self.areas["episodes"].keys()
        for listed in self.areas["raw"].values():
            if listed.path.endswith((JOURNAL_SUFFIX, ORIGIN_SUFFIX)):
                continue
            try:
                log = self._log(listed)
                made = (
                    str(place)
                    for place in (
                        self.lake.frames(log),
                        self.lake.signals(log),
                        self.lake.episodes_manifest(log),
                    )
                )
                known = (log.key, log.vehicle_id, log.date, log.name, listed.size)
                rows.append((*known, *(place in stored for place in made)))
            except (OSError, StorageError) as error:
                damaged.append((listed.path, f"no raw log: {error}"))
        return sorted(rows), damaged

    def sources(self) -> list[Source]:
        """The files that rows are read from."""
        return list(self._sources())

    def parquet(self, area: str) -> list[str]:
        """The Parquet files of an area that lie where a reader looks for them."""
        return [
            listed.path
            for listed in self.areas[area].values()
            if listed.path.endswith(".parquet") and _partitioned(listed.parts)
        ]

    def _log(self, listed: Listed) -> RawLog:
        if len(listed.parts) != 3:
            message = f"it lies at {'/'.join(listed.parts)}, expected <vehicle>/<YYYY-MM-DD>/<log>: move it"
            raise StorageError(message)
        return self.lake.log_of("/".join(listed.parts))

    def _sources(self) -> Iterator[Source]:
        marks: dict[str, str] = {}
        for path, listed in self.areas["episodes"].items():
            if path.endswith(EPISODES_SUFFIX) and _partitioned(listed.parts):
                yield Source(path, listed.stamp, self._manifest(listed))
            elif path.endswith(_TRAINING_SUFFIX) and _partitioned(listed.parts):
                # Rows are made with the episode's pieces; they are visible by the manifest.
                manifest = self._stamp("episodes", path.removesuffix(_TRAINING_SUFFIX) + EPISODES_SUFFIX)
                yield Source(path, f"{listed.stamp}|{manifest}", self._training(listed))
        for path, listed in self.areas["raw"].items():
            if path.endswith(JOURNAL_SUFFIX) and len(listed.parts) == 3:
                vehicle, day, name = listed.parts
                log = name.removesuffix(JOURNAL_SUFFIX)
                clock = self._stamp(
                    "signals", f"{self.lake.root}/signals/vehicle={vehicle}/date={day}/{log}.parquet"
                )
                if vehicle not in marks:
                    marks[vehicle] = vehicle_mark(vehicle)
                stamp = f"{listed.stamp}|{clock}|{marks[vehicle]}"
                yield Source(path, stamp, self._journal(f"{vehicle}/{day}/{log}"))
        for area, depth, read in (
            ("replay", 3, _replay_rows),
            ("checkpoints", 4, _checkpoint_rows),
        ):
            for path, listed in self.areas[area].items():
                if len(listed.parts) == depth and listed.parts[-1] == MANIFEST:
                    yield Source(path, listed.stamp, _bound(read, listed))
        for path, listed in self.areas["quarantine"].items():
            if path.endswith(_REASON_SUFFIX):
                yield Source(path, listed.stamp, _bound(_quarantine_rows, listed))
        for path, listed in self.areas["metrics"].items():
            if path.endswith(".json"):
                yield Source(path, listed.stamp, _bound(_metric_rows, listed))

    def _stamp(self, area: str, path: str) -> str:
        listed = self.areas[area].get(path)
        return "-" if listed is None else listed.stamp

    def _manifest(self, listed: Listed) -> Callable[[], Rows]:
        return lambda: manifest_rows(any_path(listed.path), self.areas["episodes"])

    def _training(self, listed: Listed) -> Callable[[], Rows]:
        vehicle, day = (part.partition("=")[2] for part in listed.parts[:2])
        key = f"{vehicle}/{day}/{listed.parts[-1].removesuffix(_TRAINING_SUFFIX)}"
        return lambda: {"flash_events": training_rows(self.lake, key)}

    def _journal(self, key: str) -> Callable[[], Rows]:
        return lambda: {"flash_events": journal_rows(self.lake, key)}


def manifest_rows(manifest: AnyPath, seen: Area) -> Rows:
    """Rows of ``episodes``, without what the records' flags say, and of ``losses`` from a manifest.

    Raises:
        StorageError: it is no manifest, or names a file that is gone.
    """
    content = read_json(manifest)
    gone = _gone(manifest, content, seen)
    if gone:
        # Its stage may have replaced it and removed what the old one named, between the two looks.
        content = read_json(manifest)
        gone = _gone(manifest, content, {})
    if gone:
        message = f"it names {gone}, which is gone: delete it and run the stage again"
        raise StorageError(message)
    try:
        episodes = [_episode_row(manifest, entry) for entry in content["episodes"]]
        return {"episodes": episodes, "losses": list(_losses(manifest, content.get("summary", {})))}
    except (KeyError, TypeError, ValueError) as error:
        message = f"it is no manifest of episodes ({type(error).__name__}: {error}): move it away"
        raise StorageError(message) from error


def _gone(manifest: AnyPath, content: dict[str, Any], seen: Area) -> str:
    entries = content.get("episodes")
    for entry in entries if isinstance(entries, list) else []:
        name = str(entry.get("file")) if isinstance(entry, dict) else ""
        path = manifest.parent / name
        if name and str(path) not in seen and not path.is_file():
            return name
    return ""


def _episode_row(manifest: AnyPath, entry: dict[str, Any]) -> Row:
    meta = entry["meta"]
    upper = meta.get("upper_factor")
    started = datetime.fromtimestamp(int(entry["start_ns"]) // 1000 / 1e6, ZoneInfo(meta["timezone"]))
    year, week, _ = started.isocalendar()
    return (
        *(
            str(meta[name])
            for name in ("episode_id", "vehicle_id", "driver_id", "site_id", "timezone", "log_key")
        ),
        int(meta["segment"]),
        *(str(meta[name]) for name in ("time_source", "action_source", "reward_kind")),
        *(float(meta[name]) for name in ("energy_wh", "distance_m", "duration_s")),
        str(meta["end_reason"]),
        int(entry["records"]),
        float(entry["reward_sum"]),
        int(entry["start_ns"]),
        int(entry["end_ns"]),
        # Episodes from before these were kept lack them until their stage runs again.
        meta.get("default_map_sha256"),
        float(meta["budget_nm"]),
        None if upper is None else float(upper),
        str(manifest.parent / str(entry["file"])),
        started.astimezone(UTC),
        started.date(),
        f"{year}-W{week:02}",
        float(meta["rate_hz"]),
        [float(value) for value in meta["pedal_axis"]],
        [float(value) for value in meta["speed_axis_kmh"]],
    )


def _losses(manifest: AnyPath, summary: dict[str, Any]) -> Iterator[Row]:
    vehicle = manifest.parts[-3].partition("=")[2]
    key = str(summary.get("key", ""))
    for unit, name in (("records", "lost_records"), ("rows", "unusable_rows"), ("lines", "dropped")):
        for reason, count in (summary.get(name) or {}).items():
            yield vehicle, key, unit, str(reason), int(count)
    for reason, name in (
        ("in stretches too short for an episode", "short_rows"),
        ("left over: they fill no whole step", "left_rows"),
    ):
        if summary.get(name):
            yield vehicle, key, "rows", reason, int(summary[name])


def _bound(read: Callable[[Listed], Rows], listed: Listed) -> Callable[[], Rows]:
    return lambda: read(listed)


def _replay_rows(listed: Listed) -> Rows:
    folder = any_path(listed.path).parent
    text = json.dumps(read_json(any_path(listed.path)))
    return {"replay": [(folder.parent.name, folder.name, text, str(folder))]}


def _checkpoint_rows(listed: Listed) -> Rows:
    agent, run, step, _ = listed.parts
    return {"checkpoints": [(agent, run, step, str(any_path(listed.path).parent))]}


def _quarantine_rows(listed: Listed) -> Rows:
    path = any_path(listed.path)
    note = read_json(path)
    try:
        at = datetime.fromisoformat(note["at"])
        row = (str(note["kind"]), str(note["source"]), str(note["reason"]), at)
    except (KeyError, TypeError, ValueError) as error:
        message = f"it is no reason of a quarantine ({type(error).__name__}: {error}): move it away"
        raise StorageError(message) from error
    return {"quarantine": [(*row, listed.path.removesuffix(_REASON_SUFFIX))]}


def _metric_rows(listed: Listed) -> Rows:
    note = read_json(any_path(listed.path))
    try:
        known = (str(note["name"]), str(note["work"]), str(note["unit"]), datetime.fromisoformat(note["at"]))
        values = dict(_flat(note["values"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        message = f"it holds no metrics of a unit of work ({type(error).__name__}: {error}): move it away"
        raise StorageError(message) from error
    partition = values.pop("partition", None)
    rows = [(*known, partition, name, *_value_and_text(value)) for name, value in values.items()]
    return {"metrics": rows}


def _value_and_text(value: Any) -> tuple[float | None, str | None]:
    if isinstance(value, bool | int | float):
        return float(value), None
    return None, value if isinstance(value, str) else json.dumps(value)


def _flat(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", value


def _partitioned(parts: tuple[str, ...]) -> bool:
    return len(parts) == 3 and parts[0].startswith("vehicle=") and parts[1].startswith("date=")
