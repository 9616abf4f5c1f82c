"""From episodes to a replay buffer, an agent and its evaluation through Dagster."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from tests.pipelines.conftest import VEHICLE, Pipeline, error_text
from tspace_core.agents import Checkpoint
from tspace_core.agents.offline_run import latest_agent, train_agent
from tspace_core.config import load_vehicle
from tspace_core.errors import CheckpointError
from tspace_core.storage.ingest import ingest_log, store_raw
from tspace_core.storage.lake import Lake
from tspace_core.storage.replay import Replay
from tspace_pipelines.definitions import build
from tspace_pipelines.defs.training.resources import RetrainingResource
from tspace_pipelines.defs.training.schedules import nightly_retraining
from tspace_pipelines.metadata import MAX_PLOT_BYTES
from tspace_pipelines.partitions import LOGS
from tspace_pipelines.resources import LakeResource

FEW = {"ops": {"ddpg_checkpoint": {"config": {"updates": 20, "repeat_records": True}}}}


@pytest.fixture
def learned(lake: Lake, drive: Path, tracking_store: Path) -> Lake:
    """A lake with the drive's episodes."""
    ingest_log(lake, drive, load_vehicle(VEHICLE))
    shutil.copyfile(tracking_store, lake.local / "mlflow.db")
    return lake


def test_replay_buffer(pipeline: Pipeline, learned: Lake) -> None:
    result = pipeline.run(["replay_buffer"], VEHICLE)
    assert result.success, error_text(result)
    replay = Replay.open(learned.replay(VEHICLE))
    replay.verify()
    shown = pipeline.metadata("replay_buffer", VEHICLE)
    assert shown["records"] == len(replay) > 10
    assert (shown["version"], shown["reused"]) == ("000001", False)
    assert shown["reward_min"] <= shown["reward_mean"] <= shown["reward_max"]
    assert shown["plot"].startswith("![") and len(shown["plot"]) < MAX_PLOT_BYTES
    assert pipeline.run(["replay_buffer"], VEHICLE).success
    again = pipeline.metadata("replay_buffer", VEHICLE)
    assert (again["version"], again["reused"]) == ("000001", True)


def test_no_episodes_no_buffer(pipeline: Pipeline) -> None:
    result = pipeline.run(["replay_buffer"], VEHICLE)
    assert not result.success
    assert "needs at least one" in error_text(result)


def test_training_gives_a_checkpoint_and_a_tracked_run(
    pipeline: Pipeline, learned: Lake, data_dir: Path
) -> None:
    result = pipeline.run(["replay_buffer", "ddpg_checkpoint"], VEHICLE, FEW)
    assert result.success, error_text(result)
    shown = pipeline.metadata("ddpg_checkpoint", VEHICLE)
    assert Checkpoint(Path(shown["path"])).manifest.step == 20 == shown["updates"]
    assert shown["path"] == str(latest_agent(learned, VEHICLE).checkpoint)
    assert shown["plot"].startswith("![") and len(shown["plot"]) < MAX_PLOT_BYTES

    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{data_dir / 'mlflow.db'}")
    run = client.get_run(shown["mlflow_run"])
    assert run.info.status == "FINISHED"
    assert run.data.params["updates"] == "20" and run.data.tags["vehicle"] == VEHICLE
    assert run.data.metrics["critic_loss"] == pytest.approx(shown["critic_loss"])


def test_the_same_training_is_not_done_twice(pipeline: Pipeline, learned: Lake) -> None:
    for _ in range(2):
        result = pipeline.run(["replay_buffer", "ddpg_checkpoint"], VEHICLE, FEW)
        assert result.success, error_text(result)
    assert pipeline.metadata("ddpg_checkpoint", VEHICLE)["resumed_from"] == 20
    assert len(list((learned.root / "checkpoints" / "ddpg").glob(f"{VEHICLE}-*"))) == 1


def test_another_seed_is_another_run(pipeline: Pipeline, learned: Lake) -> None:
    from tspace_core.storage import episodes_table
    from tspace_core.storage.replay import build_replay

    build_replay(learned.replay(VEHICLE), map(episodes_table.read, learned.episodes()))
    first = train_agent(learned, VEHICLE, updates=5, repeat_records=True)
    other = train_agent(learned, VEHICLE, updates=5, seed=7, repeat_records=True)
    assert first.run != other.run
    assert latest_agent(learned, VEHICLE) == other


def test_training_without_a_buffer_says_what_to_do(pipeline: Pipeline) -> None:
    result = pipeline.run(["ddpg_checkpoint"], VEHICLE)
    assert not result.success
    assert "holds no replay buffer" in error_text(result)


def test_evaluation_without_an_agent_says_what_to_do(pipeline: Pipeline, lake: Lake) -> None:
    result = pipeline.run(["policy_evaluation"], VEHICLE)
    assert not result.success
    assert "materialize ddpg_checkpoint first" in error_text(result)
    with pytest.raises(CheckpointError, match="no agent was trained"):
        latest_agent(lake, VEHICLE)


