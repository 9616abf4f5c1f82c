"""Candidates driving the twin in closed loop along the same route by place.

A candidate is a torque map, in effect throughout, or a policy, consulted every step of two windows with the
timing of ``tspace_core.twin.decisions``, the same as in recorded drives. All maps drive in one fleet and all
policies in another; the vehicles of a fleet do not touch each other. A policy with a memory is told when its
episodes begin and what each step earned, as ``TorqueMap-v0`` does; behind a guard also what became of its
actions, as on the road.

Behind a guard (``guarded``) each vehicle has one of its own: what it leaves of a proposal is what is driven,
and of a map, what it leaves of that. Without one, what is proposed takes effect, as in ``TorqueMap-v0``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tspace_core.config import FLASHED_ROWS, TorqueMap, Vehicle
from tspace_core.errors import AgentError
from tspace_core.evaluation import quality
from tspace_core.evaluation.guarding import allowed_map
from tspace_core.evaluation.pairs import DRIVE_SCHEMA
from tspace_core.records.flash_journal import as_action
from tspace_core.records.policy import InformedPolicy, Policy, StatefulPolicy
from tspace_core.twin.decisions import DecisionLoop, Step
from tspace_core.twin.fleet import Fleet
from tspace_core.twin.fleet_guard import FleetGuard, GuardCount
from tspace_core.twin.route import Route
from tspace_core.twin.step_reward import step_rewards
from tspace_core.twin.trace import Trace

Candidate = Policy | TorqueMap
Progress = Callable[[float], None]
_ROUNDING = 1e-5
"""How far beyond [-1, 1] an action is still rounding."""

TRACE_SCHEMA = {
    "candidate": pl.String,
    "driver": pl.String,
    "seed": pl.Int64,
    "time_s": pl.Float64,
    "distance_m": pl.Float64,
    "speed_kmh": pl.Float64,
    "reference_kmh": pl.Float64,
}
"""Columns of the traces that are kept: the first seed of every candidate and driver."""


@dataclass(frozen=True)
class Start:
    """One drive to be driven: who drives what with which seed."""

    candidate: str
    driver: str
    seed: int


@dataclass(frozen=True, eq=False)
class Driven:
    """What came of it.

    Attributes:
        drives: one row a drive, columns of ``pairs.DRIVE_SCHEMA``.
        traces: columns of ``TRACE_SCHEMA``; the first seed of every candidate and driver.
        map_changes: mean change from the default map in Nm by candidate, the map's shape, NaN where a policy
            never flashed.
        guard: what the guard said to each policy; empty without one.
    """

    drives: pl.DataFrame
    traces: pl.DataFrame
    map_changes: Mapping[str, NDArray[np.float64]]
    guard: Mapping[str, GuardCount] = field(default_factory=dict)


def drive_all(
    vehicle: Vehicle,
    candidates: Mapping[str, Candidate],
    drivers: Sequence[str],
    seeds: Sequence[int],
    cycle: str | Route,
    *,
    guarded: bool = False,
    progress: Progress | None = None,
) -> Driven:
    """Drive every candidate with every driver and seed.

    Args:
        vehicle: with a twin.
        candidates: maps and policies by name.
        drivers: ids of simulated drivers.
        seeds: of the drivers' feet; the same seed gives every candidate the same foot.
        cycle: name of a cycle, or a route.
        guarded: with a guard in every vehicle.
        progress: told the share of the whole that is driven, 0 to 1, again and again.

    Raises:
        AgentError: a policy returned actions of another shape, or not finite.
        ConfigError: ``guarded``, and the vehicle's own default map is outside its limits.
        TwinError: the vehicle has no twin, a map has other axes, or a flash takes longer than a window.
        UnknownNameError: a driver or cycle of that name does not exist.
    """
    starts = [
        Start(candidate, driver, seed) for candidate in candidates for driver in drivers for seed in seeds
    ]
    fixed = {
        name: allowed_map(vehicle, each) if guarded else each
        for name, each in candidates.items()
        if isinstance(each, TorqueMap)
    }
    policies = {name: each for name, each in candidates.items() if not isinstance(each, TorqueMap)}
    default = vehicle.default_map()
    changes = {name: np.asarray(each.table, np.float64) - default.table for name, each in fixed.items()}
    drives, traces = [], []
    counts: dict[str, GuardCount] = {}
    driven_before = 0
    for group in (fixed, policies):
        own = [start for start in starts if start.candidate in group]
        if not own:
            continue
        maps = [fixed.get(start.candidate, default) for start in own]
        fleet = Fleet(vehicle, cycle, [start.driver for start in own], [start.seed for start in own], maps)
        recorder = _Recorder(vehicle, own, shown=range(0, len(own), len(seeds)))
        flashing = _Flashing(fleet, own, policies, guarded=guarded) if group is policies else None
        for block in _driving(fleet, flashing):
            recorder.keep(block)
            if progress is not None:
                share = np.where(fleet.done, 1.0, np.minimum(fleet.distance_m / fleet.route.length_m, 1.0))
                progress((driven_before + float(np.sum(share))) / len(starts))
        driven_before += len(own)
        drives.append(
            recorder.drives(fleet, np.zeros(len(own), int) if flashing is None else flashing.flashes)
        )
        traces.append(recorder.traces())
        if flashing is not None:
            changes.update(flashing.mean_changes())
            counts.update(flashing.guard.counts() if flashing.guard is not None else {})
    order = {name: position for position, name in enumerate(candidates)}
    return Driven(
        drives=_ordered(pl.concat(drives), order),
        traces=_ordered(pl.concat(traces), order),
        map_changes=changes,
        guard=counts,
    )


def _driving(fleet: Fleet, flashing: "_Flashing | None") -> Iterator[Trace]:
    """Drive until all have arrived or the route's time limit is up, and yield what was sampled."""
    limit_s = fleet.route.time_limit_s
    window_s = fleet.vehicle.sampling.window_s
    if flashing is None:
        elapsed = 0.0
        while not np.all(fleet.done) and elapsed < limit_s:
            yield fleet.advance(20 * window_s)
            elapsed += 20 * window_s
        return
    loop = DecisionLoop(fleet, None if flashing.guard is None else flashing.guard.answer)
    window = loop.first_window()
    yield window
    elapsed = window_s
    rewards: NDArray[np.float32] | None = None
    while not np.all(fleet.done) and elapsed < limit_s:
        driving, energy, distance = ~fleet.done, fleet.energy_wh, fleet.distance_m
        step = loop.step(window, flashing.decide(loop.states(window), rewards))
        flashing.count(step)
        used, driven = fleet.energy_wh - energy, fleet.distance_m - distance
        earned = step_rewards(fleet.vehicle, used, driven, window, step.half_step, step.window)
        rewards = np.where(driving, earned, np.float32(0.0))
        yield step.half_step
        yield step.window
        window = step.window
        elapsed += 2 * window_s


