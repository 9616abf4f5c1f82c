"""What every encoder does, whatever it has learned; and what its neighbours are worth."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.embeddings.drives import RATE_HZ, SIGNALS, VEHICLE, WINDOW, course, twin_lake
from tspace_core.config import load_vehicle
from tspace_core.config.embeddings import EmbeddingParameters, load_embeddings
from tspace_core.embeddings.base import ARRAYS, BLOCK, Encoder
from tspace_core.embeddings.quality import NeighbourQuality, neighbour_quality, situation_figures
from tspace_core.embeddings.registry import ENCODERS, load_encoder, new_encoder
from tspace_core.embeddings.run import list_episodes, quality_of
from tspace_core.errors import CheckpointError, RecordError, UnknownNameError
from tspace_core.storage import episodes_table
from tspace_core.storage.bucket_folder import MANIFEST
from tspace_core.storage.ingest import ingest_log
from tspace_core.storage.lake import Lake

Runs = list[NDArray[np.float32]]
RUNS: Runs = [course(60, seed) for seed in range(4)]


def fresh(kind: str, *, window: int = WINDOW, signals: tuple[str, ...] = SIGNALS, **more: object) -> Encoder:
    parameters = EmbeddingParameters.model_validate({"encoder": kind, "updates": 60, **more})
    return new_encoder(parameters, window=window, signals=signals, rate_hz=RATE_HZ)


def fitted(kind: str, runs: Runs = RUNS, **more: object) -> Encoder:
    encoder = fresh(kind, **more)  # type: ignore[arg-type]
    encoder.fit(iter(runs))
    return encoder


class EncoderContract:
    """Inherited by the tests of every kind."""

    kind: ClassVar[str]

    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls) -> Encoder:
        return fitted(cls.kind)

    def test_vectors_are_finite_and_of_unit_length(self, encoder: Encoder) -> None:
        windows = course(200, 9)
        vectors = encoder.encode(windows)
        assert vectors.shape == (201, encoder.dim)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)

    def test_a_window_has_the_same_vector_alone_and_among_others(self, encoder: Encoder) -> None:
        windows = np.concatenate([course(60, seed) for seed in range(BLOCK // 61 + 2)])
        vectors = encoder.encode(windows)
        for number in (0, BLOCK - 1, BLOCK, len(windows) - 1):
            np.testing.assert_allclose(
                encoder.encode(windows[number : number + 1])[0], vectors[number], atol=2e-5
            )

    def test_states_may_be_flat_as_in_records(self, encoder: Encoder) -> None:
        windows = course(5, 3)
        np.testing.assert_array_equal(encoder.encode(windows.reshape(6, -1)), encoder.encode(windows))

    def test_no_window_gives_no_vector(self, encoder: Encoder) -> None:
        assert encoder.encode(np.zeros((0, WINDOW, 3), np.float32)).shape == (0, encoder.dim)

    def test_equal_seeds_learn_equal_encoders(self, encoder: Encoder) -> None:
        again = fitted(self.kind)
        assert again.id == encoder.id
        np.testing.assert_array_equal(again.encode(RUNS[0]), encoder.encode(RUNS[0]))

    def test_other_data_make_another_encoder(self, encoder: Encoder) -> None:
        assert fitted(self.kind, RUNS[:3]).id != encoder.id

    def test_what_is_loaded_encodes_as_what_was_saved(self, encoder: Encoder, tmp_path: Path) -> None:
        manifest = encoder.save(tmp_path)
        found = load_encoder(tmp_path)
        assert (found.kind, found.dim, found.id) == (self.kind, manifest.dim, encoder.id)
        assert found.fits(WINDOW, SIGNALS, RATE_HZ)
        assert not found.fits(WINDOW, SIGNALS[:2], RATE_HZ)
        np.testing.assert_array_equal(found.encode(RUNS[1]), encoder.encode(RUNS[1]))

    @pytest.mark.parametrize("damage", ["torn", "one bit", "gone", "other manifest", "no manifest"])
    def test_a_damaged_file_is_refused_with_its_name(
        self, encoder: Encoder, tmp_path: Path, damage: str
    ) -> None:
        encoder.save(tmp_path)
        file, manifest = tmp_path / ARRAYS, tmp_path / MANIFEST
        content = file.read_bytes()
        if damage == "torn":
            file.write_bytes(content[:-10])
        elif damage == "one bit":
            file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        elif damage == "gone":
            file.unlink()
        elif damage == "other manifest":
            manifest.write_text(manifest.read_text().replace('"window": 30', '"window": "thirty"'))
        else:
            manifest.unlink()
        with pytest.raises(CheckpointError, match=r"encoder\.safetensors|manifest\.json") as error:
            load_encoder(tmp_path)
        assert "tspace embed --train" in str(error.value)

    def test_windows_of_another_layout_are_refused(self, encoder: Encoder) -> None:
        with pytest.raises(RecordError, match="expected 30 samples of velocity, thrust, brake"):
            encoder.encode(course(4, 1, signals=2))

    def test_a_window_with_nan_is_refused_by_number(self, encoder: Encoder) -> None:
        windows = course(6, 1)
        windows[4, 3, 1] = np.nan
        with pytest.raises(RecordError, match="window 4 of 7"):
            encoder.encode(windows)

    def test_nothing_to_learn_from_is_an_error(self) -> None:
        with pytest.raises(RecordError, match="no window"):
            fresh(self.kind).fit(iter([]))

    def test_signals_that_never_change_do_no_harm(self) -> None:
        runs = [np.zeros((20, WINDOW, 3), np.float32)]
        encoder = fitted(self.kind, runs)
        vectors = encoder.encode(np.concatenate([runs[0][:2], course(3, 1)]))
        assert np.isfinite(vectors).all()
        np.testing.assert_array_equal(vectors[0], vectors[1])

    def test_any_window_and_any_signals(self) -> None:
        windows = course(30, 2, window=7, signals=2)
        encoder = fitted(self.kind, [windows], window=7, signals=SIGNALS[:2])
        assert encoder.encode(windows).shape == (31, encoder.dim)

    def test_neighbours_are_much_alike_on_unseen_drives(self, encoder: Encoder) -> None:
        unseen = [course(80, seed) for seed in range(20, 24)]
        found = quality_of(encoder, unseen)
        assert found is not None
        assert found.mean < 0.35, found  # 1 is chance


class TestSequence(EncoderContract):
    kind = "sequence"

    def test_training_lowers_both_errors(self, encoder: Encoder) -> None:
        for name, losses in encoder.losses.items():
            assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10]), name

    def test_threads_do_not_matter_and_are_put_back(self, encoder: Encoder) -> None:
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            assert fitted(self.kind).id == encoder.id
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)


class TestStatistics(EncoderContract):
    kind = "statistics"


def test_every_kind_of_encoder_passes_the_contract() -> None:
    tested = {item.kind for item in EncoderContract.__subclasses__()}
    assert tested == set(ENCODERS)


def test_an_unknown_kind_names_those_there_are() -> None:
    with pytest.raises(UnknownNameError, match="sequence, statistics"):
        fresh("transformer")


def test_the_file_in_conf_is_that_of_the_defaults() -> None:
    assert load_embeddings() == EmbeddingParameters()


def _windows(lake: Lake, vehicle_id: str) -> Runs:
    return [
        episodes_table.read(item.path).states[: item.records].reshape(item.records, WINDOW, -1)
        for item in list_episodes(lake, vehicle_id)
    ]


def _compare(runs: Runs) -> dict[str, NeighbourQuality]:
    """Neighbours from other drives by both encoders, and by vectors that say nothing."""
    windows = np.concatenate(runs)
    groups = np.repeat(np.arange(len(runs)), [len(run) for run in runs])
    figures = situation_figures(windows, SIGNALS, RATE_HZ)
    chance = np.random.default_rng(0).normal(size=(len(windows), 8)).astype(np.float32)
    vectors = {kind: fitted(kind, runs, updates=250).encode(windows) for kind in ENCODERS} | {
        "chance": chance
    }
    found = {kind: neighbour_quality(vector, figures, groups) for kind, vector in vectors.items()}
    return {kind: quality for kind, quality in found.items() if quality is not None}


@pytest.fixture(scope="module")
def lakes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    yield twin_lake(tmp_path_factory.mktemp("twin"))


def test_neighbours_on_twin_drives_are_alike_on_the_road(lakes: Lake) -> None:
    found = _compare(_windows(lakes, VEHICLE))
    assert 0.8 < found["chance"].mean < 1.25  # the measure itself: noise is no better than chance
    for kind in ENCODERS:
        quality = found[kind]
        assert max(quality.speed, quality.pedal, quality.acceleration) < 0.4, (kind, quality)
    # What is learned must be worth its torch: closer in speed and pedal than the plain figures.
    assert found["sequence"].speed < found["statistics"].speed
    assert found["sequence"].mean < 1.1 * found["statistics"].mean


def test_neighbours_on_real_trips_are_alike_on_the_road(shared_data: Path, tmp_path: Path) -> None:
    lake, vehicle = Lake(tmp_path), load_vehicle("bmw_i3")
    for trip in ("TripA13", "TripA24", "TripB11"):
        ingest_log(lake, shared_data / "trips_bmw_i3" / f"{trip}.csv", vehicle)
    found = _compare(_windows(lake, vehicle.id))
    for kind in ENCODERS:
        quality = found[kind]
        assert max(quality.speed, quality.pedal, quality.acceleration) < 0.5, (kind, quality)
    assert found["sequence"].mean < 1.2 * found["statistics"].mean
