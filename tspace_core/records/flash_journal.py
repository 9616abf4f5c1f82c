"""The flash journal: which rows of the torque map took effect when, beside a raw log.

One JSON object a line::

    {"time_ns": 12500000000, "first_row": 2, "torque_nm": [[...17] x 4], "result": "APPLIED"}

``time_ns`` is on the log's clock, the instant the flash took effect. ``result`` is APPLIED, REVERTED (rolled
back: the map from before is live) or UNKNOWN (no acknowledgement: what is live is not known).
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tspace_core.can.report import ReadReport
from tspace_core.config import TorqueMap
from tspace_core.errors import RecordError
from tspace_core.records.policy import ACTION_DIM, ACTION_ROWS

FlashResult = Literal["APPLIED", "REVERTED", "UNKNOWN"]

TORN_LINE = "flash journal: last line cut off"
_TORN_HEAD = re.compile(r'\{"time_ns": (\d{1,19}), "first_row": (\d{1,4}),')
_CLIPPED = np.float32(1.0 + 1e-4)
"""An action beyond it was clipped, not rounded."""


@dataclass(frozen=True, eq=False)
class Flash:
    """One flash: 4 consecutive rows of the torque map.

    Attributes:
        time_ns: instant it took effect, ns on the log's clock.
        first_row: index of the first of the 4 rows.
        torque_nm: shape (4, 17) float32, Nm as written.
        result: what became of it.
    """

    time_ns: int
    first_row: int
    torque_nm: NDArray[np.float32]
    result: FlashResult

    def to_json(self) -> str:
        """Return the journal's line, without its line end."""
        return json.dumps(
            {
                "time_ns": self.time_ns,
                "first_row": self.first_row,
                "torque_nm": [[float(cell) for cell in row] for row in self.torque_nm],
                "result": self.result,
            }
        )


def write_journal(path: Path, flashes: Iterable[Flash]) -> None:
    """Write a journal, a line a flash."""
    path.write_text("".join(f"{flash.to_json()}\n" for flash in flashes), encoding="utf-8")


def read_journal(path: Path, default: TorqueMap, report: ReadReport | None = None) -> list[Flash]:
    """Read a journal in the order of its lines.

    A last line without an end that is no whole flash, as a crash of its writer leaves it, costs only itself:
    counted in ``report`` with its place. Where its time and rows can be read it becomes a flash of result
    UNKNOWN, since the rows may have been flashed.

    Raises:
        RecordError: names the line, what is wrong with it, and the form that is expected.
    """
    flashes: list[Flash] = []
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        message = (
            f"{path}: no flash journal, byte {error.start} is no UTF-8; give the journal that was written"
        )
        raise RecordError(message) from error
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            flashes.append(_parse(line, default))
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines) and not text.endswith("\n") and not line.rstrip().endswith("}"):
                torn = _torn(line, default)
                flashes.extend(torn)
                if report is not None:
                    told = "its rows are unknown from then on" if torn else "its time and rows are lost, too"
                    detail = f"{line[:40]!r} is no whole flash; {told}"
                    report.drop(TORN_LINE, place=f"{path}, line {number}", detail=detail)
                continue
            message = (
                f"{path}, line {number}: {error!r}; expected "
                '{"time_ns": int, "first_row": int, "torque_nm": [[17 numbers] x 4], '
                '"result": "APPLIED" | "REVERTED" | "UNKNOWN"}: correct or remove the line'
            )
            raise RecordError(message) from error
    return flashes


def _parse(line: str, default: TorqueMap) -> Flash:
    entry = json.loads(line)
    columns = len(default.pedal_axis)
    torque = np.asarray(entry["torque_nm"], np.float32)
    first_row, result = int(entry["first_row"]), entry["result"]
    if torque.shape != (ACTION_ROWS, columns) or not np.isfinite(torque).all():
        message = f"torque_nm has shape {torque.shape}, expected ({ACTION_ROWS}, {columns}) finite numbers"
        raise ValueError(message)
    if not 0 <= first_row <= len(default.speed_axis_kmh) - ACTION_ROWS:
        message = f"first_row {first_row} is outside 0..{len(default.speed_axis_kmh) - ACTION_ROWS}"
        raise ValueError(message)
    if result not in get_args(FlashResult):
        message = f"result {result!r} is none of {', '.join(get_args(FlashResult))}"
        raise ValueError(message)
    return Flash(int(entry["time_ns"]), first_row, torque, result)


def _torn(line: str, default: TorqueMap) -> list[Flash]:
    head = _TORN_HEAD.match(line)
    if head is None or int(head[2]) > len(default.speed_axis_kmh) - ACTION_ROWS:
        return []
    nothing = np.zeros((ACTION_ROWS, len(default.pedal_axis)), np.float32)
    return [Flash(int(head[1]), int(head[2]), nothing, "UNKNOWN")]


def as_action(
    live: NDArray[np.float32], default: NDArray[np.float32], budget_nm: float | np.float32
) -> tuple[NDArray[np.float32], bool]:
    """Return the action that made 4 rows of the default map what is live, and whether it had to be clipped.

    Args:
        live: (4, 17) float32, Nm.
        default: the same rows of the default map.
        budget_nm: torque of an action of 1.

    Returns:
        (live - default) / budget clipped to [-1, 1], shape (68,) float32, and whether a cell lay beyond.
    """
    change = (live - default) / np.float32(budget_nm)
    action = np.asarray(np.clip(change, -1.0, 1.0), np.float32).reshape(ACTION_DIM)
    return action, bool((np.abs(change) > _CLIPPED).any())


class LiveMap:
    """The map that is live, flash by flash, beginning with the default.

    A flash without acknowledgement leaves its rows unknown until one that was applied writes them.
    """

    def __init__(self, default: TorqueMap, budget_nm: float) -> None:
        self._default = default.table
        self._live = default.table.copy()
        self._budget = np.float32(budget_nm)
        self._known = np.ones(len(default.table), np.bool_)

    def take(self, flash: Flash) -> None:
        """Let a flash take effect; only an applied one changes the map, an unknown one blurs its rows."""
        rows = slice(flash.first_row, flash.first_row + ACTION_ROWS)
        if flash.result == "APPLIED":
            self._live[rows] = flash.torque_nm
            self._known[rows] = True
        elif flash.result == "UNKNOWN":
            self._known[rows] = False

    def knows(self, first_row: int) -> bool:
        """Return whether it is known what the 4 rows hold."""
        return bool(self._known[first_row : first_row + ACTION_ROWS].all())

    def action(self, first_row: int) -> NDArray[np.float32]:
        """Return 4 rows as (live - default) / budget, clipped to [-1, 1], shape (68,)."""
        return self._change(first_row)[0]

    def exceeds_budget(self, first_row: int) -> bool:
        """Return whether ``action`` clips: a flash of the 4 rows went beyond the budget."""
        return self._change(first_row)[1]

    def _change(self, first_row: int) -> tuple[NDArray[np.float32], bool]:
        rows = slice(first_row, first_row + ACTION_ROWS)
        return as_action(self._live[rows], self._default[rows], self._budget)

    @property
    def is_default(self) -> bool:
        """Whether no row differs from the default."""
        return bool(np.array_equal(self._live, self._default))
