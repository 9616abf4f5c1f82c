"""Commands of the simulated world."""

from pathlib import Path
from typing import Annotated

import typer

from tspace_core.cli.options import VehicleId

app = typer.Typer(help="The simulated world.", no_args_is_help=True, rich_markup_mode=None)


@app.command("record")
def record(
    vehicle: VehicleId,
    out: Annotated[Path, typer.Option(help="Folder for the logs.")],
    driver: Annotated[str, typer.Option(help="Simulated driver.")] = "tracker",
    cycle: Annotated[str, typer.Option(help="Drive cycle.")] = "udds",
    seed: Annotated[int, typer.Option(help="Seed of the first drive.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="Drives; each has the next seed.")] = 1,
) -> None:
    """Let the twin drive and record CAN logs (BLF) with their flash journals."""
    from tspace_core.config import load_vehicle
    from tspace_core.twin.recorder import record_drive

    config = load_vehicle(vehicle)
    out.mkdir(parents=True, exist_ok=True)
    for number in range(seed, seed + count):
        path = out / f"{vehicle}_{cycle}_{driver}_{number:04d}.blf"
        summary = record_drive(config, driver, cycle, number, path)
        typer.echo(
            f"{path}: {summary.vehicle_id}, {summary.driver_id}, {summary.cycle}, seed {summary.seed}: "
            f"{summary.frames} frames, {summary.duration_s:.0f} s, {summary.distance_m / 1000:.2f} km, "
            f"{summary.energy_wh:.0f} Wh, {summary.flashes} flashes"
        )
