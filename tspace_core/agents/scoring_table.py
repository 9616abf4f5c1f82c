"""What an agent would have done, as Parquet: one row a record, metadata of the file as JSON.

::

    <lake>/policy_actions/vehicle=<vehicle>/date=<date>/<log>.<checkpoint>.parquet

``<checkpoint>`` are 16 hex digits of the checkpoint's content, as the folders of released checkpoints have.
Every field's metadata holds its ``unit`` and what it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tspace_core.errors import StorageError
from tspace_core.objects.path import AnyPath, local_copy
from tspace_core.records.policy import ACTION_COLUMNS, ACTION_DIM, ACTION_ROWS
from tspace_core.storage.frames_table import METADATA_KEY
from tspace_core.storage.lake import Lake, RawLog

AREA = "policy_actions"
ENCODING: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 1,
    "use_dictionary": ["episode_id"],
    "use_byte_stream_split": ["action.list.element", "q_proposal", "q_behaviour", "distance"],
}
"""Measured on random proposals: 4.3 us and 415 bytes a record. Torque is left as it is, because its clipped
cells repeat the default map's; a dictionary of torque takes 9 us longer and saves nothing."""
_FIELDS: tuple[tuple[str, pa.DataType, str, str], ...] = (
    ("time", pa.timestamp("ns", tz="UTC"), "UTC", "first sample of the record's state window"),
    ("episode_id", pa.dictionary(pa.int32(), pa.string()), "-", "episode that holds the record"),
    ("record", pa.int32(), "-", "its number in the episode, from 0"),
    ("first_row", pa.int32(), "-", "first map row of the proposal, by the window's highest speed"),
    (
        "action",
        pa.list_(pa.float32(), ACTION_DIM),
        "share of the budget",
        f"proposal in [-1, 1], {ACTION_ROWS} map rows x {ACTION_COLUMNS} pedal columns",
    ),
    (
        "torque",
        pa.list_(pa.float32(), ACTION_DIM),
        "Nm",
        f"what a flash would make of it: {ACTION_ROWS} map rows x {ACTION_COLUMNS} pedal columns, clipped",
    ),
    (
        "q_proposal",
        pa.float32(),
        "scaled reward, discounted sum",
        "the critic's value of the proposal, as in training: rewards times reward_scale",
    ),
    (
        "q_behaviour",
        pa.float32(),
        "scaled reward, discounted sum",
        "the critic's value of the recorded action",
    ),
    ("clipped", pa.float32(), "share of cells", "cells whose proposal is beyond the limits before clipping"),
    (
        "distance",
        pa.float32(),
        "share of the budget",
        f"root mean square over {ACTION_DIM} cells of proposal - recorded action, as the critic sees them",
    ),
)
SCHEMA = pa.schema(
    [
        pa.field(name, kind, nullable=False, metadata={"unit": unit, "description": text})
        for name, kind, unit, text in _FIELDS
    ]
)


@dataclass(frozen=True)
class ScoredBlock:
    """Scores of n records, which may be of several episodes.

    Attributes:
        times: (n,) int64 ns UTC.
        episodes: (n,) int32, index into ``episode_ids``.
        episode_ids: of the episodes in the block.
        records: (n,) int32, number in the episode.
        first_rows: (n,) int32.
        actions: (n, 68) float32.
        torque: (n, 68) float32, Nm.
        q_proposal: (n,) float32.
        q_behaviour: (n,) float32.
        clipped: (n,) float32, share of the cells.
        distance: (n,) float32.
    """

    times: NDArray[np.int64]
    episodes: NDArray[np.int32]
    episode_ids: list[str]
    records: NDArray[np.int32]
    first_rows: NDArray[np.int32]
    actions: NDArray[np.float32]
    torque: NDArray[np.float32]
    q_proposal: NDArray[np.float32]
    q_behaviour: NDArray[np.float32]
    clipped: NDArray[np.float32]
    distance: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.times)


