"""The DuckDB catalogue."""

import dagster as dg
from dagster_duckdb import DuckDBResource

from tspace_core.config import settings
from tspace_pipelines.defs.catalogue import assets, jobs, sensors

READING = {"access_mode": "READ_ONLY"}
"""Only ``Catalogue.refresh`` writes, beside the file: the resource locks no reader out."""


def definitions() -> dg.Definitions:
    """The area's definitions."""
    return dg.Definitions(
        assets=[assets.catalogue],
        jobs=[jobs.refresh_catalogue],
        sensors=[sensors.automation],
        resources={"duckdb": DuckDBResource(database=str(settings().catalogue), connection_config=READING)},
    )
