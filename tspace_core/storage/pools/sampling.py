"""The draw of records and sequences from a pool: the same numbers give the same batch in every kind.

A plan says which episodes match and how many matching records each has. A uniform number in [0, 1) is a place
in this whole; only the episodes it falls in are read.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tspace_core.errors import PoolError
from tspace_core.records.episode import Episode
from tspace_core.records.policy import ACTION_DIM
from tspace_core.storage.pools.entry import Entry, layout_of_meta
from tspace_core.storage.pools.query import Query
from tspace_core.storage.replay import ReplayBatch
from tspace_core.storage.replay_sequences import SequenceBatch
from tspace_core.storage.replay_writer import TERMINAL

Positions = Callable[[Entry], NDArray[np.int64]]
"""Positions of an episode's matching records, ascending."""


class Rows(NamedTuple):
    """Some rows of an episode; of its last row, n, all but the state is 0."""

    states: NDArray[np.float32]
    """(k, state_dim)."""
    actions: NDArray[np.float32]
    """(k, action_dim)."""
    rewards: NDArray[np.float32]
    """(k,)."""
    first_rows: NDArray[np.float32]
    """(k,)."""


Reader = Callable[[Entry, NDArray[np.int64]], Rows]
"""Gives rows of an episode, ascending."""

Ahead = Callable[[list[tuple[Entry, NDArray[np.int64]]]], object]
"""Is told all that a draw is going to read, before it does."""


@dataclass
class Plan:
    """Which episodes match, in order, and how many matching records each has."""

    entries: list[Entry]
    counts: NDArray[np.int64]
    query: Query
    positions: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    runs: NDArray[np.int64] | None = None
    """(runs, 3): entry, first record and length of each run of successive matching records."""

    @property
    def ends(self) -> NDArray[np.int64]:
        """(episodes,) matching records up to and with each episode."""
        return np.cumsum(self.counts)


def rows_of(episode: Episode, rows: NDArray[np.int64]) -> Rows:
    """Rows of an episode that is in memory."""
    return rows_of_arrays(episode.states, episode.actions, episode.rewards, episode.rows, rows)


def rows_of_arrays(
    states: NDArray[np.float32],
    actions: NDArray[np.float32],
    rewards: NDArray[np.float32],
    first_rows: NDArray[np.int32],
    rows: NDArray[np.int64],
) -> Rows:
    """The same of its arrays: (n + 1, state_dim), (n, action_dim), (n,), (n,)."""
    records = rows < len(rewards)
    inside = rows[records]
    taken = Rows(
        states[rows],
        np.zeros((len(rows), ACTION_DIM), np.float32),
        np.zeros(len(rows), np.float32),
        np.zeros(len(rows), np.float32),
    )
    taken.actions[records] = actions[inside]
    taken.rewards[records] = rewards[inside]
    taken.first_rows[records] = first_rows[inside]
    return taken


def require_positive(**sizes: int) -> None:
    """Refuse a batch of nothing.

    Raises:
        PoolError: one is below 1.
    """
    for name, value in sizes.items():
        if value < 1:
            message = f"{name} is {value}, at least 1 is needed: draw at least one record"
            raise PoolError(message)


def known_count(entry: Entry, query: Query) -> int | None:
    """Matching records of an episode that fits; None where its times or flags must be looked at.

    ``end_ns`` is the time of the last state, so all records lie before it.
    """
    inside = (query.after_ns is None or entry.start_ns >= query.after_ns) and (
        query.before_ns is None or entry.end_ns <= query.before_ns
    )
    if query.valid is None:
        return entry.records if inside else None
    if entry.invalid in (0, entry.records):
        fits = (entry.invalid == 0) is query.valid
        if not fits:
            return 0
        return entry.records if inside else None
    if not inside:
        return None
    return entry.records - entry.invalid if query.valid else entry.invalid


def make_plan(place: str, query: Query, matching: list[tuple[Entry, int]]) -> Plan:
    """Plan a draw.

    Raises:
        PoolError: nothing matches, or the episodes are not all of one layout.
    """
    if not matching:
        message = f"{place} holds no record that matches {query}: widen the query, or store episodes first"
        raise PoolError(message)
    first = matching[0][0]
    for entry, _ in matching:
        if entry.layout != first.layout:
            message = _differences(place, first, entry)
            raise PoolError(message)
    return Plan([entry for entry, _ in matching], np.array([count for _, count in matching], np.int64), query)


