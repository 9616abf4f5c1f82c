"""The views of the catalogue: over the Parquet files of the lake, and over its tables.

A view over files names them by a pattern, so that it costs the same for any number of them; only where a file
is known to be damaged it names the others one by one.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tspace_core.errors import StorageError
from tspace_core.objects.path import AnyPath, any_path, local_copy

if TYPE_CHECKING:
    import duckdb

_EMPTY = {
    "frames": (
        "time BIGINT, segment USMALLINT, bus UTINYINT, id UINTEGER, flags UTINYINT, length UTINYINT, "
        "payload UBIGINT, payload_long BLOB, vehicle VARCHAR, date DATE, log VARCHAR"
    ),
    "signals": (
        "time TIMESTAMPTZ, log_time_ns BIGINT, segment USMALLINT, velocity FLOAT, thrust FLOAT, brake FLOAT, "
        "current FLOAT, voltage FLOAT, energy_wh DOUBLE, energy_s DOUBLE, distance_m DOUBLE, "
        "time_ns BIGINT, vehicle VARCHAR, date DATE, log VARCHAR"
    ),
    "records": (
        "time TIMESTAMPTZ, first_row INTEGER, reward FLOAT, flags UTINYINT, time_ns BIGINT, state FLOAT[], "
        "action FLOAT[], vehicle VARCHAR, date DATE, episode_id VARCHAR, file VARCHAR"
    ),
    "policy_actions": (
        "time TIMESTAMPTZ, episode_id VARCHAR, record INTEGER, first_row INTEGER, action FLOAT[], "
        "torque FLOAT[], q_proposal FLOAT, q_behaviour FLOAT, clipped FLOAT, distance FLOAT, "
        "vehicle VARCHAR, date DATE, time_ns BIGINT, log VARCHAR, checkpoint VARCHAR"
    ),
}
"""Columns of a view over no file at all."""

# DuckDB compares nanosecond instants with no other type: views have microseconds, and the ns as a number.
_INSTANT = "time::TIMESTAMPTZ AS time"
_LOG = "regexp_replace(parse_filename(filename), '\\.parquet$', '') AS log"
_PARTITIONS = "hive_partitioning = true, hive_types = {'date': DATE, 'vehicle': VARCHAR}"
# ruff: noqa: S608  the parts of these statements are constants, what varies is quoted
_OVER_FILES = {
    "frames": (
        f"SELECT * EXCLUDE (filename), {_LOG} FROM read_parquet({{files}}, union_by_name = true, "
        f"filename = true, {_PARTITIONS})"
    ),
    "signals": (
        f"SELECT * EXCLUDE (filename) REPLACE ({_INSTANT}), epoch_ns(time) AS time_ns, {_LOG} FROM "
        f"read_parquet({{files}}, union_by_name = true, filename = true, {_PARTITIONS})"
    ),
    # The join keeps out files that no manifest names. Parquet lists have no length, so states may differ.
    "records": (
        f"SELECT r.* EXCLUDE (filename, state, action, vehicle, date) REPLACE (r.{_INSTANT}), "
        "epoch_ns(r.time) AS time_ns, r.state::FLOAT[] AS state, r.action::FLOAT[] AS action, r.vehicle, "
        "r.date, e.episode_id, r.filename AS file FROM "
        f"read_parquet({{files}}, filename = true, {_PARTITIONS}) r JOIN episodes e ON e.path = r.filename"
    ),
    "policy_actions": (
        "SELECT time::TIMESTAMPTZ AS time, episode_id, record, first_row, action, torque, q_proposal, "
        "q_behaviour, clipped, distance, vehicle, date, epoch_ns(time) AS time_ns, "
        "regexp_extract(parse_filename(filename), '^(.*)\\.[^.]+\\.parquet$', 1) AS log, "
        "regexp_extract(parse_filename(filename), '\\.([^.]+)\\.parquet$', 1) AS checkpoint "
        f"FROM read_parquet({{files}}, filename = true, {_PARTITIONS})"
    ),
}
_FOLDERS = {"records": "episodes"}
_FLASHES = (
    "CREATE VIEW flashes AS SELECT f.vehicle, make_timestamptz(f.time_ns // 1000) AS time, f.time_ns, "
    "f.log_key, e.episode_id, e.driver, f.kind, f.first_row, f.cells_changed, f.largest_change_nm, "
    "f.result AS outcome, f.reason, f.source_file FROM flash_events f LEFT JOIN episodes e "
    "ON e.log_key = f.log_key AND f.time_ns >= e.start_ns AND f.time_ns < e.end_ns"
)


def folder_of(view: str) -> str:
    """The folder of the lake that a view is over."""
    return _FOLDERS.get(view, view)


def views_over_files() -> tuple[str, ...]:
    """Names of the views that read the lake's Parquet files."""
    return tuple(_OVER_FILES)


def make_view(
    connection: "duckdb.DuckDBPyConnection",
    root: AnyPath,
    view: str,
    files: Sequence[str],
    damaged: Sequence[str] = (),
) -> list[str]:
    """Make a view over files in the database in use, and return which of them are no Parquet files.

    Args:
        connection: with the new catalogue in use.
        root: of the lake.
        view: one of ``views_over_files``.
        files: all Parquet files that lie where the view looks.
        damaged: those known to be none.

    Raises:
        StorageError: the files cannot be read as one table; says why.
    """
    import duckdb

    folder = folder_of(view)
    text = f"CREATE OR REPLACE VIEW {view} AS {_OVER_FILES[view]}"
    names = quoted(f"{root}/{folder}/vehicle=*/date=*/*.parquet")
    good = sorted(set(files) - set(damaged))
    if damaged and good:
        names = f"[{', '.join(map(quoted, good))}]"
    if not good:
        _empty_view(connection, view)
        return []
    try:
        connection.execute(text.replace("{files}", names))
    except (duckdb.Error, OSError) as error:
        torn = [path for path in good if not is_parquet(any_path(path))]
        if not torn:
            message = f"the catalogue cannot read {root}/{folder} as one table: {error}"
            raise StorageError(message) from error
        make_view(connection, root, view, files, [*damaged, *torn])
        return torn
    return []


def make_views_over_tables(connection: "duckdb.DuckDBPyConnection") -> None:
    """Make the views that read only tables of the catalogue, in the database in use."""
    connection.execute(_FLASHES)


def is_parquet(path: AnyPath) -> bool:
    """Whether it is a whole Parquet file, as far as its end tells."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        pq.read_metadata(local_copy(path))
    except (OSError, StorageError, pa.ArrowException):
        return False
    return True


def quoted(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def _empty_view(connection: "duckdb.DuckDBPyConnection", view: str) -> None:
    parts = [column.rsplit(" ", 1) for column in _EMPTY[view].split(", ")]
    selected = ", ".join(f"NULL::{kind} AS {column}" for column, kind in parts)
    connection.execute(f"CREATE OR REPLACE VIEW {view} AS SELECT {selected} WHERE false")
