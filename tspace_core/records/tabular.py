"""Episodes, their records and raw windows as Arrow tables, polars or pandas data frames, in one call.

============== ======================================================================================
rows           columns
============== ======================================================================================
observations   as it is stored, n + 1 rows: time, state, action, first_row, reward, flags; of the last
               row, the last observation, all but time and state are null
records        n rows: time, state, action, first_row, reward, next_state, flags
samples        (n + 1) x W rows, long form: time of the sample, window number from 0, an f32 column a
               signal with its unit in the field's metadata; null = no value
============== ======================================================================================

time is timestamp[ns, UTC] of the state window's first sample (of ``samples``: of the sample itself), state
and next_state fixed-size lists of f32[W x signals], action f32[68] in [-1, 1], first_row i32, reward f32 in
the unit of ``meta.reward_kind`` (Wh for energy), flags u8 (bits of ``RecordFlag``). Of several episodes the
first column is episode_id. The last observation's action is a list of 68 nulls, as pyarrow cannot read a
null in place of a fixed-size list back from Parquet.

The meta information is JSON in the Arrow schema's metadata under ``tspace`` (of several episodes a JSON
list); pandas has the same text in ``frame.attrs["tspace"]``; polars keeps none, see ``json_codec``.
"""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from tspace_core.errors import RecordError
from tspace_core.records.episode import Episode
from tspace_core.records.meta import EpisodeMeta
from tspace_core.records.policy import ACTION_DIM
from tspace_core.records.raw_windows import RawWindows, windows_of

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

METADATA_KEY = b"tspace"
"""Key of the meta information in an Arrow schema's metadata."""

Rows = Literal["observations", "records", "samples"]
Tabular = Episode | RawWindows | Iterable[Episode]


def to_arrow(given: Tabular, rows: Rows = "observations") -> "pa.Table":
    """An episode, several episodes or raw windows as an Arrow table.

    Args:
        given: an episode; episodes of one state length, in order; or raw windows, whose rows are always
            samples.
        rows: what a row is.

    Raises:
        RecordError: there is no episode, their states differ in length or in signals, or a signal has the
            name of another column.
    """
    if isinstance(given, RawWindows):
        return _samples(given)
    if isinstance(given, Episode):
        made = _table(given, rows)
        return made.replace_schema_metadata({METADATA_KEY: given.meta.model_dump_json()})
    return _several(given, rows)


def to_polars(given: Tabular, rows: Rows = "observations") -> "pl.DataFrame":
    """The same as a polars data frame; states and actions are ``pl.Array`` columns."""
    import polars as pl

    return cast("pl.DataFrame", pl.from_arrow(to_arrow(given, rows)))


def to_pandas(given: Tabular, rows: Rows = "observations") -> "pd.DataFrame":
    """The same as a pandas data frame; states and actions are numpy arrays, one a cell.

    Of ``observations`` first_row and flags are nullable integers, as the last observation has none.
    """
    import pandas as pd
    import pyarrow as pa

    nullable = {pa.int32(): pd.Int32Dtype(), pa.uint8(): pd.UInt8Dtype()} if rows == "observations" else {}
    table = to_arrow(given, rows)
    frame: pd.DataFrame = table.to_pandas(types_mapper=nullable.get, ignore_metadata=True)
    text = (table.schema.metadata or {}).get(METADATA_KEY)
    if text is not None:
        frame.attrs[METADATA_KEY.decode()] = text.decode()
    return frame


def from_arrow(table: "pa.Table") -> Episode:
    """The episode of a table of observations, bit for bit.

    Raises:
        RecordError: the table is none of ``to_arrow``, or its numbers contradict the definition of an
            episode.
    """
    import pyarrow as pa

    metas = metas_of(table.schema)
    state_dim = metas[0].window * len(metas[0].signals)
    if len(metas) > 1 or table.schema.remove_metadata() != episode_schema(state_dim) or len(table) < 2:
        message = (
            f"{len(table)} rows of {table.schema.names} are no episode with states of {state_dim} numbers: "
            "give the rows of one episode as to_arrow(episode) makes them"
        )
        raise RecordError(message)
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
        meta=metas[0],
    )


def metas_of(schema: "pa.Schema") -> list[EpisodeMeta]:
    """The meta information that a table carries, of each of its episodes in their order.

    Raises:
        RecordError: it carries none, or it is damaged.
    """
    text = (schema.metadata or {}).get(METADATA_KEY)
    try:
        if text is not None and text.lstrip()[:1] == b"[":
            return [EpisodeMeta.model_validate_json(json.dumps(meta)) for meta in json.loads(text)]
        return [EpisodeMeta.model_validate_json(text or b"")]
    except (ValidationError, ValueError) as error:
        wrong = f"{error.error_count()} fields wrong" if isinstance(error, ValidationError) else str(error)
        message = f"no valid episode metadata ({wrong}) in columns {schema.names}: make the table again"
        raise RecordError(message) from error


