"""The truck that a telematics box sits in: it drives in real time and is sampled at 50 Hz into a ring."""

import math
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tspace_core.config.remote import UNIT_SAMPLES
from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import TwinError
from tspace_core.twin.cycles import load_route
from tspace_core.twin.fleet import Fleet
from tspace_core.twin.live_events import Tell
from tspace_core.twin.route import Route
from tspace_core.twin.truck import twin_parameters
from tspace_core.twin.vcu import Vcu

if TYPE_CHECKING:
    from collections.abc import Callable

CHANNELS = ("velocity", "thrust", "brake", "current", "voltage", "gear")
"""Columns of the ring, in the order and units of the wire contract."""
RATE_HZ = UNIT_SAMPLES
PERIOD_NS = 1_000_000_000 // RATE_HZ
RING_S = 120
LONGEST_LAG_S = 60.0
"""A truck that stood still longer, as a suspended machine makes it, does not make up for it."""
_BATCH = 50
_SHORTEST_WAIT_S = 0.002

Floats = NDArray[np.float64]


def quiet(event: str, /, **fields: object) -> None:
    """What is done with events where nobody asks for them."""


@dataclass(frozen=True)
class DriveOptions:
    """How the truck drives.

    Attributes:
        driver: id of a simulated driver.
        cycle: name of a cycle, or a route.
        seed: of route and driver; each further drive has the next seed for its driver.
        repeat: drive the route again and again, or end with it.
        time_factor: the truck, and the clock that its samples are stamped by, are so much faster than real
            time; beyond 1 the stamps run ahead of ours, so that a client needs ``remote.future_s`` for it.
    """

    driver: str = "habitual"
    cycle: str | Route = "truck_route"
    seed: int = 0
    repeat: bool = True
    time_factor: float = 1.0


@dataclass
class _Flash:
    """Rows on their way into the VCU."""

    due: int
    first_row: int
    rows: NDArray[np.float32]
    outcome: str = ""


@dataclass(frozen=True, eq=False)
class Samples:
    """Consecutive samples.

    Attributes:
        values: shape (n, 6), columns as ``CHANNELS``, in the vehicle's units and signs.
        start_ns: instant of the first by the vehicle's clock, ns UTC; 20 ms between two.
        first: number of the first since the truck began to drive.
    """

    values: Floats = field(repr=False)
    start_ns: int
    first: int = 0

    @property
    def energy_wh(self) -> float:
        """Electric energy taken from the battery in the time of these samples, Wh."""
        return float(np.sum(self.values[:, 3] * self.values[:, 4]) / RATE_HZ / 3600.0)


