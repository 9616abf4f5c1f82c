"""Drives made by hand, and one comparison driven by the twin."""

from collections.abc import Callable

import polars as pl
import pytest

from tspace_core.config import Vehicle, load_vehicle
from tspace_core.evaluation.baselines import baselines
from tspace_core.evaluation.comparison import Comparison, compare
from tspace_core.evaluation.pairs import DRIVE_SCHEMA
from tspace_core.records.policy import ConstantPolicy
from tspace_core.twin.route import Route, make_route

Drives = Callable[..., pl.DataFrame]
DRIVERS = ("tracker", "habitual", "aggressive")
SEEDS = (0, 1)


@pytest.fixture(scope="session")
def drives_of() -> Drives:
    """Makes the drives of a candidate: ``saving(driver, seed)`` in %, the same for the trip time."""

    def make(
        candidate: str,
        saving: Callable[[int, int], float] = lambda driver, seed: 0.0,
        *,
        trip_time: Callable[[int, int], float] = lambda driver, seed: 0.0,
        drivers: int = 3,
        seeds: int = 5,
        **changes: object,
    ) -> pl.DataFrame:
        rows = []
        for driver in range(drivers):
            for seed in range(seeds):
                per_km = (600.0 + 20 * driver + seed) * (1 - saving(driver, seed) / 100)
                row = {
                    "candidate": candidate,
                    "driver": f"driver_{driver}",
                    "seed": seed,
                    "finished": True,
                    "energy_wh": per_km * 12.0,
                    "distance_m": 12_000.0,
                    "trip_time_s": (1300.0 + 10 * driver + seed) * (1 + trip_time(driver, seed) / 100),
                    "energy_wh_per_km": per_km,
                    "speed_rmse_kmh": 0.5,
                    "mean_acceleration_mps2": 0.4,
                    "mean_acceleration_rate_mps3": 0.15,
                    "flashes": 0,
                }
                rows.append({**row, **changes})
        return pl.DataFrame(rows, schema=dict(DRIVE_SCHEMA))

    return make


@pytest.fixture(scope="session")
def vehicle() -> Vehicle:
    """The truck with a twin."""
    return load_vehicle("twin_truck")


@pytest.fixture(scope="session")
def route() -> Route:
    """Two short hills of speed with a stop between, 100 s."""
    speed = [0, 0, 4, 8, 11, 13, 14, 14, 13, 10, 6, 2, 0, 0, 3, 7, 10, 12, 12, 10, 6, 2, 0, 0]
    return make_route("two_hills", [4.0 * i for i in range(len(speed))], speed)


@pytest.fixture(scope="session")
def comparison(vehicle: Vehicle, route: Route) -> Comparison:
    """The baselines and a policy that always asks for half the budget less."""
    candidates = {**baselines(vehicle, seed=1), "policy": ConstantPolicy(-0.5)}
    return compare(vehicle, candidates, DRIVERS, SEEDS, route)
