"""A lake in a bucket, through the pipeline's doors: sensors, assets, checks, and Dagster's own command."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from tests.conftest import PROJECT
from tests.objects.seaweed import S3
from tests.pipelines.conftest import VEHICLE, Pipeline, error_text, materialized
from tests.storage.boxes import Box
from tspace_core.config import load_vehicle, settings
from tspace_core.errors import ConfigError
from tspace_core.objects.path import S3Path
from tspace_core.storage.ingest import store_raw
from tspace_core.storage.lake import Lake
from tspace_pipelines.definitions import build
from tspace_pipelines.defs.raw_logs.resources import BoxesResource
from tspace_pipelines.defs.raw_logs.sensors import box_sensor
from tspace_pipelines.object_storage import ObjectStorageResource, object_storage
from tspace_pipelines.partitions import LOGS
from tspace_pipelines.resources import LakeResource

REMOTE = "twin_remote"
STAGES = ["raw_can_logs", "can_frames", "can_signals", "episodes"]


@pytest.fixture
def url(s3: S3, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty lake in a bucket that the settings lead to, with places for logs and windows beside it."""
    monkeypatch.setenv("TSPACE_LAKE_URL", f"{s3.url}/lake")
    monkeypatch.setenv("TSPACE_INBOX_URL", f"{s3.url}/inbox")
    monkeypatch.setenv("TSPACE_BOX_URL", f"{s3.url}/boxes")
    settings.cache_clear()
    return f"{s3.url}/lake"


@pytest.fixture
def there(url: str, data_dir: Path) -> Lake:
    return Lake(url, local=data_dir)


@pytest.fixture
def box(s3: S3, url: str) -> Box:
    return Box(S3Path(f"{s3.url}/boxes"), load_vehicle(REMOTE))


def tick(box: Box, instance: dg.DagsterInstance, lake: Lake, *, quiet_s: float = 60.0) -> dg.SensorResult:
    """One look, as a process that has just begun takes it."""
    from tspace_pipelines.defs.raw_logs import resources

    resources._collectors.clear()
    resources._unconfirmed.clear()
    with dg.build_sensor_context(
        instance=instance,
        resources={
            "lake": LakeResource(data_dir=str(lake.local), lake_url=str(lake.root)),
            "boxes": BoxesResource(url=str(box.root), quiet_s=quiet_s),
        },
    ) as context:
        result = box_sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def test_where_something_lies_in_a_bucket_it_is_watched(url: str) -> None:
    repository = build().get_repository_def()
    assert {"bucket_sensor", "box_sensor", "inbox_sensor"} <= {one.name for one in repository.sensor_defs}
    resources = repository.get_top_level_resources()
    assert {"s3", "lake", "bucket_inbox", "boxes"} <= set(resources)
    storage = object_storage()
    assert storage.get_client().meta.endpoint_url == settings().s3.endpoint


def test_a_storage_configured_elsewhere_is_refused(url: str) -> None:
    other = ObjectStorageResource(endpoint_url="http://127.0.0.1:1", region_name="us-east-1")
    with pytest.raises(ConfigError, match="TSPACE_S3__ENDPOINT"):
        other.get_client()


def test_a_log_becomes_episodes_and_a_replay_buffer_in_the_bucket(
    there: Lake, drive: Path, instance: dg.DagsterInstance
) -> None:
    log = store_raw(there, drive, load_vehicle(VEHICLE))
    instance.add_dynamic_partitions(str(LOGS.name), [log.key])
    pipeline = Pipeline(instance, build())
    done = pipeline.run(STAGES, log.key)
    assert done.success, error_text(done)
    assert materialized(done) == STAGES
    raw = pipeline.metadata("raw_can_logs", log.key)
    assert raw["path"] == str(log.path) and str(raw["path"]).startswith("s3://")
    assert raw["bytes"] == drive.stat().st_size
    signals = pipeline.metadata("can_signals", log.key)
    assert str(signals["path"]).startswith(str(there.root)) and signals["plot"]
    assert all(str(path).startswith("s3://") for path in pipeline.metadata("episodes", log.key)["paths"])
    built = pipeline.run(["replay_buffer"], VEHICLE)
    assert built.success, error_text(built)
    replay = pipeline.metadata("replay_buffer", VEHICLE)
    assert replay["records"] > 0 and str(replay["path"]).startswith(f"{there.root}/replay/")
    again = pipeline.run(STAGES, log.key)
    assert again.success and pipeline.metadata("episodes", log.key)["reused"] is True


