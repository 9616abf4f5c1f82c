"""The commands ``embed`` and ``similar``: driving situations as vectors, and those like a given one."""

import dataclasses
import json
import math
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

from tspace_core.cli.options import DataDir, VehicleId, open_lake
from tspace_core.errors import TspaceError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tspace_core.records.episode import Episode
    from tspace_core.storage.embedding_rows import Neighbour
    from tspace_core.storage.embeddings import EmbeddingTable
    from tspace_core.storage.lake import Lake

app = typer.Typer()
_SHOWN = 5


@app.command()
def embed(
    vehicle: VehicleId,
    *,
    train: Annotated[
        bool, typer.Option("--train", help="Train the encoder anew; default: only where there is none.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Make vectors of a vehicle's recorded situations; a stopped run goes on where it was."""
    from tspace_core.config import load_vehicle
    from tspace_core.embeddings.run import embed_episodes, train_encoder
    from tspace_core.embeddings.store import latest_encoder_id

    def tell(line: str) -> None:
        typer.echo(line, err=True)

    config, lake = load_vehicle(vehicle), open_lake(data_dir)
    if train or latest_encoder_id(lake, config.id) is None:
        train_encoder(lake, config.id, tell=tell)
    found = embed_episodes(lake, config.id, tell=tell)
    state = found.state
    if as_json:
        more = {name: getattr(found, name) for name in ("new_rows", "new_episodes", "removed", "seconds")}
        typer.echo(json.dumps({**state.model_dump(mode="json"), **more}))
        return
    typer.echo(
        f"{config.id}: {state.rows} situations of {state.episodes} episodes, {found.new_rows} new, "
        f"{found.removed} episodes removed, encoder {state.encoder}"
    )
    for reason, count in state.left_out.items():
        typer.echo(f"  left out: {count} episodes, {reason}")


@app.command()
def similar(
    episode: Annotated[str, typer.Option(help="Id, as `tspace ingest` and the report name it.")],
    at: Annotated[
        str,
        typer.Option(help="Seconds into the episode, or an instant such as 2026-01-05T09:00:12+01:00."),
    ],
    *,
    vehicle: Annotated[
        str | None, typer.Option(help="Among whose situations; default: the episode's vehicle.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 10,
    other_episodes: Annotated[
        bool, typer.Option("--other-episodes", help="None of the episode itself.")
    ] = False,
    driver: Annotated[list[str] | None, typer.Option(help="Only of this driver; may be repeated.")] = None,
    site: Annotated[list[str] | None, typer.Option(help="Only from this site; may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Find recorded driving situations like one moment of an episode."""
    from tspace_core.config import load_driver, load_site, load_vehicle
    from tspace_core.storage.embedding_rows import SituationFilter
    from tspace_core.storage.embeddings import EmbeddingTable

    lake = open_lake(data_dir)
    own = episode.split("/", 1)[0]
    among = own if vehicle is None else load_vehicle(vehicle).id
    for name in driver or ():
        load_driver(name)
    for name in site or ():
        load_site(name)
    found, source = _read(lake, own, episode)
    k = _record(found, at)
    table = EmbeddingTable(lake, among)
    vector = _vector(lake, table, found, k, source)
    where = SituationFilter(
        drivers=tuple(driver or ()),
        sites=tuple(site or ()),
        other_than=episode if other_episodes else None,
        not_record=(episode, k),
    )
    neighbours = table.search(vector, count, where=where)
    query = _figures(found, k)
    if as_json:
        rows = [_plain(item) for item in neighbours]
        typer.echo(json.dumps({"query": _plain(query), "neighbours": rows}))
        return
    typer.echo(f"like {_line(query)}")
    typer.echo(f"  {'distance':>8}  {'speed':>10}  {'pedal':>7}  where")
    for item in neighbours:
        typer.echo(f"  {item.distance:8.4f}  {_line(item)}")
    if not neighbours:
        typer.echo("  nothing: no other situation fits; give fewer conditions")


def _read(lake: "Lake", vehicle_id: str, episode_id: str) -> "tuple[Episode, str]":
    """The episode and the name of its file."""
    from tspace_core.embeddings.run import list_episodes
    from tspace_core.storage import episodes_table

    listed = list_episodes(lake, vehicle_id)
    for item in listed:
        if item.episode_id == episode_id:
            return episodes_table.read(item.path), item.path.name
    latest = ", ".join(item.episode_id for item in listed[-_SHOWN:])
    known = f"{len(listed)} of {vehicle_id}, the latest: {latest}" if listed else f"none of {vehicle_id}"
    message = f"no episode {episode_id!r} in {lake.root}; there are {known}"
    raise TspaceError(message)


def _record(episode: "Episode", at: str) -> int:
    """The record during which ``at`` is."""
    import numpy as np

    meta = episode.meta
    first = int(episode.times[0])
    end_s = (int(episode.times[-1]) - first) / 1e9
    try:
        seconds = float(at)
    except ValueError:
        try:
            instant = datetime.fromisoformat(at)
        except ValueError as error:
            message = f"--at {at!r} is neither a number of seconds nor an instant in ISO 8601"
            raise TspaceError(message) from error
        if instant.tzinfo is None:
            instant = instant.replace(tzinfo=ZoneInfo(meta.timezone))
        seconds = instant.timestamp() - first / 1e9
    if not (math.isfinite(seconds) and -1e-6 <= seconds < end_s):
        zone = ZoneInfo(meta.timezone)
        begun, ended = (datetime.fromtimestamp(int(ns) / 1e9, zone) for ns in episode.times[[0, -1]])
        message = (
            f"--at {at} is not within episode {meta.episode_id}: it goes from 0 to {end_s:.2f} s, "
            f"{begun.isoformat(timespec='milliseconds')} to {ended.isoformat(timespec='milliseconds')}"
        )
        raise TspaceError(message)
    offsets = (episode.times[:-1] - first) / 1e9
    return max(int(np.searchsorted(offsets, seconds + 1e-6, side="right")) - 1, 0)


def _vector(
    lake: "Lake", table: "EmbeddingTable", episode: "Episode", k: int, source: str
) -> "NDArray[np.float32]":
    """From the table, or from its encoder where the episode, as it is now, is not in it."""
    row = table.row(episode.meta.episode_id, k, source=source)
    if row is not None:
        return row[0]
    from tspace_core.embeddings.registry import load_encoder
    from tspace_core.embeddings.store import encoder_folder

    state = table.state()
    assert state is not None  # row would have said so
    encoder = load_encoder(encoder_folder(lake, table.vehicle_id, state.encoder))
    vectors = encoder.encode(episode.states[k : k + 1])
    return vectors.reshape(-1)


def _figures(episode: "Episode", k: int) -> "Neighbour":
    from datetime import UTC

    from tspace_core.storage.embedding_rows import Neighbour, window_mean

    meta, instant = episode.meta, int(episode.times[k])
    return Neighbour(
        episode_id=meta.episode_id,
        k=k,
        distance=0.0,
        time=datetime.fromtimestamp(instant / 1e9, UTC),
        at_s=(instant - int(episode.times[0])) / 1e9,
        timezone=meta.timezone,
        driver=meta.driver_id,
        site=meta.site_id,
        agent=meta.action_source,
        speed_kmh=float(window_mean(episode, "velocity")[k]),
        pedal_percent=float(window_mean(episode, "thrust")[k]),
    )


def _local(item: "Neighbour") -> datetime:
    return item.time.astimezone(ZoneInfo(item.timezone))


def _line(item: "Neighbour") -> str:
    pedal = "-" if math.isnan(item.pedal_percent) else f"{item.pedal_percent:.1f} %"
    speed = "-" if math.isnan(item.speed_kmh) else f"{item.speed_kmh:.1f} km/h"
    return (
        f"{speed:>10}  {pedal:>7}  {item.episode_id} at {item.at_s:.2f} s, "
        f"{_local(item):%Y-%m-%d %H:%M:%S %Z}, {item.driver}, {item.site}"
    )


def _plain(item: "Neighbour") -> dict[str, Any]:
    content = dataclasses.asdict(item)
    numbers = {name: value for name, value in content.items() if isinstance(value, float)}
    known = {name: None if math.isnan(value) else value for name, value in numbers.items()}
    return {**content, **known, "time": item.time.isoformat(), "local_time": _local(item).isoformat()}
