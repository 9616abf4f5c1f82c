"""The catalogue for questions in SQL."""

from pathlib import Path

import dagster as dg
from dagster_duckdb import DuckDBResource

from tspace_pipelines.metadata import clear_failure, table
from tspace_pipelines.resources import LakeResource

AREAS = ("logs", "frames", "signals", "episodes", "records", "replay", "checkpoints")


@dg.asset(
    deps=["can_frames", "can_signals", "episodes", "replay_buffer", "ddpg_checkpoint"],
    group_name="catalogue",
    owners=["team:tspace"],
    kinds={"duckdb"},
    tags={"layer": "catalogue"},
    pool="duckdb",
    automation_condition=dg.AutomationCondition.eager().without(
        ~dg.AutomationCondition.any_deps_missing()  # one log without episodes must not stop it for ever
    ),
)
def catalogue(lake: LakeResource, duckdb: DuckDBResource) -> dg.MaterializeResult[None]:
    """DuckDB views over the lake; one writer at a time."""
    from tspace_core.storage.catalogue import Catalogue

    with clear_failure():
        found = Catalogue(Path(duckdb.database), lake.open())
        found.refresh()
        counted = {area: found.query(f"SELECT count(*) FROM {area}").item() for area in AREAS}  # noqa: S608
    rows = [{"view": area, "rows": count} for area, count in counted.items()]
    return dg.MaterializeResult(
        metadata={"views": table(rows), "path": dg.MetadataValue.path(duckdb.database)}
    )
