"""Commands of the simulated world."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tspace_core.cli import twin_remote as remote_path
from tspace_core.cli.options import VehicleId
from tspace_core.errors import TspaceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tspace_core.config import Vehicle
    from tspace_core.supervision import Supervisor
    from tspace_core.twin.hmi import Hmi, HmiScript
    from tspace_core.twin.live import LiveOptions

app = typer.Typer(help="The simulated world.", rich_markup_mode=None)


class HmiSource(StrEnum):
    """Where the simulated HMI's requests come from."""

    none = "none"
    keys = "keys"
    script = "script"


@app.callback(invoke_without_command=True)
def live(
    context: typer.Context,
    vehicle: Annotated[str | None, typer.Option(help="Vehicle id, see `tspace vehicles`.")] = None,
    driver: Annotated[str, typer.Option(help="Simulated driver.")] = "habitual",
    cycle: Annotated[str, typer.Option(help="Drive cycle.")] = "truck_route",
    seed: Annotated[int, typer.Option(help="Of the route and the first drive; each drive has the next.")] = 0,
    *,
    once: Annotated[bool, typer.Option("--once", help="End at the end of the route.")] = False,
    time_factor: Annotated[float, typer.Option(help="Drive so much faster than real time.")] = 1.0,
    hmi: Annotated[HmiSource, typer.Option(help="Training HMI: b, v, i, x + Enter, or a script.")] = (
        HmiSource.none
    ),
    episodes: Annotated[int, typer.Option(min=1, help="Script: episodes.")] = 2,
    episode_seconds: Annotated[float, typer.Option(min=0.0, help="Script: an episode's length.")] = 30.0,
    pause_seconds: Annotated[
        float, typer.Option(min=0.0, help="Script: from an end to the next begin.")
    ] = 6.0,
    delay_seconds: Annotated[float, typer.Option(min=0.0, help="Script: before the first begin.")] = 0.0,
    flashes: Annotated[
        int, typer.Option(min=0, help="Script: count an episode's length from its so many-th flash on.")
    ] = 0,
    exit_after: Annotated[
        bool, typer.Option("--exit/--no-exit", help="Script: ask for the run's exit at the end.")
    ] = True,
    block_mode: Annotated[
        bool, typer.Option("--block-mode/--no-block-mode", help="Whether the VCU offers XCP block mode.")
    ] = True,
    silence_seconds: Annotated[
        float, typer.Option(help="XCP silent this long: the VCU takes its reference page.")
    ] = 2.0,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            help="Simulated fault, e.g. lose_answer:DOWNLOAD,after=3, or remote: code,value=304; repeatable."
        ),
    ] = None,
    events: Annotated[
        Path | None, typer.Option(help="File that events are appended to as JSON lines; default: stdout.")
    ] = None,
    remote: remote_path.Remote = False,
    part: remote_path.PartOption = remote_path.Part.all,
    service: remote_path.Service = None,
    host: remote_path.Host = "127.0.0.1",
    port: remote_path.Port = 0,
    queue_port: remote_path.QueuePort = 0,
    storage: remote_path.Storage = None,
    oss_link: remote_path.OssLink = None,
    record_windows: remote_path.Record = False,
    hmi_by: remote_path.HmiByOption = remote_path.HmiBy.udp,
    tls_certificate: remote_path.Certificate = None,
    tls_key: remote_path.CertificateKey = None,
) -> None:
    """Put a simulated vehicle on its CAN bus: messages, a VCU that answers XCP, a driver, an HMI.

    With --remote it is behind its telematics box instead, with a remote CAN service, and a message queue.

    It drives until SIGINT or SIGTERM. `tspace twin record` records logs instead.
    """
    if context.invoked_subcommand is not None:
        return
    if vehicle is None:
        message = "say which vehicle with --vehicle; `tspace vehicles` lists them"
        raise TspaceError(message)
    from tspace_core.config import load_vehicle
    from tspace_core.twin.faults import parse_fault
    from tspace_core.twin.hmi import HmiScript
    from tspace_core.twin.live import LiveOptions

    script = HmiScript(
        episodes=episodes,
        episode_s=episode_seconds,
        pause_s=pause_seconds,
        delay_s=delay_seconds,
        flashes=flashes,
        exit_after=exit_after,
    )
    if remote:
        given = remote_path.RemoteArguments(
            part=part,
            service=service,
            host=host,
            port=port,
            queue_port=queue_port,
            storage=storage,
            oss_link=oss_link,
            record=record_windows,
            hmi_by=hmi_by,
            certificate=tls_certificate,
            key=tls_key,
        )
        simulated = remote_path.remote_options(
            given,
            driver=driver,
            cycle=cycle,
            seed=seed,
            repeat=not once,
            time_factor=time_factor,
            faults=fault or [],
        )
        panel = remote_path.PanelArguments(hmi.value, script)
        if not remote_path.run_remote(load_vehicle(vehicle), simulated, given, panel, events):
            raise typer.Exit(1)
        return
    options = LiveOptions(
        driver=driver,
        cycle=cycle,
        seed=seed,
        repeat=not once,
        time_factor=time_factor,
        silence_s=silence_seconds,
        block_mode=block_mode,
        faults=tuple(parse_fault(text) for text in fault or ()),
    )
    if not _run(load_vehicle(vehicle), options, hmi, script, events):
        raise typer.Exit(1)


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


