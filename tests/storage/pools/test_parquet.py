"""The lake as a pool: what pipelines and pools write is one, and damage costs only itself."""

import io
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.objects.seaweed import S3
from tests.storage.logs import shortest_drive, twin
from tests.storage.pools.builders import at, episode, fleet, same
from tests.storage.pools.contract import Opener, PoolContract
from tests.storage.pools.line import Line
from tests.storage.test_online_episodes import KEY, pieces
from tspace_core.config import settings
from tspace_core.errors import ObjectExistsError, ObjectServerError, PoolError, StorageError
from tspace_core.objects import client
from tspace_core.objects.path import AnyPath, S3Path, any_path
from tspace_core.records.episode import Episode
from tspace_core.storage import episodes_table
from tspace_core.storage.catalogue import Catalogue
from tspace_core.storage.ingest import IngestResult, ingest_log, store_episodes
from tspace_core.storage.lake import Lake
from tspace_core.storage.online_episodes import store_online_episode
from tspace_core.storage.pools.entry import Entry
from tspace_core.storage.pools.parquet import ParquetPool
from tspace_core.storage.pools.query import ALL, Query
from tspace_core.storage.replay import build_replay
from tspace_core.storage.unit_of_work import UnitOfWork


class TestParquetPool(PoolContract):
    @pytest.fixture
    def opener(self, place: AnyPath) -> Opener:
        return lambda: ParquetPool(place)


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shortest_drive(tmp_path_factory.mktemp("drive") / "drive.blf", flashing=True)


@pytest.fixture
def cut(drive: Path, tmp_path: Path) -> tuple[Lake, IngestResult]:
    """A lake whose one log was cut into episodes."""
    lake = Lake(tmp_path / "lake")
    return lake, ingest_log(lake, drive, twin())


def test_what_the_pipelines_wrote_is_found(cut: tuple[Lake, IngestResult]) -> None:
    lake, result = cut
    with ParquetPool(lake) as pool:
        wanted = [episodes_table.read(path) for path in lake.episodes()]
        assert pool.count() == (len(wanted), result.episodes.records)
        assert all(map(same, pool.iterate(), wanted))
        assert pool.store(wanted) == 0
        assert [entry.digest for entry in pool.find()] != [""]
        assert len(pool.sample(50, np.random.default_rng(0)).rewards) == 50


def test_what_a_pool_stores_is_seen_by_lake_replay_and_catalogue(place: AnyPath, tmp_path: Path) -> None:
    lake = Lake(place, local=tmp_path / "local")
    with ParquetPool(lake) as pool:
        pool.store(fleet())
        stored = [entry.place for entry in pool.find()]
    assert sorted(map(str, lake.episodes())) == sorted(stored)
    assert len(lake.episode_logs()) == 5
    assert [log.vehicle_id for log in lake.episode_logs("v3")] == ["v3"]
    replay = build_replay(lake.replay("all"), (episodes_table.read(path) for path in lake.episodes()))
    assert len(replay) == 33
    catalogue = Catalogue(tmp_path / "catalogue.duckdb", lake)
    catalogue.refresh()
    rows = catalogue.query("SELECT count(*), sum(records) FROM episodes").row(0)
    assert rows == (7, 33)
    assert catalogue.query("SELECT count(*) FROM records").row(0)[0] == 40


def test_a_stage_that_runs_again_brings_back_nothing_deleted(cut: tuple[Lake, IngestResult]) -> None:
    """Its inputs are as they were; where they change it makes everything anew and keeps what a pool added."""
    lake, result = cut
    key, added = result.raw.key, None
    with ParquetPool(lake) as pool:
        first = pool.find()[0]
        added = episode(77, 4, log_key=key, episode_id=f"{key}#0077", vehicle_id=result.raw.vehicle_id)
        assert pool.store([added]) == 1
        assert pool.delete(Query(episodes=(first.episode_id,))) == 1
        before = pool.count()
        again = store_episodes(lake, result.raw, twin())
        assert (again.episodes, again.records, again.reused) == (*before, True)
        assert all(path.is_file() for path in again.paths)
        assert pool.count() == before

        manifest = lake.episodes_manifest(result.raw)
        content = json.loads(manifest.read_text())
        content["summary"]["fingerprint"] = "inputs that were otherwise"
        manifest.write_text(json.dumps(content))
        anew = store_episodes(lake, result.raw, twin())
        assert (anew.episodes, anew.records) == (
            result.episodes.episodes + 1,
            result.episodes.records + len(added),
        )
        assert anew.fingerprint == result.episodes.fingerprint
        assert same(pool.read(added.meta.episode_id), added)
    assert sorted(lake.episodes(result.raw)) == sorted(anew.paths)


