"""Partitions of the assets.

``logs``: one key ``vehicle/date/name`` a raw log in the lake, added as logs arrive. The slash works in
Dagster's command line, storage and page addresses; only ``...`` and control characters are refused in a key.
``vehicles``: the names of the files in conf/vehicles.
"""

import dagster as dg

from tspace_core.config import vehicle_ids
from tspace_core.errors import StorageError

LOGS = dg.DynamicPartitionsDefinition(name="logs")
VEHICLES = dg.StaticPartitionsDefinition(vehicle_ids())


def vehicle_of(log_key: str) -> str:
    """The vehicle id in a log's key."""
    return log_key.split("/", 1)[0]


def partition_key(log_key: str) -> str:
    """The log's key, as a partition key.

    Raises:
        StorageError: Dagster cannot have it as a partition key.
    """
    if "..." in log_key:
        message = f"log {log_key!r}: Dagster has no partition whose name holds '...'; rename the log"
        raise StorageError(message)
    return log_key