def _run(
    vehicle: "Vehicle", options: "LiveOptions", source: HmiSource, script: "HmiScript", events: Path | None
) -> bool:
    """Run the twin until it is stopped; False if something in it crashed."""
    from tspace_core.link.bus import SharedBus
    from tspace_core.link.endpoints import endpoints
    from tspace_core.supervision import Supervisor, stop_on_signals
    from tspace_core.twin.hmi import Hmi
    from tspace_core.twin.live import LiveTwin
    from tspace_core.twin.live_events import EventLog
    from tspace_core.twin.vcu_memory import xcp_config

    if vehicle.bus is None:
        message = f"vehicle {vehicle.id} has no bus: add a `bus:` section to its file in conf/vehicles"
        raise TspaceError(message)
    config = xcp_config(vehicle)
    log = EventLog(events, typer.echo)
    where = endpoints(vehicle)
    panel = Hmi(where.udp_host, where.udp_port, log)

    def tell(event: str, /, **fields: object) -> None:
        log(event, **fields)
        if event == "page" and fields["page"] != config.reference_page:
            panel.flashed()

    supervisor = Supervisor("twin")
    try:
        with (
            stop_on_signals(supervisor),
            SharedBus(vehicle.bus, ids=[config.request_id]) as bus,
            supervisor,
        ):
            twin = LiveTwin(vehicle, bus, options, tell)
            supervisor.on_stop("hmi", panel.wake)
            supervisor.start("drive", _then_stop(supervisor, lambda: twin.run(supervisor.stopping)))
            if source is HmiSource.script:
                supervisor.start("hmi", lambda: panel.run_script(script, supervisor.stopping))
            elif source is HmiSource.keys:
                _start_keyboard(supervisor, panel)
            supervisor.wait()
            twin.close()
    finally:
        log("stopped", cause=supervisor.cause or "could not begin")
        log.close()
        panel.close()
    if supervisor.error is not None:
        typer.echo(f"error: {supervisor.cause}", err=True)
    return supervisor.error is None


def _start_keyboard(supervisor: "Supervisor", panel: "Hmi") -> None:
    from tspace_core.twin.hmi import Keyboard

    keyboard = Keyboard(sys.stdin.fileno(), lambda line: typer.echo(line, err=True))
    supervisor.on_stop("keyboard", keyboard.stop)
    supervisor.start("hmi", lambda: keyboard.run(panel))


def _then_stop(supervisor: "Supervisor", work: "Callable[[], None]") -> "Callable[[], None]":
    def run() -> None:
        work()
        supervisor.stop("the route ended")

    return run
