"""Where new logs arrive."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from tspace_core.storage.lake import Lake
from tspace_pipelines.inbox import Seen, Taken, take


class InboxResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The watched folder ``<folder>/<vehicle id>/<log>``."""

    folder: str = Field(description="watched folder")
    min_age_s: float = Field(
        default=5.0, ge=0, description="a file is complete if untouched for this long, s"
    )
    budget_s: float = Field(default=20.0, gt=0, description="no further file is begun after this time, s")

    def take(self, lake: Lake, seen: Seen) -> Taken:
        """Store what is new and complete; see ``tspace_pipelines.inbox.take``."""
        return take(Path(self.folder), lake, seen, min_age_s=self.min_age_s, budget_s=self.budget_s)
