"""Sequences of live records: the same as a replay buffer's, never across episodes or the memory's seam."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.storage.replay_episodes import STATE_DIM, coded_episode
from tspace_core.agents.mixed_replay import LiveReplay, records_of
from tspace_core.errors import AgentError
from tspace_core.storage.replay import ReplayBatch, build_replay
from tspace_core.storage.replay_sequences import SequenceBatch

WIDTH = 2


def run(episode: int, first: int, count: int, *, terminal: bool = False) -> ReplayBatch:
    """Records of one episode from its record ``first`` on: state k is (episode, k)."""
    steps = np.arange(first, first + count, dtype=np.float32)
    states = np.stack([np.full(count, episode, np.float32), steps], axis=1)
    terminals = np.zeros(count, np.float32)
    terminals[-1:] = float(terminal)
    return ReplayBatch(
        states=states,
        actions=np.full((count, 1), 0.5, np.float32),
        rewards=episode * 1000 + steps,
        next_states=states + np.array([0, 1], np.float32),
        terminals=terminals,
        first_rows=steps % 3,
    )


def remembered(records: ReplayBatch) -> np.ndarray:
    return np.stack([records.rewards, -records.rewards], axis=1)


def check(batch: SequenceBatch, kept: list[tuple[int, int]], steps: int) -> None:
    """Each sequence is a run of what is kept: (episode, record) in order."""
    lengths = {episode: sum(e == episode for e, _ in kept) for episode, _ in kept}
    oldest = {episode: min(k for e, k in kept if e == episode) for episode, _ in kept}
    assert batch.memory is not None
    assert batch.begins is not None
    for i in range(len(batch.mask)):
        count = int(batch.mask[i].sum())
        episode, first = (int(value) for value in batch.states[i, 0])
        assert count == min(steps, lengths[episode]), "an episode that is long enough is not padded"
        assert all((episode, first + k) in kept for k in range(count))
        np.testing.assert_array_equal(batch.mask[i], np.arange(steps) < count)
        expected = run(episode, first, count + 1)
        np.testing.assert_array_equal(batch.states[i, : count + 1], expected.states)
        np.testing.assert_array_equal(batch.rewards[i, :count], expected.rewards[:-1])
        np.testing.assert_array_equal(batch.memory[i], remembered(expected)[0])
        assert batch.begins[i] == float(first == 0)
        assert first - oldest[episode] + count <= lengths[episode]
        for field in (batch.actions, batch.rewards, batch.terminals, batch.first_rows):
            assert not field[i, count:].any()
        assert not batch.states[i, count + 1 :].any()


@given(
    st.integers(1, 60),
    st.lists(st.tuples(st.sampled_from(["go on", "new", "discard"]), st.integers(0, 30)), min_size=1),
    st.integers(1, 9),
    st.integers(0, 5),
    st.integers(1, 7),
)
def test_sequences_are_runs_of_one_episode(
    capacity: int, calls: list[tuple[str, int]], length: int, burn_in: int, stride: int
) -> None:
    live, kept = LiveReplay(2, 1, capacity, WIDTH), list[tuple[int, int]]()
    episode, following = 0, 0
    for what, count in calls:
        if what == "discard":
            live.discard(count)
            kept = kept[: max(len(kept) - count, 0)]
        if what != "go on":
            live.end_episode()
            episode, following = episode + 1, 0
        records = run(episode, following, count)
        live.add(records, remembered(records))
        kept = [*kept, *((episode, following + k) for k in range(count))][-capacity:]
        following += count
    if kept:
        batch = live.sample_sequences(40, length, np.random.default_rng(0), burn_in=burn_in, stride=stride)
        check(batch, kept, burn_in + length)


@pytest.mark.parametrize("stride", [1, 3, 10])
@pytest.mark.parametrize(("length", "burn_in"), [(1, 0), (5, 2), (30, 10), (100, 0)])
def test_the_batches_of_a_replay_buffer(tmp_path: Path, stride: int, length: int, burn_in: int) -> None:
    episodes = [
        coded_episode(n, size, end_reason="terminal" if n % 2 else "log ended")
        for n, size in enumerate((1, 40, 17, 3, 90), start=1)
    ]
    replay = build_replay(tmp_path / "v", episodes)
    live = LiveReplay(STATE_DIM, 68, 1000)
    for episode in episodes:
        live.add(records_of(episode))
    first, second = (
        source.sample_sequences(64, length, np.random.default_rng(5), burn_in=burn_in, stride=stride)
        for source in (live, replay)
    )
    for name, ours, theirs in zip(first._fields, first, second, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
        if ours is not None and theirs is not None:
            assert ours.dtype == theirs.dtype
            assert ours.flags.c_contiguous


def starts(live: LiveReplay) -> int:
    """How many sequences of 1 record begin an episode, of all the records there are."""
    batch = live.sample_sequences(2000, 1, np.random.default_rng(0))
    assert batch.begins is not None
    return len({float(value) for value in batch.rewards[batch.begins == 1, 0]})


def test_an_episode_begins_where_it_is_said_or_seen() -> None:
    live = LiveReplay(2, 1, 100)
    live.add(run(1, 0, 5))
    live.add(run(1, 5, 5))
    assert starts(live) == 1
    live.end_episode()
    live.add(run(1, 10, 5))
    assert starts(live) == 2, "said, though the states go on"
    live.add(run(1, 20, 5, terminal=True))
    assert starts(live) == 3, "the states jump"
    live.add(run(1, 25, 5))
    assert starts(live) == 4, "after a true end"
    live.discard(2)
    live.add(run(1, 28, 5))
    assert starts(live) == 5, "after records that do not count"


def test_evicting_part_of_an_episode_leaves_no_beginning() -> None:
    live = LiveReplay(2, 1, 8, WIDTH)
    records = run(1, 0, 20)
    live.add(records, remembered(records))
    batch = live.sample_sequences(50, 8, np.random.default_rng(0))
    assert batch.begins is not None
    assert not batch.begins.any()
    check(batch, [(1, k) for k in range(12, 20)], 8)


def test_without_a_recurrent_agent_nothing_is_remembered() -> None:
    live = LiveReplay(2, 1, 100)
    live.add(run(1, 0, 5))
    assert live.sample_sequences(4, 3, np.random.default_rng(0)).memory is None
    other = LiveReplay(2, 1, 100, WIDTH)
    other.add(run(1, 0, 5))
    memory = other.sample_sequences(4, 3, np.random.default_rng(0)).memory
    np.testing.assert_array_equal(memory, np.zeros((4, WIDTH)))


@pytest.mark.parametrize(
    ("memory", "words"),
    [
        (np.zeros((5, 3), np.float32), r"shape \(5, 3\), expected \(5, 2\)"),
        (np.full((5, 2), np.nan, np.float32), "10 values that are not finite"),
    ],
)
def test_bad_memories_are_refused_whole(memory: np.ndarray, words: str) -> None:
    live = LiveReplay(2, 1, 100, WIDTH)
    with pytest.raises(AgentError, match=words):
        live.add(run(1, 0, 5), memory)
    assert len(live) == 0


def test_numbers_out_of_range_are_refused() -> None:
    live = LiveReplay(2, 1, 100)
    with pytest.raises(AgentError, match="no live record yet"):
        live.sample_sequences(4, 3, np.random.default_rng(0))
    live.add(run(1, 0, 5))
    for length, burn_in, stride in ((0, 0, 1), (1, -1, 1), (1, 0, 0)):
        with pytest.raises(AgentError, match=f"length {length} with burn-in {burn_in} and stride {stride}"):
            live.sample_sequences(4, length, np.random.default_rng(0), burn_in=burn_in, stride=stride)
