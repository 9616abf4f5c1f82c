"""Where Dagster's instance stores what it knows: below the data folder of the settings.

``dagster.yaml`` names these classes instead of fixed paths, so that DAGSTER_HOME can be the project's folder
without anything being written there, and an instance always goes with its lake (TSPACE_DATA_DIR).
"""

import fcntl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.root import LocalArtifactStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData

from tspace_core.config import settings


def instance_dir() -> Path:
    """The folder of runs, events, schedules and logs."""
    folder = settings().data_dir / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class DataDirStorage(DagsterSqliteStorage):
    """Runs, events and schedules in SQLite below ``instance_dir()``."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """No settings of its own."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        """Build the storage; ``config_value`` is empty."""
        folder = instance_dir()
        # Of several processes that make the tables at once, Dagster 1.13 lets one fail, or marks the files so
        # that none can open them again: "Version table 'alembic_version' has more than one head".
        with (folder / ".lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            return cls(str(folder), inst_data)


class DataDirArtifacts(LocalArtifactStorage):
    """Files of runs below ``instance_dir()``."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """No settings of its own."""
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Self:
        """Build the storage; ``config_value`` is empty."""
        return cls(str(instance_dir()), inst_data)


class DataDirComputeLogs(LocalComputeLogManager):
    """What steps print, below ``instance_dir()``."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """No settings of its own."""
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Self:
        """Build the log manager; ``config_value`` is empty."""
        return cls(str(instance_dir() / "storage"), inst_data=inst_data)
