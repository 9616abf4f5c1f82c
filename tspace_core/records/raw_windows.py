"""Windows as they were seen, usable or not: samples of several signals in a row, NaN where there is none."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tspace_core.errors import RecordError
from tspace_core.records.episode import Episode
from tspace_core.records.meta import UNITS


@dataclass(frozen=True, eq=False)
class RawWindows:
    """Windows of W samples.

    Attributes:
        starts: (n,) int64 ns UTC, first sample of each window.
        samples: (n, W, signals) float32; may hold NaN and infinity.
        signals: names, in the order of the samples' last axis.
        units: unit of each signal by name, as far as it is known.
        rate_hz: samples a second.
    """

    starts: NDArray[np.int64]
    samples: NDArray[np.float32]
    signals: tuple[str, ...]
    units: Mapping[str, str]
    rate_hz: float

    def __post_init__(self) -> None:
        if self.starts.dtype != np.int64 or self.starts.ndim != 1:
            self._fail(f"starts is {self.starts.dtype}{self.starts.shape}, expected int64(n,)")
        shape = (len(self.starts), self.window, len(self.signals))
        if self.samples.dtype != np.float32 or self.samples.shape != shape:
            self._fail(f"samples is {self.samples.dtype}{self.samples.shape}, expected float32{shape}")
        if not self.window or not self.signals:
            self._fail("a window needs at least 1 sample and 1 signal")
        if len(set(self.signals)) < len(self.signals):
            self._fail(f"a signal is named twice: {', '.join(self.signals)}")
        if not (np.isfinite(self.rate_hz) and self.rate_hz > 0):
            self._fail(f"rate_hz is {self.rate_hz}, expected more than 0")

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def window(self) -> int:
        """W, samples of a window."""
        return self.samples.shape[1] if self.samples.ndim == 3 else 0

    @property
    def times(self) -> NDArray[np.int64]:
        """(n, W) ns UTC of each sample."""
        period_ns = round(1e9 / self.rate_hz)
        return self.starts[:, None] + period_ns * np.arange(self.window, dtype=np.int64)

    def _fail(self, reason: str) -> None:
        message = f"raw windows: {reason}"
        raise RecordError(message)


def windows_of(episode: Episode) -> RawWindows:
    """The n + 1 state windows of an episode, as views of its states."""
    meta = episode.meta
    return RawWindows(
        starts=episode.times,
        samples=episode.states.reshape(-1, meta.window, len(meta.signals)),
        signals=meta.signals,
        units={name: meta.units.get(name, UNITS.get(name, "")) for name in meta.signals},
        rate_hz=meta.rate_hz,
    )
