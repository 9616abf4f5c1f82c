"""The lake: where everything lies at rest, by one layout.

::

    raw/<vehicle>/<date>/<log>                             as it came, immutable
    raw/<vehicle>/<date>/<log>.flashes.jsonl               flash journal, where the log has one
    raw/<vehicle>/<date>/<log>.origin.json                 content hash, source, what its date is from
    frames/vehicle=<vehicle>/date=<date>/<log>.parquet     parsed once, row groups sorted by id
    signals/vehicle=<vehicle>/date=<date>/<log>.parquet    decoded, on the vehicle's grid
    episodes/vehicle=<vehicle>/date=<date>/<log>.<hash>.<number>.parquet
    episodes/vehicle=<vehicle>/date=<date>/<log>.episodes.json
    episodes/vehicle=<vehicle>/date=<date>/<log>.training.json   of an online episode: what happened
    episodes/vehicle=<vehicle>/date=<date>/<log>.live_map.csv    of an online episode: map at its end
    replay/<name>/<version>/   checkpoints/<agent>/<run>/<step>/   quarantine/<kind>/
    evaluations/<vehicle>/     evidence for releases by content of the checkpoint, best static maps

An online episode has a key like a log's, ``<vehicle>/<date>/online-<HHMMSS>-<number>``, and no raw log.

An episode is visible only if its log's ``.episodes.json`` names it: that one file is replaced when all new
episodes are written, so a reader sees all of the old ones or all of the new ones.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tspace_core.config import settings
from tspace_core.errors import StorageError
from tspace_core.objects.path import AnyPath, S3Path, any_path, local_copy, within
from tspace_core.objects.transfer import side_by_side
from tspace_core.storage.files import atomic_write, read_version, sha256, write_text

if TYPE_CHECKING:
    import polars as pl

JOURNAL_SUFFIX = ".flashes.jsonl"
ORIGIN_SUFFIX = ".origin.json"
EPISODES_SUFFIX = ".episodes.json"
_SAFE = re.compile(r"\w[\w.\-+ ()\[\],@#~&%]*")


@dataclass(frozen=True, order=True)
class RawLog:
    """A raw log in the lake."""

    vehicle_id: str
    date: str
    name: str
    path: AnyPath

    @property
    def key(self) -> str:
        """``vehicle/date/name``: identifies the log in the whole lake."""
        return f"{self.vehicle_id}/{self.date}/{self.name}"

    @property
    def journal(self) -> AnyPath:
        """Where its flash journal lies, if it has one."""
        return self.path.with_name(self.path.name + JOURNAL_SUFFIX)

    @property
    def origin(self) -> AnyPath:
        """Where its content hash and origin are kept."""
        return self.path.with_name(self.path.name + ORIGIN_SUFFIX)


class Lake:
    """Paths of the lake below ``root``; makes folders only when something is written.

    Args:
        root: folder of the lake, or ``s3://bucket/prefix``.
        local: folder on this machine for what belongs to it alone: locks, signs of life, the state of online
            runs, the catalogue. Default: the root where that is a folder on a disk, else the data folder of
            the settings.
    """

    def __init__(self, root: AnyPath | str, *, local: Path | None = None) -> None:
        self.root = any_path(root).resolve()
        self._local = local

    @property
    def local(self) -> Path:
        """Folder on this machine for what is never put into a bucket."""
        if self._local is not None:
            return self._local
        return self.root if isinstance(self.root, Path) else settings().data_dir

    def __repr__(self) -> str:
        return f"Lake({str(self.root)!r})"

    def raw(self, vehicle_id: str, day: str, name: str) -> AnyPath:
        """Return where a raw log lies.

        Raises:
            StorageError: if a part could leave its folder, or ``day`` is no YYYY-MM-DD.
        """
        _check(vehicle_id, day, name)
        return self.root / "raw" / vehicle_id / day / name

    def raw_log(self, key: str) -> RawLog:
        """Return the raw log of a key ``vehicle/date/name``.

        Raises:
            StorageError: if the key has another form or there is no such log.
        """
        log = self.log_of(key)
        if not log.path.is_file():
            what = "store it first (tspace ingest)"
            if self.training_log(log).is_file():
                what = "it was recorded online and never had one; there are only its episodes"
            message = f"no raw log {key!r}: {log.path} does not exist; {what}"
            raise StorageError(message)
        return log

    def log_of(self, key: str) -> RawLog:
        """Return the log that a key ``vehicle/date/name`` names, whether or not there is a raw one.

        Raises:
            StorageError: if the key has another form.
        """
        parts = key.split("/")
        if len(parts) != 3:
            message = f"log key {key!r} must have the form vehicle/YYYY-MM-DD/name"
            raise StorageError(message)
        return RawLog(parts[0], parts[1], parts[2], self.raw(*parts))

    def episode_log(self, key: str) -> RawLog:
        """Return the log of a key that has a raw log or, as an online episode, only its episodes.

        Raises:
            StorageError: if the key has another form or there is neither.
        """
        log = self.log_of(key)
        return log if self.episodes_manifest(log).is_file() else self.raw_log(key)

    def episode_logs(self, vehicle_id: str | None = None) -> list[RawLog]:
        """Return all logs that were cut into episodes and all online episodes, in order."""
        logs = []
        for manifest in self.episode_manifests(vehicle_id):
            vehicle, day = (part.partition("=")[2] for part in manifest.parts[-3:-1])
            logs.append(self.log_of(f"{vehicle}/{day}/{manifest.name.removesuffix(EPISODES_SUFFIX)}"))
        return sorted(logs)

    def raw_logs(self, vehicle_id: str | None = None) -> list[RawLog]:
        """Return all raw logs, of one vehicle or of all, ordered by vehicle, date and name."""
        pattern = f"{vehicle_id}/*/*" if vehicle_id else "*/*/*"
        return sorted(log for log, _ in self._raw_logs(pattern))

    def raw_logs_of_size(self, vehicle_id: str, size: int) -> list[RawLog]:
        """Return a vehicle's raw logs of a size in bytes; in a bucket by one listing."""
        return sorted(log for log, found in self._raw_logs(f"{vehicle_id}/*/*") if found == size)

    def _raw_logs(self, pattern: str) -> Iterator[tuple[RawLog, int]]:
        for path, size in _files(self.root / "raw", pattern):
            if not path.name.startswith(".") and not path.name.endswith((JOURNAL_SUFFIX, ORIGIN_SUFFIX)):
                yield RawLog(path.parts[-3], path.parts[-2], path.name, path), size

    def frames(self, log: RawLog) -> AnyPath:
        """Return where the parsed frames of a log lie."""
        return self._partition("frames", log) / f"{log.name}.parquet"

    def signals(self, log: RawLog) -> AnyPath:
        """Return where the signals of a log lie."""
        return self._partition("signals", log) / f"{log.name}.parquet"

    def episode(self, log: RawLog, version: str, number: int) -> AnyPath:
        """Return where episode ``number`` of a log lies, made from inputs of fingerprint ``version``."""
        return self._partition("episodes", log) / f"{log.name}.{version[:8]}.{number:04d}.parquet"

    def episodes_manifest(self, log: RawLog) -> AnyPath:
        """Return the file that says which episodes of a log are visible."""
        return self._partition("episodes", log) / f"{log.name}{EPISODES_SUFFIX}"

    def training_log(self, log: RawLog) -> AnyPath:
        """Return where it lies what happened in an online episode, record by record."""
        return self._partition("episodes", log) / f"{log.name}.training.json"

    def last_live_map(self, log: RawLog) -> AnyPath:
        """Return where the map lies that was live at the end of an online episode."""
        return self._partition("episodes", log) / f"{log.name}.live_map.csv"

    def episode_manifests(self, vehicle_id: str | None = None) -> list[AnyPath]:
        """Return the manifests of all logs that were cut into episodes, of one vehicle or of all."""
        vehicle = vehicle_id or "*"
        found = _files(self.root / "episodes", f"vehicle={vehicle}/date=*/*{EPISODES_SUFFIX}")
        return sorted((path for path, _ in found), key=lambda path: path.parts)

    def episodes(self, log: RawLog | None = None, *, vehicle_id: str | None = None) -> list[AnyPath]:
        """Return the visible episode files: of one log, of one vehicle, or all.

        Raises:
            StorageError: if a manifest is damaged or names a file that is gone.
        """
        if log is not None:
            manifest = self.episodes_manifest(log)
            return _listed(manifest) if manifest.is_file() else []
        there = None
        if isinstance(self.root, S3Path):
            # One listing tells what is there, where a look at each file were a request each.
            vehicle = vehicle_id or "*"
            there = {path for path, _ in _files(self.root / "episodes", f"vehicle={vehicle}/date=*/*")}
            manifests = sorted(path for path in there if path.name.endswith(EPISODES_SUFFIX))
            found = side_by_side(lambda manifest: _listed(manifest, there), manifests)
            return [path for paths in found for path in paths]
        return [path for manifest in self.episode_manifests(vehicle_id) for path in _listed(manifest)]

    def replay(self, name: str) -> AnyPath:
        """Return the folder of a replay buffer's versions."""
        return self.root / "replay" / name

    def checkpoints(self, agent: str, run: str) -> AnyPath:
        """Return the folder of a training run's checkpoints."""
        return self.root / "checkpoints" / agent / run

    def quarantine(
        self, kind: str, source: "AnyPath | pl.DataFrame", reason: str, *, name: str = ""
    ) -> AnyPath:
        """Put aside what failed a check, with the reason in a JSON file beside it.

        A file of the lake is moved, so that no reader meets it again; a raw log or a foreign file is copied
        and stays; a frame is written as Parquet. The same content again gives the same place.

        Args:
            kind: what it was going to be: raw, frames, signals, episodes, ...
            source: the file or data frame.
            reason: what is wrong with it: check, value, limit, place.
            name: name to keep it under; needed for a frame, else the file's own.

        Returns:
            Where it lies now; the reason is at the same path + ``.reason.json``.
        """
        folder = self.root / "quarantine" / kind
        moved: AnyPath | None = None
        if isinstance(source, Path | S3Path):
            content_of = local_copy(source)
            target = folder / f"{sha256(content_of)[:12]}.{name or source.name}"
            if within(source.resolve(), self.root) and not within(source.resolve(), self.root / "raw"):
                moved = source
            if not target.is_file():
                with atomic_write(target) as temporary:
                    shutil.copyfile(content_of, temporary)
            origin = str(source)
        else:
            content = hashlib.sha256(repr((source.schema, source.hash_rows().to_list())).encode())
            target = folder / f"{content.hexdigest()[:12]}.{name or kind}.parquet"
            if not target.is_file():
                with atomic_write(target) as temporary:
                    source.write_parquet(temporary, compression="zstd")
            origin = name or kind
        note = {"kind": kind, "source": origin, "reason": reason, "at": datetime.now(UTC).isoformat()}
        write_text(target.with_name(f"{target.name}.reason.json"), json.dumps(note, indent=1))
        if moved is not None:  # last: a crash before it leaves nothing without its reason
            moved.unlink()
        return target

    def _partition(self, area: str, log: RawLog) -> AnyPath:
        _check(log.vehicle_id, log.date, log.name)
        return self.root / area / f"vehicle={log.vehicle_id}" / f"date={log.date}"


