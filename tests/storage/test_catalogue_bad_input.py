"""What is damaged, foreign or of another version costs only itself; what cannot be written loses nothing."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from tests.storage import catalogue_work as work
from tests.storage.logs import candump, twin
from tspace_core.errors import StorageError
from tspace_core.storage.catalogue import Catalogue
from tspace_core.storage.ingest import store_raw
from tspace_core.storage.lake import Lake

COUNT = "SELECT count(*) FROM episodes"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    found = Lake(tmp_path / "lake")
    for number in range(2):
        work.store(found, number)
    return found


@pytest.fixture
def catalogue(lake: Lake, tmp_path: Path) -> Catalogue:
    found = Catalogue(tmp_path / "c.duckdb", lake)
    assert found.refresh().damaged == ()
    return found


def manifest_of(lake: Lake) -> Path:
    path = lake.episode_manifests()[0]
    assert isinstance(path, Path)
    return path


def first_piece(lake: Lake) -> Path:
    path = lake.episodes()[0]
    assert isinstance(path, Path)
    return path


def cut(path: Path) -> None:
    content = path.read_bytes()
    new = path.with_name(".new")
    new.write_bytes(content[: len(content) // 2])
    new.replace(path)


def tear_episode(lake: Lake) -> Path:
    """A torn piece that its manifest names anew."""
    cut(first_piece(lake))
    manifest = manifest_of(lake)
    manifest.write_text(manifest.read_text())
    return first_piece(lake)


def tear_stray(lake: Lake) -> Path:
    stray = first_piece(lake).with_name("a.blf.00000000.0000.parquet")
    stray.write_bytes(b"PAR1 and no more")
    return stray


def remove_piece(lake: Lake) -> Path:
    first_piece(lake).unlink()
    return manifest_of(lake)


def cut_manifest(lake: Lake) -> Path:
    cut(manifest_of(lake))
    return manifest_of(lake)


def other_json(lake: Lake) -> Path:
    path = manifest_of(lake).with_name("b.episodes.json")
    path.write_text(json.dumps({"episodes": [{"file": manifest_of(lake).name, "records": "many"}]}))
    return path


def foreign_zone(lake: Lake) -> Path:
    path = manifest_of(lake)
    path.write_text(path.read_text().replace('"UTC"', '"Mars/Olympus"'))
    return path


def foreign_raw(lake: Lake) -> Path:
    path = Path(str(lake.root), "raw", "readme.txt")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("hello")
    return path


def foreign_reason(lake: Lake) -> Path:
    path = Path(str(lake.root), "quarantine", "raw", "x.reason.json")
    path.parent.mkdir(parents=True)
    path.write_text('{"reason": "no kind"}')
    return path


def foreign_metrics(lake: Lake) -> Path:
    path = Path(str(lake.root), "metrics", "night", "x.json")
    path.parent.mkdir(parents=True)
    path.write_text('{"name": "night", "values": [1]}')
    return path


def broken_journal(lake: Lake) -> Path:
    raw = store_raw(
        lake, candump(Path(str(lake.root)).with_name("a.log"), stamps=[1.0]), twin(), "2026-01-05"
    )
    path = raw.journal
    assert isinstance(path, Path)
    path.write_text("no flash\n{}\n")
    return path


def torn_training_log(lake: Lake) -> Path:
    path = manifest_of(lake)
    torn = path.with_name(path.name.replace(".episodes.json", ".training.json"))
    torn.write_text('{"steps": [{"flash": "APPLIED"}]}')
    return torn


@pytest.mark.parametrize(
    ("harm", "words", "left"),
    [
        (tear_episode, "torn, it is no episode", 3),
        (tear_stray, "no manifest names it: move it away", 4),
        (remove_piece, "which is gone: delete it and run the stage again", 2),
        (cut_manifest, "is damaged", 2),
        (other_json, "it is no manifest of episodes (KeyError: 'meta'): move it away", 4),
        (foreign_zone, "it is no manifest of episodes (ZoneInfoNotFoundError", 2),
        (foreign_raw, "it lies at readme.txt, expected <vehicle>/<YYYY-MM-DD>/<log>: move it", 4),
        (foreign_reason, "it is no reason of a quarantine", 4),
        (foreign_metrics, "it holds no metrics of a unit of work", 4),
        (broken_journal, "line 1", 4),
        (torn_training_log, "it is no training log (KeyError: 'time_ns'): move it away", 4),
    ],
)
def test_what_is_damaged_costs_only_itself(
    lake: Lake, catalogue: Catalogue, harm: Callable[[Lake], Path], words: str, left: int
) -> None:
    path = harm(lake)
    for _ in range(2):  # what is damaged is looked at again each time
        ((place, what),) = catalogue.refresh().damaged
        assert place == str(path) and words in what
    assert catalogue.query("SELECT path, what FROM damaged").rows() == [(str(path), what)]
    assert catalogue.query(COUNT).item() == left
    assert catalogue.query("SELECT count(reward) FROM records").item() == left * work.RECORDS
    shutil.rmtree(str(lake.root))
    assert catalogue.refresh().damaged == ()


def test_a_file_torn_after_it_was_read_is_named_by_whoever_asks_for_it(
    lake: Lake, catalogue: Catalogue
) -> None:
    path = lake.episodes()[-1]
    assert isinstance(path, Path)
    cut(path)
    assert catalogue.query(COUNT).item() == 4
    with pytest.raises(StorageError, match=path.name):
        catalogue.query("SELECT sum(reward) FROM records")


def test_only_what_has_changed_is_read_again(lake: Lake, catalogue: Catalogue) -> None:
    assert catalogue.refresh().files_read == 0
    manifest = manifest_of(lake)
    seen = manifest.stat()
    new = manifest.with_name(".new")
    new.write_text(manifest.read_text().replace('"d"', '"e"'))
    new.replace(manifest)
    os.utime(manifest, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert manifest.stat().st_size == seen.st_size
    assert catalogue.refresh().files_read == 2, "the manifest, and the training log that goes with it"
    assert catalogue.query("SELECT driver, count(*) FROM episodes GROUP BY ALL ORDER BY 1").rows() == [
        ("d", 2),
        ("e", 2),
    ]
    manifest.unlink()
    catalogue.refresh()
    assert catalogue.query(COUNT).item() == 2
    assert catalogue.query("SELECT count(*) FROM losses").item() == 1


def test_a_lake_that_was_moved_is_read_anew(lake: Lake, catalogue: Catalogue, tmp_path: Path) -> None:
    moved = Lake(shutil.move(str(lake.root), tmp_path / "moved"))
    found = Catalogue(catalogue.path, moved)
    assert found.refresh().files_read == 4
    assert found.query("SELECT count(reward) FROM records").item() == 4 * work.RECORDS


def make_foreign(path: Path) -> None:
    path.unlink()
    path.write_text("no database at all")


def make_old(path: Path) -> None:
    """As the first version left it: views only, and a log of a writer that was killed."""
    path.unlink()
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE episodes (episode_id VARCHAR)")
    path.with_name(f"{path.name}.wal").write_bytes(b"half a log")


def make_other(path: Path) -> None:
    """Of a version to come."""
    path.chmod(0o644)
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE about SET version = '99-x'")


def make_torn(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("spoil", [make_foreign, make_old, make_other, make_torn])
@pytest.mark.parametrize("first", ["query", "refresh"])
def test_a_file_that_is_no_catalogue_of_this_version_is_made_anew(
    catalogue: Catalogue, spoil: Callable[[Path], None], first: str
) -> None:
    spoil(catalogue.path)
    if first == "refresh":
        done = catalogue.refresh()
        assert (done.number, done.files_read) == (1, 4)
    assert catalogue.query(COUNT).item() == 4
    assert sorted(item.name for item in catalogue.path.parent.iterdir()) == [
        ".c.duckdb.lock", "c.duckdb", "lake",
    ]  # fmt: skip


def test_a_full_disk_leaves_the_catalogue_before(lake: Lake, catalogue: Catalogue) -> None:
    """The kernel refuses to write, not a double: RLIMIT_FSIZE in a process of its own."""
    work.store(lake, 2)
    before = catalogue.path.read_bytes()
    code = f"""
