"""The contract of checkpoints in a bucket, and what only a bucket can do to them."""

import pytest

from tests.agents.test_checkpoint import *  # noqa: F403  the same tests, on another root
from tests.agents.test_checkpoint import agent  # noqa: F401
from tests.objects.seaweed import S3
from tspace_core.agents import DDPG, Checkpoint, CheckpointStore
from tspace_core.errors import CheckpointError, ObjectAccessError
from tspace_core.objects.path import AnyPath, S3Path


@pytest.fixture  # type: ignore[no-redef]
def root(s3: S3) -> AnyPath:
    return S3Path(f"{s3.url}/lake/check points")


def test_errors_name_the_url_and_not_a_copy_of_it(agent: DDPG, root: S3Path) -> None:  # noqa: F811
    store = CheckpointStore(root)
    path = store.save(agent, 5)
    (path / "critic.safetensors").write_bytes(b"cut off")
    with pytest.raises(CheckpointError, match=f"{path}/critic.safetensors: sha256 .* checkpoint of {root}"):
        Checkpoint(path).verify()
    with pytest.raises(CheckpointError, match=f"{root}/00000006/manifest.json: missing"):
        Checkpoint(root / "00000006")


def test_a_replaced_object_is_never_read_from_an_old_copy(agent: DDPG, root: S3Path) -> None:  # noqa: F811
    path = CheckpointStore(root).save(agent, 5)
    Checkpoint(path).verify()
    manifest = path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"step": 5', '"step": 6'))
    assert Checkpoint(path).manifest.step == 6


def test_refused_credentials_are_no_damaged_checkpoint(
    agent: DDPG,  # noqa: F811
    root: S3Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = CheckpointStore(root).save(agent, 5)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(ObjectAccessError, match="AWS_SECRET_ACCESS_KEY"):
        Checkpoint(path)
