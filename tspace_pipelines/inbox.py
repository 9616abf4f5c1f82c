"""The watched folder: ``<inbox>/<vehicle id>/<log>``, a log's flash journal beside it if there is one.

A log is taken when nobody has touched it or its journal for ``min_age_s`` (content or name: a file that is
renamed into place counts from the rename). Taking copies it into the lake; the file stays where it is and may
be deleted afterwards. A journal that arrives later than its log is taken then. What cannot be taken stays as
well, with a ``<log>.refused.txt`` beside it that says why and what to do; it is looked at again when it
changes.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tspace_core.config import load_vehicle, vehicle_ids
from tspace_core.errors import ConfigError, LogFormatError, TspaceError
from tspace_core.objects.path import AnyPath, local_copy
from tspace_core.storage.files import write_text
from tspace_core.storage.lake import JOURNAL_SUFFIX, Lake, RawLog
from tspace_pipelines.partitions import partition_key

REFUSED_SUFFIX = ".refused.txt"
UNFINISHED_SUFFIXES = (".tmp", ".part", ".partial", ".crdownload", ".filepart")
_SIDECARS = (REFUSED_SUFFIX, JOURNAL_SUFFIX, *UNFINISHED_SUFFIXES)

Seen = dict[str, str]
"""Path below the inbox -> size and time of the file that was dealt with."""


@dataclass
class Taken:
    """What one look into the inbox brought."""

    logs: dict[str, str] = field(default_factory=dict)
    """Key of each stored log -> size and time of the file it was taken from."""
    refused: dict[str, str] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    seen: Seen = field(default_factory=dict)


def take(inbox: Path, lake: Lake, seen: Seen, *, min_age_s: float, budget_s: float) -> Taken:
    """Store every complete file of the inbox that was not dealt with before.

    Args:
        inbox: the watched folder; it need not exist.
        lake: where logs are stored.
        seen: what earlier calls dealt with (``Taken.seen`` of the last one).
        min_age_s: least time since a file was last touched, s.
        budget_s: no further file is begun after this time, s; the next call goes on.
    """
    taken = Taken()
    known = set(vehicle_ids())
    deadline = time.monotonic() + budget_s
    for path in _files(inbox):
        name = path.relative_to(inbox).as_posix()
        try:
            mark, age = _mark(path)
        except FileNotFoundError:
            continue
        if seen.get(name) == mark:
            taken.seen[name] = mark
        elif age < min_age_s or time.monotonic() > deadline:
            taken.waiting.append(name)
        else:
            settled = _take_one(path, name, mark, lake, known, taken)
            if settled and _mark_now(path) == mark:
                taken.seen[name] = mark
    return taken


def _take_one(path: Path, name: str, mark: str, lake: Lake, known: set[str], taken: Taken) -> bool:
    note = path.with_name(path.name + REFUSED_SUFFIX)
    try:
        taken.logs[store_one(path, name, lake, known).key] = mark
        note.unlink(missing_ok=True)
    except TspaceError as error:
        taken.refused[name] = f"{type(error).__name__}: {error}"
        write_text(note, f"{path.name} was not taken.\n{taken.refused[name]}\n")
    except OSError as error:
        # A full disk or a missing right says nothing about the log: it is tried again at the next look.
        taken.refused[name] = f"{type(error).__name__}: {error}; it is tried again"
        return False
    return True


def store_one(path: AnyPath, name: str, lake: Lake, known: set[str]) -> RawLog:
    """Store a log of an inbox on a disk or in a bucket.

    Args:
        path: the log; its journal is looked for beside it.
        name: its way below the inbox: ``<vehicle id>/<log>``.
        lake: where logs are stored.
        known: ids of all vehicles.

    Raises:
        TspaceError: it cannot be taken; says why and what to do.
    """
    from tspace_core.can.readers import detect_format
    from tspace_core.storage.ingest import store_raw

    parts = name.split("/")
    if len(parts) != 2 or parts[0] not in known:
        message = (
            f"{name}: a log lies in a folder named after its vehicle, <inbox>/<vehicle id>/<log>; known "
            f"vehicles: {', '.join(sorted(known))}"
        )
        raise ConfigError(message)
    vehicle = load_vehicle(parts[0])
    found = detect_format(local_copy(path))
    if found == "window_log" and vehicle.remote is not None:
        pass
    elif (found == "trip_table") != vehicle.from_trip_table:
        expected = "a trip table" if vehicle.from_trip_table else "a CAN log"
        message = f"{name}: its format is {found}, but the signals of {vehicle.id} come from {expected}"
        raise LogFormatError(message)
    partition_key(name)
    return store_raw(lake, path, vehicle)


def _files(inbox: Path) -> Iterator[Path]:
    if not inbox.is_dir():
        return
    for path in sorted(inbox.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(inbox).parts)
        if not hidden and path.is_file() and not path.name.endswith(_SIDECARS):
            yield path


def _mark(path: Path) -> tuple[str, float]:
    """What tells a changed log or journal from the one before, and the time since either was touched, s."""
    files = [path]
    journal = path.with_name(path.name + JOURNAL_SUFFIX)
    if journal.is_file():
        files.append(journal)
    found = [file.stat() for file in files]
    touched = max(max(status.st_mtime, status.st_ctime) for status in found)
    return "+".join(f"{status.st_size}:{status.st_mtime_ns}" for status in found), time.time() - touched


def _mark_now(path: Path) -> str | None:
    """The mark after taking: a file that changed meanwhile is not ticked off, and is looked at again."""
    try:
        return _mark(path)[0]
    except FileNotFoundError:
        return None


def to_cursor(seen: Seen) -> str:
    """The cursor of a sensor that looks into the inbox."""
    return json.dumps(seen, sort_keys=True, separators=(",", ":"))


def from_cursor(cursor: str | None) -> Seen:
    """What the cursor says was dealt with; an unreadable cursor means that everything is looked at again."""
    try:
        content = json.loads(cursor or "{}")
    except ValueError:
        return {}
    return {str(key): str(value) for key, value in content.items()} if isinstance(content, dict) else {}
