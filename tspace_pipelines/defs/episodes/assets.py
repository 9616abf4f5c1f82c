"""From signals to episodes, a partition a log."""

import dagster as dg

from tspace_core.config import load_vehicle
from tspace_pipelines.metadata import as_metadata, clear_failure, plot
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
    """Runs of records (time, state, action, reward, next state) cut from the signals of a log."""
    from tspace_core.evaluation.figures import episode_histograms
    from tspace_core.storage.ingest import store_episodes
    from tspace_core.storage.lake import read_json
    from tspace_pipelines.episode_figures import energy_per_km, rewards_of

    found = lake.open()
    with clear_failure():
        log = found.raw_log(context.partition_key)
        summary = store_episodes(found, log, load_vehicle(log.vehicle_id))
        metadata = {
            "dagster/row_count": summary.records,
            **as_metadata(summary.model_dump(exclude={"key", "fingerprint"})),
        }
        entries = read_json(found.episodes_manifest(log))["episodes"]
        if entries:
            metadata["plot"] = plot(episode_histograms(energy_per_km(entries), rewards_of(summary.paths)))
    return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(summary.fingerprint))
