"""Files appear whole or not at all, also when the writer is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tspace_core.errors import StorageError
from tspace_core.storage.files import atomic_directory, atomic_write, sha256, sweep, write_text

WRITER = """
import os, sys
from pathlib import Path
from tspace_core.storage.files import atomic_{what}
with atomic_{what}(Path(sys.argv[1])) as temporary:
    target = temporary / "part" if "{what}" == "directory" else temporary
    target.write_text("new, but not whole")
    print("written", flush=True)
    sys.stdin.read()
"""


def kill_between_write_and_rename(what: str, path: Path) -> None:
    """Start a writer, wait until its content is on the disk, and end it with SIGKILL before it renames."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER.format(what=what), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written\n"
        writer.kill()
        assert writer.wait(timeout=10) == -signal.SIGKILL


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_text(path, "old")
    kill_between_write_and_rename("write", path)
    assert path.read_text() == "old"
    leftovers = [found for found in tmp_path.iterdir() if found != path]
    assert len(leftovers) == 1
    assert leftovers[0].name.startswith(".")
    assert sweep(tmp_path) == []
    os.utime(leftovers[0], (0, 0))
    assert sweep(tmp_path) == leftovers
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "version"
    kill_between_write_and_rename("directory", path)
    assert not path.exists()
    (leftover,) = tmp_path.iterdir()
    os.utime(leftover, (0, 0))
    assert sweep(tmp_path) == [leftover]
    with atomic_directory(path) as temporary:
        (temporary / "part").write_text("whole")
    assert (path / "part").read_text() == "whole"


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_text(path, "old")

    def fail() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nothing was written"), atomic_write(tmp_path / "a"):
        pass


def test_a_folder_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "version"
    with atomic_directory(path) as temporary:
        (temporary / "a").write_text("1")
    with pytest.raises(StorageError, match="never replaced"), atomic_directory(path):
        pass

    def race() -> None:
        with atomic_directory(tmp_path / "race") as temporary:
            (temporary / "mine").write_text("2")
            (tmp_path / "race").mkdir()
            (tmp_path / "race" / "theirs").write_text("1")

    with pytest.raises(StorageError, match="made by someone else"):
        race()
    assert [found.name for found in (tmp_path / "race").iterdir()] == ["theirs"]
    assert sorted(found.name for found in tmp_path.iterdir()) == ["deep", "race"]


def test_young_leftovers_are_kept(tmp_path: Path) -> None:
    young = tmp_path / ".a.1-ff.tmp"
    young.write_text("someone is at work")
    assert sweep(tmp_path, older_than_s=60) == []
    os.utime(young, (time.time() - 61,) * 2)
    assert sweep(tmp_path, older_than_s=60) == [young]


def test_hash_of_known_content(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "abc")
    assert sha256(tmp_path / "a").startswith("ba7816bf8f01cfea414140de5dae2223")
