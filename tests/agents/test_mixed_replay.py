"""Batches of the online loop: how live and offline records mix, and what the live store keeps."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.agents.batches import random_batch
from tests.storage.replay_episodes import STATE_DIM, coded_episode
from tspace_core.agents.mixed_replay import LiveReplay, MixedReplay, records_of
from tspace_core.errors import AgentError
from tspace_core.records.episode import RecordFlag
from tspace_core.storage.replay import Replay, ReplayBatch, build_replay
from tspace_core.storage.replay_appender import ReplayAppender
from tspace_core.storage.replay_growing import GrowingReplay


def numbered(first: int, count: int) -> ReplayBatch:
    """Records whose rewards count up from ``first``."""
    batch = random_batch(np.random.default_rng(first), count, 4, 3)
    return batch._replace(rewards=np.arange(first, first + count, dtype=np.float32))


def contents(live: LiveReplay) -> list[int]:
    return [int(value) for value in live.split(live.block(np.arange(len(live)))).rewards]


@pytest.fixture
def offline(tmp_path: Path) -> Replay:
    return build_replay(tmp_path / "replay" / "v1", [coded_episode(1, 30), coded_episode(2, 20)])


def live_of(*episodes: int, capacity: int = 1000) -> LiveReplay:
    live = LiveReplay(STATE_DIM, 68, capacity)
    for number in episodes:
        live.add(records_of(coded_episode(number, 10)))
    return live


@given(
    st.integers(1, 50),
    st.lists(st.tuples(st.booleans(), st.integers(0, 70)), max_size=12),
)
def test_the_live_store_is_a_list_of_the_newest(capacity: int, steps: list[tuple[bool, int]]) -> None:
    live, expected, following = LiveReplay(4, 3, capacity), list[int](), 0
    for adds, count in steps:
        if adds:
            live.add(numbered(following, count))
            expected = [*expected, *range(following, following + count)][-capacity:]
            following += count
        else:
            assert live.discard(count) == min(count, len(expected))
            expected = expected[: max(len(expected) - count, 0)]
        assert contents(live) == expected


def test_it_grows_past_its_first_memory() -> None:
    live = LiveReplay(4, 3, 5000)
    for first in range(0, 6000, 700):
        live.add(numbered(first, 700))
    assert contents(live) == list(range(6300 - 5000, 6300))


def test_every_field_comes_back_as_it_went_in() -> None:
    batch = random_batch(np.random.default_rng(3), 40, 7, 5)
    live = LiveReplay(7, 5, 40)
    live.add(batch)
    found = live.split(live.block(np.arange(40)))
    for name in ReplayBatch._fields:
        np.testing.assert_array_equal(getattr(found, name), getattr(batch, name), err_msg=name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rewards": np.array([1, np.nan], np.float32)}, "1 values that are not finite"),
        ({"states": np.full((2, 4), np.inf, np.float32)}, "8 values that are not finite"),
        ({"actions": np.full((2, 3), -1.5, np.float32)}, r"an action of the live records is 1\.5"),
        ({"next_states": np.zeros((2, 5), np.float32)}, r"next_states .* \(2, 5\), expected \(2, 4\)"),
        ({"terminals": np.zeros(3, np.float32)}, r"terminals .* \(3,\), expected \(2,\)"),
    ],
)
def test_bad_records_are_refused_whole(change: dict[str, np.ndarray], words: str) -> None:
    live = LiveReplay(4, 3, 10)
    live.add(numbered(0, 3))
    with pytest.raises(AgentError, match=words):
        live.add(numbered(3, 2)._replace(**change))
    assert contents(live) == [0, 1, 2]


def test_a_batch_holds_the_share_of_live_records(offline: Replay) -> None:
    mixed = MixedReplay(offline, live_of(7, 8, 9, 10, 11, 12, 13), 0.25)
    batch = mixed.sample(64, np.random.default_rng(0))
    live = batch.rewards >= 7
    assert live.sum() == 16
    # state, action, next state and first row belong together, whichever part they come from
    np.testing.assert_array_equal(batch.states[:, 0], batch.rewards)
    np.testing.assert_allclose(batch.next_states[:, 0] - batch.states[:, 0], 1 / 1024)
    np.testing.assert_allclose(batch.actions[:, 5], np.floor(batch.rewards) / 1000)
    steps = np.rint((batch.rewards % 1) * 1024)
    np.testing.assert_array_equal(batch.first_rows, steps % 3)


def test_the_first_live_records_do_not_fill_half_a_batch(offline: Replay) -> None:
    live = live_of()
    mixed = MixedReplay(offline, live, 0.5)
    assert mixed.live_part(256) == 0
    assert (mixed.sample(256, np.random.default_rng(0)).rewards < 3).all()
    live.add(records_of(coded_episode(9, 3)))
    assert mixed.live_part(256) == 3
    assert (mixed.sample(256, np.random.default_rng(0)).rewards >= 9).sum() == 3


def test_without_an_offline_buffer_all_are_live() -> None:
    mixed = MixedReplay(None, live_of(9), 0.5)
    batch = mixed.sample(256, np.random.default_rng(0))
    assert set(batch.rewards.tolist()) == {9 + step / 1024 for step in range(10)}
    with pytest.raises(AgentError, match="neither an offline nor a live record"):
        MixedReplay(None, live_of(), 0.5).sample(1, np.random.default_rng(0))


def test_batches_follow_from_the_records_and_the_generator_alone(offline: Replay) -> None:
    full = live_of(3, 4, 5, 6, capacity=25)  # went round its memory
    again = LiveReplay(STATE_DIM, 68, 25)
    again.add(full.split(full.block(np.arange(25))))
    first = MixedReplay(offline, full, 0.5).sample(64, np.random.default_rng(4))
    second = MixedReplay(offline, again, 0.5).sample(64, np.random.default_rng(4))
    for ours, theirs in zip(first, second, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_true_end_is_terminal_a_recording_s_end_is_not() -> None:
    assert records_of(coded_episode(1, 4)).terminals.tolist() == [0, 0, 0, 0]
    assert records_of(coded_episode(1, 4, end_reason="terminal")).terminals.tolist() == [0, 0, 0, 1]


def test_a_record_whose_action_had_to_become_zero_is_not_learned_from() -> None:
    """As while driving: so a learner that is started again learns from the same records."""
    episode = coded_episode(1, 4)
    episode.flags[0] = RecordFlag.FIRST | RecordFlag.ZEROED
    whole, left = records_of(coded_episode(1, 4)), records_of(episode)
    for name, values in left._asdict().items():
        np.testing.assert_array_equal(values, getattr(whole, name)[1:], name)


@pytest.fixture
def growing(tmp_path: Path) -> Iterator[ReplayAppender]:
    folder = tmp_path / "replay" / "live" / "growing"
    with ReplayAppender(folder, capacity_rows=1000, memory_dim=2) as appender:
        yield appender


def test_a_growing_buffer_can_be_the_live_part(offline: Replay, growing: ReplayAppender) -> None:
    growing.append(coded_episode(7, 9))
    live = GrowingReplay(growing.directory)
    mixed = MixedReplay(offline, live, 0.5)
    batch = mixed.sample(64, np.random.default_rng(0))
    assert (batch.rewards >= 7).sum() == 9, "not more than there are"
    growing.append(coded_episode(8, 90))
    assert (mixed.sample(64, np.random.default_rng(0)).rewards >= 7).sum() == 9
    live.refresh()
    batch = mixed.sample(64, np.random.default_rng(0))
    assert (batch.rewards >= 7).sum() == 32
    np.testing.assert_array_equal(batch.states[:, 0], batch.rewards)
    again = MixedReplay(offline, GrowingReplay(growing.directory), 0.5).sample(64, np.random.default_rng(0))
    for ours, theirs in zip(batch, again, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_sequences_mix_as_records_do(offline: Replay, growing: ReplayAppender) -> None:
    memory = np.full((40, 2), 5, np.float32)
    growing.append(coded_episode(7, 40), memory=memory)
    mixed = MixedReplay(offline, GrowingReplay(growing.directory), 0.25)
    found = mixed.sample_sequences(16, 6, np.random.default_rng(0), burn_in=2)
    assert found.states.shape == (16, 9, STATE_DIM)
    assert (found.rewards[:, 0] >= 7).sum() == 4
    assert found.memory is not None
    np.testing.assert_array_equal(found.memory, np.repeat([[5, 5], [0, 0]], [4, 12], axis=0))
    np.testing.assert_allclose(np.diff(found.states[..., 0]), 1 / 1024)
    only = MixedReplay(offline, GrowingReplay(growing.directory), 0.0)
    assert only.sample_sequences(16, 6, np.random.default_rng(0)).memory is None
    both = MixedReplay(offline, live_of(7, 8), 0.5).sample_sequences(8, 12, np.random.default_rng(0))
    assert both.begins is not None
    np.testing.assert_array_equal(both.rewards[:4, 0], np.floor(both.rewards[:4, 0]))
    assert both.begins[:4].tolist() == [1, 1, 1, 1], "10 records an episode, 12 asked for"
    assert both.mask.sum(axis=1).tolist() == [10] * 4 + [12] * 4


def test_recurrent_states_of_two_agents_do_not_mix(growing: ReplayAppender, tmp_path: Path) -> None:
    growing.append(coded_episode(7, 40))
    other = build_replay(tmp_path / "o", [coded_episode(1, 40)], memory_dim=3)
    with pytest.raises(AgentError, match="recurrent states of 2 and 3"):
        MixedReplay(other, GrowingReplay(growing.directory), 0.5).sample_sequences(
            8, 6, np.random.default_rng(0)
        )


def test_shares_and_capacities_have_limits() -> None:
    with pytest.raises(AgentError, match=r"live_share is 1\.5"):
        MixedReplay(None, live_of(), 1.5)
    with pytest.raises(AgentError, match="capacity is 0"):
        LiveReplay(4, 3, 0)
