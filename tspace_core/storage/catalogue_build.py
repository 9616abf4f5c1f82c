"""How the next catalogue is made: from the one before, and from what has changed in the lake since."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tspace_core import __version__
from tspace_core.errors import ObjectAccessError, ObjectMissingError, ObjectServerError, StorageError
from tspace_core.objects.path import S3Path, any_path, local_copy
from tspace_core.objects.transfer import side_by_side
from tspace_core.records.episode import RecordFlag
from tspace_core.storage.catalogue_feeds import Seen, Source
from tspace_core.storage.catalogue_tables import (
    CATALOGUE_VERSION,
    FED,
    Rows,
    insert,
    insert_read,
    make_tables,
    stamps_of,
    take_over,
)
from tspace_core.storage.catalogue_views import (
    folder_of,
    is_parquet,
    make_view,
    make_views_over_tables,
    quoted,
    views_over_files,
)
from tspace_core.storage.duckdb_files import let_read
from tspace_core.storage.lake import Lake
from tspace_core.storage.unit_of_work import read_together

if TYPE_CHECKING:
    import duckdb

_AGAIN = "delete it and run the stage again"
_COUNTED = (RecordFlag.ZEROED, RecordFlag.FLASHED, RecordFlag.CLIPPED)
_AT_ONCE = 2000
"""Files whose flags are read by one statement."""


@dataclass(frozen=True)
class Refreshed:
    """What a refresh did.

    Attributes:
        number: counted over the refreshes of this file that found something new.
        files: that rows are read from.
        files_read: of these, new or changed ones.
        damaged: files that cost their own rows, with what is wrong and what to do.
    """

    number: int
    files: int
    files_read: int
    damaged: tuple[tuple[str, str], ...]


class NothingNewError(Exception):
    """The catalogue before is as the new one would be."""

    def __init__(self, refreshed: Refreshed) -> None:
        super().__init__()
        self.refreshed = refreshed


def build(lake: Lake, target: Path, old: Path | None, begun_ns: int, *, keep: bool = False) -> Refreshed:
    """Make a catalogue at ``target``, which does not exist.

    Args:
        lake: what it is of.
        target: the new file.
        old: the catalogue before, if there is one; whatever it is, it is only read.
        begun_ns: when the refresh began, ns UTC.
        keep: make nothing where the one before is as the new one would be.

    Raises:
        NothingNewError: it would be as the one before; nothing was made.
        ObjectError: a bucket cannot be read.
        OSError: a folder cannot be read, or the file not be written.
        duckdb.Error: the file cannot be written.
        StorageError: the lake's files cannot be read as tables.
    """
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        let_read(connection, lake.root)
        before = _attach_old(connection, lake, old)
        found = read_together(lake, lambda: _look(lake, before))
        seen, harm = found.seen, found.harm
        # All files are as they were, and what else their rows depend on: so is what is damaged among them.
        if keep and found.mark == before.mark and len(found.kept) == len(found.sources):
            raise NothingNewError(Refreshed(before.number, len(found.sources), 0, before.damaged))
        connection.execute(f"ATTACH {quoted(str(target))} AS new")
        connection.execute("USE new")
        make_tables(connection, "new")
        take_over(connection, "old", "new", sorted(found.kept))
        insert_read(connection, "new", _with_flags(connection, found.read, harm))
        logs, foreign = seen.logs()
        insert(connection, "new.logs", logs)
        harm.files.update(foreign)
        _find_torn_strays(connection, seen, harm)
        for view in views_over_files():
            files = seen.parquet(folder_of(view))
            for path in make_view(connection, lake.root, view, files, sorted(harm.files.keys() & {*files})):
                harm.files[path] = f"torn, it is no whole Parquet file: {_AGAIN}"
        make_views_over_tables(connection)
        damaged = sorted(harm.files.items())
        insert(connection, "new.damaged", damaged)
        stamps = [(source.path, source.stamp) for source in found.sources if source.path not in harm.sources]
        insert(connection, "new.sources", stamps)
        number, changed = before.number + 1, len(found.sources) - len(found.kept)
        about = (CATALOGUE_VERSION, str(lake.root), __version__, begun_ns, number, changed, found.mark)
        insert(connection, "new.about", [about])
        connection.execute("USE memory")
        connection.execute("DETACH new")  # what is still in the log gets into the file
    return Refreshed(number, len(found.sources), changed, tuple(damaged))


@dataclass
class _Harm:
    """What is damaged: files with what is wrong, and the sources to be read again the next time."""

    files: dict[str, str] = field(default_factory=dict)
    sources: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _Before:
    """What the catalogue before was made from: its number, stamps by source, episode files with sources."""

    number: int = 0
    mark: str = ""
    """Of all files; "" where another version of tspace made it."""
    stamps: Mapping[str, str] = field(default_factory=dict)
    episodes: Sequence[tuple[str, str]] = ()
    damaged: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class _Found:
    """One look at the lake: all sources, those whose rows are kept, and what the others hold."""

    seen: Seen
    mark: str
    sources: list[Source]
    kept: set[str]
    read: list[tuple[str, Rows]]
    harm: _Harm


def _look(lake: Lake, before: _Before) -> _Found:
    seen, harm = Seen(lake), _Harm()
    mark = seen.mark()  # before anything is read: what changes meanwhile differs from it the next time
    sources = seen.sources()
    gone = {source for path, source in before.episodes if path not in seen.areas["episodes"]}
    kept = {source.path for source in sources if before.stamps.get(source.path) == source.stamp} - gone
    changed = [source for source in sources if source.path not in kept]
    return _Found(seen, mark, sources, kept, _read_all(lake, changed, harm), harm)


def _attach_old(connection: "duckdb.DuckDBPyConnection", lake: Lake, old: Path | None) -> _Before:
    """Attach the catalogue before as ``old`` and say what it was made from."""
    import duckdb

    if old is None:
        return _Before()
    try:
        connection.execute(f"ATTACH {quoted(str(old))} AS old (READ_ONLY)")
        sql = "SELECT version, lake, refresh, software_version, seen FROM old.about"
        about = connection.execute(sql).fetchall()
        if [row[:2] for row in about] != [(CATALOGUE_VERSION, str(lake.root))]:
            return _Before()
        ((_, _, number, software, seen),) = about
        paths = connection.execute("SELECT path, source_file FROM old.episodes").fetchall()
        damaged = connection.execute("FROM old.damaged ORDER BY ALL").fetchall()
        mark = str(seen) if software == __version__ else ""
        return _Before(int(number), mark, stamps_of(connection, "old"), paths, tuple(damaged))
    except duckdb.Error:
        return _Before()  # not one of ours, or damaged: it is derived, so it is made anew from all files


def _read_all(lake: Lake, sources: Sequence[Source], harm: _Harm) -> list[tuple[str, Rows]]:
    def read(source: Source) -> Rows | str | None:
        try:
            return source.read()
        except (ObjectAccessError, ObjectServerError):
            raise
        except (OSError, StorageError) as error:
            # What was removed since it was listed is no damage.
            return str(error) if any_path(source.path).is_file() else None

    # A bucket answers slowly, several requests at a time; a disk is fast, and Python reads one at a time.
    found = side_by_side(read, sources) if isinstance(lake.root, S3Path) else map(read, sources)
    rows = []
    for source, content in zip(sources, found, strict=True):
        if isinstance(content, dict):
            rows.append((source.path, content))
            continue
        harm.sources.add(source.path)
        if content is not None:
            harm.files[source.path] = content
    return rows


def _with_flags(
    connection: "duckdb.DuckDBPyConnection", read: list[tuple[str, Rows]], harm: _Harm
) -> Iterator[tuple[str, Rows]]:
    """Add to rows of episodes what their records' flags say; a torn episode is left out."""
    position = [column.split()[0] for column in FED["episodes"].split(", ")].index("path")
    paths = [row[position] for _, rows in read for row in rows.get("episodes", ())]
    counts = {
        path: count
        for start in range(0, len(paths), _AT_ONCE)
        for path, count in _flag_counts(connection, paths[start : start + _AT_ONCE], harm).items()
    }
    for source, rows in read:
        if "episodes" in rows:
            whole = [row for row in rows["episodes"] if row[position] in counts]
            if len(whole) < len(rows["episodes"]):
                harm.sources.add(source)
            rows["episodes"] = [(*row, *counts[row[position]]) for row in whole]
        yield source, rows


