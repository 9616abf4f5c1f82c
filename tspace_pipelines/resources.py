"""Resources that several areas use."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from tspace_core.storage.lake import Lake


class LakeResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The lake that all assets read and write."""

    data_dir: str = Field(description="root of the lake")

    def open(self) -> Lake:
        """The lake."""
        return Lake(Path(self.data_dir))


class ReportsResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Where reports for people are written."""

    out_dir: str = Field(description="root of the reports")

    def folder(self, name: str) -> Path:
        """The folder of that name, made if it is not there."""
        path = Path(self.out_dir) / name
        path.mkdir(parents=True, exist_ok=True)
        return path
