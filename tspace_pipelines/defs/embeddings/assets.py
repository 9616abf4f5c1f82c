"""Driving situations as vectors, a partition a vehicle: the encoder, and what it makes of all records."""

from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from tspace_pipelines.metadata import as_metadata, clear_failure, plot
from tspace_pipelines.partitions import VEHICLES
from tspace_pipelines.resources import LakeResource

if TYPE_CHECKING:
    from tspace_core.storage.embeddings import EmbeddingTable

PLOTTED_SITUATIONS = 3000
_EPISODES = dg.AssetDep("episodes", partition_mapping=dg.AllPartitionMapping())


class EncoderConfig(dg.Config):
    """What a person may choose at the launchpad; the rest is in conf/hyperparameters/embeddings.yaml."""

    encoder: str | None = Field(default=None, description="kind; default: that of the file")
    seed: int | None = Field(default=None, description="default: that of the file")


@dg.asset(
    deps=[_EPISODES],
    partitions_def=VEHICLES,
    group_name="embeddings",
    owners=["team:tspace"],
    kinds={"torch"},
    tags={"layer": "embeddings"},
)
def situation_encoder(
    context: dg.AssetExecutionContext, config: EncoderConfig, lake: LakeResource
) -> dg.MaterializeResult[None]:
    """A small network that turns windows of signals into vectors, so that similar driving lies together."""
    from tspace_core.config.embeddings import load_embeddings
    from tspace_core.embeddings.run import train_encoder
    from tspace_core.evaluation.figures import training_losses

    with clear_failure():
        chosen = load_embeddings()
        given = {"encoder": config.encoder, "seed": config.seed}
        chosen = chosen.model_copy(update={name: value for name, value in given.items() if value is not None})
        trained = train_encoder(lake.open(), context.partition_key, chosen, tell=context.log.info)
    encoder, quality = trained.encoder, trained.quality
    metadata = as_metadata(
        {
            "encoder": encoder.id,
            "kind": encoder.kind,
            "dim": encoder.dim,
            "window": encoder.window,
            "signals": list(encoder.signals),
            "rate_hz": encoder.rate_hz,
            "episodes": trained.episodes,
            "windows": trained.windows,
            "seconds": trained.seconds,
            "final_losses": {name: losses[-1] for name, losses in encoder.losses.items()} or None,
            "path": trained.folder,
        }
    )
    if quality is not None:
        metadata |= as_metadata(
            {
                "neighbour_speed_difference": quality.speed,
                "neighbour_pedal_difference": quality.pedal,
                "neighbour_acceleration_difference": quality.acceleration,
                "neighbours_compared": quality.queries,
                "what_the_differences_are": "of nearest situations of other drives, 1 = of random ones",
            }
        )
    if encoder.losses:
        steps = range(len(next(iter(encoder.losses.values()))))
        metadata["plot"] = plot(training_losses(steps, encoder.losses))
    return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(encoder.id))


@dg.asset(
    deps=[_EPISODES, "situation_encoder"],
    partitions_def=VEHICLES,
    group_name="embeddings",
    owners=["team:tspace"],
    kinds={"lancedb"},
    tags={"layer": "embeddings"},
)
def situation_embeddings(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult[None]:
    """A vector for every record of a vehicle in LanceDB; only new and changed episodes are encoded."""
    from tspace_core.embeddings.run import embed_episodes
    from tspace_core.storage.embeddings import EmbeddingTable

    vehicle_id = context.partition_key
    with clear_failure():
        found = lake.open()
        done = embed_episodes(found, vehicle_id, tell=context.log.info)
        table = EmbeddingTable(found, vehicle_id)
        state = done.state
        metadata = {
            "dagster/row_count": state.rows,
            **as_metadata(
                {
                    "rows": state.rows,
                    "new_rows": done.new_rows,
                    "episodes": state.episodes,
                    "new_episodes": done.new_episodes,
                    "removed_episodes": done.removed,
                    "left_out": state.left_out,
                    "encoder": state.encoder,
                    "dim": state.dim,
                    "table": state.table,
                    "version": state.version,
                    "seconds": done.seconds,
                    "path": table.pointer,
                }
            ),
        }
        if state.rows > 2:
            metadata["plot"] = _projection(table, state.rows)
    return dg.MaterializeResult(
        metadata=metadata, data_version=dg.DataVersion(f"{state.table}@{state.version}")
    )


def _projection(table: "EmbeddingTable", rows: int) -> dg.MetadataValue[Any]:
    """Some of the situations, evenly from all of them."""
    import numpy as np

    from tspace_core.evaluation.figures.situations import situation_projection

    stride, seen = max(1, rows // PLOTTED_SITUATIONS), 0
    vectors, speeds = [], []
    for block in table.blocks(["vector", "speed_kmh"]):
        chosen = np.arange(-seen % stride, len(block), stride)
        seen += len(block)
        part = block.take(chosen).combine_chunks()
        flat = part.column("vector").combine_chunks().flatten().to_numpy(zero_copy_only=False)
        vectors.append(flat.reshape(len(chosen), -1))
        speeds.append(part.column("speed_kmh").to_numpy())
    return plot(situation_projection(np.concatenate(vectors), np.concatenate(speeds).astype(np.float64)))
