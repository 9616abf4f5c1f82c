"""The contract of releases in a bucket, where releasers cannot wait for each other."""

import threading
from pathlib import Path

import pytest

from tests.objects.seaweed import S3
from tests.storage.test_champion import *  # noqa: F403  the same tests, on another lake
from tests.storage.test_champion import trained, vehicle  # noqa: F401
from tspace_core.agents.release import release_agent
from tspace_core.config import Vehicle, settings
from tspace_core.errors import CheckpointError, ObjectExistsError
from tspace_core.objects.path import AnyPath
from tspace_core.online.agent_choice import ReleaseWatch
from tspace_core.storage import champion as champions
from tspace_core.storage.champion import champion, read_releases, rollback
from tspace_core.storage.lake import Lake
from tspace_core.storage.pointer import open_pointer


@pytest.fixture  # type: ignore[no-redef]
def lake(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    monkeypatch.setenv("TSPACE_DATA_DIR", str(tmp_path / "data"))
    settings.cache_clear()
    return Lake(f"{s3.url}/lake")


def test_a_moved_lake_keeps_its_champion(lake: Lake, vehicle: Vehicle, s3: S3) -> None:  # type: ignore[no-redef]  # noqa: F811
    release_agent(lake, vehicle, trained(lake, 5), by="me")
    store = lake.checkpoints("champion", "x").store  # type: ignore[union-attr]
    for info in list(store.list("lake/")):
        store.copy(info.key, info.key.replace("lake/", "moved/", 1))
        store.delete(info.key)
    found = champion(Lake(f"{s3.url}/moved"), vehicle.id)
    assert found is not None
    assert str(found.checkpoint).startswith(f"{s3.url}/moved/checkpoints/champion/twin_truck/")


def test_a_checkpoint_on_this_machine_is_released_into_the_bucket(
    lake: Lake,
    vehicle: Vehicle,  # noqa: F811
    tmp_path: Path,
) -> None:
    path = trained(Lake(tmp_path / "other"), 5)
    found = release_agent(lake, vehicle, path, by="me")
    assert found.source == str(path)
    assert champion(lake, vehicle.id) == found


def test_of_two_who_release_at_one_time_one_wins_and_the_other_is_told(
    lake: Lake,
    vehicle: Vehicle,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second one looks, then the first one releases, then the second one is about to."""
    first, second = trained(lake, 1), trained(lake, 2)
    check, once = champions._check_copy, [True]

    def meanwhile(copy: AnyPath, content: str) -> None:
        check(copy, content)
        if once and once.pop():
            release_agent(lake, vehicle, first, by="first")

    monkeypatch.setattr(champions, "_check_copy", meanwhile)
    with pytest.raises(CheckpointError, match="at the same time, so nothing was changed"):
        release_agent(lake, vehicle, second, by="second")
    found = champion(lake, vehicle.id)
    assert found is not None
    assert (found.step, found.released_by) == (1, "first")
    assert release_agent(lake, vehicle, second, by="second").step == 2
    assert [item.step for item in read_releases(lake, vehicle.id).history] == [1]


def test_a_withdrawal_at_the_same_time_as_a_release_is_told_too(lake: Lake, vehicle: Vehicle) -> None:  # noqa: F811
    for step in (1, 2):
        release_agent(lake, vehicle, trained(lake, step), by="me")
    with open_pointer(lake.checkpoints("champion", "twin_truck.json")) as late:
        assert rollback(lake, vehicle.id, by="you").step == 1
        with pytest.raises(ObjectExistsError):
            late.replace("{}")
    assert len(read_releases(lake, vehicle.id).withdrawn) == 1


def test_releases_at_one_time_all_count(lake: Lake, vehicle: Vehicle) -> None:  # type: ignore[no-redef]  # noqa: F811
    """Nobody's release is lost without a word: it counts, or its releaser is told."""
    paths = [trained(lake, step) for step in range(1, 5)]
    won, told = [], []

    def one(path: AnyPath) -> None:
        try:
            won.append(release_agent(lake, vehicle, path, by="me").step)
        except CheckpointError as error:
            told.append(str(error))

    threads = [threading.Thread(target=one, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    releases = read_releases(lake, vehicle.id)
    assert releases.champion is not None
    assert sorted(item.step for item in (*releases.history, releases.champion)) == sorted(won)
    assert len(won) + len(told) == 4
    assert all("at the same time" in text for text in told)


def test_the_watch_finds_a_release_and_has_its_files_here(lake: Lake, vehicle: Vehicle) -> None:  # noqa: F811
    watch = ReleaseWatch(lake, vehicle.id, None)
    thread = threading.Thread(target=watch.watch)
    thread.start()
    try:
        assert watch.newer(wait_s=30) is None
        released = release_agent(lake, vehicle, trained(lake, 1), by="me")
        found = watch.newer(wait_s=30)
        assert found is not None
        assert found.champion == released
        assert (found.folder / "actor.safetensors").is_file()
        assert watch.newer(wait_s=30) is None
    finally:
        watch.close()
        thread.join(30)
    assert not thread.is_alive()
