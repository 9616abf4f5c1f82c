"""The queries that come with tspace against the same figures computed in another way, on real content."""

import json
from collections import defaultdict
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.storage import catalogue_work as work
from tests.storage.catalogue_work import BEGIN_NS
from tests.storage.logs import shortest_drive, twin
from tests.storage.replay_episodes import coded_episode
from tspace_core.agents.scoring_table import SCHEMA, scores_path
from tspace_core.config import load_vehicle
from tspace_core.errors import StorageError, UnknownNameError
from tspace_core.records.episode import RecordFlag
from tspace_core.storage import episodes_table
from tspace_core.storage.catalogue import Catalogue
from tspace_core.storage.catalogue_queries import named_query, parse_query, query_names
from tspace_core.storage.ingest import IngestResult, ingest_log
from tspace_core.storage.lake import Lake, read_json
from tspace_core.storage.online_episodes import OnlineCounts, online_key, store_online_episode
from tspace_core.storage.unit_of_work import UnitOfWork

ALL_TIME = {"days": "100000", "until": "2100-01-01"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> list[IngestResult]:
    """Two drives of the twin, one with flashes, and a real trip."""
    folder = tmp_path_factory.mktemp("queries")
    lake = Lake(folder / "lake")
    trip = min((shared_data / "trips_bmw_i3").rglob("*.csv"), key=lambda path: path.stat().st_size)
    return [
        ingest_log(lake, shortest_drive(folder / "a.blf", flashing=True), twin(), driver="habitual"),
        ingest_log(lake, shortest_drive(folder / "b.blf", seed=2), twin()),
        ingest_log(lake, trip, load_vehicle("bmw_i3")),
    ]


@pytest.fixture(scope="module")
def lake(results: list[IngestResult]) -> Lake:
    return Lake(results[0].raw.path.parents[3])


@pytest.fixture(scope="module")
def catalogue(lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    found = Catalogue(tmp_path_factory.mktemp("catalogue") / "c.duckdb", lake)
    assert found.refresh().damaged == ()
    return found


@pytest.fixture
def fresh(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


@pytest.mark.parametrize("name", query_names())
def test_each_query_answers_with_the_columns_that_its_comment_names(
    name: str, catalogue: Catalogue, fresh: Lake, tmp_path: Path
) -> None:
    query = named_query(name)
    empty = Catalogue(tmp_path / "empty.duckdb", fresh).named(name)
    assert empty.columns == catalogue.named(name).columns == [column.name for column in query.columns]
    assert empty.is_empty()
    for parameter in query.parameters:
        assert f"${parameter.name}" in query.sql, parameter
        value = "1" if parameter.name in ("days", "until") else "nobody"
        value = "2000-01-01" if parameter.name == "until" else value
        assert catalogue.named(name, {parameter.name: value}).is_empty() or parameter.name == "days"


def test_energy_per_km_by_driver_and_local_week(catalogue: Catalogue, lake: Lake) -> None:
    sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0, 0.0])
    for path in lake.episodes():
        episode = episodes_table.read(path)
        meta = episode.meta
        begun = datetime.fromtimestamp(int(episode.times[0]) / 1e9, ZoneInfo(meta.timezone))
        week = f"{begun.isocalendar().year}-W{begun.isocalendar().week:02}"
        for k, value in enumerate((1, meta.distance_m / 1000, meta.energy_wh, meta.duration_s / 3600)):
            sums[meta.driver_id, week][k] += value
    expected = [
        (driver, week, n, *map(pytest.approx, (km, wh / 1000, wh / km, km / h)))
        for (driver, week), (n, km, wh, h) in sorted(sums.items())
    ]
    assert len(expected) >= 3
    assert catalogue.named("energy_per_km").rows() == expected
    alone = catalogue.named("energy_per_km", {"vehicle": "twin_truck", "driver": "habitual"})
    assert alone.rows() == [row for row in expected if row[0] == "habitual"]


def test_an_episode_belongs_to_the_week_and_day_of_its_site(fresh: Lake, tmp_path: Path) -> None:
    monday = 1_767_567_600 * 10**9  # 2026-01-04T23:00Z: Monday, 5 January in Berlin
    key = online_key("twin_truck", monday, 1)
    episode = coded_episode(
        1, 5, log_key=key, vehicle_id="twin_truck", episode_id=f"{key}#0000", timezone="Europe/Berlin",
        signals=("velocity",), window=9,
    )  # fmt: skip
    moved = replace(episode, times=episode.times - episode.times[0] + monday)
    store_online_episode(fresh, twin(), key, [moved])
    found = Catalogue(tmp_path / "c.duckdb", fresh)
    assert found.query("SELECT local_day::VARCHAR, local_week FROM episodes").rows() == [
        ("2026-01-05", "2026-W02")
    ]
    assert found.named("fleet_by_day")["day"].cast(pl.String).to_list() == ["2026-01-05"]


def test_map_coverage_is_the_share_of_time_nearest_to_each_node(catalogue: Catalogue, lake: Lake) -> None:
    answer = catalogue.named("map_coverage")
    for vehicle_id in ("twin_truck", "bmw_i3"):
        vehicle = load_vehicle(vehicle_id)
        pedals = np.array(vehicle.torque_map.pedal_axis, np.float64)
        speeds = np.array(vehicle.torque_map.speed_axis_kmh, np.float64)
        counts = np.zeros((len(speeds), len(pedals)))
        for path in sorted(Path(str(lake.root), "signals", f"vehicle={vehicle_id}").rglob("*.parquet")):
            rows = pl.read_parquet(path, columns=["velocity", "thrust"], hive_partitioning=False).drop_nulls()
            pedal = rows["thrust"].to_numpy().astype(np.float64) / 100
            # Of two nodes at equal distance the higher one: the first of the reversed axis.
            column = len(pedals) - 1 - np.abs(pedal[:, None] - pedals[::-1]).round(7).argmin(axis=1)
            speed = rows["velocity"].to_numpy().astype(np.float64)
            row = len(speeds) - 1 - np.abs(speed[:, None] - speeds[::-1]).round(4).argmin(axis=1)
            np.add.at(counts, (row, column), 1)
        mine = answer.filter(pl.col("vehicle") == vehicle_id)
        assert mine["map_row"].to_list() == np.repeat(np.arange(len(speeds)), len(pedals)).tolist()
        assert mine["pedal_column"].to_list() == np.tile(np.arange(len(pedals)), len(speeds)).tolist()
        np.testing.assert_allclose(mine["speed_kmh"], np.repeat(speeds, len(pedals)))
        np.testing.assert_allclose(mine["pedal"], np.tile(pedals, len(speeds)))
        np.testing.assert_allclose(mine["seconds"], counts.ravel() / vehicle.sampling.rate_hz)
        np.testing.assert_allclose(mine["share"], counts.ravel() / counts.sum())


def test_clipped_cells_are_counted_by_row_and_column(catalogue: Catalogue, lake: Lake) -> None:
    at: dict[tuple[str, int, int], list[int]] = defaultdict(lambda: [0, 0, 0])
    for path in lake.episodes():
        episode = episodes_table.read(path)
        for action, first, flags in zip(episode.actions, episode.rows, episode.flags, strict=True):
            if flags & RecordFlag.FIRST:
                continue
            for k, value in enumerate(action):
                cell = at[episode.meta.vehicle_id, int(first) + k // 17, k % 17]
                cell[0] += 1
                cell[1] += int(value == 1)
                cell[2] += int(value == -1)
    expected = [
        (*cell, n, high, low, pytest.approx((high + low) / n))
        for cell, (n, high, low) in sorted(at.items())
        if high + low
    ]
    assert expected, "the real trip has none"
    answer = catalogue.named("clipped_cells")
    assert answer.drop("speed_kmh", "pedal").rows() == expected
    table = load_vehicle("bmw_i3").torque_map
    first = answer.row(0, named=True)
    assert first["speed_kmh"] == table.speed_axis_kmh[first["map_row"]]
    assert first["pedal"] == pytest.approx(table.pedal_axis[first["pedal_column"]])
    assert catalogue.named("clipped_cells", {"source": "agent"}).is_empty()


def test_flashes_are_those_of_the_journal_with_what_they_changed(
    catalogue: Catalogue, lake: Lake, results: list[IngestResult]
) -> None:
    log = results[0].raw
    offset = results[0].signals.utc_offset_ns
    live = twin().default_map().table.astype(np.float64)
    expected = []
    for line in Path(str(log.journal)).read_text().splitlines():
        flash = json.loads(line)
        rows = slice(flash["first_row"], flash["first_row"] + 4)
        torque = np.float32(flash["torque_nm"]).astype(np.float64)
        change = np.abs(torque - live[rows])
        live[rows] = torque
        cells = int((change > 0.01).sum())
        expected.append((flash["time_ns"] + offset, flash["first_row"], cells, change.max(), "APPLIED"))
    assert len(expected) > 100
    found = catalogue.query(
        "SELECT time_ns, first_row, cells_changed, largest_change_nm, outcome FROM flashes ORDER BY time_ns"
    )
    assert found.rows() == [(*row[:3], pytest.approx(row[3]), row[4]) for row in sorted(expected)]
    (episode,) = (episodes_table.read(path) for path in lake.episodes(log))
    inside = [row for row in expected if episode.times[0] <= row[0] < episode.times[-1]]
    named = catalogue.named("flashes_of_last_week", ALL_TIME)
    assert named["time"].is_sorted(descending=True) and len(named) == len(expected)
    assert named["episode_id"].drop_nulls().to_list() == [episode.meta.episode_id] * len(inside)
    assert set(named["driver"].drop_nulls()) == {"habitual"}
    assert catalogue.named("flashes_of_last_week").is_empty(), "nothing of the last 7 days"
    day = named["time"].max()
    assert isinstance(day, datetime)
    short = catalogue.named("flashes_of_last_week", {"until": day.isoformat(), "days": str(60 / 86400)})
    assert len(short) == sum(max(expected)[0] - 60 * 10**9 <= row[0] < max(expected)[0] for row in expected)
    by_outcome = catalogue.named("flashes_by_outcome").row(0, named=True)
    assert by_outcome["flashes"] == len(expected)
    assert by_outcome["largest_change_nm"] == pytest.approx(max(row[3] for row in expected))


def test_flashes_of_online_episodes_come_from_their_training_logs(fresh: Lake, tmp_path: Path) -> None:
    """4 records on rows 2 to 5; the last step was refused and is no record."""
    vehicle = twin()
    budget = vehicle.torque_map.budget_nm
    key = online_key("twin_truck", BEGIN_NS, 1)
    made = coded_episode(
        1, 4, log_key=key, vehicle_id="twin_truck", episode_id=f"{key}#0000", action_source="agent",
        pedal_axis=vehicle.torque_map.pedal_axis, speed_axis_kmh=vehicle.torque_map.speed_axis_kmh,
        budget_nm=budget, signals=("velocity",), window=9,
    )  # fmt: skip
    actions = np.zeros((4, 68), np.float32)
    actions[1, 0] = 0.5
    actions[2, :3] = (0.5, 0.25, -1.0)
    actions[3] = actions[2]
    flags = np.array([RecordFlag.FIRST, RecordFlag.FLASHED, RecordFlag.FLASHED, RecordFlag.HELD], np.uint8)
    times = BEGIN_NS + np.arange(5, dtype=np.int64) * 3 * 10**9
    episode = replace(made, actions=actions, rows=np.full(4, 2, np.int32), flags=flags, times=times)
    results = ["APPLIED", "APPLIED", "APPLIED", "HELD", "REFUSED"]
    steps = [
        {"time_ns": int(time), "first_row": 2, "flash": result, "reason": "rate" * (result == "REFUSED")}
        for time, result in zip(times, results, strict=True)
    ]
    store_online_episode(fresh, vehicle, key, [episode], training_log={"steps": steps})
    found = Catalogue(tmp_path / "c.duckdb", fresh)
    assert found.refresh().damaged == ()
    columns = "kind, first_row, outcome, cells_changed, largest_change_nm, reason, episode_id"
    assert found.query(f"SELECT {columns} FROM flashes ORDER BY time_ns").rows() == [
        # What the rows held before the first record is known by no one.
        ("online", 2, "APPLIED", None, None, None, f"{key}#0000"),
        ("online", 2, "APPLIED", 1, pytest.approx(0.5 * budget), None, f"{key}#0000"),
        ("online", 2, "APPLIED", 2, pytest.approx(budget), None, f"{key}#0000"),
        ("online", 2, "REFUSED", None, None, "rate", None),
    ]


def test_what_was_lost_is_what_the_stages_say(catalogue: Catalogue, results: list[IngestResult]) -> None:
    expected: dict[tuple[str, str, str], int] = defaultdict(int)
    for result in results:
        vehicle, episodes = result.raw.vehicle_id, result.episodes
        for reason, count in episodes.lost_records.items():
            expected[vehicle, "records", reason] += count
        for reason, count in episodes.unusable_rows.items():
            expected[vehicle, "rows", reason] += count
        expected[vehicle, "rows", "in stretches too short for an episode"] += episodes.short_rows
        expected[vehicle, "rows", "left over: they fill no whole step"] += episodes.left_rows
    answer = catalogue.named("lost_by_reason").drop("logs")
    assert sorted(answer.rows()) == sorted((*key, count) for key, count in expected.items() if count)


def test_reward_and_validity_are_those_of_the_files(catalogue: Catalogue, lake: Lake) -> None:
    for row in catalogue.query("SELECT * FROM episodes").iter_rows(named=True):
        episode = episodes_table.read(Path(row["path"]))
        for name, bit in (
            ("invalid_records", RecordFlag.ZEROED),
            ("flashed_records", RecordFlag.FLASHED),
            ("clipped_records", RecordFlag.CLIPPED),
        ):
            assert row[name] == np.count_nonzero(episode.flags & bit), name
    reward = {
        (row["vehicle"], row["agent"]): (row["records"], row["reward_per_record"])
        for row in catalogue.named("reward_by_agent").iter_rows(named=True)
    }
    drawn = [episodes_table.read(path) for path in lake.episodes(vehicle_id="bmw_i3")]
    rewards = np.concatenate([episode.rewards for episode in drawn]).astype(np.float64)
    assert reward["bmw_i3", "realised_torque"] == (len(rewards), pytest.approx(rewards.mean()))


def test_quarantine_checkpoints_metrics_and_lost_logs(fresh: Lake, tmp_path: Path) -> None:
    foreign = tmp_path / "x.bin"
    for content in (b"1", b"2"):
        foreign.write_bytes(content)
        fresh.quarantine("episodes", foreign, "energy out of range")
    for step in ("00000005", "00000010"):
        folder = fresh.checkpoints("ddpg", "run1") / step
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
    for partition, share in (("a", 0.25), ("b", 0.75)):
        with UnitOfWork(fresh, name=partition) as unit:
            unit.metrics("night", {"partition": partition, "clipped": {"share": share}, "note": "text"})
    counts = OnlineCounts(lost_records={"gone": 3})
    store_online_episode(fresh, twin(), online_key("twin_truck", BEGIN_NS, 1), [], counts=counts)
    found = Catalogue(tmp_path / "c.duckdb", fresh)
    assert found.refresh().damaged == ()
    assert found.named("quarantine_by_reason").drop("first_at", "last_at").rows() == [
        ("episodes", "energy out of range", 2)
    ]
    assert found.named("checkpoints_by_run").drop("last_path").rows() == [
        ("ddpg", "run1", 2, "00000005", "00000010")
    ]
    assert found.named("metrics_by_batch").rows() == [("night", "clipped.share", 2, 0.25, 0.5, 0.75)]
    assert found.query("SELECT partition, text FROM metrics WHERE metric = 'note' ORDER BY 1").rows() == [
        ("a", "text"),
        ("b", "text"),
    ]
    assert found.named("lost_by_reason").rows() == [
        ("twin_truck", "records", "gone", 3, 1),
        (None, "files", "episodes: energy out of range", 2, None),
    ]


def test_policy_actions_are_seen_as_they_are_written(fresh: Lake, tmp_path: Path) -> None:
    found = Catalogue(tmp_path / "c.duckdb", fresh)
    assert found.query("SELECT * FROM policy_actions").is_empty()
    empty = found.query("SELECT * FROM policy_actions").schema
    key = work.store(fresh, 1)
    log = fresh.log_of(key)
    path = Path(str(scores_path(fresh, log, "0123456789abcdef")))
    path.parent.mkdir(parents=True)
    n = 4
    values: dict[str, list[Any]] = {
        "time": [BEGIN_NS + k for k in range(n)], "episode_id": [f"{key}#0000"] * (n - 1) + ["gone"],
        "record": [*range(n)], "first_row": [0] * n, "action": [[0.5] * 68] * n, "torque": [[9.0] * 68] * n,
        "q_proposal": [1.0, 2.0, 3.0, 99.0], "q_behaviour": [2.0, 1.0, 1.5, 0.0],
        "clipped": [0.0, 0.5, 0.25, 9.0], "distance": [0.1, 0.2, 0.3, 9.0],
    }  # fmt: skip
    arrays = [
        pa.array(values[field.name]).cast(field.type.value_type).dictionary_encode()
        if pa.types.is_dictionary(field.type)
        else pa.array(values[field.name], field.type)
        for field in SCHEMA
    ]
    pq.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), path)
    assert found.refresh().damaged == ()
    seen = found.query("SELECT * FROM policy_actions ORDER BY record")
    assert seen.schema == empty, "the columns are the same where there is none"
    assert seen.row(2, named=True)["time_ns"] == BEGIN_NS + 2
    assert set(seen.select("vehicle", "log", "checkpoint").rows()) == {
        ("twin_truck", log.name, "0123456789abcdef")
    }
    assert found.named("policy_by_checkpoint").rows() == [
        ("twin_truck", "0123456789abcdef", 1, 3, 0.5, *map(pytest.approx, (2 / 3, 0.25, 0.2)))
    ]


