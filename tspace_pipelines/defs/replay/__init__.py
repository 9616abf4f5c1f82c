"""Replay buffers."""

import dagster as dg

from tspace_pipelines.defs.replay import assets, jobs, sensors


def definitions() -> dg.Definitions:
    """The area's definitions."""
    return dg.Definitions(
        assets=[assets.replay_buffer], jobs=[jobs.build_replay_buffer], sensors=[sensors.replay_sensor]
    )
