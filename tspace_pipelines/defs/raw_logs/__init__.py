"""Raw logs, frames and signals, and the places that new logs arrive in."""

from typing import Any

import dagster as dg

from tspace_core.config import settings
from tspace_pipelines.defs.raw_logs import assets, checks, jobs, sensors
from tspace_pipelines.defs.raw_logs.resources import BoxesResource, BucketInboxResource, InboxResource


def definitions() -> dg.Definitions:
    """The area's definitions; places in a bucket are watched where the settings name them."""
    found = settings()
    watching = [sensors.inbox_sensor]
    resources: dict[str, Any] = {"inbox": InboxResource(folder=str(found.inbox_dir))}
    if found.inbox_url:
        watching.append(sensors.bucket_sensor)
        resources["bucket_inbox"] = BucketInboxResource(url=found.inbox_url)
    if found.box_url:
        watching.append(sensors.box_sensor)
        resources["boxes"] = BoxesResource(url=found.box_url)
    return dg.Definitions(
        assets=[assets.raw_can_logs, assets.can_frames, assets.can_signals],
        asset_checks=[checks.signals_schema],
        jobs=[jobs.logs_to_episodes, jobs.register_logs],
        sensors=watching,
        resources=resources,
    )
