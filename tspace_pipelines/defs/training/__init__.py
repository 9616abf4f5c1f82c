"""Training of agents, by hand, nightly and after new episodes."""

import dagster as dg

from tspace_core.config import settings
from tspace_pipelines.defs.training import assets, jobs, schedules, sensors
from tspace_pipelines.defs.training.resources import RetrainingResource, TrackingResource


def definitions() -> dg.Definitions:
    """The area's definitions."""
    found = settings()
    return dg.Definitions(
        assets=[assets.ddpg_checkpoint],
        jobs=[jobs.retrain],
        schedules=[schedules.nightly_retraining],
        sensors=[sensors.retraining_sensor],
        resources={
            "tracking": TrackingResource(uri=found.tracking_uri, artifacts=_artifacts()),
            "retraining": RetrainingResource(),
        },
    )


def _artifacts() -> str | None:
    """As ``agents.tracking.artifact_folder``, but without its imports; None where a server keeps them."""
    found = settings()
    if found.mlflow_uri:
        return None
    return f"{found.lake_url}/mlflow" if found.lake_url else str(found.data_dir / "mlartifacts")
