"""What every vehicle behind a bridge has in common: its channel, and the address that the HMI sends to."""

import logging
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tspace_core import __version__
from tspace_core.config import Vehicle
from tspace_core.config.settings import settings
from tspace_core.errors import VehicleError
from tspace_core.link.channel import ChannelClient, TlsFiles
from tspace_core.link.endpoints import Endpoints, bridge_key, endpoints
from tspace_core.link.messages import Hello
from tspace_core.link.udp import DatagramReceiver, udp_context
from tspace_core.supervision import Supervisor
from tspace_core.vehicle.bridge_link import BridgeLink, StateChange
from tspace_core.vehicle.control import ArmReport
from tspace_core.vehicle.hmi import hmi_source
from tspace_core.vehicle.intake import Intake
from tspace_core.vehicle.interface import (
    FlashOutcomeView,
    Item,
    RowsProposal,
    Task,
    VehicleInterface,
    Windows,
)
from tspace_core.vehicle.observation import Observation
from tspace_core.vehicle.states import Event

_log = logging.getLogger(__name__)

NOT_FLASHING = "observe only: nothing is flashed"


def _nothing_to_resume() -> NDArray[np.float32] | None:
    return None


def _nobody_looks(observation: Observation) -> None:
    """Samples in datagrams are nothing to a vehicle that is observed in another way."""


@dataclass(frozen=True)
class DriveOptions:
    """How a vehicle behind a bridge is driven.

    Attributes:
        observe_only: no channel at all; needs no bridge that listens to agents.
        run_id: names the run at the bridge and in its audit log.
        by: who is responsible for flashing.
        token: the signed campaign, where the vehicle asks for one.
        resume: the whole live map to go on from, asked for at the begin of each episode; None: the default.
        hmi: where the person's requests come from; None: as the settings say.
        addresses: where the processes meet; None: as settings and vehicle say.
        key: the channel's secret; None: as settings say.
    """

    observe_only: bool = False
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    by: str = "tspace"
    token: str | None = field(default=None, repr=False)
    resume: Callable[[], NDArray[np.float32] | None] = _nothing_to_resume
    hmi: str | None = None
    addresses: Endpoints | None = None
    key: bytes | None = field(default=None, repr=False)


