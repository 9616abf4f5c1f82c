"""The commands ``tune`` and ``track``: search hyperparameters; what waits for the tracking store."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tspace_core.cli.options import DataDir, open_lake, tracking_uri

if TYPE_CHECKING:
    from tspace_core.tuning.sweep import SweepResult

app = typer.Typer()


@app.command()
def tune(
    name: Annotated[str, typer.Argument(help="Sweep, a file in conf/sweeps.")],
    *,
    vehicle: Annotated[
        str | None, typer.Option(help="Vehicle id, where the objective is energy in its twin.")
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="In all; default: the file's.")] = None,
    track: Annotated[bool, typer.Option("--track/--no-track", help="Write to MLflow.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Search hyperparameters, trial after trial; a sweep that was stopped goes on where it was."""
    from tspace_core.config import settings
    from tspace_core.distributed import make_engine
    from tspace_core.tuning.start import start_sweep

    lake = open_lake(data_dir)
    with make_engine(settings().engine) as engine:
        result = start_sweep(
            name,
            lake,
            vehicle_id=vehicle,
            trials=trials,
            tracking_uri=tracking_uri(lake) if track else None,
            tell=lambda line: typer.echo(line, err=True),
            trainer=engine.train_offline,
        )
    if as_json:
        typer.echo(json.dumps(_json(result)))
        return
    for trial in result.trials:
        value = "" if trial.value is None else f"{trial.value:.6g}"
        said = ", ".join(f"{key} {item}" for key, item in trial.values.items())
        typer.echo(f"{trial.number:4d}  {trial.state:9s} {value:>12s}  {said}")
    if result.best is not None:
        typer.echo(f"best: trial {result.best.number}, {result.proposal}")


def _json(result: "SweepResult") -> dict[str, object]:
    return {
        "sweep": result.name,
        "run": result.run_id,
        "trials": [
            {
                "number": trial.number,
                "state": trial.state,
                "value": trial.value,
                "values": dict(trial.values),
                "run": trial.run_id,
                "reason": trial.reason,
            }
            for trial in result.trials
        ],
        "best": None if result.best is None else result.best.number,
        "proposal": None if result.proposal is None else str(result.proposal),
    }


@app.command()
def track(
    *,
    send: Annotated[bool, typer.Option("--send", help="Send it now.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Show what trainings told that no tracking store has yet; exit code 1 if something still waits."""
    from tspace_core.agents.tracking_send import send_waiting
    from tspace_core.agents.tracking_spool import Spool

    spool = Spool(Path(open_lake(data_dir).local) / "tracking")
    kept: dict[str, str] = {}
    if send:
        found = send_waiting(spool)
        kept = found.kept
        for run in found.sent:
            typer.echo(f"sent: run {run}")
    waiting = spool.runs()
    for one in waiting:
        first = one.first() or {}
        why = f": {kept[one.key]}" if one.key in kept else ""
        typer.echo(
            f"waits: {one.key}, {first.get('run_name')} of {first.get('experiment')}, {one.pending} bytes "
            f"for {first.get('uri')}{why}"
        )
    if not waiting:
        typer.echo("nothing waits")
    elif send:
        raise typer.Exit(1)
