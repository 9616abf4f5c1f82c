"""The stages from a raw log to its episodes: figures, idempotence, crashes, bad input."""

import json
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.storage.logs import candump, shortest_drive, twin
from tspace_core.can.frames import FrameBatch, FrameFlag
from tspace_core.can.readers import open_log
from tspace_core.config import load_vehicle
from tspace_core.errors import ConfigError, LogError, SchemaError, StorageError
from tspace_core.objects.path import local_copy
from tspace_core.records.episode import Episode, RecordFlag
from tspace_core.records.schemas import validate_episode, validate_frames, validate_signals
from tspace_core.storage import episodes_table, frames_table, signals_table
from tspace_core.storage.ingest import (
    IngestResult,
    find_logs,
    ingest_log,
    store_episodes,
    store_frames,
    store_raw,
    store_signals,
)
from tspace_core.storage.lake import Lake
from tspace_core.storage.signals_stage import rows_of_samples
from tspace_core.storage.unit_of_work import UnitOfWork
from tspace_core.storage.writer import Direct


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drive of the twin under a policy that flashes at random, with its journal."""
    return shortest_drive(tmp_path_factory.mktemp("drive") / "drive.blf", flashing=True)


@pytest.fixture(scope="module")
def result(drive: Path, tmp_path_factory: pytest.TempPathFactory) -> IngestResult:
    """The drive after all stages, in a lake of its own that no test changes."""
    return ingest_log(Lake(tmp_path_factory.mktemp("lake")), drive, twin())


def files(lake: Lake) -> dict[str, tuple[int, bytes]]:
    root = Path(str(lake.root))
    return {
        str(path.relative_to(root)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def lake_of(result: IngestResult) -> Lake:
    return Lake(result.raw.path.parents[3])


def test_frames_come_back_as_they_were_read(result: IngestResult, drive: Path) -> None:
    assert result.frames.path is not None
    stored = [part for part, _ in frames_table.read(result.frames.path)]
    original = FrameBatch.concat(open_log(drive).batches())
    order = np.argsort(original.id, kind="stable")
    back = FrameBatch.concat(stored)
    for name in ("time", "bus", "id", "flags", "length", "payload"):
        assert np.array_equal(getattr(back, name), getattr(original.select(order), name)), name
    assert result.frames.frames == len(original)
    assert result.frames.t_first == original.time[0] / 1e9
    assert result.frames.time_source == "absolute_stamps"
    validate_frames(pl.read_parquet(local_copy(result.frames.path), hive_partitioning=False))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_frames_of_every_kind_survive(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    length = rng.choice(np.array([0, 3, 8, 12, 64], np.uint8), count)
    flags = np.where(length > 8, FrameFlag.FD, 0).astype(np.uint8)
    flags |= rng.choice(np.array([0, FrameFlag.EXTENDED, FrameFlag.ERROR, FrameFlag.TX], np.uint8), count)
    payload = rng.integers(0, 256, (count, 64)).astype(np.uint8)
    payload[np.arange(64) >= length[:, None]] = 0
    batch = FrameBatch(
        time=rng.integers(-(2**62), 2**62, count),
        bus=rng.integers(0, 255, count).astype(np.uint8),
        id=rng.integers(0, 2**29, count).astype(np.uint32),
        flags=flags,
        length=length,
        payload=payload,
    )
    segment = rng.integers(0, 65_536, count).astype(np.uint16)
    back, segments = frames_table.from_table(frames_table.to_table(batch, segment))
    order = np.argsort(batch.id, kind="stable")
    assert np.array_equal(segments, segment[order])
    for name in ("time", "bus", "id", "flags", "length"):
        assert np.array_equal(getattr(back, name), getattr(batch, name)[order]), name
    assert np.array_equal(back.payload, batch.payload[order][:, : back.payload.shape[1]])
    assert not batch.payload[:, back.payload.shape[1] :].any()


def test_signals_lie_on_the_grid_and_keep_the_energy(result: IngestResult) -> None:
    frame = signals_table.read(result.signals.path)
    validate_signals(frame, twin())
    assert len(frame) == result.signals.rows
    assert (frame["log_time_ns"] % 50_000_000 == 0).all()
    assert frame["time"].cast(pl.Int64).equals(frame["log_time_ns"].alias("time"))
    total = float(frame["energy_wh"].sum()) + result.signals.energy_tail_wh
    assert total == pytest.approx(result.signals.energy_wh, rel=1e-12)
    assert result.signals.distance_m == pytest.approx(12_888, rel=0.01)  # US06 is 12.89 km
    assert set(result.signals.signals) == set(twin().signals)


def test_energy_agrees_with_the_twins_own_ledger(tmp_path: Path) -> None:
    from tspace_core.twin.recorder import record_drive

    summary = record_drive(twin(), "habitual", "us06", 4, tmp_path / "a.blf")
    found = ingest_log(Lake(tmp_path / "lake"), tmp_path / "a.blf", twin())
    assert found.signals.energy_wh == pytest.approx(summary.energy_wh, rel=0.005)
    assert found.signals.distance_m == pytest.approx(summary.distance_m, rel=0.005)


def test_episodes_hold_the_flashed_actions_and_every_window_once(result: IngestResult) -> None:
    vehicle, default = twin(), twin().default_map()
    episodes = [episodes_table.read(path) for path in result.episodes.paths]
    assert sum(map(len, episodes)) == result.episodes.records > 150
    for path in result.episodes.paths:
        validate_episode(pl.read_parquet(local_copy(path), hive_partitioning=False), state_dim=90)
    (episode,) = episodes
    assert episode.meta.action_source == "flash_journal"
    assert (episode.flags[1:] == RecordFlag.FLASHED).all()
    assert not episode.actions[0].any()
    lines = [json.loads(line) for line in result.raw.journal.read_text().splitlines()]
    for k in range(1, len(episode)):
        row = lines[k]["first_row"]
        wanted = (np.array(lines[k]["torque_nm"], np.float32) - default.table[row : row + 4]) / np.float32(
            250
        )
        assert episode.rows[k] == row
        assert episode.actions[k] == pytest.approx(np.clip(wanted, -1, 1).ravel(), abs=1e-6)
    # Only the first window and what fills no whole step is not in any reward.
    signals = signals_table.read(result.signals.path)
    rewarded = -episode.rewards.sum(dtype=np.float64)
    window = vehicle.sampling.window
    used = signals["energy_wh"][window : (2 * len(episode) + 1) * window].sum()
    assert rewarded == pytest.approx(used, rel=1e-5)
    assert episode.meta.energy_wh == pytest.approx(used, rel=1e-9)


def test_an_episode_reads_back_as_it_was_written(result: IngestResult, tmp_path: Path) -> None:
    episode = episodes_table.read(result.episodes.paths[0])
    assert episodes_table.read_meta(result.episodes.paths[0]) == episode.meta
    episodes_table.write(tmp_path / "again.parquet", episode)
    again = episodes_table.read(tmp_path / "again.parquet")
    for name in ("states", "actions", "rows", "rewards", "times", "flags"):
        assert np.array_equal(getattr(again, name), getattr(episode, name)), name
    assert again.meta == episode.meta
    plain = pl.read_parquet(tmp_path / "again.parquet")
    assert plain["first_row"].null_count() == 1
    assert plain["action"][-1].null_count() == 68


def test_doing_it_again_changes_nothing(drive: Path, tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    first = ingest_log(lake, drive, twin())
    before = files(lake)
    again = ingest_log(lake, drive, twin())
    assert files(lake) == before
    assert (first.frames.reused, first.signals.reused, first.episodes.reused) == (False,) * 3
    assert (again.frames.reused, again.signals.reused, again.episodes.reused) == (True,) * 3
    assert again.to_dict() == first.to_dict()
    assert again.episodes.paths == first.episodes.paths
    # From nothing, too, the same bytes come out.
    other = Lake(tmp_path / "other")
    ingest_log(other, drive, twin())
    derived = {name: data for name, (_, data) in files(other).items() if not name.startswith("raw")}
    assert derived == {name: data for name, (_, data) in before.items() if not name.startswith("raw")}


def test_a_changed_config_redoes_only_the_stages_it_touches(drive: Path, tmp_path: Path) -> None:
    lake, vehicle = Lake(tmp_path / "lake"), twin()
    first = ingest_log(lake, drive, vehicle)
    reward = vehicle.reward.model_copy(update={"kind": "loss"})
    changed = vehicle.model_copy(update={"reward": reward})
    changed._folder = vehicle._folder
    again = ingest_log(lake, drive, changed)
    assert again.frames.reused
    assert not again.episodes.reused
    assert episodes_table.read(again.episodes.paths[0]).meta.reward_kind == "loss"
    assert set(again.episodes.paths).isdisjoint(first.episodes.paths)
    assert not any(path.exists() for path in first.episodes.paths)
    assert lake.episodes(again.raw) == lake.episodes() == again.episodes.paths


def test_a_torn_journal_is_counted_in_the_episodes_summary(drive: Path, tmp_path: Path) -> None:
    source = tmp_path / drive.name
    source.write_bytes(drive.read_bytes())
    journal = drive.with_name(f"{drive.name}.flashes.jsonl").read_text()
    source.with_name(f"{drive.name}.flashes.jsonl").write_text(journal[:-300])
    found = ingest_log(Lake(tmp_path / "lake"), source, twin()).episodes
    assert found.dropped == {"flash journal: last line cut off": 1}
    assert f"line {len(journal.splitlines())}: " in found.messages["flash journal: last line cut off"]
    assert found.records > 150
    assert found.clipped_records == 0
    assert ingest_log(Lake(tmp_path / "lake"), source, twin()).episodes.dropped == found.dropped


def test_a_crash_while_episodes_are_written_leaves_the_old_ones(drive: Path, tmp_path: Path) -> None:
    lake, vehicle = Lake(tmp_path / "lake"), twin()
    first = ingest_log(lake, drive, vehicle)
    rules = vehicle.episodes.model_copy(update={"maximum_records": 50})
    changed = vehicle.model_copy(update={"episodes": rules})
    changed._folder = vehicle._folder

    class Dies(Direct):
        """All episodes are written, and not yet made visible."""

        def text(self, *_: object, **__: object) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store_episodes(lake, first.raw, changed, writer=Dies())
    assert lake.episodes() == first.episodes.paths
    assert len(episodes_table.read(first.episodes.paths[0])) == first.episodes.records
    with UnitOfWork(lake) as unit:
        again = store_episodes(lake, first.raw, changed, writer=unit)
        assert lake.episodes() == first.episodes.paths
    assert again.episodes >= 4
    assert sorted(lake.episodes()) == sorted(again.paths)
    on_disk = [path.name for path in again.paths[0].parent.glob("*.parquet")]
    assert sorted(on_disk) == sorted(path.name for path in again.paths)


def test_stages_ask_for_the_stage_before(drive: Path, tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    raw = store_raw(lake, drive, twin())
    with pytest.raises(StorageError, match="run the stage before this one"):
        store_signals(lake, raw, twin())
    with pytest.raises(StorageError, match="run the stage before this one"):
        store_episodes(lake, raw, twin())


def test_damaged_results_say_what_to_do(drive: Path, tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    raw = store_raw(lake, drive, twin())
    path = lake.frames(raw)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PAR1 broken")
    with pytest.raises(StorageError, match="delete it and run the stage"):
        store_frames(lake, raw, twin())
    pq.write_table(pl.DataFrame({"a": [1]}).to_arrow(), path)
    with pytest.raises(StorageError, match="not written by tspace"):
        store_frames(lake, raw, twin())
    for read in (episodes_table.read, episodes_table.read_meta):
        with pytest.raises(StorageError, match="episode"):
            read(path)


def test_a_log_of_another_kind_of_vehicle_is_explained(drive: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="come from a trip table"):
        ingest_log(Lake(tmp_path / "lake"), drive, load_vehicle("bmw_i3"))


def test_a_log_without_the_vehicles_messages_gives_no_episode_and_says_so(tmp_path: Path) -> None:
    source = candump(tmp_path / "foreign.log", stamps=[1_767_600_000 + k / 10 for k in range(100)])
    found = ingest_log(Lake(tmp_path / "lake"), source, twin())
    assert found.frames.frames == 100
    assert found.signals.rows == found.episodes.episodes == found.episodes.records == 0
    assert all(one.count == 0 and one.mean is None for one in found.signals.signals.values())
    assert found.signals.energy_wh == 0


def test_a_truncated_log_gives_what_is_there_and_counts_the_rest(drive: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.blf"
    content = drive.read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    found = ingest_log(Lake(tmp_path / "lake"), cut, twin())
    whole = sum(len(batch) for batch in open_log(drive).batches())
    assert 0.3 * whole < found.frames.frames < 0.7 * whole
    assert sum(found.signals.dropped.values()) >= 1
    assert found.signals.messages.keys() >= found.signals.dropped.keys()
    assert found.episodes.records > 50


def test_a_file_that_is_no_log_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello\n")
    with pytest.raises(LogError):
        ingest_log(Lake(tmp_path / "lake"), tmp_path / "notes.txt", twin())
    assert not (tmp_path / "lake").exists()


def test_signals_that_break_their_schema_go_to_quarantine(
    drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tspace_core.records.schemas as schemas

    def refuse(*_: object, **__: object) -> None:
        message = "column velocity: in_range"
        raise SchemaError(message)

    monkeypatch.setattr(schemas, "validate_signals", refuse)
    lake = Lake(tmp_path / "lake")
    with pytest.raises(SchemaError):
        ingest_log(lake, drive, twin())
    assert not list(lake.root.glob("signals/*/*/*"))
    (reason,) = lake.root.glob("quarantine/signals/*.reason.json")
    assert json.loads(reason.read_text())["reason"] == "column velocity: in_range"


@given(st.lists(st.tuples(st.integers(-3, 4), st.booleans()), max_size=30))
def test_samples_find_their_rows_in_any_clock(steps: list[tuple[int, bool]]) -> None:
    times = np.cumsum([step for step, _ in steps], dtype=np.int64)
    kept = np.array([keep for _, keep in steps], bool)
    rows = rows_of_samples(times, times[kept])
    assert np.array_equal(times[rows], times[kept])
    assert (np.diff(rows) > 0).all()


def test_logs_in_a_folder_are_found_without_sidecars(tmp_path: Path) -> None:
    for name in ("b/2.blf", "a.log", "a.log.flashes.jsonl", "a.log.origin.json", ".git/x", "b/.hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [str(path.relative_to(tmp_path)) for path in find_logs(tmp_path)] == ["a.log", "b/2.blf"]
    assert find_logs(tmp_path / "a.log") == [tmp_path / "a.log"]


@pytest.fixture
def real(shared_data: Path, tmp_path: Path) -> tuple[Path, Lake]:
    return shared_data, Lake(tmp_path / "lake")


def test_a_log_whose_clock_jumps_back_keeps_its_segments_apart(real: tuple[Path, Lake]) -> None:
    data, lake = real
    (source,) = (data / "can" / "ioniq28").iterdir()
    found = ingest_log(lake, source, load_vehicle("ioniq28"), date="2023-01-02")
    assert (found.frames.backward_steps, found.frames.segments) == (1, 2)
    assert found.frames.time_source == "date_folder"
    episodes: list[Episode] = [episodes_table.read(path) for path in found.episodes.paths]
    assert {episode.meta.segment for episode in episodes} == {1}
    assert found.signals.substitutes.keys() == episodes[0].meta.substitutes.keys() == {"brake"}
    frame = signals_table.read(found.signals.path)
    assert frame["time"].dt.date().unique().to_list() == [date(2023, 1, 2)]


def test_a_trip_table_becomes_episodes_with_inferred_actions(real: tuple[Path, Lake]) -> None:
    data, lake = real
    found = ingest_log(lake, data / "trips_bmw_i3" / "TripA01.csv", load_vehicle("bmw_i3"))
    assert found.frames.path is None
    assert not list(lake.root.glob("frames/*"))
    episode = episodes_table.read(found.episodes.paths[0])
    assert episode.meta.action_source == "realised_torque"
    assert (episode.flags & RecordFlag.INFERRED).all()
    assert np.abs(episode.actions).max() > 0
    assert found.signals.distance_m == pytest.approx(7428, rel=0.001)


@pytest.mark.parametrize(
    ("vehicle", "name"), [("leaf_eplus62", "can/leaf_eplus62"), ("bmw_i3", "trips_bmw_i3/TripA01.csv")]
)
def test_the_default_map_fits_the_car(real: tuple[Path, Lake], vehicle: str, name: str) -> None:
    data, lake = real
    source = data / name if name.endswith(".csv") else next((data / name).iterdir())
    found = ingest_log(lake, source, load_vehicle(vehicle))
    actions = np.concatenate([episodes_table.read(path).actions for path in found.episodes.paths])
    changed = np.abs(actions[actions != 0])
    assert len(changed) > 10
    assert (changed >= 1).mean() < 0.15, "the motor's torque lies further from the map than the budget"
