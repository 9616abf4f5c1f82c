"""The commands of docs/storage.md that read each store with a tool of others, on stores that tspace wrote."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.storage.pools.mongo_server import MongoServer
from tspace_core.cli import app
from tspace_core.config import load_vehicle, settings
from tspace_core.storage import episodes_table
from tspace_core.storage.lake import Lake
from tspace_core.storage.replay import build_replay
from tspace_core.twin.exploration import SmoothExploration
from tspace_core.twin.recorder import record_drive
from tspace_core.twin.route import make_route

PROJECT = Path(__file__).resolve().parents[2]
TEXT = (PROJECT / "docs" / "storage.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"<!-- run: (\w+) -->\n+```python\n(.*?)```", re.DOTALL)
BLOCKS = BLOCK.findall(TEXT)
VEHICLE = "twin_truck"


def blocks(kind: str) -> list[str]:
    found = [code for name, code in BLOCKS if name == kind]
    assert found, f"docs/storage.md has no block to run of the kind {kind}"
    return found


def tspace(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, f"{arguments}: {result.output}\n{result.exception!r}"
    return result.stdout


def run(code: str, folder: Path, **environment: str) -> str:
    """What a block prints, run as a reader would: in a process of its own, in the folder of the data."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{code}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with ``data``, made by the commands a person would give."""
    place = tmp_path_factory.mktemp("stores")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TSPACE_DATA_DIR", str(place / "data"))
        settings.cache_clear()
        seconds = np.arange(0.0, 181.0)
        speed = np.interp(seconds, [0, 5, 40, 80, 110, 160, 180], [0, 0, 12, 16, 6, 15, 0])
        vehicle = load_vehicle(VEHICLE)
        log = place / "drive.blf"
        exploration = SmoothExploration(vehicle, 1)
        record_drive(vehicle, "tracker", make_route("short", seconds, speed), 1, log, exploration)
        tspace("ingest", str(log), "--vehicle", VEHICLE)
        lake = Lake(place / "data")
        episodes = (episodes_table.read(path) for path in lake.episodes(vehicle_id=VEHICLE))
        build_replay(lake.replay(VEHICLE), episodes)
        yield place
    settings.cache_clear()


@pytest.fixture(autouse=True)
def _settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TSPACE_DATA_DIR", str(folder / "data"))
    settings.cache_clear()
    yield
    settings.cache_clear()


def test_every_block_is_run() -> None:
    assert TEXT.count("```python") == len(BLOCKS)
    assert {kind for kind, _ in BLOCKS} == {"lake", "bucket", "avro", "mongo", "situations"}


def test_the_lake(folder: Path) -> None:
    tspace("train", "--vehicle", VEHICLE, "--updates", "2", "--repeat-records")
    for code in blocks("lake"):
        assert run(code, folder).strip()


def test_a_bucket(folder: Path, s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tspace("convert", f"parquet:{folder}/data", f"parquet:{s3_folder}")
    for code in blocks("bucket"):
        found = run(
            code.replace("s3://fleet/lake", str(s3_folder)),
            folder,
            AWS_ENDPOINT_URL=os.environ["TSPACE_S3__ENDPOINT"],
            AWS_ALLOW_HTTP="true",
        )
        assert int(found) > 10


def test_avro(folder: Path) -> None:
    tspace("convert", f"parquet:{folder}/data", f"avro:{folder}/exchange")
    for code in blocks("avro"):
        assert "first sample" in run(code, folder)
    written = next((folder / "exchange").rglob("*.avro"))
    shell = subprocess.run(
        [sys.executable, "-m", "fastavro", str(written)], capture_output=True, text=True, check=True
    )
    assert '"reward"' in shell.stdout


def test_mongodb(
    folder: Path, mongo_server: MongoServer, mongo_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TSPACE_MONGODB_URI", mongo_server.uri)
    settings.cache_clear()
    tspace("convert", f"parquet:{folder}/data", f"mongodb:{mongo_database}")
    for code in blocks("mongo"):
        found = run(code.replace('"fleet"', f'"{mongo_database}"'), folder)
        assert "records" in found
        assert "wh" in found


def test_situations(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = shutil.copytree(PROJECT / "conf", tmp_path / "conf")
    quick = conf / "hyperparameters" / "embeddings.yaml"
    quick.write_text(quick.read_text().replace("updates: 600", "updates: 5"))
    monkeypatch.setenv("TSPACE_CONF_DIR", str(conf))
    settings.cache_clear()
    tspace("embed", "--vehicle", VEHICLE)
    for code in blocks("situations"):
        assert "episode_id" in run(code, folder)
