"""Signals on the vehicle's grid with the energy and distance of every step, streaming.

Rows are given out once nothing that is still to come can change them, so memory is bounded by what a segment
leaves open, and the result does not depend on how the log is cut into pushes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tspace_core.can.resample import GridBlock, GridResampler
from tspace_core.can.samples import Samples
from tspace_core.config import Vehicle
from tspace_core.records.energy import EnergyMeter, Integral

Float = NDArray[np.float64]
Age = NDArray[np.float32]

NO_SAMPLES = Samples.empty()


@dataclass
class Statistics:
    """Count, extremes and sum of a signal's valid samples before resampling, in our unit."""

    count: int = 0
    lowest: float = np.inf
    highest: float = -np.inf
    sum: float = 0.0

    def add(self, value: Float) -> None:
        """Take samples in."""
        if len(value):
            self.count += len(value)
            self.lowest = min(self.lowest, float(value.min()))
            self.highest = max(self.highest, float(value.max()))
            self.sum += float(value.sum())


@dataclass(frozen=True)
class GridRows:
    """Rows of the grid, all of one segment, in order of time.

    Attributes:
        time: ns on the log's clock, whole multiples of the sampling period.
        segment: number of the stretch without a break in the log's clock.
        values: by signal; NaN = none yet, or stale.
        ages: by signal, seconds since its newest sample; NaN = never seen. Signals of one message share
            one array.
        energy_wh: energy since the row before, for a segment's first row since its first sample.
        energy_s: seconds of that step over which energy was summed: less than the step means a gap.
        distance_m: distance since the row before.
    """

    time: NDArray[np.int64]
    segment: int
    values: dict[str, Float]
    ages: dict[str, Age]
    energy_wh: Float
    energy_s: Float
    distance_m: Float

    def __len__(self) -> int:
        return len(self.time)


@dataclass
class GridBuilder:
    """Samples in, grid rows out, for one log.

    Args:
        vehicle: gives rate, signals with their largest ages, and the longest step that is summed.
    """

    vehicle: Vehicle
    statistics: dict[str, Statistics] = field(init=False)
    energy: EnergyMeter = field(init=False)
    distance: Integral = field(init=False)

    def __post_init__(self) -> None:
        names = self.vehicle.signals
        self.statistics = {name: Statistics() for name in names}
        self.energy = EnergyMeter(self.vehicle.log.max_dt_s)
        self.distance = Integral(self.vehicle.log.max_dt_s)
        ages = {name: source.max_age_s for name, source in names.items()}
        self._resampler = GridResampler(self.vehicle.sampling.rate_hz, ages)
        self._segment: int | None = None
        self._held: list[GridBlock] = []
        self._before = (0.0, 0.0, 0.0)

    @property
    def distance_m(self) -> float:
        """Distance so far."""
        return self.distance.total / 3.6

    def push(self, samples: Mapping[str, Samples], segment: int, until_ns: int) -> list[GridRows]:
        """Take the samples of one segment; all later ones of it come at or after ``until_ns``.

        Returns:
            The rows that are final now.
        """
        done: list[GridRows] = []
        if segment != self._segment:
            done = self.finish()
            self.energy.restart()
            self.distance.restart()
            self._before = (self.energy.total_wh, self.energy.total_covered_s, self.distance_m)
            self._segment = segment
        for name, found in samples.items():
            self.statistics[name].add(found.value)
        voltage, current = samples.get("voltage", NO_SAMPLES), samples.get("current", NO_SAMPLES)
        self.energy.push(voltage, current, segment=segment)
        velocity = samples.get("velocity", NO_SAMPLES)
        self.distance.push(velocity.time, velocity.value)
        block = self._resampler.push(samples, segment, until_ns)
        if len(block.time):
            self._held.append(block)
        settled = min(self.energy.advance(until_ns), self.distance.settled(until_ns))
        return done + self._release(settled)

    def finish(self) -> list[GridRows]:
        """Return what is still held back: at the end of a segment or of the log."""
        block = self._resampler.finish()
        if len(block.time):
            self._held.append(block)
        self.energy.settle()
        return self._release(None)

    def _release(self, settled: int | None) -> list[GridRows]:
        done = []
        while self._held:
            block = self._held[0]
            count = len(block.time)
            if settled is not None:
                count = int(np.searchsorted(block.time, settled, side="right"))
            if count:
                done.append(self._rows(block, count))
            if count < len(block.time):
                self._held[0] = _rest(block, count)
                break
            self._held.pop(0)
        return done

    def _rows(self, block: GridBlock, count: int) -> GridRows:
        time = block.time[:count]
        energy, covered = self.energy.at(time), self.energy.covered_s(time)
        distance = self.distance.at(time)[0] / 3.6
        before, self._before = self._before, (float(energy[-1]), float(covered[-1]), float(distance[-1]))
        self.energy.forget(int(time[-1]))
        self.distance.forget(int(time[-1]))
        return GridRows(
            time=time,
            segment=int(block.segment[0]),
            values={name: value[:count] for name, value in block.values.items()},
            ages=_part(block.ages, slice(count)),
            energy_wh=np.diff(energy, prepend=before[0]),
            energy_s=np.diff(covered, prepend=before[1]),
            distance_m=np.diff(distance, prepend=before[2]),
        )


def _rest(block: GridBlock, start: int) -> GridBlock:
    return GridBlock(
        time=block.time[start:],
        segment=block.segment[start:],
        values={name: value[start:] for name, value in block.values.items()},
        ages=_part(block.ages, slice(start, None)),
    )


def _part(ages: dict[str, Age], rows: slice) -> dict[str, Age]:
    """Rows of the ages; signals that share an array share its part too."""
    parts = {id(age): age[rows] for age in ages.values()}
    return {name: parts[id(age)] for name, age in ages.items()}
