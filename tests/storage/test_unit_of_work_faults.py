"""Whatever fails or is killed while a unit of work is written: the old state or the new one, not between."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.storage import crash_work
from tests.storage.faults import ERRORS, Faults, Killed, fail
from tspace_core.errors import ObjectServerError, StorageError
from tspace_core.objects.path import AnyPath, any_path
from tspace_core.objects.store import ObjectStore
from tspace_core.storage.lake import Lake
from tspace_core.storage.unit_of_work import read_together

ROOT = Path(__file__).parents[2]
EVERY = pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 11])
"""All points, or, as long as nobody asks for more, some of them from the first to the last."""


class Server:
    """Forks a child a command, see ``crash_work``."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.storage.crash_work"], cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def do(self, what: str, root: Path, at: int | None = None, size: int | None = None) -> int:
        """Exit code of the child, or minus its signal."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": what, "root": str(root), "at": at, "size": size}) + "\n")
        self._process.stdin.flush()
        return int(json.loads(self._process.stdout.readline())["status"])

    def close(self) -> None:
        """End it."""
        self._process.communicate(timeout=30)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.close()


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A lake in the old state."""
    root = tmp_path / "old"
    root.mkdir()
    crash_work.begin(root)
    assert crash_work.look(root) == 1
    return root


def points_of(work: Callable[[Path], object], old: Path, copy: Path) -> list[str]:
    """The write points of something done to a copy of a lake."""
    shutil.copytree(old, copy)
    with Faults(copy, None, fail(0)).installed() as faults:
        work(copy)
    shutil.rmtree(copy)
    return faults.points


@EVERY
def test_a_write_point_that_fails_leaves_the_old_state_or_the_new_one(
    old: Path, tmp_path: Path, step: int
) -> None:
    root = tmp_path / "lake"
    points = points_of(crash_work.work, old, root)
    assert len(points) > 50
    ends = {"old": 0, "new": 0, "finished later": 0}
    for at, where in list(enumerate(points))[::step]:
        shutil.copytree(old, root)
        told = None
        with Faults(root, at, fail(ERRORS[at % len(ERRORS)])).installed():
            try:
                crash_work.work(root)
            except StorageError as error:
                told = str(error)
        if told is not None:
            assert "injected" in told, where
            assert "make room" in told, where
        nights = read_together(Lake(root), lambda: crash_work.look_at_stores(root))
        crash_work.finish(root)
        assert crash_work.look(root) == nights
        ends["new" if told is None else "finished later" if nights == 2 else "old"] += 1
        assert nights == 2 or told is not None, where
        if nights == 1:
            crash_work.work(root)
            assert crash_work.look(root) == 2, where
        shutil.rmtree(root)
    assert ends["old"] > 0, ends
    assert ends["finished later"] > 0, ends


@EVERY
def test_a_process_killed_at_any_write_point_leaves_the_old_state_or_the_new_one(
    old: Path, tmp_path: Path, server: Server, step: int
) -> None:
    root = tmp_path / "lake"
    points, nights = points_of(crash_work.work, old, root), []
    for at, where in list(enumerate(points))[::step]:
        shutil.copytree(old, root)
        assert server.do("work", root, at) == -9, where
        crash_work.finish(root)
        nights.append(crash_work.look(root))
        if nights[-1] == 1:
            crash_work.work(root)
            assert crash_work.look(root) == 2, where
        shutil.rmtree(root)
    assert nights == sorted(nights), "the commit is one point: old before it, new after it"
    assert set(nights) == {1, 2}


