"""Stage raw -> frames: a log is parsed once."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tspace_core.can.frames import FrameBatch
from tspace_core.can.ordering import FrameOrder
from tspace_core.can.readers import detect_format, open_log
from tspace_core.can.report import ReadReport
from tspace_core.can.segments import SegmentCounter
from tspace_core.can.tables import READERS
from tspace_core.config import Vehicle, load_site
from tspace_core.objects.path import local_copy
from tspace_core.storage import frames_table
from tspace_core.storage.files import atomic_write
from tspace_core.storage.fingerprint import fingerprint
from tspace_core.storage.lake import Lake, RawLog
from tspace_core.storage.raw_store import content_hash, utc_clock
from tspace_core.storage.summaries import FramesSummary, from_metadata, to_metadata

FRAMES_VERSION = 2
"""Raise it when the columns or their meaning change."""


def store_frames(lake: Lake, raw: RawLog, vehicle: Vehicle) -> FramesSummary:
    """Parse a raw log into Parquet, bounded in memory; nothing is done if it is there already.

    A trip table or window log has no frames: nothing is written, its rows are counted.

    Raises:
        LogError: if the log cannot be read at all.
        StorageError: if an earlier result is damaged.
    """
    path = lake.frames(raw)
    mark = fingerprint(
        stage="frames",
        layout=FRAMES_VERSION,
        raw=content_hash(raw),
        date=raw.date,
        log=vehicle.log.model_dump(mode="json"),
        zone=load_site(vehicle.site).timezone,
    )
    found = frames_table.find_metadata(path)
    if found is not None and found.get("fingerprint") == mark:
        return FramesSummary(**from_metadata(found, lake.root))
    name = detect_format(local_copy(raw.path))
    if name in READERS:
        return _count_rows(raw, vehicle, mark, name)
    pass_ = _Pass(lake, raw, vehicle, mark, name)
    with atomic_write(path) as temporary:
        frames_table.write(temporary, pass_.parts(), lambda: to_metadata(pass_.summary(), lake.root))
    return pass_.summary()


class _Pass:
    """One pass over a log: batches with their segments, and what was seen on the way."""

    def __init__(self, lake: Lake, raw: RawLog, vehicle: Vehicle, mark: str, format_name: str) -> None:
        self._lake, self._raw, self._vehicle, self._mark, self._format = lake, raw, vehicle, mark, format_name
        self._report = ReadReport()
        self._order = FrameOrder(vehicle.log.disorder_s)
        self._segments = SegmentCounter(vehicle.log.gap_s)
        self._frames = 0
        self._first = self._last = self._lowest = self._highest = 0
        self._ids: set[int] = set()
        self._buses: Counter[int] = Counter()

    def parts(self) -> Iterator[tuple[FrameBatch, NDArray[np.uint16]]]:
        ready = FrameBatch.empty()
        reader = open_log(local_copy(self._raw.path), self._report, format=self._format)
        for batch in reader.batches(max_frames=frames_table.ROW_GROUP):
            if not len(batch):
                continue
            lowest, highest = int(batch.time.min()), int(batch.time.max())
            if not self._frames:
                self._first, self._lowest, self._highest = int(batch.time[0]), lowest, highest
            self._last = int(batch.time[-1])
            self._lowest, self._highest = min(self._lowest, lowest), max(self._highest, highest)
            self._frames += len(batch)
            self._ids.update(_distinct(batch.id))
            counts = np.bincount(batch.bus)
            self._buses.update({int(bus): int(counts[bus]) for bus in np.flatnonzero(counts)})
            if len(ready):
                yield ready, self._segments.assign(ready.time)
            ready = self._order.push(batch)
        ready = FrameBatch.concat([ready, self._order.finish()])
        if len(ready):
            yield ready, self._segments.assign(ready.time)
        if self._order.late:
            detail = f"frames up to {self._vehicle.log.disorder_s:g} s late were put in order of time"
            self._report.note("late_frame", count=self._order.late, place=self._raw.name, detail=detail)
        self._segments.tell(self._report, self._raw.name)

    def summary(self) -> FramesSummary:
        some = self._frames > 0
        offset, source = utc_clock(self._raw, self._report, self._first if some else None, self._vehicle)
        return FramesSummary(
            key=self._raw.key,
            fingerprint=self._mark,
            path=self._lake.frames(self._raw),
            format=self._format,
            frames=self._frames,
            t_first=self._first / 1e9 if some else None,
            t_last=self._last / 1e9 if some else None,
            t_min=self._lowest / 1e9 if some else None,
            t_max=self._highest / 1e9 if some else None,
            segments=self._segments.segments,
            backward_steps=self._segments.backward_steps,
            gaps=self._segments.gaps,
            longest_gap_s=self._segments.longest_gap_s,
            ids=len(self._ids),
            frames_per_bus=dict(sorted(self._buses.items())),
            bus_names=self._report.buses,
            utc_offset_ns=offset,
            time_source=source,
            dropped=self._report.dropped,
            notes=self._report.notes,
            messages=self._report.messages,
        )


def _distinct(ids: NDArray[np.uint32]) -> list[int]:
    if int(ids.max()) < 1 << 16:
        found: list[int] = np.flatnonzero(np.bincount(ids)).tolist()
        return found
    wide: list[int] = np.unique(ids).tolist()
    return wide


def _count_rows(raw: RawLog, vehicle: Vehicle, mark: str, format_name: str) -> FramesSummary:
    report = ReadReport()
    table = READERS[format_name](local_copy(raw.path), vehicle, report)
    times, some = table.time, len(table.time) > 0
    segments = SegmentCounter(vehicle.log.gap_s)
    segments.assign(times)
    segments.tell(report, raw.name)
    offset, source = utc_clock(raw, report, int(times[0]) if some else None, vehicle)
    return FramesSummary(
        key=raw.key,
        fingerprint=mark,
        path=None,
        format=format_name,
        frames=table.rows,
        t_first=int(times[0]) / 1e9 if some else None,
        t_last=int(times[-1]) / 1e9 if some else None,
        t_min=int(times.min()) / 1e9 if some else None,
        t_max=int(times.max()) / 1e9 if some else None,
        segments=segments.segments,
        backward_steps=segments.backward_steps,
        gaps=segments.gaps,
        longest_gap_s=segments.longest_gap_s,
        utc_offset_ns=offset,
        time_source=source,
        dropped=report.dropped,
        notes=report.notes,
        messages=report.messages,
    )
