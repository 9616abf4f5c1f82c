"""Figures of what was recorded and learned from: signals, episodes, losses."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from tspace_core.errors import RecordError
from tspace_core.evaluation.figures.style import (
    INK,
    PRIMARY,
    SECONDARY,
    TERTIARY,
    Picture,
    label,
    new_figure,
    picture,
    style,
)

_UNITS = {
    "velocity": "km/h",
    "thrust": "%",
    "brake": "%",
    "current": "A",
    "voltage": "V",
    "motor_torque": "Nm",
    "motor_speed": "rpm",
    "torque_request": "Nm",
    "soc": "%",
    "elevation": "m",
}
_MOST_POINTS = 1000
_TINTS = (PRIMARY, SECONDARY, TERTIARY)


def training_losses(steps: Sequence[int], losses: Mapping[str, Sequence[float]]) -> Picture:
    """Loss curves of a training run, one panel a loss.

    Args:
        steps: update number of each value.
        losses: name, e.g. ``critic`` or ``actor``, to values, as long as ``steps``.
    """
    if not losses:
        message = "no losses to draw: the training run recorded none"
        raise RecordError(message)
    with style():
        figure = new_figure(8.0, 2.8)
        for position, (name, values) in enumerate(losses.items()):
            axes = figure.add_subplot(1, len(losses), position + 1)
            curve = np.asarray(values, dtype=np.float64)
            stride = max(1, len(curve) // _MOST_POINTS)
            axes.plot(
                np.asarray(steps)[::stride],
                curve[::stride],
                color=_TINTS[position % 3],
                alpha=0.35,
                linewidth=0.8,
            )
            width = max(1, len(curve) // 50)
            smooth = np.convolve(curve, np.full(width, 1 / width), mode="valid")
            axes.plot(np.asarray(steps)[width - 1 :][::stride], smooth[::stride], color=_TINTS[position % 3])
            if np.all(curve[np.isfinite(curve)] > 0):
                axes.set_yscale("log")
            axes.set_title(f"{label(name).capitalize()} loss")
            axes.set_xlabel("update")
        return picture(
            figure,
            "training_losses",
            "Losses over the updates of the training run; the dark line is a running mean.",
        )


def episode_histograms(energy_wh_per_km: ArrayLike, rewards: ArrayLike) -> Picture:
    """Energy of the episodes and rewards of their records.

    Args:
        energy_wh_per_km: one value an episode.
        rewards: one value a record.
    """
    panels = (
        (np.asarray(energy_wh_per_km, dtype=np.float64), "energy per distance in Wh/km", "episodes"),
        (np.asarray(rewards, dtype=np.float64), "reward", "records"),
    )
    with style():
        figure = new_figure(8.0, 2.8)
        for position, (values, quantity, counted) in enumerate(panels):
            axes = figure.add_subplot(1, 2, position + 1)
            finite = values[np.isfinite(values)]
            axes.hist(finite, bins=min(40, max(5, len(finite) // 4)), color=_TINTS[position], alpha=0.85)
            if len(finite):
                axes.axvline(float(np.mean(finite)), color=INK, linewidth=1.4, linestyle="--")
            axes.set_xlabel(quantity)
            axes.set_ylabel(counted)
            axes.set_title(f"{len(finite)} {counted}")
        return picture(
            figure, "episode_histograms", "Energy of the episodes and rewards of their records; dashed: mean."
        )


def signals_overview(
    frame: pl.DataFrame, signals: Sequence[str] | None = None, *, title: str = "Signals of a log"
) -> Picture:
    """Signals of a log over time, one panel a signal; gaps and stale stretches stay open.

    Args:
        frame: the signals frame, with ``log_time_ns`` and a column a signal.
        signals: which to draw; by default the known ones, at most 6.
        title: above the figure.

    Raises:
        RecordError: names a signal that is not in the frame.
    """
    names = list(signals) if signals is not None else [name for name in _UNITS if name in frame.columns][:6]
    missing = [name for name in ("log_time_ns", *names) if name not in frame.columns]
    if missing or not names:
        message = f"columns {missing or list(_UNITS)} are not in the signals frame, which has {frame.columns}"
        raise RecordError(message)
    time_s = (frame["log_time_ns"] - frame["log_time_ns"].min()).cast(pl.Float64).to_numpy() / 1e9
    with style():
        figure = new_figure(8.0, 0.9 + 0.95 * len(names))
        panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
        for position, (name, axes) in enumerate(zip(names, panels, strict=True)):
            values = frame[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()
            axes.plot(*envelope(time_s, values), color=_TINTS[position % 3], linewidth=1.0)
            unit = _UNITS.get(name, "")
            axes.set_ylabel(f"{label(name)}\n{unit}", fontsize=8.5)
            axes.yaxis.set_major_locator(_few_ticks())
        panels[0].set_title(title)
        panels[-1].set_xlabel("time in s")
        return picture(figure, "signals_overview", f"{title}: {', '.join(map(label, names))} over time.")


def envelope(time: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Least and greatest value of each stretch, so that a thinned curve keeps its peaks and its gaps.

    Returns:
        Times and values of at most about ``_MOST_POINTS`` points.
    """
    if len(values) <= _MOST_POINTS:
        return time, values
    width = -(-len(values) * 2 // _MOST_POINTS)
    whole = len(values) // width * width
    parts = values[:whole].reshape(-1, width)
    gaps = np.isnan(parts).all(axis=1)
    low = np.where(np.isnan(parts), np.inf, parts).argmin(axis=1)
    high = np.where(np.isnan(parts), -np.inf, parts).argmax(axis=1)
    picks = np.sort(np.stack([low, high], axis=1), axis=1) + np.arange(len(parts))[:, None] * width
    points = np.where(np.repeat(gaps, 2), np.nan, values[picks.ravel()])
    return np.append(time[picks.ravel()], time[whole:]), np.append(points, values[whole:])


def _few_ticks() -> object:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=3)
