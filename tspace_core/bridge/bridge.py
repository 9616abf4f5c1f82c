"""The bridge process: one vehicle's bus, its guard, its datagrams and its channel, under one supervisor.

Tasks, each a thread of the supervisor:

=============  ===================================================================================
``guard``      the only caller of the guard; at its end the reference map is brought back
``revert``     cuts into a running flash
``sender``     once a period: a sample to the guard, a datagram to the run
``channel``    agents and operators
``standby``    hears the HMI while no agent is connected
=============  ===================================================================================

Frames are decoded on the bus' own thread. Whatever ends the process, the guard's task brings the reference
map back before the bus is closed; where nothing can be done any more (kill -9, power), the VCU's own
supervision does.
"""

import gc
import logging
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tspace_core.bridge.decoder import Decoder, Snapshot
from tspace_core.bridge.guard_task import GuardTask
from tspace_core.bridge.hmi_standby import HmiStandby
from tspace_core.bridge.peers import Peers
from tspace_core.bridge.sender import Sender
from tspace_core.config.link import BusConfig, XcpConfig
from tspace_core.config.settings import settings
from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import BusError, ConfigError
from tspace_core.guard.audit import AuditLog
from tspace_core.guard.flash_guard import FlashGuard
from tspace_core.guard.state import FlashOutcome, GuardState, VehicleState
from tspace_core.guard.target import FlashTarget
from tspace_core.link.bus import SharedBus
from tspace_core.link.channel import ChannelServer, TlsFiles
from tspace_core.link.endpoints import Endpoints, bridge_key, endpoints
from tspace_core.link.messages import State
from tspace_core.link.requests import Spool
from tspace_core.supervision.signals import stop_on_signals
from tspace_core.supervision.supervisor import Supervisor

if TYPE_CHECKING:
    import can

_LOG = logging.getLogger(__name__)
_END_S = 8.0
"""Time for a running command, the way back to the reference page and the last line of the audit log."""
_TEXT = 2000

TargetFactory = Callable[[Vehicle, SharedBus], FlashTarget]


@dataclass(frozen=True)
class BridgeOptions:
    """How a bridge is run.

    Attributes:
        standby: hear the HMI while no agent is connected; without it datagrams are always sent.
        tell: gets a line for whoever watches: state changes and flashes.
    """

    standby: bool = True
    tell: Callable[[str], None] = _LOG.info


def xcp_target(vehicle: Vehicle, bus: SharedBus) -> FlashTarget:
    """The vehicle's VCU over XCP on its bus; nothing is sent yet."""
    from tspace_core.link.calibration import Calibration
    from tspace_core.link.xcp import XcpMaster
    from tspace_core.link.xcp_can import XcpCan

    _, xcp = _link_of(vehicle)
    return Calibration(XcpMaster(XcpCan(bus, xcp), xcp), vehicle)