def episode_schema(state_dim: int) -> "pa.Schema":
    """Columns of an episode as it is stored, for states of a length."""
    import pyarrow as pa

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


def records_schema(state_dim: int) -> "pa.Schema":
    """Columns of an episode's records, for states of a length."""
    import pyarrow as pa

    state = pa.list_(pa.float32(), state_dim)
    fields = [pa.field(field.name, field.type, nullable=False) for field in episode_schema(state_dim)]
    return pa.schema([*fields[:5], pa.field("next_state", state, nullable=False), *fields[5:]])


def _table(episode: Episode, rows: Rows) -> "pa.Table":
    if rows == "samples":
        return _samples(windows_of(episode))
    return _records(episode) if rows == "records" else _observations(episode)


def _observations(episode: Episode) -> "pa.Table":
    import pyarrow as pa

    n = len(episode)
    last = np.arange(n + 1) == n
    columns = [
        pa.array(episode.times, pa.timestamp("ns", tz="UTC")),
        _lists(episode.states),
        pa.FixedSizeListArray.from_arrays(
            pa.array(_longer(episode.actions).ravel(), mask=np.repeat(last, ACTION_DIM)), ACTION_DIM
        ),
        *(pa.array(_longer(values), mask=last) for values in (episode.rows, episode.rewards, episode.flags)),
    ]
    return pa.Table.from_arrays(columns, schema=episode_schema(episode.state_dim))


def _records(episode: Episode) -> "pa.Table":
    import pyarrow as pa

    columns = [
        pa.array(episode.times[:-1], pa.timestamp("ns", tz="UTC")),
        _lists(episode.states[:-1]),
        _lists(episode.actions),
        pa.array(episode.rows),
        pa.array(episode.rewards),
        _lists(episode.states[1:]),
        pa.array(episode.flags),
    ]
    return pa.Table.from_arrays(columns, schema=records_schema(episode.state_dim))


def _samples(windows: RawWindows) -> "pa.Table":
    import pyarrow as pa

    taken = {"time", "window", "episode_id"} & set(windows.signals)
    if taken:
        message = f"a signal is called {sorted(taken)[0]!r}, as a column of the samples is: rename the signal"
        raise RecordError(message)
    window = np.repeat(np.arange(len(windows), dtype=np.int32), windows.window)
    values = windows.samples.reshape(-1, len(windows.signals))
    columns = [
        pa.array(windows.times.ravel(), pa.timestamp("ns", tz="UTC")),
        pa.array(window),
        *(pa.array(column, mask=np.isnan(column)) for column in np.ascontiguousarray(values.T)),
    ]
    fields = [
        pa.field("time", pa.timestamp("ns", tz="UTC"), nullable=False),
        pa.field("window", pa.int32(), nullable=False),
        *(
            pa.field(name, pa.float32(), metadata={"unit": windows.units.get(name, "")})
            for name in windows.signals
        ),
    ]
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def _several(episodes: Iterable[Episode], rows: Rows) -> "pa.Table":
    import pyarrow as pa

    tables: list[pa.Table] = []
    metas: list[EpisodeMeta] = []
    for episode in episodes:
        table, meta = _table(episode, rows), episode.meta
        if tables and table.schema != tables[0].schema.remove(0):
            one, other = (f"{m.episode_id}: {m.window} x {', '.join(m.signals)}" for m in (metas[0], meta))
            message = f"episodes have no table in common ({one}; {other}): make one of each"
            raise RecordError(message)
        names = pa.array([meta.episode_id], pa.string()).take(pa.array(np.zeros(len(table), np.int8)))
        tables.append(table.add_column(0, pa.field("episode_id", pa.string(), nullable=False), names))
        metas.append(meta)
    if not tables:
        message = "there is no episode to make a table of: widen the query"
        raise RecordError(message)
    texts = ",".join(meta.model_dump_json() for meta in metas)
    return pa.concat_tables(tables).replace_schema_metadata({METADATA_KEY: f"[{texts}]"})


def _lists(values: NDArray[np.float32]) -> "pa.FixedSizeListArray":
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(values).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _longer(values: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.concatenate([values, np.zeros((1, *values.shape[1:]), values.dtype)])


def _flat(column: "pa.ChunkedArray") -> NDArray[np.float32]:
    return np.asarray(column.combine_chunks().flatten().to_numpy(zero_copy_only=False), np.float32)
