"""The commands ``score`` and ``train``: an agent over all episodes of a vehicle, agents for vehicles."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tspace_core.cli.options import DataDir, VehicleId, open_lake, tracking_uri
from tspace_core.errors import TspaceError

if TYPE_CHECKING:
    from tspace_core.agents.batch_runs import ScoreReport, TrainReport
    from tspace_core.agents.scores import Totals

app = typer.Typer()

Workers = Annotated[int, typer.Option(min=1, help="Processes of one thread each.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Again = Annotated[bool, typer.Option("--again", help="Also what is done already.")]


@app.command()
def score(
    vehicle: VehicleId,
    *,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="Folder of a checkpoint, <agent>/<run>/<step> in the lake, or `champion`; "
            "default: the latest trained agent of the kind that is released."
        ),
    ] = None,
    agent: Annotated[
        str | None, typer.Option(help="The latest trained agent of this kind instead: ddpg, rdpg or idql.")
    ] = None,
    start: Annotated[str | None, typer.Option("--from", help="First day, YYYY-MM-DD.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="Last day, YYYY-MM-DD.")] = None,
    workers: Workers = 2,
    again: Again = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Score an agent over a vehicle's episodes: its proposals, their values, clipped cells, distance.

    What is scored already is skipped. A log that fails costs only itself, and the exit code is 1.
    """
    from tspace_core.agents.batch_runs import choose_checkpoint, score_logs
    from tspace_core.config import load_vehicle

    config = load_vehicle(vehicle)
    first, last = _day(start, "--from"), _day(end, "--to")
    lake = open_lake(data_dir)
    logs = [
        log
        for log in lake.episode_logs(config.id)
        if (first is None or log.date >= first) and (last is None or log.date <= last)
    ]
    if not logs:
        days = (
            "" if first is None and last is None else f" from {first or 'the first'} to {last or 'the last'}"
        )
        message = f"{lake.root} has no episodes of {config.id}{days}: take its logs in (tspace ingest)"
        raise TspaceError(message)
    chosen = choose_checkpoint(lake, config.id, checkpoint, agent=agent)
    _tell(f"scored by {chosen.why}")
    report = score_logs(lake, config, logs, chosen.checkpoint, workers=workers, again=again, tell=_tell)
    if as_json:
        typer.echo(json.dumps(_scores_json(report)))
    else:
        _print_scores(report)
    _end(len(report.failed), len(logs), "logs")


@app.command()
def train(
    vehicle: Annotated[
        list[str], typer.Option("--vehicle", help="Vehicle id, see `tspace vehicles`; may be repeated.")
    ],
    *,
    agent: Annotated[str, typer.Option(help="ddpg, rdpg or idql.")] = "ddpg",
    updates: Annotated[int | None, typer.Option(min=1, help="Updates in all; default: the file's.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of weights, noise and batches; default: the file's.")
    ] = None,
    repeat_records: Annotated[
        bool | None,
        typer.Option("--repeat-records", help="Learn also where there are fewer records than a batch."),
    ] = None,
    track: Annotated[bool, typer.Option("--track/--no-track", help="Write to MLflow.")] = True,
    workers: Workers = 2,
    again: Again = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Train an agent a vehicle on its latest replay buffer; one that was stopped goes on where it was.

    With TSPACE_ENGINE__KIND=ray the cluster's learners share each training, one vehicle after the other.
    What is trained already is skipped. A vehicle that fails costs only itself, and the exit code is 1.
    """
    from tspace_core.agents.batch_runs import train_vehicles
    from tspace_core.agents.offline_run import agent_class
    from tspace_core.config import load_vehicle, settings
    from tspace_core.distributed import make_engine

    ids = [load_vehicle(name).id for name in dict.fromkeys(vehicle)]
    lake = open_lake(data_dir)
    agent_class(agent)
    with make_engine(settings().engine) as engine:
        report = train_vehicles(
            lake,
            ids,
            agent=agent,
            updates=updates,
            seed=seed,
            repeat_records=repeat_records,
            tracking_uri=tracking_uri(lake) if track else None,
            workers=workers,
            again=again,
            tell=_tell,
            trainer=None if engine.name == "local" else engine.train_offline,
        )
    if as_json:
        typer.echo(json.dumps(_trained_json(report)))
    else:
        _print_trained(report)
    _end(len(report.failed), len(ids), "vehicles")


def _tell(line: str) -> None:
    typer.echo(line, err=True)


def _end(failed: int, of: int, what: str) -> None:
    if failed:
        typer.echo(f"{failed} of {of} {what} failed; run it again to try them again", err=True)
        raise typer.Exit(1)


def _day(text: str | None, option: str) -> str | None:
    from datetime import date

    if text is None:
        return None
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError as error:
        message = f"{option} {text!r} is no day in the form YYYY-MM-DD"
        raise TspaceError(message) from error


def _totals_json(totals: "Totals") -> dict[str, Any]:
    found = totals.model_dump(mode="json", exclude={"distances", "flashes", "change_nm"})
    return {**found, "distance_quantiles": totals.distance_quantiles()}


def _scores_json(report: "ScoreReport") -> dict[str, Any]:
    from tspace_core.agents.scores import total

    return {
        "checkpoint": str(report.checkpoint),
        "total": _totals_json(total(list(report.scores.values()))),
        "logs": [_totals_json(item) for item in report.scores.values()],
        "skipped": report.skipped,
        "failed": report.failed,
    }


def _print_scores(report: "ScoreReport") -> None:
    from tspace_core.agents.scores import total

    whole = total(list(report.scores.values()))
    typer.echo(f"checkpoint {report.checkpoint}")
    done = len(report.scores) - len(report.skipped)
    typer.echo(f"{done} logs scored, {len(report.skipped)} skipped, {len(report.failed)} failed")
    typer.echo(f"{whole.records} records in {whole.episodes} episodes")
    for reason, count in whole.left_out.items():
        typer.echo(f"left out: {count} episodes, {reason} (first: {whole.messages[reason]})")
    if whole.records:
        quantiles = ", ".join(f"{name} {value:.2f}" for name, value in whole.distance_quantiles().items())
        typer.echo(f"value of the proposals   {whole.q_proposal:12.4f}  (the critic's opinion, no saving)")
        typer.echo(f"value of what was done   {whole.q_behaviour:12.4f}")
        typer.echo(f"proposals valued higher  {100 * (whole.preferred or 0):11.1f} %")
        typer.echo(f"cells beyond the limits  {100 * (whole.clipped or 0):11.1f} %")
        typer.echo(f"distance to what was done {whole.distance:11.4f}  ({quantiles})")
    for key, text in report.failed.items():
        typer.echo(f"failed: {key}: {text}", err=True)


def _trained_json(report: "TrainReport") -> dict[str, Any]:
    trained = {
        vehicle_id: {
            "run": item.run,
            "step": item.step,
            "resumed_from": item.summary.resumed_from,
            "overestimating": item.summary.overestimating,
            "checkpoint": str(item.checkpoint),
        }
        for vehicle_id, item in report.trained.items()
    }
    return {"trained": trained, "skipped": report.skipped, "failed": report.failed}


def _print_trained(report: "TrainReport") -> None:
    for vehicle_id, item in report.trained.items():
        how = "was there before" if vehicle_id in report.skipped else f"from step {item.summary.resumed_from}"
        typer.echo(f"{vehicle_id}: run {item.run}, step {item.step}, {how}: {item.checkpoint}")
    for vehicle_id, text in report.failed.items():
        typer.echo(f"failed: {vehicle_id}: {text}", err=True)
