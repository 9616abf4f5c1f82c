"""Whether neighbours in the space of vectors are alike on the road: told by figures the encoder never saw."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tspace_core.embeddings.base import Float

_QUERIES = 1000


@dataclass(frozen=True)
class NeighbourQuality:
    """Mean difference of nearest neighbours, as a share of that of random pairs; 1 = no better than chance.

    Attributes:
        speed, pedal: of the window's means.
        acceleration: of the window's slope of speed.
        queries: situations that were looked up.
    """

    speed: float
    pedal: float
    acceleration: float
    queries: int

    @property
    def mean(self) -> float:
        """Of the three."""
        return (self.speed + self.pedal + self.acceleration) / 3


def situation_figures(
    states: Float, signals: tuple[str, ...], rate_hz: float
) -> dict[str, NDArray[np.float64]]:
    """What people would compare: mean speed km/h, mean pedal %, acceleration m/s^2 of each window.

    Args:
        states: (n, window, signals).
        signals: their names; one that is missing counts as 0.
        rate_hz: of the samples.
    """
    values = states.astype(np.float64)
    nothing = np.zeros(values.shape[:2])
    speed = values[:, :, signals.index("velocity")] if "velocity" in signals else nothing
    pedal = values[:, :, signals.index("thrust")] if "thrust" in signals else nothing
    instants = (np.arange(values.shape[1]) - (values.shape[1] - 1) / 2) / rate_hz
    slope = speed @ instants / max(float((instants**2).sum()), 1e-12) / 3.6
    return {"speed": speed.mean(axis=1), "pedal": pedal.mean(axis=1), "acceleration": slope}


def neighbour_quality(
    vectors: Float, figures: dict[str, NDArray[np.float64]], groups: NDArray[np.int64], *, seed: int = 0
) -> NeighbourQuality | None:
    """Compare each of some situations with its nearest one of another drive, and with a random one.

    Args:
        vectors: (n, dim) of unit length.
        figures: as ``situation_figures`` gives them.
        groups: (n,) drive of each; with one drive alone, its windows are compared with each other.
        seed: of the choice.

    Returns:
        None where there are fewer than two situations, or all are the same.
    """
    generator = np.random.default_rng(seed)
    count = len(vectors)
    if count < 2:
        return None
    queries = generator.permutation(count)[:_QUERIES]
    several = len(np.unique(groups)) > 1
    nearest = np.empty(len(queries), np.int64)
    for position, query in enumerate(queries.tolist()):
        closeness = vectors @ vectors[query]
        closeness[groups == groups[query] if several else query] = -2.0
        nearest[position] = closeness.argmax()
    others = generator.integers(0, count, len(queries))
    shares = {}
    for name, values in figures.items():
        chance = float(np.abs(values[queries] - values[others]).mean())
        if chance <= 0.0:
            return None
        shares[name] = float(np.abs(values[queries] - values[nearest]).mean()) / chance
    return NeighbourQuality(**shares, queries=len(queries))
