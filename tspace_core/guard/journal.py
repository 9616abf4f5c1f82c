"""What the guard writes into the audit log: the same fields with every event."""

import hashlib
from typing import Any

import numpy as np

from tspace_core.config.vehicle import Vehicle
from tspace_core.guard.audit import AuditLog
from tspace_core.guard.state import Accepted, GuardState, Rows


class Journal:
    """The audit log of one vehicle's guard.

    Every line names the vehicle, its VIN as a hash, the guard's state and cause, and whether the reference
    page was known to be in effect; after a crash the last line says what may have been left behind.
    """

    def __init__(self, audit: AuditLog, vehicle: Vehicle) -> None:
        self._audit = audit
        self._vehicle = {
            "vehicle": vehicle.id,
            "vin_sha256": hashlib.sha256(vehicle.vin.encode()).hexdigest(),
        }

    def write(self, event: str, state: GuardState, cause: str, *, confirmed: bool, **fields: Any) -> None:
        """Write one event, on the disk before this returns.

        Raises:
            AuditError: it is not.
        """
        self._audit.append(event, **self._vehicle, guard=state, cause=cause, reference=confirmed, **fields)

    def flash(self, state: GuardState, cause: str, answer: Accepted, rows: slice, **about: Any) -> None:
        """Announce the flash of an accepted map, which differs from the live one in ``rows``.

        Raises:
            AuditError: it is not on the disk.
        """
        self.write(
            "flash",
            state,
            cause,
            confirmed=False,
            first_row=rows.start,
            rows=rows_hex(answer.table.table[rows]),
            clipped=answer.clipped,
            map_sha256=answer.table.sha256(),
            **about,
        )


def rows_hex(rows: Rows) -> str:
    """Rows as 8 hex digits a cell: float32, little endian, row by row."""
    return np.ascontiguousarray(rows, dtype="<f4").tobytes().hex()


def rows_sha256(rows: Any) -> str:
    """Hash over proposed rows, whatever they are."""
    return hashlib.sha256(np.ascontiguousarray(rows).tobytes()).hexdigest()
