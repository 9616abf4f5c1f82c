"""Replay buffers follow new episodes.

A vehicle's buffer depends on the logs of that vehicle alone. Dagster cannot map a dynamic partition by the
text of its key, and an eager condition would rebuild every vehicle's buffer for one new log; so a sensor does
what the condition would, for exactly the vehicles concerned.
"""

import dagster as dg

from tspace_pipelines.defs.replay.jobs import build_replay_buffer
from tspace_pipelines.new_episodes import Progress, advance, forget

REPLAY = dg.AssetKey("replay_buffer")


@dg.sensor(
    job=build_replay_buffer,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Builds the replay buffer of every vehicle that has new episodes whose check has passed.",
)
def replay_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Request a buffer for each vehicle with new checked episodes."""
    progress = Progress.from_cursor(context.cursor)
    found = advance(context.instance, progress, [REPLAY])
    requests = [
        dg.RunRequest(run_key=f"{vehicle}#{new.newest}", partition_key=vehicle)
        for vehicle, new in sorted(found.items())
    ]
    for new in found.values():
        forget(progress, new)
    cursor = progress.to_cursor()
    if not requests:
        return dg.SensorResult(skip_reason="no new checked episodes", cursor=cursor)
    return dg.SensorResult(run_requests=requests, cursor=cursor)
