"""Driving situations as vectors, in LanceDB: which recorded moments are like this one.

::

    embeddings/<vehicle>.json                     which table and version is visible, of which encoder
    embeddings/<vehicle>.<encoder>.lance/         the vectors, one row a record of an episode
    embeddings/encoders/<vehicle>/<encoder>/      the encoder (see tspace_core.embeddings)

LanceDB keeps versions. A writer adds new ones; the pointer ``<vehicle>.json`` is replaced last, through a
``Writer``, and readers look at the version that it names: a crash at any instant leaves the old state or the
new one. What a killed writer added is taken back by the next one. Old versions go after a day.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from tspace_core.errors import ObjectMissingError, SchemaVersionError, StorageError, WriterBusyError
from tspace_core.objects.path import AnyPath
from tspace_core.storage.embedding_rows import EmbeddedEpisode, Neighbour, SituationFilter, schema, to_arrow
from tspace_core.storage.files import read_version
from tspace_core.storage.lake import Lake
from tspace_core.storage.lance import SUFFIX, connect, is_foreign, our_errors, require_name, table_names
from tspace_core.storage.only_one import only_one
from tspace_core.storage.writer import DIRECT, Writer

if TYPE_CHECKING:
    import pyarrow as pa

LAYOUT = 1
KEPT = timedelta(days=1)
"""Older versions that nothing points at any more are removed by the next writer."""
INDEX_ROWS = 200_000
"""From here on an index is searched; below, every vector is compared in milliseconds."""
_NEVER = timedelta(days=36_500)
_NPROBES = 32
_FLUSH_ROWS = 50_000


class TableState(BaseModel):
    """What is visible of a vehicle's vectors: the pointer file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Literal[1] = 1
    table: str
    version: int
    encoder: str
    dim: int
    episodes: int
    rows: int
    left_out: dict[str, int] = {}
    """Episodes that have no vectors, by reason."""
    at: datetime


@dataclass(frozen=True)
class EncoderName:
    """Which encoder the vectors are of."""

    id: str
    dim: int


