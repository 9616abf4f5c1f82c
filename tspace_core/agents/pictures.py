"""Pictures of a policy for people to judge."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tspace_core.storage.replay import Replay

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TYPICAL_STATES = 6
_SCANNED = 20_000


def typical_states(
    replay: Replay, count: int = TYPICAL_STATES
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """States spread evenly over the map rows that were flashed.

    Of the buffer's records, sorted by first row and then by the window's highest value of the first signal
    (velocity), those in the middle of ``count`` equal parts.

    Returns:
        States (count, state_dim) and the first map row of each (count,); fewer if the buffer is smaller.
    """
    total = len(replay)
    batch = replay.pick(np.unique(np.linspace(0, total - 1, min(total, _SCANNED)).astype(np.int64)))
    signals = len(replay.layout.signals)
    speed = batch.states.reshape(len(batch.states), -1, signals)[:, :, 0].max(axis=1)
    order = np.lexsort((speed, batch.first_rows))
    count = min(count, len(order))
    chosen = order[((np.arange(count) + 0.5) * len(order) / count).astype(np.int64)]
    return batch.states[chosen].copy(), batch.first_rows[chosen].astype(np.int64)


def map_change_figure(
    policy: Callable[[NDArray[np.float32]], NDArray[np.float32]], replay: Replay
) -> "Figure":
    """The policy's torque map change, in Nm over pedal and speed, in typical states of a buffer.

    Args:
        policy: States (n, state_dim) to actions (n, rows x columns) in [-1, 1].
        replay: Gives the states, the axes and the torque budget.
    """
    from matplotlib.figure import Figure

    layout = replay.layout
    states, rows = typical_states(replay)
    columns = len(layout.pedal_axis)
    changes = policy(states).reshape(len(states), -1, columns) * layout.budget_nm
    figure = Figure(figsize=(13, 7), layout="constrained")
    axes = figure.subplots(2, -(-len(states) // 2), squeeze=False).ravel()
    image = None
    for axis, state, row, change in zip(axes, states, rows, changes, strict=False):
        speeds = layout.speed_axis_kmh[row : row + len(change)]
        image = axis.imshow(
            change,
            aspect="auto",
            origin="lower",
            cmap="RdBu_r",
            vmin=-layout.budget_nm,
            vmax=layout.budget_nm,
        )
        axis.set_yticks(range(len(speeds)), [f"{speed:g}" for speed in speeds])
        axis.set_xticks(range(0, columns, 4), [f"{layout.pedal_axis[k]:.0%}" for k in range(0, columns, 4)])
        axis.set_title(_title(state, layout.signals), fontsize=9)
        axis.set_xlabel("pedal")
        axis.set_ylabel("speed, km/h")
    for axis in axes[len(states) :]:
        axis.set_axis_off()
    if image is not None:
        figure.colorbar(image, ax=axes.tolist(), label="change of torque, Nm")
    figure.suptitle("change of the torque map in typical states")
    return figure


def _title(state: NDArray[np.float32], signals: tuple[str, ...]) -> str:
    means = state.reshape(-1, len(signals)).mean(axis=0)
    return ", ".join(f"{name} {mean:.0f}" for name, mean in zip(signals, means, strict=True))
