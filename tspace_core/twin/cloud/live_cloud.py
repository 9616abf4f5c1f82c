"""The twin in the cloud in one piece or in parts: truck, telematics box and remote CAN service."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import httpx

from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import TwinError
from tspace_core.supervision import Supervisor
from tspace_core.twin.cloud.box import BoxOptions, TelematicsBox
from tspace_core.twin.cloud.faults import RemoteFault, parse_remote_fault
from tspace_core.twin.cloud.service import RemoteCanService, ServiceOptions
from tspace_core.twin.cloud.truck import BoxTruck, DriveOptions, quiet
from tspace_core.twin.cloud.windows import Place
from tspace_core.twin.live_events import Tell

Part = Literal["all", "vehicle", "cloud"]
JOIN_S = 10.0
STATE_S = 30.0


@dataclass(frozen=True)
class CloudOptions:
    """What is simulated, and how.

    Attributes:
        part: truck and box (``vehicle``), the service (``cloud``), or both in one process.
        service_url: for ``vehicle``: root URL of the service that the box speaks to.
        drive: how the truck drives.
        service: how the service answers; its authorisation holds for the box, too.
        storage: ``s3://bucket/prefix`` that windows are uploaded to; None: the box hands them over.
        record: upload windows unasked, too.
        ca: PEM file of the authority that signed the service's certificate, for the box.
    """

    part: Part = "all"
    service_url: str | None = None
    drive: DriveOptions = field(default_factory=DriveOptions)
    service: ServiceOptions = field(default_factory=ServiceOptions)
    storage: str | None = None
    record: bool = False
    ca: Path | None = None


class CloudTwin:
    """One vehicle behind its telematics box, and the service; a context manager starts and stops it.

    Args:
        vehicle: with ``twin`` and ``remote`` sections.
        options: what and how.
        tell: gets the events of docs/twin.md.

    Attributes:
        truck: where it is part of it.
        box: where it is part of it.
        service: where it is part of it.

    Raises:
        TwinError: the vehicle has no twin or no box, or the options contradict each other.
    """

    def __init__(self, vehicle: Vehicle, options: CloudOptions | None = None, tell: Tell = quiet) -> None:
        options = options or CloudOptions()
        if vehicle.remote is None:
            message = f"vehicle {vehicle.id} has no telematics box: add a `remote:` section to its file"
            raise TwinError(message)
        if (options.part == "vehicle") != (options.service_url is not None):
            message = "the vehicle's part needs the URL of the service, the others have one of their own"
            raise TwinError(message)
        self.vehicle = vehicle
        self._options = options
        place = None if options.storage is None else Place(options.storage)
        self.service: RemoteCanService | None = None
        self.truck: BoxTruck | None = None
        self.box: TelematicsBox | None = None
        if options.part != "vehicle":
            self.service = RemoteCanService([vehicle], options.service, place=place, tell=tell)
        self.supervisor = Supervisor("cloud twin")
        root = options.service_url if self.service is None else self.service.root
        assert root is not None
        self._root = _reachable(root)
        try:
            if options.part != "cloud":
                self.truck = BoxTruck(vehicle, options.drive, tell)
                box = BoxOptions(options.record, options.service.authorization, options.ca)
                self.box = TelematicsBox(self.truck, self._root, box, place=place, tell=tell)
        except BaseException:
            self.stop()
            raise

    @property
    def url(self) -> str:
        """Base URL of the two calls: TSPACE_REMOTE__URL."""
        return self._root + self._options.service.base.rstrip("/")

    def start(self) -> None:
        """Begin to drive and to serve; the box is connected a moment later (``wait_connected``)."""
        supervisor = self.supervisor
        if self.service is not None:
            self.service.start()
        if self.truck is not None and self.box is not None:
            truck, box = self.truck, self.box
            supervisor.on_stop("box", box.stop)
            supervisor.start("drive", _then_stop(supervisor, lambda: truck.run(supervisor.stopping)))
            supervisor.start("box", box.run)

    def wait_connected(self, timeout_s: float = STATE_S) -> None:
        """Wait until the box has reached the service.

        Raises:
            TwinError: it has not within ``timeout_s``, or something ended meanwhile.
        """
        if self.box is not None and not self.box.connected.wait(timeout_s):
            message = f"the box has not reached {self._root} within {timeout_s:g} s"
            raise TwinError(message)

    def stop(self) -> None:
        """Stop all and wait for its end; again is no matter."""
        self.supervisor.stop("closed")
        if self.service is not None:
            self.service.stop()
        self.supervisor.join(JOIN_S)

    def __enter__(self) -> Self:
        try:
            self.start()
            if self.service is not None:
                self.wait_connected()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def state(self) -> dict[str, Any]:
        """What the service says of the vehicle: ``GET /twin/state``."""
        answer = self._ask("GET", "state")
        return dict(answer["vehicles"][self.vehicle.vin])

    def fault(self, fault: str | RemoteFault) -> None:
        """Have one more simulated fault, in words or made.

        Raises:
            TwinError: there is no such fault, or the service is another process.
        """
        if self.service is None:
            message = "the service is another process: post to its /twin/faults"
            raise TwinError(message)
        self.service.faults.add(parse_remote_fault(fault) if isinstance(fault, str) else fault)

    def clear_faults(self) -> None:
        """Have no simulated faults any more."""
        if self.service is not None:
            self.service.faults.clear()

    def set_ai_mode(self, *, on: bool) -> None:
        """The driver's switch; returns when it has taken effect and the service knows."""
        self._ask("POST", "ai_mode", json={"vin": self.vehicle.vin, "on": on})

    def _ask(self, method: str, name: str, **content: Any) -> dict[str, Any]:
        authorization = self._options.service.authorization
        headers = {} if authorization is None else {"authorization": authorization}
        ca = self._options.ca
        verify = self._root.startswith("https") if ca is None else _context(ca)
        answer = httpx.request(
            method,
            f"{self._root}/twin/{name}",
            headers=headers,
            timeout=STATE_S,
            trust_env=False,
            verify=verify,
            **content,
        )
        answer.raise_for_status()
        return dict(answer.json())


def _reachable(root: str) -> str:
    """A URL that reaches a server which listens at all addresses."""
    return root.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def _context(ca: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca)


def _then_stop(supervisor: Supervisor, work: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        work()
        supervisor.stop("the route ended")

    return run
