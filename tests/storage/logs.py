"""Small logs for tests: drives of the twin, and candump text."""

from pathlib import Path

import numpy as np

from tspace_core.config import Vehicle, load_vehicle
from tspace_core.twin.recorder import record_drive


def twin() -> Vehicle:
    return load_vehicle("twin_truck")


def shortest_drive(path: Path, *, seed: int = 1, flashing: bool = False) -> Path:
    """Record the twin on US06; with ``flashing`` a random policy acts and a journal is written."""
    rng = np.random.default_rng(seed)

    def policy(states: np.ndarray) -> np.ndarray:
        return rng.uniform(-1, 1, (len(states), 68)).astype(np.float32)

    record_drive(twin(), "tracker", "us06", seed, path, policy if flashing else None)
    return path


def candump(path: Path, *, stamps: list[float], ident: str = "123", data: str = "0011223344556677") -> Path:
    """Write frames of one id at the given stamps (s)."""
    path.write_text("".join(f"({stamp:.6f}) can0 {ident}#{data}\n" for stamp in stamps))
    return path
