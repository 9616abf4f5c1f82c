"""Training of agents, by hand, nightly and after new episodes."""

import dagster as dg

from tspace_core.config import settings
from tspace_pipelines.defs.training import assets, jobs, schedules, sensors
from tspace_pipelines.defs.training.resources import RetrainingResource, TrackingResource


def definitions() -> dg.Definitions:
    """The area's definitions."""
    found = settings()
    artifacts = None if found.mlflow_uri else str(found.data_dir / "mlartifacts")
    return dg.Definitions(
        assets=[assets.ddpg_checkpoint],
        jobs=[jobs.retrain],
        schedules=[schedules.nightly_retraining],
        sensors=[sensors.retraining_sensor],
        resources={
            "tracking": TrackingResource(uri=found.tracking_uri, artifacts=artifacts),
            "retraining": RetrainingResource(),
        },
    )