def test_an_online_episode_that_is_offered_again_is_known(tmp_path: Path) -> None:
    """The outbox of a run may offer what it has stored, after a pool has changed its manifest."""
    lake, vehicle = Lake(tmp_path), twin()
    stored = store_online_episode(lake, vehicle, KEY, pieces())
    with ParquetPool(lake) as pool:
        assert pool.count().episodes == 2
        pool.delete(Query(episodes=(f"{KEY}#0001",)))
        again = store_online_episode(lake, vehicle, KEY, pieces())
        assert (again.fingerprint, again.episodes) == (stored.fingerprint, 1)
        assert pool.count().episodes == 1
        assert pool.delete(ALL, everything=True) == 1
        assert store_online_episode(lake, vehicle, KEY, pieces()).episodes == 0
        assert pool.store(pieces()) == 2
        assert store_online_episode(lake, vehicle, KEY, pieces()).episodes == 2


@pytest.mark.parametrize(
    ("place", "damage"),
    [
        *(("disk", damage) for damage in ("torn", "garbage", "empty", "missing", "foreign")),
        ("bucket", "torn"),
        ("bucket", "missing"),
    ],
    indirect=["place"],
)
def test_a_damaged_file_costs_only_its_episode(place: AnyPath, damage: str) -> None:
    with ParquetPool(place) as pool:
        pool.store(fleet())
        path = any_path(pool.find(Query(vehicles=("v2",), length_from=7))[0].place)
        content = path.read_bytes()
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes({"torn": content[:-300], "garbage": b"PAR1" * 40, "empty": b""}.get(
                damage, _foreign()
            ))  # fmt: skip
        assert pool.count().episodes == 7
        what = "is gone" if damage == "missing" else "is damaged"
        with pytest.raises(PoolError, match=rf"'v2/2026-03-03/log\.blf#0000'.*{what}.*other episodes"):
            pool.read("v2/2026-03-03/log.blf#0000")
        with pytest.raises(PoolError, match=path.name):
            pool.sample(500, np.random.default_rng(0))
        with pytest.raises(PoolError, match=path.name):
            list(pool.iterate())
        usable = Query(vehicles=("v1", "v3"))
        assert len(list(pool.iterate(usable))) == 5
        assert len(pool.sample(20, np.random.default_rng(0), usable).rewards) == 20
        # The way out that the message names.
        assert pool.delete(Query(episodes=("v2/2026-03-03/log.blf#0000",))) == 1
        assert pool.store(fleet()) == 1
        assert len(list(pool.iterate())) == 7


def _foreign() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"time": [1, 2], "of": ["somebody", "else"]}), sink)
    return sink.getvalue()


def test_nothing_of_a_call_is_stored_where_the_disk_is_full(tmp_path: Path) -> None:
    """No file may grow beyond 20 kB: the second episode of the call is larger."""
    code = (
        "import resource, sys\n"
        "from tests.storage.pools.builders import episode\n"
        "from tspace_core.storage.pools.parquet import ParquetPool\n"
        "pool = ParquetPool(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))\n"
        "pool.store([episode(1), episode(2, 400)])\n"
    )
    with ParquetPool(tmp_path) as pool:
        pool.store([episode(0)])
        before = sorted(path.name for path in (tmp_path / "episodes").rglob("*"))
        ended = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], check=False, capture_output=True, text=True
        )
        assert "StorageError: nothing" in ended.stderr
        assert "File too large" in ended.stderr
        assert sorted(path.name for path in (tmp_path / "episodes").rglob("*")) == before
        assert [path.name for path in tmp_path.glob(".pool*")] == []
        assert pool.count().episodes == 1
        assert pool.store([episode(1), episode(2, 400)]) == 2
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 20_000


def test_a_lake_that_may_not_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "lake").write_text("a file in the place of the lake")
    with ParquetPool(tmp_path / "lake") as pool:
        with pytest.raises(StorageError, match=r"nothing.*lake"):
            pool.store([episode(0)])
        assert pool.find() == []


