"""Figures of a comparison: savings with their intervals, and one drive of every candidate."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tspace_core.evaluation.baselines import DEFAULT
from tspace_core.evaluation.figures.style import Picture, colour, label, new_figure, picture, style
from tspace_core.evaluation.statistics import Interval
from tspace_core.evaluation.summary import ComparisonSummary

Array = NDArray[np.float64]
_EVERY_M = 20.0
_STOP_M = 5.0
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


def speed_traces(traces: pl.DataFrame, *, subject: str, driver: str | None = None) -> Picture:
    """Speed over distance of one drive by the default map and a candidate, and the time between all.

    Args:
        traces: columns ``candidate``, ``driver``, ``seed``, ``time_s``, ``distance_m``, ``speed_kmh``,
            ``reference_kmh``; one drive a candidate and driver.
        subject: candidate whose speed is drawn beside the default map's.
        driver: whose drive is drawn; by default the one whose trip time the subject changes most.
    """
    driver = driver or _most_changed_driver(traces, subject)
    own = traces.filter(pl.col("driver") == driver)
    default = own.filter(pl.col("candidate") == DEFAULT)
    seed = own["seed"][0]
    with style():
        figure = new_figure(8.0, 4.4)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        thin = _thinned(default)
        above.plot(thin["distance_m"] / 1000, thin["reference_kmh"], color="#56b4e9", linewidth=3, alpha=0.5)
        above.plot([], [], color="#56b4e9", linewidth=3, alpha=0.5, label="reference")
        for position, name in enumerate(own["candidate"].unique(maintain_order=True)):
            drive = own.filter(pl.col("candidate") == name)
            tint = colour(name, position)
            if name in (DEFAULT, subject):
                thin = _thinned(drive)
                above.plot(thin["distance_m"] / 1000, thin["speed_kmh"], color=tint, linewidth=1.1)
            if name != DEFAULT:
                place, gap = time_behind(default, drive)
                below.plot(place / 1000, gap, color=tint)
            above.plot([], [], color=tint, label=label(name))
        above.set_ylabel("speed in km/h")
        above.set_title(f"One drive: driver {label(driver)}, seed {seed}")
        below.axhline(0, color=colour(DEFAULT), linewidth=1.2)
        below.set_ylabel("behind default\nin s")
        below.set_xlabel("distance in km")
        figure.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=6)
        return picture(
            figure,
            "speed_traces",
            f"Speed over distance of the default map and {label(subject)} (above), and time behind the "
            f"default map's drive at the same place (below); driver {label(driver)}, seed {seed}.",
        )


def time_behind(default: pl.DataFrame, drive: pl.DataFrame) -> tuple[Array, Array]:
    """Places in m, those of stops left out, and the seconds that ``drive`` is behind ``default`` there."""
    end = min(float(frame["distance_m"].to_numpy()[-1]) for frame in (default, drive))
    place = np.arange(0.0, end, _EVERY_M)
    moving = np.ones(len(place), dtype=np.bool_)
    times = []
    for frame in (default, drive):
        distance = frame["distance_m"].to_numpy()
        times.append(np.interp(place, distance, frame["time_s"].to_numpy()))
        # The lowest speed near a place: at a stop the time there is no single instant.
        slow = distance[frame["speed_kmh"].to_numpy() < 3.0]
        nearest = np.searchsorted(slow, place)
        for index in (nearest - 1, nearest):
            known = (index >= 0) & (index < len(slow))
            gap = np.abs(place - slow[np.clip(index, 0, max(len(slow) - 1, 0))]) if len(slow) else np.inf
            moving &= ~(known & (gap < _STOP_M))
    return place[moving], (times[1] - times[0])[moving]


def _most_changed_driver(traces: pl.DataFrame, subject: str) -> str:
    ends = traces.group_by("candidate", "driver", maintain_order=True).agg(pl.col("time_s").last())
    both = ends.filter(pl.col("candidate") == subject).join(
        ends.filter(pl.col("candidate") == DEFAULT), on="driver", maintain_order="left"
    )
    change = (both["time_s"] - both["time_s_right"]).abs()
    return str(both["driver"][int(change.arg_max() or 0)])


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
