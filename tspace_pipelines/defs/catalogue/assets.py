"""The catalogue for questions in SQL."""

from pathlib import Path

import dagster as dg
from dagster_duckdb import DuckDBResource

from tspace_pipelines.defs.training.assets import AGENTS
from tspace_pipelines.metadata import clear_failure, table
from tspace_pipelines.resources import LakeResource

AREAS = (
    "logs", "frames", "signals", "episodes", "records", "losses", "flashes", "replay", "checkpoints",
    "quarantine", "metrics", "policy_actions", "damaged",
)  # fmt: skip
WEEKS_SHOWN = 40
"""Rows of drivers and weeks that the page shows."""


@dg.asset(
    deps=[
        *("can_frames", "can_signals", "episodes", "replay_buffer"),
        *(f"{agent}_checkpoint" for agent in AGENTS),
    ],
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
    """DuckDB tables and views over the lake; one writer at a time, readers are never held up.

    The resource reads: the next catalogue is made beside the file it names, and takes its place.
    """
    from tspace_core.storage.catalogue import Catalogue, prepare
    from tspace_core.storage.catalogue_queries import named_query

    with clear_failure():
        found = lake.open()
        done = Catalogue(Path(duckdb.database), found).refresh()
    query = named_query("energy_per_km")
    with duckdb.get_connection() as connection:
        prepare(connection, found)
        counted = {area: connection.sql(f"SELECT count(*) FROM {area}").pl().item() for area in AREAS}  # noqa: S608
        energy = connection.sql(query.sql, params=query.values({})).pl().tail(WEEKS_SHOWN)
    return dg.MaterializeResult(
        metadata={
            "views": table([{"view": area, "rows": count} for area, count in counted.items()]),
            "path": dg.MetadataValue.path(duckdb.database),
            "refresh": done.number,
            "files": done.files,
            "files_read": done.files_read,
            "damaged": table([{"file": path, "what": what} for path, what in done.damaged]),
            "energy_per_km": table(energy.to_dicts()),
        }
    )