class EmbeddingTable:
    """The vectors of one vehicle's situations."""

    def __init__(self, lake: Lake, vehicle_id: str) -> None:
        self.lake = lake
        self.vehicle_id = require_name(vehicle_id)
        self.folder: AnyPath = lake.root / "embeddings"

    @property
    def pointer(self) -> AnyPath:
        """The file that says what is visible."""
        return self.folder / f"{self.vehicle_id}.json"

    def state(self) -> TableState | None:
        """What is visible; None: nothing was ever stored.

        Raises:
            StorageError: the pointer is damaged.
            SchemaVersionError: it is of another version of this software.
        """
        return self._look()[0]

    def sources(self) -> dict[str, str]:
        """The embedded episodes: id to the name of the embedded file, which changes with its content."""
        state = self.state()
        return {} if state is None else self._sources(self._open(state))

    def store(
        self,
        episodes: Iterable[EmbeddedEpisode],
        *,
        encoder: EncoderName,
        gone: Collection[str] = (),
        left_out: Mapping[str, int] | None = None,
        writer: Writer = DIRECT,
    ) -> TableState:
        """Add episodes, replacing those of the same id, and remove others; all becomes visible together.

        Within a unit of work only once a vehicle: what the unit holds back, a second call does not see.
        Vectors of another encoder than the table's begin a new table, which then holds only these episodes.

        Args:
            episodes: read one at a time.
            encoder: that made all the vectors.
            gone: ids of episodes that are to be removed.
            left_out: episodes that could not be embedded, by reason; noted in the pointer.
            writer: replaces the pointer.

        Raises:
            StorageError: a vector holds NaN or is of another length (nothing becomes visible), or the table
                is damaged.
            WriterBusyError: somebody else writes this vehicle's vectors.
            ObjectError: the bucket's server is down or refuses.
        """
        # On one machine writers exclude each other; across machines the pointer's condition does.
        with only_one(self.lake.local / "embeddings" / f".{self.vehicle_id}.lock", self._busy):
            state, seen = self._look()
            database = connect(self.folder)
            table, known = self._writable(database, state, encoder)
            with self._errors(table.name):
                count = self._write(table, episodes, known, encoder, gone)
                table.optimize(cleanup_older_than=_NEVER)  # small files become one
                _index(table)
                rows = table.count_rows()
                if rows != count:
                    message = (
                        f"{self._place(table.name)} holds {rows} rows, expected {count}: somebody else "
                        "wrote it at the same time; do it again"
                    )
                    raise WriterBusyError(message)
                version = int(table.version)
            made = TableState(
                table=table.name,
                version=version,
                encoder=encoder.id,
                dim=encoder.dim,
                episodes=len(known),
                rows=count,
                left_out=dict(left_out or {}),
                at=datetime.now(UTC),
            )
            text = made.model_dump_json(indent=1) + "\n"
            writer.text(self.pointer, text, if_absent=seen is None, seen=seen)
        return made

    def row(
        self, episode_id: str, k: int, *, source: str | None = None
    ) -> "tuple[NDArray[np.float32], Neighbour] | None":
        """Vector and figures of one record; None: it has none.

        Args:
            episode_id: of the episode.
            k: number of the record.
            source: name of the episode's file as it is now; a vector of an earlier cut does not count.
        """
        from lancedb.expr import col, lit

        state = self._required()
        table = self._open(state)
        wanted = (col("episode_id") == lit(episode_id)) & (col("k") == lit(k))
        if source is not None:
            wanted = wanted & (col("source") == lit(source))
        with self._errors(state.table):
            found = table.search().where(wanted).limit(1).to_arrow()
        if not len(found):
            return None
        vector = np.asarray(found.column("vector")[0].as_py(), np.float32)
        return vector, Neighbour.from_rows(found)[0]

    def vectors(self, episode_id: str) -> NDArray[np.float32]:
        """(n, dim) vectors of an episode in the order of its records; none: it is not embedded."""
        from lancedb.expr import col, lit

        state = self._required()
        with self._errors(state.table):
            query = self._open(state).search().where(col("episode_id") == lit(episode_id))
            found = query.select(["k", "vector"]).to_arrow().sort_by("k").combine_chunks()
            flat = found.column("vector").combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat, np.float32).reshape(-1, state.dim)

    def blocks(self, columns: Sequence[str], *, rows: int = _FLUSH_ROWS) -> "Iterator[pa.Table]":
        """All rows in blocks, in no order that means anything."""
        state = self._required()
        with self._errors(state.table):
            query = self._open(state).search().select(list(columns))
            import pyarrow as pa

            for batch in query.to_batches(rows):
                yield pa.Table.from_batches([batch])

    def search(
        self,
        vector: NDArray[np.float32],
        count: int = 10,
        *,
        where: SituationFilter | None = None,
        dim_of: EncoderName | None = None,
    ) -> list[Neighbour]:
        """The situations most like this one, nearest first; equal distances by episode and record.

        Args:
            vector: (dim,) of unit length.
            count: how many at most.
            where: what they must be; applied before the search, so that ``count`` are found if there are.
            dim_of: encoder that made ``vector``, where it is not from this table.

        Raises:
            StorageError: nothing is stored yet, the vector is of another encoder, or the table is damaged.
        """
        state = self._required()
        self._check_encoder(state, dim_of, len(vector))
        if not np.isfinite(vector).all():
            message = f"the vector to search {self.pointer} for holds NaN: encode a whole window"
            raise StorageError(message)
        table = self._open(state)
        with self._errors(state.table):
            query = table.search(np.asarray(vector, np.float32)).distance_type("cosine")
            # Where these parts of an index hold too few that fit, all are looked through.
            query = query.minimum_nprobes(_NPROBES).maximum_nprobes(0)
            wanted = where.expression() if where is not None else None
            if wanted is not None:
                query = query.where(wanted, prefilter=True)
            names = [field.name for field in schema(state.dim) if field.name != "vector"]
            found = query.limit(count).select([*names, "_distance"]).to_arrow()
        return sorted(Neighbour.from_rows(found), key=lambda item: (item.distance, item.episode_id, item.k))

    def _check_encoder(self, state: TableState, encoder: EncoderName | None, length: int) -> None:
        if length == state.dim and (encoder is None or encoder.id == state.encoder):
            return
        other = f"encoder {encoder.id}, length {length}" if encoder else f"length {length}"
        message = (
            f"the vectors of {self.vehicle_id} are of encoder {state.encoder}, length {state.dim}, the one "
            f"given is of {other}: {_AGAIN.format(self.vehicle_id)}"
        )
        raise StorageError(message)

    def _look(self) -> tuple[TableState | None, str | None]:
        try:
            content, seen = read_version(self.pointer)
        except (FileNotFoundError, ObjectMissingError):
            return None, None
        try:
            found = json.loads(content)
            if isinstance(found, dict) and found.get("layout", LAYOUT) != LAYOUT:
                message = (
                    f"{self.pointer} is of layout {found['layout']!r}, this software reads {LAYOUT}: delete "
                    f"it, then {_AGAIN.format(self.vehicle_id)}"
                )
                raise SchemaVersionError(message)
            return TableState.model_validate(found), seen
        except (ValueError, ValidationError) as error:
            reason = " ".join(str(error).split())[:200]
            message = (
                f"{self.pointer} is damaged ({reason}): delete it, then {_AGAIN.format(self.vehicle_id)}"
            )
            raise StorageError(message) from error

    def _required(self) -> TableState:
        state = self.state()
        if state is None:
            message = (
                f"no situations of {self.vehicle_id} are embedded: {self.pointer} does not exist; "
                f"{_AGAIN.format(self.vehicle_id)}"
            )
            raise StorageError(message)
        return state

    def _place(self, name: str) -> AnyPath:
        return self.folder / f"{name}{SUFFIX}"

    def _errors(self, name: str) -> Any:
        again = f"delete it and {self.pointer.name}, then {_AGAIN.format(self.vehicle_id)}"
        return our_errors(self._place(name), make_again=again)

    def _open(self, state: TableState) -> Any:
        """The visible version, for reading."""
        database = connect(self.folder)
        with self._errors(state.table):
            table = database.open_table(state.table)
            table.checkout(state.version)
            return table

    def _sources(self, table: Any) -> dict[str, str]:
        from lancedb.expr import col, lit

        with self._errors(table.name):
            query = table.search().where(col("k") == lit(0)).select(["episode_id", "source"])
            found = query.to_arrow().to_pydict()
        return dict(zip(found["episode_id"], found["source"], strict=True))

    def _writable(
        self, database: Any, state: TableState | None, encoder: EncoderName
    ) -> tuple[Any, dict[str, str]]:
        """The table to write, in the visible state, and what episodes it holds."""
        name = require_name(f"{self.vehicle_id}.{encoder.id}")
        self._drop_old(database, {name, state.table if state else name})
        with self._errors(name):
            if state is not None and state.encoder == encoder.id and state.dim == encoder.dim:
                table = database.open_table(state.table)
                latest = int(table.version)
                if latest != state.version:
                    # A writer was killed, or its unit of work was given up: what it added is taken back.
                    _hold(table, state.version)
                    table.checkout(state.version)
                    table.restore()
                else:
                    _remove_old(table, state.version)
                return table, self._sources(table)
            if is_foreign(self._place(name)):
                message = f"{self._place(name)} is no LanceDB table: move it out of the lake"
                raise StorageError(message)
            if name in table_names(database):
                database.drop_table(name)  # a killed writer's: nothing points at it
            return database.create_table(name, schema=schema(encoder.dim)), {}

    def _drop_old(self, database: Any, kept: set[str]) -> None:
        """Drop tables of encoders before, a day after they were written last: nobody reads them any more."""
        for name in table_names(database):
            if name in kept or name.rpartition(".")[0] != self.vehicle_id:
                continue
            with suppress(RuntimeError, ValueError, OSError):
                last = max(item["timestamp"] for item in database.open_table(name).list_versions())
                if datetime.now(last.tzinfo) - last > KEPT:
                    database.drop_table(name)

    def _write(
        self,
        table: Any,
        episodes: Iterable[EmbeddedEpisode],
        known: dict[str, str],
        encoder: EncoderName,
        gone: Collection[str],
    ) -> int:
        """Write rows in blocks; ``known`` becomes what the table holds then. Returns the rows expected."""
        rows = int(table.count_rows())
        rows -= _delete(table, [name for name in gone if known.pop(name, None) is not None])
        block: list[EmbeddedEpisode] = []
        names: set[str] = set()
        for item in episodes:
            if item.episode.meta.episode_id in names:
                message = f"episode {item.episode.meta.episode_id} was given twice: give each once"
                raise StorageError(message)
            names.add(item.episode.meta.episode_id)
            item.check(encoder.dim)
            block.append(item)
            if sum(len(part.vectors) for part in block) >= _FLUSH_ROWS:
                rows += _flush(table, block, known, encoder)
                block = []
        return rows + _flush(table, block, known, encoder)

    def _busy(self, holder: str) -> WriterBusyError:
        return WriterBusyError(
            f"process {holder} writes the vectors of {self.vehicle_id}: one writer at a time; try again later"
        )


