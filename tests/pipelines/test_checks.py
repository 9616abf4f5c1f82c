"""What fails its check is quarantined with the reason, and nothing downstream sees it."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pyarrow.parquet as pq
import pytest

from tests.pipelines.conftest import VEHICLE, Pipeline, error_text, materialized
from tspace_core.config import load_vehicle
from tspace_core.errors import ObjectExistsError
from tspace_core.objects.path import AnyPath, local_copy, local_folder
from tspace_core.storage import frames_table
from tspace_core.storage.files import write_text
from tspace_core.storage.frames_table import METADATA_KEY
from tspace_core.storage.lake import Lake, RawLog, read_json_version
from tspace_pipelines import quarantine
from tspace_pipelines.defs.raw_logs.checks import signals_schema
from tspace_pipelines.metadata import clear_failure
from tspace_pipelines.resources import LakeResource

CHAIN = ["raw_can_logs", "can_frames", "can_signals", "episodes"]


def spoil(path: Path, *columns: pl.Expr) -> None:
    """Change columns of a Parquet file and keep its metadata, as a bug would."""
    schema = pq.read_schema(path)
    metadata = {METADATA_KEY: pq.read_metadata(path).metadata[METADATA_KEY]}
    table = pl.read_parquet(path, glob=False, hive_partitioning=False).with_columns(*columns).to_arrow()
    pq.write_table(table.cast(schema).replace_schema_metadata(metadata), path)


def reasons(lake: Lake, kind: str) -> list[str]:
    """Reasons of what is in the quarantine."""
    notes = sorted(local_folder(lake.root / "quarantine" / kind).glob("*.reason.json"))
    return [json.loads(note.read_text())["reason"] for note in notes]


def test_bad_signals_stop_the_way_to_episodes(pipeline: Pipeline, lake: Lake, stored: RawLog) -> None:
    assert pipeline.run(["raw_can_logs", "can_frames", "can_signals"], stored.key).success
    path = lake.signals(stored)
    spoil(local_copy(path), pl.lit(900.0).cast(pl.Float32).alias("velocity"))
    result = pipeline.run(["can_signals", "episodes"], stored.key)
    assert not result.success
    assert materialized(result) == ["can_signals"], error_text(result)
    (evaluation,) = result.get_asset_check_evaluations()
    assert (evaluation.check_name, evaluation.passed) == ("signals_schema", False)
    assert not path.exists()
    (reason,) = reasons(lake, "signals")
    assert "velocity" in reason and "900" in reason and stored.key in reason
    assert reason in str(evaluation.metadata["quarantined"].value)


def test_signals_are_made_anew_after_the_quarantine(pipeline: Pipeline, lake: Lake, stored: RawLog) -> None:
    assert pipeline.run(["raw_can_logs", "can_frames", "can_signals"], stored.key).success
    spoil(local_copy(lake.signals(stored)), pl.lit(-1.0).cast(pl.Float32).alias("thrust_age_s"))
    assert not pipeline.run(["can_signals", "episodes"], stored.key).success
    result = pipeline.run(["can_signals", "episodes"], stored.key)
    assert result.success, error_text(result)
    assert lake.episodes(stored)


def test_signals_that_cannot_hold_their_schema_are_never_stored(
    pipeline: Pipeline, lake: Lake, stored: RawLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tspace_core.errors import SchemaError
    from tspace_core.records import schemas

    def refuse(frame: pl.DataFrame, vehicle: object, *, place: str) -> None:
        message = f"{place}: column velocity is wrong"
        raise SchemaError(message)

    assert pipeline.run(["raw_can_logs", "can_frames"], stored.key).success
    monkeypatch.setattr(schemas, "validate_signals", refuse)
    result = pipeline.run(["can_signals", "episodes"], stored.key)
    assert not result.success and materialized(result) == []
    assert not lake.signals(stored).exists()
    assert any("velocity is wrong" in reason for reason in reasons(lake, "signals"))


def test_bad_episodes_are_withdrawn(pipeline: Pipeline, lake: Lake, stored: RawLog) -> None:
    assert pipeline.run(CHAIN, stored.key).success
    path = lake.episodes(stored)[0]
    spoil(local_copy(path), (pl.col("reward") * float("inf")).alias("reward"))
    result = pipeline.run(["episodes"], stored.key)
    assert not result.success
    (evaluation,) = result.get_asset_check_evaluations()
    assert not evaluation.passed
    assert path not in lake.episodes(stored)
    assert evaluation.metadata["episodes"].value == len(lake.episodes(stored))
    (reason,) = reasons(lake, "episodes")
    assert "reward" in reason and path.name in reason
    assert pipeline.run(["episodes"], stored.key).success, "made anew from the same signals"
    assert path.exists() and not pipeline.metadata("episodes", stored.key)["reused"]


def test_episodes_made_anew_during_their_check_stay_as_they_are(
    pipeline: Pipeline, lake: Lake, stored: RawLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pipeline.run(CHAIN, stored.key).success
    path, manifest = lake.episodes(stored)[0], lake.episodes_manifest(stored)
    spoil(local_copy(path), (pl.col("reward") * float("inf")).alias("reward"))
    read = read_json_version

    def overtaken(place: AnyPath) -> tuple[dict[str, Any], str]:
        found = read(place)
        write_text(place, json.dumps({**found[0], "anew": True}))
        return found

    monkeypatch.setattr(quarantine, "read_json_version", overtaken)
    with pytest.raises(ObjectExistsError):
        quarantine.check_episodes(lake, stored, load_vehicle(VEHICLE))
    assert read(manifest)[0]["anew"]
    assert path in lake.episodes(stored), "what the new manifest names is there"


def test_bad_episodes_do_not_reach_the_replay_buffer(pipeline: Pipeline, lake: Lake, stored: RawLog) -> None:
    assert pipeline.run(CHAIN, stored.key).success
    for path in lake.episodes(stored):
        spoil(local_copy(path), (pl.col("reward") * float("inf")).alias("reward"))
    assert not pipeline.run(["episodes"], stored.key).success
    result = pipeline.run(["replay_buffer"], VEHICLE)
    assert not result.success
    assert "no episode was given" in error_text(result)


def test_a_check_without_partition_looks_at_every_log(pipeline: Pipeline, lake: Lake, stored: RawLog) -> None:
    assert pipeline.run(CHAIN, stored.key).success
    rows = len(pl.read_parquet(local_copy(lake.signals(stored))))
    context = dg.build_asset_check_context()
    outcome = signals_schema(context, LakeResource(data_dir=str(lake.root)))
    assert isinstance(outcome, dg.AssetCheckResult)
    assert outcome.passed
    assert outcome.metadata["rows"].value == rows
    assert outcome.metadata["logs"].value == 1


def test_the_metadata_survives_spoiling(lake: Lake, pipeline: Pipeline, stored: RawLog) -> None:
    """The helper of these tests must not be what the check trips over."""
    assert pipeline.run(["raw_can_logs", "can_frames", "can_signals"], stored.key).success
    before = frames_table.read_metadata(lake.signals(stored))
    spoil(local_copy(lake.signals(stored)), pl.col("velocity"))
    assert frames_table.read_metadata(lake.signals(stored)) == before
    assert pipeline.run(["can_signals"], stored.key).success


def test_foreign_errors_are_not_dressed_up() -> None:
    with pytest.raises(ZeroDivisionError), clear_failure():
        _ = 1 / 0
