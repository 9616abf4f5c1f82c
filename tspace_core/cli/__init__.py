"""The command line ``tspace``: one verb a task; a module an area.

Exit codes: 0 all done, 1 some of the work failed (the rest is done), 2 it could not be begun.
"""

import sys
from typing import Annotated

import typer

from tspace_core import __version__
from tspace_core.cli import (
    bridge,
    bus,
    catalogue,
    data,
    doctor,
    drive,
    guard,
    housekeeping,
    pools,
    release,
    report,
    score,
    similar,
    train_in_twin,
    tune,
    twin,
)
from tspace_core.errors import TspaceError

app = typer.Typer(
    name="tspace",
    help="From raw CAN data of battery-electric trucks to trained pedal-map agents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(bus.app)
app.add_typer(bridge.app)
app.add_typer(catalogue.app)
app.add_typer(data.app)
app.add_typer(doctor.app)
app.add_typer(drive.app)
app.add_typer(guard.app)
app.add_typer(housekeeping.app)
app.add_typer(pools.app)
app.add_typer(release.app)
app.add_typer(report.app)
app.add_typer(score.app)
app.add_typer(similar.app)
app.add_typer(train_in_twin.app)
app.add_typer(tune.app)
app.add_typer(twin.app, name="twin")


def _show_version(value: bool) -> None:  # noqa: FBT001
    if value:
        typer.echo(f"tspace {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; an error that tspace raises on purpose is one line and exit code 2."""
    try:
        app()
    except TspaceError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
