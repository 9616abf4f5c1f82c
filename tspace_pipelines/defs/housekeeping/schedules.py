"""Nightly removal, for whoever switches it on."""

import dagster as dg

from tspace_pipelines.defs.housekeeping.jobs import apply_retention

nightly_retention = dg.ScheduleDefinition(
    name="nightly_retention",
    job=apply_retention,
    cron_schedule="15 3 * * *",
    execution_timezone="UTC",
    run_config={"ops": {"remove_old": {"config": {"dry_run": False}}}},
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="At 03:15 UTC: removes what the rules of conf/retention.yaml let go. Off until switched on.",
)
