"""The command ``release``: which agent a vehicle drives with."""

import getpass
from typing import TYPE_CHECKING, Annotated

import typer

from tspace_core.cli.options import DataDir, VehicleId, open_lake
from tspace_core.errors import TrackingError, TspaceError

if TYPE_CHECKING:
    from tspace_core.objects.path import AnyPath
    from tspace_core.storage.champion import Champion
    from tspace_core.storage.lake import Lake

app = typer.Typer()

TrackingUri = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri", help="MLflow's store or server; default: the settings', or the --data-dir's own."
    ),
]


@app.command()
def release(
    vehicle: VehicleId,
    checkpoint: Annotated[
        str | None,
        typer.Argument(
            help="Folder of a checkpoint, or <agent>/<run>/<step> in the lake; default: the latest trained."
        ),
    ] = None,
    *,
    rollback: Annotated[bool, typer.Option("--rollback", help="Go back to the champion before.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Show what is and was released.")] = False,
    sync: Annotated[
        bool, typer.Option("--sync", help="Bring MLflow's model registry in step with what is released.")
    ] = False,
    without_evaluation: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Release what was not evaluated; the reason is kept."),
    ] = None,
    by: Annotated[str | None, typer.Option(help="Who releases; default: the user logged in.")] = None,
    data_dir: DataDir = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Release a checkpoint as a vehicle's champion: what it drives with from its next episode on.

    Only one that was evaluated (policy_evaluation) and clears conf/release_bar.yaml. MLflow's registry alias
    champion follows; where MLflow is out of reach the release holds all the same, and the exit code is 1.
    """
    from tspace_core.config import load_vehicle
    from tspace_core.storage import champion as champions

    if rollback + show + sync + (checkpoint is not None) > 1:
        message = "give one of CHECKPOINT, --rollback, --show and --sync"
        raise TspaceError(message)
    if without_evaluation is not None and (rollback or show or sync or not without_evaluation.strip()):
        message = '--without-evaluation "reason" belongs to a release, and the reason must say something'
        raise TspaceError(message)
    config = load_vehicle(vehicle)
    lake = open_lake(data_dir)
    uri = _tracking(lake, data_dir, tracking_uri)
    if show:
        _show(lake, config.id, uri)
        return
    if not sync:
        who = by or _user()
        if rollback:
            _tell("champion again", champions.rollback(lake, config.id, by=who))
        else:
            _release(lake, config.id, checkpoint, without_evaluation, who)
    _follow(lake, config.id, uri)


def _release(lake: "Lake", vehicle_id: str, checkpoint: str | None, reason: str | None, by: str) -> None:
    from tspace_core.agents.release import latest_checkpoint, release_agent
    from tspace_core.config import load_vehicle
    from tspace_core.config.release import load_release_bar
    from tspace_core.evaluation.release_bar import approve
    from tspace_core.storage.champion import Grounds

    vehicle = load_vehicle(vehicle_id)
    path = latest_checkpoint(lake, vehicle_id) if checkpoint is None else _find(lake, checkpoint)
    if reason is None:
        grounds = approve(lake, vehicle, path, load_release_bar())
    else:
        grounds = Grounds(without_evaluation=reason.strip())
    _tell("champion", release_agent(lake, vehicle, path, by=by, grounds=grounds))


def _follow(lake: "Lake", vehicle_id: str, uri: str) -> None:
    from tspace_core.agents.registry import follow_champion, model_name

    try:
        found = follow_champion(lake, vehicle_id, uri=uri)
    except TrackingError as error:
        typer.echo(f"what is released holds, but MLflow does not know it yet: {error}", err=True)
        raise typer.Exit(1) from error
    stands = "no champion" if found is None else f"champion is version {found.version}"
    typer.echo(f"registry: {model_name(vehicle_id)}, {stands}")


def _show(lake: "Lake", vehicle_id: str, uri: str) -> None:
    from tspace_core.storage import champion as champions

    releases = champions.read_releases(lake, vehicle_id)
    if releases.champion is None:
        typer.echo(f"nothing is released for {vehicle_id}")
        return
    champions.champion(lake, vehicle_id)  # its files are checked too
    _tell("champion", releases.champion)
    for item in reversed(releases.history):
        _tell("before", item)
    for gone in reversed(releases.withdrawn):
        _tell(f"withdrawn {gone.at:%Y-%m-%d %H:%M} UTC by {gone.withdrawn_by}", gone.champion)
    _tell_registry(vehicle_id, uri, releases.champion)


def _tell_registry(vehicle_id: str, uri: str, champion: "Champion") -> None:
    from tspace_core.agents.registry import ModelRegistry, model_name

    try:
        found = ModelRegistry(uri).champion(vehicle_id)
    except TrackingError as error:
        typer.echo(f"registry: not known ({error})")
        return
    name = model_name(vehicle_id)
    if found is None or found.sha256 != champion.sha256:
        other = "names no champion" if found is None else f"names content {found.sha256[:12]}"
        typer.echo(f"registry: {name} {other}; bring it in step with --sync")
        return
    typer.echo(f"registry: {name}, champion is version {found.version}")


def _tell(what: str, champion: "Champion") -> None:
    typer.echo(
        f"{what}: {champion.agent} {champion.run} step {champion.step}, content {champion.sha256[:12]}, "
        f"released {champion.at:%Y-%m-%d %H:%M} UTC by {champion.released_by}{_grounds(champion)}"
    )


def _grounds(champion: "Champion") -> str:
    grounds = champion.grounds
    if grounds is None:
        return ""
    if grounds.without_evaluation is not None:
        return f", without evaluation: {grounds.without_evaluation}"
    found = grounds.figures
    if not {"saving_percent", "saving_low_percent", "saving_high_percent"} <= found.keys():
        return ""
    return (
        f", saves {found['saving_percent']:+.2f} % "
        f"[{found['saving_low_percent']:+.2f}, {found['saving_high_percent']:+.2f}] in the twin"
    )


def _find(lake: "Lake", checkpoint: str) -> "AnyPath":
    from tspace_core.objects.path import any_path

    named = any_path(checkpoint)
    return named if named.is_dir() else lake.root / "checkpoints" / checkpoint


def _tracking(lake: "Lake", data_dir: str | None, uri: str | None) -> str:
    """The settings' store; that of another data folder where one is named and there is no server."""
    from pathlib import Path

    from tspace_core.config import settings

    found = settings()
    if uri is not None:
        return uri
    if data_dir is None or found.mlflow_uri is not None or not isinstance(lake.root, Path):
        return found.tracking_uri
    return f"sqlite:///{lake.root / 'mlflow.db'}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in some containers
        return "unknown"
