"""An episode as a Parquet file: the observations of ``records.tabular``, one row a record and one more.

The file's metadata holds the ``EpisodeMeta`` as JSON.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tspace_core.errors import RecordError, StorageError
from tspace_core.objects.path import AnyPath, local_copy
from tspace_core.records.episode import Episode
from tspace_core.records.meta import EpisodeMeta
from tspace_core.records.tabular import episode_schema, from_arrow, metas_of, to_arrow

schema = episode_schema


def to_table(episode: Episode) -> pa.Table:
    """Return an episode as an Arrow table of n + 1 rows with its meta information in the schema."""
    return to_arrow(episode)


def write(path: Path, episode: Episode) -> None:
    """Write an episode to ``path``; give an atomic write's temporary path."""
    pq.write_table(to_table(episode), path, compression="zstd")


def read_meta(path: AnyPath) -> EpisodeMeta:
    """Return the meta information of an episode file.

    Raises:
        StorageError: if the file is damaged or holds no episode.
    """
    try:
        return _meta(path, pq.read_schema(local_copy(path)))
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
    meta = _meta(path, table.schema)
    state_dim = meta.window * len(meta.signals)
    if table.schema.remove_metadata() != schema(state_dim) or len(table) < 2:
        message = f"{path} has {len(table)} rows of {table.schema.names}, which is no episode: make it again"
        raise StorageError(message)
    return from_arrow(table)


def _meta(path: AnyPath, columns: pa.Schema) -> EpisodeMeta:
    try:
        return metas_of(columns)[0]
    except RecordError as error:
        message = f"{path} is no episode, make it again: {error}"
        raise StorageError(message) from error
