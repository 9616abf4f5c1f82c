"""Means of paired differences and how sure they are.

Two intervals of the mean are offered, for two questions:

* Student t over the pairs: what would other drives of *these* drivers show? It takes the pairs as independent
  and normal, and is the one that verdicts rest on.
* Bootstrap by cluster (driver): what would *other* drivers show? It draws whole drivers with replacement.
  With few drivers it is coarse (for 3 it runs from the lowest to the highest driver's mean).
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict

LEVEL = 0.95


class Interval(BaseModel):
    """A mean with an interval around it.

    ``low`` and ``high`` are None where the values are too few to say anything about their scatter.
    """

    model_config = ConfigDict(frozen=True)

    mean: float
    low: float | None
    high: float | None
    count: int
    level: float = LEVEL
    method: Literal["student_t", "cluster_bootstrap"]

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval is above zero."""
        return self.low is not None and self.low > 0

    @property
    def below_zero(self) -> bool:
        """Whether the whole interval is below zero."""
        return self.high is not None and self.high < 0

    @property
    def decimals(self) -> int:
        """Decimals that show which side of zero the bounds lie on: 2, more where they are small."""
        bounds = [abs(value) for value in (self.low, self.high, self.mean) if value]
        smallest = min(bounds, default=1.0)
        return next((decimals for decimals in (2, 3) if smallest >= 0.5 * 10**-decimals), 4)

    def text(self, unit: str = "") -> str:
        """For people: ``+1.20 % [+0.80, +1.60]``; it says so where the interval is not known."""
        suffix = f" {unit}" if unit else ""
        return f"{signed(self.mean, self.decimals)}{suffix} {self.bounds_text()}"

    def bounds_text(self) -> str:
        """For people: ``[+0.80, +1.60]``."""
        if self.low is None or self.high is None:
            return "[no interval]"
        return f"[{signed(self.low, self.decimals)}, {signed(self.high, self.decimals)}]"


def student_t_interval(values: ArrayLike, level: float = LEVEL) -> Interval | None:
    """Mean of ``values`` and its Student t interval.

    ``mean +- t * sd / sqrt(n)`` with t of n - 1 degrees of freedom.

    Args:
        values: one value a pair, shape (n,).
        level: coverage of the two-sided interval.

    Returns:
        None for no values; for one value an interval without bounds.
    """
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        return None
    mean = float(np.mean(array))
    if len(array) == 1:
        return Interval(mean=mean, low=None, high=None, count=1, level=level, method="student_t")
    half = student_t_quantile(0.5 + level / 2, len(array) - 1) * _standard_error(array)
    return Interval(
        mean=mean, low=mean - half, high=mean + half, count=len(array), level=level, method="student_t"
    )


def cluster_bootstrap_interval(
    values: ArrayLike,
    clusters: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = 10_000,
    level: float = LEVEL,
) -> Interval | None:
    """Mean of ``values`` and its percentile bootstrap interval, drawn by whole clusters.

    Args:
        values: one value a pair, shape (n,).
        clusters: the cluster (driver) of each value.
        seed: of the draws; the same seed gives the same interval.
        resamples: how many samples are drawn.
        level: coverage of the two-sided interval.

    Returns:
        None for no values; for fewer than 2 clusters an interval without bounds.
    """
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        return None
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    low = high = None
    if len(names) > 1:
        sums = np.bincount(index, weights=array, minlength=len(names))
        counts = np.bincount(index, minlength=len(names))
        draws = np.random.default_rng(seed).integers(0, len(names), size=(resamples, len(names)))
        means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
        tail = (1 - level) / 2
        low, high = (float(bound) for bound in np.quantile(means, [tail, 1 - tail]))
    return Interval(
        mean=float(np.mean(array)),
        low=low,
        high=high,
        count=len(array),
        level=level,
        method="cluster_bootstrap",
    )


def student_t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def signed(value: float, decimals: int = 2) -> str:
    """With its sign, which zero does not have."""
    rounded = round(value, decimals)
    return f"{rounded:+.{decimals}f}" if rounded else f"{0:.{decimals}f}"
