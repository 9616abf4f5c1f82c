"""Nightly retraining."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import dagster as dg

from tspace_pipelines.defs.training.jobs import RETRAIN, unfinished_run
from tspace_pipelines.partitions import VEHICLES

if TYPE_CHECKING:
    from tspace_pipelines.defs.training.resources import RetrainingResource
    from tspace_pipelines.resources import LakeResource


def _requests(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """One run for each vehicle whose episodes have changed since an agent of its was trained."""
    from tspace_core.storage.folders import last_change
    from tspace_core.storage.lake import EPISODES_SUFFIX

    lake: LakeResource = context.resources.lake
    retraining: RetrainingResource = context.resources.retraining
    found = lake.open()
    asked, waiting = False, []
    for vehicle_id in VEHICLES.get_partition_keys():
        changed = last_change(found.root / "episodes" / f"vehicle={vehicle_id}", f"date=*/*{EPISODES_SUFFIX}")
        if changed is None or not found.episodes(vehicle_id=vehicle_id):
            continue
        if _oldest(context.instance, retraining.checkpoints, vehicle_id) >= changed:
            continue
        if run := unfinished_run(context.instance, vehicle_id):
            waiting.append(f"; {vehicle_id} has some, but run {run} is not over")
            continue
        night = context.scheduled_execution_time.date().isoformat()
        asked = True
        yield dg.RunRequest(run_key=f"{vehicle_id}#{night}", partition_key=vehicle_id)
    if not asked:
        agents = ", ".join(retraining.agents)
        yield dg.SkipReason(
            f"no vehicle has episodes that the last agents ({agents}) have not seen{''.join(waiting)}"
        )


def _oldest(instance: dg.DagsterInstance, checkpoints: Sequence[dg.AssetKey], vehicle_id: str) -> float:
    """When the agent was trained that was trained longest ago, s since 1970; 0: one never was."""
    newest = [
        instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=key, asset_partitions=[vehicle_id]), limit=1
        ).records
        for key in checkpoints
    ]
    return min(records[0].timestamp if records else 0.0 for records in newest)


nightly_retraining = dg.ScheduleDefinition(
    name="nightly_retraining",
    job_name=RETRAIN,
    cron_schedule="30 1 * * *",
    execution_timezone="UTC",
    execution_fn=_requests,
    required_resource_keys={"lake", "retraining"},
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="At 01:30 UTC: new agents for every vehicle with episodes that its last ones have not seen.",
)