class Bridge:
    """One vehicle's bridge.

    Args:
        vehicle: with ``bus`` and ``xcp``.
        options: how it is run.
        connect: makes what carries maps into the VCU.

    Raises:
        ConfigError: the vehicle has no bus or no XCP slave.
    """

    def __init__(
        self, vehicle: Vehicle, options: BridgeOptions | None = None, *, connect: TargetFactory = xcp_target
    ) -> None:
        self.vehicle = vehicle
        self.options = options or BridgeOptions()
        self._bus_config, self._xcp = _link_of(vehicle)
        self._connect = connect
        self._places: Endpoints = endpoints(vehicle)
        self.supervisor = Supervisor(f"bridge {vehicle.id}")
        self.ready = threading.Event()
        self._decoder = Decoder(vehicle)
        self._silence_ns = round(vehicle.online.silence_s * 1e9)
        self._bus_lost = False
        self._foreign = 0
        self._locking = threading.Event()
        self._silent = False

    @property
    def failed(self) -> bool:
        """Whether it ended because something broke."""
        return self.supervisor.error is not None or self._bus_lost

    def stop(self, cause: str) -> None:
        """End it in order; from any thread."""
        self.supervisor.stop(cause)

    def revert(self, by: str) -> None:
        """Reference map at once; from any thread."""
        self._task.revert(
            f"revert by {by}", lambda: self.options.tell(f"revert by {by}: {self._task.guard.state}")
        )

    def run(self, *, signals: Collection[signal.Signals] = (signal.SIGINT, signal.SIGTERM)) -> str:
        """Serve until stopped, by a signal too (main thread only); the first cause of the end.

        Raises:
            LinkError: bus or channel cannot be opened.
            AuditError: the audit log cannot be written.
        """
        with self._opened() as (bus, server):
            # What is loaded by now stays: a full collection of it would stop every thread for some 50 ms.
            gc.freeze()
            supervisor, task = self.supervisor, self._task
            with stop_on_signals(supervisor, tuple(signals)) if signals else _nothing(), supervisor:
                supervisor.on_stop("guard", lambda: self._begin_end(task))
                supervisor.start("revert", task.run_reverts)
                supervisor.start("guard", lambda: self._run_guard(task, server))
                supervisor.start("channel", lambda: server.serve(task.ended))
                if self._standby is not None:
                    supervisor.on_stop("standby", self._standby.end)
                    supervisor.start("standby", self._standby.run)
                bus.subscribe(self._decoder.take, self._decoder.ids, self._on_bus_lost)
                bus.subscribe(self._on_foreign_master, (self._xcp.request_id,), self._on_bus_lost)
                supervisor.start("sender", lambda: self._sender.run(supervisor.stopping))
                self.ready.set()
                supervisor.wait()
                # Before the bus is closed and the process ends, whatever the reason.
                task.ended.wait(_END_S)
                supervisor.join(_END_S)
        return supervisor.cause or "finished"

    @contextmanager
    def _opened(self) -> Iterator[tuple[SharedBus, ChannelServer]]:
        vehicle, places = self.vehicle, self._places
        ids = {*self._decoder.ids, self._xcp.request_id, self._xcp.response_id}
        folder = settings().online_dir / vehicle.id
        with (
            SharedBus(self._bus_config, ids=ids) as bus,
            AuditLog(folder / "audit.jsonl", time.time_ns) as audit,
        ):
            self._bus = bus
            guard = FlashGuard(
                vehicle,
                self._connect(vehicle, bus),
                audit,
                now_ns=time.monotonic_ns,
                utc_ns=time.time_ns,
            )
            self._task = GuardTask(guard, self._on_state)
            address = (places.udp_host, places.udp_port)
            self._standby = None
            if self.options.standby:
                self._standby = HmiStandby(address, Spool(settings().online_dir, vehicle.id), self._on_begin)
            self._sender = Sender(vehicle, self._decoder, self._on_sample, address, wanted=self._is_wanted)
            self._peers = Peers(
                vehicle.id,
                self._task,
                lambda peer, message: server.send(peer, message),
                make_way=lambda: self._standby is None or self._standby.release(),
                on_agent_gone=self._on_agent_gone,
                on_free=lambda: server.wake(),
                on_flash=self._on_flash,
                facts=self._facts,
            )
            self._server = server = ChannelServer(
                places.bridge_host,
                places.bridge_port,
                bridge_key(),
                self._peers,
                tls=TlsFiles.from_settings(),
            )
            yield bus, server

    def _run_guard(self, task: GuardTask, server: ChannelServer) -> None:
        try:
            task.run(self.supervisor.stopping, lambda: self.supervisor.cause or "")
        finally:
            server.wake()  # it serves until the guard is at its end, so that peers hear of it

    def _begin_end(self, task: GuardTask) -> None:
        task.revert(f"bridge ends: {self.supervisor.cause}")
        task.close()

    def _is_wanted(self) -> bool:
        return self._standby is None or self._peers.agent is not None

    def _on_sample(self, state: VehicleState, snapshot: Snapshot) -> None:
        """Once a period, from the sender: the guard judges it; a bus gone silent ends what is armed."""
        self._task.observe(state)
        heard = snapshot.heard_ns
        silent = heard is None or time.monotonic_ns() - heard > self._silence_ns
        if silent and not self._silent and heard is not None:
            cause = f"the bus is silent for {self.vehicle.online.silence_s:g} s"
            self.options.tell(cause)
            self._task.submit(lambda: self._if_armed(cause))
        self._silent = silent

    def _if_armed(self, cause: str) -> None:
        if self._task.guard.state == "ARMED":
            self._task.guard.trip(cause)

    def _on_bus_lost(self, error: BusError) -> None:
        self._bus_lost = True
        self._task.submit(lambda: self._task.guard.lock(f"bus lost: {error}"))
        self.supervisor.stop(str(error))

    def _on_foreign_master(self, frame: "can.Message") -> None:
        """Somebody else sends commands to the VCU: what it holds is not known any more."""
        if frame.is_extended_id != self._xcp.extended:
            return
        self._foreign += 1
        if self._task.guard.state != "LOCKED" and not self._locking.is_set():
            self._locking.set()
            cause = f"a second XCP master sends on id {self._xcp.request_id:#x}; disconnect it"
            self._task.revert(cause)
            self._task.submit(lambda: self._lock(cause))

    def _lock(self, cause: str) -> None:
        self._task.guard.lock(cause)
        self._locking.clear()

    def _on_agent_gone(self) -> None:
        if self._standby is not None:
            self._standby.resume()

    def _on_begin(self) -> None:
        """A person at the vehicle began an episode: that clears a lock as `tspace arm` does."""
        if self._task.guard.state == "LOCKED":
            self._task.submit(lambda: self._task.guard.clear("HMI: begin"))

    def _on_state(self, state: GuardState, cause: str) -> None:
        self._server.push(State(state=state, cause=cause[:_TEXT]))
        self.options.tell(f"{state}{': ' + cause if cause else ''}")

    def _on_flash(self, outcome: FlashOutcome) -> None:
        rows = f"rows {outcome.first_row} to {outcome.first_row + len(outcome.rows) - 1}"
        clipped = ", ".join(f"{rule}: {cells} cells" for rule, cells in outcome.clipped.items())
        self.options.tell(
            f"flash {outcome.result}, {rows}, {outcome.duration_s * 1000:.0f} ms"
            f"{', clipped by ' + clipped if clipped else ''}{': ' + outcome.reason if outcome.reason else ''}"
        )

    def _facts(self) -> tuple[Mapping[str, int], Mapping[str, float | None]]:
        bus, sender, last = self._bus.counters, self._sender, self._sender.last
        counters = {
            "datagrams_sent": sender.sent,
            "datagrams_incomplete": sender.incomplete,
            "datagrams_failed": sender.failed,
            "ticks_missed": sender.missed,
            "frames_received": bus.rx,
            "frames_sent": bus.tx,
            "frames_refused": bus.refused,
            "error_frames": bus.error_frames,
            "second_master": self._foreign,
            "peers_refused": self._server.refused,
            "guard_queue_full": self._task.refused,
            **{f"decoder_{reason}": count for reason, count in self._decoder.counts.items()},
        }
        if self._standby is not None:
            counters["requests_written"] = self._standby.requested
            counters["hmi_refused"] = self._standby.refused
        values = {} if last is None else last.values
        return counters, {name: values.get(name) for name in self.vehicle.signals}


def _link_of(vehicle: Vehicle) -> tuple[BusConfig, XcpConfig]:
    if vehicle.bus is None or vehicle.xcp is None:
        message = (
            f"vehicle {vehicle.id} has no bus or no xcp; a bridge needs both in its file in conf/vehicles"
        )
        raise ConfigError(message)
    return vehicle.bus, vehicle.xcp


@contextmanager
def _nothing() -> Iterator[None]:
    yield
