"""Situations in Dagster: what the assets show, and that only new episodes are encoded."""

from pathlib import Path

import dagster as dg
import pytest

from tests.pipelines.conftest import VEHICLE, Pipeline, error_text, put
from tspace_core.config import load_vehicle
from tspace_core.config.embeddings import EmbeddingParameters
from tspace_core.config.replay import ReplayParameters
from tspace_core.embeddings.run import train_encoder
from tspace_core.storage.embeddings import EmbeddingTable
from tspace_core.storage.ingest import ingest_log
from tspace_core.storage.lake import Lake
from tspace_core.storage.replay import Replay

ASSETS = ["situation_encoder", "situation_embeddings"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train no longer than a test needs."""
    quickly = EmbeddingParameters(updates=30)
    monkeypatch.setattr("tspace_core.config.embeddings.load_embeddings", lambda: quickly)


@pytest.mark.usefixtures("quick")
def test_situations_of_new_episodes_are_embedded(
    pipeline: Pipeline, lake: Lake, drive: Path, tmp_path: Path
) -> None:
    ingest_log(lake, drive, load_vehicle(VEHICLE))
    assert pipeline.run(ASSETS, VEHICLE).success
    trained = pipeline.metadata("situation_encoder", VEHICLE)
    assert trained["kind"] == "sequence"
    assert trained["dim"] == 32
    assert 0 < trained["neighbour_speed_difference"] < 0.7
    assert "data:image/png;base64" in trained["plot"]
    first = pipeline.metadata("situation_embeddings", VEHICLE)
    assert first["rows"] == first["new_rows"] == first["dagster/row_count"] > 20
    assert first["encoder"] == trained["encoder"]
    assert "data:image/png;base64" in first["plot"]

    assert pipeline.run(["situation_embeddings"], VEHICLE).success
    again = pipeline.metadata("situation_embeddings", VEHICLE)
    assert (again["rows"], again["new_rows"], again["version"]) == (first["rows"], 0, first["version"])

    second = put(drive, tmp_path / "more", "later.blf", journal=False)
    with second.open("ab") as file:  # another content is another log
        file.write(b"\0" * 16)
    ingest_log(lake, second, load_vehicle(VEHICLE), date="2026-02-01")
    assert pipeline.run(["situation_embeddings"], VEHICLE).success
    more = pipeline.metadata("situation_embeddings", VEHICLE)
    assert more["new_episodes"] >= 1
    assert more["rows"] == first["rows"] + more["new_rows"]
    assert len(EmbeddingTable(lake, VEHICLE).sources()) == more["episodes"]


def test_without_an_encoder_the_step_says_what_to_do(pipeline: Pipeline, lake: Lake) -> None:
    result = pipeline.run(["situation_embeddings"], VEHICLE)
    assert not result.success
    assert "materialize situation_encoder" in error_text(result)
    result = pipeline.run(["situation_encoder"], VEHICLE)
    assert "tspace ingest" in error_text(result)


def test_an_encoder_may_be_chosen_at_the_launchpad(pipeline: Pipeline, lake: Lake, drive: Path) -> None:
    ingest_log(lake, drive, load_vehicle(VEHICLE))
    config = {"ops": {"situation_encoder": {"config": {"encoder": "statistics"}}}}
    assert pipeline.run(["situation_encoder"], VEHICLE, config).success
    assert pipeline.metadata("situation_encoder", VEHICLE)["kind"] == "statistics"


def test_the_assets_follow_the_episodes(pipeline: Pipeline) -> None:
    graph = pipeline.definitions.resolve_asset_graph()
    parents = graph.get(dg.AssetKey("situation_embeddings")).parent_keys
    assert parents == {dg.AssetKey("episodes"), dg.AssetKey("situation_encoder")}


def test_replay_thins_by_config_and_says_so(
    pipeline: Pipeline, lake: Lake, drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same drive recorded twice, under two names, gives the records of one."""
    ingest_log(lake, drive, load_vehicle(VEHICLE))
    second = put(drive, tmp_path / "more", "copy.blf")
    with second.open("ab") as file:
        file.write(b"\0" * 16)  # else the lake knows it already
    ingest_log(lake, second, load_vehicle(VEHICLE), date="2026-02-01")
    assert pipeline.run(["replay_buffer"], VEHICLE).success
    whole = pipeline.metadata("replay_buffer", VEHICLE)
    assert whole["thinning"] == "none"
    assert "thinned_records" not in whole

    def thin(**how: object) -> None:
        parameters = ReplayParameters.model_validate({"thin": how})
        monkeypatch.setattr("tspace_core.config.replay.load_replay_parameters", lambda: parameters)

    thin(kind="exact")
    assert pipeline.run(["replay_buffer"], VEHICLE).success
    half = pipeline.metadata("replay_buffer", VEHICLE)
    assert half["records"] == half["thinned_records"] == whole["records"] / 2
    assert half["thinned_because"] == "equal to an earlier record"
    assert half["version"] != whole["version"]
    Replay.open(lake.replay(VEHICLE)).verify()

    thin(kind="near", distance=0.05)
    result = pipeline.run(["replay_buffer"], VEHICLE)
    assert not result.success
    assert "situation_encoder" in error_text(result)
    train_encoder(lake, VEHICLE, EmbeddingParameters(encoder="statistics"))
    assert pipeline.run(["replay_buffer"], VEHICLE).success
    near = pipeline.metadata("replay_buffer", VEHICLE)
    assert 0 < near["records"] <= half["records"]
    assert "within 0.05" in near["thinned_because"]
