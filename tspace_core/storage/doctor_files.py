"""Findings: files of the lake that are torn, missing, changed or do not belong there."""

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from tspace_core.errors import ObjectError, SchemaVersionError, TspaceError
from tspace_core.objects.path import AnyPath, local_copy
from tspace_core.storage.doctor import REPAIR, Finding, Found
from tspace_core.storage.doctor_staged import OLD_S
from tspace_core.storage.files import sha256
from tspace_core.storage.folders import file_sizes, last_change
from tspace_core.storage.lake import EPISODES_SUFFIX, JOURNAL_SUFFIX, ORIGIN_SUFFIX, Lake, RawLog, read_json

POOLS = {"episodes": ".parquet", "avro": ".avro"}
"""Areas of episodes, and what their files end with."""
_BESIDE = (EPISODES_SUFFIX, ".training.json", ".live_map.csv")
_AREAS = {
    *("raw", "frames", "signals", "episodes", "avro", "replay", "checkpoints", "quarantine", "units"),
    *("metrics", "batches", "policy_actions", "embeddings", "online_runs", "box_cursors"),
    "evaluations",
}
_LOCAL = {
    *("online", "index", "box", "logs", "dagster", "mlartifacts", "mlflow", "mlflow.db", "s3-cache", "cache"),
}
_JSON = (
    "episodes",
    "avro",
    "metrics",
    "batches",
    "quarantine",
    "raw",
    "box_cursors",
    "online_runs",
    "evaluations",
)


def _ways(lake: Lake, area: str) -> list[tuple[AnyPath, tuple[str, ...]]]:
    """Files of an area and their way in it, but for hidden ones; in a bucket by one listing."""
    folder = lake.root / area
    found = []
    for path in file_sizes(folder, "**/*"):
        parts = path.parts[len(folder.parts) :]
        if not any(part.startswith(".") for part in parts):
            found.append((path, parts))
    return sorted(found, key=lambda item: item[1])


def raw_logs(lake: Lake) -> Iterator[Found]:
    """Raw logs that are not what they were when they were stored, or whose origin is not known."""
    for path, parts in _ways(lake, "raw"):
        if len(parts) != 3 or path.name.endswith((JOURNAL_SUFFIX, ORIGIN_SUFFIX)):
            continue
        log = RawLog(parts[0], parts[1], parts[2], path)
        ingest = f"bring the log back from its source, then tspace ingest {path} --vehicle {log.vehicle_id}"
        if not log.origin.is_file():
            what = f"nothing says where it is from and what its content was: {log.origin.name} is missing"
            yield (
                Finding("foreign file", str(path), what, f"move it away, then tspace ingest it: {ingest}"),
                None,
            )
            continue
        try:
            expected = str(read_json(log.origin)["sha256"])
        except (TspaceError, KeyError) as error:
            yield Finding("torn JSON", str(log.origin), str(error), ingest), None
            continue
        found = sha256(path)
        if found != expected:
            what = f"its sha256 is {found[:12]}..., it was stored with {expected[:12]}...: it was changed"
            yield Finding("changed raw log", str(path), what, ingest), None


def tables(lake: Lake) -> Iterator[Found]:
    """Frames and signals that cannot be read; they are made from the raw log."""
    for area in ("frames", "signals"):
        for path, parts in _ways(lake, area):
            if path.suffix != ".parquet":
                yield _foreign(path)
                continue
            error = _unreadable(partial(_read_parquet, path))
            if error:
                vehicle, day = (part.partition("=")[2] for part in parts[:2])
                raw = lake.root / "raw" / vehicle / day / path.name.removesuffix(".parquet")
                todo = f"remove it, then tspace ingest {raw} --vehicle {vehicle}"
                yield Finding("torn Parquet", str(path), error, todo), None


def _read_parquet(path: AnyPath) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(local_copy(path)) as file:
            for _ in file.iter_batches():
                pass
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error


