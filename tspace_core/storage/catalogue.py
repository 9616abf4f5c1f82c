"""The catalogue: a DuckDB file with views over the lake, for questions in SQL.

============ ====================================================================================
view         rows
============ ====================================================================================
logs         raw logs: key, vehicle, date, log, bytes, and whether frames and signals are stored
frames       CAN frames, with vehicle, date and log
signals      signals on the grid, with vehicle, date and log; columns that a vehicle lacks are null
episodes     visible episodes: vehicle, driver, site, log, records, energy, distance, reward, times
records      rows of the visible episodes, with their episode_id
replay       versions of replay buffers
checkpoints  steps of training runs
============ ====================================================================================

One process writes at a time: ``refresh``. Views hold absolute paths; after moving a lake, refresh. The file
is on this machine, also where the lake is a bucket: ``query`` can read its views then, DuckDB alone cannot.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tspace_core.errors import StorageError
from tspace_core.objects.path import AnyPath, local_copy
from tspace_core.objects.transfer import side_by_side
from tspace_core.storage.bucket_folder import MANIFEST
from tspace_core.storage.duckdb_files import let_read
from tspace_core.storage.folders import file_sizes
from tspace_core.storage.lake import Lake, RawLog, read_json

if TYPE_CHECKING:
    import duckdb
    import polars as pl

_WAIT_S = 10.0
_FRAMES_COLUMNS = (
    "time BIGINT, segment USMALLINT, bus UTINYINT, id UINTEGER, flags UTINYINT, length UTINYINT, "
    "payload UBIGINT, payload_long BLOB, vehicle VARCHAR, date DATE, log VARCHAR"
)
_SIGNALS_COLUMNS = (
    "time TIMESTAMPTZ, log_time_ns BIGINT, segment USMALLINT, velocity FLOAT, thrust FLOAT, brake FLOAT, "
    "current FLOAT, voltage FLOAT, energy_wh DOUBLE, energy_s DOUBLE, distance_m DOUBLE, "
    "vehicle VARCHAR, date DATE, log VARCHAR"
)
_RECORDS_COLUMNS = (
    "time TIMESTAMPTZ, state FLOAT[], action FLOAT[], first_row INTEGER, reward FLOAT, flags UTINYINT, "
    "episode_id VARCHAR"
)


class Catalogue:
    """Views over a lake in a DuckDB file.

    Args:
        path: the DuckDB file; made by the first ``refresh`` or ``query``.
        lake: what the views are over; may be empty or partly there.
    """

    def __init__(self, path: Path, lake: Lake) -> None:
        self.path = path
        self.lake = lake

    def refresh(self) -> None:
        """Make the views anew from what lies in the lake now.

        Raises:
            StorageError: if another process keeps the file open for longer than 10 s.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._connection(read_only=False) as connection:
            self._view(connection, "frames", _FRAMES_COLUMNS)
            self._view(connection, "signals", _SIGNALS_COLUMNS)
            for name, columns, rows in (
                ("logs", _LOGS, self._logs()),
                ("episodes", _EPISODES, self._episodes()),
                ("replay", _REPLAY, self._versions("replay", 2, _replay_row)),
                ("checkpoints", _CHECKPOINTS, self._versions("checkpoints", 3, _checkpoint_row)),
            ):
                _table(connection, name, columns, rows)
            self._records(connection)

    def query(self, sql: str) -> "pl.DataFrame":
        """Return the result of one SQL statement; reads only.

        Raises:
            StorageError: if the statement is wrong, with DuckDB's words, or the file is in use.
        """
        import duckdb
        import polars as pl

        if not self.path.is_file():
            self.refresh()
        with self._connection(read_only=True) as connection:
            try:
                relation = connection.sql(sql)
                return pl.DataFrame() if relation is None else pl.DataFrame(relation.pl())
            except (duckdb.Error, OSError) as error:
                message = f"the catalogue {self.path} cannot answer {sql!r}: {error}"
                raise StorageError(message) from error

    def _view(self, connection: "duckdb.DuckDBPyConnection", area: str, columns: str) -> None:
        files: list[AnyPath] = list((self.lake.root / area).glob("vehicle=*/date=*/*.parquet"))
        if not files:
            _empty_view(connection, area, columns)
            return
        pattern = _quoted(f"{self.lake.root}/{area}/vehicle=*/date=*/*.parquet")
        self._execute(
            connection,
            files,
            f"CREATE OR REPLACE VIEW {area} AS SELECT * EXCLUDE (filename), "  # noqa: S608
            "regexp_replace(parse_filename(filename), '\\.parquet$', '') AS log "
            f"FROM read_parquet({pattern}, hive_partitioning = true, union_by_name = true, filename = true, "
            "hive_types = {'date': DATE, 'vehicle': VARCHAR})",
        )

    def _execute(self, connection: "duckdb.DuckDBPyConnection", files: list[AnyPath], sql: str) -> None:
        import duckdb

        try:
            connection.execute(sql)
        except (duckdb.Error, OSError) as error:
            damaged = [str(path) for path in files if not _is_parquet(path)]
            what = f"damaged: {', '.join(damaged)}; delete" if damaged else f"{error}; correct"
            message = f"the catalogue cannot read the lake {self.lake.root}: {what} and run the stage again"
            raise StorageError(message) from error

    def _records(self, connection: "duckdb.DuckDBPyConnection") -> None:
        files = self.lake.episodes()
        if not files:
            _empty_view(connection, "records", _RECORDS_COLUMNS)
            return
        # The join keeps out files that no manifest names; states may differ in length between vehicles.
        pattern = _quoted(f"{self.lake.root}/episodes/vehicle=*/date=*/*.parquet")
        self._execute(
            connection,
            files,
            "CREATE OR REPLACE VIEW records AS SELECT r.* EXCLUDE (filename, state, action), "  # noqa: S608
            "state::FLOAT[] AS state, action::FLOAT[] AS action, e.episode_id FROM "
            f"read_parquet({pattern}, filename = true, hive_partitioning = false, union_by_name = true) r "
            "JOIN episodes e ON e.path = r.filename",
        )

    def _logs(self) -> list[tuple[Any, ...]]:
        sizes = file_sizes(self.lake.root / "raw", "*/*/*")
        stored = {
            path
            for area in ("frames", "signals", "episodes")
            for path in file_sizes(self.lake.root / area, "vehicle=*/date=*/*")
        }

        def row(log: RawLog) -> tuple[Any, ...]:
            made = (self.lake.frames(log), self.lake.signals(log), self.lake.episodes_manifest(log))
            known = (log.key, log.vehicle_id, log.date, log.name, sizes.get(log.path, 0))
            return *known, *(path in stored for path in made)

        return [row(log) for log in self.lake.raw_logs()]

    def _episodes(self) -> list[tuple[Any, ...]]:
        rows = []
        manifests = self.lake.episode_manifests()
        for manifest, content in zip(manifests, side_by_side(read_json, manifests), strict=True):
            for entry in content["episodes"]:
                meta = entry["meta"]
                rows.append(
                    (
                        *(
                            meta[name]
                            for name in ("episode_id", "vehicle_id", "driver_id", "site_id", "timezone")
                        ),
                        *(meta[name] for name in ("log_key", "segment", "time_source", "action_source")),
                        *(meta[name] for name in ("reward_kind", "energy_wh", "distance_m", "duration_s")),
                        meta["end_reason"],
                        entry["records"],
                        entry["reward_sum"],
                        entry["start_ns"],
                        entry["end_ns"],
                        # Episodes from before these were kept lack them until their stage runs again.
                        meta.get("default_map_sha256"),
                        meta["budget_nm"],
                        meta.get("upper_factor"),
                        str(manifest.parent / entry["file"]),
                    )
                )
        return rows

    def _versions(self, area: str, depth: int, row: Any) -> list[tuple[Any, ...]]:
        manifests = (self.lake.root / area).glob("/".join((*"*" * depth, MANIFEST)))
        folders = sorted(manifest.parent for manifest in manifests)
        return [row(folder) for folder in folders if not folder.name.startswith(".")]

    @contextmanager
    def _connection(self, *, read_only: bool) -> Iterator["duckdb.DuckDBPyConnection"]:
        import duckdb

        deadline = time.monotonic() + _WAIT_S
        while True:
            try:
                connection = duckdb.connect(str(self.path), read_only=read_only)
                break
            except duckdb.IOException as error:
                if "lock" not in str(error).lower() or time.monotonic() > deadline:
                    message = f"the catalogue {self.path} cannot be opened: {error}"
                    raise StorageError(message) from error
                time.sleep(0.05)
        try:
            connection.execute("SET TimeZone = 'UTC'")
            let_read(connection, self.lake.root)
            yield connection
        finally:
            connection.close()


