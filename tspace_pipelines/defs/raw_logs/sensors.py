"""New logs: from the watched folder into the lake, and on to episodes."""

import dagster as dg

from tspace_pipelines.defs.raw_logs.jobs import logs_to_episodes
from tspace_pipelines.defs.raw_logs.resources import InboxResource
from tspace_pipelines.inbox import from_cursor, to_cursor
from tspace_pipelines.partitions import LOGS
from tspace_pipelines.resources import LakeResource


@dg.sensor(
    job=logs_to_episodes,
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Takes complete files of <inbox>/<vehicle id>/<log> into the lake, adds their partitions and starts "
        "their runs. What cannot be taken is reported once and has a .refused.txt beside it."
    ),
)
def inbox_sensor(
    context: dg.SensorEvaluationContext, lake: LakeResource, inbox: InboxResource
) -> dg.SensorResult:
    """Store new logs and request one run each."""
    taken = inbox.take(lake.open(), from_cursor(context.cursor))
    for name, reason in taken.refused.items():
        context.log.warning("not taken: %s: %s", name, reason)
    cursor = to_cursor(taken.seen)
    if not taken.logs:
        refused = "; ".join(f"not taken: {name}: {reason}" for name, reason in taken.refused.items())
        waiting = f"{len(taken.waiting)} not complete yet" if taken.waiting else "nothing new in the inbox"
        return dg.SensorResult(skip_reason=refused or waiting, cursor=cursor)
    keys = list(dict.fromkeys(taken.logs))
    return dg.SensorResult(
        run_requests=[dg.RunRequest(run_key=f"{key}#{taken.logs[key]}", partition_key=key) for key in keys],
        dynamic_partitions_requests=[LOGS.build_add_request(keys)],
        cursor=cursor,
    )
