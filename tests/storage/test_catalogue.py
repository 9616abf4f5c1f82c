"""The catalogue answers over an empty lake, a part of one, and a full one."""

import time
from pathlib import Path

import pytest

from tests.storage.logs import candump, shortest_drive, twin
from tspace_core.errors import StorageError
from tspace_core.storage.catalogue import Catalogue
from tspace_core.storage.ingest import IngestResult, ingest_log, store_frames, store_raw
from tspace_core.storage.lake import Lake

VIEWS = ("logs", "frames", "signals", "episodes", "records", "replay", "checkpoints")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> IngestResult:
    folder = tmp_path_factory.mktemp("catalogue")
    return ingest_log(Lake(folder / "o'lake"), shortest_drive(folder / "a.blf"), twin(), driver="habitual")


@pytest.fixture
def lake(result: IngestResult) -> Lake:
    return Lake(result.raw.path.parents[3])


@pytest.fixture
def fresh(tmp_path: Path) -> Lake:
    """A lake without anything in it."""
    return Lake(tmp_path / "lake")


def test_every_view_answers_over_an_empty_lake(tmp_path: Path, fresh: Lake) -> None:
    found = Catalogue(tmp_path / "c.duckdb", fresh)
    for view in VIEWS:
        assert len(found.query(f"SELECT * FROM {view}")) == 0
    assert found.query("SELECT count(*) AS n, sum(energy_wh) AS e FROM signals").row(0) == (0, None)


def test_a_lake_that_is_partly_there(tmp_path: Path, fresh: Lake) -> None:
    raw = store_raw(fresh, candump(tmp_path / "a.log", stamps=[1_767_600_000.0, 1_767_600_001.0]), twin())
    store_frames(fresh, raw, twin())
    found = Catalogue(tmp_path / "c.duckdb", fresh)
    assert found.query("SELECT key, frames, signals, episodes FROM logs").row(0) == (
        raw.key,
        True,
        False,
        False,
    )
    assert found.query("SELECT vehicle, date::VARCHAR, log, count(*) FROM frames GROUP BY ALL").rows() == [
        ("twin_truck", "2026-01-05", "a.log", 2)
    ]
    assert len(found.query("SELECT * FROM signals")) == 0


def test_figures_are_those_of_the_stages(tmp_path: Path, lake: Lake, result: IngestResult) -> None:
    found = Catalogue(tmp_path / "c.duckdb", lake)
    assert found.query("SELECT count(*) FROM frames").item() == result.frames.frames
    rows, energy = found.query(
        "SELECT count(*), sum(energy_wh) FROM signals WHERE vehicle = 'twin_truck'"
    ).row(0)
    assert rows == result.signals.rows
    assert energy == pytest.approx(result.signals.energy_wh - result.signals.energy_tail_wh)
    episode = found.query(
        "SELECT vehicle, driver, timezone, sum(records), sum(energy_wh) FROM episodes GROUP BY ALL"
    )
    assert episode.row(0) == (
        "twin_truck",
        "habitual",
        "Europe/Berlin",
        result.episodes.records,
        pytest.approx(result.episodes.energy_wh),
    )
    records = found.query(
        "SELECT count(*), count(reward), min(len(state)), min(len(action)) FROM records"
    ).row(0)
    assert records == (
        result.episodes.records + result.episodes.episodes,
        result.episodes.records,
        90,
        68,
    )


def test_files_that_no_manifest_names_are_not_seen(tmp_path: Path, lake: Lake, result: IngestResult) -> None:
    (episode, *_) = lake.episodes()
    stray = episode.with_name("a.blf.00000000.0000.parquet")
    stray.write_bytes(episode.read_bytes())
    try:
        count = Catalogue(tmp_path / "c.duckdb", lake).query("SELECT count(reward) FROM records").item()
    finally:
        stray.unlink()
    assert count == result.episodes.records


def test_replay_versions_and_checkpoints_are_listed(tmp_path: Path, fresh: Lake) -> None:
    version = fresh.replay("twin") / "0001"
    version.mkdir(parents=True)
    (version / "manifest.json").write_text('{"rows": 5}')
    checkpoint = fresh.checkpoints("ddpg", "run1") / "00000005"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    found = Catalogue(tmp_path / "c.duckdb", fresh)
    assert found.query("SELECT name, version, manifest->>'rows' FROM replay").rows() == [
        ("twin", "0001", "5")
    ]
    assert found.query("SELECT agent, run, step FROM checkpoints").rows() == [("ddpg", "run1", "00000005")]


def test_refresh_sees_what_is_new(tmp_path: Path, fresh: Lake) -> None:
    found = Catalogue(tmp_path / "c.duckdb", fresh)
    assert found.query("SELECT count(*) FROM logs").item() == 0
    store_raw(fresh, candump(tmp_path / "a.log", stamps=[1.0]), twin(), "2026-01-05")
    assert found.query("SELECT count(*) FROM logs").item() == 0
    found.refresh()
    assert found.query("SELECT count(*) FROM logs").item() == 1


