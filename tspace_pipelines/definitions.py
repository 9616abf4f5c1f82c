"""Everything that Dagster loads (workspace.yaml, ``-m tspace_pipelines.definitions``).

On the command line, with ``export DAGSTER_HOME=$PWD`` in the project's folder::

    dagster job execute -m tspace_pipelines.definitions -j register_logs
    dagster asset materialize -m tspace_pipelines.definitions \
        --select 'raw_can_logs,can_frames,can_signals,episodes' --partition twin_truck/2026-01-05/drive.blf
    dagster asset materialize -m tspace_pipelines.definitions --select replay_buffer --partition twin_truck

The first makes every raw log of the lake and of the inbox known as a partition, which ``--partition`` needs.
Nothing heavy (torch, mlflow, pandera, matplotlib, polars) is imported here: assets import it when they run.
"""

from functools import cache
from typing import Any

import dagster as dg

from tspace_core.config import settings
from tspace_pipelines.defs import (
    catalogue,
    embeddings,
    episodes,
    evaluation,
    housekeeping,
    inference,
    online,
    raw_logs,
    replay,
    training,
    tuning,
)
from tspace_pipelines.resources import LakeResource

AREAS = (
    raw_logs,
    episodes,
    replay,
    embeddings,
    training,
    tuning,
    evaluation,
    inference,
    online,
    catalogue,
    housekeeping,
)


def build() -> dg.Definitions:
    """The definitions of all areas, for the settings of this process."""
    shared = dg.Definitions(
        resources=_resources(),
        # A step costs 0.2 s in this process and 2.1 s in one of its own; a backfill may choose otherwise.
        executor=dg.in_process_executor,
    )
    return dg.Definitions.merge(shared, *(area.definitions() for area in AREAS))


def _resources() -> dict[str, Any]:
    found = settings()
    data_dir = str(found.data_dir)
    if not (found.lake_url or found.inbox_url or found.box_url):
        return {"lake": LakeResource(data_dir=data_dir)}
    # dagster-aws costs a second and 50 MB.
    from tspace_pipelines.object_storage import object_storage

    return {"lake": LakeResource(data_dir=data_dir, lake_url=found.lake_url), "s3": object_storage()}


@cache
def _built() -> dg.Definitions:
    return build()


@dg.definitions
def defs() -> dg.Definitions:
    """All definitions; Dagster asks for them several times a command."""
    return _built()
