"""The lake's episodes as a pool: Parquet, what the pipelines wrote and what is stored here alike."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tspace_core.objects.path import AnyPath
from tspace_core.records.episode import Episode
from tspace_core.records.policy import ACTION_DIM
from tspace_core.storage import episodes_table
from tspace_core.storage.pools.files import FilePool
from tspace_core.storage.pools.sampling import Rows


class ParquetPool(FilePool):
    """The episodes of a lake; what is stored here is seen by ``Lake.episodes``, replay and catalogue.

    Read it with any tool: ``duckdb -c "SELECT count(*) FROM 'data/episodes/*/*/*.parquet'"``.
    """

    area = "episodes"
    suffix = ".parquet"
    kind = "parquet"

    def _write_file(self, path: Path, episode: Episode) -> None:
        episodes_table.write(path, episode)

    def _read_file(self, path: AnyPath) -> Episode:
        return episodes_table.read(path)

    def _read_times_and_flags(self, path: Path) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        table = pq.read_table(path, columns=["time", "flags"], partitioning=None, use_threads=False)
        records = len(table) - 1
        times = table.column("time").cast(pa.int64()).to_numpy()[:records]
        return times, table.column("flags").slice(0, records).to_numpy().astype(np.uint8)

    def _read_rows(self, path: Path, rows: NDArray[np.int64]) -> Rows:
        with pq.ParquetFile(path) as file:
            sizes = [file.metadata.row_group(k).num_rows for k in range(file.metadata.num_row_groups)]
            ends = np.cumsum(sizes)
            groups = np.unique(np.searchsorted(ends, rows, side="right"))
            # Threads cost more than the few columns of an episode are worth.
            columns = ["state", "action", "first_row", "reward"]
            table = file.read_row_groups(groups.tolist(), columns=columns, use_threads=False)
            last = file.metadata.num_rows - 1
        # Where the rows lie in what was read: less the groups before that were not.
        skipped = np.array([sum(sizes[k] for k in range(group) if k not in groups) for group in groups])
        places = rows - skipped[np.searchsorted(groups, np.searchsorted(ends, rows, side="right"))]
        table = table.combine_chunks().take(pa.array(places))
        count = len(table)
        taken = Rows(
            _numbers(table.column("state"), count),
            _numbers(table.column("action"), count).reshape(count, ACTION_DIM),
            _numbers(table.column("reward"), count)[:, 0],
            _numbers(table.column("first_row"), count)[:, 0],
        )
        for values in taken[1:]:
            values[rows == last] = 0
        return taken


def _numbers(column: pa.ChunkedArray, count: int) -> NDArray[np.float32]:
    values = column.combine_chunks()
    if pa.types.is_fixed_size_list(values.type):
        values = values.flatten()
    found = np.array(values.to_numpy(zero_copy_only=False), np.float32)
    return found.reshape(count, -1)
