"""Files and folders in a bucket appear whole or not at all, also when the writer is killed."""

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tspace_core.config.settings import settings
from tspace_core.errors import ObjectExistsError, StorageError
from tspace_core.objects.path import AnyPath, S3Path, local_copy, local_folder
from tspace_core.storage import bucket_folder
from tspace_core.storage.files import (
    atomic_directory,
    atomic_write,
    read_version,
    sha256,
    sweep,
    write_text,
)

WRITER = """
import sys
from tspace_core.objects.path import any_path
from tspace_core.objects.store import ObjectStore
from tspace_core.storage.files import atomic_{what}
upload = ObjectStore.upload
def wait(self, path, key, **conditions):
    if key.endswith({before!r}):
        print("there", flush=True)
        sys.stdin.read()
    return upload(self, path, key, **conditions)
ObjectStore.upload = wait
with atomic_{what}(any_path(sys.argv[1])) as temporary:
    if "{what}" == "directory":
        (temporary / "rows").write_text("of the killed")
        (temporary / "manifest.json").write_text("of the killed")
    else:
        temporary.write_text("new, but not whole")
"""


def kill_before(name: str, what: str, path: S3Path) -> None:
    """Start a writer and end it with SIGKILL just before it puts the object of that name."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER.format(what=what, before=name), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "there\n"
        writer.kill()
        assert writer.wait(timeout=10) == -signal.SIGKILL


@pytest.fixture
def bucket(s3_folder: str) -> S3Path:
    return S3Path(s3_folder)


def names(folder: S3Path) -> list[str]:
    return sorted(path.key.removeprefix(f"{folder.key}/") for path, _ in folder.objects())


def fill(path: AnyPath, text: str) -> None:
    with atomic_directory(path) as folder:
        (folder / "rows").write_text(text)
        (folder / "manifest.json").write_text(text)


def test_a_file_is_replaced_whole_and_conditions_hold(place: AnyPath) -> None:
    path = place / "a" / "state.json"
    write_text(path, "1", if_absent=True)
    with pytest.raises(ObjectExistsError, match=r"state\.json"):
        write_text(path, "2", if_absent=True)
    with pytest.raises(ObjectExistsError, match=r"state\.json"):
        write_text(path, "2", seen="x")
    content, seen = read_version(path)
    assert content == b"1"
    write_text(path, "2", seen=seen)
    with pytest.raises(ObjectExistsError):
        write_text(path, "3", seen=seen)
    with atomic_write(path) as temporary:
        temporary.write_text("abc")
    assert path.read_text() == local_copy(path).read_text() == "abc"
    assert sha256(path).startswith("ba7816bf8f01cfea414140de5dae2223")
    assert [found.name for found in path.parent.iterdir()] == ["state.json"]


def test_what_fails_leaves_the_old_file_and_nothing_else(place: AnyPath) -> None:
    path = place / "state.json"
    write_text(path, "old")

    def fail() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with pytest.raises(StorageError, match="nothing was written"), atomic_write(path):
        pass
    assert path.read_text() == "old"
    assert list(place.iterdir()) == [path]


def test_of_two_writers_of_one_file_one_wins(place: AnyPath) -> None:
    path = place / "log"

    def write(number: int) -> int | None:
        try:
            with atomic_write(path, if_absent=True) as temporary:
                temporary.write_text(str(number))
        except StorageError:
            return None
        return number

    with ThreadPoolExecutor(4) as pool:
        winners = [number for number in pool.map(write, range(4)) if number is not None]
    assert len(winners) == 1
    assert path.read_text() == str(winners[0])
    assert list(place.iterdir()) == [path]


def test_a_folder_appears_whole_and_is_never_replaced(place: AnyPath) -> None:
    path = place / "replay" / "v" / "000001"
    fill(path, "1")
    assert (local_folder(path) / "rows").read_text() == "1"
    with pytest.raises(StorageError, match="never replaced"):
        fill(path, "2")

    def fail() -> None:
        with atomic_directory(path.with_name("000002")) as folder:
            (folder / "manifest.json").write_text("2")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [found.name for found in path.parent.iterdir()] == ["000001"]


def test_of_two_writers_of_one_folder_one_wins_with_all_its_files(place: AnyPath) -> None:
    path = place / "checkpoints" / "ddpg" / "run" / "000001"

    def write(number: int) -> int | None:
        try:
            fill(path, str(number))
        except StorageError:
            return None
        return number

    with ThreadPoolExecutor(4) as pool:
        winners = [number for number in pool.map(write, range(4)) if number is not None]
    assert len(winners) == 1
    for name in ("rows", "manifest.json"):
        assert (path / name).read_text() == str(winners[0])


def test_a_folder_without_a_manifest_is_refused(bucket: S3Path) -> None:
    with (
        pytest.raises(StorageError, match=r"without manifest\.json"),
        atomic_directory(bucket / "a") as folder,
    ):
        (folder / "rows").write_text("1")
    assert names(bucket) == []


def test_a_killed_writer_leaves_the_old_file(bucket: S3Path) -> None:
    path = bucket / "state.json"
    write_text(path, "old")
    kill_before("state.json", "write", path)
    assert path.read_text() == "old"
    assert names(bucket) == ["state.json"]


def test_a_killed_writer_leaves_no_folder(bucket: S3Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bucket / "replay" / "v" / "000001"
    kill_before("manifest.json", "directory", path)
    assert names(path) == ["rows"]  # which nobody takes for a version
    with pytest.raises(StorageError, match=r"try again in 60 s"):
        fill(path, "new")
    assert sweep(bucket) == []
    monkeypatch.setattr(bucket_folder, "LEFT_BEHIND_S", -60.0)
    fill(path, "new")
    assert (path / "rows").read_text() == "new"
    assert sweep(bucket, older_than_s=-60) == []
    (path / "manifest.json").unlink()
    assert sweep(bucket, older_than_s=-60) == [path / "rows"]
    assert names(bucket) == []


def test_a_writer_that_was_thought_dead_cannot_mix_its_files_in(
    bucket: S3Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bucket / "replay" / "v" / "000001"
    monkeypatch.setattr(bucket_folder, "LEFT_BEHIND_S", -60.0)
    check = bucket_folder._require_unchanged

    def meanwhile(*arguments: object) -> None:
        monkeypatch.setattr(bucket_folder, "_require_unchanged", check)
        fill(path, "the new writer's")
        check(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(bucket_folder, "_require_unchanged", meanwhile)
    with pytest.raises(StorageError, match="made by someone else"):
        fill(path, "the slow writer's")
    assert [(path / name).read_text() for name in ("rows", "manifest.json")] == ["the new writer's"] * 2


def test_what_was_written_is_not_fetched_again(bucket: S3Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with atomic_write(bucket / "frames.parquet") as temporary:
        temporary.write_bytes(b"frames")
    fill(bucket / "replay" / "v" / "000001", "1")
    monkeypatch.setattr("tspace_core.objects.cache._fetch", lambda *_: pytest.fail("it was fetched"))
    assert local_copy(bucket / "frames.parquet").read_bytes() == b"frames"
    assert (local_folder(bucket / "replay" / "v" / "000001") / "rows").read_text() == "1"
    left = [path.name for path in settings().s3.cache_dir.iterdir() if path.name.startswith(".")]
    assert left == []


def test_pointers_beside_folders_are_not_swept(bucket: S3Path, tmp_path: Path) -> None:
    for name in (
        "replay/notes.json",
        "checkpoints/ddpg/latest.json",
        "checkpoints/ddpg/run/best.json",
        "raw/a",
    ):
        write_text(bucket / name, "{}")
    before = names(bucket)
    assert sweep(bucket, older_than_s=-60) == []
    assert names(bucket) == before
    assert sweep(tmp_path, older_than_s=-60) == []
