"""The engine behind a resource: assets train where the settings say."""

import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from tests.distributed.conftest import RAY_WARNINGS
from tests.pipelines.conftest import VEHICLE, Pipeline, error_text
from tspace_core.agents import Checkpoint
from tspace_core.config import load_vehicle, settings
from tspace_core.storage.ingest import ingest_log
from tspace_core.storage.lake import Lake
from tspace_pipelines.definitions import build

FEW = {"ops": {"ddpg_checkpoint": {"config": {"updates": 20, "repeat_records": True}}}}


@pytest.fixture
def learned(lake: Lake, drive: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """A lake with the drive's episodes; the engine is Ray."""
    ingest_log(lake, drive, load_vehicle(VEHICLE))
    monkeypatch.setenv("TSPACE_ENGINE__KIND", "ray")
    settings.cache_clear()
    return lake


@pytest.fixture
def short_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Ray's sockets lie below it."""
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    monkeypatch.setenv("TSPACE_ENGINE__TEMP_DIR", str(folder))
    settings.cache_clear()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_definitions_import_ray_only_where_it_is_the_engine(tmp_path: Path) -> None:
    code = (
        "import sys; from tspace_pipelines.definitions import build; build(); "
        "print(sorted({'ray', 'dagster_ray', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_a_cluster_that_does_not_answer_fails_the_step_and_says_what_to_do(
    learned: Lake, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("TSPACE_ENGINE__ADDRESS", f"127.0.0.1:{probe.getsockname()[1]}")
    settings.cache_clear()
    pipeline = Pipeline(instance, build())
    result = pipeline.run(["replay_buffer", "ddpg_checkpoint"], VEHICLE, FEW)
    assert not result.success
    assert "no Ray head answers" in error_text(result)
    assert "TSPACE_ENGINE__KIND=local" in error_text(result)
    assert not list(learned.root.glob("checkpoints/ddpg/*/*/manifest.json"))


@pytest.mark.slow
@pytest.mark.filterwarnings(RAY_WARNINGS)
def test_a_checkpoint_is_materialized_on_a_cluster_of_its_own(
    learned: Lake, instance: dg.DagsterInstance, short_folder: Path
) -> None:
    pipeline = Pipeline(instance, build())
    result = pipeline.run(["replay_buffer", "ddpg_checkpoint"], VEHICLE, FEW)
    assert result.success, error_text(result)
    shown = pipeline.metadata("ddpg_checkpoint", VEHICLE)
    assert shown["engine"] == "ray"
    assert shown["updates"] == 20
    assert Checkpoint(Path(shown["path"])).manifest.step == 20
    import ray

    assert not ray.is_initialized(), "the step left its cluster"
