"""What training relies on: records come back whole, from one episode, in an order the seed decides."""

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.storage.replay_episodes import STATE_DIM, coded_episode
from tspace_core.errors import StorageError
from tspace_core.objects.path import AnyPath
from tspace_core.records.episode import Episode
from tspace_core.storage.replay import Replay, ReplayBatch, build_replay, versions_of


def some(*lengths: int) -> list[Episode]:
    return [coded_episode(number, records) for number, records in enumerate(lengths, start=1)]


def save(path: AnyPath, values: NDArray[np.int64]) -> None:
    file = io.BytesIO()
    np.save(file, values)
    path.write_bytes(file.getvalue())


def check_origin(batch: ReplayBatch) -> None:
    """Every field of a record of a coded episode follows from its episode and step."""
    for k in range(len(batch.rewards)):
        number = int(batch.states[k, 0])
        step = round(float(batch.states[k, 0] - number) * 1024)
        assert (batch.states[k] == np.float32(number + step / 1024)).all()
        assert (batch.next_states[k] == np.float32(number + (step + 1) / 1024)).all()
        assert (batch.actions[k] == np.float32(number / 1000)).all()
        assert batch.rewards[k] == np.float32(number + step / 1024)
        assert batch.first_rows[k] == step % 3


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8), seed=st.integers(0, 2**32 - 1))
def test_records_are_whole_and_never_cross_episodes(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], seed: int
) -> None:
    replay = build_replay(tmp_path_factory.mktemp("replay") / "r", some(*lengths))
    assert len(replay) == sum(lengths)
    check_origin(replay.sample(64, np.random.default_rng(seed)))
    check_origin(replay.pick(np.arange(len(replay))))
    assert not replay.sample(64, np.random.default_rng(seed)).terminals.any()
    replay.verify()


def test_every_record_can_be_drawn_equally_often(place: AnyPath) -> None:
    replay = build_replay(place / "r", some(5, 1, 4))
    draws = replay.sample(20_000, np.random.default_rng(3)).rewards
    _, counts = np.unique(draws, return_counts=True)
    assert len(counts) == 10
    assert np.abs(counts / 2000 - 1).max() < 0.1  # 4.5 standard deviations of a binomial count


def test_records_keep_the_order_of_the_episodes(tmp_path: Path) -> None:
    replay = build_replay(tmp_path / "r", some(3, 2))
    rewards = replay.pick(np.arange(1, 5)).rewards * 1024
    assert rewards.tolist() == [1024 + 1, 1024 + 2, 2048, 2048 + 1]


def test_equal_generators_draw_equal_batches(tmp_path: Path) -> None:
    replay = build_replay(tmp_path / "r", some(50, 60))
    first = replay.sample(32, np.random.default_rng(7))
    again = Replay.open(tmp_path / "r").sample(32, np.random.default_rng(7))
    other = replay.sample(32, np.random.default_rng(8))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first.states != other.states).any()


def test_only_a_true_end_is_terminal(tmp_path: Path) -> None:
    episodes = [
        coded_episode(1, 3, end_reason="terminal"),
        coded_episode(2, 3),
        coded_episode(3, 2, end_reason="terminal"),
    ]
    replay = build_replay(tmp_path / "r", episodes)
    assert replay.pick(np.arange(8)).terminals.tolist() == [0, 0, 1, 0, 0, 0, 0, 1]


def test_equal_episodes_make_no_new_version(place: AnyPath) -> None:
    root = place / "r"
    first = build_replay(root, some(4, 5))
    again = build_replay(root, some(4, 5))
    assert again.directory == first.directory == root / "000001"
    third = build_replay(root, some(4, 5, 6))
    assert third.directory.name == "000002"
    assert third.manifest.content_sha256 != first.manifest.content_sha256
    assert sorted(path.name for path in root.iterdir()) == ["000001", "000002"]
    assert Replay.open(root).directory.name == "000002"
    assert len(Replay.open(root, "000001")) == 9


def test_hash_does_not_depend_on_the_place(tmp_path: Path) -> None:
    a = build_replay(tmp_path / "a", some(4)).manifest
    b = build_replay(tmp_path / "b", some(4)).manifest
    assert a.content_sha256 == b.content_sha256


def test_a_source_that_fails_leaves_nothing(place: AnyPath) -> None:
    def broken() -> Iterator[Episode]:
        yield coded_episode(1, 4)
        message = "disk gone"
        raise OSError(message)

    build_replay(place / "r", some(2))
    with pytest.raises(OSError, match="disk gone"):
        build_replay(place / "r", broken())
    assert [path.name for path in (place / "r").iterdir()] == ["000001"]


