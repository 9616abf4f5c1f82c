"""Stage frames -> signals: decoded, checked, on the vehicle's grid, with energy and distance."""

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tspace_core.can.dbc import load_database
from tspace_core.can.readers import detect_format
from tspace_core.can.report import ReadReport
from tspace_core.can.samples import Samples
from tspace_core.can.segments import SegmentCounter
from tspace_core.can.signals import SignalExtractor
from tspace_core.can.tables import READERS, SampleTable, check_format
from tspace_core.config import Vehicle
from tspace_core.errors import SchemaError, StorageError
from tspace_core.objects.path import AnyPath, local_copy
from tspace_core.records.grid import GridBuilder, GridRows, Statistics
from tspace_core.storage import frames_table, signals_table
from tspace_core.storage.files import atomic_write, sha256
from tspace_core.storage.fingerprint import fingerprint, vehicle_config
from tspace_core.storage.frames_stage import store_frames
from tspace_core.storage.lake import Lake, RawLog
from tspace_core.storage.raw_store import YEAR_2000_NS
from tspace_core.storage.summaries import (
    FramesSummary,
    SignalsSummary,
    SignalStatistics,
    from_metadata,
    to_metadata,
)

CLOCK_BREAKS = ("clock_step_back", "gap")
Cut = tuple[Mapping[str, Samples], int, int]
"""Samples by signal, their segment, and the newest stamp seen."""


def store_signals(lake: Lake, raw: RawLog, vehicle: Vehicle) -> SignalsSummary:
    """Decode a log's frames, or read its samples, onto the vehicle's grid; bounded in memory.

    The frames are read from their Parquet file: a corrected DBC or config needs no second parse of the log.
    Nothing is done if the result is there already and its inputs are as they were.

    Raises:
        StorageError: if the log's frames are not stored yet.
        DatabaseError: if the vehicle's DBC files lack a message or signal.
        SchemaError: if the result does not hold its schema; what was wrong is in the quarantine.
    """
    stored = vehicle.from_trip_table or lake.frames(raw).is_file()
    if not stored and detect_format(local_copy(raw.path)) not in READERS:
        message = f"the frames of {raw.key} are not stored: run the stage before this one (store_frames)"
        raise StorageError(message)
    frames = store_frames(lake, raw, vehicle)
    mark = fingerprint(
        stage="signals",
        frames=frames.fingerprint,
        vehicle=vehicle_config(vehicle),
        dbc=[sha256(path) for path in vehicle.dbc_files()],
    )
    path = lake.signals(raw)
    found = frames_table.find_metadata(path)
    if found is not None and found.get("fingerprint") == mark:
        return SignalsSummary(**from_metadata(found, lake.root))
    pass_ = _Pass(lake, raw, vehicle, frames, mark)
    with atomic_write(path) as temporary:
        signals_table.write(
            temporary,
            pass_.tables(),
            signals_table.schema(vehicle.signals),
            lambda: to_metadata(pass_.summary(), lake.root),
        )
    return pass_.summary()