class BoxTruck:
    """One simulated truck with its VCU; ``run`` lets it drive, any thread may ask for samples and flash.

    The VCU's working page starts as a copy of its reference page. Rows that are flashed stay in effect until
    others are, or until the driver switches the AI mode off: the VCU then drives by its reference page, and
    the working page is a copy of it again.

    Args:
        vehicle: with a ``twin`` section.
        options: how it drives.
        tell: gets the events ``drive_begins``, ``drive_ends``, ``late``, ``map`` and ``ai_mode``.

    Attributes:
        flashes: times that rows were put into effect.
        partial_flashes: those of them that were not the whole map.

    Raises:
        TwinError: the vehicle has no twin, or a number is out of range.
        UnknownNameError: driver or cycle does not exist.
    """

    def __init__(self, vehicle: Vehicle, options: DriveOptions | None = None, tell: Tell = quiet) -> None:
        self.vehicle = vehicle
        self._options = options or DriveOptions()
        if not 0.0 < self._options.time_factor <= 1000.0:
            message = f"time factor {self._options.time_factor} is outside 0..1000; 1 is real time"
            raise TwinError(message)
        self._tell = tell
        self._delay = math.ceil(twin_parameters(vehicle).flash_delay_s * RATE_HZ)
        cycle = self._options.cycle
        self._route = load_route(cycle, self._options.seed) if isinstance(cycle, str) else cycle
        self._drives = 0
        self._fleet = self._new_fleet()
        # The compiled core is loaded before anyone waits for it.
        self._new_fleet().advance(1.0 / RATE_HZ)
        self._vcu = Vcu(vehicle, self._fleet)
        (self._page, *_) = self._vcu.working_pages
        self._changed = threading.Condition()
        self._ring = np.zeros((RING_S * RATE_HZ, len(CHANNELS)))
        self._count = 0
        self._origin_ns = _on_grid(time.time_ns())
        self._oldest = 0
        self._flashing: list[_Flash] = []
        self._ended = False
        self._ai_mode = True
        self.flashes = 0
        self.partial_flashes = 0
        self.on_change: Callable[[], None] = lambda: None

    @property
    def time_factor(self) -> float:
        """How much faster than real time it drives."""
        return self._options.time_factor

    @property
    def ai_mode(self) -> bool:
        """The driver's switch."""
        return self._ai_mode

    def run(self, stopping: threading.Event) -> None:
        """Drive until ``stopping`` is set, or to the route's end where it is not repeated."""
        period_s = 1.0 / RATE_HZ / self._options.time_factor
        self._tell_map("start")
        self._tell_drive("drive_begins")
        with self._changed:
            self._origin_ns = _on_grid(time.time_ns())
        # After the instant that samples are stamped from: none is stamped later than it is taken.
        origin = time.monotonic()
        begun = self._count
        try:
            while not stopping.is_set():
                due = begun + int((time.monotonic() - origin) / period_s)
                lag_s = (due - self._count) * period_s
                if lag_s > LONGEST_LAG_S:
                    self._give_up(due - self._count)
                    origin += lag_s
                    due = self._count
                while self._count < due and not stopping.is_set():
                    if not self._advance(due - self._count):
                        return
                next_s = origin + (self._count - begun + 1) * period_s - time.monotonic()
                stopping.wait(max(next_s, _SHORTEST_WAIT_S))
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def collect(self, count: int, cancelled: threading.Event, first: int | None = None) -> Samples | None:
        """Wait for the next ``count`` samples, or for those from number ``first`` on.

        ``cancelled`` ends the wait, once ``wake`` is called.

        Returns:
            The samples; None if the wait was cancelled, the drive ended, or the truck stood still meanwhile.
        """
        with self._changed:
            begin = self._count if first is None else first
            while self._count < begin + count and not (self._ended or cancelled.is_set()):
                self._changed.wait()
            if self._count < begin + count or begin < self._oldest or self._count - begin > len(self._ring):
                return None
            return self._samples(begin, count)

    def wake(self) -> None:
        """Let who waits in ``collect`` look at ``cancelled``."""
        with self._changed:
            self._changed.notify_all()

    @property
    def ended(self) -> bool:
        """Whether the drive is over."""
        return self._ended

    @property
    def count(self) -> int:
        """Samples taken so far; the number of the next one."""
        return self._count

    def flash(self, first_row: int, rows: NDArray[np.float32]) -> bool:
        """Put rows into effect and wait until they are.

        Args:
            first_row: index of the first row.
            rows: shape (rows, columns), Nm, inside the map and finite.

        Returns:
            False if the driver's AI mode is off or was switched off meanwhile.

        Raises:
            TwinError: the rows do not fit, or the drive ended before they were in effect.
        """
        with self._changed:
            if not self._ai_mode:
                return False
            flash = _Flash(self._count + self._delay, first_row, np.array(rows, dtype=np.float32))
            self._flashing.append(flash)
            if self._delay == 0:
                self._apply_due()
            while not flash.outcome and not self._ended:
                self._changed.wait()
        if flash.outcome == "applied":
            self.on_change()
            return True
        if flash.outcome == "ai_mode_off":
            return False
        message = flash.outcome or "the drive ended before the rows were in effect"
        raise TwinError(message)

    def set_ai_mode(self, *, on: bool) -> None:
        """The driver's switch; off lets the VCU drive by its own map."""
        with self._changed:
            self._ai_mode = on
            if not on:
                for flash in self._flashing:
                    flash.outcome = "ai_mode_off"
                self._flashing.clear()
                self._vcu.select(self._vcu.reference_page)
                self._vcu.copy(self._vcu.reference_page, self._page)
            self._changed.notify_all()
        self._tell("ai_mode", on=on)
        if not on:
            self._tell_map("AI mode off")
        self.on_change()

    def state(self) -> dict[str, Any]:
        """What is in effect: see docs of ``GET /twin/state``."""
        with self._changed:
            vcu = self._vcu
            sha256, reference = vcu.sha256(vcu.page), vcu.sha256(vcu.reference_page)
            return {
                "map_sha256": sha256,
                "reference_sha256": reference,
                "page": "reference" if sha256 == reference else "live",
                "rows": vcu.table(vcu.page).tolist(),
                "ai_mode": self._ai_mode,
                "flashes_applied": self.flashes,
                "rows_applied": self.partial_flashes,
            }

    def _samples(self, begin: int, count: int) -> Samples:
        values = self._ring[np.arange(begin, begin + count) % len(self._ring)]
        return Samples(values, self._origin_ns + begin * PERIOD_NS, begin)

    def _new_fleet(self) -> Fleet:
        options = self._options
        seed = options.seed + self._drives
        return Fleet(self.vehicle, self._route, [options.driver], [seed], rate_hz=float(RATE_HZ))

    def _advance(self, most: int) -> bool:
        """Drive up to ``most`` samples on; False at the end of the last drive."""
        with self._changed:
            self._apply_due()
            count = min(most, _BATCH, *(flash.due - self._count for flash in self._flashing))
            trace = self._fleet.advance(count / RATE_HZ)
            places = np.arange(self._count, self._count + count) % len(self._ring)
            for column, name in enumerate(CHANNELS):
                self._ring[places, column] = trace.signal(name)[0]
            self._count += count
            self._apply_due()
            done = bool(self._fleet.done[0])
            self._changed.notify_all()
        if not done:
            return True
        self._tell_drive("drive_ends")
        if not self._options.repeat:
            return False
        self._drives += 1
        fleet = self._new_fleet()
        with self._changed:
            self._fleet = fleet
            self._vcu.drive(fleet)
        self._tell_drive("drive_begins")
        return True

    def _apply_due(self) -> None:
        """Put into effect what is due; under the lock."""
        for flash in [each for each in self._flashing if each.due <= self._count]:
            self._flashing.remove(flash)
            try:
                if self._vcu.page != self._page:
                    self._vcu.copy(self._vcu.reference_page, self._page)
                self._vcu.write_rows(self._page, flash.first_row, flash.rows)
                self._vcu.select(self._page)
            except TwinError as error:
                flash.outcome = str(error)
            else:
                flash.outcome = "applied"
                self.flashes += 1
                self.partial_flashes += len(flash.rows) < len(self._vcu.reference.speed_axis_kmh)
                self._tell_map("set_torque", first_row=flash.first_row, count=len(flash.rows))
            self._changed.notify_all()

    def _give_up(self, samples: int) -> None:
        """Leave out samples that nobody took: the clock goes on, collections in progress are lost."""
        with self._changed:
            self._origin_ns += samples * PERIOD_NS
            self._oldest = self._count
            self._changed.notify_all()
        self._tell("late", seconds=round(samples / RATE_HZ, 3))

    def _tell_drive(self, event: str) -> None:
        self._tell(
            event,
            drive=self._drives,
            route=self._route.name,
            seconds=float(self._fleet.elapsed_s[0]),
            distance_m=float(self._fleet.distance_m[0]),
            energy_wh=float(self._fleet.energy_wh[0]),
        )

    def _tell_map(self, reason: str, **fields: object) -> None:
        vcu = self._vcu
        sha256 = vcu.sha256(vcu.page)
        page = "reference" if sha256 == vcu.sha256(vcu.reference_page) else "live"
        rows = [row.astype("<f4").tobytes().hex() for row in vcu.table(vcu.page)]
        self._tell("map", page=page, reason=reason, sha256=sha256, rows=rows, **fields)


def _on_grid(instant_ns: int) -> int:
    """The last instant of the 20 ms grid, so that stamps of two fraction digits are exact."""
    return instant_ns - instant_ns % PERIOD_NS
