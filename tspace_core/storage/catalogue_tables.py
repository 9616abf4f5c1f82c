"""The tables of the catalogue, and how rows get into them.

``source_file`` is the file of the lake that a row was read from. As long as that file stays as it is
(``sources`` keeps its stamp) the row is taken over from the catalogue before, and the file is not read again.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

Row = tuple[Any, ...]
Rows = dict[str, list[Row]]
"""Rows by the name of their table, in the order of its columns, without ``source_file``."""

FED: dict[str, str] = {
    "episodes": (
        "episode_id VARCHAR, vehicle VARCHAR, driver VARCHAR, site VARCHAR, timezone VARCHAR, "
        "log_key VARCHAR, segment INTEGER, time_source VARCHAR, action_source VARCHAR, reward_kind VARCHAR, "
        "energy_wh DOUBLE, distance_m DOUBLE, duration_s DOUBLE, end_reason VARCHAR, records BIGINT, "
        "reward_sum DOUBLE, start_ns BIGINT, end_ns BIGINT, default_map_sha256 VARCHAR, budget_nm DOUBLE, "
        "upper_factor DOUBLE, path VARCHAR, started TIMESTAMPTZ, local_day DATE, local_week VARCHAR, "
        "rate_hz DOUBLE, pedal_axis DOUBLE[], speed_axis_kmh DOUBLE[], invalid_records BIGINT, "
        "flashed_records BIGINT, clipped_records BIGINT"
    ),
    "losses": "vehicle VARCHAR, log_key VARCHAR, unit VARCHAR, reason VARCHAR, lost BIGINT",
    "flash_events": (
        "vehicle VARCHAR, log_key VARCHAR, kind VARCHAR, time_ns BIGINT, first_row INTEGER, result VARCHAR, "
        "reason VARCHAR, cells_changed INTEGER, largest_change_nm DOUBLE"
    ),
    "replay": "name VARCHAR, version VARCHAR, manifest JSON, path VARCHAR",
    "checkpoints": "agent VARCHAR, run VARCHAR, step VARCHAR, path VARCHAR",
    "quarantine": "kind VARCHAR, source VARCHAR, reason VARCHAR, noted TIMESTAMPTZ, path VARCHAR",
    "metrics": (
        "name VARCHAR, work VARCHAR, unit VARCHAR, noted TIMESTAMPTZ, partition VARCHAR, metric VARCHAR, "
        "value DOUBLE, text VARCHAR"
    ),
}
"""Tables whose rows come from files of the lake, with their columns."""

OTHERS: dict[str, str] = {
    "logs": (
        "key VARCHAR, vehicle VARCHAR, date DATE, log VARCHAR, bytes BIGINT, frames BOOLEAN, "
        "signals BOOLEAN, episodes BOOLEAN"
    ),
    "damaged": "path VARCHAR, what VARCHAR",
    "sources": "path VARCHAR, stamp VARCHAR",
    "about": (
        "version VARCHAR, lake VARCHAR, software_version VARCHAR, begun_ns BIGINT, refresh BIGINT, "
        "files_read BIGINT, seen VARCHAR"
    ),
}
"""Tables that are written anew each time."""


_ROWS_VERSION = 2
"""To be raised when the same files give other rows."""
CATALOGUE_VERSION = f"{_ROWS_VERSION}-{hashlib.sha256(json.dumps([FED, OTHERS]).encode()).hexdigest()[:12]}"
"""Of rows and columns; a catalogue of another version is made anew."""


def make_tables(connection: "duckdb.DuckDBPyConnection", database: str) -> None:
    """Make all tables, empty, in an attached database."""
    for name, columns in FED.items():
        connection.execute(f"CREATE TABLE {database}.{name} ({columns}, source_file VARCHAR)")
    for name, columns in OTHERS.items():
        connection.execute(f"CREATE TABLE {database}.{name} ({columns})")


def insert(connection: "duckdb.DuckDBPyConnection", table: str, rows: Sequence[Row]) -> None:
    """Append rows to a table ``database.name`` in the order of its columns, through Arrow."""
    if not rows:
        return
    connection.register("new_rows", _arrow(rows))
    try:
        connection.execute(f"INSERT INTO {table} SELECT * FROM new_rows")  # noqa: S608
    finally:
        connection.unregister("new_rows")


def insert_read(
    connection: "duckdb.DuckDBPyConnection", database: str, read: Iterable[tuple[str, Rows]]
) -> None:
    """Append what was read from files: pairs of a file and its rows."""
    collected: dict[str, list[Row]] = {name: [] for name in FED}
    for source, rows in read:
        for table, found in rows.items():
            collected[table].extend((*row, source) for row in found)
    for table, found in collected.items():
        insert(connection, f"{database}.{table}", found)


def take_over(connection: "duckdb.DuckDBPyConnection", old: str, new: str, sources: Sequence[str]) -> None:
    """Copy the rows that were read from ``sources`` from one attached database to another."""
    if not sources:
        return
    connection.register("kept", _arrow([(source,) for source in sources]))
    try:
        for table in FED:
            connection.execute(
                f"INSERT INTO {new}.{table} SELECT o.* FROM {old}.{table} o "  # noqa: S608
                "SEMI JOIN kept ON o.source_file = kept.c0"
            )
    finally:
        connection.unregister("kept")


def stamps_of(connection: "duckdb.DuckDBPyConnection", database: str) -> Mapping[str, str]:
    """The files that an attached catalogue was made from, with their stamps."""
    return dict(connection.execute(f"SELECT path, stamp FROM {database}.sources").fetchall())  # noqa: S608


def _arrow(rows: Sequence[Row]) -> "pa.Table":
    import pyarrow as pa

    columns = [pa.array(column) for column in zip(*rows, strict=True)]
    return pa.Table.from_arrays(columns, names=[f"c{number}" for number in range(len(columns))])
