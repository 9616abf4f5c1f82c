"""How a run drives, and the vehicle interface that it needs: by the vehicle's config alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tspace_core.config import TorqueMap, Vehicle
from tspace_core.online.cruncher import Car
from tspace_core.supervision import Supervisor
from tspace_core.vehicle.bridged import DriveOptions
from tspace_core.vehicle.kvaser import KvaserCAN, KvaserOptions
from tspace_core.vehicle.remote import RemoteCAN, RemoteOptions
from tspace_core.vehicle.states import Event

How = TypeVar("How", bound=DriveOptions)


@dataclass(frozen=True)
class AvatarOptions:
    """How a run drives.

    Attributes:
        infer: the released policy without noise; nothing is learned.
        observe: nothing is proposed; records with zero actions.
        episodes: end after so many stored ones; None: until exit.
        begin: begin the first episode at once: the HMI has asked for it already. See ``first``, too.
        run_id: as whoever starts the run calls it; empty: one is made up.
        hmi: source of the person's requests, udp, rmq or dummy; None: the settings'.
        by: who asks for flashes, for the audit log.
        token: signed campaign token, where the vehicle wants one.
        resume: go on from the last live map.
        track: metrics go to MLflow.
        signals: SIGINT and SIGTERM end the run; for the main thread only.
        agent: which agent drives and learns, for example rdpg; None: as the vehicle's file says.
    """

    infer: bool = False
    observe: bool = False
    episodes: int | None = None
    begin: bool = False
    run_id: str = ""
    hmi: str | None = None
    by: str = "avatar"
    token: str | None = None
    resume: bool = True
    track: bool = True
    signals: bool = False
    agent: str | None = None

    @property
    def mode(self) -> str:
        """train, infer or observe."""
        return "observe" if self.observe else "infer" if self.infer else "train"


class Requests(Protocol):
    """Where a person's requests go."""

    def post(self, event: Event, cause: str) -> bool:
        """Let something happen."""


class IgnitableCar(Car, Protocol):
    """A vehicle interface whose tasks can be started."""

    @property
    def control(self) -> Requests:
        """Takes requests."""

    def ignite(self, supervisor: Supervisor, connected: Callable[[], None]) -> None:
        """Connect, call ``connected``, start every task."""


ResumeFrom = Callable[[], TorqueMap | None]
CarFactory = Callable[[Vehicle, AvatarOptions, ResumeFrom], IgnitableCar]


def car_of(vehicle: Vehicle) -> CarFactory:
    """What makes the vehicle's interface, as its file says."""
    return remote_car if vehicle.interface == "remote" else kvaser_car


def kvaser_car(vehicle: Vehicle, options: AvatarOptions, resume: ResumeFrom) -> IgnitableCar:
    """The vehicle on its CAN bus, behind the bridge."""
    return KvaserCAN(vehicle, _how(KvaserOptions, options, resume))


def remote_car(vehicle: Vehicle, options: AvatarOptions, resume: ResumeFrom) -> IgnitableCar:
    """The vehicle behind its telematics box, and the bridge in front of the remote CAN service."""
    return RemoteCAN(vehicle, _how(RemoteOptions, options, resume))


def _how(kind: type[How], options: AvatarOptions, resume: ResumeFrom) -> How:
    def table() -> NDArray[np.float32] | None:
        live = resume()
        return None if live is None else live.table

    return kind(
        observe_only=options.observe,
        run_id=options.run_id,
        by=options.by,
        token=options.token,
        resume=table,
        hmi=options.hmi,
    )