def test_bad_signals_go_to_the_quarantine_of_the_bucket(
    there: Lake, drive: Path, instance: dg.DagsterInstance
) -> None:
    import polars as pl

    from tspace_core.objects.path import local_copy
    from tspace_core.storage.files import atomic_write

    log = store_raw(there, drive, load_vehicle(VEHICLE))
    instance.add_dynamic_partitions(str(LOGS.name), [log.key])
    pipeline = Pipeline(instance, build())
    assert pipeline.run(STAGES[:3], log.key).success
    path = there.signals(log)
    frame = pl.read_parquet(local_copy(path), hive_partitioning=False)
    with atomic_write(path) as temporary:
        frame.with_columns(pl.lit(999.0, pl.Float32).alias("velocity")).write_parquet(temporary)
    from tspace_pipelines.quarantine import check_signals

    _, bad = check_signals(there, log, load_vehicle(VEHICLE))
    (moved,) = bad
    assert str(moved).startswith(f"{there.root}/quarantine/signals/") and moved.is_file()
    assert not path.is_file() and moved.with_name(f"{moved.name}.reason.json").is_file()


def test_windows_of_a_box_become_episodes(there: Lake, box: Box, instance: dg.DagsterInstance) -> None:
    box.drive(0, 25)
    first = tick(box, instance, there)
    assert not first.run_requests and "25 windows fetched" in str(first.skip_reason)
    result = tick(box, instance, there, quiet_s=0.0)
    key = f"{REMOTE}/2026-01-05/box-070000.windows.jsonl.gz"
    (request,) = result.run_requests or []
    assert (request.partition_key, request.run_key) == (key, key)
    lost = tick(box, instance, there)
    assert [one.run_key for one in lost.run_requests or []] == [key], "a tick that was lost is made up for"
    instance.add_dynamic_partitions(str(LOGS.name), [key])
    assert not tick(box, instance, there).run_requests
    pipeline = Pipeline(instance, build())
    done = pipeline.run(STAGES, key)
    assert done.success, error_text(done)
    signals = pipeline.metadata("can_signals", key)
    # 25 windows of 4 s at 50 Hz; current 100 A + 80 A sin(t / 7) at 650 V over 100 s.
    assert signals["rows"] == 5000 and signals["format"] == "window_log"
    assert signals["energy_wh"] == pytest.approx(650 * (100 * 100 + 560 * 1.1383) / 3600, rel=0.01)
    episodes = pipeline.metadata("episodes", key)
    assert (episodes["episodes"], episodes["records"]) == (1, 12)
    assert pipeline.run(["replay_buffer"], REMOTE).success
    assert pipeline.metadata("replay_buffer", REMOTE)["records"] == 12


def dagster(home: Path, *arguments: str) -> str:
    """Run Dagster's command as a person does."""
    environment: dict[str, Any] = {**os.environ, "DAGSTER_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-m", "dagster", *arguments],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_dagsters_command_materializes_a_log_of_the_bucket(there: Lake, drive: Path, tmp_path: Path) -> None:
    log = store_raw(there, drive, load_vehicle(VEHICLE))
    home = tmp_path / "home"
    home.mkdir()
    module = ("-m", "tspace_pipelines.definitions")
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        instance.add_dynamic_partitions(str(LOGS.name), [log.key])
    dagster(home, "asset", "materialize", *module, "--select", ",".join(STAGES), "--partition", log.key)
    assert there.episodes(log) and all(path.is_file() for path in there.episodes(log))
