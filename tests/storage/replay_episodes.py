"""Episodes whose numbers say where they come from."""

import numpy as np

from tspace_core.records.episode import Episode
from tspace_core.records.meta import EpisodeMeta

WINDOW, SIGNALS = 3, ("velocity", "thrust", "brake")
STATE_DIM = WINDOW * len(SIGNALS)
PEDALS = tuple(i / 16 for i in range(17))
SPEEDS = (0.0, 7.0, 10.0, 20.0, 30.0, 40.0)


def coded_episode(number: int, records: int, *, end_reason: str = "log ended", **meta: object) -> Episode:
    """Episode ``number``: state k holds ``number + k / 1024`` in every place, so its origin shows."""
    steps = np.arange(records + 1, dtype=np.float32)
    states = np.repeat((number + steps / 1024)[:, None], STATE_DIM, axis=1).astype(np.float32)
    fields: dict[str, object] = {
        "episode_id": f"e{number}",
        "vehicle_id": "v1",
        "driver_id": "d",
        "site_id": "s",
        "timezone": "UTC",
        "rate_hz": 20.0,
        "window": WINDOW,
        "signals": SIGNALS,
        "pedal_axis": PEDALS,
        "speed_axis_kmh": SPEEDS,
        "default_map_sha256": "0" * 64,
        "budget_nm": 250.0,
        "upper_factor": 1.0,
        "software_version": "0",
        "log_key": "v1/2024-01-01/log.blf",
        "time_source": "log_header",
        "action_source": "flash_journal",
        "reward_kind": "energy",
        "energy_wh": 1.0,
        "distance_m": 10.0,
        "duration_s": 3.0,
        "end_reason": end_reason,
    }
    return Episode(
        states=states,
        actions=np.full((records, 68), number / 1000, np.float32),
        rows=(np.arange(records, dtype=np.int32) % 3),
        rewards=(number + steps[:-1] / 1024).astype(np.float32),
        times=np.arange(records + 1, dtype=np.int64) * 3_000_000_000,
        flags=np.zeros(records, np.uint8),
        meta=EpisodeMeta.model_validate(fields | meta),
    )
