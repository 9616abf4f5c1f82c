"""Episodes and raw windows of any content, for properties."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from tspace_core.records.episode import Episode
from tspace_core.records.meta import EpisodeMeta
from tspace_core.records.policy import ACTION_DIM
from tspace_core.records.raw_windows import RawWindows

BEGIN_NS = 1_767_600_000_123_456_789
EDGES = np.array([0.0, -0.0, 1e-45, -1.1754944e-38, 3.4028235e38, -3.4028235e38, 0.1, 1 / 3], np.float32)
"""Zeros of both signs, the smallest and the largest float32, some that no short decimal is equal to."""
FLOATS = st.floats()
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


def made_episode(seed: int, records: int, window: int = 2, **meta: Any) -> Episode:
    """An episode of random bits and edge values; equal arguments, equal episode."""
    rng = np.random.default_rng(seed)
    signals = meta.pop("signals", ("velocity", "thrust", "brake"))
    state_dim = window * len(signals)
    states = _numbers(rng, (records + 1, state_dim))
    actions = rng.uniform(-1, 1, (records, ACTION_DIM)).astype(np.float32)
    actions[0, :4] = (-0.0, 1.0, -1.0, 1e-45)
    gaps = rng.integers(1, 4_000_000_000, records)
    key = meta.pop("log_key", f"v{seed % 3}/2026-01-05/made-{seed:04d}")
    fields: dict[str, Any] = {
        "episode_id": f"{key}#0000", "vehicle_id": key.split("/")[0], "driver_id": "d", "site_id": "s",
        "timezone": "UTC", "rate_hz": 20.0, "window": window, "signals": signals,
        "pedal_axis": tuple(i / 16 for i in range(17)), "speed_axis_kmh": (0.0, 7.0, 10.0),
        "default_map_sha256": "0" * 64, "budget_nm": 250.0, "upper_factor": 1.0, "software_version": "0",
        "log_key": key, "time_source": "log_header", "action_source": "flash_journal",
        "reward_kind": "energy", "energy_wh": 1.0, "distance_m": 10.0, "duration_s": 3.0,
        "end_reason": "log ended",
    }  # fmt: skip
    return Episode(
        states=states,
        actions=actions,
        rows=rng.integers(0, 2**31, records).astype(np.int32),
        rewards=_numbers(rng, (records,)),
        times=np.concatenate([[0], np.cumsum(gaps)]).astype(np.int64) + BEGIN_NS,
        flags=rng.integers(0, 256, records).astype(np.uint8),
        meta=EpisodeMeta.model_validate(fields | meta),
    )


def _numbers(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    bits = rng.integers(0, 2**32, shape, dtype=np.uint32).view(np.float32)
    edges = rng.choice(EDGES, shape)
    return np.where(np.isfinite(bits) & (rng.random(shape) < 0.7), bits, edges).astype(np.float32)


@st.composite
def episodes(draw: st.DrawFn) -> Episode:
    """Episodes with meta information as odd as it may be."""
    return made_episode(
        draw(st.integers(0, 2**16)),
        draw(st.integers(1, 4)),
        draw(st.integers(1, 3)),
        units=draw(st.dictionaries(TEXT, TEXT, max_size=3)),
        end_reason=draw(TEXT),
        energy_wh=draw(FLOATS),
        distance_m=draw(FLOATS),
        gamma=draw(FLOATS),
        pedal_axis=tuple(draw(st.lists(FLOATS, max_size=3))),
        segment=draw(st.integers(0, 2**40)),
    )


@st.composite
def raw_windows(draw: st.DrawFn) -> RawWindows:
    """Windows with holes."""
    shape = draw(st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(1, 3)))
    size = int(np.prod(shape))
    values = draw(st.lists(st.floats(width=32), min_size=size, max_size=size))
    return RawWindows(
        starts=np.array(
            draw(st.lists(st.integers(-(2**62), 2**62), min_size=shape[0], max_size=shape[0])), np.int64
        ),
        samples=np.array(values, np.float32).reshape(shape),
        signals=("velocity", "ä b", "brake")[: shape[2]],
        units=draw(st.dictionaries(TEXT, TEXT, max_size=2)),
        rate_hz=draw(st.floats(1e-3, 1e6)),
    )


def assert_same(one: Episode, other: Episode) -> None:
    """Every bit of two episodes is the same."""
    for name in ("states", "actions", "rows", "rewards", "times", "flags"):
        mine, yours = getattr(one, name), getattr(other, name)
        assert (mine.dtype, mine.shape) == (yours.dtype, yours.shape), name
        assert mine.tobytes() == yours.tobytes(), name
    assert one.meta.model_dump_json() == other.meta.model_dump_json()


def bits(samples: np.ndarray) -> bytes:
    """The bits of float32, with one and the same NaN."""
    return np.where(np.isnan(samples), np.float32(np.nan), samples).astype(np.float32).tobytes()
