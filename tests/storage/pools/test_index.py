"""The index follows the store, whoever changes it, and is never more than a cache."""

import json
import multiprocessing
import multiprocessing.pool
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.storage.pools.builders import at, episode, fleet, ns
from tspace_core.errors import PoolError, SchemaVersionError
from tspace_core.objects.path import AnyPath, S3Path, any_path
from tspace_core.storage.lake import Lake
from tspace_core.storage.pools import manifest_scan
from tspace_core.storage.pools.index import index_file
from tspace_core.storage.pools.manifest_scan import ManifestScan
from tspace_core.storage.pools.parquet import ParquetPool
from tspace_core.storage.pools.query import ALL, Query


def lake_at(place: AnyPath, tmp_path: Path) -> Lake:
    return Lake(place, local=tmp_path / "local")


def files_of(lake: Lake) -> Path:
    return index_file(lake.local, lake.root / "episodes")


def ids(pool: ParquetPool, query: Query = ALL) -> list[str]:
    return [entry.episode_id for entry in pool.find(query)]


def _store_from(root: str, numbers: list[int]) -> None:
    with ParquetPool(root) as pool:
        for number in numbers:
            pool.store([episode(number, 2), episode(number, 2, vehicle="v2", day=number % 3)])
            assert len(pool.find(Query(episodes=(f"v1/2026-03-01/log.blf#{number:04d}",)))) == 1


@pytest.fixture(scope="module")
def processes() -> Iterator[multiprocessing.pool.Pool]:
    """Two processes of their own, which have nothing of this one's memory."""
    with multiprocessing.get_context("spawn").Pool(2) as both:
        yield both


def test_what_another_process_stores_is_found_at_once(
    processes: multiprocessing.pool.Pool, tmp_path: Path
) -> None:
    """Also where it comes so soon after the last look that the folder's time may not have moved on."""
    with ParquetPool(tmp_path) as pool:
        for number in range(2):
            processes.apply(_store_from, (str(tmp_path), [number]))
            assert pool.count().episodes == 2 * (number + 1)
            processes.apply(_delete_from, (str(tmp_path), number))
            assert f"v1/2026-03-01/log.blf#{number:04d}" not in ids(pool)
            processes.apply(_store_from, (str(tmp_path), [number]))
            assert f"v1/2026-03-01/log.blf#{number:04d}" in ids(pool)


def _delete_from(root: str, number: int) -> None:
    with ParquetPool(root) as pool:
        assert pool.delete(Query(episodes=(f"v1/2026-03-01/log.blf#{number:04d}",))) == 1


def test_several_processes_share_one_index(processes: multiprocessing.pool.Pool, tmp_path: Path) -> None:
    """Two write and look at once; nothing is lost."""
    processes.starmap(_store_from, [(str(tmp_path), [0, 1]), (str(tmp_path), [2, 3])])
    with ParquetPool(tmp_path) as pool:
        assert pool.count().episodes == 8
        assert len(list(pool.iterate())) == 8


def test_threads_share_one_pool(tmp_path: Path) -> None:
    with ParquetPool(tmp_path) as pool, ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: pool.store([episode(number, 2)]), range(8)))
        assert set(threads.map(lambda _: pool.count().episodes, range(8))) == {8}
        queries = [Query(after=at(0, half / 2)) for half in range(6)]  # more than a pool keeps plans of

        def draw(number: int) -> list[float]:
            batch = pool.sample(9, np.random.default_rng(number), queries[number % 6])
            return [float(reward) for reward in batch.rewards]

        assert list(threads.map(draw, range(36))) == [draw(number) for number in range(36)]


