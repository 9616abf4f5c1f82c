"""Findings: replay buffers, checkpoints, what is derived, and documents on a MongoDB server."""

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from tspace_core.config.settings import settings
from tspace_core.errors import SchemaVersionError, StorageError, TspaceError
from tspace_core.objects.path import AnyPath
from tspace_core.storage.bucket_folder import MANIFEST
from tspace_core.storage.doctor import REPAIR, Finding, Found
from tspace_core.storage.files import sha256
from tspace_core.storage.folders import file_sizes
from tspace_core.storage.lake import Lake, read_json


def replays(lake: Lake) -> Iterator[Found]:
    """Versions and growing buffers that differ from their manifest."""
    for path in sorted(file_sizes(lake.root / "replay", f"*/*/{MANIFEST}")):
        folder = path.parent
        try:
            _verify_replay(folder)
        except SchemaVersionError as error:
            yield Finding("older schema", str(folder), str(error), "see there"), None
        except (StorageError, OSError, ValueError) as error:
            todo = "build the buffer again from its episodes (asset replay_buffer), then remove this one"
            yield Finding("damaged replay", str(folder), str(error), todo), None


def _verify_replay(folder: AnyPath) -> None:
    from tspace_core.storage.replay import Replay
    from tspace_core.storage.replay_growing import GrowingReplay

    if folder.name.isdigit():
        Replay(folder).verify()
    else:
        GrowingReplay(folder).verify()


def checkpoints(lake: Lake) -> Iterator[Found]:
    """Checkpoints whose files are missing or differ from what was written."""
    for path in sorted(file_sizes(lake.root / "checkpoints", f"*/*/*/{MANIFEST}")):
        try:
            _verify_checkpoint(path)
        except (StorageError, OSError, LookupError, TypeError, ValueError) as error:
            todo = "remove it, and use or go on from another checkpoint of the run"
            yield Finding("damaged checkpoint", str(path.parent), str(error), todo), None


def _verify_checkpoint(path: AnyPath) -> None:
    """As ``agents.checkpoint.Checkpoint.verify``, without torch."""
    for name in read_json(path).get("components", ()):
        file = path.with_name(f"{name}.safetensors")
        part = read_json(path.with_name(f"{name}.json"))
        if not file.is_file():
            message = f"{file.name} is missing"
            raise StorageError(message)
        found = sha256(file)
        if found != part["sha256"]:
            message = f"{file.name}: sha256 {found[:12]}..., written as {str(part['sha256'])[:12]}..."
            raise StorageError(message)
        written = part.get("values_sha256")
        values = hashlib.sha256(json.dumps(part["values"], sort_keys=True).encode()).hexdigest()
        if written not in (None, values):
            message = f"{name}.json: its values are not those it was written with"
            raise StorageError(message)


def derived(lake: Lake) -> Iterator[Found]:
    """The catalogue and the pools' indexes on this machine: derived, so they can be made anew."""
    catalogue = lake.local / "catalogue.duckdb"
    if catalogue.is_file() and (error := _no_catalogue(catalogue)):
        finding = Finding("damaged catalogue", str(catalogue), error, REPAIR, repairable=True)
        yield finding, partial(_make_catalogue, catalogue, lake)
    folder = lake.local / "index"
    for index in sorted(folder.glob("*.sqlite")) if folder.is_dir() else ():
        if error := _no_index(index):
            # The next use makes it.
            finding = Finding("damaged index", str(index), error, REPAIR, repairable=True)
            yield finding, partial(_remove_index, index)


def _no_catalogue(path: Path) -> str:
    import duckdb

    try:
        with closing(duckdb.connect(str(path), read_only=True)) as connection:
            connection.execute("SELECT count(*) FROM information_schema.tables").fetchall()
    except duckdb.IOException as error:
        return "" if "lock" in str(error).lower() else str(error)
    except duckdb.Error as error:
        return str(error)
    return ""


def _make_catalogue(path: Path, lake: Lake) -> None:
    from tspace_core.storage.catalogue import Catalogue

    Catalogue(path, lake).refresh()


def _no_index(path: Path) -> str:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            found = db.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        return "" if "lock" in str(error) else str(error)
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if found and found[0] == "ok" else f"quick_check says {found}"


def _remove_index(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink(missing_ok=True)


def mongo(databases: Sequence[str], _lake: Lake) -> Iterator[Found]:
    """Calls to the MongoDB of the settings whose writer is dead; the lake has no part in it."""
    uri = settings().mongodb_uri
    if uri is None:
        return
    named = urlsplit(uri.get_secret_value()).path.strip("/")
    for database in databases or ([named] if named else []):
        yield from _orphans(database)


def _orphans(database: str) -> Iterator[Found]:
    from tspace_core.storage.pools.mongo import MongoPool

    place = f"mongodb:{database}"
    try:
        with MongoPool(database) as pool:
            for left in pool.leftovers():
                what = f"a call to {left.kind} by {left.by} was not finished, last heard of at {left.alive}"
                yield Finding("orphan documents", place, what, REPAIR, repairable=True), pool.sweep
    except SchemaVersionError as error:
        yield Finding("older schema", place, str(error), "see there"), None
    except TspaceError as error:
        yield Finding("cannot be looked at", place, str(error), "see there"), None