_AGAIN = "materialize situation_embeddings for it, or `tspace embed --vehicle {0}`"


def _hold(table: Any, version: int) -> None:
    """Let a version stay whatever is removed."""
    with suppress(RuntimeError, ValueError):
        table.tags.create("visible", version)
    table.tags.update("visible", version)


def _remove_old(table: Any, visible: int) -> None:
    """Remove versions that nobody has pointed at for a day; ``visible`` is the latest one."""
    _hold(table, visible)
    try:
        table.optimize(cleanup_older_than=KEPT)
    except RuntimeError as error:
        # Files were merged, so that the visible version is not the latest any more: next time.
        if "tagged version" not in str(error):
            raise


def _flush(table: Any, block: list[EmbeddedEpisode], known: dict[str, str], encoder: EncoderName) -> int:
    if not block:
        return 0
    removed = _delete(
        table, [item.episode.meta.episode_id for item in block if item.episode.meta.episode_id in known]
    )
    rows = to_arrow(block, encoder.id, encoder.dim)
    table.add(rows)
    known.update({item.episode.meta.episode_id: item.source for item in block})
    return len(rows) - removed


def _delete(table: Any, episodes: Sequence[str]) -> int:
    from lancedb.expr import col

    before = int(table.count_rows())
    for first in range(0, len(episodes), 500):
        table.delete(col("episode_id").isin(list(episodes[first : first + 500])))
    return before - int(table.count_rows())


def _index(table: Any) -> None:
    """Have an index that covers most rows, where there are many."""
    from lancedb.index import IvfFlat

    rows = int(table.count_rows())
    if rows < INDEX_ROWS:
        return
    stats = table.index_stats("vector_idx")
    if stats is None or stats.num_unindexed_rows > rows // 5:
        partitions = max(2, int(np.sqrt(rows) / 2))
        table.create_index(
            "vector", config=IvfFlat(distance_type="cosine", num_partitions=partitions), replace=True
        )
