"""Online episodes by request."""

from datetime import UTC, datetime

import dagster as dg

from tspace_pipelines.defs.online.jobs import online_episodes
from tspace_pipelines.defs.online.resources import OnlineResource
from tspace_pipelines.online_requests import decide


@dg.sensor(
    job_name=online_episodes.name,  # by name: given itself, Dagster makes the sensor anew and warns of it
    minimum_interval_seconds=2,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Starts a vehicle's online run when the HMI or `tspace request` asks for it; one run a vehicle. "
        "A run without a heartbeat is reported as failed and asked for again; one that a person cancelled "
        "is not."
    ),
)
def online_sensor(context: dg.SensorEvaluationContext, online: OnlineResource) -> dg.SensorResult:
    """Look at the spool and the run of every vehicle."""
    requests, notes = [], []
    for spool in online.spools():
        decision = decide(context.instance, spool, datetime.now(UTC))
        requests += decision.requests
        notes += decision.notes
    if not requests:
        return dg.SensorResult(skip_reason="; ".join(notes) or "nobody asks for an online episode")
    return dg.SensorResult(run_requests=requests)
