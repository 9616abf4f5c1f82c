"""Commands on data at rest: ingest, vehicles."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tspace_core.cli.options import DataDir, VehicleId, open_lake
from tspace_core.errors import TspaceError

if TYPE_CHECKING:
    from tspace_core.config import Vehicle
    from tspace_core.objects.path import AnyPath
    from tspace_core.storage.ingest import IngestResult
    from tspace_core.storage.lake import Lake

app = typer.Typer()


@app.command()
def ingest(
    places: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Raw logs or folders of them, also as s3://...")
    ],
    vehicle: VehicleId,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    data_dir: DataDir = None,
    date: Annotated[str | None, typer.Option(help="YYYY-MM-DD to file the logs under.")] = None,
    driver: Annotated[str | None, typer.Option(help="Who drove; default: the vehicle's driver.")] = None,
) -> None:
    """Take raw logs or trip tables into the lake: raw, frames, signals, episodes.

    A log that fails costs only itself; it is listed with its error and the exit code is 1.
    """
    from tspace_core.config import load_driver, load_vehicle
    from tspace_core.objects.path import any_path
    from tspace_core.storage.files import sweep
    from tspace_core.storage.ingest import find_logs

    config = load_vehicle(vehicle)
    if driver is not None:
        load_driver(driver)
    paths = [any_path(place) for place in places]
    missing = [path for path in dict.fromkeys(paths) if not path.exists()]
    if len(missing) == len(set(paths)):
        message = f"no such file or folder: {', '.join(map(str, missing))}"
        raise TspaceError(message)
    logs = list(
        dict.fromkeys(log for path in paths for log in ([path] if path in missing else find_logs(path)))
    )
    if len(logs) == len(missing):
        message = f"no files in {', '.join(map(str, paths))}"
        raise TspaceError(message)
    lake = open_lake(data_dir)
    sweep(lake.root)
    rows = []
    for number, log in enumerate(logs, start=1):
        typer.echo(f"[{number}/{len(logs)}] {log}", err=True)
        if log in missing:
            rows.append(_failed(log, f"no such file or folder: {log}"))
            continue
        rows.append(_ingest_one(lake, log, config, date=date, driver=driver, as_json=as_json))
    if as_json:
        typer.echo(json.dumps({"files": rows}))
    failed = sum("error" in row for row in rows)
    if failed:
        typer.echo(f"{failed} of {len(rows)} files failed", err=True)
        raise typer.Exit(1)


def _ingest_one(
    lake: "Lake", log: "AnyPath", config: "Vehicle", *, date: str | None, driver: str | None, as_json: bool
) -> dict[str, Any]:
    from tspace_core.storage.ingest import ingest_log

    def tell(stage: str) -> None:
        typer.echo(f"    {stage}", err=True)

    try:
        result = ingest_log(lake, log, config, date=date, driver=driver, progress=tell)
    except Exception as error:
        # Whatever is wrong with one log, the others are still to be done.
        known = isinstance(error, (TspaceError, OSError))
        text = str(error) if known else f"unexpected {type(error).__name__}: {error}; please report it"
        return _failed(log, text)
    if as_json:
        for line in _losses(result):
            typer.echo(f"    {line}", err=True)
    else:
        _print_result(result)
    return {"path": str(log), **result.to_dict()}


def _failed(log: "AnyPath", text: str) -> dict[str, Any]:
    typer.echo(f"    failed: {text}", err=True)
    return {"path": str(log), "error": text}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _print_result(result: "IngestResult") -> None:
    frames, signals, episodes = result.frames, result.signals, result.episodes
    typer.echo(f"{result.raw.key}  ({frames.format})")
    span = "" if frames.t_first is None else f", {frames.t_first:.3f} s to {frames.t_last:.3f} s"
    what = "rows" if frames.path is None else "frames"
    segments = _count(frames.segments, "segment")
    typer.echo(f"  {frames.frames} {what}{span}, {segments}, time from {frames.time_source}")
    typer.echo(f"  {'signal':<16}{'count':>9}{'min':>12}{'max':>12}{'mean':>12}{'stale rows':>12}")
    for name, found in signals.signals.items():
        numbers = "".join(
            f"{'-':>12}" if value is None else f"{value:>12.3f}"
            for value in (found.min, found.max, found.mean)
        )
        typer.echo(f"  {name:<16}{found.count:>9}{numbers}{signals.stale_rows[name]:>12}")
    typer.echo(f"  energy {signals.energy_wh:.3f} Wh, distance {signals.distance_m:.0f} m")
    cut = f"{_count(episodes.episodes, 'episode')}, {_count(episodes.records, 'record')}"
    typer.echo(f"  {cut}, actions: {episodes.action_source}")
    for line in _losses(result):
        typer.echo(f"  {line}")
    for name, what in signals.substitutes.items():
        typer.echo(f"  substitute for {name}: {what}")


def _losses(result: "IngestResult") -> list[str]:
    """What was dropped, noticed, or fills no record: one line a reason."""
    frames, signals, episodes = result.frames, result.signals, result.episodes
    lines = []
    for title, counts, messages in (
        ("dropped", signals.dropped, signals.messages),
        ("noted", frames.notes, frames.messages),
        ("dropped", episodes.dropped, episodes.messages),
        ("unusable rows", episodes.unusable_rows, {}),
        ("lost records", episodes.lost_records, {}),
    ):
        for reason, count in counts.items():
            first = messages.get(reason, "")
            lines.append(f"{title}: {count} {reason}" + (f" (first: {first})" if first else ""))
    if episodes.short_runs:
        lines.append(
            f"unused rows: {episodes.short_rows} in {episodes.short_runs} stretches too short for an episode"
        )
    if episodes.left_rows:
        lines.append(f"unused rows: {episodes.left_rows} that fill no whole step")
    if episodes.clipped_records:
        lines.append(f"clipped: {episodes.clipped_records} records with a torque change beyond the budget")
    return lines


@app.command()
def vehicles() -> None:
    """List the vehicles that have a file in conf/vehicles.

    A wrong file costs only itself; it is named with what is wrong and the exit code is 1.
    """
    from tspace_core.config import load_vehicle, vehicle_ids

    failed = False
    for name in vehicle_ids():
        try:
            config = load_vehicle(name)
        except TspaceError as error:
            failed = True
            typer.echo(f"error: {error}", err=True)
        else:
            typer.echo(f"{name:<16}{config.type:<12}{config.description}")
    if failed:
        raise typer.Exit(1)