class BridgedVehicle(VehicleInterface[Item]):
    """A vehicle whose maps one bridge flashes; siblings differ in where observations come from.

    Args:
        vehicle: which.
        options: how it is driven.
        builder: makes windows of what the sibling observes.
        intake: reads the datagrams of bridge and HMI.
        flash_timeout_s: longest wait for the answer to a proposal.
        arm_timeout_s: longest wait for the answer to arming.

    Raises:
        ConfigError: the HMI's source does not exist.
    """

    def __init__(
        self,
        vehicle: Vehicle,
        options: DriveOptions,
        builder: Windows[Item],
        intake: Intake,
        *,
        flash_timeout_s: float,
        arm_timeout_s: float,
    ) -> None:
        self._hmi = options.hmi or settings().hmi.source
        super().__init__(vehicle, hmi_source(self._hmi, vehicle), builder)
        self.intake = intake
        self.bridge: BridgeLink | None = None
        self._drive = options
        self.flash_timeout_s, self.arm_timeout_s = flash_timeout_s, arm_timeout_s
        self._receiver: DatagramReceiver | None = None
        self._udp = ExitStack()

    def connect(self, supervisor: Supervisor) -> None:
        """Say hello to the bridge, then take over the address of the datagrams from it."""
        addresses = self._drive.addresses or endpoints(self.vehicle)
        with ExitStack() as undo:
            if not self._drive.observe_only:
                self.bridge = self._greet(addresses)
                undo.callback(self.bridge.close)
                supervisor.on_stop("answers of the bridge", self._abort_waiting)
            if self.hears_datagrams:
                udp = undo.enter_context(ExitStack())
                bound = udp.enter_context(udp_context(addresses.udp_host, addresses.udp_port))
                self._receiver = DatagramReceiver(bound)
                udp.callback(self._receiver.close)
                supervisor.on_stop("datagrams", self._receiver.wake)
                # Different tasks close channel and socket: the last disarm goes out after the last datagram.
                self._udp = udp
            undo.pop_all()

    @property
    def hears_datagrams(self) -> bool:
        """Whether the address of the datagrams is this run's."""
        return True

    def disconnect(self) -> None:
        """Close the channel, after the last disarm went out; the socket is closed by who reads it."""
        if self.bridge is not None:
            self.bridge.close()

    def tasks(self) -> dict[str, Task]:
        """Every task by its name."""
        if self.bridge is None:
            return super().tasks()
        return super().tasks() | {"channel": self.bridge.run, "heartbeat": self.heartbeat}

    def heartbeat(self) -> None:
        """Task: tell the bridge that the control thread is alive, only as long as it is."""
        bridge, supervisor = self.bridge, self._supervisor
        assert bridge is not None
        assert supervisor is not None
        period_s = 1 / self.vehicle.guard.heartbeat_hz
        silent = False
        while not supervisor.wait(period_s):
            if self.liveness.alive:
                bridge.beat()
                silent = False
            elif not silent:
                silent = True
                _log.warning("the control thread gives no sign of life: no heartbeat to the bridge")

    def flash(self, proposal: RowsProposal, episode: int) -> FlashOutcomeView:
        """Propose rows to the bridge and wait for what became of them."""
        if self.bridge is None:  # a caller that does not ask whether the episode is armed
            return FlashOutcomeView.without_answer(proposal, "REFUSED", 0, NOT_FLASHING)
        return self.bridge.propose(proposal)

    def arm(self, number: int) -> ArmReport:
        """Ask the bridge for flashes in that episode."""
        if self.bridge is None:
            return ArmReport(ok=False, reason=NOT_FLASHING, wanted=False)
        resume = self._drive.resume()
        if resume is not None and not np.array_equal(resume, self.vehicle.default_map().table):
            self.before_resuming(self.bridge)
        return self.bridge.arm(number, self._drive.by, self._drive.token, resume)

    def before_resuming(self, bridge: BridgeLink) -> None:
        """Do what the bridge needs before it can go on from a map of ours."""

    def urgent(self, cause: str) -> None:
        """The run ends: do not wait for the answer to arming any more."""
        if self.bridge is not None:
            self.bridge.arm_no_more(cause)

    def called_off(self, cause: str) -> None:
        """The episode is of no use: do not wait for the answer to arming."""
        if self.bridge is not None:
            self.bridge.stop_arming(cause)

    def disarm(self, cause: str) -> None:
        """Ask the bridge for the reference map."""
        if self.bridge is not None:
            self.bridge.disarm(cause)

    def hear(
        self,
        receiver: DatagramReceiver,
        timeout_s: float | None,
        sampled: Callable[[Observation], None] = _nobody_looks,
    ) -> None:
        """Wait for a datagram, pass the sample in it on to ``sampled``, and do what it asks for."""
        received = receiver.receive(timeout_s)
        if received is None:
            return
        data, sender = received
        taken = self.intake.take(data, sender)
        if taken.refused is not None:
            self.watchdog.capture_failure(taken.refused)
        if taken.answer is not None:
            receiver.answer(taken.answer, sender)
        if taken.observation is not None:
            sampled(taken.observation)
        if taken.status is not None:
            self.request(taken.status)

    def _greet(self, addresses: Endpoints) -> BridgeLink:
        options = self._drive
        hello = Hello(role="agent", vehicle_id=self.vehicle.id, run_id=options.run_id, version=__version__)
        key = bridge_key() if options.key is None else options.key
        tls = TlsFiles.from_settings()
        client = ChannelClient.connect(addresses.bridge_host, addresses.bridge_port, key, hello, tls=tls)
        expected, found = self.vehicle.default_map().sha256(), client.welcome.reference_sha256
        if found != expected or client.welcome.vehicle_id != self.vehicle.id:
            client.close()
            message = (
                f"the bridge at {addresses.bridge_host}:{addresses.bridge_port} serves "
                f"{client.welcome.vehicle_id} with the reference map {found[:12]}, this run is for "
                f"{self.vehicle.id} with {expected[:12]}: start both with the same conf/"
            )
            raise VehicleError(message)
        return BridgeLink(
            client,
            len(self.vehicle.torque_map.pedal_axis),
            self._bridge_changed,
            flash_timeout_s=self.flash_timeout_s,
            arm_timeout_s=self.arm_timeout_s,
        )

    def _bridge_changed(self, change: StateChange) -> None:
        _log.info("the bridge is %s: %s", change.state, change.cause)
        if change.state != "ARMED":
            cause = f"the bridge is {change.state}: {change.cause}"
            self.control.post(Event.INTERRUPT, cause, episode=change.episode)

    def _abort_waiting(self) -> None:
        if self.bridge is not None:
            self.bridge.abort("the run is stopping")

    def _stopping(self) -> bool:
        return self._supervisor is None or self._supervisor.stopping.is_set()
