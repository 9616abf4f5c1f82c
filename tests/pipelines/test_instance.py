"""dagster.yaml, workspace.yaml and the command line, as a person and CI use them."""

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import yaml

from tests.conftest import PROJECT
from tests.pipelines.conftest import VEHICLE, put
from tspace_core.storage.lake import Lake
from tspace_pipelines.online_requests import VEHICLE_TAG

KEY = f"{VEHICLE}/2026-01-05/short.blf"


def test_the_instance_lies_with_its_lake(tmp_path: Path, data_dir: Path) -> None:
    """DAGSTER_HOME holds the project's dagster.yaml, and nothing is written there.

    It is a folder of the test's own: what other processes write into the project's is not this instance's.
    """
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").symlink_to(PROJECT / "dagster.yaml")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.add_dynamic_partitions("logs", [KEY])
        assert Path(instance.storage_directory()).is_relative_to(data_dir / "dagster")
        assert Path(instance.schedules_directory()).is_relative_to(data_dir / "dagster")
    assert list((data_dir / "dagster").rglob("*.db"))
    assert [path.name for path in home.iterdir()] == ["dagster.yaml"]
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert instance.get_dynamic_partitions("logs") == [KEY]


def test_settings_of_the_instance(data_dir: Path) -> None:
    with dg.DagsterInstance.from_config(str(PROJECT)) as instance:
        assert not instance.telemetry_enabled and not instance.nux_enabled
        assert not instance.run_retries_enabled
        concurrency = instance.get_concurrency_config()
        assert concurrency.pool_config.default_pool_limit == 1
        queue = concurrency.run_queue_config
        assert queue is not None and queue.max_concurrent_runs == 30
        assert queue.tag_concurrency_limits == [
            *(
                {"key": "tspace/lane", "value": lane, "limit": limit}
                for lane, limit in (("logs", 2), ("replay", 2), ("training", 1))
            ),
            {"key": VEHICLE_TAG, "value": {"applyLimitPerUniqueValue": True}, "limit": 1},
        ]


def test_workspace_names_the_definitions() -> None:
    (entry,) = yaml.safe_load((PROJECT / "workspace.yaml").read_text())["load_from"]
    assert entry["python_module"]["module_name"] == "tspace_pipelines.definitions"
    assert entry["python_module"]["working_directory"] == "."


def test_command_line(tmp_path: Path, data_dir: Path, drive: Path) -> None:
    """What the documentation says: drop a log, register it, materialize its partition."""
    put(drive, tmp_path / "inbox" / VEHICLE)
    environment = {**os.environ, "DAGSTER_HOME": str(PROJECT), "PYTHONPATH": str(PROJECT)}

    def dagster(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "dagster", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stderr + done.stdout

    inbox_age = 'ops: {}\nresources: {inbox: {config: {folder: "%s", min_age_s: 0}}}' % (tmp_path / "inbox")
    (tmp_path / "now.yaml").write_text(inbox_age)
    module = ("-m", "tspace_pipelines.definitions")
    said = dagster("job", "execute", *module, "-j", "register_logs", "-c", "now.yaml")
    assert f"1 raw logs, 1 new partitions: {KEY}" in said
    chain = "raw_can_logs,can_frames,can_signals,episodes"
    said = dagster("asset", "materialize", *module, "--select", chain, "--partition", KEY)
    assert "RUN_SUCCESS" in said
    assert Lake(data_dir).episodes()
