"""Replay buffers, a partition a vehicle."""

from datetime import timedelta

import dagster as dg

from tspace_pipelines.metadata import as_metadata, clear_failure, plot
from tspace_pipelines.partitions import VEHICLES
from tspace_pipelines.resources import LakeResource

PLOTTED_RECORDS = 20_000
NIGHTLY = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=72), warn_window=timedelta(hours=30))
"""For what the nightly retraining makes."""


@dg.asset(
    deps=[dg.AssetDep("episodes", partition_mapping=dg.AllPartitionMapping())],
    partitions_def=VEHICLES,
    group_name="replay",
    owners=["team:tspace"],
    kinds={"numpy"},
    tags={"layer": "replay"},
    freshness_policy=NIGHTLY,
)
def replay_buffer(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult[None]:
    """All visible episodes of a vehicle as memory-mapped rows; the same ones again make no version.

    conf/hyperparameters/replay.yaml says whether records that say nothing new are left out of what is drawn.
    """
    import numpy as np

    from tspace_core.config.replay import load_replay_parameters
    from tspace_core.embeddings.thinning import make_thinner
    from tspace_core.evaluation.figures import episode_histograms
    from tspace_core.storage import episodes_table
    from tspace_core.storage.folders import file_sizes
    from tspace_core.storage.lake import read_json
    from tspace_core.storage.replay import build_replay, versions_of
    from tspace_pipelines.episode_figures import energy_per_km

    found = lake.open()
    vehicle_id = context.partition_key
    root = found.replay(vehicle_id)
    before = versions_of(root)
    with clear_failure():
        paths = found.episodes(vehicle_id=vehicle_id)
        thin = load_replay_parameters().thin
        thinner = make_thinner(found, vehicle_id, thin)
        replay = build_replay(root, (episodes_table.read(path) for path in paths), keep=thinner)
        entries = [
            entry
            for manifest in found.episode_manifests(vehicle_id)
            for entry in read_json(manifest)["episodes"]
        ]
    manifest = replay.manifest
    content = manifest.content
    metas = [entry["meta"] for entry in entries]
    stride = max(1, len(replay) // PLOTTED_RECORDS)
    rewards = replay.pick(np.arange(0, len(replay), stride)).rewards
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": content.records,
            **as_metadata(
                {
                    "version": manifest.version,
                    "reused": manifest.version in before,
                    "episodes": len(content.episodes),
                    "records": content.records,
                    "thinning": thin.kind,
                    "thinned_records": None if thinner is None else thinner.left_out,
                    "thinned_because": None if thinner is None else thinner.reason,
                    "energy_wh": float(sum(meta["energy_wh"] for meta in metas)),
                    "distance_m": float(sum(meta["distance_m"] for meta in metas)),
                    "duration_s": float(sum(meta["duration_s"] for meta in metas)),
                    "reward_kind": content.layout.reward_kind,
                    "reward_min": content.reward.minimum,
                    "reward_max": content.reward.maximum,
                    "reward_mean": content.reward.mean,
                    "state_dim": content.layout.state_dim,
                    "action_dim": content.layout.action_dim,
                    "bytes": sum(file_sizes(replay.directory, "*").values()),
                    "path": replay.directory,
                }
            ),
            "plot": plot(episode_histograms(energy_per_km(entries), rewards)),
        },
        data_version=dg.DataVersion(manifest.content_sha256),
    )