_LOGS = (
    "key VARCHAR, vehicle VARCHAR, date DATE, log VARCHAR, bytes BIGINT, frames BOOLEAN, signals BOOLEAN, "
    "episodes BOOLEAN"
)
_EPISODES = (
    "episode_id VARCHAR, vehicle VARCHAR, driver VARCHAR, site VARCHAR, timezone VARCHAR, log_key VARCHAR, "
    "segment INTEGER, time_source VARCHAR, action_source VARCHAR, reward_kind VARCHAR, energy_wh DOUBLE, "
    "distance_m DOUBLE, duration_s DOUBLE, end_reason VARCHAR, records BIGINT, reward_sum DOUBLE, "
    "start_ns BIGINT, end_ns BIGINT, default_map_sha256 VARCHAR, budget_nm DOUBLE, upper_factor DOUBLE, "
    "path VARCHAR"
)
_REPLAY = "name VARCHAR, version VARCHAR, manifest JSON, path VARCHAR"
_CHECKPOINTS = "agent VARCHAR, run VARCHAR, step VARCHAR, path VARCHAR"


def _replay_row(folder: AnyPath) -> tuple[Any, ...]:
    text = (folder / MANIFEST).read_text(encoding="utf-8")
    return folder.parent.name, folder.name, text, str(folder)


def _checkpoint_row(folder: AnyPath) -> tuple[Any, ...]:
    return folder.parent.parent.name, folder.parent.name, folder.name, str(folder)


def _table(
    connection: "duckdb.DuckDBPyConnection", name: str, columns: str, rows: list[tuple[Any, ...]]
) -> None:
    connection.execute(f"CREATE OR REPLACE TABLE {name} ({columns})")
    if rows:
        marks = ", ".join("?" * len(rows[0]))
        connection.executemany(f"INSERT INTO {name} VALUES ({marks})", rows)  # noqa: S608


def _empty_view(connection: "duckdb.DuckDBPyConnection", name: str, columns: str) -> None:
    parts = [column.rsplit(" ", 1) for column in columns.split(", ")]
    selected = ", ".join(f"NULL::{kind} AS {column}" for column, kind in parts)
    connection.execute(f"CREATE OR REPLACE VIEW {name} AS SELECT {selected} WHERE false")


def _is_parquet(path: AnyPath) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        pq.read_metadata(local_copy(path))
    except (OSError, StorageError, pa.ArrowException):
        return False
    return True


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
