"""The plain encoder: figures of each signal, whitened by a principal component analysis.

Mean, standard deviation, slope, least and greatest value a signal; what the windows hardly differ in is
dropped. A constant stands beside the components, so that vectors of unit length still tell how far from the
mean a window is.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tspace_core.embeddings.base import Encoder, Float

_LEAST_SHARE = 1e-3
"""Components with less than this share of the variance are noise, which whitening would blow up."""


class StatisticsEncoder(Encoder):
    """Statistics of a window as its vector; the baseline for what is learned."""

    kind: ClassVar[str] = "statistics"
    _centre: NDArray[np.float64]
    _scale: NDArray[np.float64]
    _axes: NDArray[np.float64]

    @property
    def dim(self) -> int:
        """Components kept, and one."""
        return int(self._axes.shape[1]) + 1

    def fit(self, runs: Iterable[Float]) -> None:
        """Learn mean, deviation and principal axes of the figures of all windows."""
        figures = np.concatenate([_figures(run) for run in self._collected(runs)])
        self._centre = figures.mean(axis=0)
        deviation = figures.std(axis=0)
        self._scale = np.where(deviation > 1e-6, deviation, 1.0)
        scaled = (figures - self._centre) / self._scale
        variances, axes = np.linalg.eigh(scaled.T @ scaled / len(scaled))
        order = np.argsort(-variances, kind="stable")[: self.parameters.dim - 1]
        kept = order[variances[order] > _LEAST_SHARE * max(float(variances.sum()), 1e-12)]
        chosen = axes[:, kept]
        # An axis may point either way: the greater side is made the positive one.
        largest = np.take_along_axis(chosen, np.abs(chosen).argmax(axis=0)[None], axis=0)
        self._axes = chosen * np.where(largest < 0, -1.0, 1.0) / np.sqrt(variances[kept])

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Centre, scale and axes."""
        return {"centre": self._centre, "scale": self._scale, "axes": self._axes}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take centre, scale and axes."""
        width = _FIGURES * len(self.signals)
        for name in ("centre", "scale", "axes"):
            if arrays[name].shape[0] != width:
                message = f"{name} is of {arrays[name].shape[0]} figures, expected {width}"
                raise ValueError(message)
        self._centre, self._scale, self._axes = arrays["centre"], arrays["scale"], arrays["axes"]

    def _encode(self, states: Float) -> Float:
        components = (_figures(states) - self._centre) / self._scale @ self._axes
        size = np.sqrt(max(components.shape[1], 1))
        lifted = np.concatenate([components, np.full((len(states), 1), size)], axis=1)
        return lifted.astype(np.float32)


_FIGURES = 5


def _figures(states: Float) -> NDArray[np.float64]:
    values = states.astype(np.float64)
    sample = np.arange(values.shape[1]) - (values.shape[1] - 1) / 2
    slope = np.einsum("t,nts->ns", sample, values) / max(float((sample**2).sum()), 1e-12)
    parts = [values.mean(axis=1), values.std(axis=1), slope, values.min(axis=1), values.max(axis=1)]
    return np.concatenate(parts, axis=1)
