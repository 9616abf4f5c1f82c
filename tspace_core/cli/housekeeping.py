"""The commands ``retention`` and ``quarantine``: what is kept, what goes, what was put aside."""

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tspace_core.cli.options import DataDir, open_lake

if TYPE_CHECKING:
    from tspace_core.storage.quarantine_store import Quarantined
    from tspace_core.storage.retention import Applied, Plan, Verdict

ROWS_SHOWN = 200
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Name = Annotated[str, typer.Argument(help="Name as `quarantine list` shows it, or a part of it.")]

app = typer.Typer()
quarantine = typer.Typer(help="What failed a check and was put aside.", no_args_is_help=True)
app.add_typer(quarantine, name="quarantine")


@app.command()
def retention(
    *,
    apply: Annotated[bool, typer.Option("--apply", help="Remove it; without, nothing is changed.")] = False,
    area: Annotated[list[str] | None, typer.Option(help="Only this area; again for more.")] = None,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Show what goes by the rules of conf/retention.yaml, or remove it.

    What is in use stays whatever a rule says. Exit code 1: something could not be removed.
    """
    from tspace_core.config import settings
    from tspace_core.config.retention import load_retention
    from tspace_core.storage.retention import apply_retention, plan_retention

    lake = open_lake(data_dir)
    # Reports are this installation's: another lake has nothing to do with them.
    out_dir = settings().out_dir if data_dir is None else None
    plan = plan_retention(lake, load_retention(), now=time.time(), out_dir=out_dir, areas=tuple(area or ()))
    if not as_json:
        _show(plan)
    applied = None
    if apply:
        applied = apply_retention(lake, plan, tell=lambda line: typer.echo(line, err=True))
    if as_json:
        typer.echo(json.dumps(_as_json(plan, applied)))
    elif applied is None:
        if plan.goes:
            typer.echo("nothing was removed: add --apply")
    else:
        typer.echo(f"removed {applied.removed} items, {_bytes(applied.size)}")
        for name, why in applied.stayed.items():
            typer.echo(f"left: {name}, {why}")
    if applied is not None and applied.failed:
        raise typer.Exit(1)


def _show(plan: "Plan") -> None:
    for area, text in plan.doubts.items():
        typer.echo(f"nothing of {area} goes, what is in use cannot be told: {text}", err=True)
    if plan.stays:
        for verdict in plan.stays[:ROWS_SHOWN]:
            typer.echo(f"stays   {_line(verdict)}; in use: {verdict.kept}")
    for verdict in plan.goes[:ROWS_SHOWN]:
        typer.echo(f"goes    {_line(verdict)}")
    if len(plan.goes) > ROWS_SHOWN:
        typer.echo(f"        ... and {len(plan.goes) - ROWS_SHOWN} more, --json names all")
    areas: dict[str, tuple[int, int]] = {}
    for verdict in plan.goes:
        count, size = areas.get(verdict.item.area, (0, 0))
        areas[verdict.item.area] = (count + 1, size + verdict.item.size)
    for area, (count, size) in areas.items():
        typer.echo(f"{area:<16}{count:>8} items{_bytes(size):>14}")
    typer.echo(f"{'all':<16}{len(plan.goes):>8} items{_bytes(plan.size):>14}")


def _line(verdict: "Verdict") -> str:
    item = verdict.item
    return f"{item.area:<14} {item.name}  {_bytes(item.size)}  {verdict.reason}"


def _bytes(size: int) -> str:
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError


def _as_json(plan: "Plan", applied: "Applied | None") -> dict[str, Any]:
    def rows(verdicts: "tuple[Verdict, ...]") -> list[dict[str, Any]]:
        return [
            {
                "area": verdict.item.area,
                "partition": verdict.item.partition,
                "name": verdict.item.name,
                "bytes": verdict.item.size,
                "changed": verdict.item.changed,
                "reason": verdict.reason,
                "in_use": verdict.kept,
            }
            for verdict in verdicts
        ]

    done = None if applied is None else vars(applied)
    return {
        "goes": rows(plan.goes),
        "stays": rows(plan.stays),
        "doubts": plan.doubts,
        "bytes": plan.size,
        "applied": done,
    }


@quarantine.command("list")
def list_(*, kind: str | None = None, as_json: Json = False, data_dir: DataDir = None) -> None:
    """List what is in the quarantine, the newest last."""
    from tspace_core.storage.quarantine_store import quarantined

    found = [one for one in quarantined(open_lake(data_dir)) if kind in (None, one.kind)]
    if as_json:
        typer.echo(json.dumps([_row(one) for one in found]))
        return
    for one in found:
        at = "-" if one.at is None else f"{one.at:%Y-%m-%d %H:%M}"
        reason = " ".join(one.reason.split())
        typer.echo(f"{at:<17}{one.name}  {_bytes(one.size)}  from {one.source}")
        typer.echo(f"{'':<17}{reason if len(reason) <= 160 else reason[:157] + '...'}")
    typer.echo(f"{len(found)} in the quarantine, {_bytes(sum(one.size for one in found))}")


@quarantine.command()
def show(name: Name, *, as_json: Json = False, data_dir: DataDir = None) -> None:
    """Show one file with its whole reason."""
    from tspace_core.storage.quarantine_store import find_quarantined

    row = _row(find_quarantined(open_lake(data_dir), name))
    if as_json:
        typer.echo(json.dumps(row))
        return
    for title, value in row.items():
        typer.echo(f"{title:<8}{value}")


@quarantine.command()
def release(
    name: Name,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only look whether it could be done.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Put an episode back into its log, or a raw log into the inbox, if it holds its schema now."""
    from tspace_core.storage.quarantine_store import find_quarantined
    from tspace_core.storage.quarantine_store import release as put_back

    lake = open_lake(data_dir)
    one = find_quarantined(lake, name)
    place = put_back(lake, one, dry_run=dry_run)
    typer.echo(f"{'would put' if dry_run else 'put'} {one.name} back: {place}")


@quarantine.command("drop")
def drop_(
    name: Name,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Remove a file from the quarantine, with its reason."""
    from tspace_core.storage.quarantine_store import drop, find_quarantined

    lake = open_lake(data_dir)
    one = find_quarantined(lake, name)
    if not dry_run:
        drop(lake, one)
    typer.echo(f"{'would remove' if dry_run else 'removed'} {one.name}, {_bytes(one.size)}")


def _row(one: "Quarantined") -> dict[str, Any]:
    return {
        "name": one.name,
        "kind": one.kind,
        "at": None if one.at is None else one.at.isoformat(),
        "source": one.source,
        "reason": one.reason,
        "bytes": one.size,
        "path": str(one.path),
    }
