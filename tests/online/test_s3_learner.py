"""A learner whose lake is in a bucket: the same run as on a disk, also while the server is away."""

from pathlib import Path

import numpy as np
import pytest

from tests.objects.seaweed import S3
from tests.online.learners import make_records, make_replay, make_spec
from tspace_core.agents import Checkpoint, CheckpointStore
from tspace_core.errors import ObjectServerError
from tspace_core.objects.path import AnyPath, S3Path
from tspace_core.objects.store import ObjectStore
from tspace_core.online.learner import LearnerProcess
from tspace_core.online.learner_core import LearnerCore
from tspace_core.online.learner_protocol import EpisodeEnd, EpisodeLearned, LearnerSpec


def spec_of(root: AnyPath, here: Path) -> LearnerSpec:
    make_replay(root)
    return make_spec(root, folder=here / "learner")


def drive(core: LearnerCore, first: int, count: int) -> None:
    for number in range(first, first + count):
        core.take(make_records(number))
        core.learn()


def policy(path: AnyPath) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in Checkpoint(path).component("actor").tensors.items()}


def test_it_learns_and_goes_on_as_on_a_disk(s3: S3, tmp_path: Path) -> None:
    roots: tuple[AnyPath, AnyPath] = (S3Path(s3.url) / "deep", tmp_path / "disk")
    found = []
    for number, root in enumerate(roots):
        spec = spec_of(root, tmp_path / str(number))
        drive(LearnerCore(spec), 0, 12)
        core = LearnerCore(spec)  # as after a kill: it goes on from its last checkpoint
        assert core.updates == 10
        drive(core, 12, 5)
        assert CheckpointStore(spec.checkpoints).steps() == [5, 10, 15]
        assert core.checkpoint == spec.checkpoints / "00000015"
        found.append(policy(core.checkpoint))
    for name, values in found[0].items():
        np.testing.assert_array_equal(values, found[1][name])


def test_what_a_killed_learner_left_stands_in_no_ones_way(s3: S3, tmp_path: Path) -> None:
    spec = spec_of(S3Path(s3.url), tmp_path)
    (spec.checkpoints / "00000005" / "actor.json").write_text("{}")
    drive(LearnerCore(spec), 0, 6)
    assert CheckpointStore(spec.checkpoints).steps() == [5]


def test_a_server_that_is_away_costs_checkpoints_not_the_learning(s3: S3, tmp_path: Path) -> None:
    spec = spec_of(S3Path(s3.url), tmp_path)
    core = LearnerCore(spec)
    put, calls = ObjectStore.upload, [0]

    def away(store: ObjectStore, path: Path, key: str, **conditions: object) -> str:
        calls[0] += 1
        if calls[0] > 3:
            message = "write s3://bucket/x: connection refused; check that the server runs"
            raise ObjectServerError(message)
        return put(store, path, key, **conditions)  # type: ignore[arg-type]

    def delete(store: ObjectStore, *keys: str) -> None:
        if keys:
            message = "remove s3://bucket/x: connection refused; check that the server runs"
            raise ObjectServerError(message)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ObjectStore, "upload", away)
        patch.setattr(ObjectStore, "delete", delete)  # what was begun cannot be removed either
        drive(core, 0, 7)
        learned = core.end_episode(EpisodeEnd(number=1, valid=True))
    assert (learned.total_updates, learned.checkpoint) == (7, None)
    assert CheckpointStore(spec.checkpoints).steps() == []
    core.save()
    assert CheckpointStore(spec.checkpoints).steps() == [7]
    assert LearnerCore(spec).updates == 7


def test_the_process_takes_the_lakes_url(s3: S3, tmp_path: Path) -> None:
    spec = spec_of(S3Path(s3.url), tmp_path)
    with LearnerProcess(spec) as process:
        ready = process.require_ready()
        assert (ready.offline_records, ready.checkpoint) == (100, None)
        for number in range(6):
            process.add(make_records(number))
        learned = process.end_episode(1, valid=True)
        assert isinstance(learned, EpisodeLearned)
        assert learned.checkpoint == spec.checkpoints / "00000006"
        weights = process.weights()
        assert weights is not None
        assert weights.is_relative_to(tmp_path)
    assert process.failure is None
    assert CheckpointStore(spec.checkpoints).steps() == [5, 6]
