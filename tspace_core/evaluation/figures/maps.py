"""Figures of torque maps and of the actions that change them."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tspace_core.config import FLASHED_ROWS, TorqueMap, Vehicle
from tspace_core.errors import RecordError
from tspace_core.evaluation.figures.style import DIVERGING, SEQUENTIAL, Picture, new_figure, picture, style

_NEVER = "#bbbbbb"


def torque_map_change(
    default: TorqueMap, change_nm: ArrayLike, *, name: str = "policy", caption: str | None = None
) -> Picture:
    """The default map and what a candidate changes about it, side by side.

    Args:
        default: the vehicle's default map.
        change_nm: mean change in Nm, the map's shape; NaN where it was never flashed.
        name: of the candidate.
        caption: what is to be seen; None: a mean of what the candidate flashes.
    """
    change = np.asarray(change_nm, dtype=np.float64)
    if change.shape != default.table.shape:
        message = f"a change of shape {change.shape} does not fit a map of shape {default.table.shape}"
        raise RecordError(message)
    largest = float(np.nanmax(np.abs(change))) if np.isfinite(change).any() else 0.0
    with style():
        figure = new_figure(9.0, 4.0)
        left, right = figure.subplots(1, 2, sharey=True)
        _heat(figure, left, default, default.table, SEQUENTIAL, None, "torque in Nm")
        left.set_title("Default map")
        left.set_ylabel("speed in km/h")
        _heat(figure, right, default, change, DIVERGING, max(largest, 1.0), "change in Nm")
        right.set_title(f"Change by {name.replace('_', ' ')}")
        return picture(
            figure,
            "torque_map_change",
            caption
            or f"The default torque map (left) and the mean change that {name} flashes (right), in Nm; "
            "grey cells were never flashed.",
        )


def action_heat_map(vehicle: Vehicle, actions: ArrayLike, first_rows: ArrayLike) -> Picture:
    """Mean action over the rows it was flashed to.

    Args:
        vehicle: whose map axes are used.
        actions: in [-1, 1], shape (n, 68).
        first_rows: first flashed row of each action, shape (n,).
    """
    mean, counts = mean_action(vehicle, actions, first_rows)
    default = vehicle.default_map()
    with style():
        figure = new_figure(9.0, 4.0)
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(5, 1))
        _heat(figure, left, default, mean, DIVERGING, 1.0, "mean action (share of the budget)")
        left.set_title("Actions by the row they were flashed to")
        left.set_ylabel("speed in km/h")
        right.barh(np.arange(len(counts)), counts, color="#56b4e9")
        right.set_xlabel("flashes of the row")
        right.grid(visible=False, axis="y")
        return picture(
            figure,
            "action_heat_map",
            f"Mean of {len(np.asarray(first_rows))} actions over the map rows they were flashed to, as a "
            f"share of the budget of {vehicle.torque_map.budget_nm:g} Nm; grey cells were never flashed.",
        )


def mean_action(
    vehicle: Vehicle, actions: ArrayLike, first_rows: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Mean action of every map cell, and how often its row was flashed.

    Returns:
        Means, the map's shape, NaN where never flashed; counts, shape (map rows,).
    """
    shape = (len(vehicle.torque_map.speed_axis_kmh), len(vehicle.torque_map.pedal_axis))
    starts = np.asarray(first_rows, dtype=np.int64)
    values = np.asarray(actions, dtype=np.float64).reshape(len(starts), FLASHED_ROWS, shape[1])
    sums, counts = np.zeros(shape), np.zeros(shape[0], dtype=np.int64)
    for row in range(FLASHED_ROWS):
        np.add.at(sums, starts + row, values[:, row])
        np.add.at(counts, starts + row, 1)
    with np.errstate(invalid="ignore"):
        return sums / np.where(counts > 0, counts, np.nan)[:, None], counts


def _heat(
    figure: Any, axes: Any, grid: TorqueMap, values: ArrayLike, colours: str, limit: float | None, text: str
) -> None:
    import matplotlib as mpl

    colour_map = mpl.colormaps[colours].with_extremes(bad=_NEVER)
    # Cells are drawn evenly: the axes are unevenly spaced, and narrow cells at small pedals matter most.
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(np.asarray(values, dtype=np.float64)),
        cmap=colour_map,
        vmin=None if limit is None else -limit,
        vmax=limit,
        edgecolors="face",
        linewidth=0.4,
    )
    columns, rows = len(grid.pedal_axis), len(grid.speed_axis_kmh)
    axes.set_xticks(np.arange(columns)[::2] + 0.5, [f"{100 * value:.0f}" for value in grid.pedal_axis[::2]])
    step = 1 if rows <= 14 else 2
    axes.set_yticks(np.arange(rows)[::step] + 0.5, [f"{value:g}" for value in grid.speed_axis_kmh[::step]])
    axes.set_xlabel("accelerator pedal in %")
    axes.grid(visible=False)
    figure.colorbar(mesh, ax=axes, label=text, pad=0.02)
