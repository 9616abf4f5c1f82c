"""Rows of the catalogue about flashes: from flash journals beside raw logs, and from online training logs.

How much a flash changes is counted against what the same rows of the map held before it: all rows hold the
default when a log begins. Of an online episode it is known from its records, whose actions say what their 4
rows held. Where it is not known, ``cells_changed`` and ``largest_change_nm`` are null.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tspace_core.config import TorqueMap, load_vehicle
from tspace_core.errors import ConfigError, RecordError, StorageError
from tspace_core.objects.path import local_copy
from tspace_core.records.episode import Episode, RecordFlag
from tspace_core.records.flash_journal import Flash, read_journal
from tspace_core.records.policy import ACTION_ROWS
from tspace_core.storage import episodes_table, frames_table
from tspace_core.storage.catalogue_tables import Row
from tspace_core.storage.lake import Lake, read_json

SAME_NM = 0.01
"""A cell has changed if its torque differs by more, Nm: actions are kept as float32 shares of the budget."""
_FLASHES = ("APPLIED", "REVERTED", "UNKNOWN", "REFUSED")


class _Known:
    """What rows of the map hold, as far as it is known; Nm, from any origin that all values share."""

    def __init__(self, rows: int, columns: int) -> None:
        self._held: NDArray[np.float64] = np.zeros((rows, columns))
        self._known = np.zeros(rows, np.bool_)

    def learn(self, first_row: int, torque_nm: NDArray[np.floating[Any]]) -> None:
        rows = slice(first_row, first_row + len(torque_nm))
        self._held[rows] = torque_nm
        self._known[rows] = True

    def forget(self, first_row: int) -> None:
        self._known[first_row : first_row + ACTION_ROWS] = False

    def change(self, first_row: int, torque_nm: NDArray[np.floating[Any]]) -> tuple[int | None, float | None]:
        """Cells that differ from what 4 rows hold, and by how much at most, Nm."""
        rows = slice(first_row, first_row + ACTION_ROWS)
        if not self._known[rows].all():
            return None, None
        difference = np.abs(torque_nm - self._held[rows])
        return int((difference > SAME_NM).sum()), float(difference.max())


def vehicle_mark(vehicle_id: str) -> str:
    """Changes with the default map of a vehicle; "-" where there is none."""
    try:
        return load_vehicle(vehicle_id).default_map().sha256()
    except ConfigError:
        return "-"


def journal_rows(lake: Lake, key: str) -> list[Row]:
    """Rows of ``flash_events`` from the flash journal of a raw log; without its signals there is no UTC time.

    Raises:
        StorageError: the journal cannot be read.
    """
    log = lake.log_of(key)
    try:
        default = load_vehicle(log.vehicle_id).default_map()
        flashes = read_journal(local_copy(log.journal), default)
    except (ConfigError, RecordError) as error:
        message = f"its flashes cannot be read: {error}"
        raise StorageError(message) from error
    clock = frames_table.find_metadata(lake.signals(log)) or {}
    offset = clock.get("utc_offset_ns")
    return [
        (
            log.vehicle_id,
            key,
            "journal",
            None if offset is None else flash.time_ns + int(offset),
            flash.first_row,
            flash.result,
            None,
            *change,
        )
        for flash, change in _changes(default, flashes)
    ]


def _changes(
    default: TorqueMap, flashes: list[Flash]
) -> Iterator[tuple[Flash, tuple[int | None, float | None]]]:
    known = _Known(*default.table.shape)
    known.learn(0, default.table)
    for flash in flashes:
        torn = flash.result == "UNKNOWN" and not flash.torque_nm.any()
        yield flash, (None, None) if torn else known.change(flash.first_row, flash.torque_nm)
        if flash.result == "APPLIED":
            known.learn(flash.first_row, flash.torque_nm)
        elif flash.result == "UNKNOWN":
            known.forget(flash.first_row)


def training_rows(lake: Lake, key: str) -> list[Row]:
    """Rows of ``flash_events`` from the training log of an online episode; what only held is no flash.

    Raises:
        StorageError: the log, or a piece of the episode, cannot be read.
    """
    log = lake.log_of(key)
    steps = read_json(lake.training_log(log)).get("steps")
    try:
        flashes = [step for step in steps or () if step["flash"] in _FLASHES]
        if not flashes:
            return []
        pieces = [episodes_table.read(path) for path in lake.episodes(log)]
        changed = _online_changes(pieces, flashes)
        return [
            (
                log.vehicle_id,
                key,
                "online",
                int(step["time_ns"]),
                int(step["first_row"]),
                str(step["flash"]),
                step.get("reason") or None,
                *change,
            )
            for step, change in zip(flashes, changed, strict=True)
        ]
    except (KeyError, TypeError, ValueError, RecordError) as error:
        message = f"it is no training log ({type(error).__name__}: {error}): move it away"
        raise StorageError(message) from error


def _online_changes(
    pieces: list[Episode], flashes: list[dict[str, Any]]
) -> Iterator[tuple[int | None, float | None]]:
    records = {int(piece.times[k]): (piece, k) for piece in pieces for k in range(len(piece))}
    steps = {int(step["time_ns"]): step for step in flashes}
    found: dict[int, tuple[int | None, float | None]] = {}
    known: _Known | None = None
    for time_ns in sorted(records.keys() | steps.keys()):
        if time_ns not in records:
            if known is not None and steps[time_ns]["flash"] in ("APPLIED", "UNKNOWN"):
                known.forget(int(steps[time_ns]["first_row"]))  # its record is lost: what was written is, too
            continue
        piece, k = records[time_ns]
        columns = len(piece.meta.pedal_axis)
        first_row, flags = int(piece.rows[k]), int(piece.flags[k])
        if known is None:
            known = _Known(len(piece.meta.speed_axis_kmh), columns)
        if flags & RecordFlag.ZEROED:
            known.forget(first_row)  # its action says zero, whatever was live
            continue
        offset = piece.actions[k].astype(np.float64).reshape(ACTION_ROWS, columns) * piece.meta.budget_nm
        if time_ns in steps:
            found[time_ns] = known.change(first_row, offset)
        known.learn(first_row, offset)
    return (found.get(int(step["time_ns"]), (None, None)) for step in flashes)