def lake_from_settings() -> Lake:
    """The lake of this installation: ``settings().lake_url``, or the data folder where there is none."""
    found = settings()
    return Lake(found.lake_url or found.data_dir, local=found.data_dir)


def _files(folder: AnyPath, pattern: str) -> Iterator[tuple[AnyPath, int]]:
    """Files below a folder whose way matches, with their size; in a bucket by one listing."""
    if isinstance(folder, S3Path):
        for found, info in folder.objects(pattern):
            yield found, info.size
        return
    for path in folder.glob(pattern):
        if path.is_file():
            yield path, path.stat().st_size


def read_json(path: AnyPath) -> dict[str, Any]:
    """Read a JSON object that this package wrote.

    Raises:
        ObjectError: the object is not there, or cannot be read now.
        StorageError: if it is damaged.
    """
    return read_json_version(path)[0]


def read_json_version(path: AnyPath) -> tuple[dict[str, Any], str]:
    """As ``read_json``, with what a later ``write_text(..., seen=)`` must still find there."""
    try:
        text, seen = read_version(path)
        content = json.loads(text)
    except (OSError, ValueError) as error:
        message = f"{path} is damaged ({error}): delete it and run the stage that writes it again"
        raise StorageError(message) from error
    if not isinstance(content, dict):
        message = (
            f"{path} holds {type(content).__name__}, expected an object: delete it and run its stage again"
        )
        raise StorageError(message)
    return content, seen