class _Flashing:
    """The policies at work on a fleet, and what they flashed."""

    def __init__(
        self, fleet: Fleet, starts: Sequence[Start], policies: Mapping[str, Policy], *, guarded: bool
    ) -> None:
        vehicle = fleet.vehicle
        self.flashes = np.zeros(len(starts), dtype=np.int64)
        self.guard = FleetGuard(fleet, [start.candidate for start in starts]) if guarded else None
        self._fleet = fleet
        self._policies = policies
        self._starts = starts
        self._places = {
            name: [place for place, start in enumerate(starts) if start.candidate == name]
            for name in policies
        }
        self._action_dim = vehicle.action_dim
        self._budget_nm = vehicle.torque_map.budget_nm
        self._default = vehicle.default_map().table
        self._sums = {name: np.zeros(self._default.shape) for name in policies}
        self._counts = {name: np.zeros((len(self._default), 1)) for name in policies}
        for name, policy in policies.items():
            if isinstance(policy, StatefulPolicy):
                policy.begin(len(self._places[name]))

    def decide(self, states: NDArray[np.float32], rewards: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Ask each policy for all its vehicles, arrived or not: its input keeps order and size."""
        actions = np.zeros((len(states), self._action_dim), dtype=np.float32)
        running = ~self._fleet.done
        for name, policy in self._policies.items():
            places = self._places[name]
            if isinstance(policy, StatefulPolicy):
                answer = policy(states[places], None if rewards is None else rewards[places])
            else:
                answer = policy(states[places])
            own = np.asarray(answer, dtype=np.float32)
            expected = (len(places), self._action_dim)
            if own.shape != expected or not np.all(np.isfinite(own)):
                message = (
                    f"policy {name!r} returned actions of shape {own.shape}, "
                    f"{np.count_nonzero(~np.isfinite(own))} of them not finite; expected finite {expected}"
                )
                raise AgentError(message)
            if self.guard is not None:
                beyond = (np.abs(own) > 1.0 + _ROUNDING).any(axis=1) & running[places]
                self.guard.beyond(name, int(np.count_nonzero(beyond)))
            actions[places] = own
        return actions

    def count(self, step: Step) -> None:
        """Note what took effect, and tell it to the policies that want to know."""
        for place, flash in enumerate(step.flashes):
            if flash is None:
                continue
            name = self._starts[place].candidate
            rows = slice(flash.first_row, flash.first_row + len(flash.torque_nm))
            self._sums[name][rows] += flash.torque_nm - self._default[rows]
            self._counts[name][rows] += 1
            self.flashes[place] += 1
        if self.guard is None:  # as TorqueMap-v0, which tells nobody either
            return
        for name, policy in self._policies.items():
            if isinstance(policy, InformedPolicy):
                policy.carried_out(np.stack([self._live_action(step, place) for place in self._places[name]]))

    def _live_action(self, step: Step, place: int) -> NDArray[np.float32]:
        """The live rows of a step as an action, as records of real drives hold it."""
        rows = slice(step.first_rows[place], step.first_rows[place] + FLASHED_ROWS)
        return as_action(self._fleet.map(place).table[rows], self._default[rows], self._budget_nm)[0]

    def mean_changes(self) -> dict[str, NDArray[np.float64]]:
        """Mean change of every cell over the flashes of its row, NaN where there was none."""
        return {
            name: np.where(count > 0, self._sums[name] / np.maximum(count, 1), np.nan)
            for name, count in self._counts.items()
        }


class _Recorder:
    """Keeps of the traces what quality and figures need."""

    def __init__(self, vehicle: Vehicle, starts: Sequence[Start], *, shown: Sequence[int]) -> None:
        self._rate_hz = vehicle.sampling.rate_hz
        self._starts = starts
        self._shown = np.array(shown)
        self._speed: list[NDArray[np.float32]] = []
        self._reference: list[NDArray[np.float32]] = []
        self._valid: list[NDArray[np.bool_]] = []
        self._shown_blocks: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []

    def keep(self, block: Trace) -> None:
        self._speed.append(block.velocity.astype(np.float32))
        self._reference.append(block.reference.astype(np.float32))
        self._valid.append(block.valid)
        self._shown_blocks.append((block.time_s[self._shown], block.distance_m[self._shown]))

    def drives(self, fleet: Fleet, flashes: NDArray[np.int64]) -> pl.DataFrame:
        speed, reference = np.concatenate(self._speed, axis=1), np.concatenate(self._reference, axis=1)
        valid = np.concatenate(self._valid, axis=1)
        rows = []
        for i, start in enumerate(self._starts):
            own, asked = speed[i, valid[i]], reference[i, valid[i]]
            distance_m, energy_wh = float(fleet.distance_m[i]), float(fleet.energy_wh[i])
            rows.append(
                {
                    "candidate": start.candidate,
                    "driver": start.driver,
                    "seed": start.seed,
                    "finished": bool(fleet.done[i]),
                    "energy_wh": energy_wh,
                    "distance_m": distance_m,
                    "trip_time_s": float(fleet.elapsed_s[i]),
                    "energy_wh_per_km": energy_wh / (distance_m / 1000) if distance_m > 0 else float("nan"),
                    "speed_rmse_kmh": quality.speed_rmse(own, asked),
                    "mean_acceleration_mps2": quality.mean_absolute_acceleration(own, self._rate_hz),
                    "mean_acceleration_rate_mps3": quality.mean_absolute_acceleration_rate(
                        own, self._rate_hz
                    ),
                    "flashes": int(flashes[i]),
                }
            )
        return pl.DataFrame(rows, schema=dict(DRIVE_SCHEMA))

    def traces(self) -> pl.DataFrame:
        time = np.concatenate([block[0] for block in self._shown_blocks], axis=1)
        distance = np.concatenate([block[1] for block in self._shown_blocks], axis=1)
        frames = []
        for position, i in enumerate(self._shown.tolist()):
            start = self._starts[i]
            valid = np.concatenate([block[i] for block in self._valid])
            frames.append(
                pl.DataFrame(
                    {
                        "time_s": time[position, valid],
                        "distance_m": distance[position, valid],
                        "speed_kmh": np.concatenate([block[i] for block in self._speed])[valid],
                        "reference_kmh": np.concatenate([block[i] for block in self._reference])[valid],
                    }
                )
                .with_columns(
                    pl.lit(start.candidate).alias("candidate"),
                    pl.lit(start.driver).alias("driver"),
                    pl.lit(start.seed).alias("seed"),
                )
                .select(pl.col(name).cast(kind) for name, kind in TRACE_SCHEMA.items())
            )
        return pl.concat(frames)


def _ordered(frame: pl.DataFrame, order: Mapping[str, int]) -> pl.DataFrame:
    return frame.sort(pl.col("candidate").replace_strict(order), maintain_order=True)
