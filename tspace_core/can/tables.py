"""Logs that hold samples, not frames: by format, how each is read."""

from collections.abc import Callable, Mapping
from pathlib import Path

from tspace_core.can.readers.registry import TRIP_TABLE, WINDOW_LOG
from tspace_core.can.report import ReadReport
from tspace_core.can.trip_table import TripTable, read_trip_table
from tspace_core.can.window_log import WindowLog, read_window_log
from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import ConfigError

SampleTable = TripTable | WindowLog
"""What such a log holds: ``samples`` by signal, ``time`` of its rows, their count ``rows``."""
READERS: Mapping[str, Callable[[Path, Vehicle, ReadReport], SampleTable]] = {
    TRIP_TABLE: read_trip_table,
    WINDOW_LOG: read_window_log,
}
"""Read a whole log; losses are counted in the report."""


def check_format(form: str, vehicle: Vehicle, place: str) -> None:
    """Hold a log's format against what the vehicle's signals come from; a box's windows fit any vehicle's.

    Raises:
        ConfigError: they do not go together; says which vehicle to choose.
    """
    if form == TRIP_TABLE and not vehicle.from_trip_table:
        message = (
            f"{place} is a trip table, but the signals of vehicle {vehicle.id} come "
            "from CAN messages: choose the vehicle whose file names the table's columns"
        )
        raise ConfigError(message)
    if form not in READERS and vehicle.from_trip_table:
        message = (
            f"{place} is a CAN log ({form}), but the signals of vehicle "
            f"{vehicle.id} come from a trip table: choose the vehicle whose file names CAN messages"
        )
        raise ConfigError(message)
