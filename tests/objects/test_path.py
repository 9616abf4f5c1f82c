"""Paths in a bucket answer as those of a disk do; local copies are never stale and bounded."""

import io
import os
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.objects.seaweed import S3
from tspace_core.config.settings import settings
from tspace_core.errors import ObjectError, ObjectMissingError
from tspace_core.objects import cache
from tspace_core.objects.path import AnyPath, S3Path, any_path, local_copy, local_folder, relative, within
from tspace_core.objects.store import ObjectInfo, ObjectStore

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..")
)
TREE = ["a.json", "one/b.json", "one/[x] (ü).json", "one/two/c.parquet", "two/.hidden", "two/two/two/d.json"]


@given(parts=st.lists(NAMES, min_size=1, max_size=5), other=NAMES)
def test_names_and_parts_are_those_of_a_disk(parts: list[str], other: str) -> None:
    root = S3Path("s3://bucket")
    ours, theirs = root.joinpath(*parts), PurePosixPath("/", *parts)
    assert ours == S3Path(str(ours)) == any_path(str(ours))
    assert (ours.name, ours.stem, ours.suffix, ours.suffixes) == (
        theirs.name, theirs.stem, theirs.suffix, theirs.suffixes,
    )  # fmt: skip
    assert ours.parts[1:] == theirs.parts[1:]
    assert str(ours.parent.relative_to(root)) == str(theirs.parent.relative_to("/"))
    assert ours.with_name(other).name == other
    assert ours.is_relative_to(ours.parent)
    assert relative(ours / other, ours) == other
    assert hash(ours) == hash(S3Path(str(ours)))
    assert (ours < root / other) == (ours.parts < (root / other).parts)


def test_what_is_no_path_in_a_bucket_is_refused() -> None:
    for wrong in ("/data", "s3://", "s3:///a", "http://x/y"):
        with pytest.raises(ObjectError, match="s3://bucket/prefix"):
            S3Path(wrong)
    with pytest.raises(ObjectError, match="cannot go up"):
        S3Path("s3://b/a/../c")
    assert isinstance(any_path("data/x"), Path)
    assert any_path(Path("s3://b/c")) == S3Path("s3://b/c")
    assert not within(Path("/a"), S3Path("s3://b"))
    assert not within(S3Path("s3://b/ab"), S3Path("s3://b/a"))
    with pytest.raises(ValueError, match="does not lie below"):
        relative(Path("/a"), S3Path("s3://b"))


@pytest.fixture
def both(s3_folder: str, tmp_path: Path) -> tuple[Path, S3Path]:
    """The same files on a disk and in a bucket."""
    disk, bucket = tmp_path / "tree", S3Path(s3_folder)
    for name in TREE:
        (disk / name).parent.mkdir(parents=True, exist_ok=True)
        (disk / name).write_text(name)
        (bucket / name).parent.mkdir(parents=True)
        (bucket / name).write_text(name)
    return disk, bucket


PATTERNS = ("*", "*.json", "*/*", "*/*.json", "two/*", "one/[[]x*", "one/?.json", "t*/*/*/d.json", "none/*")


def test_globs_find_what_those_of_a_disk_find(both: tuple[Path, S3Path]) -> None:
    disk, bucket = both
    for pattern in PATTERNS:
        theirs = sorted(relative(path, disk) for path in disk.glob(pattern))
        assert sorted(relative(path, bucket) for path in bucket.glob(pattern)) == theirs, pattern
    for pattern in ("*.json", "two", "c.*", ".*"):
        theirs = sorted(relative(path, disk) for path in disk.rglob(pattern))
        assert sorted(relative(path, bucket) for path in bucket.rglob(pattern)) == theirs, pattern
    assert {path.name for path in bucket.iterdir()} == {path.name for path in disk.iterdir()}
    assert sorted(relative(path, bucket) for path, _ in bucket.objects()) == sorted(TREE)


def test_looks_answer_as_on_a_disk(both: tuple[Path, S3Path]) -> None:
    def looks(root: AnyPath, name: str) -> tuple[bool, bool, bool]:
        path = root / name
        return path.exists(), path.is_file(), path.is_dir()

    disk, bucket = both
    for name in (*TREE, "one", "one/two", "on", "none", "two/two/two"):
        assert looks(disk, name) == looks(bucket, name), name
    file = bucket / TREE[2]
    assert file.stat().st_size == (disk / TREE[2]).stat().st_size
    assert abs(file.stat().st_mtime - time.time()) < 60
    assert file.read_text() == TREE[2]
    with file.open("rb") as binary, file.open("r") as text:
        assert (binary.read().decode(), text.read()) == (TREE[2], TREE[2])
    with pytest.raises(io.UnsupportedOperation, match="atomic_write"):
        file.open("wb")
    file.unlink()
    file.unlink(missing_ok=True)
    for act in (
        file.unlink,
        file.stat,
        file.read_bytes,
        lambda: local_copy(file),
        lambda: local_folder(file),
    ):
        with pytest.raises(ObjectMissingError, match="s3://"):
            act()
    (bucket / "two").rmtree()
    assert not (bucket / "two").exists()