import resource, signal, sys
from pathlib import Path
from tspace_core.errors import StorageError
from tspace_core.storage.catalogue import Catalogue
from tspace_core.storage.lake import Lake
catalogue = Catalogue(Path({str(catalogue.path)!r}), Lake({str(lake.root)!r}))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    catalogue.refresh()
except StorageError as error:
    sys.stdout.write(str(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "File too large" in done.stdout, done.stderr
    assert "the one before is as it was: make room" in done.stdout
    assert catalogue.path.read_bytes() == before
    assert not list(catalogue.path.parent.glob(".*.tmp*"))
    assert catalogue.refresh().number == 2
    assert catalogue.query(COUNT).item() == 6


def test_a_folder_that_cannot_be_made_is_named(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="correct the rights of its folder"):
        Catalogue(tmp_path / "file" / "c.duckdb", lake).refresh()


def test_a_refresh_without_anything_new_leaves_the_file_alone(lake: Lake, catalogue: Catalogue) -> None:
    def written() -> tuple[int, int]:
        seen = catalogue.path.stat()
        return seen.st_ino, seen.st_mtime_ns

    before = written()
    done = catalogue.refresh()
    assert (done.number, done.files, done.files_read, done.damaged) == (1, 4, 0, ())
    assert written() == before
    # Also what no row is read from is looked at: a view would stumble over it.
    stray = tear_stray(lake)
    ((place, what),) = catalogue.refresh().damaged
    assert place == str(stray) and "move it away" in what
    before = written()
    assert catalogue.refresh().damaged == ((place, what),), "told again, though nothing was written"
    assert written() == before
    stray.unlink()
    done = catalogue.refresh()
    assert (done.number, done.damaged) == (3, ())
    # Somebody could write into it: it is made anew, so that nobody is locked out.
    catalogue.path.chmod(0o644)
    assert catalogue.refresh().number == 4
    assert catalogue.path.stat().st_mode & 0o222 == 0


def test_records_of_a_day_are_found_without_opening_the_files_of_others(
    lake: Lake, catalogue: Catalogue
) -> None:
    work.store(lake, 100)  # on the day after
    catalogue.refresh()
    days = "SELECT DISTINCT date FROM records ORDER BY date"
    first, second = (str(day) for (day,) in catalogue.query(days).rows())
    assert (first, second) == ("2026-01-05", "2026-01-06")
    sql = "SELECT count(reward) FROM records WHERE vehicle = $vehicle AND date = $date"
    for piece in Path(str(lake.root)).glob(f"episodes/*/date={second}/*.parquet"):
        cut(piece)
    found = catalogue.query(sql, {"vehicle": "twin_truck", "date": first}).item()
    assert found == 2 * work.PIECES * work.RECORDS
    assert catalogue.query(sql, {"vehicle": "nobody's", "date": second}).item() == 0
    with pytest.raises(StorageError, match="cannot answer"):
        catalogue.query(sql, {"vehicle": "twin_truck", "date": second})
