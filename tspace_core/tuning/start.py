"""A sweep by its name: where it lies, and where it is tracked."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tspace_core.config import load_vehicle
from tspace_core.tuning.plan import GymnasiumObjective, load_sweep
from tspace_core.tuning.sweep import SweepResult, run_sweep

if TYPE_CHECKING:
    from tspace_core.agents.offline_run import Trainer
    from tspace_core.agents.tracking import RunTracker
    from tspace_core.objects.path import AnyPath
    from tspace_core.storage.lake import Lake

EXPERIMENT = "tspace/sweeps"


def start_sweep(
    name: str,
    lake: "Lake",
    *,
    vehicle_id: str | None = None,
    trials: int | None = None,
    tracking_uri: str | None = None,
    artifacts: "AnyPath | None" = None,
    tell: Callable[[str], object] = lambda line: None,
    trainer: "Trainer | None" = None,
) -> SweepResult:
    """Do a sweep of conf/sweeps in the lake's folder on this machine, ``sweeps/<name>[-<vehicle>]``.

    Args:
        name: of the sweep.
        lake: with the replay buffer of the vehicle.
        vehicle_id: whose twin judges, where the objective says so.
        trials: in all; default: what the file says.
        tracking_uri: MLflow's tracking store; None tracks nothing.
        artifacts: where pictures go, for a store of our own; default: beside the lake.
        tell: is told each trial.
        trainer: what carries out offline trainings; default: this process.

    Raises:
        ConfigError: the sweep or vehicle is unknown, or its file is wrong.
        StorageError: there is no replay buffer.
    """
    sweep = load_sweep(name)
    if trials is not None:
        sweep = sweep.model_copy(update={"trials": trials})
    gymnasium = isinstance(sweep.objective, GymnasiumObjective)
    vehicle = None if gymnasium or vehicle_id is None else load_vehicle(vehicle_id).id
    place = name if vehicle is None else f"{name}-{vehicle}"

    def tracker(run: str, parent: str | None) -> "RunTracker":
        from tspace_core.agents.tracking import Tracker, artifact_folder

        assert tracking_uri is not None
        own = tracking_uri.startswith("sqlite:")
        return Tracker(
            tracking_uri,
            experiment=EXPERIMENT,
            artifacts=(artifacts or artifact_folder(lake)) if own else None,
            run_name=run,
            parent=parent,
            spool=Path(lake.local) / "tracking",
        )

    return run_sweep(
        sweep,
        place,
        Path(lake.local) / "sweeps" / place,
        lake=lake,
        vehicle_id=vehicle,
        tracker=None if tracking_uri is None else tracker,
        tell=tell,
        trainer=trainer,
    )
