"""From episodes in the lake to vectors: only what is new is done, and a stopped run goes on."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.embeddings.drives import VEHICLE, put_episode, smooth_episode, write_manifest
from tspace_core.config.embeddings import EmbeddingParameters
from tspace_core.embeddings.base import Float
from tspace_core.embeddings.run import embed_episodes, list_episodes, train_encoder
from tspace_core.embeddings.store import encoder_folder, latest_encoder, latest_encoder_id
from tspace_core.errors import CheckpointError, StorageError
from tspace_core.storage.embeddings import EmbeddingTable
from tspace_core.storage.files import sweep, write_text
from tspace_core.storage.lake import Lake
from tspace_core.storage.unit_of_work import UnitOfWork

if TYPE_CHECKING:
    from tspace_core.objects.path import AnyPath

PLAIN = EmbeddingParameters(encoder="statistics")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    made = Lake(tmp_path / "lake")
    for number in range(1, 5):
        put_episode(made, smooth_episode(number, 20 * number))
    return made


@pytest.fixture(params=["disk", "bucket"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    root = tmp_path / "lake" if request.param == "disk" else request.getfixturevalue("s3_folder")
    made = Lake(root, local=tmp_path / "local")
    for number in range(1, 3):
        put_episode(made, smooth_episode(number, 20))
    return made


def test_on_a_disk_and_in_a_bucket_every_record_gets_its_vector(anywhere: Lake) -> None:
    trained = train_encoder(anywhere, VEHICLE, PLAIN)
    assert (trained.episodes, trained.windows) == (2, 40)
    assert latest_encoder_id(anywhere, VEHICLE) == trained.encoder.id
    done = embed_episodes(anywhere, VEHICLE)
    assert (done.new_rows, done.new_episodes, done.state.rows) == (40, 2, 40)
    episode = smooth_episode(2, 20)
    stored = EmbeddingTable(anywhere, VEHICLE).vectors(episode.meta.episode_id)
    np.testing.assert_allclose(stored, trained.encoder.encode(episode.states[:20]), atol=1e-6)
    assert train_encoder(anywhere, VEHICLE, PLAIN).folder == trained.folder  # the same again: as it is
    sweep(anywhere.root, older_than_s=0.0)  # removes what killed writers left, and nothing of these
    assert latest_encoder(anywhere, VEHICLE).id == trained.encoder.id
    assert len(EmbeddingTable(anywhere, VEHICLE).search(stored[3], 5)) == 5


def test_only_new_and_changed_episodes_are_encoded(lake: Lake) -> None:
    train_encoder(lake, VEHICLE, PLAIN)
    first = embed_episodes(lake, VEHICLE)
    assert first.new_episodes == 4
    nothing = embed_episodes(lake, VEHICLE)
    assert (nothing.new_rows, nothing.new_episodes, nothing.removed) == (0, 0, 0)
    assert nothing.state == first.state
    put_episode(lake, smooth_episode(5, 7))
    put_episode(lake, smooth_episode(2, 30), version="bbbbbbbb")
    write_manifest(lake, smooth_episode(4, 80), [])
    changed = embed_episodes(lake, VEHICLE)
    assert (changed.new_episodes, changed.new_rows, changed.removed) == (2, 37, 1)
    assert changed.state.rows == 20 + 30 + 60 + 7


def test_a_stopped_run_goes_on_where_it_was(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = train_encoder(lake, VEHICLE, PLAIN).encoder
    whole = encoder.encode

    def stops(states: Float) -> Float:
        if len(states) == 60:
            raise KeyboardInterrupt
        return whole(states)

    monkeypatch.setattr(encoder, "encode", stops)
    with pytest.raises(KeyboardInterrupt):
        embed_episodes(lake, VEHICLE, encoder=encoder, block_rows=10)
    assert len(EmbeddingTable(lake, VEHICLE).sources()) == 2
    monkeypatch.undo()
    assert embed_episodes(lake, VEHICLE, encoder=encoder).new_episodes == 2


def test_another_encoder_replaces_the_vectors_at_once(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    train_encoder(lake, VEHICLE, PLAIN)
    old = embed_episodes(lake, VEHICLE).state
    other = train_encoder(lake, VEHICLE, EmbeddingParameters(updates=5)).encoder
    whole = other.encode

    def stops(states: Float) -> Float:
        if len(states) == 60:
            raise KeyboardInterrupt
        return whole(states)

    monkeypatch.setattr(other, "encode", stops)
    with pytest.raises(KeyboardInterrupt):
        embed_episodes(lake, VEHICLE, encoder=other, block_rows=10)
    assert EmbeddingTable(lake, VEHICLE).state() == old
    monkeypatch.undo()
    state = embed_episodes(lake, VEHICLE).state
    assert (state.encoder, state.rows) == (other.id, old.rows)


def test_in_a_unit_of_work_all_becomes_visible_at_its_end(lake: Lake) -> None:
    table = EmbeddingTable(lake, VEHICLE)
    with UnitOfWork(lake, name="embed") as unit:
        encoder = train_encoder(lake, VEHICLE, PLAIN, writer=unit).encoder
        embed_episodes(lake, VEHICLE, encoder=encoder, writer=unit, block_rows=10)
        assert table.state() is None
        assert latest_encoder_id(lake, VEHICLE) is None
    state = table.state()
    assert state is not None
    assert state.rows == 200
    assert latest_encoder(lake, VEHICLE).id == encoder.id == state.encoder


def test_a_unit_that_is_given_up_leaves_the_old_state(lake: Lake) -> None:
    train_encoder(lake, VEHICLE, PLAIN)
    old = embed_episodes(lake, VEHICLE).state
    put_episode(lake, smooth_episode(5, 7))
    with pytest.raises(ZeroDivisionError), UnitOfWork(lake, name="embed") as unit:
        embed_episodes(lake, VEHICLE, writer=unit)
        raise ZeroDivisionError
    assert EmbeddingTable(lake, VEHICLE).state() == old
    assert embed_episodes(lake, VEHICLE).new_episodes == 1
    assert len(EmbeddingTable(lake, VEHICLE).sources()) == 5


def test_episodes_of_other_windows_are_left_out_with_the_reason(lake: Lake) -> None:
    put_episode(lake, smooth_episode(6, 30, window=10))
    put_episode(lake, smooth_episode(7, 30, signals=("velocity", "thrust")))
    train_encoder(lake, VEHICLE, PLAIN)  # learns the layout that most records have
    state = embed_episodes(lake, VEHICLE).state
    assert state.episodes == 4
    assert state.left_out == {
        "other windows than the encoder's: 10 samples of velocity, thrust, brake at 20 Hz": 1,
        "other windows than the encoder's: 30 samples of velocity, thrust at 20 Hz": 1,
    }


def test_many_windows_are_thinned_to_what_is_learned_from(lake: Lake) -> None:
    trained = train_encoder(lake, VEHICLE, EmbeddingParameters(encoder="statistics", training_windows=90))
    assert trained.windows == 90
    assert trained.episodes > 1
    again = train_encoder(lake, VEHICLE, EmbeddingParameters(encoder="statistics", training_windows=90))
    assert again.encoder.id == trained.encoder.id


def test_what_is_missing_names_what_makes_it(tmp_path: Path, lake: Lake) -> None:
    empty = Lake(tmp_path / "empty")
    with pytest.raises(StorageError, match="tspace ingest"):
        train_encoder(empty, VEHICLE, PLAIN)
    with pytest.raises(CheckpointError, match="situation_encoder"):
        embed_episodes(empty, VEHICLE)
    pointer = lake.root / "embeddings" / "encoders" / f"{VEHICLE}.json"
    write_text(pointer, "{}")
    with pytest.raises(CheckpointError, match="damaged"):
        latest_encoder_id(lake, VEHICLE)


def test_a_torn_encoder_is_refused_and_trained_again(lake: Lake) -> None:
    encoder = train_encoder(lake, VEHICLE, PLAIN).encoder
    file: AnyPath = encoder_folder(lake, VEHICLE, encoder.id) / "encoder.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"encoder\.safetensors.*cut off"):
        embed_episodes(lake, VEHICLE)
    assert train_encoder(lake, VEHICLE, PLAIN).encoder.id == encoder.id
    assert embed_episodes(lake, VEHICLE).state.rows == 200


def test_a_damaged_manifest_is_named(lake: Lake) -> None:
    manifest = lake.episode_manifests(VEHICLE)[0]
    write_text(manifest, '{"episodes": [{"file": "x"}]}')
    with pytest.raises(StorageError, match=r"log1\.blf\.episodes\.json is damaged"):
        list_episodes(lake, VEHICLE)
