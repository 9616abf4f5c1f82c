"""Raw logs, frames and signals, and the inbox that new logs arrive in."""

import dagster as dg

from tspace_core.config import settings
from tspace_pipelines.defs.raw_logs import assets, checks, jobs, sensors
from tspace_pipelines.defs.raw_logs.resources import InboxResource


def definitions() -> dg.Definitions:
    """The area's definitions."""
    return dg.Definitions(
        assets=[assets.raw_can_logs, assets.can_frames, assets.can_signals],
        asset_checks=[checks.signals_schema],
        jobs=[jobs.logs_to_episodes, jobs.register_logs],
        sensors=[sensors.inbox_sensor],
        resources={"inbox": InboxResource(folder=str(settings().inbox_dir))},
    )