def test_parameters_are_values_and_never_become_a_part_of_the_statement(catalogue: Catalogue) -> None:
    assert catalogue.named("energy_per_km", {"vehicle": "x' OR true --"}).is_empty()
    assert catalogue.query("SELECT $a AS a", {"a": "'; DROP TABLE logs"}).item() == "'; DROP TABLE logs"
    with pytest.raises(StorageError, match="has no parameter 'vehicles'; it takes: vehicle, driver"):
        catalogue.named("energy_per_km", {"vehicles": "x"})
    with pytest.raises(StorageError, match="cannot answer"):
        catalogue.named("flashes_of_last_week", {"days": "some"})
    with pytest.raises(UnknownNameError, match=r"no query 'energy'; there are: checkpoints_by_run, "):
        catalogue.named("energy")


def test_a_query_without_a_proper_comment_is_refused() -> None:
    with pytest.raises(StorageError, match="begins with no comment"):
        parse_query("x", "SELECT 1")
    with pytest.raises(StorageError, match="'vehicle' has another form than the lines below Parameters:"):
        parse_query("x", "-- Title.\n--\n-- Parameters:\n--   vehicle\n-- Columns:\n--   a: b\nSELECT 1 AS a")


def test_the_manifest_of_each_log_is_read_once(catalogue: Catalogue, lake: Lake) -> None:
    assert all(read_json(path) for path in lake.episode_manifests())
    assert catalogue.refresh().files_read == 0
