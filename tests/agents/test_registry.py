"""The model registry of a real MLflow server follows the releases in a lake on a disk."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agents.batches import SMALL
from tests.agents.mlflow_server import MlflowServer, mlflow_server
from tspace_core.agents import DDPG
from tspace_core.agents.registry import ModelRegistry, follow_champion, model_name
from tspace_core.agents.release import release_agent
from tspace_core.agents.tracking_client import client_of
from tspace_core.config import load_vehicle
from tspace_core.objects.path import AnyPath
from tspace_core.storage.champion import Grounds, rollback
from tspace_core.storage.lake import Lake

VEHICLE = load_vehicle("twin_truck")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with mlflow_server(tmp_path_factory.mktemp("server")) as found:
        yield found


def trained(lake: Lake, step: int) -> AnyPath:
    path = lake.checkpoints("ddpg", "run") / f"{step:08d}"
    DDPG(SMALL, 90, 68, seed=step).save(path, step=step)
    return path


def test_a_server_follows_a_lake_on_a_disk(
    server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    lake = Lake(tmp_path / "lake")
    paths = [trained(lake, step) for step in (1, 2)]
    reason = Grounds(without_evaluation="a trial")
    first, second = (release_agent(lake, VEHICLE, path, by="me", grounds=reason) for path in paths)
    stands = follow_champion(lake, VEHICLE.id, uri=server.uri)
    assert stands is not None and stands.sha256 == second.sha256
    assert stands.source == f"tspace-{Path(str(second.checkpoint)).as_uri()}"

    rollback(lake, VEHICLE.id, by="you")
    follow_champion(lake, VEHICLE.id, uri=server.uri)
    found = ModelRegistry(server.uri).champion(VEHICLE.id)
    assert found is not None and found.sha256 == first.sha256

    # Released again, now with an evaluation: nothing of the first time is left on the version.
    evaluated = Grounds(figures={"saving_percent": 1.5})
    release_agent(lake, VEHICLE, paths[1], by="me", grounds=evaluated)
    again = follow_champion(lake, VEHICLE.id, uri=server.uri)
    assert again == stands, "the same content is the same version"
    tags = client_of(server.uri).get_model_version(model_name(VEHICLE.id), again.version).tags
    assert tags["state"] == "champion" and tags["evaluation.saving_percent"] == "1.5"
    assert not {"without_evaluation", "withdrawn_by", "withdrawn_at"} & tags.keys()
