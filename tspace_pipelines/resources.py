"""Resources that several areas use."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from tspace_core.storage.lake import Lake


class LakeResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The lake that all assets read and write: on a disk, or in a bucket of the object storage."""

    data_dir: str = Field(description="what stays on this machine, and the lake where there is no lake_url")
    lake_url: str | None = Field(default=None, description="root of the lake as s3://bucket/prefix")

    def open(self) -> Lake:
        """The lake.

        Raises:
            ObjectError: its object storage is set up wrongly.
        """
        if self.lake_url is None:
            return Lake(Path(self.data_dir))
        # Not a nested resource: Dagster 1.13 warns of a call of its own at each one that it sets up.
        from tspace_pipelines.object_storage import object_storage

        object_storage().get_client()
        return Lake(self.lake_url, local=Path(self.data_dir))


class ReportsResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Where reports for people are written."""

    out_dir: str = Field(description="root of the reports")

    def folder(self, name: str) -> Path:
        """The folder of that name, made if it is not there."""
        path = Path(self.out_dir) / name
        path.mkdir(parents=True, exist_ok=True)
        return path