def test_a_wrong_statement_is_explained(tmp_path: Path, fresh: Lake) -> None:
    found = Catalogue(tmp_path / "c.duckdb", fresh)
    with pytest.raises(StorageError, match="cannot answer 'SELECT speed FROM frames'"):
        found.query("SELECT speed FROM frames")


def test_it_cannot_be_written_by_a_query(tmp_path: Path, fresh: Lake) -> None:
    found = Catalogue(tmp_path / "c.duckdb", fresh)
    with pytest.raises(StorageError, match="read-only"):
        found.query("DROP TABLE logs")
    assert found.query("SELECT count(*) FROM logs").item() == 0


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO '{folder}/x'",
        "COPY (PIVOT (SELECT 1 AS a) ON a USING count(*)) TO '{folder}/x'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{folder}/x'",
        "/* a */ EXPLAIN (ANALYZE, FORMAT json) COPY (SELECT 1) TO '{folder}/x'",
        "CREATE TABLE t AS PIVOT (SELECT 1 AS a) ON a USING count(*)",
        "ATTACH '{folder}/x'",
        "SELECT 1; COPY (SELECT 1) TO '{folder}/x'",
        "EXPORT DATABASE '{folder}/x'",
        "SET threads = 1",
        "-- nothing is asked",
    ],
)
def test_a_statement_that_does_more_than_ask_is_refused(tmp_path: Path, fresh: Lake, sql: str) -> None:
    found = Catalogue(tmp_path / "c.duckdb", fresh)
    with pytest.raises(StorageError, match="read-only; ask one question"):
        found.query(sql.format(folder=tmp_path))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "sql",
    [
        "FROM logs", "SHOW TABLES", "DESCRIBE logs", "SUMMARIZE logs", "WITH a AS (FROM logs) FROM a;",
        "EXPLAIN ANALYZE FROM logs", "PIVOT (SELECT 1 AS a) ON a USING count(*)", "VALUES (1)",
    ],
)  # fmt: skip
def test_every_kind_of_question_is_answered(tmp_path: Path, fresh: Lake, sql: str) -> None:
    assert Catalogue(tmp_path / "c.duckdb", fresh).query(sql).width >= 1


def test_what_was_asked_is_told_with_its_parameters(tmp_path: Path, fresh: Lake) -> None:
    found = Catalogue(tmp_path / "c.duckdb", fresh)
    with pytest.raises(
        StorageError, match=r"answer 'SELECT kind.* with \{'days': 'x'\}: .*string 'x' to DOUBLE"
    ):
        found.named("quarantine_by_reason", {"days": "x"})
    with pytest.raises(StorageError, match=r"a type that polars lacks .*cast it in the statement"):
        found.query("SELECT INTERVAL 1 MONTH")


def test_a_damaged_file_costs_only_itself_and_is_named_with_what_to_do(tmp_path: Path, fresh: Lake) -> None:
    for second, name in enumerate(("a.log", "b.log"), start=1_767_600_000):
        raw = store_raw(fresh, candump(tmp_path / name, stamps=[float(second)]), twin())
        path = fresh.frames(raw)
        store_frames(fresh, raw, twin())
    path.write_bytes(path.read_bytes()[:100])
    found = Catalogue(tmp_path / "c.duckdb", fresh)
    ((place, what),) = found.refresh().damaged
    assert place == str(path) and "delete it and run the stage again" in what
    assert found.query("SELECT path FROM damaged").rows() == [(str(path),)]
    assert found.query("SELECT log FROM frames").rows() == [("a.log",)]
    assert found.query("SELECT count(*) FROM logs").item() == 2


def test_leftovers_of_killed_writers_are_not_seen(tmp_path: Path, fresh: Lake) -> None:
    raw = store_raw(fresh, candump(tmp_path / "a.log", stamps=[1_767_600_000.0]), twin())
    path = store_frames(fresh, raw, twin()).path
    assert path is not None
    path.with_name(f".{path.name}.1-abcd.tmp").write_bytes(b"half")
    assert Catalogue(tmp_path / "c.duckdb", fresh).query("SELECT * FROM frames").height == 1


def test_instants_are_utc_whatever_the_machines_zone(
    tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    try:
        found = Catalogue(tmp_path / "c.duckdb", lake)
        text = found.query("SELECT min(time)::VARCHAR AS t, current_setting('TimeZone') AS z FROM signals")
    finally:
        monkeypatch.undo()
        time.tzset()
    assert text.row(0)[0].endswith("+00")
    assert text.row(0)[1] == "UTC"
