"""Nightly retraining."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg

from tspace_pipelines.defs.training.jobs import retrain
from tspace_pipelines.partitions import VEHICLES

if TYPE_CHECKING:
    from tspace_pipelines.resources import LakeResource

CHECKPOINT = dg.AssetKey("ddpg_checkpoint")


def _requests(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """One run for each vehicle whose episodes have changed since its last agent."""
    from tspace_core.storage.folders import last_change
    from tspace_core.storage.lake import EPISODES_SUFFIX

    lake: LakeResource = context.resources.lake
    found = lake.open()
    asked = False
    for vehicle_id in VEHICLES.get_partition_keys():
        changed = last_change(found.root / "episodes" / f"vehicle={vehicle_id}", f"date=*/*{EPISODES_SUFFIX}")
        if changed is None or not found.episodes(vehicle_id=vehicle_id):
            continue
        records = context.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=CHECKPOINT, asset_partitions=[vehicle_id]), limit=1
        ).records
        if not records or records[0].timestamp < changed:
            night = context.scheduled_execution_time.date().isoformat()
            asked = True
            yield dg.RunRequest(run_key=f"{vehicle_id}#{night}", partition_key=vehicle_id)
    if not asked:
        yield dg.SkipReason("no vehicle has episodes that its last agent has not seen")


nightly_retraining = dg.ScheduleDefinition(
    name="nightly_retraining",
    job=retrain,
    cron_schedule="30 1 * * *",
    execution_timezone="UTC",
    execution_fn=_requests,
    required_resource_keys={"lake"},
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="At 01:30 UTC: a new agent for every vehicle with episodes that its last agent has not seen.",
)
