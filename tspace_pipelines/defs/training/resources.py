"""Where training runs are tracked."""

from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

if TYPE_CHECKING:
    from tspace_core.agents.tracking import Tracker


class TrackingResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """MLflow, imported when a tracker is asked for."""

    uri: str = Field(description="tracking store")
    artifacts: str | None = Field(
        default=None, description="where pictures go, a folder or s3://..., for a local store"
    )

    def tracker(self, vehicle_id: str, run: str) -> "Tracker":
        """A tracker for one training run."""
        from tspace_core.agents.tracking import Tracker
        from tspace_core.objects.path import any_path

        return Tracker(
            self.uri,
            experiment=f"tspace/{vehicle_id}",
            artifacts=any_path(self.artifacts) if self.artifacts else None,
            run_name=run,
        )


class RetrainingResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """What is retrained, and when new episodes are worth it."""

    agents: list[str] = Field(default=["ddpg"], description="trained in one run a vehicle")
    new_episodes: int = Field(
        default=20, ge=1, description="new checked episodes of a vehicle that start one"
    )

    @property
    def checkpoints(self) -> list[dg.AssetKey]:
        """The assets of the agents."""
        return [dg.AssetKey(f"{agent}_checkpoint") for agent in self.agents]
