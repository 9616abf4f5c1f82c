"""Online episodes into a lake in a bucket: what is driven is stored, whatever the server does meanwhile."""

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.agents.batches import SMALL
from tests.objects.seaweed import S3
from tests.online.avatars import Run
from tests.online.builders import small_vehicle
from tests.online.fake_car import applied, episode
from tests.online.stage import wait_until
from tspace_core.agents import DDPG, load_agent
from tspace_core.cli import app
from tspace_core.config import settings
from tspace_core.errors import ObjectServerError, StorageError
from tspace_core.objects.path import S3Path
from tspace_core.online import delivery
from tspace_core.online.avatar import AvatarOptions
from tspace_core.online.delivery import Delivery
from tspace_core.online.heartbeat import read_heartbeat
from tspace_core.online.results import EpisodeResult
from tspace_core.storage import episodes_table, online_outbox
from tspace_core.storage.champion import release
from tspace_core.storage.lake import Lake, read_json
from tspace_core.storage.online_outbox import EpisodeOutbox
from tspace_core.vehicle.interface import FlashOutcomeView, RowsProposal
from tspace_core.vehicle.stream import StreamItem

TRUCK = small_vehicle()


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stays on this machine."""
    monkeypatch.setenv("TSPACE_DATA_DIR", str(tmp_path / "data"))
    settings.cache_clear()
    return tmp_path / "data"


def drives(*numbers: int) -> list[StreamItem]:
    return [item for number in numbers for item in episode(TRUCK, number, 9, valid=True)]


def rewards(result: EpisodeResult) -> list[float]:
    return [float(value) for path in result.summary.paths for value in episodes_table.read(path).rewards]


def test_episodes_go_to_the_bucket_and_the_runs_state_stays_here(s3: S3, local: Path, tmp_path: Path) -> None:
    run = Run(f"{s3.url}/lake", drives(1, 2))
    summary = run.avatar.run()
    assert (summary.episodes, summary.failed, summary.notes) == (2, False, [])
    assert run.lake.episodes() == [path for result in run.results for path in result.summary.paths]
    assert all(isinstance(path, S3Path) for path in run.lake.episodes())
    same = Run(tmp_path / "disk", drives(1, 2))
    same.avatar.run()
    assert [rewards(result) for result in run.results] == [rewards(result) for result in same.results]
    for result in run.results:
        assert read_json(result.training_log)["total_reward"] == result.total_reward
    assert {path.parts[2] for path in run.lake.root.glob("*/**")} == {"episodes"}
    folder = local / "online" / "twin_truck"
    assert read_heartbeat(folder) is not None
    assert {"run.json", "run.lock", "live_map.csv"} <= {path.name for path in folder.iterdir()}
    assert not (folder / "waiting").exists()
    page = tmp_path / "page.html"
    command = ["report", "--vehicle", "twin_truck", "--data-dir", str(run.lake.root), "--out", str(page)]
    told = CliRunner().invoke(app, command, catch_exceptions=False)
    assert "2 of 2 online episodes" in told.output
    assert all(result.key in page.read_text() for result in run.results)


def test_a_release_in_the_bucket_drives_and_is_called_by_its_url(s3: S3, local: Path, tmp_path: Path) -> None:
    lake = Lake(f"{s3.url}/lake")
    agent = DDPG(SMALL, TRUCK.sampling.state_dim, 68, seed=3)
    agent.save(tmp_path / "trained")

    def answer(proposal: RowsProposal) -> FlashOutcomeView:
        if not lake.checkpoints("champion", "twin_truck.json").is_file():
            release(lake, TRUCK, tmp_path / "trained", by="test", loads=load_agent)
        return applied(proposal)

    run = Run(f"{s3.url}/lake", drives(1, 2), answer=answer)
    run.avatar.run()
    first, second = run.learners
    assert first.spec.start_from is None
    assert str(second.spec.start_from).startswith(f"{s3.url}/lake/checkpoints/champion/twin_truck/")
    logs = [read_json(result.training_log) for result in run.results]
    assert [log["agent"] for log in logs] == [None, str(second.spec.start_from)]
    infer = Run(f"{s3.url}/lake", drives(1), options=AvatarOptions(infer=True))
    assert infer.avatar.run().episodes == 1
    assert read_json(infer.results[0].training_log)["agent"] == str(second.spec.start_from)


def test_a_server_that_is_down_for_a_while_costs_no_episode(
    own_s3: S3, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Down in mid-drive and back in the same run; then down to the run's end, and back at the next run."""
    monkeypatch.setattr("tspace_core.online.keeper.TRY_AGAIN_S", 0.2)
    monkeypatch.setattr(delivery, "LAST_TRIES_S", 0.0)
    monkeypatch.setattr(Delivery.finish, "__defaults__", (0.0, 0.1))

    def answer(proposal: RowsProposal) -> FlashOutcomeView:
        own_s3.server.stop()
        return applied(proposal)

    first = Run(f"{own_s3.url}/lake", drives(1), answer=answer, hold=True)
    thread = threading.Thread(target=first.avatar.run)
    thread.start()
    try:
        wait_until(lambda: any("not in the lake yet" in line for line in first.lines), "the note", 60)
        folder = local / "online" / "twin_truck" / "waiting"
        assert first.results == []
        assert len(Lake(folder).episodes()) == 1
        own_s3.server.start()
        wait_until(lambda: "in reach again" in first.lines[-1], "the word that all is there", 60)
        assert len(first.results) == 1
        assert not folder.exists()
    finally:
        first.car.stop()
        thread.join(60)
    assert first.lake.episodes() == first.results[0].summary.paths

    second = Run(f"{own_s3.url}/lake", drives(1), answer=answer)
    summary = second.avatar.run()
    assert (summary.episodes, summary.failed, second.results) == (1, False, [])
    assert "the next run" in summary.notes[-1]
    assert len(Lake(folder).episodes()) == 1
    own_s3.server.start()
    third = Run(f"{own_s3.url}/lake", drives(1))
    third.avatar.run()
    assert [result.number for result in third.results] == [3]
    stored = [episodes_table.read(path) for path in third.lake.episodes()]
    assert [piece.meta.log_key[-4:] for piece in stored] == ["0001", "0002", "0003"]
    for piece in stored:
        assert len(piece) == 4 and np.isfinite(piece.states).all()
    assert not folder.exists()


