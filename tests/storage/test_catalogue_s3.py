"""The catalogue over a lake in a bucket gives the same rows, and its file stays on this machine."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.objects.seaweed import S3
from tests.storage.test_catalogue import *  # noqa: F403  the same tests, on another lake
from tests.storage.test_catalogue import VIEWS, result  # noqa: F401
from tspace_core.cli import app
from tspace_core.config import settings
from tspace_core.errors import ObjectAccessError
from tspace_core.objects.path import S3Path, local_folder
from tspace_core.storage.catalogue import Catalogue
from tspace_core.storage.ingest import IngestResult
from tspace_core.storage.lake import Lake


@pytest.fixture  # type: ignore[no-redef]
def fresh(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    monkeypatch.setenv("TSPACE_DATA_DIR", str(tmp_path / "data"))
    settings.cache_clear()
    return Lake(f"{s3.url}/o'lake")


@pytest.fixture  # type: ignore[no-redef]
def lake(fresh: Lake, result: IngestResult) -> Lake:  # noqa: F811
    """The lake of the stages, as it would lie in a bucket."""
    here = local_folder(result.raw.path.parents[3])
    for path in here.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            fresh.root.joinpath(str(path.relative_to(here))).write_bytes(path.read_bytes())
    return fresh


def test_the_command_answers_and_leaves_nothing_in_the_bucket(
    lake: Lake,
    result: IngestResult,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = {str(path) for path in lake.root.rglob("*")}
    monkeypatch.setenv("TSPACE_LAKE_URL", str(lake.root))
    settings.cache_clear()
    sql = "SELECT count(*) AS n, any_value(path) AS p FROM episodes JOIN records USING (episode_id)"
    told = CliRunner().invoke(app, ["catalogue", sql, "--json"], catch_exceptions=False)
    assert told.exit_code == 0
    assert f'"n":{result.episodes.records + result.episodes.episodes}' in told.output
    assert f"{lake.root}/episodes/vehicle=twin_truck/" in told.output
    assert (settings().data_dir / "catalogue.duckdb").is_file()
    assert {str(path) for path in lake.root.rglob("*")} == before


def test_refused_credentials_are_told_as_such(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert isinstance(lake.root, S3Path)
    with pytest.raises(ObjectAccessError, match="AWS_SECRET_ACCESS_KEY"):
        Catalogue(tmp_path / "c.duckdb", lake).refresh()
