"""Online episodes: a long run a vehicle, started by a request."""

import dagster as dg

from tspace_core.config import settings
from tspace_pipelines.defs.online import jobs, sensors
from tspace_pipelines.defs.online.resources import OnlineResource


def definitions() -> dg.Definitions:
    """The area's definitions."""
    return dg.Definitions(
        jobs=[jobs.online_episodes],
        sensors=[sensors.online_sensor],
        resources={"online": OnlineResource(folder=str(settings().online_dir))},
    )