def records(
    plan: Plan, numbers: NDArray[np.float64], positions: Positions, reader: Reader, ahead: Ahead
) -> ReplayBatch:
    """The records that uniform numbers fall on.

    Args:
        plan: what to draw from.
        numbers: (batch,) in [0, 1).
        positions: gives an episode's matching records.
        reader: gives rows of an episode.
        ahead: is told what the reader will be asked for.
    """
    ends = plan.ends
    drawn = (numbers * ends[-1]).astype(np.int64)
    owners = np.searchsorted(ends, drawn, side="right")
    offsets = drawn - (ends - plan.counts)[owners]
    width, size = plan.entries[0].state_dim, len(drawn)
    batch = ReplayBatch(
        np.empty((size, width), np.float32),
        np.empty((size, ACTION_DIM), np.float32),
        np.empty(size, np.float32),
        np.empty((size, width), np.float32),
        np.zeros(size, np.float32),
        np.empty(size, np.float32),
    )
    drawn_of = []
    for owner in np.unique(owners):
        entry, places = plan.entries[owner], np.flatnonzero(owners == owner)
        chosen = offsets[places]
        if plan.counts[owner] != entry.records:
            chosen = _positions(plan, entry, positions)[chosen]
        drawn_of.append((entry, places, chosen, np.unique(np.concatenate([chosen, chosen + 1]))))
    ahead([(entry, rows) for entry, _, _, rows in drawn_of])
    for entry, places, chosen, rows in drawn_of:
        found = reader(entry, rows)
        here = np.searchsorted(rows, chosen)
        batch.states[places] = found.states[here]
        batch.next_states[places] = found.states[np.searchsorted(rows, chosen + 1)]
        batch.actions[places] = found.actions[here]
        batch.rewards[places] = found.rewards[here]
        batch.first_rows[places] = found.first_rows[here]
        if _terminal(entry):
            batch.terminals[places] = chosen == entry.records - 1
    return batch


def sequences(
    plan: Plan,
    numbers: NDArray[np.float64],
    length: int,
    positions: Positions,
    reader: Reader,
    ahead: Ahead,
) -> SequenceBatch:
    """The runs of ``length`` matching records whose beginnings uniform numbers fall on.

    A run that is shorter as a whole counts as one beginning. Arguments as of ``records``.
    """
    if plan.runs is None:
        plan.runs = _runs(plan, positions)
    lengths = plan.runs[:, 2]
    beginnings = np.maximum(1, lengths - length + 1)
    ends = np.cumsum(beginnings)
    drawn = (numbers * ends[-1]).astype(np.int64)
    chosen = np.searchsorted(ends, drawn, side="right")
    offsets = drawn - (ends - beginnings)[chosen]
    width, size = plan.entries[0].state_dim, len(drawn)
    batch = SequenceBatch(
        states=np.zeros((size, length + 1, width), np.float32),
        actions=np.zeros((size, length, ACTION_DIM), np.float32),
        rewards=np.zeros((size, length), np.float32),
        terminals=np.zeros((size, length), np.float32),
        mask=np.zeros((size, length), np.float32),
        first_rows=np.zeros((size, length), np.float32),
        memory=None,
    )
    owners = plan.runs[chosen, 0]
    drawn_of = []
    for owner in np.unique(owners):
        entry, places = plan.entries[owner], np.flatnonzero(owners == owner)
        firsts = plan.runs[chosen[places], 1] + offsets[places]
        counts = np.minimum(length, lengths[chosen[places]])
        ranges = [np.arange(first, first + count + 1) for first, count in zip(firsts, counts, strict=True)]
        drawn_of.append((entry, places, ranges, counts, np.unique(np.concatenate(ranges))))
    ahead([(entry, rows) for entry, *_, rows in drawn_of])
    for entry, places, ranges, counts, rows in drawn_of:
        found = reader(entry, rows)
        for place, wanted, count in zip(places, ranges, counts, strict=True):
            here = np.searchsorted(rows, wanted)
            batch.states[place, : count + 1] = found.states[here]
            batch.actions[place, :count] = found.actions[here[:-1]]
            batch.rewards[place, :count] = found.rewards[here[:-1]]
            batch.first_rows[place, :count] = found.first_rows[here[:-1]]
            batch.mask[place, :count] = 1
            if _terminal(entry) and wanted[-1] == entry.records:
                batch.terminals[place, count - 1] = 1
    return batch


def _positions(plan: Plan, entry: Entry, positions: Positions) -> NDArray[np.int64]:
    if entry.episode_id not in plan.positions:
        plan.positions[entry.episode_id] = positions(entry)
    return plan.positions[entry.episode_id]


def _runs(plan: Plan, positions: Positions) -> NDArray[np.int64]:
    runs: list[tuple[int, int, int]] = []
    for owner, entry in enumerate(plan.entries):
        if plan.counts[owner] == entry.records:
            runs.append((owner, 0, entry.records))
            continue
        found = _positions(plan, entry, positions)
        parts = np.split(found, np.flatnonzero(np.diff(found) != 1) + 1)
        runs.extend((owner, int(part[0]), len(part)) for part in parts)
    return np.array(runs, np.int64)


def _terminal(entry: Entry) -> bool:
    return entry.meta.end_reason == TERMINAL


def _differences(place: str, first: Entry, other: Entry) -> str:
    one, two = layout_of_meta(first.meta), layout_of_meta(other.meta)
    fields = [
        f"{name} {getattr(one, name)!r} and {getattr(two, name)!r}"
        for name in type(one).model_fields
        if getattr(one, name) != getattr(two, name)
    ]
    return (
        f"{place}: episodes {first.episode_id!r} and {other.episode_id!r} cannot be in one sample: "
        f"{'; '.join(fields)}; narrow the query to episodes of one layout"
    )