def _listed(manifest: AnyPath, there: set[AnyPath] | None = None) -> list[AnyPath]:
    paths = _named(manifest)
    if _missing(manifest, paths, there):
        # Between the two looks the stage may have replaced the manifest and removed what the old one named.
        paths = _named(manifest)
        gone = _missing(manifest, paths, None)
        if gone:
            message = f"{manifest} names {gone[0].name}, which is gone: delete it and run the stage again"
            raise StorageError(message)
    return paths


def _missing(manifest: AnyPath, paths: list[AnyPath], there: set[AnyPath] | None) -> list[AnyPath]:
    if isinstance(manifest, S3Path) and there is None:
        beginning = manifest.key.removesuffix(EPISODES_SUFFIX)
        there = {manifest.with_name(Path(info.key).name) for info in manifest.store.list(f"{beginning}.")}
    return [path for path in paths if (not path.is_file() if there is None else path not in there)]


def _named(manifest: AnyPath) -> list[AnyPath]:
    return [manifest.parent / str(entry["file"]) for entry in read_json(manifest).get("episodes", [])]


def _check(vehicle_id: str, day: str, name: str) -> None:
    for what, value in (("vehicle id", vehicle_id), ("log name", name)):
        if not _SAFE.fullmatch(value):
            message = (
                f"{what} {value!r} cannot be a file name in the lake; rename it: begin with a letter, digit "
                "or _ and use letters, digits, blanks and _.-+()[],@#~&%"
            )
            raise StorageError(message)
    try:
        exact = date.fromisoformat(day).isoformat() == day
    except ValueError:
        exact = False
    if not exact:
        message = f"date {day!r} of log {name!r} is no day in the form YYYY-MM-DD"
        raise StorageError(message)