class Broken:
    """Lets a part of the deliveries fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails = 0
        self.copy = shutil.copyfile
        monkeypatch.setattr(shutil, "copyfile", self)

    def __call__(self, source: Path, target: Path) -> Path:
        if self.fails:
            self.fails -= 1
            message = "write s3://bucket/x: 503 SlowDown"
            raise ObjectServerError(message)
        self.copy(source, target)
        return target


def elsewhere(tmp_path: Path) -> Lake:
    """A lake that is not where this machine's state is."""
    return Lake(tmp_path / "lake", local=tmp_path / "here")


def recorded(tmp_path: Path) -> list[EpisodeResult]:
    run = Run(tmp_path / "source", drives(1, 2))
    run.avatar.run()
    return run.results


def test_a_half_delivered_episode_is_not_visible_and_is_delivered_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, lake = recorded(tmp_path), elsewhere(tmp_path)
    outbox, broken = EpisodeOutbox(lake, tmp_path / "here"), Broken(monkeypatch)
    for result in results:
        pieces = [episodes_table.read(path) for path in result.summary.paths]
        stored = outbox.store(TRUCK, result.key, pieces, training_log={"n": result.number})
        assert all(path.is_relative_to(tmp_path / "lake") for path in stored.paths)
    for _ in range(3):
        broken.fails = 1
        with pytest.raises(ObjectServerError):
            outbox.deliver()
        assert lake.episodes() == []
        assert outbox.waiting() == [result.key for result in results]
    assert outbox.deliver() == [result.key for result in results]
    assert (outbox.waiting(), outbox.deliver()) == ([], [])
    assert [path.read_bytes() for path in lake.episodes()] == [
        path.read_bytes() for result in results for path in result.summary.paths
    ]
    assert read_json(lake.training_log(lake.log_of(results[1].key))) == {"n": 2}


def test_another_machines_episode_of_the_same_key_is_not_overwritten(tmp_path: Path) -> None:
    first, second = recorded(tmp_path)
    lake = elsewhere(tmp_path)
    pieces = [episodes_table.read(path) for path in first.summary.paths]
    ours, theirs = EpisodeOutbox(lake, tmp_path / "here"), EpisodeOutbox(lake, tmp_path / "there")
    theirs.store(TRUCK, first.key, [])
    theirs.deliver()
    ours.store(TRUCK, first.key, pieces)
    ours.store(TRUCK, second.key, [episodes_table.read(path) for path in second.summary.paths])
    with pytest.raises(StorageError, match="holds another episode of the key"):
        ours.deliver()
    assert ours.waiting() == [first.key]
    assert lake.episodes(lake.log_of(first.key)) == []
    assert len(lake.episodes(lake.log_of(second.key))) == 1


def test_another_machine_that_is_faster_by_a_moment_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = recorded(tmp_path)
    lake = elsewhere(tmp_path)
    ours, theirs = EpisodeOutbox(lake, tmp_path / "here"), EpisodeOutbox(lake, tmp_path / "there")
    ours.store(TRUCK, first.key, [episodes_table.read(path) for path in first.summary.paths])
    theirs.store(TRUCK, first.key, [])
    copy = online_outbox._copy

    def late(path: Path, target: Path, *, if_absent: bool) -> None:
        if if_absent:
            monkeypatch.setattr(online_outbox, "_copy", copy)
            theirs.deliver()
        copy(path, target, if_absent=if_absent)

    monkeypatch.setattr(online_outbox, "_copy", late)
    with pytest.raises(StorageError, match="holds another episode of the key"):
        ours.deliver()
    assert ours.waiting() == [first.key]
    assert read_json(lake.episodes_manifest(lake.log_of(first.key)))["episodes"] == []
