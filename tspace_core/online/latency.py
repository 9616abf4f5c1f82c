"""How long something takes, over any number of times, in a few hundred counters."""

import numpy as np

_FIRST_S = 1e-5
_PER_DECADE = 50
_DECADES = 7


class LatencyHistogram:
    """Counts of durations in bins that are 4.7 % wide, from 10 us to 100 s.

    What lies beyond counts in the outermost bins; the largest is kept exactly.
    """

    def __init__(self) -> None:
        self._counts = np.zeros(_PER_DECADE * _DECADES, np.int64)
        self.largest_s = 0.0

    def __len__(self) -> int:
        return int(self._counts.sum())

    def add(self, seconds: float) -> None:
        """Count one duration."""
        place = int(np.floor(np.log10(max(seconds, 1e-12) / _FIRST_S) * _PER_DECADE))
        self._counts[min(max(place, 0), len(self._counts) - 1)] += 1
        self.largest_s = max(self.largest_s, seconds)

    def quantile_s(self, share: float) -> float:
        """Upper edge in s of the bin that this share of the durations reaches, at most the largest.

        NaN where there are none.
        """
        total = len(self)
        if not total:
            return float("nan")
        place = int(np.searchsorted(np.cumsum(self._counts), max(np.ceil(share * total), 1)))
        return min(float(_FIRST_S * 10.0 ** ((place + 1) / _PER_DECADE)), self.largest_s)

    def summary_ms(self) -> dict[str, float]:
        """Number, p50, p99 and largest in ms; only the number if it is empty."""
        if not len(self):
            return {"count": 0.0}
        return {
            "count": float(len(self)),
            "p50": 1e3 * self.quantile_s(0.5),
            "p99": 1e3 * self.quantile_s(0.99),
            "max": 1e3 * self.largest_s,
        }
