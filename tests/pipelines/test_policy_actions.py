"""Batch inference through Dagster: a range of logs in one run, its metadata and its check."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow.parquet as pq
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from tests.agents.scored import VEHICLE, drive, put_agent, put_episodes
from tests.pipelines.conftest import Pipeline, error_text
from tspace_core.agents.release import release_agent
from tspace_core.agents.scoring_table import read_scores
from tspace_core.config import load_vehicle
from tspace_core.storage.lake import Lake
from tspace_pipelines.metadata import MAX_PLOT_BYTES
from tspace_pipelines.partitions import LOGS

KEYS = [f"{VEHICLE}/2026-01-0{day}/drive.blf" for day in (5, 6, 7)]
ASSET = dg.AssetKey("policy_actions")


@pytest.fixture
def agent(lake: Lake) -> str:
    put_agent(lake.checkpoints("ddpg", "mine") / "00000007", load_vehicle(VEHICLE))
    return "ddpg/mine/00000007"


@pytest.fixture
def driven(lake: Lake, instance: dg.DagsterInstance) -> Lake:
    vehicle = load_vehicle(VEHICLE)
    for number, key in enumerate(KEYS):
        put_episodes(lake, key, [drive(vehicle, key, k, 15, seed=number) for k in range(2)])
    instance.add_dynamic_partitions(str(LOGS.name), KEYS)
    return lake


def run(
    pipeline: Pipeline, agent: str | None, last: str = KEYS[-1], **check: float
) -> dg.ExecuteInProcessResult:
    """A run over the logs up to ``last``, as a backfill of one run does it."""
    ops: dict[str, Any] = {"policy_actions": {"config": {"checkpoint": agent} if agent else {}}}
    ops["policy_actions_policy_actions_plausible"] = {"config": check}
    return pipeline.definitions.resolve_job_def("score_policy").execute_in_process(
        instance=pipeline.instance,
        tags={ASSET_PARTITION_RANGE_START_TAG: KEYS[0], ASSET_PARTITION_RANGE_END_TAG: last},
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}, "ops": ops},
        raise_on_error=False,
    )


def checks(result: dg.ExecuteInProcessResult) -> Iterator[dg.AssetCheckEvaluation]:
    return iter(result.get_asset_check_evaluations())


def test_a_range_of_logs_is_one_run(pipeline: Pipeline, driven: Lake, agent: str) -> None:
    result = run(pipeline, agent)
    assert result.success, error_text(result)
    assert pipeline.instance.get_materialized_partitions(ASSET) == set(KEYS)
    for key in KEYS:
        shown = pipeline.metadata("policy_actions", key)
        table = read_scores(Path(shown["path"]))
        assert shown["records"] == shown["dagster/row_count"] == len(table) == 30
        assert shown["q_proposal"] == pytest.approx(table.column("q_proposal").to_numpy().mean(), rel=1e-5)
        assert 0 < shown["clipped"] < 1 and 0 < shown["distance"] <= shown["distance_p99"] + 0.01
        assert (shown["run"], shown["step"], shown["reused"]) == ("mine", 7, False)
        assert ("plot" in shown) == (key == KEYS[-1]), "one picture a run"
    last = pipeline.metadata("policy_actions", KEYS[-1])
    assert last["plot"].startswith("![") and len(last["plot"]) < MAX_PLOT_BYTES
    assert (last["run_logs"], last["run_records"]) == (3, 90) and last["run_records_per_s"] > 0
    (check,) = checks(result)
    assert check.passed and check.metadata["records"].value == 90


def test_again_nothing_is_done(pipeline: Pipeline, driven: Lake, agent: str) -> None:
    assert run(pipeline, agent).success
    before = {path: path.stat().st_mtime_ns for path in Path(str(driven.root)).rglob("*.parquet")}
    assert run(pipeline, agent).success
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert pipeline.metadata("policy_actions", KEYS[0])["reused"] is True


def test_one_log(pipeline: Pipeline, driven: Lake, agent: str) -> None:
    config = {"ops": {"policy_actions": {"config": {"checkpoint": agent}}}}
    result = pipeline.run(["policy_actions"], KEYS[1], config)
    assert result.success, error_text(result)
    assert pipeline.instance.get_materialized_partitions(ASSET) == {KEYS[1]}
    assert pipeline.metadata("policy_actions", KEYS[1])["plot"].startswith("![")


def test_a_torn_log_does_not_take_the_others_with_it(pipeline: Pipeline, driven: Lake, agent: str) -> None:
    torn = Path(str(driven.episodes(driven.log_of(KEYS[1]))[0]))
    content = torn.read_bytes()
    torn.write_bytes(content[:-100])
    result = run(pipeline, agent)
    assert not result.success and torn.name in error_text(result)
    assert pipeline.instance.get_materialized_partitions(ASSET) == {KEYS[0], KEYS[2]}
    torn.write_bytes(content)
    assert run(pipeline, agent).success
    assert pipeline.instance.get_materialized_partitions(ASSET) == set(KEYS)


def test_without_an_agent(pipeline: Pipeline, driven: Lake) -> None:
    result = run(pipeline, None)
    assert not result.success and f"no agent was trained for {VEHICLE}" in error_text(result)


def test_a_vehicle_without_an_agent_costs_only_its_own_logs(
    pipeline: Pipeline, driven: Lake, agent: str
) -> None:
    other, key = load_vehicle("twin_mule"), "twin_mule/2026-01-05/drive.blf"
    put_episodes(driven, key, [drive(other, key, 0, 5)])
    release_agent(driven, load_vehicle(VEHICLE), driven.root / "checkpoints" / agent, by="somebody")
    pipeline.instance.add_dynamic_partitions(str(LOGS.name), [key])
    result = run(pipeline, None, last=key)
    assert not result.success and "no agent was trained for twin_mule" in error_text(result)
    assert pipeline.instance.get_materialized_partitions(ASSET) == set(KEYS)


def test_a_new_agent_makes_no_log_stale(pipeline: Pipeline, driven: Lake, agent: str) -> None:
    """Least of all those of other vehicles: Dagster cannot tell them apart."""
    for version in ("one", "another"):
        new = dg.AssetMaterialization(
            "ddpg_checkpoint", partition="twin_mule", tags={"dagster/data_version": version}
        )
        pipeline.instance.report_runless_asset_event(new)
        if version == "one":
            assert run(pipeline, agent).success
    graph = pipeline.definitions.resolve_asset_graph()
    context = LoadingContextForTest(pipeline.instance)
    told = CachingStaleStatusResolver(pipeline.instance, graph, context)
    causes = [cause for key in KEYS for cause in told.get_stale_causes(ASSET, key)]
    assert not [cause for cause in causes if "ddpg_checkpoint" in str(cause.dependency)]


class TestCheck:
    """It looks at what is stored, not at what the run says of itself."""

    def test_a_value_that_is_not_finite(self, pipeline: Pipeline, driven: Lake, agent: str) -> None:
        assert run(pipeline, agent).success
        path = Path(pipeline.metadata("policy_actions", KEYS[1])["path"])
        metadata = pq.read_metadata(path).metadata
        table = read_scores(path)
        values = table.column("q_behaviour").to_numpy().copy()
        values[3] = np.nan
        place = table.column_names.index("q_behaviour")
        spoilt = table.set_column(place, table.schema.field(place), [values])
        with pq.ParquetWriter(path, spoilt.schema) as writer:
            writer.write_table(spoilt)
            writer.add_key_value_metadata({b"tspace": metadata[b"tspace"]})
        result = run(pipeline, agent)  # what is stored is current, so it is only checked again
        assert not result.success
        (check,) = checks(result)
        assert not check.passed and check.severity is dg.AssetCheckSeverity.ERROR
        assert KEYS[1] in str(check.description) and "q_behaviour" in str(check.description)

    def test_too_much_clipped(self, pipeline: Pipeline, driven: Lake, agent: str) -> None:
        result = run(pipeline, agent, most_clipped=0.01)
        (check,) = checks(result)
        assert result.success and check.severity is dg.AssetCheckSeverity.WARN
        assert not check.passed and "the limit is 1 %" in str(check.description)


def test_a_range_from_the_command_line(lake: Lake, agent: str, tmp_path: Path) -> None:
    """``dagster asset materialize --partition-range``; the partitions have to be known to its instance."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    vehicle = load_vehicle(VEHICLE)
    for key in KEYS:
        put_episodes(lake, key, [drive(vehicle, key, 0, 5)])
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.add_dynamic_partitions(str(LOGS.name), KEYS)
    config = f"{{ops: {{policy_actions: {{config: {{checkpoint: {agent}}}}}}}}}"
    (tmp_path / "run.yaml").write_text(config)
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "tspace_pipelines.definitions"]
    chosen = ["--select", "policy_actions", "--partition-range", f"{KEYS[0]}...{KEYS[1]}"]
    done = subprocess.run(
        [*command, *chosen, "-c", str(tmp_path / "run.yaml")],
        env={**os.environ, "DAGSTER_HOME": str(home)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert instance.get_materialized_partitions(ASSET) == set(KEYS[:2])
