"""The live twin: a truck that drives in real time, sends its messages on a bus, and whose VCU answers XCP."""

import os
import threading
import time
from dataclasses import dataclass, field

from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import BusError, TwinError
from tspace_core.twin.cycles import load_route
from tspace_core.twin.faults import Fault, Faults
from tspace_core.twin.fleet import Fleet
from tspace_core.twin.live_bus import NodeBus, XcpNode
from tspace_core.twin.live_events import Tell
from tspace_core.twin.live_frames import LiveMessages
from tspace_core.twin.route import Route
from tspace_core.twin.truck import twin_parameters
from tspace_core.twin.vcu import Vcu
from tspace_core.twin.vcu_memory import xcp_config
from tspace_core.twin.xcp_slave import SILENCE_S, VcuEvent, XcpSlave

FD_MAX_CTO, CLASSIC_MAX_CTO = 64, 8
SHORTEST_WAIT_S = 0.002
"""Steps that fall due within it are done together, so that an accelerated clock does not spin."""
LONGEST_LAG_S = 1.0
"""A twin that stood still longer does not make up for it: a burst of old samples would help nobody."""


@dataclass(frozen=True)
class LiveOptions:
    """How the live twin drives.

    Attributes:
        driver: id of a simulated driver.
        cycle: name of a cycle, or a route.
        seed: of route and driver; each further drive has the next seed for its driver.
        repeat: drive the route again and again, or end with it.
        time_factor: the truck and its messages are so much faster than real time. The XCP session's
            supervision stays on the real clock, as its master does.
        silence_s: the VCU goes back to its reference page after this long without an XCP command.
        block_mode: whether the VCU offers XCP's block mode.
        faults: simulated faults.
    """

    driver: str = "habitual"
    cycle: str | Route = "truck_route"
    seed: int = 0
    repeat: bool = True
    time_factor: float = 1.0
    silence_s: float = SILENCE_S
    block_mode: bool = True
    faults: tuple[Fault, ...] = field(default=())


def _quiet(event: str, /, **fields: object) -> None:
    """What is done with events where nobody asks for them."""


class LiveTwin:
    """One simulated vehicle on a bus.

    The VCU answers XCP from its making to ``close``; ``run`` lets the truck drive.

    Args:
        vehicle: with ``twin`` and ``xcp`` sections.
        bus: where it takes part.
        options: how it drives.
        tell: gets the events of docs/twin.md.

    Attributes:
        vcu: its pages; change them only through XCP while the twin lives.
        slave: its XCP slave.
        faults: its simulated faults; more can be added.
        steps: simulation steps done.
        late_steps: steps that were given up because the twin was stopped for longer than a second.
        failed_frames: messages that the bus did not take.

    Raises:
        TwinError: the vehicle has no twin or no XCP slave, or a number is out of range.
        UnknownNameError: driver or cycle does not exist.
    """

    def __init__(
        self, vehicle: Vehicle, bus: NodeBus, options: LiveOptions | None = None, tell: Tell = _quiet
    ) -> None:
        self._options = options or LiveOptions()
        if not 0.0 < self._options.time_factor <= 1000.0:
            message = f"time factor {self._options.time_factor} is outside 0..1000; 1 is real time"
            raise TwinError(message)
        config = xcp_config(vehicle)
        self._vehicle = vehicle
        self._bus = bus
        self._tell = tell
        self._step_s = twin_parameters(vehicle).step_s
        self._rate_hz = 1.0 / self._step_s
        started = time.monotonic()
        self.faults = Faults(self._options.faults, lambda: time.monotonic() - started)
        cycle = self._options.cycle
        self._route = load_route(cycle, self._options.seed) if isinstance(cycle, str) else cycle
        self._drives = 0
        self._fleet = self._new_fleet()
        # The compiled core is loaded before anyone waits for it.
        self._new_fleet().advance(self._step_s)
        self.vcu = Vcu(vehicle, self._fleet)
        self._messages = LiveMessages(vehicle, self._rate_hz, self.faults)
        self.slave = XcpSlave(
            self.vcu,
            now_ns=time.monotonic_ns,
            max_cto=FD_MAX_CTO if vehicle.bus is not None and vehicle.bus.fd else CLASSIC_MAX_CTO,
            block_mode=self._options.block_mode,
            silence_s=self._options.silence_s,
            on_event=self._vcu_event,
        )
        self.steps = 0
        self.late_steps = 0
        self.failed_frames = 0
        self._page_told: int | None = None
        self._node = XcpNode(bus, config, self.slave, self.faults)

    def run(self, stopping: threading.Event) -> None:
        """Drive until ``stopping`` is set, or to the route's end where it is not repeated.

        Raises:
            BusError: the bus is lost.
        """
        vcu = self.vcu
        with self._node.lock:
            self._tell(
                "ready",
                vehicle=self._vehicle.id,
                pid=os.getpid(),
                page=vcu.page,
                reference_sha256=vcu.sha256(vcu.reference_page),
            )
            self._tell_map("start")
        self._tell_drive("drive_begins")
        step_s = self._step_s / self._options.time_factor
        origin = time.monotonic()
        done = 0
        while not stopping.is_set():
            due = int((time.monotonic() - origin) / step_s)
            lag = (due - done) * step_s
            if lag > LONGEST_LAG_S:
                self.late_steps += due - done
                self._tell("late", seconds=round(lag, 3))
                origin += (due - done) * step_s
                due = done
            while done <= due and not stopping.is_set():
                if not self._advance():
                    return
                done += 1
            stopping.wait(max(origin + done * step_s - time.monotonic(), SHORTEST_WAIT_S))

    def close(self) -> None:
        """Answer no more; the bus stays open."""
        self._node.close()

    def _new_fleet(self) -> Fleet:
        options = self._options
        seed = options.seed + self._drives
        return Fleet(self._vehicle, self._route, [options.driver], [seed], rate_hz=self._rate_hz)

    def _advance(self) -> bool:
        """One step and its messages; False at the end of the last drive."""
        self._node.tick()
        trace = self._fleet.advance(self._step_s)
        self.steps += 1
        for frame in self._messages.next(trace):
            try:
                self._bus.send(frame.id, frame.data, extended=frame.extended)
            except BusError:
                if getattr(self._bus, "error", None) is not None:
                    raise
                self.failed_frames += 1
        if not self._fleet.done[0]:
            return True
        self._tell_drive("drive_ends")
        if not self._options.repeat:
            return False
        self._drives += 1
        self._fleet = self._new_fleet()
        with self._node.lock:
            self.vcu.drive(self._fleet)
        self._tell_drive("drive_begins")
        return True

    def _tell_drive(self, event: str) -> None:
        self._tell(
            event,
            drive=self._drives,
            route=self._route.name,
            seconds=float(self._fleet.elapsed_s[0]),
            distance_m=float(self._fleet.distance_m[0]),
            energy_wh=float(self._fleet.energy_wh[0]),
        )

    def _vcu_event(self, event: VcuEvent) -> None:
        """Tell it; runs in the thread that heard the command, under the node's lock."""
        if event.kind != "written":
            self._tell(event.kind, page=event.page, reason=event.reason)
        if event.kind in ("page", "written"):
            self._tell_map(event.reason)

    def _tell_map(self, reason: str) -> None:
        vcu = self.vcu
        rows = [row.astype("<f4").tobytes().hex() for row in vcu.table(vcu.page)]
        self._tell("map", page=vcu.page, reason=reason, sha256=vcu.sha256(vcu.page), rows=rows)