def scores_path(lake: Lake, log: RawLog, checkpoint_id: str) -> AnyPath:
    """Where the scores of a log's records by a checkpoint lie."""
    folder = lake.root / AREA / f"vehicle={log.vehicle_id}" / f"date={log.date}"
    return folder / f"{log.name}.{checkpoint_id}.parquet"


def to_batch(block: ScoredBlock) -> pa.RecordBatch:
    """Return a block as an Arrow record batch; the arrays' memory is shared."""
    episode_ids = pa.DictionaryArray.from_arrays(
        pa.array(block.episodes, pa.int32()), pa.array(block.episode_ids, pa.string())
    )
    columns = [
        pa.array(block.times, pa.timestamp("ns", tz="UTC")),
        episode_ids,
        pa.array(block.records),
        pa.array(block.first_rows),
        *(
            pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), ACTION_DIM)
            for values in (block.actions, block.torque)
        ),
        *(
            pa.array(values)
            for values in (block.q_proposal, block.q_behaviour, block.clipped, block.distance)
        ),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


class ScoresFile:
    """A file of scores that is being written: a block a row group, the metadata last."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer

    def write(self, block: ScoredBlock) -> None:
        """Write a block as a row group."""
        self._writer.write_table(pa.Table.from_batches([to_batch(block)]), row_group_size=len(block))

    def describe(self, text: str) -> None:
        """Leave a JSON object in the file's metadata."""
        self._writer.add_key_value_metadata({METADATA_KEY: text.encode()})


@contextmanager
def scores_file(path: Path) -> Iterator[ScoresFile]:
    """Yield a file to write scores to; give a writer's temporary path."""
    with pq.ParquetWriter(path, SCHEMA, **ENCODING) as writer:
        yield ScoresFile(writer)


def read_scores(path: AnyPath) -> pa.Table:
    """Return the scores in a file.

    Raises:
        StorageError: the file is damaged or holds no scores.
    """
    try:
        table = pq.read_table(local_copy(path), partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise _no_scores(path, error) from error
    _check_columns(path, table.schema)
    return table


@dataclass(frozen=True)
class OddValues:
    """What a look at a file of scores finds.

    Attributes:
        records: in the file.
        not_finite: values of actions, torque, the critic and the distance that are NaN or infinite.
        first: column of the first of them.
        clipped: mean share of clipped cells, 0 without records.
    """

    records: int
    not_finite: int
    first: str | None
    clipped: float


def odd_values(path: AnyPath) -> OddValues:
    """Look at the numbers of a file of scores.

    Raises:
        StorageError: the file is missing, damaged or holds no scores.
    """
    counts = dict.fromkeys(("action", "torque", "q_proposal", "q_behaviour", "distance"), 0)
    records, clipped = 0, 0.0
    for batch in _blocks_of(path):
        records += len(batch)
        clipped += float(batch.column("clipped").to_numpy().sum(dtype=np.float64))
        for name in counts:
            column = batch.column(name)
            values = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
            counts[name] += int((~np.isfinite(values.to_numpy(zero_copy_only=False))).sum())
    return OddValues(
        records=records,
        not_finite=sum(counts.values()),
        first=next((name for name, count in counts.items() if count), None),
        clipped=clipped / records if records else 0.0,
    )


def _blocks_of(path: AnyPath) -> Iterator[pa.RecordBatch]:
    """A block after the other; memory holds one."""
    try:
        with pq.ParquetFile(local_copy(path)) as file:
            _check_columns(path, file.schema_arrow)
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group).combine_chunks().to_batches()
    except (OSError, pa.ArrowException) as error:
        raise _no_scores(path, error) from error


def _check_columns(path: AnyPath, found: pa.Schema) -> None:
    if found.remove_metadata() != SCHEMA.remove_metadata():
        message = f"{path} has the columns {found.names}, expected {SCHEMA.names}: score its log again"
        raise StorageError(message)


def _no_scores(path: AnyPath, error: Exception) -> StorageError:
    return StorageError(f"{path} holds no scores ({error}): delete it and score its log again (tspace score)")
