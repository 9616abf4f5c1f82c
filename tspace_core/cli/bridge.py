"""Commands of the bridge, the one process that flashes a vehicle."""

import getpass
import logging
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tspace_core.cli.options import VehicleId

if TYPE_CHECKING:
    from tspace_core.bridge.base import BridgeBase
    from tspace_core.config import Vehicle
    from tspace_core.link.channel import ChannelClient
    from tspace_core.link.messages import Message, Report

app = typer.Typer(rich_markup_mode=None)

_ANSWER_S = 5.0
"""For an answer of the bridge, beyond the calls that it waits for."""
_HINT = "r + Enter: reference map at once; q + Enter: end"


@app.command("bridge")
def bridge(
    vehicle: VehicleId,
    *,
    standby: Annotated[
        bool,
        typer.Option(
            "--standby/--no-standby",
            "--hmi/--no-hmi",
            help="Hear the HMI while no run is up; without it datagrams are always sent.",
        ),
    ] = True,
    keys: Annotated[bool, typer.Option(help="Take r and q from the keyboard.")] = True,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log what peers and datagrams do.")] = False,
) -> None:
    """Serve a vehicle's bus or telematics box: what it does out, guarded flashes in; until it is stopped."""
    from tspace_core.bridge.base import BridgeOptions
    from tspace_core.bridge.choice import bridge_of
    from tspace_core.config import load_vehicle

    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(asctime)s %(levelname)s %(message)s"
    )
    process = bridge_of(load_vehicle(vehicle), BridgeOptions(standby=standby, tell=_tell))
    if keys:
        _watch_keys(process)
    cause = process.run()
    _tell(f"ended: {cause}")
    if process.failed:
        raise typer.Exit(1)


@app.command("revert")
def revert(vehicle: VehicleId) -> None:
    """Put the reference map into effect at once; the run has to be armed anew."""
    from tspace_core.link.messages import Revert

    report = _ask(vehicle, Revert(by=_person()))
    typer.echo(_line(report))
    if report.state == "ARMED":
        typer.echo("error: the guard is still armed; end the bridge, or the vehicle", err=True)
        raise typer.Exit(1)


@app.command("arm")
def arm(vehicle: VehicleId) -> None:
    """Clear the guard's lock: you have looked at its cause, and a run may arm again."""
    from tspace_core.link.messages import Clear

    report = _ask(vehicle, Clear(by=_person()))
    typer.echo(_line(report))
    if report.state == "LOCKED":
        raise typer.Exit(1)


@app.command("status")
def status(
    vehicle: VehicleId,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show what the bridge does: the guard's state, the agent, flashes, signals, counters."""
    report = _ask(vehicle, None)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
        return
    typer.echo(_line(report))
    typer.echo(f"agent: {report.agent or 'none'}")
    typer.echo(f"flashes: {_list(report.flashes)}")
    values = ((name, "stale" if value is None else f"{value:g}") for name, value in report.signals.items())
    typer.echo("signals: " + ", ".join(f"{name} {value}" for name, value in values))
    typer.echo(f"counters: {_list(report.counters)}")


@app.command("request")
def request(
    vehicle: VehicleId,
    *,
    infer: Annotated[bool, typer.Option("--infer", help="The champion drives, nothing is learned.")] = False,
    observe: Annotated[bool, typer.Option("--observe", help="Record only, flash nothing.")] = False,
    episodes: Annotated[int | None, typer.Option(min=1, help="End after so many episodes.")] = None,
) -> None:
    """Ask for an online run of a vehicle; the sensor of `online_episodes` starts it."""
    from tspace_core.config import load_vehicle
    from tspace_core.config.settings import settings
    from tspace_core.link.requests import RequestOptions, Spool

    spool = Spool(settings().online_dir, load_vehicle(vehicle).id)
    options = RequestOptions(infer=infer, observe=observe, episodes=episodes)
    written = spool.write("command", "start", options)
    typer.echo(f"request {written.id} of {vehicle} is waiting")


def _tell(line: str) -> None:
    typer.echo(line)
    sys.stdout.flush()


def _watch_keys(process: "BridgeBase") -> None:
    """Read the keyboard beside the bridge; a closed or missing keyboard is none."""
    import threading

    def watch() -> None:
        try:
            for line in sys.stdin:
                if not process.ready.wait(_ANSWER_S):
                    continue
                if line.strip().lower() == "r":
                    process.revert("the r key")
                elif line.strip().lower() == "q":
                    process.stop("the q key")
                    return
                elif line.strip():
                    _tell(_HINT)
        except (OSError, ValueError):
            return

    if sys.stdin is None or sys.stdin.closed:
        return
    if sys.stdin.isatty():
        _tell(_HINT)
    threading.Thread(target=watch, name="keys", daemon=True).start()


def _person() -> str:
    try:
        return f"{getpass.getuser()} by command"
    except (KeyError, OSError):
        return "an operator by command"


def _ask(vehicle_id: str, command: "Message | None") -> "Report":
    """Send a command, and return the bridge's report of when it was done."""
    from tspace_core import __version__
    from tspace_core.config import load_vehicle
    from tspace_core.link.channel import ChannelClient, TlsFiles
    from tspace_core.link.endpoints import bridge_key, endpoints
    from tspace_core.link.messages import Hello, Status

    vehicle = load_vehicle(vehicle_id)
    place = endpoints(vehicle)
    hello = Hello(role="operator", vehicle_id=vehicle.id, run_id=_person(), version=__version__)
    with ChannelClient.connect(
        place.bridge_host, place.bridge_port, bridge_key(), hello, tls=TlsFiles.from_settings()
    ) as client:
        client.send(Status() if command is None else command)
        return _report(client, _patience_s(vehicle))


def _patience_s(vehicle: "Vehicle") -> float:
    """How long a command may take: a running call that is ended, and one that sends the reference map."""
    if vehicle.interface == "remote" and vehicle.remote is not None:
        return vehicle.remote.set_torque_s + _ANSWER_S
    return _ANSWER_S


def _report(client: "ChannelClient", patience_s: float) -> "Report":
    import time

    from tspace_core.errors import ChannelError
    from tspace_core.link.messages import Failed, Report

    deadline = time.monotonic() + patience_s
    while (left := deadline - time.monotonic()) > 0:
        message = client.receive(left)
        if isinstance(message, Report):
            return message
        if isinstance(message, Failed):
            raise ChannelError(message.reason)
    text = f"the bridge did not answer within {patience_s:g} s; end it, or the vehicle, if a map must go"
    raise ChannelError(text)


def _line(report: "Report") -> str:
    return f"{report.vehicle_id}: {report.state}{': ' + report.cause if report.cause else ''}"


def _list(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count) or "none"