def test_a_local_copy_is_never_stale_and_never_changes(s3_folder: str) -> None:
    path, copies = S3Path(s3_folder) / "episodes.json", []
    for number in range(20):  # many times within one second, which is the resolution of an object's time
        path.write_text(str(number))
        copies.append(local_copy(path))
        assert copies[-1].read_text() == str(number)
    assert [copy.read_text() for copy in copies] == [str(number) for number in range(20)]
    assert {copy.name for copy in copies} == {"episodes.json"}
    assert local_copy(path) == copies[-1]
    assert not copies[-1].stat().st_mode & 0o222
    assert local_copy(copies[-1]) is copies[-1]


@pytest.mark.parametrize(
    "copy", [lambda path: local_copy(path), lambda path: local_folder(path.parent) / "m"]
)
def test_what_is_replaced_while_it_is_copied_is_never_kept_under_the_old_name(
    s3_folder: str, monkeypatch: pytest.MonkeyPatch, copy: Callable[[S3Path], Path]
) -> None:
    path, fetch = S3Path(s3_folder) / "m", ObjectStore.download
    path.write_text("old")

    def too_late(self: ObjectStore, *arguments: Any) -> ObjectInfo:
        monkeypatch.undo()
        path.write_text("newer")
        return fetch(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        monkeypatch = patch
        patch.setattr(ObjectStore, "download", too_late)
        assert copy(path).read_text() == "newer"
    path.write_text("old")
    assert copy(path).read_text() == "old", "the old content's copy is the old content"


def test_a_copy_that_was_deleted_is_fetched_again(s3_folder: str) -> None:
    path = S3Path(s3_folder) / "m"
    path.write_text("here")
    local_copy(path).unlink()
    assert local_copy(path).read_text() == "here"


def test_many_small_copies_are_not_counted_anew_for_each(
    s3_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Path] = []
    count = cache._make_room

    def look(root: Path, allowed: int) -> int:
        looks.append(root)
        return count(root, allowed)

    monkeypatch.setattr(cache, "_make_room", look)
    folder = S3Path(s3_folder)
    for number in range(20):
        (folder / str(number)).write_bytes(bytes(number))
        local_copy(folder / str(number))
    assert len(looks) == 1


def test_a_copy_of_a_folder_is_whole_and_follows_changes(both: tuple[Path, S3Path]) -> None:
    disk, bucket = both
    first = local_folder(bucket)
    assert first == local_folder(bucket)
    assert {relative(path, first): path.read_text() for path in first.rglob("*") if path.is_file()} == {
        name: name for name in TREE
    }
    assert local_folder(disk) is disk
    (bucket / "one" / "b.json").write_text("new")
    second = local_folder(bucket)
    assert (second / "one" / "b.json").read_text() == "new"
    assert (first / "one" / "b.json").read_text() == "one/b.json"


def test_the_cache_is_bounded_and_what_was_used_last_stays(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSPACE_S3__CACHE_BYTES", "3500")
    settings.cache_clear()
    folder = S3Path(s3.url)
    copies = []
    for number in range(3):
        (folder / str(number)).write_bytes(bytes([number]) * 1000)
        copies.append(local_copy(folder / str(number)))
        os.utime(copies[-1].parent, (number + 1.0,) * 2)  # used long ago, one after the other
    local_copy(folder / "0")  # used again just now
    (folder / "3").write_bytes(bytes(1000))
    local_copy(folder / "3")
    assert [copy.exists() for copy in copies] == [True, False, True]
    assert local_copy(folder / "1").read_bytes() == b"\1" * 1000
    assert not copies[2].exists()
    held = sum(path.stat().st_size for path in settings().s3.cache_dir.rglob("*") if path.is_file())
    assert held <= 3500


def test_what_was_just_asked_for_stays_although_there_is_no_room(
    s3_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TSPACE_S3__CACHE_BYTES", "0")
    settings.cache_clear()
    first, second = S3Path(s3_folder) / "1", S3Path(s3_folder) / "2"
    first.write_text("1")
    second.write_text("2")
    copies = [local_copy(first), local_copy(second)]
    assert [copy.read_text() for copy in copies] == ["1", "2"]
    monkeypatch.setattr(cache, "IN_USE_S", -1.0)
    second.write_text("3")
    local_copy(second)
    assert not any(copy.exists() for copy in copies)


def test_a_cache_that_cannot_be_written_is_told(
    s3_folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    path = S3Path(s3_folder) / "a"
    path.write_text("1")
    monkeypatch.setenv("TSPACE_S3__CACHE_DIR", str(tmp_path / "file" / "cache"))
    settings.cache_clear()
    with pytest.raises(ObjectError, match="TSPACE_S3__CACHE_DIR"):
        local_copy(path)