@EVERY
def test_who_finishes_a_killed_unit_may_be_killed_as_well(
    old: Path, tmp_path: Path, server: Server, step: int
) -> None:
    root, half = tmp_path / "lake", tmp_path / "half"
    points = points_of(crash_work.work, old, root)
    committed = max(at for at, where in enumerate(points) if where.startswith(("link", "rename")))
    first = min(at for at, where in enumerate(points) if where.startswith("link") and where.endswith(".json"))
    for begun in (first + 1, (first + committed) // 2):
        shutil.copytree(old, half)
        assert server.do("work", half, begun) == -9
        for at, where in list(enumerate(points_of(crash_work.finish, half, root)))[::step]:
            shutil.copytree(half, root)
            assert server.do("finish", root, at) == -9, where
            crash_work.finish(root)
            assert crash_work.look(root) == 2, where
            shutil.rmtree(root)
        shutil.rmtree(half)


@pytest.mark.parametrize("size", [0, 900, 4_000])
def test_what_cannot_be_written_to_its_end_leaves_the_old_state(old: Path, server: Server, size: int) -> None:
    """The writes themselves fail, also those of Arrow, numpy and safetensors: no file grows beyond a size."""
    assert server.do("work", old, size=size) == crash_work.TOLD_TO_MAKE_ROOM
    assert crash_work.look(old) == 1
    crash_work.work(old)
    assert crash_work.look(old) == 2


class BucketFaults:
    """Something happens at the n-th request that changes a bucket: before it, or when it is done."""

    def __init__(self, at: int | None, act: Callable[[int], object], *, after: bool, patch: Any) -> None:
        self.count = 0
        self._at, self._act, self._after = at, act, after
        for name in ("put", "upload", "copy", "delete"):
            patch.setattr(ObjectStore, name, self._watched(getattr(ObjectStore, name)))

    def _watched(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            number, self.count = self.count, self.count + 1
            if number == self._at and not self._after:
                self._act(number)
            found = real(*args, **named)
            if number == self._at and self._after:
                self._act(number)
            return found

        return call


def gone(number: int) -> None:
    message = f"the server is gone (injected at request {number})"
    raise ObjectServerError(message)


class Dead:
    """From some request on every one fails with what no handler catches: this process is no more."""

    def __init__(self, at: int, *, after: bool, patch: Any) -> None:
        self._count, self._at, self._after = 0, at, after
        for name in ("put", "upload", "copy", "delete"):
            patch.setattr(ObjectStore, name, self._watched(getattr(ObjectStore, name)))

    def _watched(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            number, self._count = self._count, self._count + 1
            if number > self._at or (number == self._at and not self._after):
                raise Killed
            found = real(*args, **named)
            if number == self._at:
                raise Killed
            return found

        return call


@pytest.fixture
def bucket(s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], AnyPath]:
    """Makes lakes in the old state."""
    # A folder whose writer was killed is taken for one after a minute: here at once.
    monkeypatch.setattr("tspace_core.storage.unit_bucket.LEFT_BEHIND_S", -60.0)

    def make(name: str) -> AnyPath:
        root = any_path(s3_folder) / name
        crash_work.begin(root)
        return root

    return make


@EVERY
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("how", ["fails", "killed"])
def test_a_bucket_holds_the_old_state_or_the_new_one(
    bucket: Callable[[str], AnyPath], how: str, step: int, *, after: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        counted = BucketFaults(None, gone, after=False, patch=patch)
        root = bucket("all")
        begun = counted.count
        crash_work.work(root)
        count = counted.count - begun
    assert count > 20
    seen = set()
    for at in range(0, count, 1 if step == 1 else 2 * step):
        root = bucket(f"{how}-{after}-{at}")
        with pytest.MonkeyPatch.context() as patch:
            if how == "killed":
                Dead(at, after=after, patch=patch)
            else:
                BucketFaults(at, gone, after=after, patch=patch)
            try:
                crash_work.work(root)
            except (Killed, StorageError) as error:
                told = "" if isinstance(error, Killed) else str(error)
        if how == "fails" and "committed" in told:
            assert "doctor --repair" in told
        crash_work.finish(root)
        nights = crash_work.look(root)
        seen.add(nights)
        if nights == 1:
            crash_work.work(root)
            assert crash_work.look(root) == 2
    assert seen == {1, 2}
