"""Jobs from raw logs to episodes."""

import dagster as dg

from tspace_pipelines.defs.raw_logs.resources import InboxResource
from tspace_pipelines.partitions import LOGS, partition_key
from tspace_pipelines.resources import LakeResource

logs_to_episodes = dg.define_asset_job(
    "logs_to_episodes",
    selection=["raw_can_logs", "can_frames", "can_signals", "episodes"],
    description="One log, from the raw file to checked episodes.",
    tags={"tspace/lane": "logs"},
)


@dg.op(
    description="Takes what is complete in the inbox and adds a partition for every raw log in the lake.",
    out=dg.Out(dg.Nothing),
)
def register_raw_logs(context: dg.OpExecutionContext, lake: LakeResource, inbox: InboxResource) -> None:
    """Take the inbox, then add the partitions of all raw logs that have none."""
    found = lake.open()
    taken = inbox.take(found, {})
    for name, reason in taken.refused.items():
        context.log.warning("not taken from the inbox: %s: %s", name, reason)
    for name in taken.waiting:
        context.log.warning("not complete yet, run the job again in some seconds: %s", name)
    keys = [partition_key(log.key) for log in found.raw_logs()]
    known = set(context.instance.get_dynamic_partitions(str(LOGS.name)))
    new = [key for key in keys if key not in known]
    if new:
        context.instance.add_dynamic_partitions(str(LOGS.name), new)
    context.log.info("%d raw logs, %d new partitions: %s", len(keys), len(new), ", ".join(new[:20]))


@dg.job(
    description="Makes every raw log of the lake and of the inbox known as a partition.",
    tags={"tspace/lane": "logs"},
)
def register_logs() -> None:
    """Make every raw log known as a partition."""
    register_raw_logs()