def _flag_counts(
    connection: "duckdb.DuckDBPyConnection", paths: list[str], harm: _Harm
) -> dict[str, tuple[int, int, int]]:
    """Records that are zeroed, flashed and clipped, by file."""
    import duckdb

    counted = ", ".join(f"count(*) FILTER (flags & {int(bit)} <> 0)" for bit in _COUNTED)
    sql = f"SELECT filename, {counted} FROM read_parquet(?, filename = true) GROUP BY filename"  # noqa: S608
    try:
        found = connection.execute(sql, [paths]).fetchall()
    except (duckdb.Error, OSError):
        found = [row for path in paths for row in _flag_counts_of(path, harm)]
    return {path: (zeroed, flashed, clipped) for path, zeroed, flashed, clipped in found}


def _flag_counts_of(path: str, harm: _Harm) -> Iterator[tuple[str, int, int, int]]:
    """The same of one file, which may be torn."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        local = local_copy(any_path(path))
    except ObjectMissingError:
        return
    try:
        flags = pq.read_table(local, columns=["flags"], partitioning=None).column("flags").drop_null()
        values = flags.to_numpy().astype(np.uint8)
    except FileNotFoundError:
        return  # its stage has just replaced it: its manifest is read again the next time
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        harm.files[path] = f"torn, it is no episode ({error}): {_AGAIN}"
        return
    zeroed, flashed, clipped = (int(np.count_nonzero(values & int(bit))) for bit in _COUNTED)
    yield path, zeroed, flashed, clipped


def _find_torn_strays(connection: "duckdb.DuckDBPyConnection", seen: Seen, harm: _Harm) -> None:
    """A file that no manifest names is no episode, but the view looks into it."""
    visible = {path for (path,) in connection.execute("SELECT path FROM new.episodes").fetchall()}
    for path in seen.parquet("episodes"):
        if path not in visible and path not in harm.files and not is_parquet(any_path(path)):
            harm.files[path] = "it is no whole Parquet file and no manifest names it: move it away"
