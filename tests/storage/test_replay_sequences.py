"""Sequences: where they may begin, what they hold, and how the index finds records."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.storage.replay_episodes import coded_episode
from tspace_core.errors import StorageError
from tspace_core.objects.path import AnyPath
from tspace_core.records.episode import Episode
from tspace_core.storage import replay_index
from tspace_core.storage.replay import Replay, build_replay
from tspace_core.storage.replay_index import EpisodeIndex, EpisodePlace
from tspace_core.storage.replay_sequences import SequenceBatch


def some(*lengths: int) -> list[Episode]:
    return [
        coded_episode(number, length, end_reason="terminal" if number % 2 else "end")
        for number, length in enumerate(lengths, start=1)
    ]


def check_origin(batch: SequenceBatch, episodes: list[Episode]) -> None:
    """Every number is the one that its place in its episode says, padding is zero throughout."""
    known = {int(episode.meta.episode_id[1:]): episode for episode in episodes}
    steps = batch.mask.shape[1]
    for k in range(len(batch.mask)):
        count = int(batch.mask[k].sum())
        assert batch.mask[k].tolist() == [1.0] * count + [0.0] * (steps - count)
        number = int(np.floor(batch.rewards[k, 0]))
        first = round((batch.rewards[k, 0] - number) * 1024)
        episode = known[number]
        place = slice(first, first + count)
        assert count == min(steps, len(episode)), "padded only where the episode is too short"
        np.testing.assert_array_equal(batch.states[k, : count + 1], episode.states[first : first + count + 1])
        np.testing.assert_array_equal(batch.actions[k, :count], episode.actions[place])
        np.testing.assert_array_equal(batch.rewards[k, :count], episode.rewards[place])
        np.testing.assert_array_equal(batch.first_rows[k, :count], episode.rows[place])
        ends = np.zeros(count)
        ends[-1] = first + count == len(episode) and episode.meta.end_reason == "terminal"
        np.testing.assert_array_equal(batch.terminals[k, :count], ends)
        for field in (batch.actions, batch.rewards, batch.first_rows, batch.terminals):
            assert not field[k, count:].any()
        assert not batch.states[k, count + 1 :].any()


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    length=st.integers(1, 30),
    burn_in=st.integers(0, 10),
    stride=st.integers(1, 20),
    seed=st.integers(0, 2**32 - 1),
)
def test_sequences_are_whole_and_never_cross_episodes(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    length: int,
    burn_in: int,
    stride: int,
    seed: int,
) -> None:
    episodes = some(*lengths)
    replay = build_replay(tmp_path_factory.mktemp("replay") / "r", episodes)
    batch = replay.sample_sequences(32, length, np.random.default_rng(seed), burn_in=burn_in, stride=stride)
    assert batch.actions.shape == (32, burn_in + length, 68)
    assert batch.memory is None
    check_origin(batch, episodes)


def begins(replay: Replay, steps: int, stride: int) -> dict[float, int]:
    batch = replay.sample_sequences(6000, steps, np.random.default_rng(1), stride=stride)
    values, counts = np.unique(
        batch.rewards[:, 0] * 1024 % 1024 + 1000 * np.floor(batch.rewards[:, 0]), return_counts=True
    )
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def test_every_start_is_drawn_equally_often(place: AnyPath) -> None:
    replay = build_replay(place / "r", some(12, 3, 10))
    found = begins(replay, 10, 1)
    assert sorted(found) == [1000, 1001, 1002, 2000, 3000]
    assert max(abs(count / 1200 - 1) for count in found.values()) < 0.15  # 5 standard deviations


def test_sequences_may_overlap_by_half_and_reach_the_end(tmp_path: Path) -> None:
    replay = build_replay(tmp_path / "r", some(27, 30))
    assert sorted(begins(replay, 10, 5)) == [
        1000, 1005, 1010, 1015, 1017, 2000, 2005, 2010, 2015, 2020,
    ]  # fmt: skip


def test_a_sequence_longer_than_every_episode_is_padded(tmp_path: Path) -> None:
    episodes = some(3, 5)
    batch = build_replay(tmp_path / "r", episodes).sample_sequences(20, 500, np.random.default_rng(0))
    assert set(batch.mask.sum(axis=1).tolist()) == {3, 5}
    check_origin(batch, episodes)


def test_equal_generators_draw_equal_sequences(tmp_path: Path) -> None:
    replay = build_replay(tmp_path / "r", some(50, 60))
    first = replay.sample_sequences(8, 10, np.random.default_rng(7), burn_in=3)
    again = Replay.open(tmp_path / "r").sample_sequences(8, 10, np.random.default_rng(7), burn_in=3)
    other = replay.sample_sequences(8, 10, np.random.default_rng(8), burn_in=3)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first.rewards != other.rewards).any()


def test_picked_sequences_begin_where_they_are_asked_to(tmp_path: Path) -> None:
    replay = build_replay(tmp_path / "r", some(6, 4))
    batch = replay.pick_sequences(np.array([0, 4, 6]), 3)
    assert batch.mask.sum(axis=1).tolist() == [3, 2, 3]
    assert batch.rewards[:, 0].tolist() == [1, 1 + 4 / 1024, 2]
    assert batch.terminals[1].tolist() == [0, 1, 0]
    with pytest.raises(IndexError, match="records 10 to 10 asked for, there are 0 to 9"):
        replay.pick_sequences(np.array([10]), 3)
    with pytest.raises(IndexError, match="records -1 to 3 asked for"):
        replay.pick(np.array([-1, 3]))
    for wrong in (np.array([1.7]), np.array([True, False]), np.array([[1, 2], [3, 4]])):
        with pytest.raises(IndexError, match="give whole numbers in one row"):
            replay.pick(wrong)
    for steps in (0, -1):
        with pytest.raises(StorageError, match="a sequence has at least 1"):
            replay.pick_sequences(np.array([0]), steps)


@pytest.mark.parametrize("wrong", [{"length": 0}, {"length": 3, "burn_in": -1}, {"length": 3, "stride": 0}])
def test_impossible_sequences_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    replay = build_replay(tmp_path / "r", some(6))
    with pytest.raises(StorageError, match="length and stride are at least 1, burn-in at least 0"):
        replay.sample_sequences(4, generator=np.random.default_rng(0), **wrong)


def test_a_version_keeps_recurrent_states(place: AnyPath) -> None:
    def memory(episode: Episode) -> np.ndarray | None:
        number = int(episode.meta.episode_id[1:])
        return None if number == 2 else np.full((len(episode), 3), number, np.float32)

    plain = build_replay(place / "p", some(5, 5, 5)).manifest
    replay = build_replay(place / "r", some(5, 5, 5), memories=memory, memory_dim=3)
    batch = replay.sample_sequences(50, 4, np.random.default_rng(0))
    numbers = np.floor(batch.rewards[:, 0])
    assert batch.memory is not None
    np.testing.assert_array_equal(batch.memory[:, 0], np.where(numbers == 2, 0, numbers))
    assert replay.manifest.content_sha256 != plain.content_sha256
    replay.verify()
    path = replay.directory / "memory.f32"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(StorageError, match=r"memory\.f32: sha256"):
        Replay.open(place / "r").verify()
    path.write_bytes(b"")
    with pytest.raises(StorageError, match=r"memory\.f32: 0 bytes, expected"):
        Replay.open(place / "r")


@given(
    steps=st.lists(
        st.one_of(st.integers(1, 12), st.lists(st.integers(1, 300), min_size=1, max_size=9)), max_size=40
    )
)
def test_the_index_is_a_list_of_episodes(steps: list[int | list[int]]) -> None:
    """Through growth, eviction and tidying up: every record is found in its own row."""
    from tspace_core.storage.kernels.replay import find

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay_index, "_FEW", 2)
        index, kept, row, number = EpisodeIndex(), list[EpisodePlace](), 7, 0
        first = 0
        for step in steps:
            if isinstance(step, int):
                gone = min(step, len(kept))
                index.drop(gone)
                first += sum(item.length for item in kept[:gone])
                del kept[:gone]
            else:
                places = []
                for length in step:
                    places.append(EpisodePlace(row, length, number % 3 == 0))
                    row, number = row + length + 1 + number % 2, number + 1
                index.extend(places)
                kept.extend(places)
            assert (len(index), index.episodes) == (sum(item.length for item in kept), len(kept))
            assert index.begin == first
            starts = index.sequence_starts(20, 7)
            expected = sum(-(-max(item.length - 20, 0) // 7) + 1 for item in kept)
            assert starts[index.high] - starts[index.low] == expected
            numbers = index.begin + np.arange(len(index))
            rows, terminals = np.empty(len(numbers), np.int64), np.empty(len(numbers), np.float32)
            find(numbers, index.table, index.blocks, index.origin, rows, terminals)
            wanted = [item.first + k for item in kept for k in range(item.length)]
            ends = [
                float(item.terminal and k == item.length - 1) for item in kept for k in range(item.length)
            ]
            assert rows.tolist() == wanted
            assert terminals.tolist() == ends
