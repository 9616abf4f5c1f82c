"""Rows of the table of driving situations: one a record, and what is asked of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tspace_core.errors import StorageError
from tspace_core.records.episode import Episode

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class EmbeddedEpisode:
    """An episode and the vectors of its records.

    Attributes:
        source: name of the episode's file, which changes with its content.
        episode: of n records.
        vectors: (n, dim) float32 of unit length; row k is of state k.
    """

    source: str
    episode: Episode
    vectors: NDArray[np.float32]

    def check(self, dim: int) -> None:
        """Refuse what must not be stored.

        Raises:
            StorageError: names episode, record and what is wrong.
        """
        name = self.episode.meta.episode_id
        if self.vectors.shape != (len(self.episode), dim):
            message = (
                f"episode {name}: vectors are {self.vectors.shape}, expected ({len(self.episode)}, {dim}): "
                "one a record, as long as the encoder says"
            )
            raise StorageError(message)
        bad = np.flatnonzero(~np.isfinite(self.vectors).all(axis=1))
        if len(bad):
            message = (
                f"episode {name}, record {int(bad[0])}: its vector holds a value that is not finite "
                f"({len(bad)} such records); train the encoder again"
            )
            raise StorageError(message)


@dataclass(frozen=True)
class SituationFilter:
    """What situations must be; an empty field does not narrow.

    Attributes:
        drivers, sites: ids.
        agents: what acted, ``EpisodeMeta.action_source``.
        after, before: time of the record, half open, with a zone.
        other_than: an episode that is left out.
        not_record: (episode, k) of one record that is left out.
    """

    drivers: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    after: datetime | None = None
    before: datetime | None = None
    other_than: str | None = None
    not_record: tuple[str, int] | None = None

    def expression(self) -> Any:
        """As LanceDB takes it, built of values and never of text; None: everything.

        Raises:
            StorageError: a time has no zone.
        """
        from lancedb.expr import col, lit

        parts = [
            col(name).isin(list(wanted))
            for name, wanted in (("driver", self.drivers), ("site", self.sites), ("agent", self.agents))
            if wanted
        ]
        if self.after is not None:
            parts.append(col("time") >= lit(_zoned(self.after)))
        if self.before is not None:
            parts.append(col("time") < lit(_zoned(self.before)))
        if self.other_than is not None:
            parts.append(col("episode_id") != lit(self.other_than))
        if self.not_record is not None:
            episode, k = self.not_record
            parts.append(~((col("episode_id") == lit(episode)) & (col("k") == lit(k))))
        return reduce(and_, parts) if parts else None


@dataclass(frozen=True)
class Neighbour:
    """A situation that was found.

    Attributes:
        episode_id, k: which record.
        distance: cosine distance, 0 = the same direction, 2 = the opposite; NaN where none was asked for.
        time: of the window's first sample, UTC.
        at_s: the same, in s since the episode's beginning.
        timezone: of the site.
        speed_kmh, pedal_percent: means of the window; NaN where the vehicle has no such signal.
    """

    episode_id: str
    k: int
    distance: float
    time: datetime
    at_s: float
    timezone: str
    driver: str
    site: str
    agent: str
    speed_kmh: float
    pedal_percent: float

    @classmethod
    def from_rows(cls, rows: "pa.Table") -> "list[Neighbour]":
        """From an answer of the table."""
        import pyarrow as pa

        if "_distance" not in rows.column_names:
            rows = rows.append_column("_distance", pa.array([float("nan")] * len(rows), pa.float32()))
        instants = rows.column("time").cast(pa.int64()).to_pylist()
        return [
            cls(
                episode_id=row["episode_id"],
                k=row["k"],
                distance=max(row["_distance"], 0.0),
                time=datetime.fromtimestamp(instant // 1000 / 1e6, UTC),
                at_s=row["at_s"],
                timezone=row["timezone"],
                driver=row["driver"],
                site=row["site"],
                agent=row["agent"],
                speed_kmh=row["speed_kmh"],
                pedal_percent=row["pedal_percent"],
            )
            for row, instant in zip(rows.drop_columns(["time"]).to_pylist(), instants, strict=True)
        ]


_TEXTS = ("episode_id", "source", "vehicle", "driver", "site", "agent", "timezone", "encoder")
_NUMBERS = ("at_s", "speed_kmh", "pedal_percent")


def schema(dim: int) -> "pa.Schema":
    """Columns for vectors of a length."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("vector", pa.list_(pa.float32(), dim), nullable=False),
            pa.field("k", pa.int32(), nullable=False),
            pa.field("time", pa.timestamp("ns", tz="UTC"), nullable=False),
            *(pa.field(name, pa.string(), nullable=False) for name in _TEXTS),
            *(pa.field(name, pa.float32(), nullable=False) for name in _NUMBERS),
        ]
    )


def to_arrow(episodes: Sequence[EmbeddedEpisode], encoder: str, dim: int) -> "pa.Table":
    """Rows of checked episodes."""
    import pyarrow as pa

    return pa.concat_tables([_rows(item, encoder, dim) for item in episodes])


def _rows(item: EmbeddedEpisode, encoder: str, dim: int) -> "pa.Table":
    import pyarrow as pa

    episode, meta, count = item.episode, item.episode.meta, len(item.episode)
    times = episode.times[:count]
    numbers = {
        "at_s": (times - times[0]) / 1e9,
        "speed_kmh": window_mean(episode, "velocity"),
        "pedal_percent": window_mean(episode, "thrust"),
    }
    texts = {
        "episode_id": meta.episode_id,
        "source": item.source,
        "vehicle": meta.vehicle_id,
        "driver": meta.driver_id,
        "site": meta.site_id,
        "agent": meta.action_source,
        "timezone": meta.timezone,
        "encoder": encoder,
    }
    flat = pa.array(np.ascontiguousarray(item.vectors, np.float32).ravel())
    columns = [
        pa.FixedSizeListArray.from_arrays(flat, dim),
        pa.array(np.arange(count, dtype=np.int32)),
        pa.array(times, pa.timestamp("ns", tz="UTC")),
        *(pa.array([texts[name]] * count, pa.string()) for name in _TEXTS),
        *(pa.array(numbers[name].astype(np.float32)) for name in _NUMBERS),
    ]
    return pa.Table.from_arrays(columns, schema=schema(dim))


def window_mean(episode: Episode, signal: str) -> NDArray[np.float64]:
    """(n,) mean of a signal in each record's window; NaN where the episode has no such signal."""
    meta, count = episode.meta, len(episode)
    if signal not in meta.signals:
        return np.full(count, np.nan)
    windows = episode.states[:count].reshape(count, meta.window, len(meta.signals))
    return np.asarray(windows[:, :, meta.signals.index(signal)].mean(axis=1, dtype=np.float64))


def _zoned(instant: datetime) -> datetime:
    if instant.tzinfo is None:
        message = f"time {instant.isoformat()} has no zone: give one, for example 2026-01-05T08:00:00+00:00"
        raise StorageError(message)
    return instant.astimezone(UTC)
