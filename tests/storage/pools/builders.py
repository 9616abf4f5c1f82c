"""Episodes of several vehicles, drivers, sites and days, and what a pool must draw from them."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from tspace_core.records.episode import Episode, RecordFlag
from tspace_core.records.meta import EpisodeMeta
from tspace_core.storage.pools.query import ALL, Query
from tspace_core.storage.replay import ReplayBatch
from tspace_core.storage.replay_sequences import SequenceBatch

BEGIN = datetime(2026, 3, 1, 8, tzinfo=UTC)
STEP_NS = 3_000_000_000
WINDOW, SIGNALS = 3, ("velocity", "thrust", "brake")


def at(day: int = 0, second: float = 0.0) -> datetime:
    """An instant of the episodes' days."""
    return BEGIN + timedelta(days=day, seconds=second)


def ns(instant: datetime) -> int:
    return (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000


def episode(
    number: int = 0,
    records: int = 5,
    *,
    vehicle: str = "v1",
    day: int = 0,
    second: float = 0.0,
    name: str = "log.blf",
    zeroed: Iterable[int] = (),
    seed: int | None = None,
    **meta: object,
) -> Episode:
    """Piece ``number`` of a log; its numbers follow from all that tells it from others, or from ``seed``."""
    key = f"{vehicle}/{at(day):%Y-%m-%d}/{name}"
    generator = np.random.default_rng([*key.encode(), number, 0 if seed is None else seed])
    fields: dict[str, object] = {
        "episode_id": f"{key}#{number:04d}",
        "vehicle_id": vehicle,
        "driver_id": "d1",
        "site_id": "s1",
        "timezone": "Europe/Berlin",
        "rate_hz": 20.0,
        "window": WINDOW,
        "signals": SIGNALS,
        "pedal_axis": tuple(i / 16 for i in range(17)),
        "speed_axis_kmh": (0.0, 7.0, 10.0, 20.0, 30.0, 40.0),
        "default_map_sha256": "0" * 64,
        "budget_nm": 250.0,
        "upper_factor": 1.1,
        "software_version": "0",
        "log_key": key,
        "time_source": "log_header",
        "action_source": "flash_journal",
        "reward_kind": "energy",
        "energy_wh": 1.0 + number,
        "distance_m": 10.0,
        "duration_s": 3.0 * records,
        "end_reason": "log ended",
    }
    parsed = EpisodeMeta.model_validate(fields | meta)
    flags = np.zeros(records, np.uint8)
    flags[0] = RecordFlag.FIRST
    flags[list(zeroed)] |= np.uint8(RecordFlag.ZEROED)
    width = parsed.window * len(parsed.signals)
    return Episode(
        states=generator.normal(0, 50, (records + 1, width)).astype(np.float32),
        actions=generator.uniform(-1, 1, (records, 68)).astype(np.float32),
        rows=generator.integers(0, 11, records).astype(np.int32),
        rewards=generator.normal(0, 3, records).astype(np.float32),
        times=ns(at(day, second)) + STEP_NS * np.arange(records + 1, dtype=np.int64),
        flags=flags,
        meta=parsed,
    )


def fleet() -> list[Episode]:
    """Seven episodes of 33 records: three vehicles, two drivers and sites, three agents, three days."""
    return [
        episode(0, 5),
        episode(1, 4, second=60, driver_id="d2", zeroed=(0,), action_source="agent"),
        episode(2, 1, second=120),
        episode(0, 8, day=1, site_id="s2", zeroed=(0, 4)),
        episode(0, 3, vehicle="v2", zeroed=(0, 1, 2), driver_id="d2"),
        episode(0, 7, vehicle="v2", day=2, end_reason="terminal"),
        episode(0, 5, vehicle="v3", day=1, second=-3, action_source="default_map", site_id="s2"),
    ]


def matching(episodes: Iterable[Episode], query: Query = ALL) -> list[tuple[Episode, NDArray[np.int64]]]:
    """What a pool must find, in order: a plain loop over everything."""
    found = []
    for one in sorted(episodes, key=lambda item: (int(item.times[0]), item.meta.episode_id)):
        meta = one.meta
        starts = int(one.times[0])
        if (
            (query.vehicles and meta.vehicle_id not in query.vehicles)
            or (query.drivers and meta.driver_id not in query.drivers)
            or (query.sites and meta.site_id not in query.sites)
            or (query.agents and meta.action_source not in query.agents)
            or (query.episodes and meta.episode_id not in query.episodes)
            or (query.started_from and starts < ns(query.started_from))
            or (query.started_before and starts >= ns(query.started_before))
            or (query.length_from and len(one) < query.length_from)
            or (query.length_to and len(one) > query.length_to)
        ):
            continue
        positions = [
            k
            for k in range(len(one))
            if not (query.after and one.times[k] < ns(query.after))
            and not (query.before and one.times[k] >= ns(query.before))
            and (query.valid is None or bool(one.flags[k] & 8) is not query.valid)
        ]
        if positions:
            found.append((one, np.array(positions)))
    return found


def expected_records(episodes: Iterable[Episode], query: Query, numbers: NDArray[np.float64]) -> ReplayBatch:
    """The batch that uniform numbers must give, by a plain list of all matching records."""
    all_of_them = [(one, k) for one, positions in matching(episodes, query) for k in positions]
    drawn = [all_of_them[int(number * len(all_of_them))] for number in numbers]
    return ReplayBatch(
        np.stack([one.states[k] for one, k in drawn]),
        np.stack([one.actions[k] for one, k in drawn]),
        np.array([one.rewards[k] for one, k in drawn]),
        np.stack([one.states[k + 1] for one, k in drawn]),
        np.array([_terminal(one, k) for one, k in drawn], np.float32),
        np.array([one.rows[k] for one, k in drawn], np.float32),
    )


def expected_sequences(
    episodes: Iterable[Episode], query: Query, numbers: NDArray[np.float64], length: int
) -> SequenceBatch:
    """The same of sequences, by a plain list of all possible beginnings."""
    beginnings = []
    for one, positions in matching(episodes, query):
        for first in positions:
            run = 0
            while first + run in positions:
                run += 1
            starts_run = first - 1 not in positions
            if run >= length or starts_run:
                beginnings.append((one, int(first), min(run, length)))
    drawn = [beginnings[int(number * len(beginnings))] for number in numbers]
    width = drawn[0][0].state_dim
    batch = SequenceBatch(
        np.zeros((len(drawn), length + 1, width), np.float32),
        np.zeros((len(drawn), length, 68), np.float32),
        np.zeros((len(drawn), length), np.float32),
        np.zeros((len(drawn), length), np.float32),
        np.zeros((len(drawn), length), np.float32),
        np.zeros((len(drawn), length), np.float32),
        None,
    )
    for place, (one, first, count) in enumerate(drawn):
        batch.states[place, : count + 1] = one.states[first : first + count + 1]
        batch.actions[place, :count] = one.actions[first : first + count]
        batch.rewards[place, :count] = one.rewards[first : first + count]
        batch.terminals[place, :count] = [_terminal(one, k) for k in range(first, first + count)]
        batch.mask[place, :count] = 1
        batch.first_rows[place, :count] = one.rows[first : first + count]
    return batch


def same(one: Episode, other: Episode) -> bool:
    """Whether two episodes agree in every bit."""
    names = ("states", "actions", "rows", "rewards", "times", "flags")
    return one.meta == other.meta and all(
        getattr(one, name).tobytes() == getattr(other, name).tobytes()
        and getattr(one, name).dtype == getattr(other, name).dtype
        and getattr(one, name).shape == getattr(other, name).shape
        for name in names
    )


def _terminal(one: Episode, k: int) -> float:
    return float(k == len(one) - 1 and one.meta.end_reason == "terminal")
