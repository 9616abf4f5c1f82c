"""An episode as Parquet: one row a record, and the last observation as one row more.

Columns: time timestamp[ns, UTC] of the state window's first sample, state fixed-size list f32, action
fixed-size list f32[68], first_row i32, reward f32, flags u8. In the last row all but time and state are null;
its action is a list of 68 nulls, as pyarrow cannot read a null in place of a fixed-size list back. The file's
metadata holds the ``EpisodeMeta`` as JSON.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationError

from tspace_core.errors import StorageError
from tspace_core.objects.path import AnyPath, local_copy
from tspace_core.records.episode import Episode
from tspace_core.records.meta import EpisodeMeta
from tspace_core.records.policy import ACTION_DIM
from tspace_core.storage.frames_table import METADATA_KEY


def schema(state_dim: int) -> pa.Schema:
    """Return the columns for states of a length."""
    return pa.schema(
        [
            pa.field("time", pa.timestamp("ns", tz="UTC"), nullable=False),
            pa.field("state", pa.list_(pa.float32(), state_dim), nullable=False),
            pa.field("action", pa.list_(pa.float32(), ACTION_DIM)),
            pa.field("first_row", pa.int32()),
            pa.field("reward", pa.float32()),
            pa.field("flags", pa.uint8()),
        ]
    )


def to_table(episode: Episode) -> pa.Table:
    """Return an episode as an Arrow table of n + 1 rows with its meta information in the schema."""
    n = len(episode)
    last = np.arange(n + 1) == n
    columns = [
        pa.array(episode.times, pa.timestamp("ns", tz="UTC")),
        pa.FixedSizeListArray.from_arrays(pa.array(episode.states.ravel()), episode.state_dim),
        pa.FixedSizeListArray.from_arrays(
            pa.array(_longer(episode.actions).ravel(), mask=np.repeat(last, ACTION_DIM)), ACTION_DIM
        ),
        *(pa.array(_longer(values), mask=last) for values in (episode.rows, episode.rewards, episode.flags)),
    ]
    columns_of = schema(episode.state_dim).with_metadata({METADATA_KEY: episode.meta.model_dump_json()})
    return pa.Table.from_arrays(columns, schema=columns_of)


def write(path: Path, episode: Episode) -> None:
    """Write an episode to ``path``; give an atomic write's temporary path."""
    pq.write_table(to_table(episode), path, compression="zstd")


def read_meta(path: AnyPath) -> EpisodeMeta:
    """Return the meta information of an episode file.

    Raises:
        StorageError: if the file is damaged or holds no episode.
    """
    try:
        return _meta(path, pq.read_schema(local_copy(path)).metadata)
    except (OSError, pa.ArrowException) as error:
        message = f"{path} is no episode ({error}): run the episodes stage of its log again"
        raise StorageError(message) from error


def read(path: AnyPath) -> Episode:
    """Return the episode of a file.

    Raises:
        StorageError: if the file is damaged or holds no episode.
        RecordError: if its numbers contradict the definition of an episode.
    """
    try:
        table = pq.read_table(local_copy(path), partitioning=None)
    except (OSError, pa.ArrowException) as error:
        message = f"{path} is no episode ({error}): run the episodes stage of its log again"
        raise StorageError(message) from error
    meta = _meta(path, table.schema.metadata)
    state_dim = meta.window * len(meta.signals)
    if table.schema.remove_metadata() != schema(state_dim) or len(table) < 2:
        message = f"{path} has {len(table)} rows of {table.schema.names}, which is no episode: make it again"
        raise StorageError(message)
    table = table.combine_chunks()
    n = len(table) - 1
    head = table.slice(0, n)
    return Episode(
        states=_flat(table.column("state")).reshape(n + 1, state_dim),
        actions=_flat(head.column("action")).reshape(n, ACTION_DIM),
        rows=head.column("first_row").to_numpy().astype(np.int32),
        rewards=head.column("reward").to_numpy().astype(np.float32),
        times=table.column("time").cast(pa.int64()).to_numpy(),
        flags=head.column("flags").to_numpy().astype(np.uint8),
        meta=meta,
    )


def _meta(path: AnyPath, metadata: dict[bytes, bytes] | None) -> EpisodeMeta:
    try:
        return EpisodeMeta.model_validate_json((metadata or {}).get(METADATA_KEY, b""))
    except ValidationError as error:
        message = f"{path} has no valid episode metadata ({error.error_count()} fields wrong): make it again"
        raise StorageError(message) from error


def _longer(values: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.concatenate([values, np.zeros((1, *values.shape[1:]), values.dtype)])


def _flat(column: pa.ChunkedArray) -> NDArray[np.float32]:
    return np.asarray(column.combine_chunks().flatten().to_numpy(zero_copy_only=False), np.float32)
