"""Episodes as Avro: one file an episode, one row a record and one more for the last state.

::

    avro/vehicle=<vehicle>/date=<date>/<log>.<12 hex digits>.<piece>.avro
    avro/vehicle=<vehicle>/date=<date>/<log>.episodes.json      names the visible ones

The schema says the unit of each field. ``time`` has Avro's logical type timestamp-micros, which every tool
knows (polars and fastavro read timestamp-nanos as a plain number); ``time_ns`` is exact. The file's metadata
holds the ``EpisodeMeta`` as JSON (``tspace.episode``), the number of records and the version of the schema.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from tspace_core.errors import SchemaVersionError, StorageError
from tspace_core.objects.path import AnyPath, local_copy
from tspace_core.records.episode import Episode, RecordFlag
from tspace_core.records.meta import EpisodeMeta
from tspace_core.records.policy import ACTION_DIM
from tspace_core.storage.pools.files import FilePool
from tspace_core.storage.pools.sampling import Rows, rows_of

SCHEMA_VERSION = 1
"""To be raised with the fields."""
VERSION_KEY, META_KEY, RECORDS_KEY = "tspace.schema", "tspace.episode", "tspace.records"
CODEC = "deflate"
"""Which fastavro and polars read without a library more."""


class AvroPool(FilePool):
    """Episodes as Avro files below ``<root>/avro``.

    Read them with any tool: ``fastavro <file>``, ``polars.read_avro(<file>)``.
    """

    area = "avro"
    suffix = ".avro"
    kind = "avro"

    def _write_file(self, path: Path, episode: Episode) -> None:
        write(path, episode)

    def _read_file(self, path: AnyPath) -> Episode:
        return read(path)

    def _read_times_and_flags(self, path: Path) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        _, rows = _load(path, ("time_ns", "flags"))
        return _times(rows)[:-1], np.array([row["flags"] for row in rows[:-1]], np.uint8)

    def _read_rows(self, path: Path, rows: NDArray[np.int64]) -> Rows:
        return rows_of(read(path), rows)


def schema(meta: EpisodeMeta) -> dict[str, Any]:
    """The Avro schema of an episode's rows; the meaning of the signals is in the text of its fields."""
    units = ", ".join(f"{name} in {meta.units.get(name, '-')}" for name in meta.signals)
    flags = ", ".join(f"{flag.value} {str(flag.name).lower()}" for flag in RecordFlag)
    floats = {"type": "array", "items": "float"}

    def optional(name: str, kind: Any, doc: str) -> dict[str, Any]:
        return {"name": name, "type": ["null", kind], "default": None, "doc": f"{doc}; null in the last row"}

    return {
        "type": "record",
        "name": "Record",
        "namespace": f"tspace.episode.v{SCHEMA_VERSION}",
        "doc": "A record of an episode in the order of time; the last row holds the last state only.",
        "fields": [
            {
                "name": "time",
                "type": {"type": "long", "logicalType": "timestamp-micros"},
                "doc": "first sample of the state's window, UTC, rounded down to us",
            },
            {"name": "time_ns", "type": "long", "doc": "the same exactly, ns since 1970-01-01 UTC"},
            {
                "name": "state",
                "type": floats,
                "doc": f"window of {meta.window} samples at {meta.rate_hz:g} Hz, flattened from (samples, "
                f"signals): {units}",
            },
            optional(
                "action", floats, f"change of {ACTION_DIM // 17} map rows x 17 pedals, 1 is budget_nm in Nm"
            ),
            optional("first_row", "int", "first row of the map that the action stands for"),
            optional("reward", "float", f"{meta.reward_kind}; of energy: minus Wh"),
            optional("flags", "int", f"bits: {flags}"),
        ],
    }


