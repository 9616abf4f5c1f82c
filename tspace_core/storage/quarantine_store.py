"""What lies in the quarantine: to be looked at, put back after another look, or dropped.

::

    quarantine/<kind>/<hash>.<name>               what failed a check
    quarantine/<kind>/<hash>.<name>.reason.json   kind, where it came from, why, when
    quarantine/units/<unit>/<way>                 what a unit of work could not put in its place

An episode goes back into its log's manifest if it holds its schema now; a raw log goes to the inbox, from
where it is taken in like any other. Whatever else can be made again is made by its stage.
"""

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tspace_core.config import load_vehicle, settings
from tspace_core.config.loading import vehicle_ids
from tspace_core.errors import ObjectExistsError, RecordError, StorageError
from tspace_core.objects.path import AnyPath, local_copy
from tspace_core.records.episode import Episode
from tspace_core.storage import episodes_table
from tspace_core.storage.episodes_stage import episode_entry
from tspace_core.storage.files import atomic_write
from tspace_core.storage.lake import Lake, read_json_version
from tspace_core.storage.pools.manifests import with_episodes
from tspace_core.storage.retention_items import REASON_SUFFIX, Item, items_of
from tspace_core.storage.unit_of_work import UnitOfWork

_NOT_RELEASED = {
    "signals": "they are made again from their raw log: run its signals stage, then drop this",
    "frames": "they are made again from their raw log: run its frames stage, then drop this",
    "windows": "a box's window belongs to a drive that is closed by now: keep it to look at, or drop it",
    "units": "another writer was first: compare the two, then move it by hand or drop it",
}


@dataclass(frozen=True)
class Quarantined:
    """A file in the quarantine.

    Attributes:
        name: ``<kind>/<hash>.<name>``; tells it from all others.
        kind: what it was going to be.
        at: when it was put there; None: not noted.
        source: where it came from, as it was called then.
        reason: what is wrong with it.
        size: bytes, with its reason.
        path: where it lies.
        paths: the file and its reason.
    """

    name: str
    kind: str
    at: datetime | None
    source: str
    reason: str
    size: int
    path: AnyPath
    paths: tuple[AnyPath, ...]

    @property
    def own_name(self) -> str:
        """The file's name before it came here."""
        name, kind = self.path.name, self.kind
        return name if kind == "units" else name.partition(".")[2] or name


def quarantined(lake: Lake) -> list[Quarantined]:
    """Everything in the quarantine, the newest last.

    Raises:
        ObjectError: a bucket cannot be read.
    """
    found = [_of(item) for item in items_of("quarantine", lake, None)]
    return sorted(found, key=lambda one: (one.at or datetime.min.replace(tzinfo=UTC), one.name))


def find_quarantined(lake: Lake, name: str) -> Quarantined:
    """The one file of that name, of a part of it, or of its hash.

    Raises:
        StorageError: there is none, or there are several.
    """
    there = quarantined(lake)
    for same in (lambda one: one.name == name, lambda one: name in one.name):
        found = [one for one in there if same(one)]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(one.name for one in found[:5])
            message = (
                f"{name!r} may be one of {len(found)} files in the quarantine: {names}; give more of its name"
            )
            raise StorageError(message)
    message = (
        f"nothing in {lake.root / 'quarantine'} is called {name!r}; `tspace quarantine list` names what is"
    )
    raise StorageError(message)


def release(lake: Lake, one: Quarantined, *, inbox: Path | None = None, dry_run: bool = False) -> str:
    """Put a file back where it came from, if nothing is wrong with it any more.

    Args:
        lake: of the quarantine.
        one: the file.
        inbox: folder that raw logs go to; default: the settings'.
        dry_run: only look whether it could be done.

    Returns:
        Where it is now, or would be.

    Raises:
        RecordError: it does not hold its schema; it stays.
        StorageError: it cannot be put back; the message says what to do instead.
    """
    if one.path.name.endswith(REASON_SUFFIX):
        message = f"{one.name} cannot be put back: only its reason is here, the file itself is not; drop this"
        raise StorageError(message)
    if one.kind == "episodes":
        return _release_episode(lake, one, dry_run=dry_run)
    if one.kind == "raw":
        return _release_log(one, inbox or settings().inbox_dir, dry_run=dry_run)
    why = _NOT_RELEASED.get(one.kind, "nothing is known of where it belongs: move it by hand, or drop it")
    message = f"{one.name} cannot be put back: {why}"
    raise StorageError(message)


def drop(lake: Lake, one: Quarantined) -> None:
    """Remove a file and its reason."""
    with UnitOfWork(lake, name=f"drop {one.name}") as unit:
        unit.remove(*one.paths)


