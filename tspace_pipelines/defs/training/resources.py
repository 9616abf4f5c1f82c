"""Where training runs are tracked."""

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

if TYPE_CHECKING:
    from tspace_core.agents.tracking import Tracker


class TrackingResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """MLflow, imported when a tracker is asked for."""

    uri: str = Field(description="tracking store")
    artifacts: str | None = Field(default=None, description="folder of the pictures, for a local store")

    def tracker(self, vehicle_id: str, run: str) -> "Tracker":
        """A tracker for one training run."""
        from tspace_core.agents.tracking import Tracker

        return Tracker(
            self.uri,
            experiment=f"tspace/{vehicle_id}",
            artifacts=Path(self.artifacts) if self.artifacts else None,
            run_name=run,
        )


class RetrainingResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """When new episodes are worth a retraining."""

    new_episodes: int = Field(
        default=20, ge=1, description="new checked episodes of a vehicle that start one"
    )
