"""Windows as a telematics box uploads them, into a real bucket."""

import json
import time
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tspace_core.can.box_window import encode_window
from tspace_core.config import Vehicle, load_site
from tspace_core.objects.path import S3Path

MONDAY_NS = 1_767_596_400 * 10**9
"""2026-01-05 07:00:00 UTC, 08:00 on the proving ground."""
WINDOW_S = 4.0


def drive_values(start_s: float, seconds: float) -> NDArray[np.float64]:
    """(n, 6) of a drive that swings, as a function of time alone, at 50 Hz."""
    t = start_s + np.arange(round(seconds * 50)) / 50
    speed = 40 + 20 * np.sin(t / 15)
    thrust = 30 + 20 * np.sin(t / 7)
    brake = np.zeros_like(t)
    current = 100 + 80 * np.sin(t / 7)
    return np.column_stack(
        [speed, thrust, brake, current, np.full_like(t, 650.0), np.full_like(t, 2.0)]
    ).round(3)


class Box:
    """One vehicle's box, and a clock that tests turn forward."""

    def __init__(self, root: S3Path, vehicle: Vehicle) -> None:
        self.root, self.vehicle = root, vehicle
        self.zone = load_site(vehicle.site).zone
        self.ahead_s = 0.0
        self.keys: list[str] = []

    def now_ns(self) -> int:
        """The collector's clock."""
        return time.time_ns() + round(self.ahead_s * 1e9)

    def window(self, start_s: float, seconds: float = WINDOW_S, **more: Any) -> dict[str, object]:
        """The content of a window that begins so long after ``MONDAY_NS``."""
        return encode_window(
            drive_values(start_s, seconds), MONDAY_NS + round(start_s * 1e9), self.zone, **more
        )

    def key(self, start_s: float) -> str:
        """Where a window that begins then is uploaded: the box's clock shows UTC."""
        begin = datetime.fromtimestamp(MONDAY_NS // 10**9, UTC).timestamp() + start_s
        instant = datetime.fromtimestamp(begin, UTC)
        return f"{self.vehicle.vin}/{instant:%Y/%m/%d/%H%M%S}{instant.microsecond // 1000:03d}.json"

    def upload(self, start_s: float, seconds: float = WINDOW_S, **more: Any) -> str:
        """Upload a window; return its key."""
        return self.put(self.key(start_s), json.dumps(self.window(start_s, seconds, **more)).encode())

    def put(self, key: str, body: bytes) -> str:
        """Upload anything under a key."""
        (self.root / key).write_bytes(body)
        self.keys.append(key)
        return key

    def drive(self, start_s: float, windows: int, apart_s: float = WINDOW_S) -> list[str]:
        """Upload windows one behind the other."""
        return [self.upload(start_s + number * apart_s) for number in range(windows)]
