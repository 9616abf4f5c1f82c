"""Retraining after enough new episodes."""

import dagster as dg

from tspace_pipelines.defs.training.jobs import RETRAIN, unfinished_run
from tspace_pipelines.defs.training.resources import RetrainingResource
from tspace_pipelines.new_episodes import Progress, advance, forget


@dg.sensor(
    job_name=RETRAIN,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Retrains a vehicle's agents when enough new episodes have passed their check.",
)
def retraining_sensor(context: dg.SensorEvaluationContext, retraining: RetrainingResource) -> dg.SensorResult:
    """Request a retraining, one run for all agents, for each vehicle with enough new checked episodes.

    A vehicle whose agents are being retrained waits: what is new after that is asked for then.
    """
    progress = Progress.from_cursor(context.cursor)
    found = advance(context.instance, progress, retraining.checkpoints)
    requests, waiting = [], []
    for vehicle, new in sorted(found.items()):
        if new.episodes < retraining.new_episodes:
            waiting.append(f"{vehicle} {new.episodes}")
        elif run := unfinished_run(context.instance, vehicle):
            waiting.append(f"{vehicle} {new.episodes} (run {run} is not over)")
        else:
            requests.append(dg.RunRequest(run_key=f"{vehicle}#{new.newest}", partition_key=vehicle))
            forget(progress, new)
    cursor = progress.to_cursor()
    if not requests:
        reason = (
            f"new checked episodes: {', '.join(waiting) or 'none'}; {retraining.new_episodes} start a "
            f"retraining of {', '.join(retraining.agents)}"
        )
        return dg.SensorResult(skip_reason=reason, cursor=cursor)
    return dg.SensorResult(run_requests=requests, cursor=cursor)
