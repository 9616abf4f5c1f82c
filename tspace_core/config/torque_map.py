"""The pedal-torque map: axes, table, the rows a flash changes, and what a flash may do to them.

Definitions: first row, flash formula and CSV form are the field's (pedal axis in the first row, speed axis
in the first column, cells in Nm).
"""

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tspace_core.errors import ConfigError

FLASHED_ROWS = 4
Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class TorqueMap:
    """A table of torque over speed (rows) and accelerator pedal (columns).

    Attributes:
        pedal_axis: pedal position as a fraction of full travel, ascending, shape (columns,).
        speed_axis_kmh: speed in km/h, ascending, shape (rows,).
        table: torque in Nm, float32, shape (rows, columns); read-only.
    """

    pedal_axis: Floats
    speed_axis_kmh: Floats
    table: Floats

    def __post_init__(self) -> None:
        for name in ("pedal_axis", "speed_axis_kmh", "table"):
            array = np.array(getattr(self, name), dtype=np.float32)
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        expected = (len(self.speed_axis_kmh), len(self.pedal_axis))
        if self.table.shape != expected:
            message = f"torque table has shape {self.table.shape}, its axes ask for {expected}"
            raise ConfigError(message)
        for name in ("pedal_axis", "speed_axis_kmh"):
            axis = getattr(self, name)
            if len(axis) < 2 or not np.all(np.isfinite(axis)) or np.any(np.diff(axis) <= 0):
                message = f"{name} must have at least 2 finite ascending values, got {axis.tolist()}"
                raise ConfigError(message)
        if not np.all(np.isfinite(self.table)):
            row, column = np.argwhere(~np.isfinite(self.table))[0]
            message = f"torque table has no finite value in row {row}, column {column}; give a number in Nm"
            raise ConfigError(message)
        if len(self.speed_axis_kmh) < FLASHED_ROWS:
            message = (
                f"torque table has {len(self.speed_axis_kmh)} rows, a flash needs at least {FLASHED_ROWS}"
            )
            raise ConfigError(message)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TorqueMap):
            return NotImplemented
        return all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("pedal_axis", "speed_axis_kmh", "table")
        )

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def from_csv(cls, path: Path) -> "TorqueMap":
        """Read the field's CSV form.

        Raises:
            ConfigError: names file, line and cell that is no number, or a ragged row.
        """
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                lines = [line for line in csv.reader(file) if any(cell.strip() for cell in line)]
        except FileNotFoundError as error:
            message = f"{path}: there is no such torque map; create it or correct torque_map.default_csv"
            raise ConfigError(message) from error
        if not lines:
            message = (
                f"{path}: empty; expected the pedal axis in the first row and a speed in each row after it"
            )
            raise ConfigError(message)
        pedal = _numbers(path, 1, lines[0][1:])
        rows = [_numbers(path, number, line) for number, line in enumerate(lines[1:], start=2)]
        for number, row in enumerate(rows, start=2):
            if len(row) != len(pedal) + 1:
                message = f"{path}, row {number}: {len(row) - 1} cells, the pedal axis has {len(pedal)}"
                raise ConfigError(message)
        values = np.array(rows, dtype=np.float32).reshape(len(rows), len(pedal) + 1)
        return cls(np.array(pedal, dtype=np.float32), values[:, 0], values[:, 1:])

    def to_csv(self, path: Path) -> None:
        """Write the field's CSV form; every float32 reads back unchanged."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["", *(_text(value) for value in self.pedal_axis)])
            for speed, row in zip(self.speed_axis_kmh, self.table, strict=True):
                writer.writerow([_text(speed), *(_text(value) for value in row)])

    def first_row(self, speed_kmh: ArrayLike) -> NDArray[np.int32]:
        """First flashed row for the highest speed of a window, clamped so that all 4 rows exist.

        Args:
            speed_kmh: highest speed of the window in km/h, any shape.

        Returns:
            Row index, int32, the same shape.
        """
        speed = np.asarray(speed_kmh, dtype=np.float64)
        last = len(self.speed_axis_kmh) - FLASHED_ROWS
        row = np.floor((speed - 30.0) / 10.0) + 2.0
        row = np.where(speed < 30.0, 1.0, row)
        row = np.where(speed < 20.0, 0.0, row)
        row = np.where(speed >= 120.0, last, row)
        return np.clip(row, 0, last).astype(np.int32)

    def flashed(
        self,
        action: ArrayLike,
        first_row: int,
        default: "TorqueMap",
        *,
        budget_nm: float,
        upper_factor: float,
    ) -> "TorqueMap":
        """The live map after a flash: 4 rows become ``default + action * budget``, clipped.

        The limits are ``[default - budget, upper]``; where a small ``upper_factor`` makes them contradict
        each other, the upper one wins.

        Args:
            action: 4 rows x columns in [-1, 1], flat or not.
            first_row: index of the first of the 4 rows.
            default: the default map that the budget is measured against, never a learned one.
            budget_nm: largest change in Nm.
            upper_factor: upper limit as a factor of the default where the default is positive.

        Returns:
            A new map; this one is unchanged.

        Raises:
            ConfigError: the action has another shape, is not finite, or the rows do not exist.
        """
        columns = len(self.pedal_axis)
        values = np.asarray(action, dtype=np.float32)
        if values.size != FLASHED_ROWS * columns or not np.all(np.isfinite(values)):
            message = f"an action has {FLASHED_ROWS} x {columns} finite values, got shape {values.shape}"
            raise ConfigError(message)
        if not 0 <= first_row <= len(self.speed_axis_kmh) - FLASHED_ROWS:
            message = (
                f"first row {first_row} leaves no {FLASHED_ROWS} rows in a map of {len(self.speed_axis_kmh)}"
            )
            raise ConfigError(message)
        rows = slice(first_row, first_row + FLASHED_ROWS)
        wanted = values.reshape(FLASHED_ROWS, columns)
        table = self.table.copy()
        table[rows] = _within_limits(default.table[rows], wanted, budget_nm, upper_factor)
        return TorqueMap(self.pedal_axis, self.speed_axis_kmh, table)

    def flashed_rows(
        self, actions: Floats, first_rows: NDArray[np.integer], *, budget_nm: float, upper_factor: float
    ) -> tuple[Floats, NDArray[np.bool_]]:
        """The rows that many actions would flash on this map as the default, by the formula of ``flashed``.

        Args:
            actions: (n, 4 x columns) float32, finite.
            first_rows: (n,), index of the first of each action's 4 rows.
            budget_nm: largest change in Nm.
            upper_factor: upper limit as a factor of this map where it is positive.

        Returns:
            (n, 4, columns) torque in Nm, and the same shape: whether the cell asked for more than the limits
            allow.
        """
        windows = np.lib.stride_tricks.sliding_window_view(self.table, FLASHED_ROWS, axis=0)
        reference = windows.transpose(0, 2, 1)[first_rows]
        values = actions.reshape(reference.shape)
        torque = _within_limits(reference, values, budget_nm, upper_factor)
        return torque, torque != reference + values * np.float32(budget_nm)

    def torque(self, pedal: ArrayLike, speed_kmh: ArrayLike) -> NDArray[np.float64]:
        """Bilinear interpolation, clamped at the axes' ends.

        Args:
            pedal: fraction of full travel.
            speed_kmh: speed in km/h, broadcast against ``pedal``.

        Returns:
            Torque in Nm, float64, the broadcast shape.
        """
        pedal_index, pedal_share = _position(self.pedal_axis, pedal)
        speed_index, speed_share = _position(self.speed_axis_kmh, speed_kmh)
        table = self.table.astype(np.float64)
        low = (
            table[speed_index, pedal_index] * (1 - pedal_share)
            + table[speed_index, pedal_index + 1] * pedal_share
        )
        high = (
            table[speed_index + 1, pedal_index] * (1 - pedal_share)
            + table[speed_index + 1, pedal_index + 1] * pedal_share
        )
        return np.asarray(low * (1 - speed_share) + high * speed_share)

    def sha256(self) -> str:
        """Hash over axes and table (float32, little endian): the identity of a reference map."""
        digest = hashlib.sha256()
        for array in (self.pedal_axis, self.speed_axis_kmh, self.table):
            digest.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
        return digest.hexdigest()


def _within_limits(reference: Floats, values: Floats, budget_nm: float, upper_factor: float) -> Floats:
    """``reference + values * budget``, clipped; any shape (..., 4, columns)."""
    budget = np.float32(budget_nm)
    upper = np.where(reference > 0, reference * np.float32(upper_factor), reference)
    wanted = reference + np.clip(values, -1, 1) * budget
    clipped: Floats = np.clip(wanted, reference - budget, upper)
    return clipped


def _text(value: np.float32) -> str:
    """Shortest decimal that reads back as the same float32."""
    return np.format_float_positional(value, trim="-")


def _numbers(path: Path, row: int, cells: list[str]) -> list[float]:
    numbers = []
    for column, cell in enumerate(cells, start=1):
        try:
            numbers.append(float(cell))
        except ValueError as error:
            message = f"{path}, row {row}, column {column}: {cell!r} is no number"
            raise ConfigError(message) from error
    return numbers


def _position(axis: Floats, value: ArrayLike) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    wide = axis.astype(np.float64)
    clamped = np.clip(np.asarray(value, dtype=np.float64), wide[0], wide[-1])
    index = np.clip(np.searchsorted(wide, clamped, side="right") - 1, 0, len(wide) - 2)
    return index, (clamped - wide[index]) / (wide[index + 1] - wide[index])
