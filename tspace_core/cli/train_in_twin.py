"""The command ``train-in-twin``: an agent that learns by driving a vehicle's twin."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tspace_core.cli.options import DataDir, VehicleId, open_lake, tracking_uri
from tspace_core.errors import TspaceError

if TYPE_CHECKING:
    from tspace_core.evaluation.twin_run import TwinRun

app = typer.Typer()


@app.command()
def train_in_twin(
    vehicle: VehicleId,
    *,
    episodes: Annotated[int | None, typer.Option(min=1, help="In all; default: 60.")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=1, help="Of each episode, as driven; default: 15.")
    ] = None,
    driver: Annotated[
        list[str] | None, typer.Option(help="Simulated driver, may be repeated; default: three of them.")
    ] = None,
    cycle: Annotated[
        str | None, typer.Option(help="Drive cycle; default: truck_route, another route each episode.")
    ] = None,
    places: Annotated[int | None, typer.Option(min=1, help="Trucks at once; default: 6.")] = None,
    warm_up: Annotated[
        int | None, typer.Option(min=0, help="Of the episodes with random actions; default: 6.")
    ] = None,
    guarded: Annotated[
        bool, typer.Option("--guarded/--unguarded", help="Choose the policy behind the vehicle's guard.")
    ] = True,
    learn_guarded: Annotated[
        bool,
        typer.Option("--learn-guarded", help="Learn behind it, too; with torque_map_guarded, at best."),
    ] = False,
    hyperparameters: Annotated[str, typer.Option(help="File in conf/hyperparameters.")] = "torque_map",
    seed: Annotated[int, typer.Option(min=0, help="Of weights, routes, drivers, noise and batches.")] = 0,
    track: Annotated[bool, typer.Option("--track/--no-track", help="Write to MLflow.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Train a DDPG agent by driving the vehicle's twin; one that was stopped goes on, a finished one is kept.

    With TSPACE_ENGINE__KIND=ray the cluster's actors drive at once, with the same result. A gate of further
    drives chooses the policy; the agent is then the vehicle's latest, for evaluation and release.
    """
    from tspace_core.config import DDPGHyperparameters, load_hyperparameters, load_vehicle, settings
    from tspace_core.distributed import make_engine
    from tspace_core.evaluation.twin_run import train_vehicle_in_twin
    from tspace_core.evaluation.twin_training import TwinTraining

    config, lake = load_vehicle(vehicle), open_lake(data_dir)
    given = {
        "episodes": episodes,
        "minutes": minutes,
        "drivers": tuple(driver) if driver else None,
        "cycle": cycle,
        "places": places,
        "warm_up_episodes": warm_up,
        "guarded": guarded,
        "learn_guarded": learn_guarded,
    }
    try:
        plan = TwinTraining.model_validate({name: item for name, item in given.items() if item is not None})
    except ValueError as error:
        message = f"a training in the twin cannot be done like this: {error}"
        raise TspaceError(message) from error
    hyper = load_hyperparameters("ddpg", hyperparameters)
    assert isinstance(hyper, DDPGHyperparameters)
    with make_engine(settings().engine) as engine:
        run = train_vehicle_in_twin(
            lake,
            config,
            hyper,
            plan,
            engine,
            seed=seed,
            tracking_uri=tracking_uri(lake) if track else None,
            tell=lambda line: typer.echo(line, err=True),
        )
    if as_json:
        typer.echo(json.dumps(_json(run)))
    else:
        _print(run)


def _json(run: "TwinRun") -> dict[str, Any]:
    trained, found = run.trained, run.found
    return {
        "run": trained.run,
        "step": trained.step,
        "checkpoint": str(trained.checkpoint),
        "resumed_from": trained.summary.resumed_from,
        "before": found is None,
        "chosen": None if found is None else found.chosen,
        "gate": [] if found is None else [result.model_dump(mode="json") for result in found.gate],
    }


def _print(run: "TwinRun") -> None:
    trained, found = run.trained, run.found
    if found is None:
        typer.echo(f"{trained.vehicle_id}: run {trained.run} was there before: {trained.checkpoint}")
        return
    for result in found.gate:
        mark = "*" if result.name == found.chosen else " "
        typer.echo(
            f"{mark} {result.name:14s} saved {result.saving_percent:6.2f} %, trip time "
            f"{result.trip_time_percent:+.2f} %, speed error {result.speed_error_percent:+.0f} %"
        )
    typer.echo(f"{trained.vehicle_id}: run {trained.run}, {found.decisions} decisions: {trained.checkpoint}")
    typer.echo("the gate's figures chose the policy: evaluate it on other drives before a release")
