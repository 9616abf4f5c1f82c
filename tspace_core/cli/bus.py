"""Command on a vehicle's CAN bus, for the cab: is it configured, does it open, is everything on it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from tspace_core.cli.options import VehicleId

if TYPE_CHECKING:
    from tspace_core.can.dbc import CanDatabase
    from tspace_core.can.layout import MessageLayout
    from tspace_core.config import Vehicle
    from tspace_core.config.link import BusConfig
    from tspace_core.link.survey import Survey

_UNKNOWN_SHOWN = 20
"""Ids that no DBC has and that are listed one by one."""

app = typer.Typer()


@app.command()
def bus(
    vehicle: VehicleId,
    seconds: Annotated[float, typer.Option(min=0.1, max=600.0, help="How long to listen, s.")] = 3.0,
) -> None:
    """Open a vehicle's CAN bus, listen, and say what is there and what is missing; nothing is sent.

    The exit code is 1 where a message that a signal of the vehicle comes from is missing.
    """
    from tspace_core.can.dbc import load_database
    from tspace_core.config import load_vehicle
    from tspace_core.errors import ConfigError
    from tspace_core.link.opening import describe
    from tspace_core.link.survey import survey

    config = load_vehicle(vehicle)
    if config.bus is None:
        message = (
            f"vehicle {vehicle} has no bus: where it is driven online, add one to its file in conf/vehicles, "
            "for example `bus: {interface: socketcan, channel: can0}`"
        )
        raise ConfigError(message)
    rates = f"{config.bus.bitrate} bit/s" + (
        f", data {config.bus.data_bitrate} bit/s" if config.bus.fd else ""
    )
    typer.echo(f"{vehicle}: {describe(config.bus)}, {rates}")
    if config.bus.interface == "kvaser":
        _echo_channels()
    database = load_database(config.dbc_files()) if config.dbc else None
    found = survey(config.bus, seconds)
    typer.echo(_summary(found))
    if found.lost is not None:
        raise found.lost
    if not found.frames:
        typer.echo(f"the bus is silent: {_silence(config.bus)}")
    complete = True
    if database is not None:
        complete = _echo_messages(config, database, found)
    if not complete:
        raise typer.Exit(1)


def _echo_channels() -> None:
    from tspace_core.errors import BusError
    from tspace_core.link.kvaser import find_channels

    try:
        channels = find_channels()
    except BusError as error:
        typer.echo(f"Kvaser channels: {error}")
        return
    typer.echo("Kvaser channels: " + ("" if channels else "none is connected"))
    for one in channels:
        typer.echo(f"  {one.name}{' (virtual)' if one.virtual else ''}")


def _summary(found: "Survey") -> str:
    """One line of totals, and of what is wrong with the bus itself."""
    total = sum(found.frames.values())
    line = (
        f"heard {total} frames in {found.seconds:.1f} s ({total / found.seconds:.0f} frames/s) "
        f"of {len(found.frames)} ids"
    )
    for number, what in (
        (found.counters.error_frames, "error frames"),
        (found.counters.remote_frames, "remote frames"),
        (found.counters.refused, "frames refused"),
    ):
        if number:
            line += f"; {number} {what}"
    return line + (f" ({found.counters.last_error})" if found.counters.last_error else "")


def _silence(config: "BusConfig") -> str:
    if config.interface in ("udp_multicast", "virtual"):
        return "start the program that is to be on it, for example `tspace twin`"
    return "switch the ignition on, and check cable, termination and bit rate"


def _wanted(config: "Vehicle", database: "CanDatabase") -> Iterator[tuple["MessageLayout", list[str]]]:
    """The messages that the vehicle's signals come from, with these signals."""
    signals: dict[tuple[int, bool], list[str]] = {}
    layouts = {}
    for name, source in config.signals.items():
        if source.message is None:
            continue
        layout = database.find(source.message, extended=source.extended)
        layouts[layout.id, layout.extended] = layout
        signals.setdefault((layout.id, layout.extended), []).append(name)
    for key in sorted(layouts):
        yield layouts[key], signals[key]


def _echo_messages(config: "Vehicle", database: "CanDatabase", found: "Survey") -> bool:
    """A line a message that matters, then those that are missing; whether none is."""
    missing = []
    known = set(database.layouts)
    for layout, names in _wanted(config, database):
        rate = found.rate(layout.id, extended=layout.extended)
        line = f"  {layout.id:#05x} {layout.name:<24} {rate:7.1f} frames/s  {', '.join(names)}"
        if not rate:
            missing.append(f"{layout.name} ({layout.id:#x}): {', '.join(names)}")
            line += "  MISSING"
        elif (length := found.shortest[layout.id, layout.extended]) < layout.length:
            line += f"  ONLY {length} of {layout.length} bytes"
        typer.echo(line)
    others = [layout for key, layout in sorted(database.layouts.items()) if not found.frames.get(key)]
    unknown = sorted(set(found.frames) - known)
    if unknown:
        shown = ", ".join(f"{id:#x}" for id, _ in unknown[:_UNKNOWN_SHOWN])
        more = f" and {len(unknown) - _UNKNOWN_SHOWN} more" if len(unknown) > _UNKNOWN_SHOWN else ""
        typer.echo(f"ids that no DBC of the vehicle has: {shown}{more}")
    if others:
        typer.echo(f"messages of the DBC not heard: {', '.join(one.name for one in others)}")
    if missing:
        typer.echo(f"missing for the vehicle's signals: {'; '.join(missing)}")
    else:
        typer.echo("all signals of the vehicle are there")
    return not missing
