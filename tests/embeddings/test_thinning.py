"""What thinning leaves out, and that it is the same every time."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.embeddings.drives import RATE_HZ, SIGNALS, VEHICLE, WINDOW, course, smooth_episode
from tests.storage.replay_episodes import coded_episode
from tspace_core.config.embeddings import EmbeddingParameters
from tspace_core.config.replay import ReplayParameters, ThinParameters, load_replay_parameters
from tspace_core.embeddings.base import Encoder
from tspace_core.embeddings.registry import new_encoder
from tspace_core.embeddings.thinning import ExactThinner, NearThinner, make_thinner
from tspace_core.errors import CheckpointError, StorageError
from tspace_core.records.episode import Episode
from tspace_core.storage.lake import Lake
from tspace_core.storage.replay import Replay, build_replay


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    made = new_encoder(
        EmbeddingParameters(encoder="statistics"), window=WINDOW, signals=SIGNALS, rate_hz=RATE_HZ
    )
    made.fit([course(300, seed) for seed in range(3)])
    return made


def same_drive(number: int, of: Episode) -> Episode:
    """The same numbers as another episode, under its own name."""
    meta = of.meta.model_copy(update={"episode_id": f"{VEHICLE}/2026-01-05/log{number}.blf#0000"})
    return dataclasses.replace(of, meta=meta)


def shaken(of: Episode, seed: int, size: float) -> Episode:
    noise = np.random.default_rng(seed).normal(scale=size, size=of.states.shape)
    return dataclasses.replace(of, states=(of.states + noise).astype(np.float32))


def test_a_drive_recorded_twice_is_kept_once() -> None:
    first = smooth_episode(1, 50)
    thinner = ExactThinner()
    assert thinner(first).all()
    assert not thinner(same_drive(2, first)).any()
    assert (thinner.kept, thinner.left_out) == (50, 50)


@pytest.mark.parametrize("field", ["states", "actions", "rewards", "rows"])
def test_one_bit_more_is_another_record(field: str) -> None:
    first = smooth_episode(1, 5)
    thinner = ExactThinner()
    thinner(first)
    values = getattr(first, field).copy()
    values[(2,) + (0,) * (values.ndim - 1)] = 1
    changed = dataclasses.replace(first, **{field: values})
    assert thinner(changed).tolist() == [False, False, True, False, False]


def test_what_is_forgotten_is_kept_again() -> None:
    first, second = smooth_episode(1, 20), smooth_episode(2, 20)
    thinner = ExactThinner(remembered=20)
    assert thinner(first).all()
    assert thinner(second).all()
    assert thinner(first).all()


def test_near_duplicates_are_left_out_and_others_kept(encoder: Encoder) -> None:
    first = smooth_episode(1, 80)
    thinner = NearThinner(encoder, ThinParameters(kind="near", distance=0.01))
    before = thinner(first)
    assert before.all()  # every action is another one
    assert not thinner(shaken(first, 1, 0.01)).any()
    elsewhere = dataclasses.replace(first, states=smooth_episode(7, 80).states)
    assert thinner(elsewhere).mean() > 0.7
    other = dataclasses.replace(first, actions=(-first.actions).astype(np.float32))
    assert thinner(other).all()


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), distance=st.floats(0.001, 0.3))
def test_kept_situations_of_one_action_are_never_close_and_the_rest_is(
    encoder: Encoder, seed: int, distance: float
) -> None:
    still = np.zeros((120, 68), np.float32)
    episodes = [dataclasses.replace(smooth_episode(seed + k, 120), actions=still) for k in range(2)]
    thinner = NearThinner(encoder, ThinParameters(kind="near", distance=distance))
    keep = np.concatenate([thinner(episode) for episode in episodes])
    vectors = np.concatenate([encoder.encode(episode.states[:120]) for episode in episodes])
    closeness = vectors @ vectors[keep].T
    apart = closeness[keep]
    np.fill_diagonal(apart, -1)
    limit = 1 - distance
    assert apart.max() <= limit + 1e-5
    assert (closeness[~keep].max(axis=1, initial=-1) >= limit - 1e-5).all()


def test_memory_is_bounded_and_the_answer_the_same_every_time(encoder: Encoder) -> None:
    parameters = ThinParameters(kind="near", distance=0.05, remembered=40)
    episodes = [smooth_episode(seed, 60) for seed in range(4)]
    answers = []
    for _ in range(2):
        thinner = NearThinner(encoder, parameters)
        answers.append(np.concatenate([thinner(episode) for episode in episodes]))
        assert sum(len(group.vectors) for group in thinner._groups.values()) <= 40
    np.testing.assert_array_equal(answers[0], answers[1])


def test_an_episode_of_other_windows_is_refused_by_name(encoder: Encoder) -> None:
    thinner = NearThinner(encoder, ThinParameters(kind="near"))
    with pytest.raises(StorageError, match=r"log3\.blf#0000.*thin\.kind"):
        thinner(smooth_episode(3, 5, window=7))


def test_parameters_choose_the_way(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    assert load_replay_parameters() == ReplayParameters()
    assert make_thinner(lake, VEHICLE, ThinParameters()) is None
    assert isinstance(make_thinner(lake, VEHICLE, ThinParameters(kind="exact")), ExactThinner)
    with pytest.raises(CheckpointError, match=f"tspace embed --vehicle {VEHICLE} --train"):
        make_thinner(lake, VEHICLE, ThinParameters(kind="near"))


def test_a_buffer_of_a_drive_that_was_taken_in_twice_draws_half_of_it(tmp_path: Path) -> None:
    first = smooth_episode(1, 50)
    episodes = [first, same_drive(2, first)]
    replay = build_replay(tmp_path / "thin", episodes, keep=ExactThinner())
    whole = build_replay(tmp_path / "whole", episodes)
    assert (len(whole), len(replay)) == (100, 50)
    assert replay.manifest.content_sha256 != whole.manifest.content_sha256
    assert replay.manifest.content.episodes[1].kept == ()
    replay.verify()
    np.testing.assert_array_equal(replay.pick(np.arange(50)).states, first.states[:50])
    assert replay.manifest.content.reward.mean == pytest.approx(float(first.rewards.mean(dtype="f8")))
    again = build_replay(tmp_path / "thin", episodes, keep=ExactThinner())
    assert again.directory == replay.directory  # the same again makes no version


@settings(max_examples=25, deadline=None, derandomize=True)
@given(masks=st.lists(st.lists(st.booleans(), min_size=1, max_size=12), min_size=1, max_size=4))
def test_what_is_left_out_is_never_drawn_and_its_neighbours_stay_whole(
    tmp_path_factory: pytest.TempPathFactory, masks: list[list[bool]]
) -> None:
    episodes = [
        coded_episode(number, len(mask), end_reason="terminal") for number, mask in enumerate(masks, start=1)
    ]
    chosen = {episode.meta.episode_id: np.array(mask) for episode, mask in zip(episodes, masks, strict=True)}
    folder = tmp_path_factory.mktemp("replay") / "r"
    keep = lambda episode: chosen[episode.meta.episode_id]  # noqa: E731
    if not any(any(mask) for mask in masks):
        with pytest.raises(StorageError, match="no record was kept"):
            build_replay(folder, episodes, keep=keep)
        return
    replay = build_replay(folder, episodes, keep=keep)
    replay.verify()
    expected = [
        (number + k / 1024, k == len(mask) - 1)
        for number, mask in enumerate(masks, start=1) for k in range(len(mask)) if mask[k]
    ]  # fmt: skip
    batch = replay.pick(np.arange(len(replay)))
    assert list(zip(batch.rewards.tolist(), batch.terminals.astype(bool).tolist(), strict=True)) == expected
    np.testing.assert_array_equal(batch.next_states[:, 0], batch.states[:, 0] + np.float32(1 / 1024))
    rewards = set(batch.rewards.tolist())
    assert set(replay.sample(64, np.random.default_rng(0)).rewards.tolist()) <= rewards
    sequences = replay.sample_sequences(16, 3, np.random.default_rng(0))
    drawn = sequences.rewards[sequences.mask > 0]
    assert set(drawn.tolist()) <= rewards


def test_a_mask_of_another_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"kept is bool\(4,\), expected bool\(5,\)"):
        build_replay(tmp_path, [smooth_episode(1, 5)], keep=lambda episode: np.ones(4, np.bool_))


def test_a_manifest_that_keeps_more_than_there_is_is_refused(tmp_path: Path) -> None:
    built = build_replay(tmp_path, [smooth_episode(1, 5)], keep=lambda episode: np.arange(5) > 2)
    manifest = built.manifest
    content = manifest.content
    odd = content.episodes[0].model_copy(update={"kept": ((4, 2),)})
    changed = content.model_copy(update={"episodes": (odd,)})
    path = Path(str(built.directory))
    manifest.model_copy(update={"content": changed, "content_sha256": changed.sha256()}).write(path)
    with pytest.raises(StorageError, match="of the 5 records of episode"):
        Replay(path)
