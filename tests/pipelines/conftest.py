"""A data folder, a Dagster instance and a short recorded drive for the tests of the pipeline."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest

from tspace_core.config import load_vehicle, settings
from tspace_core.storage.files import sha256
from tspace_core.storage.ingest import store_raw
from tspace_core.storage.lake import JOURNAL_SUFFIX, Lake, RawLog
from tspace_core.twin.exploration import SmoothExploration
from tspace_core.twin.recorder import record_drive
from tspace_core.twin.route import make_route
from tspace_pipelines.definitions import build
from tspace_pipelines.partitions import LOGS

VEHICLE = "twin_truck"


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty data folder that the settings point to."""
    monkeypatch.setenv("TSPACE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("TSPACE_OUT_DIR", str(tmp_path / "out"))
    monkeypatch.setenv("TSPACE_INBOX_DIR", str(tmp_path / "inbox"))
    settings.cache_clear()
    yield tmp_path / "data"
    settings.cache_clear()


@pytest.fixture
def lake(data_dir: Path) -> Lake:
    return Lake(data_dir)


@pytest.fixture
def inbox(tmp_path: Path, data_dir: Path) -> Path:
    folder = tmp_path / "inbox"
    (folder / VEHICLE).mkdir(parents=True)
    return folder


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as found:
        yield found


@pytest.fixture
def instance_on_disk(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A schedule's context reaches its instance by reference only, so it has to lie on disk."""
    (tmp_path / "instance").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "instance")) as found:
        yield found


@pytest.fixture(scope="session")
def tracking_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty tracking store: MLflow takes seconds to make one."""
    from tspace_core.agents.tracking import prepare_store

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    prepare_store(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drive of two minutes with flashes, as the twin records it; its journal lies beside it."""
    seconds = np.arange(0.0, 121.0)
    speed = np.interp(seconds, [0, 5, 30, 60, 80, 110, 120], [0, 0, 12, 15, 6, 14, 0])
    route = make_route("short", seconds, speed)
    path = tmp_path_factory.mktemp("drive") / "short.blf"
    vehicle = load_vehicle(VEHICLE)
    record_drive(vehicle, "tracker", route, 1, path, SmoothExploration(vehicle, 1))
    return path


def put(drive: Path, folder: Path, name: str = "short.blf", *, journal: bool = True) -> Path:
    """Copy the drive into a folder under a name."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / name
    shutil.copyfile(drive, target)
    if journal:
        shutil.copyfile(drive.with_name(drive.name + JOURNAL_SUFFIX), target.with_name(name + JOURNAL_SUFFIX))
    return target


@dataclass
class Pipeline:
    """The definitions and an instance, to carry out assets with."""

    instance: dg.DagsterInstance
    definitions: dg.Definitions

    def run(
        self, assets: list[str], partition: str | None, config: dict[str, Any] | None = None
    ) -> dg.ExecuteInProcessResult:
        """Materialize assets with their checks, as the UI does."""
        selection = dg.AssetSelection.assets(*assets)
        job = dg.define_asset_job("chosen", selection=selection)
        merged = dg.Definitions.merge(self.definitions, dg.Definitions(jobs=[job]))
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        return merged.resolve_job_def("chosen").execute_in_process(
            instance=self.instance,
            partition_key=partition,
            run_config={**quiet, **(config or {})},
            raise_on_error=False,
        )

    def metadata(self, asset: str, partition: str | None = None) -> dict[str, Any]:
        """Metadata of the newest materialization."""
        chosen = dg.AssetRecordsFilter(
            asset_key=dg.AssetKey(asset), asset_partitions=[partition] if partition else None
        )
        record = self.instance.fetch_materializations(chosen, limit=1).records[0]
        assert record.asset_materialization is not None
        return {name: value.value for name, value in record.asset_materialization.metadata.items()}


@pytest.fixture
def pipeline(instance: dg.DagsterInstance, data_dir: Path) -> Pipeline:
    return Pipeline(instance, build())


@pytest.fixture
def stored(lake: Lake, drive: Path, instance: dg.DagsterInstance) -> RawLog:
    """The drive in the lake, with its partition."""
    log = store_raw(lake, drive, load_vehicle(VEHICLE))
    instance.add_dynamic_partitions(str(LOGS.name), [log.key])
    assert sha256(log.path) == sha256(drive)
    return log


def materialized(result: dg.ExecuteInProcessResult) -> list[str]:
    """Names of the assets that a run materialized, in order."""
    return [
        event.asset_key.to_user_string()
        for event in result.get_asset_materialization_events()
        if event.asset_key
    ]


def error_text(result: dg.ExecuteInProcessResult) -> str:
    """What the failed steps of a run say."""
    return "\n".join(
        str(event.step_failure_data.error.to_string())
        for event in result.all_events
        if event.is_step_failure and event.step_failure_data.error
    )
