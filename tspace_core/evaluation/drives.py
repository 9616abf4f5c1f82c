"""Candidates driving the twin in closed loop, all of them at once, along the same route by place.

A candidate is a torque map, flashed once before the start, or a policy, consulted every step. A step is two
windows of length W, the same as in recorded episodes:

    [t, t + W)         observed; at t + W the policy decides on it
    [t + W, t + 2 W)   half step: the flash takes effect after the twin's ``flash_delay_s``
    [t + 2 W, ...      the next window is observed
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tspace_core.config import TorqueMap, Vehicle
from tspace_core.errors import AgentError
from tspace_core.evaluation import quality
from tspace_core.evaluation.pairs import DRIVE_SCHEMA
from tspace_core.records.policy import Policy
from tspace_core.twin.cycles import Route
from tspace_core.twin.fleet import Fleet
from tspace_core.twin.trace import Trace
from tspace_core.twin.truck import twin_parameters

Candidate = Policy | TorqueMap
Progress = Callable[[float], None]
LIMIT_FACTOR = 3.0
"""A drive that takes longer than this times the route's scheduled time is given up as not finished."""

TRACE_SCHEMA = {
    "candidate": pl.String,
    "driver": pl.String,
    "seed": pl.Int64,
    "time_s": pl.Float64,
    "distance_m": pl.Float64,
    "speed_kmh": pl.Float64,
    "reference_kmh": pl.Float64,
}
"""Columns of the traces that are kept: one drive of every candidate."""


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
        traces: columns of ``TRACE_SCHEMA``; the first driver and seed of every candidate.
        map_changes: mean change from the default map in Nm by candidate, the map's shape, NaN where a policy
            never flashed.
    """

    drives: pl.DataFrame
    traces: pl.DataFrame
    map_changes: Mapping[str, NDArray[np.float64]]


def drive_all(
    vehicle: Vehicle,
    candidates: Mapping[str, Candidate],
    drivers: Sequence[str],
    seeds: Sequence[int],
    cycle: str | Route,
    *,
    progress: Progress | None = None,
) -> Driven:
    """Drive every candidate with every driver and seed.

    Args:
        vehicle: with a twin.
        candidates: maps and policies by name.
        drivers: ids of simulated drivers.
        seeds: of the drivers' feet; the same seed gives every candidate the same foot.
        cycle: name of a cycle, or a route.
        progress: told the share of the whole that is driven, 0 to 1, after every step.

    Raises:
        AgentError: a policy returned actions of another shape, or not finite.
        TwinError: the vehicle has no twin, or a map has other axes.
        UnknownNameError: a driver or cycle of that name does not exist.
    """
    starts = [
        Start(candidate, driver, seed) for candidate in candidates for driver in drivers for seed in seeds
    ]
    default = vehicle.default_map()
    maps = [_start_map(candidates[start.candidate], default) for start in starts]
    fleet = Fleet(vehicle, cycle, [start.driver for start in starts], [start.seed for start in starts], maps)
    flashers = [
        _Flasher(name, candidate, [i for i, start in enumerate(starts) if start.candidate == name], vehicle)
        for name, candidate in candidates.items()
        if not isinstance(candidate, TorqueMap)
    ]
    window_s = vehicle.sampling.window_s
    delay_s = min(_on_grid(twin_parameters(vehicle).flash_delay_s, fleet.rate_hz), window_s)
    limit_s = LIMIT_FACTOR * fleet.route.duration_s + 60.0
    recorder = _Recorder(vehicle, starts, drives_a_candidate=len(drivers) * len(seeds))
    elapsed = 0.0
    while not np.all(fleet.done) and elapsed < limit_s:
        observed = fleet.advance(window_s)
        recorder.keep(observed)
        proposals = [flasher.decide(observed, fleet.done) for flasher in flashers]
        if delay_s > 0:
            recorder.keep(fleet.advance(delay_s))
        for flasher, proposal in zip(flashers, proposals, strict=True):
            flasher.flash(fleet, proposal)
        if window_s - delay_s > 1e-9:
            recorder.keep(fleet.advance(window_s - delay_s))
        elapsed += 2 * window_s
        if progress is not None:
            share = np.where(fleet.done, 1.0, fleet.distance_m / fleet.route.length_m)
            progress(float(np.clip(np.mean(share), 0.0, 1.0)))
    flashes = np.zeros(len(starts), dtype=np.int64)
    changes = {
        name: np.asarray(candidate.table, dtype=np.float64) - default.table
        for name, candidate in candidates.items()
        if isinstance(candidate, TorqueMap)
    }
    for flasher in flashers:
        flashes[flasher.places] = flasher.flashes
        changes[flasher.name] = flasher.mean_change()
    return Driven(drives=recorder.drives(fleet, flashes), traces=recorder.traces(), map_changes=changes)


@dataclass(frozen=True, eq=False)
class _Proposal:
    """Actions of one policy and where they go; ``driving`` are positions within the policy's drives."""

    driving: NDArray[np.int64]
    actions: NDArray[np.float32]
    first_rows: NDArray[np.int32]


