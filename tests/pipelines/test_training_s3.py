"""The assets on a lake in a bucket: from episodes to an agent with its pictures, schedule and catalogue."""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from typer.testing import CliRunner

from tests.objects.seaweed import S3
from tests.pipelines.conftest import VEHICLE, Pipeline, error_text
from tspace_core.agents import Checkpoint
from tspace_core.agents.offline_run import latest_agent
from tspace_core.cli import app
from tspace_core.config import load_vehicle, settings
from tspace_core.objects.path import S3Path, local_folder
from tspace_core.storage.champion import champion
from tspace_core.storage.ingest import ingest_log
from tspace_core.storage.lake import Lake, lake_from_settings
from tspace_core.storage.replay import Replay
from tspace_pipelines.definitions import build
from tspace_pipelines.defs.training.schedules import nightly_retraining

CONFIG = {
    "ops": {
        "ddpg_checkpoint": {"config": {"updates": 20, "repeat_records": True}},
        "policy_evaluation": {
            "config": {
                "drivers": ["habitual"],
                "seeds": [3],
                "cycle": "us06",
                "static_generations": 0,
                "report": "here",
            }
        },
    }
}


@pytest.fixture
def data_dir(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What stays on this machine; the lake is in the bucket."""
    for name in ("data", "out", "inbox"):
        monkeypatch.setenv(f"TSPACE_{name.upper()}_DIR", str(tmp_path / name))
    monkeypatch.setenv("TSPACE_LAKE_URL", f"{s3.url}/lake")
    monkeypatch.delenv("MLFLOW_S3_ENDPOINT_URL", raising=False)
    settings.cache_clear()
    yield tmp_path / "data"
    os.environ.pop("MLFLOW_S3_ENDPOINT_URL", None)
    settings.cache_clear()


@pytest.fixture
def instance(instance_on_disk: dg.DagsterInstance) -> dg.DagsterInstance:
    return instance_on_disk


@pytest.fixture
def lake(data_dir: Path, drive: Path, tmp_path: Path) -> Lake:
    """A lake with the drive's episodes."""
    found = lake_from_settings()
    ingest_log(found, drive, load_vehicle(VEHICLE))
    return found


def asked(instance: dg.DagsterInstance) -> list[str | None]:
    """Vehicles that the nightly schedule wants to train."""
    repository = build().get_repository_def()
    with dg.build_schedule_context(
        instance=instance,
        scheduled_execution_time=datetime(2026, 3, 1, 1, 30, tzinfo=UTC),
        repository_def=repository,
        resources={name: repository.get_top_level_resources()[name] for name in ("lake", "retraining")},
    ) as context:
        return [item.partition_key for item in nightly_retraining.evaluate_tick(context).run_requests or ()]


def test_from_episodes_to_a_released_agent(
    lake: Lake, instance: dg.DagsterInstance, pipeline: Pipeline, data_dir: Path, s3: S3
) -> None:
    assert asked(instance) == [VEHICLE]
    result = pipeline.run(["replay_buffer", "ddpg_checkpoint", "policy_evaluation"], VEHICLE, CONFIG)
    assert "release_bar" in error_text(result), "an agent of 20 updates, driven once, may not be released"
    assert asked(instance) == []

    buffer = pipeline.metadata("replay_buffer", VEHICLE)
    replay = Replay.open(lake.replay(VEHICLE))
    replay.verify()
    assert buffer["path"] == f"{lake.root}/replay/{VEHICLE}/000001"
    assert buffer["records"] == len(replay) > 10
    assert buffer["bytes"] == sum(path.stat().st_size for path in local_folder(replay.directory).iterdir())

    shown = pipeline.metadata("ddpg_checkpoint", VEHICLE)
    path = latest_agent(lake, VEHICLE).checkpoint
    assert shown["path"] == str(path)
    assert str(path).startswith(f"{lake.root}/checkpoints/ddpg/")
    assert Checkpoint(path).manifest.step == 20

    evaluated = pipeline.metadata("policy_evaluation", VEHICLE)
    assert evaluated["finding"].startswith("ddpg ")
    assert Path(evaluated["report"]).is_file()
    check_pictures(shown["mlflow_run"], lake)
    check_commands(lake, path)

    result = pipeline.run(["catalogue"], None)
    assert result.success, error_text(result)
    views = pipeline.metadata("catalogue")["views"]
    assert "| replay | 1 |" in views
    assert f"| records | {buffer['records'] + buffer['episodes']} |" in views
    assert (data_dir / "catalogue.duckdb").is_file()
    assert {item.name for item in lake.root.iterdir()} == {
        *("raw", "frames", "signals", "episodes", "replay", "checkpoints", "metrics", "mlflow", "units"),
        "evaluations",
    }


def check_pictures(run_id: str, lake: Lake) -> None:
    """What MLflow keeps of a run can be read back, from the bucket."""
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=settings().tracking_uri)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.artifact_uri.startswith(f"{lake.root}/mlflow/")
    assert [item.path for item in client.list_artifacts(run_id)] == ["map_change.png"]
    picture = Path(client.download_artifacts(run_id, "map_change.png"))
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert (S3Path(run.info.artifact_uri) / "map_change.png").read_bytes() == picture.read_bytes()


def check_commands(lake: Lake, path: object) -> None:
    """What a person asks on the command line is answered from the bucket."""

    def call(*arguments: str) -> str:
        told = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
        assert told.exit_code == 0, told.output
        return told.output

    assert "champion: ddpg" in call(
        "release", "--vehicle", VEHICLE, "--by", "test", "--without-evaluation", "a trial"
    )
    released = champion(lake, VEHICLE)
    assert released is not None
    assert released.source == str(path).removeprefix(f"{lake.root}/")
    assert "by test" in call("release", "--vehicle", VEHICLE, "--show")
    assert VEHICLE in call("vehicles")
    rows = call("catalogue", "SELECT agent, run, path FROM checkpoints ORDER BY agent", "--json")
    found = [json.loads(line) for line in rows.splitlines()]
    assert [item["agent"] for item in found] == ["champion", "ddpg"]
    assert found[1]["path"] == str(path)
