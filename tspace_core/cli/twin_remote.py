"""`tspace twin --remote`: the simulated vehicle behind its telematics box, its cloud, and an HMI."""

import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

import typer

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

    from tspace_core.config import Vehicle
    from tspace_core.link.datagrams import Status
    from tspace_core.supervision import Supervisor
    from tspace_core.twin.cloud.live_cloud import CloudOptions, CloudTwin
    from tspace_core.twin.hmi import HmiScript
    from tspace_core.twin.live_events import EventLog
    from tspace_core.twin.rocketmq_double import RocketMqDouble


class Part(StrEnum):
    """What of the remote path runs in this process."""

    all = "all"
    vehicle = "vehicle"
    cloud = "cloud"


class HmiBy(StrEnum):
    """How the HMI's requests travel."""

    udp = "udp"
    rmq = "rmq"


Remote = Annotated[
    bool, typer.Option("--remote", help="The vehicle behind its telematics box, with the remote CAN service.")
]
PartOption = Annotated[Part, typer.Option(help="Remote: only truck and box, or only service and queue.")]
Service = Annotated[
    str | None, typer.Option(help="Remote, --part vehicle: URL of the service the box speaks to.")
]
Host = Annotated[str, typer.Option(help="Remote: address that the service listens at.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Remote: port of the service; 0: a free one.")]
QueuePort = Annotated[
    int, typer.Option(min=0, max=65535, help="Remote, --hmi-by rmq: port of the queue; 0: a free one.")
]
Storage = Annotated[
    str | None,
    typer.Option(
        help="Remote: s3://bucket/prefix for windows; default: the settings' box_url; none: nowhere."
    ),
]
OssLink = Annotated[
    bool | None,
    typer.Option("--oss-link/--body", help="Remote: answer with a link or the window; default: --body."),
]
Record = Annotated[bool, typer.Option("--record", help="Remote: upload windows unasked, too.")]
HmiByOption = Annotated[HmiBy, typer.Option(help="Remote: how the HMI's requests travel.")]
Certificate = Annotated[Path | None, typer.Option(help="Remote: PEM file; with its key the service has TLS.")]
CertificateKey = Annotated[Path | None, typer.Option(help="Remote: PEM file with the certificate's key.")]


@dataclass(frozen=True)
class RemoteArguments:
    """The options of ``--remote``, as given."""

    part: Part
    service: str | None
    host: str
    port: int
    queue_port: int
    storage: str | None
    oss_link: bool | None
    record: bool
    hmi_by: HmiBy
    certificate: Path | None
    key: Path | None


@dataclass(frozen=True)
class PanelArguments:
    """What the HMI does."""

    source: Literal["none", "keys", "script"]
    script: "HmiScript"


class _Panel(Protocol):
    def send(self, status: "Status") -> None: ...
    def flashed(self) -> None: ...
    def wake(self) -> None: ...
    def close(self) -> None: ...
    def run_script(self, script: "HmiScript", stopping: "Event") -> None: ...


def remote_options(
    given: RemoteArguments,
    *,
    driver: str,
    cycle: str,
    seed: int,
    repeat: bool,
    time_factor: float,
    faults: list[str],
) -> "CloudOptions":
    """What to simulate; authorisation and authority as the settings have them.

    Raises:
        TwinError: a fault that there is not.
    """
    from tspace_core.config.settings import settings
    from tspace_core.twin.cloud.faults import parse_remote_fault
    from tspace_core.twin.cloud.live_cloud import CloudOptions
    from tspace_core.twin.cloud.service import ServiceOptions
    from tspace_core.twin.cloud.truck import DriveOptions

    storage = settings().box_url if given.storage is None else given.storage
    authorization = settings().remote.authorization
    service = ServiceOptions(
        host=given.host,
        port=given.port,
        answer="link" if given.oss_link else "body",
        authorization=None if authorization is None else authorization.get_secret_value(),
        certificate=given.certificate,
        key=given.key,
        faults=tuple(parse_remote_fault(text) for text in faults),
    )
    return CloudOptions(
        part=given.part.value,
        service_url=given.service,
        drive=DriveOptions(driver=driver, cycle=cycle, seed=seed, repeat=repeat, time_factor=time_factor),
        service=service,
        storage=None if storage in (None, "none") else storage,
        record=given.record,
        ca=settings().remote.ca,
    )


