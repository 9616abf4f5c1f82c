"""The catalogue: a DuckDB file with tables and views over the lake, for questions in SQL.

============== ====================================================================================
name           rows
============== ====================================================================================
logs           raw logs: key, vehicle, date, log, bytes, and whether frames and signals are stored
frames         CAN frames, with vehicle, date and log
signals        signals on the grid, with vehicle, date and log; columns that a vehicle lacks are null
episodes       visible episodes: vehicle, driver, site, log, records, energy, distance, reward, times,
               local day and ISO week, how many records are invalid, flashed, clipped
records        rows of the visible episodes, with their episode_id; the files of others are not opened with
               `WHERE vehicle = ... AND date = ...` (the log's folder) or `WHERE file = ...`
losses         what did not become a record, by log and reason
flashes        a flash a row: time, log, episode, rows, what it changed, outcome
replay         versions of replay buffers
checkpoints    steps of training runs
quarantine     what failed a check, with the reason
metrics        what units of work in batches reported
policy_actions what scored checkpoints would have done
damaged        files that could not be read, with what is wrong and what to do
============== ====================================================================================

One process writes at a time. It makes the next file beside the current one and renames it, so a reader has
the catalogue of one refresh from its first row to its last, is never held up, and never holds up the writer;
so have other programs that read the file. Tables hold rows, views hold absolute paths: after moving a lake,
refresh. The file is derived: one that is damaged, foreign or of another version is made anew. It is on this
machine, also where the lake is a bucket: ``query`` can read its views then, DuckDB alone cannot.
"""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tspace_core.errors import StorageError
from tspace_core.storage.catalogue_build import NothingNewError, Refreshed, build
from tspace_core.storage.catalogue_lock import only_writer
from tspace_core.storage.catalogue_queries import named_query, reads_only
from tspace_core.storage.catalogue_tables import CATALOGUE_VERSION
from tspace_core.storage.catalogue_views import quoted
from tspace_core.storage.duckdb_files import let_read
from tspace_core.storage.files import atomic_write
from tspace_core.storage.lake import Lake

if TYPE_CHECKING:
    import duckdb
    import polars as pl

WAIT_S = 120.0
"""How long a refresh waits for another one that is under way, s."""

_COMMENT = re.compile(r"\A(?:\s*--[^\n]*\n)+")
_SHOWN = 300
"""Characters of a statement that a message repeats."""


