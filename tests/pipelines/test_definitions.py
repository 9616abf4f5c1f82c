"""What Dagster loads: all definitions as one readable literal, loadable, and light to import."""

import json
import subprocess
import sys
from typing import Any, cast

import dagster as dg
import pytest

from tests.conftest import PROJECT
from tspace_core.config import vehicle_ids
from tspace_pipelines.definitions import build, defs
from tspace_pipelines.partitions import VEHICLES

HEAVY = (
    "torch",
    "mlflow",
    "pandera",
    "matplotlib",
    "polars",
    "pyarrow",
    "numba",
    "can",
    "cantools",
    "lancedb",
    "optuna",
)

EXPECTED: dict[str, Any] = {
    "assets": {
        "raw_can_logs": ("raw_logs", [], "logs", None),
        "can_frames": ("raw_logs", ["raw_can_logs"], "logs", None),
        "can_signals": ("raw_logs", ["can_frames"], "logs", None),
        "episodes": ("episodes", ["can_signals"], "logs", None),
        "replay_buffer": ("replay", ["episodes"], "vehicles", None),
        "situation_encoder": ("embeddings", ["episodes"], "vehicles", None),
        "situation_embeddings": ("embeddings", ["episodes", "situation_encoder"], "vehicles", None),
        "ddpg_checkpoint": ("training", ["replay_buffer"], "vehicles", None),
        "rdpg_checkpoint": ("training", ["replay_buffer"], "vehicles", None),
        "idql_checkpoint": ("training", ["replay_buffer"], "vehicles", None),
        "policy_evaluation": (
            "evaluation",
            ["ddpg_checkpoint", "idql_checkpoint", "rdpg_checkpoint"],
            "vehicles",
            None,
        ),
        "policy_release": ("evaluation", ["policy_evaluation"], "vehicles", None),
        "policy_actions": (
            "inference",
            ["ddpg_checkpoint", "episodes", "idql_checkpoint", "rdpg_checkpoint"],
            "logs",
            None,
        ),
        "catalogue": (
            "catalogue",
            [
                *("can_frames", "can_signals", "ddpg_checkpoint", "episodes"),
                *("idql_checkpoint", "rdpg_checkpoint", "replay_buffer"),
            ],
            None,
            "duckdb",
        ),
    },
    "automated": ["catalogue", "episodes"],
    "fresh": ["ddpg_checkpoint", "policy_evaluation", "replay_buffer"],
    "checks": {
        "can_signals": ["signals_schema"],
        "episodes": ["episodes_schema"],
        "policy_actions": ["policy_actions_plausible"],
        "policy_evaluation": ["release_bar"],
        "policy_release": ["registry_in_step"],
    },
    "jobs": {
        "apply_retention": {"tspace/lane": "logs"},
        "build_replay_buffer": {"tspace/lane": "replay"},
        "embed_situations": {"tspace/lane": "embeddings"},
        "evaluate_and_release": {"tspace/lane": "training"},
        "hyperparameter_sweep": {"tspace/lane": "training"},
        "logs_to_episodes": {"tspace/lane": "logs"},
        "online_episodes": {"dagster/max_retries": "0", "tspace/lane": "online"},
        "refresh_catalogue": {},
        "register_logs": {"tspace/lane": "logs"},
        "retrain": {"tspace/lane": "training"},
        "score_policy": {"tspace/lane": "training"},
        "train_all_agents": {"tspace/lane": "training"},
    },
    "sensors": {
        "automation": (30, "RUNNING", []),
        "inbox_sensor": (15, "RUNNING", ["logs_to_episodes"]),
        "online_sensor": (2, "RUNNING", ["online_episodes"]),
        "replay_sensor": (30, "RUNNING", ["build_replay_buffer"]),
        "retraining_sensor": (60, "RUNNING", ["retrain"]),
    },
    "schedules": {
        "nightly_retention": ("15 3 * * *", "UTC", "STOPPED", "apply_retention"),
        "nightly_retraining": ("30 1 * * *", "UTC", "RUNNING", "retrain"),
    },
    "resources": ["duckdb", "engine", "inbox", "lake", "online", "reports", "retraining", "tracking"],
}


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return build()


def found(definitions: dg.Definitions) -> dict[str, Any]:
    repository = definitions.get_repository_def()
    nodes = {node.key.to_user_string(): node for node in repository.asset_graph.asset_nodes}
    kinds = {
        dg.DynamicPartitionsDefinition: "logs",
        dg.StaticPartitionsDefinition: "vehicles",
        type(None): None,
    }
    checks: dict[str, list[str]] = {}
    for key in repository.asset_graph.asset_check_keys:
        checks.setdefault(key.asset_key.to_user_string(), []).append(key.name)
    jobs = [job for job in repository.get_all_jobs() if not job.name.startswith("__")]
    return {
        "assets": {
            name: (
                node.group_name,
                sorted(key.to_user_string() for key in node.parent_keys),
                kinds[type(node.partitions_def)],
                next(iter(node.pools or ()), None),
            )
            for name, node in nodes.items()
        },
        "automated": sorted(name for name, node in nodes.items() if node.automation_condition),
        "fresh": sorted(name for name, node in nodes.items() if node.freshness_policy),
        "checks": checks,
        "jobs": {job.name: dict(job.tags) for job in jobs},
        "sensors": {
            sensor.name: (
                sensor.minimum_interval_seconds,
                sensor.default_status.value,
                [target.job_name for target in sensor.targets] if sensor.name != "automation" else [],
            )
            for sensor in repository.sensor_defs
        },
        "schedules": {
            schedule.name: (
                schedule.cron_schedule,
                schedule.execution_timezone,
                schedule.default_status.value,
                schedule.job_name,
            )
            for schedule in repository.schedule_defs
        },
        "resources": sorted(definitions.resources or {}),
    }


def test_all_definitions(definitions: dg.Definitions) -> None:
    assert found(definitions) == EXPECTED


def test_definitions_load() -> None:
    dg.Definitions.validate_loadable(build())


def test_every_asset_says_what_it_is(definitions: dg.Definitions) -> None:
    for node in definitions.get_repository_def().asset_graph.asset_nodes:
        assert node.description and len(node.description) > 20, node.key
        assert node.owners == ["team:tspace"]
        assert node.kinds, node.key
        assert "layer" in node.tags, node.key


def test_every_check_blocks(definitions: dg.Definitions) -> None:
    graph = definitions.get_repository_def().asset_graph
    assert all(graph.get(key).blocking for key in graph.asset_check_keys)


def test_steps_run_in_process(definitions: dg.Definitions) -> None:
    assert definitions.executor is dg.in_process_executor


def test_vehicles_are_those_of_conf() -> None:
    assert VEHICLES.get_partition_keys() == vehicle_ids()


def test_definitions_are_built_once() -> None:
    """Dagster asks for them six times a command."""
    first, again = (cast("Any", defs).load_fn() for _ in range(2))
    assert isinstance(first, dg.Definitions)
    assert first is again


def test_import_is_light() -> None:
    code = (
        "import sys, json, tspace_pipelines.definitions as d; d.build(); "
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    output = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout
    assert json.loads(output) == []
