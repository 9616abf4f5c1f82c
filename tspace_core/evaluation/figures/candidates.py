"""Figures of a comparison: savings with their intervals, and one drive of every candidate."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from tspace_core.evaluation.baselines import DEFAULT
from tspace_core.evaluation.figures.style import Picture, colour, label, new_figure, picture, style
from tspace_core.evaluation.statistics import Interval
from tspace_core.evaluation.summary import ComparisonSummary

_MOST_POINTS = 1200
"""Points of a curve in a figure; a screen shows no more."""


def energy_saving(summary: ComparisonSummary) -> Picture:
    """Energy saving of every candidate, per driver and over all, with 95 % intervals."""
    candidates = [candidate for candidate in summary.candidates if candidate.name != DEFAULT]
    drivers = list(summary.drivers)
    rows = ["all drivers", *drivers]
    with style():
        figure = new_figure(8.0, 1.5 + 0.2 * len(rows) * max(len(candidates), 2))
        axes = figure.add_subplot()
        axes.axvline(0, color=colour(DEFAULT), linewidth=1.2)
        for position, candidate in enumerate(candidates):
            offset = (position - (len(candidates) - 1) / 2) * 0.7 / max(len(candidates), 1)
            per_driver = {item.driver: item.saving_percent for item in candidate.per_driver}
            intervals = [candidate.saving_percent, *(per_driver.get(driver) for driver in drivers)]
            _intervals(
                axes,
                intervals,
                [row + offset for row in range(len(rows))],
                colour(candidate.name, position),
                label(candidate.name),
            )
        if len(rows) > 1:
            axes.axhline(0.5, color=colour(DEFAULT), linewidth=0.8, linestyle=":")
        axes.set_yticks(range(len(rows)), [label(row) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("energy saved per distance against the default map in % (right of zero: less energy)")
        axes.set_title("Energy saving, paired by driver and seed, with 95 % intervals")
        figure.legend(loc="outside lower center", ncols=4)
        return picture(
            figure,
            "energy_saving",
            "Energy saved per distance in % against the default map's drive of the same driver and seed; "
            "dots are means, bars 95 % intervals (Student t), whatever the trip time.",
        )


def trip_time(pairs: pl.DataFrame) -> Picture:
    """Saving over trip time of every pair: what was bought with time lies outside the band."""
    with style():
        figure = new_figure(8.0, 3.6)
        axes = figure.add_subplot()
        axes.axvspan(-1, 1, color="#009e73", alpha=0.15, linewidth=0, label="equal trip time")
        axes.axhline(0, color=colour(DEFAULT), linewidth=1.2)
        for position, name in enumerate(pairs["candidate"].unique(maintain_order=True)):
            own = pairs.filter((pl.col("candidate") == name) & pl.col("problem").is_null())
            axes.plot(
                own["trip_time_percent"].to_list(),
                own["saving_percent"].to_list(),
                marker="osD^v"[position % 5],
                linestyle="",
                markersize=5,
                alpha=0.8,
                color=colour(name, position),
                label=label(name),
            )
        axes.set_xlabel("trip time against the default map in % (right of zero: slower)")
        axes.set_ylabel("energy saved in %")
        axes.set_title("What was bought with time")
        figure.legend(loc="outside lower center", ncols=5)
        return picture(
            figure,
            "trip_time",
            "Energy saved against trip time, one point a paired drive; a saving counts only where the trip "
            "time is equal within 1 %.",
        )


def speed_traces(traces: pl.DataFrame, candidates: Sequence[str] | None = None) -> Picture:
    """Speed over distance of one drive of each candidate, with the reference.

    Args:
        traces: columns ``candidate``, ``driver``, ``seed``, ``time_s``, ``distance_m``, ``speed_kmh``,
            ``reference_kmh`` (one drive a candidate).
        candidates: which to draw; all by default.
    """
    names = list(candidates or traces["candidate"].unique(maintain_order=True))
    driver, seed = traces.select("driver", "seed").row(0)
    with style():
        figure = new_figure(8.0, 4.4)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        default = traces.filter(pl.col("candidate") == DEFAULT)
        for position, name in enumerate(names):
            own = _thinned(traces.filter(pl.col("candidate") == name))
            distance = own["distance_m"] / 1000
            if position == 0:
                above.plot(
                    distance, own["reference_kmh"], color=colour(DEFAULT), linestyle=":", label="reference"
                )
            above.plot(distance, own["speed_kmh"], color=colour(name, position), label=label(name), alpha=0.9)
            if name != DEFAULT and len(default):
                gap = own["time_s"] - _time_at(default, own["distance_m"])
                below.plot(distance, gap, color=colour(name, position))
        above.set_ylabel("speed in km/h")
        above.set_title(f"One drive: driver {label(str(driver))}, seed {seed}")
        below.axhline(0, color=colour(DEFAULT), linewidth=1.2)
        below.set_ylabel("behind default\nin s")
        below.set_xlabel("distance in km")
        figure.legend(loc="outside lower center", ncols=5)
        return picture(
            figure,
            "speed_traces",
            f"Speed over distance (above) and time behind the default map's drive at the same place (below), "
            f"driver {driver}, seed {seed}.",
        )


def _intervals(
    axes: Any, intervals: Sequence[Interval | None], rows: Sequence[float], tint: str, name: str
) -> None:
    known = [(row, item) for row, item in zip(rows, intervals, strict=True) if item is not None]
    axes.plot(
        [item.mean for _, item in known],
        [row for row, _ in known],
        marker="o",
        linestyle="",
        color=tint,
        label=name,
    )
    for row, item in known:
        if item.low is not None and item.high is not None:
            axes.plot([item.low, item.high], [row, row], color=tint, linewidth=2.2, solid_capstyle="butt")


def _thinned(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.gather_every(max(1, len(frame) // _MOST_POINTS))


def _time_at(drive: pl.DataFrame, distance: pl.Series) -> Any:
    import numpy as np

    return np.interp(distance.to_numpy(), drive["distance_m"].to_numpy(), drive["time_s"].to_numpy())
