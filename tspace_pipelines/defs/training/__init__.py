"""Training of agents, by hand, nightly and after new episodes."""

import dagster as dg

from tspace_core.config import settings
from tspace_pipelines.defs.training import assets, jobs, schedules, sensors
from tspace_pipelines.defs.training.resources import RetrainingResource, TrackingResource
from tspace_pipelines.engine_resource import engine_resource


def definitions() -> dg.Definitions:
    """The area's definitions."""
    found = settings()
    retraining = found.retraining
    return dg.Definitions(
        assets=assets.checkpoints(retraining.agents),
        jobs=[jobs.retrain(retraining.agents), jobs.train_all_agents],
        schedules=[schedules.nightly_retraining],
        sensors=[sensors.retraining_sensor],
        resources={
            "tracking": TrackingResource(uri=found.tracking_uri, artifacts=_artifacts()),
            "retraining": RetrainingResource(
                agents=list(retraining.agents), new_episodes=retraining.new_episodes
            ),
            "engine": engine_resource(found.engine),
        },
    )


def _artifacts() -> str | None:
    """As ``agents.tracking.artifact_folder``, but without its imports; None where a server keeps them."""
    found = settings()
    if found.mlflow_uri:
        return None
    return f"{found.lake_url}/mlflow" if found.lake_url else str(found.data_dir / "mlartifacts")