class _Flasher:
    """One policy at work on its drives."""

    def __init__(self, name: str, policy: Policy, places: Sequence[int], vehicle: Vehicle) -> None:
        self.name = name
        self.places = np.asarray(places, dtype=np.int64)
        self.flashes = np.zeros(len(places), dtype=np.int64)
        self._policy = policy
        self._vehicle = vehicle
        self._default = vehicle.default_map()
        self._change = np.zeros(self._default.table.shape)
        self._count = np.zeros(len(self._default.speed_axis_kmh), dtype=np.int64)

    def decide(self, observed: Trace, done: NDArray[np.bool_]) -> _Proposal:
        """Ask the policy, for all its drives (also those at the end: its input keeps its order and size)."""
        columns = [observed.signal(name)[self.places] for name in self._vehicle.sampling.signals]
        states = np.stack(columns, axis=2).reshape(len(self.places), -1).astype(np.float32)
        actions = np.asarray(self._policy(states), dtype=np.float32)
        expected = (len(self.places), self._vehicle.action_dim)
        if actions.shape != expected or not np.all(np.isfinite(actions)):
            message = (
                f"policy {self.name!r} returned actions of shape {actions.shape}, "
                f"{np.count_nonzero(~np.isfinite(actions))} of them not finite; expected finite {expected}"
            )
            raise AgentError(message)
        driving = np.flatnonzero(~done[self.places])
        highest = observed.velocity[self.places[driving]].max(axis=1, initial=0.0)
        return _Proposal(driving, actions[driving], self._default.first_row(highest))

    def flash(self, fleet: Fleet, proposal: _Proposal) -> None:
        """Put the proposed rows into the live maps of the vehicles that still drive."""
        config = self._vehicle.torque_map
        done = fleet.done
        for place, action, row in zip(proposal.driving, proposal.actions, proposal.first_rows, strict=True):
            index = int(self.places[place])
            if done[index]:
                continue
            flashed = fleet.map(index).flashed(
                action,
                int(row),
                self._default,
                budget_nm=config.budget_nm,
                upper_factor=config.upper_factor,
            )
            fleet.set_map(index, flashed)
            rows = slice(int(row), int(row) + self._vehicle.action_dim // len(config.pedal_axis))
            self._change[rows] += flashed.table[rows] - self._default.table[rows]
            self._count[rows] += 1
            self.flashes[place] += 1

    def mean_change(self) -> NDArray[np.float64]:
        """Mean change of every cell over the flashes of its row, NaN where there was none."""
        count = np.where(self._count > 0, self._count, 1)
        return np.where((self._count > 0)[:, None], self._change / count[:, None], np.nan)


class _Recorder:
    """Keeps of the traces what quality and figures need."""

    def __init__(self, vehicle: Vehicle, starts: Sequence[Start], *, drives_a_candidate: int) -> None:
        self._rate_hz = vehicle.sampling.rate_hz
        self._starts = starts
        self._shown = np.arange(0, len(starts), drives_a_candidate)
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


def _start_map(candidate: Candidate, default: TorqueMap) -> TorqueMap:
    return candidate if isinstance(candidate, TorqueMap) else default


def _on_grid(seconds: float, rate_hz: float) -> float:
    return round(seconds * rate_hz) / rate_hz