class _Pass:
    """One pass over a log: grid rows as Arrow tables, and what was seen on the way."""

    def __init__(self, lake: Lake, raw: RawLog, vehicle: Vehicle, frames: FramesSummary, mark: str) -> None:
        self._lake, self._raw, self._vehicle, self._frames, self._mark = lake, raw, vehicle, frames, mark
        self._report = ReadReport()
        self._builder = GridBuilder(vehicle)
        self._rows = 0
        self._energy = 0.0
        self._start: int | None = None
        self._told = False
        self._stale = dict.fromkeys(vehicle.signals, 0)

    def tables(self) -> Iterator[pa.Table]:
        for samples, segment, until in self._cuts():
            for rows in self._builder.push(samples, segment, until):
                yield self._checked(rows)
        for rows in self._builder.finish():
            yield self._checked(rows)

    def _cuts(self) -> Iterator[Cut]:
        form = self._frames.format
        check_format(form, self._vehicle, str(self._raw.path))
        if form in READERS:
            table = READERS[form](local_copy(self._raw.path), self._vehicle, self._report)
            return table_cuts(table, self._vehicle)
        return frame_cuts(self._lake.frames(self._raw), self._vehicle, self._report)

    def _checked(self, rows: GridRows) -> pa.Table:
        import polars as pl

        from tspace_core.records.schemas import validate_signals

        # A recorder that gets its time from outside begins in 1970 and jumps: from there on stamps are UTC.
        first = int(rows.time[0])
        offset = 0 if first > YEAR_2000_NS else self._frames.utc_offset_ns
        table = signals_table.to_table(rows, offset)
        frame = pl.DataFrame(table)
        try:
            validate_signals(frame, self._vehicle, place=self._raw.key)
        except SchemaError as error:
            self._lake.quarantine("signals", frame, str(error), name=self._raw.name)
            raise
        self._rows += len(rows)
        self._energy += float(rows.energy_wh.sum())
        if self._start is None:
            self._start = first + offset
        for name in rows.values:
            self._stale[name] += table.column(name).null_count
        return table

    def _tell_missing(self) -> None:
        """Count what the samples lack; told once, when all are in."""
        if self._told:
            return
        self._told = True
        skipped = self._builder.energy.skipped
        if skipped:
            detail = f"no voltage within log.max_dt_s = {self._vehicle.log.max_dt_s:g} s before the current"
            self._report.drop("current_without_voltage", count=skipped, place="energy", detail=detail)
        empty = [name for name, found in self._builder.statistics.items() if not found.count]
        if empty:
            detail = (
                f"no valid sample of {', '.join(empty)}: check if the log is of vehicle {self._vehicle.id}, "
                "and the sources in the vehicle's file"
            )
            self._report.drop("signal_without_samples", count=len(empty), place=self._raw.name, detail=detail)

    def summary(self) -> SignalsSummary:
        energy = self._builder.energy
        frames = self._frames
        self._tell_missing()
        # A log of samples is read by both stages: each drop but the clock's would be counted twice.
        once = CLOCK_BREAKS if frames.format in READERS else frames.dropped.keys()
        dropped = {reason: count for reason, count in frames.dropped.items() if reason in once}
        for reason, count in self._report.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
        return SignalsSummary(
            key=self._raw.key,
            fingerprint=self._mark,
            path=self._lake.signals(self._raw),
            format=frames.format,
            frames=frames.frames,
            t_first=frames.t_first,
            t_last=frames.t_last,
            rows=self._rows,
            segments=frames.segments,
            signals={name: _statistics(found) for name, found in self._builder.statistics.items()},
            stale_rows=self._stale,
            energy_wh=energy.total_wh,
            energy_tail_wh=energy.total_wh - self._energy,
            energy_skipped=energy.skipped,
            distance_m=self._builder.distance_m,
            utc_start_ns=self._start,
            utc_offset_ns=frames.utc_offset_ns,
            time_source=frames.time_source,
            substitutes=self._vehicle.substitutes,
            dropped=dropped,
            messages={**frames.messages, **self._report.messages},
        )


def frame_cuts(path: AnyPath, vehicle: Vehicle, report: ReadReport) -> Iterator[Cut]:
    """Yield the samples of a frames file, a row group and a segment at a time."""
    database = load_database(vehicle.dbc_files())
    extractor = SignalExtractor(vehicle, database, report)
    if database.lost:
        detail = "; ".join(database.lost)
        report.drop("dbc_signal", count=len(database.lost), place=f"vehicle {vehicle.id}", detail=detail)
    for batch, segment in frames_table.read(path):
        # One segment is the rule: finding that out by sorting would cost more than decoding.
        single = segment.min() == segment.max()
        for number in [int(segment[0])] if single else np.unique(segment).tolist():
            mine = segment == number
            part = batch if mine.all() else batch.select(mine)
            yield extractor.extract(part), number, int(part.time.max())


def table_cuts(table: SampleTable, vehicle: Vehicle) -> Iterator[Cut]:
    """Yield the samples of a trip table or window log, a segment at a time."""
    segments = SegmentCounter(vehicle.log.gap_s).assign(table.time)
    rows = {name: rows_of_samples(table.time, found.time) for name, found in table.samples.items()}
    for number in np.unique(segments).tolist():
        samples = {}
        for name, found in table.samples.items():
            mine = segments[rows[name]] == number
            samples[name] = Samples(found.time[mine], found.value[mine])
        yield samples, number, int(table.time[segments == number].max())


def rows_of_samples(row_times: NDArray[np.int64], times: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each sample the row it stands in; samples are some of the rows' stamps, in their order."""
    if (np.diff(row_times) > 0).all():
        return np.searchsorted(row_times, times).astype(np.int64)
    found = np.empty(len(times), np.int64)
    row = 0
    stamps = row_times.tolist()
    for place, time in enumerate(times.tolist()):
        while stamps[row] != time:
            row += 1
        found[place] = row
        row += 1
    return found


def _statistics(found: Statistics) -> SignalStatistics:
    if not found.count:
        return SignalStatistics(count=0, min=None, max=None, mean=None)
    return SignalStatistics(
        count=found.count, min=found.lowest, max=found.highest, mean=found.sum / found.count
    )
