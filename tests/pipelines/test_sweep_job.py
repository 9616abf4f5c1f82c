"""A sweep through Dagster: trials in an environment and in the twin, read back from MLflow."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from typer.testing import CliRunner

from tests.agents.scored import VEHICLE, drive
from tests.conftest import PROJECT
from tests.pipelines.conftest import error_text
from tspace_core.agents.tracking import prepare_store
from tspace_core.agents.tracking_client import client_of
from tspace_core.cli import app
from tspace_core.config import load_vehicle, settings
from tspace_core.distributed import LocalEngine
from tspace_core.storage.lake import Lake
from tspace_core.storage.replay import build_replay
from tspace_pipelines.definitions import build

TINY: dict[str, Any] = {
    "agent": "ddpg",
    "space": {
        "actor_learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "actor_hidden": {"choices": [[8], [8, 8]]},
        "batch_size": {"choices": [16, 32]},
    },
    "trials": 2,
    "objective": {
        "kind": "gymnasium",
        "environment": "Pendulum-v1",
        "steps": 120,
        "warm_up": 50,
        "evaluate_every": 60,
        "episodes": 1,
    },
}
TWIN: dict[str, Any] = {
    **TINY,
    "objective": {
        "kind": "twin",
        "updates": 4,
        "evaluations": 2,
        "seeds": [0],
        "cycle": "hwfet",
        "repeat_records": True,
    },
}


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data folder with a tracking store, and a copy of conf with tiny sweeps."""
    shutil.copytree(PROJECT / "conf", tmp_path / "conf")
    for name, content in (("tiny", TINY), ("twin", TWIN)):
        (tmp_path / "conf" / "sweeps" / f"{name}.yaml").write_text(yaml.safe_dump(content))
    for name in ("conf", "data", "out", "inbox"):
        monkeypatch.setenv(f"TSPACE_{name.upper()}_DIR", str(tmp_path / name))
    settings.cache_clear()
    prepare_store(settings().tracking_uri)
    yield tmp_path / "data"
    settings.cache_clear()


def carry_out(instance: dg.DagsterInstance, **config: Any) -> dg.ExecuteInProcessResult:
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    ops = {"sweep_hyperparameters": {"config": config}}
    job = build().resolve_job_def("hyperparameter_sweep")
    return job.execute_in_process(instance=instance, run_config={**quiet, "ops": ops}, raise_on_error=False)


def test_a_sweep_in_an_environment(instance: dg.DagsterInstance, data_dir: Path) -> None:
    result = carry_out(instance, sweep="tiny")
    assert result.success, error_text(result)
    (event,) = (item for item in result.all_events if item.event_type_value == "ASSET_OBSERVATION")
    shown = {
        name: item.value for name, item in event.asset_observation_data.asset_observation.metadata.items()
    }
    assert "| 1 | complete |" in str(shown["trials"]) and Path(str(shown["proposal"])).is_file()
    client = client_of(settings().tracking_uri)
    parent = client.get_run(shown["mlflow_run"])
    assert parent.info.status == "FINISHED" and parent.data.tags["sweep"] == "tiny"
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'"
    )
    assert sorted(run.data.tags["trial"] for run in children) == ["0", "1"]
    for run in children:
        assert run.info.status == "FINISHED"
        assert run.data.metrics["objective"] < 0 and run.data.metrics["evaluation"] < 0
        assert len(client.get_metric_history(run.info.run_id, "evaluation")) == 2
    best = max(children, key=lambda run: run.data.metrics["objective"])
    assert shown["best_value"] == best.data.metrics["objective"] == parent.data.metrics["best"]

    again = CliRunner().invoke(app, ["tune", "tiny", "--trials", "3"])
    assert again.exit_code == 0 and "best: trial" in again.stdout, again.output
    assert "trial 3 of 3" in again.stderr and "trial 2 of" not in again.stderr, "two are there already"
    waits = CliRunner().invoke(app, ["track"])
    assert waits.exit_code == 0 and waits.stdout.strip() == "nothing waits"


def test_a_sweep_judged_by_the_twin(
    instance: dg.DagsterInstance, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    plain = LocalEngine.train_offline

    def counted(self: LocalEngine, *args: Any, **options: Any) -> Any:
        trained.append(options["updates"])
        return plain(*args, **options)

    monkeypatch.setattr(LocalEngine, "train_offline", counted)
    lake, vehicle = Lake(data_dir), load_vehicle(VEHICLE)
    build_replay(lake.replay(VEHICLE), [drive(vehicle, f"{VEHICLE}/2026-01-05/a.blf", 0, 20)])
    result = carry_out(instance, sweep="twin", vehicle=VEHICLE, trials=1)
    assert result.success, error_text(result)
    client = client_of(settings().tracking_uri)
    experiment = client.get_experiment_by_name("tspace/sweeps")
    assert experiment is not None
    (child,) = client.search_runs([experiment.experiment_id], "tags.trial = '0'")
    savings = client.get_metric_history(child.info.run_id, "saving_percent")
    assert [point.step for point in savings] == [2, 4]
    assert savings[-1].value == child.data.metrics["objective"]
    assert trained == [2, 4], "the engine of the settings carries the trainings out"
    assert -20 < savings[-1].value < 20
    assert (data_dir / "sweeps" / f"twin-{VEHICLE}" / "best.yaml").is_file()


def test_what_is_wrong_is_said(instance: dg.DagsterInstance, data_dir: Path) -> None:
    unknown = carry_out(instance, sweep="nothing")
    assert not unknown.success and "no sweep named 'nothing'" in error_text(unknown)
    without = carry_out(instance, sweep="twin")
    assert not without.success and "name the vehicle" in error_text(without)
    empty = carry_out(instance, sweep="twin", vehicle=VEHICLE)
    assert not empty.success and "holds no replay buffer" in error_text(empty)
