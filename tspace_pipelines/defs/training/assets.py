"""Agents trained offline, a partition a vehicle."""

import dagster as dg
from pydantic import Field

from tspace_pipelines.defs.replay.assets import NIGHTLY
from tspace_pipelines.defs.training.resources import TrackingResource
from tspace_pipelines.metadata import as_metadata, clear_failure, plot
from tspace_pipelines.partitions import VEHICLES
from tspace_pipelines.resources import LakeResource


class DDPGConfig(dg.Config):
    """What a person may choose at the launchpad; the rest is in conf/hyperparameters/ddpg.yaml."""

    updates: int | None = Field(
        default=None, description="updates in all; default: offline_updates of the file"
    )
    seed: int | None = Field(
        default=None, description="weights, noise and batches; default: seed of the file"
    )


@dg.asset(
    deps=["replay_buffer"],
    partitions_def=VEHICLES,
    group_name="training",
    owners=["team:tspace"],
    kinds={"torch", "mlflow"},
    tags={"layer": "agent"},
    freshness_policy=NIGHTLY,
)
def ddpg_checkpoint(
    context: dg.AssetExecutionContext, config: DDPGConfig, lake: LakeResource, tracking: TrackingResource
) -> dg.MaterializeResult[None]:
    """DDPG trained on the latest replay buffer of a vehicle; a stopped run goes on where it was."""
    from tspace_core.agents.offline_run import train_ddpg
    from tspace_core.evaluation.figures import training_losses
    from tspace_core.storage.unit_of_work import UnitOfWork

    found, vehicle_id = lake.open(), context.partition_key
    with clear_failure(), UnitOfWork(found, name=f"training for {vehicle_id}") as unit:
        # The last checkpoint, what points at it and its figures: together, or none of them.
        trained = train_ddpg(
            found,
            vehicle_id,
            updates=config.updates,
            seed=config.seed,
            tracker=lambda run: tracking.tracker(vehicle_id, run),
            tell=context.log.info,
            writer=unit,
        )
        last = trained.summary.series[-1]
        unit.metrics("training", {"vehicle": vehicle_id, "run": trained.run, **last.model_dump(mode="json")})
    summary = trained.summary
    series = summary.series
    metadata = {
        **as_metadata(
            {
                "run": trained.run,
                "replay_version": summary.replay_version,
                "updates": summary.updates,
                "resumed_from": summary.resumed_from,
                "critic_loss": last.critic_loss,
                "actor_loss": last.actor_loss,
                "mean_q": last.mean_q,
                "mean_reward": last.reward,
                "saturated": last.saturated,
                "overestimating": summary.overestimating,
                "value_range": list(summary.value_range),
                "updates_per_s": summary.updates_per_s,
                "wall_s": summary.wall_s,
                "mlflow_run": summary.run_id,
                "mlflow_uri": tracking.uri,
                "path": trained.checkpoint,
            }
        ),
        "plot": plot(
            training_losses(
                [point.update for point in series],
                {
                    "critic": [point.critic_loss for point in series],
                    "actor": [point.actor_loss for point in series],
                },
            )
        ),
    }
    return dg.MaterializeResult(metadata=metadata)
