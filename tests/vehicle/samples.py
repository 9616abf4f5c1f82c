"""Samples of a drive, for the tests of what is made of them."""

import math
from collections.abc import Mapping

import numpy as np

from tspace_core.config import Vehicle, load_vehicle
from tspace_core.vehicle.observation import Observation

PERIOD_NS = 50_000_000
START_NS = 1_760_000_000_000_000_000
SIGNALS = ("velocity", "thrust", "brake", "current", "voltage")


def truck() -> Vehicle:
    """The simulated truck: 20 Hz, windows of 30 samples."""
    return load_vehicle("twin_truck")


def drive_sample(number: int) -> dict[str, float]:
    """The sample of that number of an uneventful drive, by signal name."""
    return {
        "velocity": 40.0 + 10.0 * math.sin(number / 40.0),
        "thrust": 20.0 + 5.0 * math.sin(number / 15.0),
        "brake": 0.0,
        "current": 50.0 + 30.0 * math.sin(number / 25.0),
        "voltage": 640.0 - number % 7,
    }


def observed(
    number: int,
    *,
    time_ns: int | None = None,
    received_ns: int | None = None,
    seq: int | None = None,
    stamped: bool = True,
    changed: Mapping[str, float] | None = None,
) -> Observation:
    """An observation of ``drive_sample`` with the values ``changed``."""
    at = START_NS + number * PERIOD_NS if time_ns is None else time_ns
    values = np.array([(drive_sample(number) | dict(changed or {}))[name] for name in SIGNALS])
    return Observation(
        time_ns=at,
        values=values,
        seq=seq,
        received_ns=at if received_ns is None else received_ns,
        stamped=stamped,
    )
