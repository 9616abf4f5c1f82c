"""Where requests for online episodes lie."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from tspace_core.config import vehicle_ids
from tspace_core.link.requests import Spool


class OnlineResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The spools of all vehicles."""

    folder: str = Field(description="state of online runs, a folder a vehicle")

    def spools(self) -> list[Spool]:
        """One spool a vehicle that was ever asked for."""
        return [Spool(Path(self.folder), name) for name in vehicle_ids() if Path(self.folder, name).is_dir()]