def _of(item: Item) -> Quarantined:
    path = item.paths[0]
    note: dict[str, object] = {}
    reasons = [found for found in item.paths if found.name.endswith(REASON_SUFFIX)]
    with suppress(OSError, ValueError, StorageError):
        content = json.loads(reasons[0].read_bytes()) if reasons else {}
        note = content if isinstance(content, dict) else {}
    at = None
    with suppress(ValueError, TypeError):
        at = datetime.fromisoformat(str(note["at"])) if "at" in note else None
    missing = "its reason is damaged" if reasons else "no reason lies beside it"
    if path in reasons:
        missing = "only the reason is here, the file is not"
    return Quarantined(
        name=item.name,
        kind=item.partition,
        at=at if at is None or at.tzinfo else at.replace(tzinfo=UTC),
        source=str(note.get("source", "-")),
        reason=str(note.get("reason", missing)),
        size=item.size,
        path=path,
        paths=item.paths,
    )


def _release_episode(lake: Lake, one: Quarantined, *, dry_run: bool) -> str:
    episode = _checked(one)
    meta = episode.meta
    manifest = lake.episodes_manifest(lake.log_of(meta.log_key))
    if not manifest.is_file():
        message = (
            f"{one.name} cannot be put back: {manifest} is gone; run the episodes stage of {meta.log_key}"
        )
        raise StorageError(message)
    content, seen = read_json_version(manifest)
    target = manifest.parent / one.own_name
    entries = content["episodes"]
    for entry in entries:
        if entry["meta"]["episode_id"] == meta.episode_id or entry["file"] == target.name:
            message = (
                f"{one.name} cannot be put back: episode {meta.episode_id} was made anew since, "
                f"{entry['file']}; drop this one"
            )
            raise StorageError(message)
        if entry["start_ns"] < episode.times[-1] and episode.times[0] < entry["end_ns"]:
            message = (
                f"{one.name} cannot be put back: {entry['file']}, cut since, holds moments of the same "
                "drive, which would then be there twice; drop this one"
            )
            raise StorageError(message)
    if dry_run:
        return str(target)
    entries = sorted(
        [*entries, episode_entry(target, episode)], key=lambda entry: (entry["start_ns"], entry["file"])
    )
    try:
        with UnitOfWork(lake, name=f"release {one.name}") as unit:
            with unit.file(target, if_absent=True) as temporary:
                shutil.copyfile(local_copy(one.path), temporary)
            unit.text(manifest, with_episodes(lake, manifest, content, entries), seen=seen)
            unit.remove(*one.paths)
    except ObjectExistsError as error:
        message = f"{one.name} was not put back, its log's episodes were just made anew: look again ({error})"
        raise StorageError(message) from error
    return str(target)


def _checked(one: Quarantined) -> Episode:
    """The episode, held against its schema as the check of the asset does.

    Raises:
        RecordError: it does not hold it.
        StorageError: it is no episode at all.
    """
    import polars as pl

    from tspace_core.records.schemas import validate_episode

    meta = episodes_table.read_meta(one.path)
    try:
        window = load_vehicle(meta.vehicle_id).sampling.state_dim
        frame = pl.read_parquet(local_copy(one.path), glob=False, hive_partitioning=False)
        validate_episode(frame, state_dim=window, place=one.name)
        return episodes_table.read(one.path)
    except RecordError as error:
        message = f"{one.name} stays in the quarantine: {error}; make its log's episodes again, or drop it"
        raise RecordError(message) from error


def _release_log(one: Quarantined, inbox: Path, *, dry_run: bool) -> str:
    parts = one.source.split("/")
    known = len(parts) > 3 and parts[-4] == "raw"
    vehicle = parts[-3] if known else parts[-2] if len(parts) > 1 else ""
    if vehicle not in vehicle_ids():  # an inbox takes logs of known vehicles only
        message = (
            f"{one.name} cannot be put back: where it came from ({one.source}) names no vehicle of this "
            f"installation; copy {one.path} to {inbox}/<vehicle>/ by hand, then drop this one"
        )
        raise StorageError(message)
    target = inbox / vehicle / one.own_name
    if target.exists():
        message = f"{one.name} cannot be put back: {target} exists; let it be taken in first, or move it away"
        raise StorageError(message)
    if not dry_run:
        with atomic_write(target, if_absent=True) as temporary:
            shutil.copyfile(local_copy(one.path), temporary)
        for path in one.paths:
            path.unlink(missing_ok=True)
    return str(target)
