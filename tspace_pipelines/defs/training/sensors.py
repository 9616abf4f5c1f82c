"""Retraining after enough new episodes."""

import dagster as dg

from tspace_pipelines.defs.training.jobs import retrain
from tspace_pipelines.defs.training.resources import RetrainingResource
from tspace_pipelines.new_episodes import Progress, advance, forget

CHECKPOINT = dg.AssetKey("ddpg_checkpoint")


@dg.sensor(
    job=retrain,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Retrains a vehicle's agent when enough new episodes have passed their check.",
)
def retraining_sensor(context: dg.SensorEvaluationContext, retraining: RetrainingResource) -> dg.SensorResult:
    """Request a retraining for each vehicle with enough new checked episodes."""
    progress = Progress.from_cursor(context.cursor)
    found = advance(context.instance, progress, CHECKPOINT)
    enough = {
        vehicle: new for vehicle, new in sorted(found.items()) if new.episodes >= retraining.new_episodes
    }
    for new in enough.values():
        forget(progress, new)
    cursor = progress.to_cursor()
    if not enough:
        counts = ", ".join(f"{vehicle} {new.episodes}" for vehicle, new in sorted(found.items())) or "none"
        reason = f"new checked episodes: {counts}; {retraining.new_episodes} start a retraining"
        return dg.SensorResult(skip_reason=reason, cursor=cursor)
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(run_key=f"{vehicle}#{new.newest}", partition_key=vehicle)
            for vehicle, new in enough.items()
        ],
        cursor=cursor,
    )
