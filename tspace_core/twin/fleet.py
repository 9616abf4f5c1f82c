"""Many simulated vehicles of one kind, driven along one route at once."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tspace_core.config.loading import load_driver
from tspace_core.config.torque_map import TorqueMap
from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import TwinError
from tspace_core.twin.arrays import CHANNELS, LEDGER, STATE, Array, Style
from tspace_core.twin.cycles import load_route
from tspace_core.twin.kernel import drive
from tspace_core.twin.route import Route
from tspace_core.twin.trace import EnergyLedger, Trace
from tspace_core.twin.truck import build_plant, table_of, twin_parameters

STYLE_FIELDS = (
    "preview_s",
    "speed_gain",
    "integral_gain",
    "adaptation",
    "pedal_rate_per_s",
    "reaction_s",
    "acceleration_limit_mps2",
    "braking_limit_mps2",
    "pedal_noise",
)
"""Fields of DrivingStyle in the order of the compiled core's Style."""
FORWARD_GEAR = 1.0


class Fleet:
    """Simulated vehicles of one kind on one route.

    Args:
        vehicle: a vehicle with a ``twin`` section.
        cycle: name of a cycle (``cycles.cycle_names()``) or a route.
        drivers: ids of simulated drivers in conf/drivers, one a vehicle.
        seeds: seed of each driver's foot, one a vehicle.
        maps: torque map of each vehicle; None: the default map for all.
        mode: drive the route by place (every drive covers the same distance) or by time.
        rate_hz: samples a second; None: the vehicle's own rate.
        wind_mps: constant head wind, m/s.

    Raises:
        TwinError: numbers of drivers, seeds and maps differ; a driver is a person; the rate does not fit the
            simulation step; a map has other axes.
        UnknownNameError: a cycle or driver of that name does not exist.
    """

    def __init__(
        self,
        vehicle: Vehicle,
        cycle: str | Route,
        drivers: Sequence[str],
        seeds: Sequence[int],
        maps: Sequence[TorqueMap] | None = None,
        *,
        mode: Literal["place", "time"] = "place",
        rate_hz: float | None = None,
        wind_mps: float = 0.0,
    ) -> None:
        count = len(drivers)
        default = vehicle.default_map()
        maps = [default] * count if maps is None else list(maps)
        if count == 0 or len(seeds) != count or len(maps) != count:
            message = f"{count} drivers, {len(seeds)} seeds, {len(maps)} maps: give one of each a vehicle"
            raise TwinError(message)
        self.vehicle = vehicle
        self.route = load_route(cycle) if isinstance(cycle, str) else cycle
        self.mode = mode
        self.rate_hz = vehicle.sampling.rate_hz if rate_hz is None else rate_hz
        twin = twin_parameters(vehicle)
        stride = 1.0 / (self.rate_hz * twin.step_s)
        if abs(stride - round(stride)) > 1e-9 or round(stride) < 1:
            message = (
                f"{self.rate_hz} samples a second do not fit the simulation step of {twin.step_s} s; "
                f"choose a rate that divides {1.0 / twin.step_s:g}"
            )
            raise TwinError(message)
        self._stride = round(stride)
        self._plant = build_plant(vehicle, wind_mps)
        self._road = self.route.road(mode)
        self._style = _styles(drivers)
        self._maps = list(maps)
        self._live = np.stack([table_of(each, self._plant) for each in maps])
        self._default = table_of(default, self._plant)
        self._states: Any = np.zeros(count, dtype=STATE)
        self._ledgers: Any = np.zeros(count, dtype=LEDGER)
        self._states["soc"] = twin.battery_soc_start
        self._states["voltage"] = np.interp(twin.battery_soc_start, twin.battery_soc, twin.battery_ocv_v)
        self._states["random"] = [
            int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]) for seed in seeds
        ]

    def __len__(self) -> int:
        return len(self._states)

    @property
    def done(self) -> NDArray[np.bool_]:
        """Whether each vehicle has reached the end of the route, shape (vehicles,)."""
        return np.asarray(self._states["done"] == 1)

    @property
    def elapsed_s(self) -> Array:
        """Time each vehicle has driven, s; stops counting at the end of the route."""
        return np.asarray(self._states["step"] * self._plant.step)

    @property
    def distance_m(self) -> Array:
        """Distance each vehicle has driven, m."""
        return np.array(self._states["distance"])

    @property
    def energy_wh(self) -> Array:
        """Energy each vehicle has taken from the battery's terminals, Wh, positive for discharge."""
        return np.asarray(self._ledgers["terminal"] / 3600.0)

    @property
    def ledger(self) -> EnergyLedger:
        """Where each vehicle's energy went so far."""
        kinetic = 0.5 * self._plant.inertial_mass * self._states["speed"] ** 2
        names = self._ledgers.dtype.names
        return EnergyLedger(kinetic=kinetic, **{name: np.array(self._ledgers[name]) for name in names})

    def map(self, index: int) -> TorqueMap:
        """The torque map in effect in a vehicle."""
        return self._maps[index]

    def set_map(self, index: int, torque_map: TorqueMap) -> None:
        """Put another torque map into effect in a vehicle, from the next step on.

        Raises:
            TwinError: the map has other axes.
        """
        self._live[index] = table_of(torque_map, self._plant)
        self._maps[index] = torque_map

    def advance(self, seconds: float) -> Trace:
        """Drive on.

        Args:
            seconds: time to simulate; a multiple of the sampling period.

        Returns:
            The samples of that time.

        Raises:
            TwinError: the time is no multiple of the sampling period.
        """
        samples = round(seconds * self.rate_hz)
        if samples < 1 or abs(samples / self.rate_hz - seconds) > 1e-6:
            message = f"cannot advance by {seconds} s: choose a multiple of {1.0 / self.rate_hz:g} s"
            raise TwinError(message)
        out = np.empty((len(self), samples, len(CHANNELS)))
        valid = np.empty((len(self), samples), dtype=np.bool_)
        drive(
            self._plant,
            self._road,
            self._style,
            self._states,
            self._ledgers,
            self._live,
            self._default,
            self._stride,
            out,
            valid,
        )
        column = {name: out[:, :, number] for number, name in enumerate(CHANNELS)}
        return Trace(
            time_s=column.pop("time"),
            distance_m=column.pop("distance"),
            gear=np.full((len(self), samples), FORWARD_GEAR),
            valid=valid,
            **column,
        )

    def run(self, limit_s: float | None = None, chunk_s: float = 60.0) -> Trace:
        """Drive until every vehicle has reached the end.

        Args:
            limit_s: give up after this simulated time; default the route's ``time_limit_s``.
            chunk_s: simulated time between two looks at ``done``.

        Raises:
            TwinError: a vehicle has not arrived within the limit.
        """
        limit = self.route.time_limit_s if limit_s is None else limit_s
        blocks = []
        elapsed = 0.0
        while not np.all(self.done):
            if elapsed >= limit:
                late = np.flatnonzero(~self.done).tolist()
                message = (
                    f"vehicles {late} have not reached the end of {self.route.name} within {limit:.0f} s; "
                    f"they are at {self.distance_m[late].round().tolist()} of {self.route.length_m:.0f} m"
                )
                raise TwinError(message)
            blocks.append(self.advance(chunk_s))
            elapsed += chunk_s
        return Trace.concat(blocks)


def _styles(drivers: Sequence[str]) -> Style:
    rows = []
    for name in drivers:
        style = load_driver(name).style
        if style is None:
            message = f"driver {name} is a person; a fleet needs drivers with a `style:` in conf/drivers"
            raise TwinError(message)
        rows.append([getattr(style, field) for field in STYLE_FIELDS])
    return Style(*np.array(rows, dtype=np.float64).T.copy())
