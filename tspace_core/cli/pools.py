"""Commands on stores of episodes: what a pool holds, and from one into another."""

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tspace_core.errors import TspaceError

if TYPE_CHECKING:
    from tspace_core.storage.pools.convert import ConvertReport
    from tspace_core.storage.pools.entry import Entry
    from tspace_core.storage.pools.pool import Pool
    from tspace_core.storage.pools.query import Query

ROWS_SHOWN = 100
"""Episodes that are printed for people."""

app = typer.Typer()

_PLACES = "parquet:<root>, avro:<root>, mongodb:<database>, or a lake's root"
Vehicles = Annotated[list[str] | None, typer.Option("--vehicle", help="Vehicle id; may be repeated.")]
Drivers = Annotated[list[str] | None, typer.Option("--driver", help="Driver id; may be repeated.")]
Sites = Annotated[list[str] | None, typer.Option("--site", help="Site id; may be repeated.")]
Agents = Annotated[
    list[str] | None,
    typer.Option(
        "--agent", help="What acted: agent, default_map, flash_journal, realised_torque; may be repeated."
    ),
]
Episodes = Annotated[list[str] | None, typer.Option("--episode", help="Episode id; may be repeated.")]
StartedFrom = Annotated[
    str | None,
    typer.Option(help="Episodes that start at or after this instant, as 2026-03-01T08:00:00+01:00."),
]
StartedBefore = Annotated[str | None, typer.Option(help="Episodes that start before this instant.")]
After = Annotated[str | None, typer.Option(help="Episodes with records at or after this instant.")]
Before = Annotated[str | None, typer.Option(help="Episodes with records before this instant.")]
LengthFrom = Annotated[int | None, typer.Option(help="Episodes of at least so many records.")]
LengthTo = Annotated[int | None, typer.Option(help="Episodes of at most so many records.")]
Rewards = Annotated[
    Literal["valid", "invalid"] | None,
    typer.Option(help="Only records whose reward is their action's, or only the others."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@app.command()
def episodes(
    pool: Annotated[str | None, typer.Argument(help=f"{_PLACES}; default: the settings' lake.")] = None,
    *,
    vehicle: Vehicles = None,
    driver: Drivers = None,
    site: Sites = None,
    agent: Agents = None,
    episode: Episodes = None,
    started_from: StartedFrom = None,
    started_before: StartedBefore = None,
    after: After = None,
    before: Before = None,
    length_from: LengthFrom = None,
    length_to: LengthTo = None,
    rewards: Rewards = None,
    as_json: AsJson = False,
) -> None:
    """List the episodes of a pool that have a record which all that is given lets through."""
    from tspace_core.config import settings
    from tspace_core.storage.pools.registry import open_pool

    query = _query(
        vehicles=vehicle, drivers=driver, sites=site, agents=agent, episodes=episode,
        started_from=started_from, started_before=started_before, after=after, before=before,
        length_from=length_from, length_to=length_to, valid=rewards and rewards == "valid",
    )  # fmt: skip
    found = settings()
    with open_pool(pool or found.lake_url or str(found.data_dir)) as opened:
        if pool is not None:
            _require_there(opened)
        entries = opened.find(query)
        records = opened.count(query).records
        name = str(opened)
    if as_json:
        rows = [_row(entry) for entry in entries]
        typer.echo(json.dumps({"pool": name, "episodes": rows, "matching_records": records}))
        return
    if entries:
        typer.echo(f"{'start (UTC)':<24}{'records':>8}{'invalid':>8}  {'agent':<16}{'driver':<16}episode")
    for entry in entries[:ROWS_SHOWN]:
        typer.echo(
            f"{_instant(entry.start_ns):<24}{entry.records:>8}{entry.invalid:>8}  {entry.agent:<16}"
            f"{entry.driver_id:<16}{entry.episode_id}"
        )
    if len(entries) > ROWS_SHOWN:
        typer.echo(f"... and {len(entries) - ROWS_SHOWN} more; --json prints all")
    typer.echo(f"{name}: {len(entries)} episodes, {records} matching records")


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="FROM", help=_PLACES)],
    target: Annotated[str, typer.Argument(metavar="TO", help="The same.")],
    *,
    vehicle: Vehicles = None,
    driver: Drivers = None,
    site: Sites = None,
    agent: Agents = None,
    episode: Episodes = None,
    started_from: StartedFrom = None,
    started_before: StartedBefore = None,
    after: After = None,
    before: Before = None,
    length_from: LengthFrom = None,
    length_to: LengthTo = None,
    rewards: Rewards = None,
    as_json: AsJson = False,
) -> None:
    """Store the episodes of one pool in another, bit for bit; run again, it goes on with the rest.

    What the other pool refuses is listed with the reason, and the exit code is 1.
    """
    from tspace_core.storage.pools.convert import convert as run
    from tspace_core.storage.pools.registry import open_pool

    query = _query(
        vehicles=vehicle, drivers=driver, sites=site, agents=agent, episodes=episode,
        started_from=started_from, started_before=started_before, after=after, before=before,
        length_from=length_from, length_to=length_to, valid=rewards and rewards == "valid",
    )  # fmt: skip

    def tell(report: "ConvertReport") -> None:
        typer.echo(f"{report.found} looked at, {report.new} new, {report.there} there already", err=True)

    with open_pool(source) as one, open_pool(target) as other:
        _require_there(one)
        report = run(one, other, query, tell=tell)
    if as_json:
        typer.echo(json.dumps(report.to_dict()))
    else:
        typer.echo(
            f"{report.source} -> {report.target}: {report.found} episodes, {report.new} new of "
            f"{report.records} records, {report.there} there already, {len(report.refused)} refused"
        )
    for name, why in report.refused.items():
        typer.echo(f"refused {name}: {why}", err=True)
    if report.refused:
        raise typer.Exit(1)


def _query(**given: Any) -> "Query":
    from pydantic import ValidationError

    from tspace_core.storage.pools.query import Query

    try:
        return Query(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        where = f"--{'-'.join(map(str, first['loc'])).replace('_', '-')}: " if first["loc"] else ""
        message = f"{where}{first['msg']}; give instants as 2026-03-01T08:00:00+01:00"
        raise TspaceError(message) from error


def _require_there(pool: "Pool") -> None:
    """Refuse to look into a folder that is not there; an empty one is an empty pool."""
    from pathlib import Path

    from tspace_core.storage.pools.files import FilePool

    root = pool.lake.root if isinstance(pool, FilePool) else None
    if isinstance(root, Path) and not root.is_dir():
        message = (
            f"{pool}: there is no folder {root}: correct the path, or make the folder if it is to be empty"
        )
        raise TspaceError(message)


def _row(entry: "Entry") -> dict[str, Any]:
    names = (
        "episode_id", "vehicle_id", "driver_id", "site_id", "agent", "start_ns", "end_ns", "records",
        "invalid", "state_dim", "place",
    )  # fmt: skip
    return {name: getattr(entry, name) for name in names}


def _instant(ns: int) -> str:
    import numpy as np

    return str(np.datetime64(ns, "ns"))[:23].replace("T", " ")
