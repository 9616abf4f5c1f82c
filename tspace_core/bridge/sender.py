"""The bridge's clock: once a period one sample to the guard and one datagram to whoever listens."""

import logging
import socket
import threading
import time
from collections.abc import Callable

from tspace_core.bridge.decoder import SECOND_SPEED, Decoder, Snapshot
from tspace_core.config.vehicle import Vehicle
from tspace_core.guard.state import VehicleState
from tspace_core.link.datagrams import encode_sample, signals_needed

_LOG = logging.getLogger(__name__)


def vehicle_state(snapshot: Snapshot, needed: tuple[str, ...], now_ns: int) -> VehicleState:
    """What the guard is told: without all that driving needs the sample is invalid, with the reason."""
    problems = [f"{name}: {snapshot.problems[name]}" for name in needed if name in snapshot.problems]
    values = snapshot.values
    times = [snapshot.at_ns[name] for name in needed if name in snapshot.at_ns]
    return VehicleState(
        velocity_kmh=values.get("velocity", 0.0),
        thrust_percent=values.get("thrust", 0.0),
        brake_percent=values.get("brake", 0.0),
        at_ns=min(times, default=now_ns),
        valid=not problems,
        reason="; ".join(problems),
        counter_errors=snapshot.counter_errors,
        other_velocity_kmh=values.get(SECOND_SPEED),
    )


class Sender:
    """Sends the latest fresh values at the vehicle's rate, without drift.

    Ticks lie on a fixed grid from the start: a late one does not move the next, and those that were missed
    altogether are counted, not made up for. A stale signal is left out of the datagram, which its receiver
    counts as a failed capture; where nothing is fresh, nothing is sent, as from a silent bus.

    Args:
        vehicle: its sampling rate and signals.
        decoder: where values come from.
        observe: gets every sample, for the guard; must not block.
        address: where datagrams go.
        wanted: whether somebody listens there now.

    Attributes:
        sent: datagrams sent; also the next one's ``seq``.
        missed: ticks that the machine was too late for.
        incomplete: datagrams that lacked a signal.
        failed: datagrams that the system refused to send.
        last: the last snapshot.
    """

    def __init__(
        self,
        vehicle: Vehicle,
        decoder: Decoder,
        observe: Callable[[VehicleState, Snapshot], None],
        address: tuple[str, int],
        *,
        wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        self._decoder, self._observe = decoder, observe
        self._address, self._wanted = address, wanted
        self._period_ns = vehicle.sampling.period_ns
        self._signals = signals_needed(vehicle)
        self.sent = self.missed = self.incomplete = self.failed = 0
        self.last: Snapshot | None = None

    def run(self, stopping: threading.Event) -> None:
        """Tick until ``stopping`` is set."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            out.settimeout(0)
            start, tick = time.monotonic_ns(), 0
            while True:
                tick += 1
                late = (time.monotonic_ns() - start) // self._period_ns - tick
                if late > 0:
                    self.missed += late
                    tick += late
                wait_ns = start + tick * self._period_ns - time.monotonic_ns()
                if stopping.wait(max(0, wait_ns) / 1e9):
                    return
                self._tick(out)

    def _tick(self, out: socket.socket) -> None:
        snapshot = self._decoder.snapshot()
        self.last = snapshot
        self._observe(vehicle_state(snapshot, self._decoder.needed, time.monotonic_ns()), snapshot)
        values = {name: snapshot.values[name] for name in self._signals if name in snapshot.values}
        if not values or not self._wanted():
            return
        self.incomplete += len(values) < len(self._signals)
        data = encode_sample(values, seq=self.sent, time_ns=time.time_ns())
        try:
            out.sendto(data, self._address)
        except OSError as error:
            self.failed += 1
            if self.failed == 1:
                _LOG.warning("datagrams cannot be sent to %s:%d: %s", *self._address, error)
            return
        self.sent += 1
