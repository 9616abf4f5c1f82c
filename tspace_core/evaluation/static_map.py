"""The best static torque map: the strongest opponent that learns nothing while it drives.

CMA-ES (Hansen 2016, arXiv:1604.00772; package ``cma``) searches few numbers, one at each crossing of pedal
and speed bands, in units of the torque budget. Between the crossings they are interpolated; the map keeps the
limits of a flash (or of the guard) and does not fall along the pedal. The search starts from the best of some
plain maps, lowered by the budget up to a pedal band. Numbers may leave [-1, 1] by ``OVERSHOOT``:
the best ones often lie at the limit, which a normal distribution inside it hardly reaches. A whole population
drives in one fleet a route, with fixed seeds of the drivers' feet; report on others. Sought is the least

    mean over drives of 100 (E - E_default) / E_default
    + 10 x how far a driver's mean trip time differs beyond 0.8 %, mean over drivers
    + 1 x how far the mean speed error, or acceleration rate, of all drives is worse beyond 8 %

The margins stand inside the 1 % and 10 % of a release, so that the map found keeps those on other seeds too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tspace_core.config import TorqueMap, Vehicle
from tspace_core.config.base import ConfigModel
from tspace_core.errors import ConfigError, TwinError
from tspace_core.evaluation import quality
from tspace_core.guard.envelope import Envelope
from tspace_core.guard.shape import first_break
from tspace_core.twin.cycles import load_route
from tspace_core.twin.fleet import Fleet
from tspace_core.twin.route import Route

Doubles = NDArray[np.float64]
Limits = Literal["flash", "guard"]
FREE_TIME_PERCENT, TIME_WEIGHT = 0.8, 10.0
FREE_QUALITY_PERCENT, QUALITY_WEIGHT = 8.0, 1.0
LATE_PERCENT = 1000.0
"""Objective of a map with which a truck does not arrive."""
OVERSHOOT = 0.3
"""How far beyond the budget a number may be; the map is clipped to its limits."""
SAMPLING_HZ = 1.0 / quality.STEP_S
"""As slow as drive quality allows: samples are half of the memory of a large fleet."""


class StaticSearch(ConfigModel):
    """What is searched, on which drives, and how long."""

    pedal_centres: tuple[float, ...] = Field(
        default=(0.0, 0.04, 0.12, 0.2, 0.38, 1.0), min_length=2, description="shares of full travel"
    )
    speed_centres_kmh: tuple[float, ...] = Field(default=(10.0, 30.0, 50.0, 80.0), min_length=1)
    drivers: tuple[str, ...] = Field(default=("tracker", "habitual", "aggressive"), min_length=1)
    seeds: tuple[int, ...] = Field(default=(1001, 1002), min_length=1, description="of the drivers' feet")
    population: int = Field(default=14, ge=4)
    generations: int = Field(default=16, ge=1)
    sigma: float = Field(default=0.25, gt=0, description="first standard deviation, in budgets")
    seed: int = Field(default=0, ge=0)
    limits: Limits = Field(
        default="flash", description="of a flash, or those of the guard, which are tighter"
    )


@dataclass(frozen=True, eq=False)
class FoundMap:
    """The best map of a search.

    Attributes:
        table: the map.
        values: the numbers it was made of, (speed bands, pedal bands), in budgets.
        objective: what was sought the least of, on the search's own drives, %.
        saving_percent: mean saving on those drives.
        history: least objective of the plain maps, then after each generation.
        drives: how many drives it took.
    """

    table: TorqueMap
    values: Doubles
    objective: float
    saving_percent: float
    history: tuple[float, ...]
    drives: int


class MapFamily:
    """Maps of a vehicle by a few numbers.

    Args:
        vehicle: whose default map, budget and limits are used.
        search: bands and limits.

    Raises:
        ConfigError: centres that do not ascend, or a default map outside its own guard.
    """

    def __init__(self, vehicle: Vehicle, search: StaticSearch) -> None:
        for name in ("pedal_centres", "speed_centres_kmh"):
            centres = getattr(search, name)
            if np.any(np.diff(centres) <= 0):
                message = f"{name} {centres} must ascend"
                raise ConfigError(message)
        self.default = vehicle.default_map()
        self.budget_nm = vehicle.torque_map.budget_nm
        self.shape = (len(search.speed_centres_kmh), len(search.pedal_centres))
        self._along_speed = _weights(self.default.speed_axis_kmh, search.speed_centres_kmh)
        self._along_pedal = _weights(self.default.pedal_axis, search.pedal_centres)
        self._neighbour_nm = vehicle.guard.neighbour_step_nm if search.limits == "guard" else None
        self.lower, self.upper = cell_limits(vehicle, search.limits)

    def map(self, values: Doubles) -> TorqueMap:
        """The map of ``values``, (speed bands x pedal bands), in budgets."""
        change = self._along_speed @ np.reshape(values, self.shape) @ self._along_pedal.T
        reference = self.default.table.astype(np.float64)
        scale = 1.0
        for _ in range(20):
            table = np.clip(reference + scale * change * self.budget_nm, self.lower, self.upper)
            # A map that falls along the pedal cannot be driven; what rises here stays below its own default.
            table = np.clip(np.maximum.accumulate(table, axis=1), self.lower, self.upper)
            if self._neighbour_nm is None or first_break(table, self._neighbour_nm) is None:
                break
            scale *= 0.9
        else:
            table = reference
        return TorqueMap(self.default.pedal_axis, self.default.speed_axis_kmh, _inside(table, self))


def cell_limits(vehicle: Vehicle, limits: Limits) -> tuple[Doubles, Doubles]:
    """Least and greatest torque of every cell, Nm, shape (rows, columns) each.

    ``flash``: what ``TorqueMap.flashed`` clips to. ``guard``: also what the guard would leave of it.

    Raises:
        ConfigError: ``guard``, and the default map is outside its own limits.
    """
    table = vehicle.default_map().table.astype(np.float64)
    factor = vehicle.torque_map.upper_factor
    lower = table - vehicle.torque_map.budget_nm
    upper = np.where(table > 0, table * factor, table)
    lower = np.minimum(lower, upper)
    if limits == "guard":
        for bound in Envelope.of(vehicle).bounds:
            lower, upper = np.maximum(lower, bound.lower), np.minimum(upper, bound.upper)
    return lower, upper


class StaticObjective:
    """What maps cost on fixed drives, many maps in one fleet.

    Args:
        vehicle: with a twin.
        routes: names of cycles, or routes; every driver and seed drives each of them.
        search: drivers and seeds.
    """

    def __init__(self, vehicle: Vehicle, routes: Sequence[str | Route], search: StaticSearch) -> None:
        self.vehicle = vehicle
        self.search = search
        self.routes = [load_route(each) if isinstance(each, str) else each for each in routes]
        self.drives = 0
        if not self.routes:
            message = "no route to search a map on; give at least one"
            raise TwinError(message)

    @cached_property
    def _reference(self) -> list[Doubles]:
        return [self._drive(route, [self.vehicle.default_map()])[0] for route in self.routes]

    def __call__(self, maps: Sequence[TorqueMap]) -> tuple[Doubles, Doubles]:
        """Objective and mean saving in %, (maps,) each."""
        costs, savings = [], []
        for route, reference in zip(self.routes, self._reference, strict=True):
            driven = self._drive(route, maps)
            change = 100.0 * (driven - reference) / reference  # (maps, drivers, seeds, measures)
            late = ~np.isfinite(change).all(axis=(1, 2, 3))
            energy, time = (np.nan_to_num(change[..., i], nan=LATE_PERCENT) for i in (0, 1))
            worse = 100.0 * (driven.mean(axis=(1, 2)) / reference.mean(axis=(0, 1)) - 1.0)[:, 2:]
            cost = energy.mean(axis=(1, 2))
            beyond = np.maximum(np.abs(time.mean(axis=2)) - FREE_TIME_PERCENT, 0.0)
            cost = cost + TIME_WEIGHT * beyond.mean(axis=1)
            cost = cost + QUALITY_WEIGHT * np.maximum(worse - FREE_QUALITY_PERCENT, 0.0).sum(axis=1)
            costs.append(np.where(late, LATE_PERCENT, cost))
            savings.append(-energy.mean(axis=(1, 2)))
        return np.mean(costs, axis=0), np.mean(savings, axis=0)

    def _drive(self, route: Route, maps: Sequence[TorqueMap]) -> Doubles:
        """(maps, drivers, seeds, 4): energy per distance, trip time, speed error, acceleration rate."""
        search = self.search
        drivers = [driver for driver in search.drivers for _ in search.seeds]
        own = len(drivers)
        fleet = Fleet(
            self.vehicle,
            route,
            drivers * len(maps),
            list(search.seeds) * (len(search.drivers) * len(maps)),
            [each for each in maps for _ in range(own)],
            rate_hz=SAMPLING_HZ,
        )
        speeds, references, valid, elapsed = [], [], [], 0.0
        while not np.all(fleet.done) and elapsed < route.time_limit_s:
            trace = fleet.advance(60.0)
            elapsed += 60.0
            speeds.append(trace.velocity.astype(np.float32))
            references.append(trace.reference.astype(np.float32))
            valid.append(trace.valid)
        self.drives += len(fleet)
        speed, asked, on = (np.concatenate(each, axis=1) for each in (speeds, references, valid))
        measures = np.full((len(fleet), 4), np.nan)
        for i in np.flatnonzero(fleet.done):
            measures[i] = (
                fleet.energy_wh[i] / fleet.distance_m[i],
                fleet.elapsed_s[i],
                quality.speed_rmse(speed[i, on[i]], asked[i, on[i]]),
                quality.mean_absolute_acceleration_rate(speed[i, on[i]], SAMPLING_HZ),
            )
        return measures.reshape(len(maps), len(search.drivers), len(search.seeds), 4)


def search_static_map(
    vehicle: Vehicle,
    routes: Sequence[str | Route],
    search: StaticSearch | None = None,
    *,
    progress: Callable[[int, float], object] | None = None,
) -> FoundMap:
    """Search the best static map by CMA-ES; equal arguments give an equal map.

    Args:
        vehicle: with a twin.
        routes: what every candidate drives.
        search: bands, drives and effort.
        progress: told each generation's number, from 1, and the least objective so far.

    Raises:
        ConfigError, TwinError, UnknownNameError: the search does not fit the vehicle, or names nothing.
    """
    search = search or StaticSearch()
    family, objective = MapFamily(vehicle, search), StaticObjective(vehicle, routes, search)
    top = 1.0 if vehicle.torque_map.upper_factor > 1.0 else 0.0
    plain = [np.where(np.arange(family.shape[1]) < bands, -1.0, 0.0) for bands in range(family.shape[1] + 1)]
    starts = [np.broadcast_to(row, family.shape).ravel() for row in plain]
    costs, savings = objective([family.map(values) for values in starts])
    place = int(np.argmin(costs))
    # The default map is among them: a search that finds nothing better gives it back.
    best, least, saved = starts[place], float(costs[place]), float(savings[place])
    strategy = _strategy(best, search, top)
    history = [least]
    for generation in range(1, search.generations + 1):
        asked = strategy.ask()
        costs, savings = objective([family.map(np.asarray(each)) for each in asked])
        strategy.tell(asked, costs.tolist())
        place = int(np.argmin(costs))
        if costs[place] < least:
            best, least, saved = np.asarray(asked[place]), float(costs[place]), float(savings[place])
        history.append(least)
        if progress is not None:
            progress(generation, least)
    # The distribution's mean is less noisy than its best draw.
    mean = np.asarray(strategy.result.xfavorite)
    costs, savings = objective([family.map(mean)])
    if costs[0] < least:
        best, least, saved = mean, float(costs[0]), float(savings[0])
    return FoundMap(
        table=family.map(best),
        values=best.reshape(family.shape),
        objective=least,
        saving_percent=saved,
        history=tuple(history),
        drives=objective.drives,
    )


def _strategy(start: Doubles, search: StaticSearch, top: float) -> Any:
    import cma

    generator = np.random.default_rng([search.seed, 0x636D61])
    return cma.CMAEvolutionStrategy(
        start,
        search.sigma,
        {
            "bounds": [-1.0 - OVERSHOOT, top + OVERSHOOT],
            "popsize": search.population,
            "maxiter": search.generations,
            # Drawn from a generator of our own: numpy's global one is left alone.
            "seed": float("nan"),
            "randn": lambda *shape: generator.standard_normal(shape),
            "verbose": -9,
            "verb_disp": 0,
            "verb_log": 0,
        },
    )


def _weights(axis: NDArray[np.float32], centres: Sequence[float]) -> Doubles:
    """(points, bands): weight of every band at every point of an axis, linear between the centres."""
    return np.stack([np.interp(axis, centres, unit) for unit in np.eye(len(centres))], axis=1)


def _inside(table: Doubles, family: MapFamily) -> NDArray[np.float32]:
    """In float32, rounded to the inside of the limits."""
    single = table.astype(np.float32)
    single = np.where(single < family.lower, np.nextafter(single, np.float32(np.inf)), single)
    return np.where(single > family.upper, np.nextafter(single, np.float32(-np.inf)), single)
