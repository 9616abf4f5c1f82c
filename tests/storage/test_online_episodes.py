"""Episodes recorded online lie beside those cut from logs, whole or not at all."""

import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.storage.replay_episodes import coded_episode
from tspace_core.config import TorqueMap, Vehicle, load_vehicle
from tspace_core.errors import StorageError
from tspace_core.objects.path import AnyPath, local_copy
from tspace_core.records.episode import Episode
from tspace_core.storage import episodes_table, files
from tspace_core.storage.catalogue import Catalogue
from tspace_core.storage.lake import Lake
from tspace_core.storage.online_episodes import (
    OnlineCounts,
    is_online,
    online_key,
    read_online_summary,
    store_online_episode,
)
from tspace_core.storage.replay import build_replay
from tspace_pipelines.quarantine import check_episodes

BEGIN_NS = 1_767_600_000 * 10**9
KEY = "twin_truck/2026-01-05/online-080000-0007"


@pytest.fixture
def lake(place: AnyPath) -> Lake:
    return Lake(place)


@pytest.fixture
def on_disk(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


@pytest.fixture
def vehicle() -> Vehicle:
    return load_vehicle("twin_truck")


def pieces(count: int = 2, key: str = KEY) -> list[Episode]:
    found = []
    for number in range(count):
        episode = coded_episode(
            number + 1, 5, end_reason="end_valid", log_key=key, vehicle_id="twin_truck",
            episode_id=f"{key}#{number:04d}", action_source="agent", time_source="clock",
            signals=("velocity",), window=9,
        )  # fmt: skip
        found.append(replace(episode, times=episode.times + BEGIN_NS + number * 10**11))
    return found


def test_the_key_says_vehicle_utc_instant_and_number() -> None:
    assert online_key("twin_truck", BEGIN_NS, 7) == KEY


def test_pieces_become_visible_at_once_with_log_and_map(lake: Lake, vehicle: Vehicle) -> None:
    counts = OnlineCounts(rows=630, unusable_rows={"pedal": 30}, lost_records={"REFUSED: rate": 2})
    default = vehicle.default_map()
    summary = store_online_episode(
        lake, vehicle, KEY, pieces(), counts=counts, training_log={"records": [1]}, live_map=default
    )
    log = lake.episode_log(KEY)
    assert is_online(log)
    assert lake.episodes(log) == lake.episodes(vehicle_id="twin_truck") == summary.paths
    assert [episodes_table.read(path).meta.episode_id for path in summary.paths] == [
        f"{KEY}#0000",
        f"{KEY}#0001",
    ]
    assert (summary.records, summary.lost_records, summary.action_source) == (
        10,
        {"REFUSED: rate": 2},
        "agent",
    )
    assert json.loads(lake.training_log(log).read_text()) == {"records": [1]}
    assert TorqueMap.from_csv(local_copy(lake.last_live_map(log))) == default
    assert read_online_summary(lake, KEY) == summary.model_copy(update={"reused": True})
    assert lake.episode_logs() == [log]


def test_replay_catalogue_and_quarantine_need_no_raw_log(
    lake: Lake, vehicle: Vehicle, tmp_path: Path
) -> None:
    summary = store_online_episode(lake, vehicle, KEY, pieces())
    replay = build_replay(lake.replay("twin_truck"), map(episodes_table.read, lake.episodes()))
    assert len(replay) == 10
    catalogue = Catalogue(tmp_path / "catalogue.duckdb", lake)
    catalogue.refresh()
    found = catalogue.query(
        "SELECT e.episode_id, count(*) AS rows FROM episodes e JOIN records r USING (episode_id) "
        "WHERE e.log_key = '" + KEY + "' AND e.action_source = 'agent' GROUP BY 1 ORDER BY 1"
    )
    assert found.rows() == [(f"{KEY}#0000", 6), (f"{KEY}#0001", 6)]
    assert catalogue.query("SELECT count(*) FROM logs").item() == 0
    small = vehicle.model_copy(
        update={"sampling": vehicle.sampling.model_copy(update={"window": 9, "signals": ("velocity",)})}
    )
    good, records, bad = check_episodes(lake, lake.episode_log(KEY), small)
    assert (good, records, bad) == (2, 10, {})
    good, _, bad = check_episodes(lake, lake.episode_log(KEY), vehicle)
    assert good == 0
    assert len(bad) == 2
    assert lake.episodes() == []
    assert not any(path.exists() for path in summary.paths)


def test_an_episode_without_a_whole_piece_is_counted(lake: Lake, vehicle: Vehicle) -> None:
    counts = OnlineCounts(rows=90, short_runs=1, short_rows=90, lost_records={"too few records left": 1})
    summary = store_online_episode(lake, vehicle, KEY, [], counts=counts, training_log={})
    assert (summary.episodes, summary.records, summary.short_runs) == (0, 0, 1)
    assert lake.episodes() == []
    assert lake.episode_logs() == [lake.episode_log(KEY)]


def test_the_same_again_is_no_matter_and_another_of_the_same_key_is_refused(
    lake: Lake, vehicle: Vehicle
) -> None:
    first = store_online_episode(lake, vehicle, KEY, pieces())
    again = store_online_episode(lake, vehicle, KEY, pieces())
    assert again == first.model_copy(update={"reused": True})
    with pytest.raises(StorageError, match="holds another episode of the key"):
        store_online_episode(lake, vehicle, KEY, pieces(1))
    assert lake.episodes() == first.paths


def test_pieces_of_another_episode_are_refused(lake: Lake, vehicle: Vehicle) -> None:
    with pytest.raises(StorageError, match=r"calls itself .*#0001"):
        store_online_episode(lake, vehicle, KEY, pieces()[::-1])
    assert lake.episode_manifests() == []


@pytest.mark.parametrize("fails_at", range(5))
def test_a_disk_that_is_full_at_any_file_leaves_nothing(
    on_disk: Lake, vehicle: Vehicle, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    lake = on_disk
    synced = 0
    sync = files.sync

    def full(path: Path) -> None:
        nonlocal synced
        if path.is_file():
            synced += 1
            if synced > fails_at:
                raise OSError(28, "No space left on device")
        sync(path)

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(StorageError, match=r"10 records is lost.*No space left.*make room"):
        store_online_episode(
            lake, vehicle, KEY, pieces(), training_log={"a": 1}, live_map=vehicle.default_map()
        )
    assert [path for path in lake.root.rglob("*") if path.is_file()] == []
    monkeypatch.undo()
    assert store_online_episode(lake, vehicle, KEY, pieces()).records == 10


def test_a_real_file_size_limit_leaves_nothing(tmp_path: Path) -> None:
    """The kernel refuses to write, not a double: RLIMIT_FSIZE in a process of its own."""
    code = f"""
import resource, signal, sys
from pathlib import Path
from tests.storage.test_online_episodes import KEY, pieces
from tspace_core.config import load_vehicle
from tspace_core.errors import StorageError
from tspace_core.storage.lake import Lake
from tspace_core.storage.online_episodes import store_online_episode
vehicle, found = load_vehicle("twin_truck"), pieces()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    lake = Lake(Path({str(tmp_path)!r}))
    store_online_episode(lake, vehicle, KEY, found, training_log={{"a": "x" * 50_000}})
except StorageError as error:
    sys.stdout.write(str(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "File too large" in done.stdout, done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 20_000


def test_a_training_log_that_json_has_no_words_for_is_refused_whole(lake: Lake, vehicle: Vehicle) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        store_online_episode(lake, vehicle, KEY, pieces(), training_log={"loss": float(np.nan)})
    assert [path for path in lake.root.rglob("*") if path.is_file()] == []