def _unreadable(read: Callable[[], object]) -> str:
    try:
        read()
    except ObjectError as error:
        return f"cannot be read now: {error}"
    except (TspaceError, OSError, ValueError, LookupError, EOFError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def episodes(lake: Lake) -> Iterator[Found]:
    """Manifests that name what is missing or torn, and episode files that no manifest names."""
    for area, suffix in POOLS.items():
        ways = dict(_ways(lake, area))
        named: set[AnyPath] = set()
        for manifest in [path for path in ways if path.name.endswith(EPISODES_SUFFIX)]:
            for name in _names(manifest):
                path = manifest.parent / name
                named.add(path)
                if path not in ways:
                    if not path.is_file() and name in _names(manifest):  # not replaced since it was listed
                        yield _missing(manifest, path)
                    continue
                yield from _torn(area, path)
        for path in ways:
            if path.name.endswith(suffix) and path not in named:
                yield from _unnamed(path)
            elif not path.name.endswith((suffix, *_BESIDE)):
                yield _foreign(path)


def _names(manifest: AnyPath) -> list[str]:
    """Files that a manifest names; a torn one is among the JSON files."""
    try:
        return [str(entry["file"]) for entry in read_json(manifest).get("episodes", [])]
    except (TspaceError, OSError, LookupError, TypeError):
        return []


def _missing(manifest: AnyPath, path: AnyPath) -> Found:
    what = f"the manifest names {path.name}, which is gone"
    todo = (
        "bring the file back; else take its episode out with the pool's delete, or, where it was cut from a "
        "raw log, remove the manifest and run tspace ingest on the log"
    )
    return Finding("missing file", str(manifest), what, todo), None


def _torn(area: str, path: AnyPath) -> Iterator[Found]:
    try:
        _read_episode(area, path)
    except SchemaVersionError as error:
        yield Finding("older schema", str(path), str(error), "see there"), None
    except (TspaceError, OSError, ValueError, LookupError, EOFError) as error:
        kind = "torn Parquet" if area == "episodes" else "torn Avro"
        todo = "bring the file back, run tspace ingest on its log, or delete the episode and store it again"
        yield Finding(kind, str(path), f"{type(error).__name__}: {error}", todo), None


def _read_episode(area: str, path: AnyPath) -> object:
    if area == "episodes":
        from tspace_core.storage import episodes_table

        return episodes_table.read(path)
    from tspace_core.storage.pools import avro

    return avro.read(path)


def _unnamed(path: AnyPath) -> Iterator[Found]:
    """What a killed writer has left: readers never saw it. Somebody may just be writing a young one."""
    changed = last_change(path.parent, path.name)
    if changed is not None and time.time() - changed > OLD_S:
        what = "no manifest names this episode, so it is not visible; it is older than a day"
        finding = Finding("unnamed episode", str(path), what, REPAIR, repairable=True)
        yield finding, partial(path.unlink, missing_ok=True)


def json_files(lake: Lake) -> Iterator[Found]:
    """JSON that cannot be parsed."""
    for area in _JSON:
        for path, parts in _ways(lake, area):
            raw_itself = area == "raw" and not path.name.endswith(ORIGIN_SUFFIX)
            if path.suffix != ".json" or raw_itself or (area == "quarantine" and parts[:1] == ("units",)):
                continue
            error = _unreadable(partial(_parse, path))
            if error:
                todo = "bring it back from a backup; else remove it and run again what writes it"
                yield Finding("torn JSON", str(path), error, todo), None


def _parse(path: AnyPath) -> Any:
    return json.loads(path.read_bytes())


def foreign(lake: Lake) -> Iterator[Found]:
    """What lies in the lake's root and belongs to no part of it."""
    known = _AREAS | (_LOCAL if lake.local == lake.root else set())
    if not lake.root.is_dir():
        return
    there: list[AnyPath] = [*lake.root.iterdir()]
    for path in sorted(there, key=lambda found: found.name):
        local = lake.local == lake.root and path.name.startswith(("catalogue", "mlflow"))
        if path.name not in known and not path.name.startswith(".") and not local:
            yield _foreign(path)


def _foreign(path: AnyPath) -> Found:
    what = "nothing of tspace has a file of this name here; nobody reads it"
    todo = "move it away; a log or trip table is stored with tspace ingest"
    return Finding("foreign file", str(path), what, todo), None
