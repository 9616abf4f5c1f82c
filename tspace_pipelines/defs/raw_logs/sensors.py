"""New logs: from the watched folder or bucket, or from boxes' windows, into the lake, and on to episodes."""

import dagster as dg

from tspace_pipelines.defs.raw_logs.jobs import logs_to_episodes
from tspace_pipelines.defs.raw_logs.resources import BoxesResource, BucketInboxResource, InboxResource
from tspace_pipelines.inbox import Taken, from_cursor, to_cursor
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
    return _result(context, taken, to_cursor(taken.seen))


@dg.sensor(
    job=logs_to_episodes,
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Takes objects of <inbox_url>/<vehicle id>/<log> into the lake, adds their partitions and starts "
        "their runs. What cannot be taken is reported once and has a .refused.txt beside it."
    ),
)
def bucket_sensor(
    context: dg.SensorEvaluationContext, lake: LakeResource, bucket_inbox: BucketInboxResource
) -> dg.SensorResult:
    """Store new logs of the bucket and request one run each."""
    from tspace_pipelines.bucket_inbox import Position

    position = Position.from_cursor(context.cursor)
    taken = bucket_inbox.take(lake.open(), position)
    return _result(context, taken, position.to_cursor())


@dg.sensor(
    job=logs_to_episodes,
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Collects what telematics boxes uploaded outside online runs; makes each drive that is over a raw "
        "log, adds its partition and starts its run. Windows that cannot be used go to the quarantine."
    ),
)
def box_sensor(
    context: dg.SensorEvaluationContext, lake: LakeResource, boxes: BoxesResource
) -> dg.SensorResult:
    """Collect windows; request one run for each log that is sealed."""
    name = str(LOGS.name)
    found, keys = boxes.collect(lake.open(), lambda key: context.instance.has_dynamic_partition(name, key))
    for url, reason in found.refused.items():
        context.log.warning("not taken: %s: %s", url, reason)
    if found.behind:
        context.log.warning("not all windows fetched yet, the next look goes on: %s", ", ".join(found.behind))
    if not keys:
        said = (
            f"{found.windows} windows fetched, {found.waiting} of drives that may go on, {found.left_out} of "
            f"online runs left out, {len(found.refused)} refused"
        )
        return dg.SensorResult(skip_reason=said)
    return dg.SensorResult(
        run_requests=[dg.RunRequest(run_key=key, partition_key=key) for key in keys],
        dynamic_partitions_requests=[LOGS.build_add_request(keys)],
    )


def _result(context: dg.SensorEvaluationContext, taken: Taken, cursor: str) -> dg.SensorResult:
    for name, reason in taken.refused.items():
        context.log.warning("not taken: %s: %s", name, reason)
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