def write(path: Path, episode: Episode) -> None:
    """Write an episode to ``path``; give an atomic write's temporary path."""
    import fastavro

    times = episode.times.tolist()
    states, actions = episode.states.tolist(), episode.actions.tolist()
    rows, rewards, flags = episode.rows.tolist(), episode.rewards.tolist(), episode.flags.tolist()
    records = [
        {
            "time": times[k] // 1000, "time_ns": times[k], "state": states[k], "action": actions[k],
            "first_row": rows[k], "reward": rewards[k], "flags": flags[k],
        }
        for k in range(len(episode))
    ]  # fmt: skip
    records.append({"time": times[-1] // 1000, "time_ns": times[-1], "state": states[-1]})
    metadata = {
        VERSION_KEY: str(SCHEMA_VERSION),
        META_KEY: episode.meta.model_dump_json(),
        RECORDS_KEY: str(len(episode)),
    }
    parsed = fastavro.parse_schema(schema(episode.meta))
    with path.open("wb") as file:
        fastavro.writer(file, parsed, records, codec=CODEC, metadata=metadata)


def read(path: AnyPath) -> Episode:
    """Return the episode of a file.

    Raises:
        SchemaVersionError: it was written in another version of the schema.
        StorageError: if the file is damaged or holds no episode.
        RecordError: if its numbers contradict the definition of an episode.
    """
    meta, rows = _load(path, ("time_ns", "state", "action", "first_row", "reward", "flags"))
    head, width = rows[:-1], meta.window * len(meta.signals)
    try:
        return Episode(
            states=np.array([row["state"] for row in rows], np.float32).reshape(-1, width),
            actions=np.array([row["action"] for row in head], np.float32).reshape(-1, ACTION_DIM),
            rows=np.array([row["first_row"] for row in head], np.int32),
            rewards=np.array([row["reward"] for row in head], np.float32),
            times=_times(rows),
            flags=np.array([row["flags"] for row in head], np.uint8),
            meta=meta,
        )
    except (TypeError, ValueError, OverflowError) as error:
        message = f"{path} holds rows that are no episode's ({error}): store the episode again"
        raise StorageError(message) from error


def _times(rows: list[dict[str, Any]]) -> NDArray[np.int64]:
    return np.array([row["time_ns"] for row in rows], np.int64)


def _load(path: AnyPath, fields: tuple[str, ...]) -> tuple[EpisodeMeta, list[dict[str, Any]]]:
    """Meta information and rows with some of their fields."""
    import fastavro

    try:
        with local_copy(path).open("rb") as file:
            header = fastavro.reader(file)
            metadata = dict(header.metadata)
            _require_version(path, metadata)
            meta = EpisodeMeta.model_validate_json(metadata[META_KEY])
            whole = schema(meta)
            wanted = {**whole, "fields": [item for item in whole["fields"] if item["name"] in fields]}
            file.seek(0)
            rows = list(fastavro.reader(file, reader_schema=wanted))
    except (StorageError, FileNotFoundError):
        raise
    except ValidationError as error:
        message = f"{path} has no valid episode metadata ({error.error_count()} fields wrong): store it again"
        raise StorageError(message) from error
    except Exception as error:  # fastavro raises whatever its decoders stumble over
        message = f"{path} is no Avro episode ({type(error).__name__}: {error}): store the episode again"
        raise StorageError(message) from error
    if len(rows) != int(metadata[RECORDS_KEY]) + 1:
        message = (
            f"{path} holds {len(rows)} rows, its header says {metadata[RECORDS_KEY]} and one: it is torn"
        )
        raise StorageError(message)
    rows = [dict(row) for row in rows if isinstance(row, dict)]
    return meta, rows


def _require_version(path: AnyPath, metadata: dict[str, Any]) -> None:
    found = metadata.get(VERSION_KEY)
    if found == str(SCHEMA_VERSION):
        return
    if found is None:
        message = (
            f"{path} is an Avro file of somebody else: its metadata has no {VERSION_KEY!r}; move it away"
        )
        raise StorageError(message)
    writer = json.loads(metadata.get(META_KEY, "{}")).get("software_version", "unknown")
    message = (
        f"{path} has version {found} of the Avro schema, this tspace reads version {SCHEMA_VERSION}: with "
        f"the tspace that wrote it (episode's version {writer}) run `tspace convert avro:<root> "
        "parquet:<root>`, and with this one the way back"
    )
    raise SchemaVersionError(message)
