"""From signals to episodes, a partition a log."""

import dagster as dg

from tspace_core.config import load_vehicle
from tspace_pipelines.metadata import as_metadata, clear_failure
from tspace_pipelines.partitions import LOGS
from tspace_pipelines.resources import LakeResource


@dg.asset(
    deps=["can_signals"],
    partitions_def=LOGS,
    group_name="episodes",
    owners=["team:tspace"],
    kinds={"parquet"},
    tags={"layer": "episodes"},
    automation_condition=dg.AutomationCondition.eager(),
)
def episodes(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult[None]:
    """Runs of records (time, state, action, reward, next state) cut from the signals of a log.

    An online episode has a partition and no log: what is stored of it is reported again.
    """
    from tspace_core.storage.episodes_stage import store_episodes
    from tspace_core.storage.online_episodes import is_online
    from tspace_pipelines.episode_figures import episode_strips
    from tspace_pipelines.online_report import materialize_online

    found = lake.open()
    with clear_failure():
        log = found.log_of(context.partition_key)
        if is_online(log):
            return materialize_online(found, log, load_vehicle(log.vehicle_id))
        log = found.raw_log(context.partition_key)
        vehicle = load_vehicle(log.vehicle_id)
        summary = store_episodes(found, log, vehicle)
        metadata = {
            "dagster/row_count": summary.records,
            **as_metadata(summary.model_dump(exclude={"key", "fingerprint"})),
        }
    if summary.paths:
        title = f"{context.partition_key}: records"
        metadata["plot"] = episode_strips(title, vehicle.sampling.signals[0], summary.paths)
    return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(summary.fingerprint))