def run_remote(
    vehicle: "Vehicle",
    options: "CloudOptions",
    given: RemoteArguments,
    panel: PanelArguments,
    events: Path | None,
) -> bool:
    """Run it until it is stopped; False if something in it crashed."""
    from tspace_core.supervision import stop_on_signals
    from tspace_core.twin.cloud.live_cloud import CloudTwin
    from tspace_core.twin.live_events import EventLog

    log = EventLog(events, typer.echo)
    hmi: list[_Panel] = []

    def tell(event: str, /, **fields: object) -> None:
        log(event, **fields)
        if event == "map" and fields["page"] != "reference":
            for each in hmi:
                each.flashed()

    with ExitStack() as stack:
        stack.callback(log.close)
        queue = _queue(given, stack)
        twin = CloudTwin(vehicle, options, tell)
        supervisor = twin.supervisor
        try:
            with stop_on_signals(supervisor):
                stack.callback(twin.stop)
                twin.start()
                if options.part == "all":
                    twin.wait_connected()
                if panel.source != "none":
                    hmi.append(_hmi(vehicle, given, queue, log, stack))
                    _start_hmi(supervisor, hmi[0], panel)
                _say_started(twin, options, queue, log)
                supervisor.wait()
                twin.stop()
        finally:
            log("stopped", cause=supervisor.cause or "could not begin")
    if supervisor.error is not None:
        typer.echo(f"error: {supervisor.cause}", err=True)
    return supervisor.error is None


def _queue(given: RemoteArguments, stack: ExitStack) -> "RocketMqDouble | None":
    """The message queue of the cloud, where the HMI goes by it."""
    if given.hmi_by is not HmiBy.rmq or given.part is Part.vehicle:
        return None
    from tspace_core.twin.rocketmq_double import RocketMqDouble

    queue = RocketMqDouble(given.queue_port)
    queue.start()
    stack.callback(queue.stop)
    return queue


def _hmi(
    vehicle: "Vehicle",
    given: RemoteArguments,
    queue: "RocketMqDouble | None",
    log: "EventLog",
    stack: ExitStack,
) -> _Panel:
    from tspace_core.link.endpoints import endpoints
    from tspace_core.twin.hmi import Hmi

    panel: _Panel
    if given.hmi_by is HmiBy.udp:
        where = endpoints(vehicle)
        panel = Hmi(where.udp_host, where.udp_port, log)
    else:
        from tspace_core.link.rocketmq import QueueServers
        from tspace_core.twin.hmi_rmq import RmqHmi

        own = None if queue is None else QueueServers((queue.endpoints,), tls=False)
        panel = RmqHmi(vehicle, log, servers=own)
    stack.callback(panel.close)
    return panel


def _start_hmi(supervisor: "Supervisor", hmi: _Panel, panel: PanelArguments) -> None:
    work: Callable[[], None]
    if panel.source == "script":
        supervisor.on_stop("hmi", hmi.wake)

        def work() -> None:
            hmi.run_script(panel.script, supervisor.stopping)

    else:
        from tspace_core.twin.hmi import Keyboard

        keyboard = Keyboard(sys.stdin.fileno(), lambda line: typer.echo(line, err=True))
        supervisor.on_stop("keyboard", keyboard.stop)

        def work() -> None:
            keyboard.run(hmi)

    supervisor.start("hmi", work)


def _say_started(
    twin: "CloudTwin", options: "CloudOptions", queue: "RocketMqDouble | None", log: "EventLog"
) -> None:
    """Tell programs what there is, and people what to export."""
    if queue is not None:
        typer.echo(f"export TSPACE_ROCKETMQ__ENDPOINTS={queue.endpoints}", err=True)
        typer.echo("export TSPACE_ROCKETMQ__TLS=false\nexport TSPACE_HMI__SOURCE=rmq", err=True)
    if options.part != "vehicle":
        typer.echo(f"export TSPACE_REMOTE__URL={twin.url}", err=True)
    if options.storage is not None:
        typer.echo(f"export TSPACE_BOX_URL={options.storage}", err=True)
    log(
        "started",
        vehicle=twin.vehicle.id,
        vin=twin.vehicle.vin,
        pid=os.getpid(),
        part=options.part,
        url=twin.url,
        rocketmq=None if queue is None else queue.endpoints,
        storage=options.storage,
        reference_sha256=twin.vehicle.default_map().sha256(),
    )