class Catalogue:
    """Tables and views over a lake in a DuckDB file.

    Args:
        path: the DuckDB file; made by the first ``refresh`` or ``query``.
        lake: what it is over; may be empty or partly there.
    """

    def __init__(self, path: Path, lake: Lake) -> None:
        self.path = path
        self.lake = lake

    def refresh(self, *, wait_s: float = WAIT_S) -> Refreshed:
        """Make the catalogue of what lies in the lake now; files that have not changed are not read again.

        Where nothing has changed at all, the catalogue stays as it is, and so does its number. Where another
        process is at it, this waits. Where that one began after this was called, its result serves this one,
        too.

        Args:
            wait_s: how long to wait for another writer.

        Raises:
            WriterBusyError: another process writes it for longer than that.
            ObjectError: a lake in a bucket cannot be read.
            StorageError: the file cannot be written (the folder is read-only, the disk is full): the
                catalogue before stays.
        """
        asked_ns = time.time_ns()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with only_writer(self._beside(".lock"), f"the catalogue {self.path}", wait_s=wait_s):
                return self._since(asked_ns) or self._write()
        except OSError as error:
            raise self._unwritable(error) from error

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> "pl.DataFrame":
        """Return the result of one SQL statement; reads only.

        Args:
            sql: the statement; ``$name`` stands for a parameter.
            parameters: their values.

        Raises:
            StorageError: if the statement is wrong, with DuckDB's words, is more than one or would write, a
                file cannot be read, or polars has no type for a column of the answer.
        """
        import duckdb
        import polars as pl

        with self.reading() as connection:
            try:
                if not reads_only(connection, sql):
                    message = (
                        "the catalogue is read-only; ask one question, as SELECT, FROM, SHOW, DESCRIBE, "
                        "SUMMARIZE or EXPLAIN"
                    )
                    raise ValueError(message)  # noqa: TRY301
                relation = connection.sql(sql, params=dict(parameters or {}) or None)
                return pl.DataFrame() if relation is None else pl.DataFrame(relation.pl())
            except (duckdb.Error, OSError, ValueError) as error:
                message = f"the catalogue {self.path} cannot answer {_told(sql, parameters)}: {error}"
                raise StorageError(message) from error
            except pl.exceptions.PolarsError as error:
                message = (
                    f"the answer to {_told(sql, parameters)} has a column of a type that polars lacks "
                    f"({error}): cast it in the statement, as with column::VARCHAR"
                )
                raise StorageError(message) from error

    def named(self, name: str, parameters: Mapping[str, str | None] | None = None) -> "pl.DataFrame":
        """Return the answer to a query that comes with tspace, see ``catalogue_queries``.

        Raises:
            UnknownNameError: there is none of that name.
            StorageError: it has no such parameter, a value has another type, or a file cannot be read.
        """
        query = named_query(name)
        return self.query(query.sql, query.values(parameters or {}))

    @contextmanager
    def reading(self) -> Iterator["duckdb.DuckDBPyConnection"]:
        """A connection that reads the catalogue as it is now, however often it is refreshed meanwhile.

        Raises:
            StorageError: there is none, and none can be made.
        """
        import duckdb

        # An own database with the file attached: a process that still reads the one before would get that
        # again from ``duckdb.connect(path)``.
        with duckdb.connect() as connection:
            prepare(connection, self.lake)
            try:
                self._attach(connection)
            except (duckdb.Error, _OtherVersionError):
                # There is none yet, it is not ours, or somebody has opened it for writing.
                self.refresh()
                try:
                    self._attach(connection)
                except (duckdb.Error, _OtherVersionError) as error:
                    message = f"the catalogue {self.path} cannot be opened: {error}"
                    raise StorageError(message) from error
            yield connection

    def _attach(self, connection: "duckdb.DuckDBPyConnection") -> None:
        if not self.path.is_file():
            message = "it does not exist"
            raise _OtherVersionError(message)
        connection.execute("USE memory")
        connection.execute("DETACH DATABASE IF EXISTS catalogue")
        connection.execute(f"ATTACH {quoted(str(self.path))} AS catalogue (READ_ONLY)")
        connection.execute("USE catalogue")
        found = connection.execute("SELECT version FROM about").fetchall()
        if found != [(CATALOGUE_VERSION,)]:
            message = f"its version is {found}, expected {CATALOGUE_VERSION}"
            raise _OtherVersionError(message)

    def _since(self, asked_ns: int) -> Refreshed | None:
        """What another process made that began after this instant."""
        import duckdb

        with suppress(duckdb.Error, _OtherVersionError), duckdb.connect() as connection:
            self._attach(connection)
            ((begun, lake, number, read, files),) = connection.execute(
                "SELECT begun_ns, lake, refresh, files_read, (SELECT count(*) FROM sources) FROM about"
            ).fetchall()
            if lake == str(self.lake.root) and asked_ns <= begun <= time.time_ns():
                damaged = connection.execute("FROM damaged ORDER BY ALL").fetchall()
                return Refreshed(number, files, read, tuple(damaged))
        return None

    def _write(self) -> Refreshed:
        import duckdb

        for leftover in self.path.parent.glob(f".{self.path.name}.*.tmp*"):
            leftover.unlink(missing_ok=True)  # of a writer that was killed: the lock is ours
        begun_ns = time.time_ns()
        try:
            with atomic_write(self.path) as temporary:
                try:
                    old = self.path if self.path.is_file() else None
                    done = build(self.lake, temporary, old, begun_ns, keep=self._untouched())
                finally:
                    temporary.with_name(f"{temporary.name}.wal").unlink(missing_ok=True)
                # Whoever opened it for writing would lock readers out.
                temporary.chmod(0o444)
                # A log of a file that is no longer there would be taken for the new one's.
                self._log().unlink(missing_ok=True)
        except NothingNewError as found:
            return found.refreshed
        except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
            raise self._unwritable(error) from error
        except duckdb.Error as error:
            message = f"the catalogue of {self.lake.root} cannot be made: {error}; please report it"
            raise StorageError(message) from error
        return done

    def _untouched(self) -> bool:
        """Whether the file is as a refresh left it; somebody may have opened it for writing."""
        return self.path.is_file() and not self.path.stat().st_mode & 0o222 and not self._log().exists()

    def _log(self) -> Path:
        """Where DuckDB keeps what a writer has not written into the file yet."""
        return self.path.with_name(f"{self.path.name}.wal")

    def _unwritable(self, error: Exception) -> StorageError:
        message = (
            f"the catalogue {self.path} cannot be made ({error}); the one before is as it was: make room or "
            "correct the rights of its folder"
        )
        return StorageError(message)

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(f".{self.path.name}{suffix}")


def prepare(connection: "duckdb.DuckDBPyConnection", lake: Lake) -> None:
    """Let a connection that somebody else made to the catalogue's file read its views: UTC, and the lake.

    For Dagster's resource and notebooks; ``Catalogue.reading`` needs no more.
    """
    connection.execute("SET TimeZone = 'UTC'")
    let_read(connection, lake.root)


def _told(sql: str, parameters: Mapping[str, Any] | None) -> str:
    """A statement without the comment it begins with, and what was given for its parameters."""
    text = _COMMENT.sub("", sql)
    text = repr(text if len(text) < _SHOWN else f"{text[:_SHOWN]}...")
    given = {name: value for name, value in (parameters or {}).items() if value is not None}
    return f"{text} with {given}" if given else text


class _OtherVersionError(Exception):
    """A catalogue that is to be made anew."""
