"""Batch inference where lake and checkpoint lie in a bucket: the same scores, once."""

import shutil
from pathlib import Path

from tests.agents.scored import VEHICLE, drive, put_agent, put_episodes
from tests.objects.seaweed import S3
from tspace_core.agents.batch_runs import choose_checkpoint, score_logs
from tspace_core.agents.scoring import store_scores
from tspace_core.agents.scoring_table import read_scores
from tspace_core.config import load_vehicle
from tspace_core.objects.path import S3Path
from tspace_core.storage.files import atomic_directory
from tspace_core.storage.lake import Lake


def test_a_bucket_gets_the_same_scores_as_a_disk(s3: S3, tmp_path: Path) -> None:
    vehicle = load_vehicle(VEHICLE)
    lake, disk = Lake(f"{s3.url}/scored", local=tmp_path), Lake(tmp_path / "disk")
    keys = [f"{VEHICLE}/2026-01-0{day}/a.blf" for day in (5, 6)]
    for place in (lake, disk):
        for key in keys:
            put_episodes(place, key, [drive(vehicle, key, k, 11) for k in range(3)])
    mine = tmp_path / "disk" / "checkpoints" / "ddpg" / "mine" / "00000007"
    put_agent(mine, vehicle)
    with atomic_directory(lake.checkpoints("ddpg", "mine") / mine.name) as folder:
        shutil.copytree(mine, folder, dirs_exist_ok=True)
    checkpoint = choose_checkpoint(lake, VEHICLE, "ddpg/mine/00000007").checkpoint
    logs = lake.episode_logs(VEHICLE)
    assert isinstance(checkpoint, S3Path) and [log.key for log in logs] == keys
    report = score_logs(lake, vehicle, logs, checkpoint)
    assert not report.failed and list(report.scores) == keys
    for key in keys:
        local = store_scores(disk, key, str(mine))
        there = report.scores[key]
        assert isinstance(there.path, S3Path)
        assert there.model_dump(exclude={"path"}) == local.model_dump(exclude={"path"})
        assert read_scores(there.path).equals(read_scores(local.path))
    again = score_logs(lake, vehicle, logs, checkpoint)
    assert again.skipped == keys and again.scores == {
        key: item.model_copy(update={"reused": True}) for key, item in report.scores.items()
    }
