"""The bridge process of a vehicle's CAN bus: its datagrams, and guarded flashes over XCP.

Tasks beside those of every bridge:

=============  ===================================================================================
``sender``     once a period: a sample to the guard, a datagram to the run
=============  ===================================================================================

Frames are decoded on the bus' own thread. Whatever ends the process, the guard's task brings the reference
map back before the bus is closed; where nothing can be done any more (kill -9, power), the VCU's own
supervision does.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tspace_core.bridge.base import BridgeBase, BridgeOptions, MakeGuard
from tspace_core.bridge.decoder import Decoder, Snapshot
from tspace_core.bridge.guard_task import GuardTask
from tspace_core.bridge.sender import Sender
from tspace_core.config.link import BusConfig, XcpConfig
from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import BusError, ConfigError
from tspace_core.guard.flash_guard import FlashGuard
from tspace_core.guard.state import VehicleState
from tspace_core.guard.target import FlashTarget
from tspace_core.link.bus import SharedBus
from tspace_core.supervision.supervisor import Supervisor

if TYPE_CHECKING:
    import can

__all__ = ["Bridge", "BridgeOptions", "xcp_target"]

TargetFactory = Callable[[Vehicle, SharedBus], FlashTarget]


def xcp_target(vehicle: Vehicle, bus: SharedBus) -> FlashTarget:
    """The vehicle's VCU over XCP on its bus; nothing is sent yet."""
    from tspace_core.link.calibration import Calibration
    from tspace_core.link.xcp import XcpMaster
    from tspace_core.link.xcp_can import XcpCan

    _, xcp = _link_of(vehicle)
    return Calibration(XcpMaster(XcpCan(bus, xcp), xcp), vehicle)


class Bridge(BridgeBase):
    """The bridge of one vehicle's CAN bus.

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
        self._bus_config, self._xcp = _link_of(vehicle)
        super().__init__(vehicle, options)
        self._connect = connect
        self._decoder = Decoder(vehicle)
        self._silence_ns = round(vehicle.online.silence_s * 1e9)
        self._bus_lost = False
        self._foreign = 0
        self._locking = threading.Event()
        self._silent = False

    @property
    def failed(self) -> bool:
        """Whether it ended because something broke."""
        return super().failed or self._bus_lost

    @contextmanager
    def _way(self) -> Iterator[MakeGuard]:
        vehicle, places = self.vehicle, self._places
        ids = {*self._decoder.ids, self._xcp.request_id, self._xcp.response_id}
        with SharedBus(self._bus_config, ids=ids) as bus:
            self._bus = bus
            address = (places.udp_host, places.udp_port)
            self._sender = Sender(vehicle, self._decoder, self._on_sample, address, wanted=self._is_wanted)
            target = self._connect(vehicle, bus)
            yield lambda audit: FlashGuard(
                vehicle, target, audit, now_ns=time.monotonic_ns, utc_ns=time.time_ns
            )

    def _start(self, supervisor: Supervisor) -> None:
        self._bus.subscribe(self._decoder.take, self._decoder.ids, self._on_bus_lost)
        self._bus.subscribe(self._on_foreign_master, (self._xcp.request_id,), self._on_bus_lost)
        supervisor.start("sender", lambda: self._sender.run(supervisor.stopping))

    def _ended(self, task: GuardTask) -> None:
        """What is not confirmed the VCU does by itself, when nobody speaks to it any more."""

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

    def _counters(self) -> Mapping[str, int]:
        bus, sender = self._bus.counters, self._sender
        return {
            "datagrams_sent": sender.sent,
            "datagrams_incomplete": sender.incomplete,
            "datagrams_failed": sender.failed,
            "ticks_missed": sender.missed,
            "frames_received": bus.rx,
            "frames_sent": bus.tx,
            "frames_refused": bus.refused,
            "error_frames": bus.error_frames,
            "second_master": self._foreign,
            **{f"decoder_{reason}": count for reason, count in self._decoder.counts.items()},
        }

    def _signals(self) -> Mapping[str, float | None]:
        last = self._sender.last
        values = {} if last is None else last.values
        return {name: values.get(name) for name in self.vehicle.signals}


def _link_of(vehicle: Vehicle) -> tuple[BusConfig, XcpConfig]:
    if vehicle.bus is None or vehicle.xcp is None:
        message = (
            f"vehicle {vehicle.id} has no bus or no xcp; a bridge needs both in its file in conf/vehicles"
        )
        raise ConfigError(message)
    return vehicle.bus, vehicle.xcp
