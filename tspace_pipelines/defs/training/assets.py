"""Agents trained offline, a partition a vehicle; an asset an agent."""

from collections.abc import Collection
from typing import Any

import dagster as dg
from pydantic import Field

from tspace_pipelines.defs.replay.assets import NIGHTLY
from tspace_pipelines.defs.training.resources import TrackingResource
from tspace_pipelines.engine_resource import EngineResource
from tspace_pipelines.metadata import as_metadata, clear_failure, plot
from tspace_pipelines.partitions import VEHICLES
from tspace_pipelines.resources import LakeResource


class TrainingConfig(dg.Config):
    """What a person may choose at the launchpad; the rest is in the agent's file in conf/hyperparameters."""

    updates: int | None = Field(
        default=None, ge=1, description="updates in all; default: offline_updates of the file"
    )
    seed: int | None = Field(
        default=None, description="weights, noise and batches; default: seed of the file"
    )
    repeat_records: bool | None = Field(
        default=None,
        description="learn also from a buffer that holds fewer records than a batch; default: the file's",
    )


AGENTS = {
    "ddpg": "DDPG trained on the latest replay buffer of a vehicle; a stopped run goes on where it was.",
    "rdpg": "RDPG, which remembers, trained on a vehicle's latest replay buffer; a stopped run goes on.",
    "idql": "IDQL, for offline data, trained on a vehicle's latest replay buffer; a stopped run goes on.",
}
"""By name, what each asset says of itself."""


def _checkpoint_asset(agent: str, description: str, *, nightly: bool) -> dg.AssetsDefinition:
    """The asset ``<agent>_checkpoint``."""

    @dg.asset(
        name=f"{agent}_checkpoint",
        deps=["replay_buffer"],
        partitions_def=VEHICLES,
        group_name="training",
        owners=["team:tspace"],
        kinds={"torch", "mlflow"},
        tags={"layer": "agent"},
        # Only agents that are trained every night have to be fresh.
        freshness_policy=NIGHTLY if nightly else None,
        description=description,
    )
    def checkpoint(
        context: dg.AssetExecutionContext,
        config: TrainingConfig,
        lake: LakeResource,
        tracking: TrackingResource,
        engine: EngineResource,
    ) -> dg.MaterializeResult[None]:
        return _train(context, agent, config, lake, tracking, engine)

    return checkpoint


def _train(
    context: dg.AssetExecutionContext,
    agent: str,
    config: TrainingConfig,
    lake: LakeResource,
    tracking: TrackingResource,
    engine: EngineResource,
) -> dg.MaterializeResult[None]:
    from tspace_core.agents.offline_run import train_agent
    from tspace_core.evaluation.figures import training_losses
    from tspace_core.storage.unit_of_work import UnitOfWork

    found, vehicle_id = lake.open(), context.partition_key
    name = f"training for {vehicle_id}"
    with clear_failure(), engine.open() as opened, UnitOfWork(found, name=name) as unit:
        # The last checkpoint, what points at it and its figures: together, or none of them.
        trained = train_agent(
            found,
            vehicle_id,
            agent=agent,
            updates=config.updates,
            seed=config.seed,
            repeat_records=config.repeat_records,
            tracker=lambda run: tracking.tracker(vehicle_id, run),
            tell=context.log.info,
            writer=unit,
            trainer=opened.train_offline,
        )
        last = trained.summary.series[-1]
        point = last.model_dump(mode="json")
        unit.metrics("training", {"vehicle": vehicle_id, "agent": agent, "run": trained.run, **point})
    summary = trained.summary
    series = summary.series
    shown: dict[str, Any] = {
        "run": trained.run,
        "engine": opened.name,
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
    losses = {
        "critic": [point.critic_loss for point in series],
        "actor": [point.actor_loss for point in series],
    }
    picture = training_losses([point.update for point in series], losses)
    return dg.MaterializeResult(metadata={**as_metadata(shown), "plot": plot(picture)})


def checkpoints(retrained: Collection[str]) -> list[dg.AssetsDefinition]:
    """An asset an agent; ``retrained`` are those that are trained every night."""
    return [
        _checkpoint_asset(agent, description, nightly=agent in retrained)
        for agent, description in AGENTS.items()
    ]
