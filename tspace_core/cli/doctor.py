"""Command ``tspace doctor``: what is wrong with the lake, and its repair."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from tspace_core.cli.options import DataDir, open_lake

app = typer.Typer()


@app.command()
def doctor(
    *,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Finish what was committed, remove what was staged, remake indexes."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    data_dir: DataDir = None,
    mongodb: Annotated[
        list[str] | None,
        typer.Option(help="Also look into this database of TSPACE_MONGODB_URI; may be given several times."),
    ] = None,
) -> None:
    """Look for anything wrong with the lake: reads all of it once, changes nothing without --repair.

    The exit code is 0 where nothing is wrong, or everything was put right, else 1.
    """
    from tspace_core.storage.doctor import examine

    lake = open_lake(data_dir)
    found = examine(
        lake, repair=repair, databases=mongodb or (), tell=lambda line: typer.echo(line, err=True)
    )
    left = [finding for finding in found if not finding.repaired]
    if as_json:
        typer.echo(json.dumps({"lake": str(lake.root), "findings": [asdict(item) for item in found]}))
    else:
        for item in found:
            typer.echo(f"{item.kind}: {item.place}")
            typer.echo(f"  {item.what}")
            typer.echo("  repaired" if item.repaired else f"  to do: {item.todo}")
        typer.echo(f"{len(found)} found, {len(found) - len(left)} repaired, {len(left)} left in {lake.root}")
    if left:
        raise typer.Exit(1)
