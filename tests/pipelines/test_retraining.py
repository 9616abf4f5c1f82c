"""The agents of an installation are retrained together: by the sensor, by night, and once."""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from tests.pipelines.conftest import VEHICLE, Pipeline, error_text, materialized
from tspace_core.config import load_vehicle, settings
from tspace_core.storage.ingest import ingest_log, store_raw
from tspace_core.storage.lake import Lake
from tspace_pipelines.definitions import build
from tspace_pipelines.defs.training.resources import RetrainingResource
from tspace_pipelines.defs.training.schedules import nightly_retraining
from tspace_pipelines.defs.training.sensors import retraining_sensor
from tspace_pipelines.partitions import LOGS
from tspace_pipelines.resources import LakeResource

AGENTS = ["ddpg", "idql"]
FEW = {"config": {"updates": 2, "repeat_records": True}}
DRIVEN = {"drivers": ["habitual"], "seeds": [3], "cycle": "us06", "static_generations": 0}
CONFIG = {
    "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
    "ops": {
        **{f"{agent}_checkpoint": FEW for agent in AGENTS},
        "policy_evaluation": {"config": DRIVEN},
    },
}


@pytest.fixture
def instance(instance_on_disk: dg.DagsterInstance) -> dg.DagsterInstance:
    return instance_on_disk


@pytest.fixture
def pipeline(
    instance: dg.DagsterInstance, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Pipeline:
    """An installation that uses two agents, one of them small."""
    conf = tmp_path / "conf"
    shutil.copytree(settings().conf_dir, conf)
    small = {"value_hidden": [8], "actor_width": 8, "actor_blocks": 1, "samples": 2, "batch_size": 32}
    (conf / "hyperparameters" / "idql.yaml").write_text(yaml.safe_dump(small))
    monkeypatch.setenv("TSPACE_CONF_DIR", str(conf))
    monkeypatch.setenv("TSPACE_RETRAINING__AGENTS", '["ddpg", "idql"]')
    settings.cache_clear()
    return Pipeline(instance, build())


class Ticks:
    """The sensor and the schedule, asked as the daemon asks them."""

    def __init__(self, instance: dg.DagsterInstance, lake: Lake) -> None:
        self._instance, self._lake = instance, lake
        self._cursor: str | None = None
        self._retraining = RetrainingResource(agents=AGENTS, new_episodes=1)

    def sensor(self) -> tuple[list[dg.RunRequest], str]:
        """What the sensor asks for, and why it does not."""
        context = dg.build_sensor_context(
            instance=self._instance,
            cursor=self._cursor,
            definitions=build(),
            resources={"retraining": self._retraining},
        )
        result = retraining_sensor(context)
        assert isinstance(result, dg.SensorResult)
        self._cursor = result.cursor
        why = result.skip_reason.skip_message if result.skip_reason else ""
        return list(result.run_requests or []), str(why)

    def night(self) -> tuple[list[dg.RunRequest], str]:
        """What the schedule asks for, and why it does not."""
        with dg.build_schedule_context(
            instance=self._instance,
            scheduled_execution_time=datetime(2026, 3, 1, 1, 30, tzinfo=UTC),
            repository_def=build().get_repository_def(),
            resources={
                "lake": LakeResource(data_dir=str(self._lake.root)),
                "retraining": self._retraining,
            },
        ) as context:
            found = nightly_retraining.evaluate_tick(context)
        return list(found.run_requests or []), str(found.skip_message)


def carry_out(pipeline: Pipeline, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
    """The run of a request, as the daemon starts it."""
    return pipeline.definitions.resolve_job_def("retrain").execute_in_process(
        instance=pipeline.instance,
        partition_key=request.partition_key,
        tags=dict(request.tags),
        run_config=CONFIG,
        raise_on_error=False,
    )


def test_new_episodes_retrain_all_agents_of_the_installation_once(
    pipeline: Pipeline, lake: Lake, drive: Path, instance: dg.DagsterInstance, tracking_store: Path
) -> None:
    lake.local.mkdir(parents=True)
    shutil.copyfile(tracking_store, lake.local / "mlflow.db")
    ticks = Ticks(instance, lake)
    assert ticks.sensor() == ([], "new checked episodes: none; 1 start a retraining of ddpg, idql")
    assert ticks.night() == ([], "no vehicle has episodes that the last agents (ddpg, idql) have not seen")
    log = store_raw(lake, drive, load_vehicle(VEHICLE))
    instance.add_dynamic_partitions(str(LOGS.name), [log.key])
    assert pipeline.run(["raw_can_logs", "can_frames", "can_signals", "episodes"], log.key).success

    (night,), _ = ticks.night()
    assert (night.partition_key, night.run_key) == (VEHICLE, f"{VEHICLE}#2026-03-01")
    (request,), _ = ticks.sensor()
    assert request.partition_key == VEHICLE
    assert ticks.sensor()[0] == [], "asked for once"

    waits = instance.add_run(dg.DagsterRun(job_name="retrain", tags={"dagster/partition": VEHICLE}))
    asked, why = ticks.night()
    assert asked == [] and why.endswith(f"; {VEHICLE} has some, but run {waits.run_id} is not over")
    instance.report_run_canceled(waits)

    result = carry_out(pipeline, request)
    assert result.success, error_text(result)
    assert materialized(result) == [
        "replay_buffer",
        "ddpg_checkpoint",
        "idql_checkpoint",
        "policy_evaluation",
    ]
    assert [item.check_name for item in result.get_asset_check_evaluations()] == []
    shown: dict[str, Any] = pipeline.metadata("policy_evaluation", VEHICLE)
    assert all(f"| {agent} |" in shown["candidates"] for agent in AGENTS)
    assert ticks.night()[0] == ticks.sensor()[0] == []


def test_the_night_asks_where_one_of_the_agents_is_behind(
    lake: Lake, drive: Path, instance: dg.DagsterInstance
) -> None:
    ingest_log(lake, drive, load_vehicle(VEHICLE))
    ticks = Ticks(instance, lake)
    for agent in AGENTS:
        assert [item.partition_key for item in ticks.night()[0]] == [VEHICLE]
        instance.report_runless_asset_event(dg.AssetMaterialization(f"{agent}_checkpoint", partition=VEHICLE))
    assert ticks.night()[0] == []
