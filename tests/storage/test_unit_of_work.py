"""What belongs together becomes visible together, on a disk and in a bucket."""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tspace_core.errors import (
    ObjectExistsError,
    StorageError,
    UnitOfWorkError,
    WriterBusyError,
)
from tspace_core.objects.path import AnyPath, S3Path, local_copy
from tspace_core.storage.files import read_version, write_text
from tspace_core.storage.folders import file_sizes
from tspace_core.storage.lake import Lake
from tspace_core.storage.unit_disk import last_token
from tspace_core.storage.unit_log import UNITS
from tspace_core.storage.unit_of_work import UnitOfWork, finish_units, read_together
from tspace_core.storage.writer import Writer


@pytest.fixture
def lake(place: AnyPath) -> Lake:
    return Lake(place)


def contents(lake: Lake) -> dict[str, bytes]:
    """Everything readers see, by its way."""
    found = {}
    for path in file_sizes(lake.root, "**/*"):
        way = path.relative_to(lake.root).as_posix()  # type: ignore[arg-type]
        if not way.startswith(f"{UNITS}/"):
            found[way] = path.read_bytes()
    return found


def staged(lake: Lake) -> list[str]:
    """What units have left."""
    ways = (path.relative_to(lake.root).as_posix() for path in file_sizes(lake.root, f"{UNITS}/**/*"))  # type: ignore[arg-type]
    return [way for way in ways if not way.endswith(("/.lock", "/last.json"))]


def write_all(lake: Lake, writer: Writer) -> None:
    """One of each kind of thing."""
    with writer.file(lake.root / "episodes" / "a.parquet") as path:
        path.write_bytes(b"rows")
    with writer.directory(lake.root / "checkpoints" / "ddpg" / "r" / "1") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "actor").write_bytes(b"weights")
        (folder / "manifest.json").write_text("{}")
    writer.text(lake.root / "replay" / "m.json", "two", seen=read_version(lake.root / "replay" / "m.json")[1])
    writer.text(lake.root / "episodes" / "a.episodes.json", "new", if_absent=True)
    writer.remove(lake.root / "old", lake.root / "old_folder", lake.root / "never there")


def begin(lake: Lake) -> dict[str, bytes]:
    write_text(lake.root / "replay" / "m.json", "one")
    write_text(lake.root / "old", "old")
    write_text(lake.root / "old_folder" / "manifest.json", "old")
    return contents(lake)


NEW = {
    "episodes/a.parquet": b"rows",
    "episodes/a.episodes.json": b"new",
    "checkpoints/ddpg/r/1/deep/actor": b"weights",
    "checkpoints/ddpg/r/1/manifest.json": b"{}",
    "replay/m.json": b"two",
}


def test_nothing_is_visible_before_the_end_of_the_block_and_all_of_it_after(lake: Lake) -> None:
    old = begin(lake)
    with UnitOfWork(lake, name="all") as unit:
        write_all(lake, unit)
        assert contents(lake) == old
    assert contents(lake) == NEW
    assert staged(lake) == []
    assert finish_units(lake) == []


def test_an_exception_discards_all_of_it(lake: Lake) -> None:
    old = begin(lake)
    with pytest.raises(ZeroDivisionError), UnitOfWork(lake) as unit:
        write_all(lake, unit)
        raise ZeroDivisionError
    assert contents(lake) == old
    assert staged(lake) == []


@pytest.mark.parametrize("kind", ["if_absent", "seen", "directory"])
def test_a_condition_that_does_not_hold_any_more_costs_the_whole_unit(lake: Lake, kind: str) -> None:
    target = lake.root / "replay" / "manifest.json"
    unit = UnitOfWork(lake)
    if kind == "seen":
        write_text(target, "as seen")
    with pytest.raises(ObjectExistsError, match="replay"), unit:
        unit.text(lake.root / "other", "x")
        if kind == "directory":
            with unit.directory(target.parent) as folder:
                (folder / "manifest.json").write_text("mine")
        else:
            seen = read_version(target)[1] if kind == "seen" else None
            unit.text(target, "mine", seen=seen, if_absent=kind == "if_absent")
        write_text(target, "theirs")
    assert contents(lake) == {"replay/manifest.json": b"theirs"}
    assert staged(lake) == []


def test_units_are_not_nested_and_not_used_outside_of_their_block(lake: Lake) -> None:
    with UnitOfWork(lake, name="outer") as unit, pytest.raises(UnitOfWorkError, match=r"'inner'.*'outer'"):
        UnitOfWork(lake, name="inner").__enter__()
    with pytest.raises(UnitOfWorkError, match="not open"):
        unit.text(lake.root / "a", "a")
    with UnitOfWork(lake) as after:  # the refused one leaves nothing behind
        after.text(lake.root / "a", "a")
    assert contents(lake) == {"a": b"a"}


