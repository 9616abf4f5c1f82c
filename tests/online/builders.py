"""Windows and outcomes for tests of the control loop."""

from pathlib import Path
from typing import Any

import numpy as np

from tspace_core.config import Vehicle, load_site, load_vehicle
from tspace_core.online.driver_agent import DriverAgent
from tspace_core.online.recording import RecordingContext
from tspace_core.vehicle.windows import Window

BEGIN_NS = 1_767_600_000 * 10**9
KEY = "twin_truck/2026-01-05/online-080000-0001"


def small_vehicle(*, minimum: int = 1, maximum: int = 100, **changes: Any) -> Vehicle:
    """The twin's truck with windows of 3 samples at 10 Hz.

    A flash may take as long as it likes: windows that are this short would pass while a busy machine does
    other things, and records be lost that a test counts.
    """
    vehicle = load_vehicle("twin_truck")
    update = {
        "online": vehicle.online.model_copy(update={"late_flash_s": 3600.0}),
        "sampling": vehicle.sampling.model_copy(update={"rate_hz": 10.0, "window": 3}),
        "episodes": vehicle.episodes.model_copy(
            update={"minimum_records": minimum, "maximum_records": maximum}
        ),
    }
    return vehicle.model_copy(update=update | changes)


def context(vehicle: Vehicle, key: str = KEY) -> RecordingContext:
    return RecordingContext(
        vehicle, load_site(vehicle.site), load_vehicle(vehicle.id).default_map(), vehicle.driver, key
    )


def taken_over(driver: DriverAgent, weights: Path) -> bool:
    """Make a policy ready and let it take over, in one thread; False: it is no good."""
    successor = driver.prepare(weights)
    if successor is not None:
        driver.take_over(successor)
    return successor is not None


def window(
    vehicle: Vehicle, number: int, *, valid: bool = True, shift_ns: int = 0, speed: float = 50.0
) -> Window:
    """Window ``number`` of a drive; its samples and its energy, ``2**(number % 40)`` Wh, say which it is."""
    sampling = vehicle.sampling
    length = round(sampling.window_s * 1e9)
    samples = np.full((sampling.window, len(sampling.signals)), number, np.float32)
    samples[:, 0] = speed
    start = BEGIN_NS + number * length + shift_ns
    return Window(
        start_ns=start,
        samples=samples,
        energy_wh=float(2 ** (number % 40)),
        distance_m=1.0,
        top_speed_kmh=speed,
        valid=valid,
        reason="" if valid else "pedal outside 0..100",
        end_ns=start + length - sampling.period_ns,
    )
