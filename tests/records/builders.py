"""Grids and vehicles with round numbers, for tests that compute by hand."""

from typing import Any

import numpy as np

from tspace_core.config import Vehicle, load_site, load_vehicle
from tspace_core.records.cutting import LogContext
from tspace_core.records.window import GridTable

START_NS = 1_700_000_000 * 10**9


def small_vehicle(**changes: Any) -> Vehicle:
    """The twin's truck at 10 Hz with windows of 2 samples, so that a step takes 0.4 s."""
    vehicle = load_vehicle("twin_truck")
    sampling = vehicle.sampling.model_copy(update={"rate_hz": 10.0, "window": 2})
    episodes = vehicle.episodes.model_copy(update={"minimum_records": 1, "maximum_records": 100})
    return vehicle.model_copy(update={"sampling": sampling, "episodes": episodes, **changes})


def context(vehicle: Vehicle) -> LogContext:
    return LogContext(
        vehicle=vehicle,
        site=load_site(vehicle.site),
        default_map=load_vehicle(vehicle.id).default_map(),
        driver_id=vehicle.driver,
        log_key="twin_truck/2026-01-05/a.blf",
        time_source="absolute_stamps",
    )


def grid(rows: int, *, velocity: float | None = None, segment: np.ndarray | None = None) -> GridTable:
    """Row r: velocity r km/h (or as given), thrust 100 + r, brake 200 + r, energy 2^r Wh, distance 1 m."""
    index = np.arange(rows)
    speed = index if velocity is None else np.full(rows, velocity)
    time = START_NS + index * 100_000_000
    return GridTable(
        log_time_ns=time,
        utc_ns=time + 7,
        segment=np.zeros(rows, np.uint16) if segment is None else segment.astype(np.uint16),
        values={
            "velocity": speed.astype(np.float32),
            "thrust": (100 + index).astype(np.float32),
            "brake": (200 + index).astype(np.float32),
            "motor_torque": np.zeros(rows, np.float32),
        },
        energy_wh=np.exp2(index).astype(np.float64),
        energy_s=np.full(rows, 0.1),
        distance_m=np.ones(rows),
    )
