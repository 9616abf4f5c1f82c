"""Resources that several areas use."""

from pathlib import Path
from typing import Any, cast

import dagster as dg
from pydantic import Field

from tspace_core.storage.lake import Lake


class LakeResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The lake that all assets read and write: on a disk, or in a bucket of the object storage."""

    data_dir: str = Field(description="what stays on this machine, and the lake where there is no lake_url")
    lake_url: str | None = Field(default=None, description="root of the lake as s3://bucket/prefix")
    s3: dg.ConfigurableResource | None = None  # type: ignore[type-arg]
    """The ``ObjectStorageResource`` of a lake in a bucket."""

    def open(self) -> Lake:
        """The lake.

        Raises:
            ConfigError: its object storage is another than the settings name, or cannot be used.
        """
        if self.lake_url is None:
            return Lake(Path(self.data_dir))
        if self.s3 is not None:
            cast("Any", self.s3).get_client()
        return Lake(self.lake_url, local=Path(self.data_dir))


class ReportsResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Where reports for people are written."""

    out_dir: str = Field(description="root of the reports")

    def folder(self, name: str) -> Path:
        """The folder of that name, made if it is not there."""
        path = Path(self.out_dir) / name
        path.mkdir(parents=True, exist_ok=True)
        return path
