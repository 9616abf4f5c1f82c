"""What every bridge process does: its guard, its channel, the HMI between runs, under one supervisor.

Tasks, each a thread of the supervisor:

=============  ===================================================================================
``guard``      the only caller of the guard; at its end the reference map is brought back
``revert``     cuts into a running flash
``channel``    agents and operators
``standby``    hears the HMI while no agent is connected
=============  ===================================================================================

A bridge is a `BridgeBase` with a way to the vehicle: `Bridge` over its CAN bus, `RemoteBridge` over the
remote CAN service. Whatever ends the process, the guard's task brings the reference map back before the way
to the vehicle is closed.
"""

import gc
import logging
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from tspace_core.bridge.guard_task import GuardTask
from tspace_core.bridge.peers import Peers
from tspace_core.bridge.standby import Standby, standby_of
from tspace_core.config.settings import settings
from tspace_core.config.vehicle import Vehicle
from tspace_core.guard.audit import AuditLog
from tspace_core.guard.base import GuardBase
from tspace_core.guard.state import FlashOutcome, GuardState, VehicleState
from tspace_core.link.channel import ChannelServer, TlsFiles
from tspace_core.link.endpoints import Endpoints, bridge_key, endpoints
from tspace_core.link.messages import State
from tspace_core.link.requests import Spool
from tspace_core.supervision.signals import stop_on_signals
from tspace_core.supervision.supervisor import Supervisor

_LOG = logging.getLogger(__name__)
_TEXT = 2000

MakeGuard = Callable[[AuditLog], GuardBase]


@dataclass(frozen=True)
class BridgeOptions:
    """How a bridge is run.

    Attributes:
        standby: hear the HMI while no agent is connected; without it datagrams are always sent.
        tell: gets a line for whoever watches: state changes and flashes.
    """

    standby: bool = True
    tell: Callable[[str], None] = _LOG.info


class BridgeBase(ABC):
    """One vehicle's bridge.

    Args:
        vehicle: which.
        options: how it is run.

    Attributes:
        end_s: time for a running call, the way back to the reference map and the last line of the audit log.
        revert_end_s: longest wait for a revert that is under way when the bridge ends.
        supervisor: of its tasks.
        ready: set when it serves.
    """

    end_s = 8.0
    revert_end_s = 3.0

    def __init__(self, vehicle: Vehicle, options: BridgeOptions | None = None) -> None:
        self.vehicle = vehicle
        self.options = options or BridgeOptions()
        self._places: Endpoints = endpoints(vehicle)
        self.supervisor = Supervisor(f"bridge {vehicle.id}")
        self.ready = threading.Event()
        self._standby: Standby | None = None

    @property
    def failed(self) -> bool:
        """Whether it ended because something broke."""
        return self.supervisor.error is not None

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
            LinkError: the way to the vehicle or the channel cannot be opened.
            AuditError: the audit log cannot be written.
        """
        with self._opened() as server:
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
                self._start(supervisor)
                self.ready.set()
                supervisor.wait()
                # Before the way to the vehicle is closed and the process ends, whatever the reason.
                task.ended.wait(self.end_s)
                supervisor.join(self.end_s)
            self._ended(task)
        return supervisor.cause or "finished"

    @abstractmethod
    def _way(self) -> AbstractContextManager[MakeGuard]:
        """Open the way to the vehicle; yields what makes the guard in front of it."""

    @abstractmethod
    def _start(self, supervisor: Supervisor) -> None:
        """Start the tasks of its own, when the guard runs."""

    @abstractmethod
    def _counters(self) -> Mapping[str, int]:
        """What happened how often, beyond what every bridge counts."""

    @abstractmethod
    def _signals(self) -> Mapping[str, float | None]:
        """The vehicle's present signals by name, None where stale."""

    @abstractmethod
    def _ended(self, task: GuardTask) -> None:
        """The guard is at its end, and the way to the vehicle still open."""

    def _observed(self) -> Callable[[VehicleState], None] | None:
        """What an agent's observations are told, where the bridge sees none of its own."""
        return None

    @contextmanager
    def _opened(self) -> Iterator[ChannelServer]:
        vehicle, places = self.vehicle, self._places
        folder = settings().online_dir / vehicle.id
        with self._way() as make_guard, AuditLog(folder / "audit.jsonl", time.time_ns) as audit:
            self._task = GuardTask(make_guard(audit), self._on_state, end_s=self.revert_end_s)
            if self.options.standby:
                address = (places.udp_host, places.udp_port)
                spool = Spool(settings().online_dir, vehicle.id)
                self._standby = standby_of(vehicle, address, spool, self._on_begin)
            self._peers = Peers(
                vehicle.id,
                self._task,
                lambda peer, message: server.send(peer, message),
                make_way=lambda: self._standby is None or self._standby.release(),
                on_agent_gone=self._on_agent_gone,
                on_free=lambda: server.wake(),
                on_flash=self._on_flash,
                facts=lambda: (self._all_counters(), self._signals()),
                on_observed=self._observed(),
            )
            self._server = server = ChannelServer(
                places.bridge_host,
                places.bridge_port,
                bridge_key(),
                self._peers,
                tls=TlsFiles.from_settings(),
            )
            yield server

    def _run_guard(self, task: GuardTask, server: ChannelServer) -> None:
        try:
            task.run(self.supervisor.stopping, lambda: self.supervisor.cause or "")
        finally:
            server.wake()  # it serves until the guard is at its end, so that peers hear of it

    def _begin_end(self, task: GuardTask) -> None:
        task.revert(f"bridge ends: {self.supervisor.cause}")
        task.close()

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

    def _all_counters(self) -> Mapping[str, int]:
        counters = {
            **self._counters(),
            "peers_refused": self._server.refused,
            "guard_queue_full": self._task.refused,
        }
        if self._standby is not None:
            counters["requests_written"] = self._standby.requested
            counters["hmi_refused"] = self._standby.refused
        return counters


@contextmanager
def _nothing() -> Iterator[None]:
    yield
