"""The report of online episodes."""

from pathlib import Path
from typing import Annotated

import typer

from tspace_core.cli.options import DataDir, VehicleId, open_lake
from tspace_core.errors import StorageError

app = typer.Typer(rich_markup_mode=None)


@app.command("report")
def report(
    vehicle: VehicleId,
    *,
    last: Annotated[int, typer.Option(min=1, help="The last so many episodes.")] = 10,
    out: Annotated[
        Path | None, typer.Option(help="HTML file; default: <out dir>/online/<vehicle>.html.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Write a page on a vehicle's online episodes: what was driven, flashed, refused, clipped and learned."""
    from tspace_core.config import load_vehicle, settings
    from tspace_core.evaluation.online import write_online_report
    from tspace_core.storage.online_episodes import is_online

    config, lake = load_vehicle(vehicle), open_lake(data_dir)
    logs = [log for log in lake.episode_logs(config.id) if is_online(log)]
    if not logs:
        message = f"{lake.root} holds no online episode of {config.id}; drive some with `tspace drive`"
        raise StorageError(message)
    path = out or settings().out_dir / "online" / f"{config.id}.html"
    keys = [log.key for log in sorted(logs, key=lambda log: log.key)[-last:]]
    command = f"tspace report --vehicle {config.id} --last {last}"
    write_online_report(path, lake=lake, vehicle=config, keys=keys, command=command)
    typer.echo(f"{path}: {len(keys)} of {len(logs)} online episodes of {config.id}")
