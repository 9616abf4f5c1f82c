"""What keeps the lake from growing for ever."""

import dagster as dg

from tspace_pipelines.defs.housekeeping import jobs, schedules


def definitions() -> dg.Definitions:
    """The area's definitions."""
    return dg.Definitions(jobs=[jobs.apply_retention], schedules=[schedules.nightly_retention])
