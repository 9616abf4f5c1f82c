"""``tspace doctor`` on lakes that really have what it is to find."""

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.storage import crash_work
from tests.storage.faults import Faults
from tests.storage.pools.mongo_server import MongoServer, mongo_database, mongo_server
from tspace_core.cli import app
from tspace_core.config.settings import settings
from tspace_core.objects.path import AnyPath, any_path
from tspace_core.storage.catalogue import Catalogue
from tspace_core.storage.files import write_text
from tspace_core.storage.lake import Lake
from tspace_core.storage.pools.avro import AvroPool
from tspace_core.storage.pools.mongo import MongoPool
from tspace_core.storage.pools.parquet import ParquetPool
from tspace_core.storage.pools.query import Query
from tspace_core.storage.replay_appender import ReplayAppender
from tspace_core.storage.unit_log import UNITS, Operation, UnitRecord, new_id

__all__ = ["mongo_database", "mongo_server"]
RAW = b"not a log, but the bytes that were stored"


def doctor(root: AnyPath | Path, *options: str) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and findings."""
    result = CliRunner().invoke(app, ["doctor", "--json", "--data-dir", str(root), *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, json.loads(result.stdout)["findings"]


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TSPACE_MONGODB_URI", raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A lake with something of everything."""
    root = tmp_path / "lake"
    root.mkdir()
    crash_work.begin(root)
    (root / "old-2").unlink()
    lake = Lake(root)
    _, pieces = crash_work.pieces(5)
    with AvroPool(lake) as pool:
        pool.store(pieces)
    with ParquetPool(lake) as parquet:
        assert len(parquet.find(Query())) == 2
    raw = lake.raw("v1", "2024-01-01", "log.blf")
    write_text(raw, RAW.decode())
    origin = {"sha256": hashlib.sha256(RAW).hexdigest(), "source": "here", "date_source": "given"}
    write_text(raw.with_name(f"{raw.name}.origin.json"), json.dumps(origin))
    Catalogue(root / "catalogue.duckdb", lake).refresh()
    assert doctor(root) == (0, [])
    return root


def one(root: Path, pattern: str) -> Path:
    return next(path for path in sorted(root.glob(pattern)))


def cut(path: Path) -> Path:
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size // 2)
    return path


def spoil(path: Path) -> Path:
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    return path


def remove_one(root: Path) -> Path:
    one(root, "episodes/*/*/*.parquet").unlink()
    return one(root, "episodes/*/*/*.episodes.json")


def older(path: Path) -> Path:
    """As if a version before had written it."""
    content = path.read_text()
    assert "tspace-replay-1" in content
    path.chmod(0o644)
    path.write_text(content.replace("tspace-replay-1", "tspace-replay-0"))
    return path


