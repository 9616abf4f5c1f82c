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

_TICK_S = 5.0
_BETWEEN = 0.12
"""Room between stretches, as a share of their length."""


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
    """Stretches of drives side by side, speed above pedal; the window compared is shaded.

    For pages only: it has no PNG. All stretches are drawn into one pair of axes, one after the other along
    the time: eight axes a picture would cost a report more than everything else in it.

    Args:
        strips: the situation asked about first, then those like it.
        name: of the picture.
        caption: what is to be seen.
    """
    speeds = np.concatenate([strip.speed_kmh for strip in strips])
    top = max(10.0, 1.1 * float(np.nanmax(speeds)) if np.isfinite(speeds).any() else 10.0)
    with style():
        figure = new_figure(8.0, 2.5)
        figure.set_layout_engine(None)  # it draws everything once more, to find out what is known here
        figure.subplots_adjust(left=0.075, right=0.99, top=0.84, bottom=0.16, hspace=0.18)
        above, below = figure.subplots(2, 1, sharex=True)
        begin, ticks = 0.0, []
        for place, strip in enumerate(strips):
            first, last = (float(found(strip.time_s)) for found in (np.nanmin, np.nanmax))
            zero = begin - first
            for axis in (above, below):
                shade = TERTIARY if place else SECONDARY
                axis.axvspan(zero, zero + strip.window_s, color=shade, alpha=0.15, linewidth=0)
            above.plot(zero + strip.time_s, strip.speed_kmh, color=PRIMARY, linewidth=1.3)
            below.plot(zero + strip.time_s, strip.pedal_percent, color=INK, linewidth=1.0)
            above.text(begin, 1.04 * top, strip.title, fontsize=7.5, fontweight="bold", va="bottom")
            instants = np.arange(np.ceil(first / _TICK_S), np.floor(last / _TICK_S) + 1) * _TICK_S
            ticks += [(zero + instant, f"{instant:g}") for instant in instants.tolist()]
            begin += (last - first) * (1 + _BETWEEN)
        below.set_xticks([at for at, _ in ticks], [text for _, text in ticks])
        below.set_xlim(0, begin)
        above.set_ylim(0, top)
        below.set_ylim(-5, 105)
        for axis, unit in ((above, "speed\nkm/h"), (below, "pedal\n%")):
            axis.grid(visible=False, axis="x")
            axis.tick_params(labelsize=7)
            axis.set_ylabel(unit, fontsize=8)
        above.tick_params(labelbottom=False)
        below.set_xlabel("s from the beginning of the window", fontsize=8)
        return picture(figure, name, caption, png=False)
