"""The way of a log into a lake in a bucket: as on a disk, in few requests, through outages and races."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.objects.seaweed import S3
from tests.storage.logs import candump, shortest_drive, twin
from tests.storage.replay_episodes import coded_episode
from tests.storage.test_online_episodes import KEY, pieces
from tspace_core.config.settings import settings
from tspace_core.errors import (
    ObjectAccessError,
    ObjectExistsError,
    ObjectMissingError,
    ObjectServerError,
    StorageError,
)
from tspace_core.objects.client import s3_client
from tspace_core.objects.path import AnyPath, S3Path, local_copy, relative
from tspace_core.objects.store import ObjectStore
from tspace_core.storage import episodes_table, files, raw_store, writer
from tspace_core.storage.files import atomic_write, sha256
from tspace_core.storage.ingest import IngestResult, find_logs, ingest_log, store_episodes, store_raw
from tspace_core.storage.lake import Lake, RawLog, lake_from_settings
from tspace_core.storage.online_episodes import read_online_summary, store_online_episode
from tspace_core.storage.raw_store import content_hash, driver_of
from tspace_core.storage.replay import Replay, build_replay, versions_of


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shortest_drive(tmp_path_factory.mktemp("drive") / "drive.blf", flashing=True)


@pytest.fixture(scope="module")
def on_disk(drive: Path, tmp_path_factory: pytest.TempPathFactory) -> IngestResult:
    return ingest_log(Lake(tmp_path_factory.mktemp("lake")), drive, twin())


@pytest.fixture
def lake(s3_folder: str) -> Lake:
    return Lake(f"{s3_folder}/lake")


@contextmanager
def requests() -> Iterator[Counter[str]]:
    """Count the requests of this process, by name."""
    count: Counter[str] = Counter()
    client, on = s3_client(), [True]

    def note(model: object, **_: object) -> None:
        if on[0]:
            count[model.name] += 1  # type: ignore[attr-defined]

    client.meta.events.register("before-call.s3", note)
    yield count
    on[0] = False


def put(source: Path, url: str) -> S3Path:
    target = S3Path(url) / source.name
    target.write_bytes(source.read_bytes())
    return target


def names(lake: Lake) -> list[str]:
    assert isinstance(lake.root, S3Path)
    return sorted(relative(path, lake.root) for path, _ in lake.root.objects())


def test_a_log_from_a_bucket_becomes_the_same_as_on_a_disk(
    lake: Lake, s3_folder: str, drive: Path, on_disk: IngestResult
) -> None:
    source = put(drive, f"{s3_folder}/inbox/twin_truck")
    journal = drive.with_name(f"{drive.name}.flashes.jsonl")
    put(journal, f"{s3_folder}/inbox/twin_truck")
    (S3Path(f"{s3_folder}/inbox") / ".part").write_text("hidden")
    assert find_logs(S3Path(f"{s3_folder}/inbox")) == find_logs(source) == [source]
    with requests() as count:
        result = ingest_log(lake, source, twin())
    assert count.total() < 60, count
    assert count["CopyObject"] == 1, "the server copies the log"
    assert result.to_dict() == on_disk.to_dict()
    disk = Path(str(on_disk.raw.path)).parents[3]
    assert names(lake) == sorted(relative(path, disk) for path in disk.rglob("*") if path.is_file())
    episodes = [episodes_table.read(path) for path in lake.episodes()]
    expected = [episodes_table.read(path) for path in on_disk.episodes.paths]
    assert len(episodes) == len(expected)
    for ours, theirs in zip(episodes, expected, strict=True):
        assert ours.meta == theirs.meta
        assert np.array_equal(ours.states, theirs.states)
        assert np.array_equal(ours.actions, theirs.actions)
    # Once more: nothing is made, and none of the data is fetched.
    with requests() as count:
        again = ingest_log(lake, source, twin())
    assert again.frames.reused
    assert again.episodes == result.episodes.model_copy(update={"reused": True})
    assert count["PutObject"] == 0
    assert count.total() < 40, count


def test_what_says_where_the_lake_is(s3_folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TSPACE_DATA_DIR", str(tmp_path))
    settings.cache_clear()
    assert lake_from_settings().root == lake_from_settings().local == tmp_path
    monkeypatch.setenv("TSPACE_LAKE_URL", f"{s3_folder}/lake")
    settings.cache_clear()
    assert lake_from_settings().root == S3Path(s3_folder) / "lake"
    assert lake_from_settings().local == tmp_path


def test_the_origin_tells_the_log_until_it_is_changed_behind_its_back(lake: Lake, tmp_path: Path) -> None:
    source = candump(tmp_path / "a.log", stamps=[3.0])
    log = store_raw(lake, source, twin(), driver="habitual")
    origin = json.loads(log.origin.read_text())
    assert isinstance(log.path, S3Path)
    assert (origin["size"], origin["etag"]) == (log.path.stat().st_size, log.path.stat().etag)
    assert "mtime_ns" not in origin
    with requests() as count:
        assert content_hash(log) == origin["sha256"]
    assert count["GetObject"] == 1  # the origin
    log.path.write_bytes(b"(3.000000) can0 123#00\n")
    assert content_hash(log) != origin["sha256"]


def test_what_a_killed_writer_left_is_no_log_and_is_written_over(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = candump(tmp_path / "a.log", stamps=[3.0])

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "_put", die)
        with pytest.raises(KeyboardInterrupt):
            store_raw(lake, source, twin(), driver="aggressive")
    assert [name.rpartition(".")[2] for name in names(lake)] == ["json"]
    assert lake.raw_logs() == []
    log = store_raw(lake, source, twin(), driver="habitual")
    assert driver_of(log, twin()) == "habitual"
    assert store_raw(lake, source, twin()) == log


@pytest.mark.parametrize("inbox", ["disk", "bucket"])
def test_of_two_that_store_different_logs_of_one_name_the_later_is_refused(
    lake: Lake, s3_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inbox: str
) -> None:
    paths: list[AnyPath] = []
    for stamps in ([3.0], [3.0, 4.0]):
        place = tmp_path / str(len(stamps)) / "a.log"
        place.parent.mkdir()
        candump(place, stamps=stamps)
        paths.append(place if inbox == "disk" else put(place, f"{s3_folder}/inbox/{len(stamps)}"))
    first, second = paths
    copy = raw_store._copy

    def while_the_other_is_faster(*arguments: object) -> None:
        monkeypatch.setattr(raw_store, "_copy", copy)
        store_raw(lake, first, twin(), "2026-01-05", driver="aggressive")
        copy(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(raw_store, "_copy", while_the_other_is_faster)
    with pytest.raises(StorageError, match="not the same content"):
        store_raw(lake, second, twin(), "2026-01-05", driver="habitual")
    (log,) = lake.raw_logs()
    assert log.path.read_bytes() == first.read_bytes()
    assert driver_of(log, twin()) == "aggressive"


def test_a_log_that_is_replaced_while_it_is_taken_is_not_stored(
    lake: Lake, s3_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = put(candump(tmp_path / "a.log", stamps=[3.0]), f"{s3_folder}/inbox")
    copy = ObjectStore.copy

    def too_late(*arguments: Any, **how: Any) -> str:
        put(candump(tmp_path / "a.log", stamps=[3.0, 4.0]), f"{s3_folder}/inbox")
        return copy(*arguments, **how)

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "copy", too_late)
        with pytest.raises(StorageError, match="changed while it was read"):
            store_raw(lake, source, twin(), "2026-01-05")
    assert lake.raw_logs() == []
    log = store_raw(lake, source, twin(), "2026-01-05")
    assert log.path.read_bytes() == source.read_bytes()
    with requests() as count:
        assert local_copy(log.path).read_bytes() == source.read_bytes()
        assert content_hash(log) == sha256(tmp_path / "a.log")
    assert count["GetObject"] == 2, "of the origin and the source: the log's copy is here"


def test_a_log_too_large_for_the_servers_copy_is_uploaded(
    lake: Lake, s3_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "COPIED_BYTES", 8)
    source = put(candump(tmp_path / "a.log", stamps=[3.0]), f"{s3_folder}/inbox")
    with requests() as count:
        log = store_raw(lake, source, twin(), "2026-01-05")
    assert log.path.read_bytes() == source.read_bytes()
    assert count["CopyObject"] == 0


def test_a_later_run_of_the_stage_gives_way(lake: Lake, drive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vehicle = twin()
    other = vehicle.model_copy(
        update={"episodes": vehicle.episodes.model_copy(update={"maximum_records": 50})}
    )
    raw = ingest_log(lake, drive, vehicle).raw
    write = files.write_text

    def meanwhile(*arguments: object, **conditions: object) -> None:
        monkeypatch.setattr(writer, "write_text", write)
        store_episodes(lake, raw, other.model_copy(update={"driver": "habitual"}))
        write(*arguments, **conditions)  # type: ignore[arg-type]

    monkeypatch.setattr(writer, "write_text", meanwhile)
    with pytest.raises(ObjectExistsError, match=r"episodes\.json"):
        store_episodes(lake, raw, other)
    assert {episodes_table.read(path).meta.driver_id for path in lake.episodes(raw)} == {"habitual"}


def test_an_episode_that_is_gone_is_named_and_a_damaged_manifest_too(lake: Lake) -> None:
    summary = store_online_episode(lake, twin(), KEY, pieces())
    with requests() as count:
        assert lake.episodes() == lake.episodes(lake.log_of(KEY)) == summary.paths
    assert count["HeadObject"] <= 1
    summary.paths[0].unlink()
    gone = rf"{summary.paths[0].name}, which is gone"
    with pytest.raises(StorageError, match=gone):
        lake.episodes()
    with pytest.raises(StorageError, match=gone):
        lake.episodes(lake.log_of(KEY))
    lake.episodes_manifest(lake.log_of(KEY)).write_text('{"episodes": [')
    with pytest.raises(StorageError, match=r"s3://.*is damaged"):
        lake.episodes()
    summary.paths[1].write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(StorageError, match="is no episode"):
        episodes_table.read(summary.paths[1])
    with pytest.raises(ObjectMissingError):
        episodes_table.read(summary.paths[0])


def test_of_two_that_store_one_online_episode_both_find_it(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = files.write_text

    def meanwhile(*arguments: object, **conditions: object) -> None:
        monkeypatch.setattr(writer, "write_text", write)
        store_online_episode(lake, twin(), KEY, pieces())
        write(*arguments, **conditions)  # type: ignore[arg-type]

    monkeypatch.setattr(writer, "write_text", meanwhile)
    assert store_online_episode(lake, twin(), KEY, pieces()).reused
    assert len(lake.episodes()) == 2
    monkeypatch.setattr(writer, "write_text", meanwhile)
    with pytest.raises(StorageError, match="holds another episode"):
        store_online_episode(lake, twin(), KEY, pieces(1))
    assert len(lake.episodes()) == 2


def test_a_replay_buffer_in_a_bucket(lake: Lake) -> None:
    root = lake.replay("v")
    assert isinstance(root, S3Path)
    with pytest.raises(StorageError, match="holds no replay buffer"):
        Replay.open(root)
    first = build_replay(root, [coded_episode(1, 5)])
    (root / "000002" / "rows.f32").write_bytes(b"of a killed writer")
    assert versions_of(root) == ["000001"]
    assert len(Replay.open(root)) == 5
    assert build_replay(root, [coded_episode(1, 5)]).directory == first.directory
    second = build_replay(root, [coded_episode(1, 5), coded_episode(2, 3)])
    assert second.directory.name == "000003"
    second.verify()
    # Its memory map outlives the copy that it was opened from.
    for folder in settings().s3.cache_dir.iterdir():
        folder.rename(folder.with_name(f".{folder.name}.gone"))
    assert second.pick(np.arange(8)).rewards.shape == (8,)
    with requests() as count:
        assert len(Replay.open(root)) == 8
    assert count.total() <= 6


def test_through_an_outage(own_s3: S3, drive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Down in the middle of a stage: an error with words, no half result; back: everything goes on."""
    lake, vehicle = Lake(f"{own_s3.url}/lake"), twin()
    with monkeypatch.context() as patch:
        write = files.write_text

        def with_the_server_gone(*arguments: object, **conditions: object) -> None:
            own_s3.server.stop()
            write(*arguments, **conditions)  # type: ignore[arg-type]

        patch.setattr(writer, "write_text", with_the_server_gone)
        with pytest.raises(ObjectServerError, match=r"s3://.*episodes\.json at http://127.*then try again"):
            ingest_log(lake, drive, vehicle)
    with pytest.raises(ObjectServerError):
        store_online_episode(lake, vehicle, KEY, pieces())
    with pytest.raises(ObjectServerError):
        build_replay(lake.replay("v"), [coded_episode(1, 5)])
    with pytest.raises(ObjectServerError):
        lake.raw_logs()
    own_s3.server.start()
    assert lake.episodes() == []
    result = ingest_log(lake, drive, vehicle)
    assert result.frames.reused
    assert result.signals.reused
    assert lake.episodes() == result.episodes.paths
    store_online_episode(lake, vehicle, KEY, pieces())
    assert read_online_summary(lake, KEY).records == 10
    assert len(build_replay(lake.replay("v"), [coded_episode(1, 5)])) == 5


def test_refused_credentials_store_nothing(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = candump(tmp_path / "a.log", stamps=[3.0])
    with monkeypatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        with pytest.raises(ObjectAccessError, match="AWS_SECRET_ACCESS_KEY"):
            store_raw(lake, source, twin())
        with pytest.raises(ObjectAccessError):
            store_online_episode(lake, twin(), KEY, pieces())
    assert names(lake) == []


def test_a_write_that_is_no_object_is_refused(lake: Lake) -> None:
    log = RawLog("v", "2026-01-05", "a", lake.raw("v", "2026-01-05", "a"))
    with pytest.raises(StorageError, match="nothing was written"), atomic_write(log.path):
        pass
    assert names(lake) == []