def test_a_unit_writes_only_into_its_lake_and_each_place_once(lake: Lake, tmp_path: Path) -> None:
    with UnitOfWork(lake) as unit:
        unit.text(lake.root / "a", "a")
        with pytest.raises(UnitOfWorkError, match="written twice"):
            unit.text(lake.root / "a", "b")
        for place in (tmp_path / "elsewhere", lake.root / UNITS / "x.json", lake.root):
            with pytest.raises(UnitOfWorkError, match="begin the unit on its lake"):
                unit.text(place, "b")
        with pytest.raises(StorageError, match="nothing was written"), unit.file(lake.root / "b"):
            pass
        unit.text(lake.root / "b", "second try")
    assert contents(lake) == {"a": b"a", "b": b"second try"}


def test_metrics_are_strict_json_of_the_unit(lake: Lake) -> None:
    with UnitOfWork(lake, name="night") as unit:
        unit.metrics("scoring", {"q": 1.5, "unknown": None})
        with pytest.raises(StorageError, match="no strict JSON"):
            unit.metrics("other", {"q": float("nan")})
        with pytest.raises(StorageError, match="one word"):
            unit.metrics("../other", {})
    found = json.loads((lake.root / "metrics" / "scoring" / f"{unit.id}.json").read_text())
    assert (found["name"], found["unit"], found["work"]) == ("scoring", unit.id, "night")
    assert found["values"] == {"q": 1.5, "unknown": None}


def test_units_side_by_side_on_different_files_all_succeed(lake: Lake) -> None:
    barrier = threading.Barrier(4)

    def work(number: int) -> None:
        with UnitOfWork(lake) as unit:
            unit.text(lake.root / f"{number}.json", str(number), if_absent=True)
            barrier.wait(30)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert contents(lake) == {f"{number}.json": b"%d" % number for number in range(4)}
    assert staged(lake) == []


def test_of_units_on_the_same_manifest_one_wins_and_nothing_of_the_others_is_visible(lake: Lake) -> None:
    manifest = lake.root / "m.json"
    for turn in range(5):
        before = contents(lake)
        write_text(manifest, f"before {turn}")
        seen = read_version(manifest)[1]
        barrier = threading.Barrier(3)

        def work(
            number: int, turn: int = turn, seen: str = seen, barrier: threading.Barrier = barrier
        ) -> bool:
            try:
                with UnitOfWork(lake) as unit:
                    unit.text(lake.root / f"{turn}-{number}", "data", if_absent=True)
                    unit.text(manifest, f"{turn}-{number}", seen=seen)
                    barrier.wait(30)
            except (ObjectExistsError, WriterBusyError):
                return False
            return True

        with ThreadPoolExecutor(3) as pool:
            won = [number for number, good in enumerate(pool.map(work, range(3))) if good]
        assert len(won) <= 1, "in a bucket all may be told to try again"
        new = {f"{turn}-{number}": b"data" for number in won}
        text = f"{turn}-{won[0]}" if won else f"before {turn}"
        assert contents(lake) == {**before, **new, "m.json": text.encode()}
    assert isinstance(lake.root, S3Path) or won
    assert staged(lake) == []


def test_what_is_read_together_belongs_together(lake: Lake) -> None:
    """Two files that are always written together with one number, and a reader of both."""
    ways = [lake.root / "a" / "one", lake.root / "b" / "two"]
    rounds, enough = (25 if isinstance(lake.root, S3Path) else 150), threading.Event()

    def write() -> int:
        number = 0
        while number < rounds or not enough.is_set():
            number += 1
            with UnitOfWork(lake) as unit:
                for way in ways:
                    unit.text(way, str(number))
        return number

    with UnitOfWork(lake) as unit:
        for way in ways:
            unit.text(way, "-")
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        seen = set()
        try:
            while not writing.done():
                first, second = read_together(lake, lambda: tuple(way.read_text() for way in ways))
                assert first == second
                seen.add(first)
                if len(seen) > 2:
                    enough.set()
        finally:
            enough.set()
        last = writing.result()
    assert len(seen) > 2
    assert read_together(lake, ways[0].read_text) == str(last)


def test_units_within_a_tick_of_the_clock_are_told_apart(tmp_path: Path) -> None:
    """The inode of a record is free for the next but one, which may have its time as well."""
    lake, tokens = Lake(tmp_path), set()
    last, inode = tmp_path / "units" / "last.json", tmp_path / "inode"
    for number in range(4):
        with UnitOfWork(lake) as unit:
            unit.text(tmp_path / "a", str(number))
        inode.write_bytes(last.read_bytes())
        os.utime(inode, (0, 0))
        last.unlink()
        last.hardlink_to(inode)
        tokens.add(last_token(tmp_path))
    assert len(tokens) == 4


def test_a_reading_error_of_the_readers_own_is_told(lake: Lake) -> None:
    with pytest.raises((FileNotFoundError, StorageError)):
        read_together(lake, (lake.root / "never").read_bytes)


def test_large_files_and_replaced_files_in_a_unit(lake: Lake) -> None:
    block = bytes(range(256)) * 4096
    write_text(lake.root / "replaced", "old")
    with UnitOfWork(lake) as unit:
        for name in ("large", "replaced"):
            with unit.file(lake.root / name) as path:
                path.write_bytes(block)
    assert local_copy(lake.root / "large").read_bytes() == block
    assert (lake.root / "replaced").read_bytes() == block