@pytest.mark.parametrize(
    ("place", "damage"),
    [
        ("disk", "garbage"),
        ("disk", "torn"),
        ("disk", "emptied"),
        ("disk", "other version"),
        ("disk", "other tables"),
        ("disk", "a folder"),
        ("bucket", "garbage"),
    ],
    indirect=["place"],
)
def test_a_damaged_index_is_made_anew(place: AnyPath, tmp_path: Path, damage: str) -> None:
    lake = lake_at(place, tmp_path)
    with ParquetPool(lake) as pool:
        pool.store(fleet())
        wanted = ids(pool)
    file = files_of(lake)
    whole = file.read_bytes()
    if damage == "garbage":
        file.write_bytes(os.urandom(len(whole)))
    elif damage == "torn":
        file.write_bytes(whole[: len(whole) // 2])
    elif damage == "emptied":
        file.write_bytes(b"")
    elif damage == "other version":
        with sqlite3.connect(file) as db:
            db.execute("PRAGMA user_version = 99")
        db.close()
    elif damage == "other tables":
        with sqlite3.connect(file) as db:
            db.execute("DROP TABLE common")
        db.close()
    else:
        file.unlink()
        file.mkdir()
    with ParquetPool(lake) as pool:
        assert ids(pool) == wanted
        pool.store([episode(7)])
        assert pool.count().episodes == 8
    with ParquetPool(lake) as pool:
        assert pool.count().episodes == 8


def test_an_index_that_is_deleted_while_it_is_open_costs_nothing_but_time(
    place: AnyPath, tmp_path: Path
) -> None:
    lake = lake_at(place, tmp_path)
    with ParquetPool(lake) as one, ParquetPool(lake) as other:
        one.store(fleet())
        assert other.count().episodes == 7
        shutil.rmtree(files_of(lake).parent)
        other.store([episode(7)])
        assert one.count().episodes == other.count().episodes == 8


def test_where_no_index_can_be_written_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "local").write_text("a file in the place of the folder")
    lake = lake_at(tmp_path / "lake", tmp_path)
    with ParquetPool(lake) as pool:
        pool.store(fleet())
        assert pool.count().episodes == 7
    assert (tmp_path / "local").is_file()


def test_a_look_reads_only_what_has_changed(
    place: AnyPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of thirty manifests, the one that is new; none, where the query cannot touch it."""
    lake = lake_at(place, tmp_path)
    with ParquetPool(lake) as pool:
        pool.store(episode(0, 1, vehicle=f"v{k % 10}", day=k // 10) for k in range(30))
        assert pool.count().episodes == 30
    # As if the look came late enough to trust what the disk says of its times.
    monkeypatch.setattr(manifest_scan, "_YOUNG_NS", 0)
    read: list[tuple[str, str]] = []
    whole = ManifestScan.read

    def counted(self: ManifestScan, place: tuple[str, str]) -> Any:
        read.append(place)
        return whole(self, place)

    monkeypatch.setattr(ManifestScan, "read", counted)
    with ParquetPool(lake) as pool:
        assert pool.count().episodes == 30
        read.clear()
        assert pool.count().episodes == 30
        assert read == []
        pool.store([episode(1, 1, vehicle="v3", day=2)])
        assert pool.count(Query(vehicles=("v4",))).episodes == 3
        assert read == []
        assert pool.count(Query(vehicles=("v3",))).episodes == 4
        assert read == [("vehicle=v3/date=2026-03-03", "log.blf.episodes.json")]


def test_a_reader_of_a_part_never_mixes_two_calls_for_a_reader_of_all(tmp_path: Path) -> None:
    """One process looks at one vehicle only, another at all, in an index that they share."""
    with ParquetPool(tmp_path) as writer, ParquetPool(tmp_path) as part, ParquetPool(tmp_path) as whole:
        for number in range(3):
            writer.store([episode(number, 1, vehicle=f"v{k}") for k in range(3)])
            assert part.count(Query(vehicles=("v1",))).episodes == number + 1
            assert whole.count().episodes == 3 * (number + 1)


def test_foreign_files_in_the_lake_are_no_episodes(place: AnyPath, tmp_path: Path) -> None:
    lake = lake_at(place, tmp_path)
    with ParquetPool(lake) as pool:
        pool.store(fleet())
        folder = lake.root / "episodes" / "vehicle=v1" / "date=2026-03-01"
        for name in ("notes.txt", "other.parquet", ".hidden.episodes.json", "log.blf.training.json"):
            _write(folder / name, b"whatever")
        _write(lake.root / "episodes" / "README", b"of somebody")
        _write(lake.root / "episodes" / "vehicle=v1" / "thumbs.db", b"of somebody")
        assert pool.count().episodes == 7
        assert len(list(pool.iterate())) == 7


def test_a_damaged_manifest_is_said_where_it_matters(place: AnyPath, tmp_path: Path) -> None:
    lake = lake_at(place, tmp_path)
    with ParquetPool(lake) as pool:
        pool.store(fleet())
        for text in ("{", "[]", '{"episodes": [{}], "summary": {}}', '{"summary": {}}', "\x00"):
            _write(lake.root / "episodes/vehicle=v2/date=2026-03-01/other.blf.episodes.json", text.encode())
            with pytest.raises(PoolError, match=r"other\.blf\.episodes\.json is no manifest.*move it away"):
                pool.find()
        assert len(pool.find(Query(vehicles=("v1",)))) == 4
        assert len(pool.read("v2/2026-03-01/log.blf#0000")) == 3


def _write(path: AnyPath, content: bytes) -> None:
    if isinstance(path, S3Path):
        path.write_bytes(content)
        return
    temporary = path.with_name(".new")
    temporary.write_bytes(content)
    temporary.replace(path)


def test_a_manifest_of_an_older_version_does_without_what_it_lacks(place: AnyPath, tmp_path: Path) -> None:
    """Before pools there was neither digest nor the number of zeroed records."""
    lake = lake_at(place, tmp_path)
    with ParquetPool(lake) as pool:
        pool.store([episode(0, 5, zeroed=(0, 2)), episode(1, 4, second=60)])
        manifest = lake.root / "episodes/vehicle=v1/date=2026-03-01/log.blf.episodes.json"
        content = json.loads(manifest.read_text())
        for entry in content["episodes"]:
            del entry["digest"], entry["invalid"]
        _write(manifest, json.dumps(content).encode())
        assert [(entry.invalid, entry.digest) for entry in pool.find()] == [(2, ""), (0, "")]
        assert pool.count(Query(valid=True)) == (2, 7)
        assert pool.store([episode(0, 5, zeroed=(0, 2))]) == 0
        with pytest.raises(PoolError, match="another episode"):
            pool.store([episode(0, 5)])


def test_what_an_older_manifest_lacks_is_told_when_its_file_is_back(place: AnyPath, tmp_path: Path) -> None:
    """An index must not remember for ever what it could not find out."""
    lake = lake_at(place, tmp_path)
    with ParquetPool(lake) as pool:
        pool.store([episode(0, 5, zeroed=(0, 2)), episode(1, 4, second=60)])
        path = any_path(pool.find()[0].place)
        manifest = lake.root / "episodes/vehicle=v1/date=2026-03-01/log.blf.episodes.json"
        content = json.loads(manifest.read_text())
        for entry in content["episodes"]:
            del entry["digest"], entry["invalid"]
        _write(manifest, json.dumps(content).encode())
        whole = path.read_bytes()
        path.unlink()
        assert pool.count().episodes == 2
        with pytest.raises(PoolError, match="is gone"):
            pool.sample(50, np.random.default_rng(0), Query(valid=True))
        path.write_bytes(whole)
        assert pool.count(Query(valid=True)) == (2, 7)
        drawn = pool.sample(50, np.random.default_rng(0), Query(valid=True))
        assert not {episode(0, 5).rewards[0], episode(0, 5).rewards[2]} & set(drawn.rewards)


def test_a_manifest_that_was_changed_in_its_place_is_found_out_when_a_file_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No writer of tspace does that, but `cp -r` over a lake does."""
    monkeypatch.setattr(manifest_scan, "_YOUNG_NS", 0)
    with ParquetPool(tmp_path / "one") as one, ParquetPool(tmp_path / "other") as other:
        for number in (0, 1):
            one.store([episode(number)])
            other.store([episode(number)])
        assert one.count().episodes == 2
        folder = "episodes/vehicle=v1/date=2026-03-01"
        for path in (tmp_path / "one" / folder).glob("*.parquet"):
            path.unlink()
        for path in (tmp_path / "other" / folder).glob("*.parquet"):
            shutil.copy(path, tmp_path / "one" / folder)
        assert one.count().episodes == 2
        text = (tmp_path / "other" / folder / "log.blf.episodes.json").read_bytes()
        (tmp_path / "one" / folder / "log.blf.episodes.json").write_bytes(text)
        batch = one.sample(20, np.random.default_rng(0))
        np.testing.assert_array_equal(batch.rewards, other.sample(20, np.random.default_rng(0)).rewards)
        assert [Path(entry.place).is_file() for entry in one.find()] == [True, True]


def test_a_look_at_a_wrong_path_makes_no_folders(tmp_path: Path) -> None:
    with ParquetPool(tmp_path / "lake") as pool:
        assert pool.find() == []
        assert pool.count(Query(valid=True)) == (0, 0)
        assert list(tmp_path.iterdir()) == []
        pool.store([episode(0)])
        assert pool.count() == (1, 5)
    assert files_of(Lake(tmp_path / "lake")).is_file()


def test_meta_information_that_cannot_be_understood_names_the_way_to_migrate(tmp_path: Path) -> None:
    with ParquetPool(tmp_path) as pool:
        pool.store([episode(0)])
        manifest = tmp_path / "episodes/vehicle=v1/date=2026-03-01/log.blf.episodes.json"
        content = json.loads(manifest.read_text())
        del content["episodes"][0]["meta"]["budget_nm"]
        _write(manifest, json.dumps(content).encode())
        found = pool.find()
        with pytest.raises(SchemaVersionError, match=r"fields budget_nm.*tspace convert"):
            _ = found[0].meta


def test_a_find_in_the_middle_of_years_uses_the_index(tmp_path: Path) -> None:
    with ParquetPool(tmp_path) as pool:
        pool.store(episode(0, 1, day=day) for day in range(40))
        query = Query(started_from=at(10), started_before=at(12), vehicles=("v1",))
        assert [entry.start_ns for entry in pool.find(query)] == [ns(at(10)), ns(at(11))]
    with sqlite3.connect(files_of(Lake(tmp_path))) as db:
        plan = db.execute(
            "EXPLAIN QUERY PLAN SELECT * FROM episodes WHERE vehicle_id IN ('v1') AND start_ns >= 1"
        ).fetchall()
    db.close()
    assert "by_vehicle" in str(plan)


def test_a_killed_writer_leaves_the_old_state(tmp_path: Path) -> None:
    """Killed while its files are staged: nothing of the call is found, and the next writer goes on."""
    code = (
        "import os, sys\n"
        "from tests.storage.pools.builders import episode\n"
        "from tspace_core.storage.pools.parquet import ParquetPool\n"
        "from tspace_core.storage.unit_of_work import UnitOfWork\n"
        "UnitOfWork.text = lambda *a, **k: os._exit(9)\n"
        "ParquetPool(sys.argv[1]).store([episode(0), episode(1)])\n"
    )
    with ParquetPool(tmp_path) as pool:
        pool.store([episode(5)])
        ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
        assert ended.returncode == 9
        assert ids(pool) == ["v1/2026-03-01/log.blf#0005"]
        assert pool.store([episode(0), episode(1)]) == 2
        assert len(list(pool.iterate())) == 3
