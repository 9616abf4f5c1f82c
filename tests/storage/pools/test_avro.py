"""Avro files as a pool; other tools read them with what they mean."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import polars as pl
import pytest

from tests.storage.pools.builders import at, episode, fleet, ns, same
from tests.storage.pools.contract import Opener, PoolContract
from tspace_core.errors import PoolError, SchemaVersionError
from tspace_core.objects.path import AnyPath, any_path, local_copy
from tspace_core.records.meta import EpisodeMeta
from tspace_core.storage.pools import avro
from tspace_core.storage.pools.avro import AvroPool
from tspace_core.storage.pools.parquet import ParquetPool
from tspace_core.storage.pools.query import Query


class TestAvroPool(PoolContract):
    @pytest.fixture
    def opener(self, tmp_path: Path) -> Opener:
        return lambda: AvroPool(tmp_path)


@pytest.mark.slow
class TestAvroPoolInABucket(PoolContract):
    """What differs from Parquet in a bucket is only how a file is written and read: rarely is enough."""

    @pytest.fixture
    def opener(self, s3_folder: str) -> Opener:
        return lambda: AvroPool(s3_folder)


def stored(tmp_path: Path) -> Path:
    with AvroPool(tmp_path) as pool:
        pool.store([episode(0, 4)])
        return Path(pool.find()[0].place)


def test_fastavro_alone_reads_numbers_units_and_meta_information(tmp_path: Path) -> None:
    one = episode(0, 4)
    with stored(tmp_path).open("rb") as file:
        reader = fastavro.reader(file)
        rows: list[Any] = list(reader)
    assert len(rows) == 5
    for k, row in enumerate(rows):
        assert row["time"] == datetime.fromtimestamp(one.times[k] / 1e9, UTC)
        assert row["time_ns"] == one.times[k]
        np.testing.assert_array_equal(np.array(row["state"], np.float32), one.states[k])
    for k, row in enumerate(rows[:-1]):
        np.testing.assert_array_equal(np.array(row["action"], np.float32), one.actions[k])
        assert (row["first_row"], row["flags"]) == (one.rows[k], one.flags[k])
        assert np.float32(row["reward"]) == one.rewards[k]
    assert [rows[-1][name] for name in ("action", "first_row", "reward", "flags")] == [None] * 4
    schema: Any = reader.writer_schema
    docs = {field["name"]: field["doc"] for field in schema["fields"]}
    assert docs["state"].endswith("velocity in km/h, thrust in %, brake in %")
    assert "ns since 1970-01-01 UTC" in docs["time_ns"]
    assert "8 zeroed" in docs["flags"]
    assert schema["name"] == "tspace.episode.v1.Record"
    assert schema["fields"][0]["type"]["logicalType"] == "timestamp-micros"
    assert EpisodeMeta.model_validate_json(reader.metadata["tspace.episode"]) == one.meta


def test_polars_reads_the_same_with_nested_arrays(tmp_path: Path) -> None:
    one = episode(0, 4)
    frame = pl.read_avro(stored(tmp_path))
    assert frame.schema["time"] == pl.Datetime("us", "UTC")
    assert frame.schema["state"] == pl.List(pl.Float32)
    assert frame["time"][0] == at()
    assert frame["time_ns"].to_list() == one.times.tolist()
    np.testing.assert_array_equal(np.array(frame["state"].to_list(), np.float32), one.states)
    np.testing.assert_array_equal(np.array(frame["action"][:-1].to_list(), np.float32), one.actions)
    assert frame["reward"].null_count() == 1


def test_times_between_microseconds_are_kept(tmp_path: Path) -> None:
    one = episode(0, 2)
    one.times[:] = [-1, 1, 1999]
    with AvroPool(tmp_path) as pool:
        pool.store([one])
        assert same(pool.read(one.meta.episode_id), one)
        path = Path(pool.find()[0].place)
    with path.open("rb") as file:
        assert [row["time"].microsecond for row in fastavro.reader(file)] == [999_999, 0, 1]  # type: ignore[index, call-overload, union-attr, unused-ignore]


def test_another_version_of_the_schema_names_the_way_to_migrate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AvroPool(tmp_path) as pool:
        with monkeypatch.context() as newer:
            newer.setattr(avro, "SCHEMA_VERSION", 2)
            pool.store([episode(0, 4, software_version="9.9.9")])
        assert pool.count().records == 4
        with pytest.raises(SchemaVersionError, match=r"version 2 .*version 1: .*9\.9\.9.*convert avro:"):
            pool.read("v1/2026-03-01/log.blf#0000")
        with pytest.raises(SchemaVersionError, match="tspace convert"):
            pool.sample(3, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("place", "damage"),
    [
        ("disk", "torn"),
        ("disk", "torn at a block"),
        ("disk", "garbage"),
        ("disk", "empty"),
        ("disk", "missing"),
        ("disk", "foreign"),
        ("bucket", "torn"),
        ("bucket", "missing"),
    ],
    indirect=["place"],
)
def test_a_damaged_file_costs_only_its_episode(place: AnyPath, tmp_path: Path, damage: str) -> None:
    with AvroPool(place) as pool:
        pool.store(fleet())
        path = any_path(pool.find(Query(vehicles=("v2",), length_from=7))[0].place)
        content = path.read_bytes()
        if damage == "missing":
            path.unlink()
        else:
            other = {"torn": content[:-300], "garbage": b"Obj\x01" * 40, "empty": b""}
            path.write_bytes(other[damage] if damage in other else _other(damage, path, tmp_path))
        assert pool.count().episodes == 7
        what = "is gone" if damage == "missing" else "is damaged"
        with pytest.raises(PoolError, match=rf"'v2/2026-03-03/log\.blf#0000'.*{what}.*other episodes"):
            pool.read("v2/2026-03-03/log.blf#0000")
        with pytest.raises(PoolError, match=path.name):
            pool.sample(500, np.random.default_rng(0))
        assert len(list(pool.iterate(Query(vehicles=("v1", "v3"))))) == 5
        assert pool.delete(Query(episodes=("v2/2026-03-03/log.blf#0000",))) == 1
        assert pool.store(fleet()) == 1


def _other(damage: str, path: AnyPath, tmp_path: Path) -> bytes:
    """The file without its last rows, as if writing had ended between two blocks; or somebody else's."""
    with local_copy(path).open("rb") as file:
        reader = fastavro.reader(file)
        rows, schema, metadata = list(reader), reader.writer_schema, dict(reader.metadata)
    target = tmp_path / "other.avro"
    own = {name: metadata[name] for name in metadata if name.startswith("tspace.")}
    with target.open("wb") as file:
        if damage == "foreign":
            fastavro.writer(file, schema, rows)  # type: ignore[arg-type, unused-ignore]
        else:
            fastavro.writer(file, schema, rows[:3], metadata=own)  # type: ignore[arg-type, unused-ignore]
    return target.read_bytes()


def test_nothing_of_a_call_is_stored_where_the_disk_is_full(tmp_path: Path) -> None:
    code = (
        "import resource, sys\n"
        "from tests.storage.pools.builders import episode\n"
        "from tspace_core.storage.pools.avro import AvroPool\n"
        "pool = AvroPool(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))\n"
        "pool.store([episode(1), episode(2, 400)])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=False, capture_output=True, text=True
    )
    assert "StorageError: nothing" in ended.stderr
    with AvroPool(tmp_path) as pool:
        assert pool.find() == []
        assert list((tmp_path / "avro").rglob("*.avro")) == []


def test_avro_and_parquet_of_one_lake_are_two_pools(tmp_path: Path) -> None:
    with AvroPool(tmp_path) as one, ParquetPool(tmp_path) as other:
        one.store([episode(0)])
        other.store([episode(0, 6)])
        assert (one.count().records, other.count().records) == (5, 6)
        assert one.find()[0].start_ns == ns(at())
        assert other.delete(Query(vehicles=("v1",))) == 1
        assert one.count().records == 5
