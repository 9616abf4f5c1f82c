"""The online run of a vehicle, without Dagster."""

import logging
import sys
from enum import StrEnum
from typing import Annotated

import typer

from tspace_core.cli.options import DataDir, VehicleId, open_lake

app = typer.Typer(rich_markup_mode=None)


class Hmi(StrEnum):
    """Where the person's requests come from."""

    UDP = "udp"
    RMQ = "rmq"
    DUMMY = "dummy"


@app.command("drive")
def drive(
    vehicle: VehicleId,
    *,
    infer: Annotated[
        bool, typer.Option("--infer", help="Drive with the champion, without noise; learn nothing.")
    ] = False,
    observe: Annotated[
        bool, typer.Option("--observe", help="Record only: flash nothing. Needs no tspace bridge.")
    ] = False,
    agent: Annotated[
        str | None,
        typer.Option(
            metavar="AGENT",
            help="Agent that drives and learns: ddpg, rdpg or idql; default: `online.agent` of the vehicle's "
            "file, else that of the release, else ddpg.",
        ),
    ] = None,
    episodes: Annotated[
        int | None, typer.Option(min=1, help="End after so many stored episodes; default: at the HMI's exit.")
    ] = None,
    hmi: Annotated[Hmi | None, typer.Option(help="Source of begin and end; default: the settings'.")] = None,
    token: Annotated[
        str | None,
        typer.Option(envvar="TSPACE_CAMPAIGN_TOKEN", help="Signed campaign, where the vehicle asks for one."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume/--from-default", help="Go on from the last live map, or from the default."),
    ] = True,
    track: Annotated[bool, typer.Option("--track/--no-track", help="Tell MLflow.")] = True,
    data_dir: DataDir = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log what every task does.")] = False,
) -> None:
    """Drive a vehicle: observe, infer, flash and learn, until the HMI's exit.

    Whether on its CAN bus or through its telematics box is said by `interface` in the vehicle's file.

    Exit codes: 0 ended as asked, 1 had to end (what was recorded is stored), 2 could not begin.
    """
    from tspace_core.config import load_vehicle
    from tspace_core.errors import OnlineError
    from tspace_core.online.avatar import Avatar, AvatarOptions

    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(asctime)s %(levelname)s %(message)s"
    )
    options = AvatarOptions(
        infer=infer,
        observe=observe,
        episodes=episodes,
        hmi=None if hmi is None else hmi.value,
        by=_person(),
        token=token,
        resume=resume,
        track=track,
        signals=True,
        agent=agent,
    )
    avatar = Avatar(load_vehicle(vehicle), open_lake(data_dir), options, tell=_tell)
    try:
        avatar.run()
    except OnlineError as error:
        if not avatar.began:
            raise
        _tell(str(avatar.summary))
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    _tell(str(avatar.summary))
    for note in avatar.summary.notes:
        _tell(f"note: {note}")


def _person() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "tspace drive"


def _tell(line: str) -> None:
    typer.echo(line)
    sys.stdout.flush()
