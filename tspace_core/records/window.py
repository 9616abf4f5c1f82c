"""Which grid rows can be cut into windows, and why others cannot."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tspace_core.config import Vehicle

COVERED_SHARE = 0.999
"""A grid step counts as measured if its energy was summed over at least this share of it."""

VALID = "valid"
NO_ENERGY = "no energy: current or voltage missing"
END_OF_SEGMENT = "end of segment"


@dataclass(frozen=True)
class GridTable:
    """The grid of one log as columns, all rows of length n, segments in order.

    Attributes:
        log_time_ns: ns on the log's clock.
        utc_ns: the same instants as ns UTC.
        segment: number of the stretch without a break in the log's clock.
        values: by signal name; NaN = none yet, or stale.
        energy_wh, energy_s, distance_m: of the step that ends at the row.
    """

    log_time_ns: NDArray[np.int64]
    utc_ns: NDArray[np.int64]
    segment: NDArray[np.uint16]
    values: dict[str, NDArray[np.float32]]
    energy_wh: NDArray[np.float64]
    energy_s: NDArray[np.float64]
    distance_m: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.log_time_ns)


@dataclass(frozen=True)
class Run:
    """Grid rows [start, stop) of one segment that can all be used, and what ends the run."""

    start: int
    stop: int
    segment: int
    end_reason: str


@dataclass(frozen=True)
class RowReasons:
    """Why rows cannot be used.

    Attributes:
        code: (n,) uint8, index into ``reasons`` for each row; 0 is ``VALID``.
        reasons: ``VALID`` and the reasons that there can be.
    """

    code: NDArray[np.uint8]
    reasons: tuple[str, ...]

    def counts(self) -> dict[str, int]:
        """Return the number of unusable rows by reason."""
        found = np.bincount(self.code, minlength=len(self.reasons)).tolist()
        return {why: count for why, count in zip(self.reasons[1:], found[1:], strict=True) if count}


def row_reasons(table: GridTable, vehicle: Vehicle) -> RowReasons:
    """Return for each row ``VALID`` or the reason why no window may hold it.

    A row needs a fresh value of every state signal, and energy measured over its whole step. The step before
    a segment's first row lies outside the segment: that row needs no energy, as no reward can hold it.
    """
    names = vehicle.sampling.signals
    reasons = (VALID, NO_ENERGY, *(f"stale: {name}" for name in names))
    code = np.zeros(len(table), np.uint8)
    needed = COVERED_SHARE / vehicle.sampling.rate_hz
    first = np.diff(table.segment.astype(np.int64), prepend=-1) != 0
    code[(table.energy_s < needed) & ~first] = 1
    for place, name in reversed(list(enumerate(names))):
        code[np.isnan(table.values[name])] = 2 + place
    return RowReasons(code, reasons)


def valid_runs(table: GridTable, rows: RowReasons, period_ns: int) -> Iterator[Run]:
    """Yield the longest runs of valid rows inside each segment, in order; each is a grid without a hole."""
    good = rows.code == 0
    broken = (np.diff(table.segment.astype(np.int64)) != 0) | (np.diff(table.log_time_ns) != period_ns)
    edge = np.flatnonzero(broken | (np.diff(good.astype(np.int8)) != 0)) + 1
    bounds = [0, *edge.tolist(), len(table)] if len(table) else []
    for start, stop in itertools.pairwise(bounds):
        if good[start]:
            ended = stop == len(table) or bool(broken[stop - 1])
            reason = END_OF_SEGMENT if ended else rows.reasons[rows.code[stop]]
            yield Run(start, stop, int(table.segment[start]), reason)