def test_evaluation_in_the_twin(pipeline: Pipeline, learned: Lake, tmp_path: Path) -> None:
    drivers = ["habitual"]
    chosen = {"drivers": drivers, "seeds": [3], "cycle": "us06", "static_generations": 0, "report": "here"}
    config = {
        "ops": {
            **FEW["ops"],
            "policy_evaluation": {"config": chosen},
        }
    }
    result = pipeline.run(["replay_buffer", "ddpg_checkpoint", "policy_evaluation"], VEHICLE, config)
    assert "release_bar" in error_text(result), "an agent of 20 updates, driven once, may not be released"
    shown = pipeline.metadata("policy_evaluation", VEHICLE)
    assert shown["twin"] is True and shown["drivers"] == drivers and shown["seeds"] == [3]
    assert all(name in shown["candidates"] for name in ("default", "minus_budget", "random", "ddpg"))
    assert shown["finding"].startswith("ddpg ")
    report = tmp_path / "out" / "here" / "report.html"
    assert shown["report"] == str(report)
    page = report.read_text()
    assert shown["run"] in page and "short.blf" in page and "critic" in page
    summary = json.loads((report.parent / "summary.json").read_text())
    assert [item["name"] for item in summary["candidates"]][-1] == "ddpg"


def real_trip(shared_data: Path) -> Path:
    return min((shared_data / "trips_bmw_i3").rglob("*.csv"), key=lambda path: path.stat().st_size)


def test_a_vehicle_without_twin_is_reported_honestly(
    pipeline: Pipeline,
    lake: Lake,
    instance: dg.DagsterInstance,
    shared_data: Path,
    tracking_store: Path,
) -> None:
    """Real trips all the way through Dagster, to an agent that cannot be driven."""
    log = store_raw(lake, real_trip(shared_data), load_vehicle("bmw_i3"))
    instance.add_dynamic_partitions(str(LOGS.name), [log.key])
    shutil.copyfile(tracking_store, lake.local / "mlflow.db")
    chain = ["raw_can_logs", "can_frames", "can_signals", "episodes"]
    result = pipeline.run(chain, log.key)
    assert result.success, error_text(result)
    assert "path" not in pipeline.metadata("can_frames", log.key), "a trip table has no frames"
    result = pipeline.run(["replay_buffer", "ddpg_checkpoint", "policy_evaluation"], "bmw_i3", FEW)
    assert result.success, error_text(result)
    shown = pipeline.metadata("policy_evaluation", "bmw_i3")
    assert shown["twin"] is False and "no proof of a saving" in shown["what_this_is"]
    assert shown["records"] == pipeline.metadata("replay_buffer", "bmw_i3")["records"]
    assert 0.0 <= shown["share_of_states_where_policy_is_valued_higher"] <= 1.0
    estimate = shown["off_policy"]["ddpg"]
    assert estimate["records"] == shown["records"] and 0.0 <= estimate["coverage"] <= 1.0
    assert any("only closed-loop drives show a saving" in caveat for caveat in estimate["caveats"])
    assert shown["off_policy_finding"].startswith("ddpg: ")
    assert "verdict" not in shown and "saving_percent" not in shown


def test_catalogue(pipeline: Pipeline, learned: Lake, data_dir: Path) -> None:
    result = pipeline.run(["catalogue"], None)
    assert result.success, error_text(result)
    shown = pipeline.metadata("catalogue")
    assert shown["path"] == str(data_dir / "catalogue.duckdb")
    rows = {
        line.split("|")[1].strip(): line.split("|")[2].strip() for line in shown["views"].splitlines()[2:]
    }
    assert rows["logs"] == "1" and int(rows["episodes"]) == len(learned.episodes()) and rows["replay"] == "0"
    assert shown["files_read"] == shown["files"] > 0 and shown["damaged"] == "none"
    assert "| driver | week |" in shown["energy_per_km"]
    assert pipeline.run(["catalogue"], None).success
    assert pipeline.metadata("catalogue")["files_read"] == 0, "nothing has changed"


class TestNightly:
    """The schedule asks for vehicles whose episodes their last agent has not seen."""

    @pytest.fixture
    def instance(self, instance_on_disk: dg.DagsterInstance) -> dg.DagsterInstance:
        return instance_on_disk

    def evaluate(self, lake: Lake, instance: dg.DagsterInstance) -> Any:
        with dg.build_schedule_context(
            instance=instance,
            scheduled_execution_time=datetime(2026, 3, 1, 1, 30, tzinfo=UTC),
            repository_def=build().get_repository_def(),
            resources={
                "lake": LakeResource(data_dir=str(lake.root)),
                "retraining": RetrainingResource(),
            },
        ) as context:
            return nightly_retraining.evaluate_tick(context)

    def test_nothing_to_learn_from(self, lake: Lake, instance: dg.DagsterInstance) -> None:
        found = self.evaluate(lake, instance)
        assert not found.run_requests and "no vehicle has episodes" in found.skip_message

    def test_new_episodes(self, learned: Lake, instance: dg.DagsterInstance) -> None:
        found = self.evaluate(learned, instance)
        assert [(item.partition_key, item.run_key) for item in found.run_requests] == [
            (VEHICLE, f"{VEHICLE}#2026-03-01")
        ]

    def test_not_again_after_training(
        self, learned: Lake, instance: dg.DagsterInstance, pipeline: Pipeline
    ) -> None:
        assert pipeline.run(["replay_buffer", "ddpg_checkpoint"], VEHICLE, FEW).success
        assert not self.evaluate(learned, instance).run_requests
