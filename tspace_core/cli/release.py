"""The command ``release``: which agent a vehicle drives with."""

import getpass
from typing import TYPE_CHECKING, Annotated

import typer

from tspace_core.cli.options import DataDir, VehicleId, open_lake
from tspace_core.errors import TspaceError

if TYPE_CHECKING:
    from tspace_core.objects.path import AnyPath
    from tspace_core.storage.champion import Champion
    from tspace_core.storage.lake import Lake

app = typer.Typer()


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
    by: Annotated[str | None, typer.Option(help="Who releases; default: the user logged in.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Release a checkpoint as a vehicle's champion: what it drives with from its next episode on."""
    from tspace_core.agents.release import latest_checkpoint, release_agent
    from tspace_core.config import load_vehicle
    from tspace_core.storage import champion as champions

    if rollback + show + (checkpoint is not None) > 1:
        message = "give one of CHECKPOINT, --rollback and --show"
        raise TspaceError(message)
    config = load_vehicle(vehicle)
    lake = open_lake(data_dir)
    if show:
        _show(lake, config.id)
        return
    who = by or _user()
    if rollback:
        _tell("champion again", champions.rollback(lake, config.id, by=who))
        return
    path = latest_checkpoint(lake, config.id) if checkpoint is None else _find(lake, checkpoint)
    _tell("champion", release_agent(lake, config, path, by=who))


def _show(lake: "Lake", vehicle_id: str) -> None:
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


def _tell(what: str, champion: "Champion") -> None:
    typer.echo(
        f"{what}: {champion.agent} {champion.run} step {champion.step}, content {champion.sha256[:12]}, "
        f"released {champion.at:%Y-%m-%d %H:%M} UTC by {champion.released_by}"
    )


def _find(lake: "Lake", checkpoint: str) -> "AnyPath":
    from tspace_core.objects.path import any_path

    named = any_path(checkpoint)
    return named if named.is_dir() else lake.root / "checkpoints" / checkpoint


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in some containers
        return "unknown"
