"""The signals of a log on the vehicle's grid as Parquet.

Columns: time timestamp[ns, UTC], log_time_ns i64, segment u16, an f32 column a signal (null = none yet, or
stale), ``<signal>_age_s`` f32 (null = never seen), energy_wh f64 and energy_s f64 (energy used since the row
before and the seconds of it that were measured), distance_m f64.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tspace_core.objects.path import AnyPath, local_copy
from tspace_core.records.grid import GridRows
from tspace_core.records.window import GridTable
from tspace_core.storage.background import ahead
from tspace_core.storage.frames_table import METADATA_KEY

if TYPE_CHECKING:
    import polars as pl

ROW_GROUP = 1 << 16
_STEP_COLUMNS = ("energy_wh", "energy_s", "distance_m")


def schema(signals: Iterable[str]) -> pa.Schema:
    """Return the columns for a vehicle's signals."""
    names = list(signals)
    return pa.schema(
        [
            pa.field("time", pa.timestamp("ns", tz="UTC"), nullable=False),
            pa.field("log_time_ns", pa.int64(), nullable=False),
            pa.field("segment", pa.uint16(), nullable=False),
            *(pa.field(name, pa.float32()) for name in names),
            *(pa.field(f"{name}_age_s", pa.float32()) for name in names),
            *(pa.field(name, pa.float64(), nullable=False) for name in _STEP_COLUMNS),
        ]
    )


def to_table(rows: GridRows, utc_offset_ns: int) -> pa.Table:
    """Return grid rows as an Arrow table; NaN becomes null."""
    # Signals of one message have the same ages, as one array.
    ages = {id(age): _nullable(age) for age in rows.ages.values()}
    columns = [
        pa.array(rows.time + utc_offset_ns, pa.timestamp("ns", tz="UTC")),
        pa.array(rows.time),
        pa.array(np.full(len(rows), rows.segment, np.uint16)),
        *(_nullable(value.astype(np.float32)) for value in rows.values.values()),
        *(ages[id(age)] for age in rows.ages.values()),
        *(pa.array(step) for step in (rows.energy_wh, rows.energy_s, rows.distance_m)),
    ]
    return pa.Table.from_arrays(columns, schema=schema(rows.values))


def _nullable(values: NDArray[np.float32]) -> pa.Array:
    """NaN as null, without a copy; ``pa.array(values, from_pandas=True)`` takes ten times as long."""
    missing = np.isnan(values)
    valid = pa.py_buffer(np.packbits(~missing, bitorder="little")) if missing.any() else None
    buffers = [valid, pa.py_buffer(np.ascontiguousarray(values))]
    return pa.Array.from_buffers(pa.float32(), len(values), buffers)


def write(
    path: Path, tables: Iterable[pa.Table], columns: pa.Schema, metadata: Callable[[], dict[str, Any]]
) -> None:
    """Write tables as they come in row groups of ``ROW_GROUP``, then the metadata, asked for at the end."""
    plain = {"time", "log_time_ns", "segment"}
    split = {field.name: "BYTE_STREAM_SPLIT" for field in columns if field.name not in plain}
    delta = {"time": "DELTA_BINARY_PACKED", "log_time_ns": "DELTA_BINARY_PACKED"}
    with pq.ParquetWriter(
        path, columns, compression="zstd", use_dictionary=["segment"], column_encoding={**split, **delta}
    ) as writer:
        with closing(ahead(_grouped(tables))) as groups:
            for group in groups:
                writer.write_table(group, row_group_size=ROW_GROUP)
        writer.add_key_value_metadata({METADATA_KEY: json.dumps(metadata())})


def _grouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(map(len, held)) >= ROW_GROUP:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def read(path: AnyPath) -> "pl.DataFrame":
    """Return the whole table as a polars data frame."""
    import polars as pl

    return pl.read_parquet(local_copy(path), glob=False, hive_partitioning=False)


def read_grid(path: AnyPath, signals: Iterable[str]) -> GridTable:
    """Return what records are cut from: steps and the named signals, NaN = none yet, or stale."""
    names = list(dict.fromkeys(signals))
    with pq.ParquetFile(local_copy(path)) as file:
        # A column at a time: the peak is what is kept, not twice that.
        def column(name: str) -> Any:
            found = file.read(columns=[name]).column(0)
            return (found.cast(pa.int64()) if name == "time" else found).to_numpy()

        return GridTable(
            log_time_ns=column("log_time_ns"),
            utc_ns=column("time"),
            segment=column("segment"),
            values={name: column(name).astype(np.float32, copy=False) for name in names},
            energy_wh=column("energy_wh"),
            energy_s=column("energy_s"),
            distance_m=column("distance_m"),
        )