def put(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


PERSON: dict[str, tuple[Callable[[Path], Path], str]] = {
    "torn Parquet": (lambda root: cut(one(root, "episodes/*/*/*.parquet")), "tspace ingest"),
    "torn Avro": (lambda root: cut(one(root, "avro/*/*/*.avro")), "tspace ingest"),
    "torn JSON": (lambda root: cut(one(root, "metrics/*/*.json")), "remove it"),
    "missing file": (remove_one, "bring the file back"),
    "foreign file": (lambda root: put(root / "holiday.jpg"), "move it away"),
    "changed raw log": (lambda root: spoil(root / "raw/v1/2024-01-01/log.blf"), "tspace ingest"),
    "damaged replay": (lambda root: spoil(one(root, "replay/*/*/rows.f32")).parent, "replay_buffer"),
    "damaged checkpoint": (
        lambda root: spoil(one(root, "checkpoints/*/*/*/*.safetensors")).parent,
        "another checkpoint",
    ),
    "older schema": (lambda root: older(one(root, "replay/*/*/manifest.json")).parent, "see there"),
    "damaged unit of work": (lambda root: put(root / UNITS / f"{new_id()}.json", "{"), "restore it"),
}


@pytest.mark.parametrize("kind", list(PERSON))
def test_what_needs_a_person_is_named_with_what_to_do_and_left_as_it_is(root: Path, kind: str) -> None:
    make, todo = PERSON[kind]
    place = make(root)
    for options in ((), ("--repair",)):
        before = snapshot(root)
        code, found = doctor(root, *options)
        assert code == 1
        assert [(item["kind"], item["place"]) for item in found] == [(kind, str(place))]
        assert todo in found[0]["todo"]
        assert not found[0]["repaired"]
        assert snapshot(root) == before


def snapshot(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def test_frames_and_signals_are_read_as_well(root: Path) -> None:
    episode = one(root, "episodes/*/*/*.parquet")
    for area in ("frames", "signals"):
        path = root / area / "vehicle=v1" / "date=2024-01-01" / "log.blf.parquet"
        put(path).write_bytes(episode.read_bytes())
    assert doctor(root) == (0, [])
    cut(path)
    code, found = doctor(root)
    assert (code, [item["kind"] for item in found]) == (1, ["torn Parquet"])
    assert str(root / "raw" / "v1" / "2024-01-01" / "log.blf") in found[0]["todo"]


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def stage(root: Path) -> None:
    put(root / "episodes" / f".x.parquet.{dead_pid()}-0123abcd.tmp")


def unnamed(root: Path) -> None:
    path = one(root, "episodes/*/*/*.parquet")
    forgotten = path.with_name("forgotten.0123abcd.0000.parquet")
    forgotten.write_bytes(path.read_bytes())
    os.utime(forgotten, (time.time() - 100_000,) * 2)


def kill_unit(root: Path, *, committed: bool) -> None:
    """Stop a unit in this process as a crash would: from some write point on nothing is done any more."""

    def where(points: list[str]) -> int:
        record = [at for at, what in enumerate(points) if what.startswith("link") and "/units/" in what]
        return record[0] + (3 if committed else -1)

    write_text(root / "old-2", "to be removed")
    copy = root.with_name("copy")
    shutil.copytree(root, copy)
    with Faults(copy, None, lambda _: None).installed() as faults:
        crash_work.work(copy)
    shutil.rmtree(copy)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = json.dumps({"do": "work", "root": str(root), "at": where(faults.points), "size": None})
    done = subprocess.run(
        [sys.executable, "-m", "tests.storage.crash_work"], input=command + "\n", text=True, check=True,
        capture_output=True, env=environment, cwd=environment["PYTHONPATH"],
    )  # fmt: skip
    assert json.loads(done.stdout) == {"status": -9}
    if not committed:
        (root / "old-2").unlink()


def break_catalogue(root: Path) -> None:
    (root / "catalogue.duckdb").write_bytes(b"torn" * 1000)


def break_index(root: Path) -> None:
    for path in (root / "index").glob("*.sqlite*"):
        path.unlink()
        if path.name.endswith(".sqlite"):
            path.write_bytes(b"torn" * 1000)


SAFE: dict[str, Callable[[Path], object]] = {
    "staged leftover": stage,
    "unnamed episode": unnamed,
    "abandoned unit of work": lambda root: kill_unit(root, committed=False),
    "unfinished unit of work": lambda root: kill_unit(root, committed=True),
    "damaged catalogue": break_catalogue,
    "damaged index": break_index,
}


@pytest.mark.parametrize("kind", list(SAFE))
def test_what_can_be_put_right_is_with_repair_and_only_then(root: Path, kind: str) -> None:
    SAFE[kind](root)
    before = snapshot(root)
    code, found = doctor(root)
    assert (code, {item["kind"] for item in found} - {"foreign file"}) == (1, {kind})
    assert all(item["todo"] == "tspace doctor --repair" for item in found if item["kind"] == kind)
    assert snapshot(root) == before
    code, found = doctor(root, "--repair")
    assert (code, {item["kind"] for item in found if item["repaired"]}) == (0, {kind})
    assert doctor(root) == (0, [])
    nights = 2 if kind == "unfinished unit of work" else 1
    if nights == 1:
        (root / "old-2").touch()  # what it wants there
    assert crash_work.look_at_stores(root) == nights
    with ParquetPool(root) as pool:
        assert len(pool.find(Query())) == 2 * nights
    assert Catalogue(root / "catalogue.duckdb", Lake(root)).query("SELECT 1 AS one").item() == 1
    assert sqlite3.connect(one(root, "index/episodes-*.sqlite")).execute("PRAGMA quick_check").fetchone()


def test_a_growing_buffer_is_verified(root: Path) -> None:
    folder = root / "replay" / "v1" / "growing"
    with ReplayAppender(folder, capacity_rows=1000) as appender:
        appender.extend(crash_work.pieces(3)[1])
    assert doctor(root) == (0, [])
    rows = one(folder, "*/rows.f32")
    with rows.open("r+b") as file:
        file.write(b"\xff")
    code, found = doctor(root)
    assert (code, [(item["kind"], item["place"]) for item in found]) == (1, [("damaged replay", str(folder))])


def test_orphan_documents_of_a_mongodb_pool(
    root: Path, mongo_server: MongoServer, mongo_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TSPACE_MONGODB_URI", mongo_server.uri)
    settings.cache_clear()
    try:
        with MongoPool(mongo_database) as pool:
            pool.store(crash_work.pieces(4)[1])
            with mongo_server.client() as client:
                long_ago = datetime(2020, 1, 1, tzinfo=UTC)
                left = {"_id": "killed", "kind": "store", "begun": long_ago, "alive": long_ago, "by": "h, 1"}
                client[mongo_database]["writing"].insert_one(left)
            assert doctor(root) == (0, [])  # neither the URI nor an option names the database
            asked = ("--mongodb", mongo_database)
            code, found = doctor(root, *asked)
            assert (code, [item["kind"] for item in found]) == (1, ["orphan documents"])
            code, found = doctor(root, *asked, "--repair")
            assert (code, [item["repaired"] for item in found]) == (0, [True])
            assert doctor(root, *asked) == (0, [])
            assert pool.count().episodes == 2
        monkeypatch.setenv("TSPACE_MONGODB_URI", "mongodb://127.0.0.1:1")
        settings.cache_clear()
        code, found = doctor(root, *asked)
        assert (code, [item["kind"] for item in found]) == (1, ["cannot be looked at"])
    finally:
        settings.cache_clear()


def test_people_are_told_the_same_in_words(root: Path) -> None:
    stage(root)
    put(root / "holiday.jpg")
    result = CliRunner().invoke(app, ["doctor", "--repair", "--data-dir", str(root)])
    assert result.exit_code == 1
    assert "staged leftover" in result.stdout
    assert "  repaired" in result.stdout
    assert "to do: move it away" in result.stdout
    assert "2 found, 1 repaired, 1 left" in result.stdout
    assert "looking at replay buffers" in result.stderr


def test_a_bucket_with_what_killed_writers_left(s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = any_path(s3_folder) / "lake"
    crash_work.begin(root)
    (root / "old-2").unlink()
    assert doctor(root) == (0, [])
    record = UnitRecord(
        id=new_id(), name="night", at=datetime.now(UTC), host="h", pid=1,
        operations=(Operation(do="text", path="metrics/n/x.json", text='{"a": 1}'),),
    )  # fmt: skip
    write_text(root / UNITS / f"{record.id}.json", record.model_dump_json())
    write_text(root / UNITS / "20200101T000000000000-00000000" / "00000", "staged")
    write_text(root / "checkpoints" / "ddpg" / "run" / "00000007" / "actor.json", "{}")
    code, found = doctor(root)
    assert (code, [item["kind"] for item in found]) == (1, ["unfinished unit of work"])
    # What is young may be of a writer at work; so let a day pass.
    monkeypatch.setattr("tspace_core.storage.doctor_staged.OLD_S", -60.0)
    monkeypatch.setattr("tspace_core.storage.unit_bucket.ABANDONED_S", -60.0)
    code, found = doctor(root)
    kinds = ["unfinished unit of work", "abandoned unit of work", "staged leftover"]
    assert (code, [item["kind"] for item in found]) == (1, kinds)
    assert not (root / "metrics" / "n" / "x.json").is_file()
    code, found = doctor(root, "--repair")
    assert (code, [item["kind"] for item in found]) == (0, kinds)
    assert (root / "metrics" / "n" / "x.json").read_text() == '{"a": 1}'
    assert doctor(root) == (0, [])
