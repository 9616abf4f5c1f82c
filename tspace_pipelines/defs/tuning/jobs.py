"""The job that carries out a sweep of conf/sweeps."""

import dagster as dg
from pydantic import Field

from tspace_pipelines.defs.training.resources import TrackingResource
from tspace_pipelines.engine_resource import EngineResource
from tspace_pipelines.metadata import as_metadata, clear_failure, table
from tspace_pipelines.resources import LakeResource


class SweepConfig(dg.Config):
    """What a person chooses at the launchpad; the rest is in conf/sweeps/<sweep>.yaml."""

    sweep: str = Field(description="name of a file in conf/sweeps")
    vehicle: str | None = Field(
        default=None, description="vehicle id, where the objective is energy in its twin"
    )
    trials: int | None = Field(default=None, ge=1, description="trials in all; default: what the file says")


@dg.op
def sweep_hyperparameters(
    context: dg.OpExecutionContext,
    config: SweepConfig,
    lake: LakeResource,
    tracking: TrackingResource,
    engine: EngineResource,
) -> None:
    """Trial after trial, each a child run in MLflow; one that was stopped goes on where it was."""
    from tspace_core.objects.path import any_path
    from tspace_core.tuning.start import start_sweep

    with clear_failure(), engine.open() as opened:
        result = start_sweep(
            config.sweep,
            lake.open(),
            vehicle_id=config.vehicle,
            trials=config.trials,
            tracking_uri=tracking.uri,
            artifacts=any_path(tracking.artifacts) if tracking.artifacts else None,
            tell=context.log.info,
            trainer=opened.train_offline,
        )
    best = result.best
    rows = [
        {"trial": trial.number, "state": trial.state, "value": trial.value, **dict(trial.values)}
        for trial in result.trials
    ]
    shown = {
        "sweep": result.name,
        "best_trial": None if best is None else best.number,
        "best_value": None if best is None else best.value,
        "best_values": None if best is None else dict(best.values),
        "proposal": result.proposal,
        "mlflow_run": result.run_id,
        "mlflow_uri": tracking.uri,
    }
    context.log_event(
        dg.AssetObservation(
            asset_key=["hyperparameter_sweeps", result.name],
            metadata={**as_metadata(shown), "trials": table(rows)},
        )
    )


@dg.job(
    tags={"tspace/lane": "training"},
    description="Searches hyperparameters: Optuna's trials one after the other, a child run in MLflow each.",
)
def hyperparameter_sweep() -> None:
    """One sweep of conf/sweeps."""
    sweep_hyperparameters()
