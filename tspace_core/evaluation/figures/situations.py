"""Figures of driving situations: all of them in two dimensions, and one beside those like it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tspace_core.evaluation.figures.style import (
    INK,
    PRIMARY,
    SECONDARY,
    SEQUENTIAL,
    TERTIARY,
    Picture,
    new_figure,
    picture,
    style,
)


@dataclass(frozen=True)
class Strip:
    """A stretch of a drive around a situation.

    Attributes:
        title: what is above it.
        time_s: (n,) from the situation's beginning on; NaN breaks the curves.
        speed_kmh, pedal_percent: (n,).
        window_s: length of the situation's window.
    """

    title: str
    time_s: NDArray[np.float64]
    speed_kmh: NDArray[np.float64]
    pedal_percent: NDArray[np.float64]
    window_s: float = 1.0


def situation_projection(vectors: NDArray[np.float32], speed_kmh: NDArray[np.float64]) -> Picture:
    """Vectors in the plane of their two principal components, coloured by speed.

    Args:
        vectors: (n, dim).
        speed_kmh: (n,) mean of each window.
    """
    centred = vectors - vectors.mean(axis=0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    points = centred @ axes[:2].T
    share = float((sizes[:2] ** 2).sum() / max(float((sizes**2).sum()), 1e-12))
    with style():
        figure = new_figure(6.4, 4.4)
        axis = figure.add_subplot()
        drawn = axis.scatter(
            points[:, 0], points[:, 1] if points.shape[1] > 1 else np.zeros(len(points)),
            c=speed_kmh, cmap=SEQUENTIAL, s=7, linewidths=0, rasterized=True,
        )  # fmt: skip
        figure.colorbar(drawn, ax=axis, label="mean speed in km/h")
        axis.set_xlabel("first component")
        axis.set_ylabel("second component")
        axis.set_title(f"{len(points)} situations")
        return picture(
            figure,
            "situation_projection",
            "Situations in the plane of their two principal components, "
            f"which hold {share:.0%} of the variance.",
        )


def situation_strips(strips: Sequence[Strip], name: str, caption: str) -> Picture:
    """Small charts side by side, speed above pedal, on common scales; the window compared is shaded.

    Args:
        strips: the situation asked about first, then those like it.
        name: of the picture.
        caption: what is to be seen.
    """
    speeds = np.concatenate([strip.speed_kmh for strip in strips])
    top = max(10.0, 1.1 * float(np.nanmax(speeds)) if np.isfinite(speeds).any() else 10.0)
    with style():
        figure = new_figure(8.0, 2.5)
        panels = figure.subplots(2, len(strips), sharex=True, sharey="row", squeeze=False)
        for place, strip in enumerate(strips):
            above, below = panels[:, place]
            for axis in (above, below):
                axis.axvspan(
                    0, strip.window_s, color=TERTIARY if place else SECONDARY, alpha=0.15, linewidth=0
                )
                axis.tick_params(labelsize=7)
            above.plot(strip.time_s, strip.speed_kmh, color=PRIMARY, linewidth=1.3)
            below.plot(strip.time_s, strip.pedal_percent, color=INK, linewidth=1.0)
            above.set_title(strip.title, fontsize=7.5)
            above.set_ylim(0, top)
            below.set_ylim(-5, 105)
            below.set_xlabel("s", fontsize=8)
        panels[0, 0].set_ylabel("speed\nkm/h", fontsize=8)
        panels[1, 0].set_ylabel("pedal\n%", fontsize=8)
        return picture(figure, name, caption)