def test_a_server_that_is_gone_in_mid_write_leaves_the_old_state(
    s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ATTEMPTS", 1)
    port = urlsplit(s3.server.endpoint).port
    assert port is not None
    with Line(port) as line, ParquetPool(s3.url) as pool:
        monkeypatch.setenv("TSPACE_S3__ENDPOINT", f"http://127.0.0.1:{line.port}")
        settings.cache_clear()
        pool.store([episode(0)])

        def stopping() -> Iterator[Episode]:
            yield episode(1)
            line.cut()
            yield episode(2)

        with pytest.raises(ObjectServerError):
            pool.store(stopping())
        with pytest.raises(ObjectServerError):
            pool.find()
        line.join()
        assert [entry.episode_id for entry in pool.find()] == ["v1/2026-03-01/log.blf#0000"]
        assert pool.store([episode(1), episode(2)]) == 2


def test_a_unit_of_work_takes_what_is_stored_and_deleted_along(place: AnyPath) -> None:
    lake = Lake(place)
    with ParquetPool(lake) as pool:
        pool.store(fleet())
        with UnitOfWork(lake, name="both") as unit:
            inside = ParquetPool(lake, writer=unit)
            assert inside.store([episode(9, 2, vehicle="v7")]) == 1
            assert inside.delete(Query(vehicles=("v2",))) == 2
            unit.text(lake.root / "note.txt", "done")
            assert pool.count().episodes == 7
        assert pool.count().episodes == 6
        with pytest.raises(KeyError), UnitOfWork(lake, name="fails") as unit:
            ParquetPool(lake, writer=unit).store([episode(9, 2, vehicle="v8")])
            raise KeyError
        assert pool.count(Query(vehicles=("v8",))).episodes == 0


def test_who_comes_between_look_and_replacement_wins_and_a_pool_looks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside of a caller's unit of work the caller is told instead."""
    lake = Lake(tmp_path)
    with ParquetPool(lake) as pool:
        pool.store([episode(0)])
        with pytest.raises(ObjectExistsError, match=r"log\.blf\.episodes\.json"), UnitOfWork(lake) as unit:
            ParquetPool(lake, writer=unit).store([episode(1)])
            _store_elsewhere(lake, 5)
        whole, times = ParquetPool._write, []

        def late(self: ParquetPool, *of: Any) -> None:
            if self is pool:
                times.append(1)
                if len(times) == 1:
                    _store_elsewhere(lake, 6)
            whole(self, *of)

        monkeypatch.setattr(ParquetPool, "_write", late)
        assert pool.store([episode(1), episode(6)]) == 1
        assert len(times) == 2
        assert [entry.episode_id[-1] for entry in pool.find()] == ["0", "1", "5", "6"]


class Overtaken(ParquetPool):
    """Something is done elsewhere between its looks and what it makes of them."""

    def __init__(self, root: Path, meanwhile: Callable[[], object]) -> None:
        super().__init__(root)
        self._meanwhile = iter([meanwhile])

    def find(self, query: Query = ALL) -> list[Entry]:
        found = super().find(query)
        next(self._meanwhile, lambda: None)()
        return found

    def read(self, episode_id: str) -> Episode:
        next(self._meanwhile, lambda: None)()
        return super().read(episode_id)


def test_what_takes_the_place_of_an_episode_that_is_being_deleted_stays(tmp_path: Path) -> None:
    other = ParquetPool(tmp_path)
    one = Query(episodes=("v1/2026-03-01/log.blf#0000",))

    def replace() -> None:
        assert other.delete(one) == 1
        assert other.store([episode(0, 8)]) == 1

    with other, Overtaken(tmp_path, replace) as pool:
        other.store([episode(0, 5), episode(1, 5)])
        assert pool.delete(Query(length_to=5)) == 1
        assert [(entry.episode_id[-1], entry.records) for entry in other.find()] == [("0", 8)]


def test_an_episode_that_is_deleted_while_another_content_is_offered_gives_way(tmp_path: Path) -> None:
    other = ParquetPool(tmp_path)
    with other, Overtaken(tmp_path, lambda: other.delete(Query(length_to=5))) as pool:
        other.store([episode(0, 5), episode(1, 6)])
        assert pool.store([episode(0, 8)]) == 1
        assert [entry.records for entry in other.find()] == [8, 6]
        with pytest.raises(PoolError, match="another episode"):
            pool.store([episode(0, 9)])


def _store_elsewhere(lake: Lake, number: int) -> None:
    """Store from another thread, as no unit may be begun inside of one."""

    def store() -> int:
        with ParquetPool(lake.root) as pool:
            return pool.store([episode(number)])

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(store).result(60) == 1


def test_only_the_row_groups_that_are_needed_are_read(tmp_path: Path) -> None:
    """A long episode may be written in many row groups, by whom ever: rows come from the right ones."""
    one = episode(0, 50)
    with ParquetPool(tmp_path) as pool:
        pool.store([one])
        path = Path(pool.find()[0].place)
        pq.write_table(episodes_table.to_table(one), path, row_group_size=7)
        assert same(pool.read(one.meta.episode_id), one)
        for rows in ([0], [50], [3, 4, 20, 21, 49, 50], [6, 7], list(range(51))):
            found = pool._read_rows(path, np.array(rows))
            np.testing.assert_array_equal(found.states, one.states[rows])
            inside = [row for row in rows if row < 50]
            np.testing.assert_array_equal(found.actions[: len(inside)], one.actions[inside])
            np.testing.assert_array_equal(found.rewards[: len(inside)], one.rewards[inside])
            np.testing.assert_array_equal(found.first_rows[: len(inside)], one.rows[inside])
            assert not found.rewards[len(inside) :].any()
            assert not np.isnan(found.actions).any()


def test_samples_of_a_bucket_are_those_of_a_disk(s3_folder: str, tmp_path: Path) -> None:
    with ParquetPool(any_path(s3_folder)) as far, ParquetPool(tmp_path) as near:
        assert isinstance(far.lake.root, S3Path)
        far.store(fleet())
        near.store(reversed(fleet()))
        query = Query(valid=True, before=at(2, 9))
        one = far.sample(100, np.random.default_rng(5), query)
        other = near.sample(100, np.random.default_rng(5), query)
        for left, right in zip(one, other, strict=True):
            np.testing.assert_array_equal(left, right)