def test_episodes_are_taken_one_at_a_time(tmp_path: Path) -> None:
    written: list[int] = []

    def source() -> Iterator[Episode]:
        for number in range(1, 5):
            written.append(sum(path.stat().st_size for path in tmp_path.rglob("rows.f32")))
            yield coded_episode(number, 40_000)

    build_replay(tmp_path / "r", source())
    assert written[1] > 0
    assert written == sorted(set(written))


def test_moments_of_states_match_numpy(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    episodes = some(30, 2, 17)
    for episode in episodes:
        episode.states[:] = generator.normal(40, 12, episode.states.shape).astype(np.float32)
    replay = build_replay(tmp_path / "r", episodes)
    stacked = np.concatenate([episode.states for episode in episodes]).astype(np.float64)
    np.testing.assert_allclose(replay.state_mean, stacked.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(replay.state_std, stacked.std(axis=0), rtol=1e-12)
    assert replay.layout.state_dim == STATE_DIM
    rewards = np.concatenate([episode.rewards for episode in episodes])
    reward = replay.manifest.content.reward
    assert (reward.minimum, reward.maximum) == (rewards.min(), rewards.max())
    assert reward.mean == pytest.approx(rewards.astype(np.float64).mean(), rel=1e-12)


@pytest.mark.parametrize(
    ("episodes", "says"),
    [
        ([], "no episode was given"),
        ([coded_episode(1, 2), coded_episode(1, 3)], "'e1' was given twice"),
        (
            [coded_episode(1, 2), coded_episode(2, 2, reward_kind="loss")],
            "'e2' does not fit.*reward_kind 'loss' instead of 'energy'",
        ),
        ([coded_episode(1, 2), coded_episode(2, 2, rate_hz=50.0)], "rate_hz 50.0 instead of 20.0"),
    ],
)
def test_episodes_that_do_not_belong_together_are_refused(
    tmp_path: Path, episodes: list[Episode], says: str
) -> None:
    with pytest.raises(StorageError, match=says):
        build_replay(tmp_path / "r", episodes)
    assert versions_of(tmp_path / "r") == []


def test_a_missing_version_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="holds no replay buffer"):
        Replay.open(tmp_path / "none")
    build_replay(tmp_path / "r", some(2))
    with pytest.raises(StorageError, match="no version '000009'; there are 000001"):
        Replay.open(tmp_path / "r", "000009")


def test_a_truncated_file_is_found_on_opening(tmp_path: Path) -> None:
    directory = build_replay(tmp_path / "r", some(9)).directory
    rows = directory / "rows.f32"
    rows.write_bytes(rows.read_bytes()[:-4])
    with pytest.raises(StorageError, match=r"rows\.f32: .* bytes, expected"):
        Replay.open(tmp_path / "r")
    rows.unlink()
    with pytest.raises(StorageError, match=r"rows\.f32: missing"):
        Replay.open(tmp_path / "r")


def test_damaged_starts_are_found_on_opening(place: AnyPath) -> None:
    directory = build_replay(place / "r", some(9)).directory
    save(directory / "starts.npy", np.arange(4))
    with pytest.raises(StorageError, match=r"starts\.npy: holds int64 \(4,\), expected int64 \(9,\)"):
        Replay.open(place / "r")
    (directory / "starts.npy").write_bytes(b"")
    with pytest.raises(StorageError, match=r"starts\.npy: not readable"):
        Replay.open(place / "r")


def test_a_changed_manifest_is_found_on_opening(place: AnyPath) -> None:
    path = build_replay(place / "r", some(9)).directory / "manifest.json"
    text = path.read_text()
    path.write_text(text.replace('"reward_kind": "energy"', '"reward_kind": "loss"'))
    with pytest.raises(StorageError, match="was changed or damaged"):
        Replay.open(place / "r")
    path.write_text(text[:50])
    with pytest.raises(StorageError, match="not a replay manifest"):
        Replay.open(place / "r")


def test_verify_finds_a_flipped_bit_and_a_wrong_start(place: AnyPath) -> None:
    directory = build_replay(place / "r", some(9, 4)).directory
    rows = directory / "rows.f32"
    data = bytearray(rows.read_bytes())
    data[100] ^= 1
    rows.write_bytes(bytes(data))
    with pytest.raises(StorageError, match=r"rows\.f32: sha256"):
        Replay.open(place / "r").verify()
    data[100] ^= 1
    rows.write_bytes(bytes(data))
    save(directory / "starts.npy", np.arange(13))
    with pytest.raises(StorageError, match=r"starts\.npy: differs"):
        Replay.open(place / "r").verify()


def test_a_damaged_latest_version_is_followed_by_a_new_one(place: AnyPath) -> None:
    directory = build_replay(place / "r", some(3)).directory
    (directory / "rows.f32").write_bytes(b"")
    replay = build_replay(place / "r", some(3))
    assert replay.directory.name == "000002"
    replay.verify()


def test_replay_needs_no_torch() -> None:
    code = "import sys, tspace_core.storage.replay; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
