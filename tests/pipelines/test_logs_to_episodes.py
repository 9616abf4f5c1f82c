"""From a raw log to checked episodes through Dagster."""

from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from tests.pipelines.conftest import VEHICLE, Pipeline, error_text, materialized
from tspace_core.config import load_vehicle
from tspace_core.objects.path import AnyPath, local_copy
from tspace_core.storage import episodes_table
from tspace_core.storage.ingest import ingest_log, store_raw
from tspace_core.storage.lake import Lake, RawLog
from tspace_pipelines.metadata import MAX_PLOT_BYTES
from tspace_pipelines.partitions import LOGS

CHAIN = ["raw_can_logs", "can_frames", "can_signals", "episodes"]


def table_of(path: AnyPath) -> pl.DataFrame:
    return pl.read_parquet(local_copy(path))


def test_a_log_becomes_episodes(pipeline: Pipeline, lake: Lake, stored: RawLog) -> None:
    result = pipeline.run(CHAIN, stored.key)
    assert result.success, error_text(result)
    assert materialized(result) == CHAIN
    checks = {item.check_name: item.passed for item in result.get_asset_check_evaluations()}
    assert checks == {"signals_schema": True, "episodes_schema": True}
    assert lake.frames(stored).is_file() and lake.signals(stored).is_file() and lake.episodes(stored)


def test_assets_show_what_a_person_would_ask(pipeline: Pipeline, lake: Lake, stored: RawLog) -> None:
    assert pipeline.run(CHAIN, stored.key).success
    raw = pipeline.metadata("raw_can_logs", stored.key)
    assert (raw["format"], raw["vehicle"], raw["date"]) == ("blf", VEHICLE, "2026-01-05")
    assert raw["bytes"] == stored.path.stat().st_size and raw["flash_journal"] is True

    frames = pipeline.metadata("can_frames", stored.key)
    assert frames["dagster/row_count"] == frames["frames"] == table_of(lake.frames(stored)).height
    assert frames["path"] == str(lake.frames(stored))
    assert frames["dropped_frames"] == 0

    signals = pipeline.metadata("can_signals", stored.key)
    assert signals["dagster/row_count"] == table_of(lake.signals(stored)).height
    assert "velocity" in signals["signals"] and "km/h" in signals["signals"]
    assert signals["energy_wh"] > 0

    episodes = pipeline.metadata("episodes", stored.key)
    assert episodes["records"] == sum(len(episodes_table.read(path)) for path in lake.episodes(stored))
    for shown in (signals, episodes):
        assert shown["plot"].startswith("![") and len(shown["plot"]) < MAX_PLOT_BYTES


def test_the_result_is_that_of_the_bare_functions(
    pipeline: Pipeline, lake: Lake, stored: RawLog, drive: Path, tmp_path: Path
) -> None:
    assert pipeline.run(CHAIN, stored.key).success
    bare = Lake(tmp_path / "bare")
    result = ingest_log(bare, drive, load_vehicle(VEHICLE))
    assert table_of(lake.signals(stored)).equals(table_of(bare.signals(result.raw)))
    ours, theirs = lake.episodes(stored), bare.episodes(result.raw)
    assert [path.name for path in ours] == [path.name for path in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert table_of(mine).equals(table_of(other))


def test_a_second_run_reuses_everything(pipeline: Pipeline, stored: RawLog) -> None:
    assert pipeline.run(CHAIN, stored.key).success
    before = stored.path.parents[3] / "frames"
    times = {path: path.stat().st_mtime_ns for path in before.rglob("*.parquet")}
    assert pipeline.run(CHAIN, stored.key).success
    assert {path: path.stat().st_mtime_ns for path in before.rglob("*.parquet")} == times
    assert all(pipeline.metadata(asset, stored.key)["reused"] for asset in CHAIN[1:])


def test_a_changed_raw_log_stops_the_run(pipeline: Pipeline, stored: RawLog) -> None:
    local_copy(stored.path).chmod(0o644)
    with stored.path.open("ab") as file:
        file.write(b"more")
    result = pipeline.run(CHAIN, stored.key)
    assert not result.success
    assert materialized(result) == []
    assert "has changed since it was stored" in error_text(result)


def test_a_partition_without_a_log_says_so(pipeline: Pipeline, instance: dg.DagsterInstance) -> None:
    key = f"{VEHICLE}/2026-01-05/gone.blf"
    instance.add_dynamic_partitions(str(LOGS.name), [key])
    result = pipeline.run(["raw_can_logs"], key)
    assert not result.success
    assert f"no raw log '{key}'" in error_text(result)


def test_frames_are_needed_before_signals(pipeline: Pipeline, stored: RawLog) -> None:
    result = pipeline.run(["can_signals"], stored.key)
    assert not result.success
    assert "store_frames" in error_text(result)


@pytest.mark.parametrize(
    ("vehicle_id", "path"),
    [
        ("leaf_gen1", "can/leaf_gen1/leaf_on_wotind_off.txt"),
        ("ioniq28", "can/ioniq28/IONIQ_PCAN_leave_car_while_drive_ready_beep.csv"),
    ],
)
def test_real_logs(
    pipeline: Pipeline,
    lake: Lake,
    instance: dg.DagsterInstance,
    shared_data: Path,
    vehicle_id: str,
    path: str,
) -> None:
    log = store_raw(lake, shared_data / path, load_vehicle(vehicle_id))
    instance.add_dynamic_partitions(str(LOGS.name), [log.key])
    result = pipeline.run(CHAIN, log.key)
    assert result.success, error_text(result)
    assert pipeline.metadata("can_frames", log.key)["frames"] > 1000
    assert "velocity" in pipeline.metadata("can_signals", log.key)["signals"]
