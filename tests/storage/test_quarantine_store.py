"""The quarantine: what is there, what may go back and what may not."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.storage.replay_episodes import coded_episode
from tspace_core.config import Vehicle, load_vehicle
from tspace_core.errors import RecordError, StorageError
from tspace_core.objects.path import AnyPath, S3Path, local_copy
from tspace_core.records.episode import Episode
from tspace_core.storage import episodes_table
from tspace_core.storage.files import write_text
from tspace_core.storage.lake import Lake, read_json
from tspace_core.storage.online_episodes import read_online_summary, store_online_episode
from tspace_core.storage.quarantine_store import drop, find_quarantined, quarantined, release
from tspace_pipelines.quarantine import check_episodes

BEGIN_NS = 1_767_600_000 * 10**9
KEY = "twin_truck/2026-01-05/online-080000-0007"


@pytest.fixture
def lake(place: AnyPath, tmp_path: Path) -> Lake:
    return Lake(place, local=tmp_path / "here")


@pytest.fixture
def vehicle() -> Vehicle:
    return load_vehicle("twin_truck")


def pieces(vehicle: Vehicle, *, good: bool = True) -> list[Episode]:
    sampling = vehicle.sampling
    found = []
    for number in range(2):
        episode = coded_episode(
            number + 1, 5, end_reason="end_valid", log_key=KEY, vehicle_id="twin_truck",
            episode_id=f"{KEY}#{number:04d}", action_source="agent", time_source="clock",
        )  # fmt: skip
        window = sampling.window if good else sampling.window + 1
        meta = episode.meta.model_copy(update={"signals": sampling.signals, "window": window})
        states = np.repeat(episode.states[:, :1], window * len(sampling.signals), axis=1)
        times = episode.times + BEGIN_NS + number * 10**11
        found.append(replace(episode, states=states, times=times, meta=meta))
    return found


def put_aside(lake: Lake, vehicle: Vehicle, *, good: bool = True) -> tuple[AnyPath, bytes]:
    """An online episode, its first piece in the quarantine; where it was, and what it held."""
    summary = store_online_episode(lake, vehicle, KEY, pieces(vehicle, good=good))
    path = summary.paths[0]
    content = local_copy(path).read_bytes()
    manifest = lake.episodes_manifest(lake.log_of(KEY))
    told = read_json(manifest)
    told["episodes"] = told["episodes"][1:]
    told["summary"]["fingerprint"] = "quarantined"
    write_text(manifest, json.dumps(told))
    lake.quarantine("episodes", path, "its reward looked odd")
    return path, content


def test_an_episode_goes_back_bit_for_bit_and_is_visible_again(lake: Lake, vehicle: Vehicle) -> None:
    path, content = put_aside(lake, vehicle)
    (one,) = quarantined(lake)
    assert (one.kind, one.reason, one.source) == ("episodes", "its reward looked odd", str(path))
    assert one.at is not None and one.own_name == path.name and one.size > len(content)
    assert read_online_summary(lake, KEY).episodes == 1
    assert release(lake, one, dry_run=True) == str(path)
    assert not path.is_file() and len(quarantined(lake)) == 1
    assert release(lake, one) == str(path)
    assert local_copy(path).read_bytes() == content
    assert lake.episodes(lake.log_of(KEY))[0] == path
    assert read_online_summary(lake, KEY).episodes == 2
    assert quarantined(lake) == []
    good, records, bad = check_episodes(lake, lake.episode_log(KEY), vehicle)
    assert (good, records, bad) == (2, 10, {})


def test_one_that_still_fails_stays(lake: Lake, vehicle: Vehicle) -> None:
    path, _ = put_aside(lake, vehicle, good=False)
    (one,) = quarantined(lake)
    with pytest.raises(RecordError, match="stays in the quarantine"):
        release(lake, one)
    assert not path.is_file() and quarantined(lake) == [one]
    assert read_online_summary(lake, KEY).episodes == 1


def test_one_that_was_made_anew_since_is_refused(lake: Lake, vehicle: Vehicle) -> None:
    put_aside(lake, vehicle)
    (one,) = quarantined(lake)
    lake.episodes_manifest(lake.log_of(KEY)).unlink()
    with pytest.raises(StorageError, match="is gone"):
        release(lake, one)
    made = store_online_episode(lake, vehicle, KEY, pieces(vehicle))
    with pytest.raises(StorageError, match="made anew since"):
        release(lake, one)
    assert lake.episodes(lake.log_of(KEY)) == made.paths
    drop(lake, one)
    assert quarantined(lake) == [] and lake.episodes(lake.log_of(KEY)) == made.paths


def test_a_file_that_is_no_episode_any_more_is_refused(lake: Lake, vehicle: Vehicle) -> None:
    put_aside(lake, vehicle)
    (one,) = quarantined(lake)
    write_text(one.path, "torn")
    with pytest.raises(StorageError, match="is no episode"):
        release(lake, find_quarantined(lake, one.name))
    assert len(quarantined(lake)) == 1


def test_a_raw_log_goes_to_the_inbox(lake: Lake, tmp_path: Path) -> None:
    log = lake.raw("twin_truck", "2026-01-05", "drive.blf")
    write_text(log, "frames")
    lake.quarantine("raw", log, "its clock jumps")
    (one,) = quarantined(lake)
    inbox = tmp_path / "inbox"
    assert release(lake, one, inbox=inbox) == str(inbox / "twin_truck" / "drive.blf")
    assert (inbox / "twin_truck" / "drive.blf").read_text() == "frames"
    assert quarantined(lake) == [] and log.is_file()
    lake.quarantine("raw", log, "its clock jumps")
    with pytest.raises(StorageError, match="exists"):
        release(lake, quarantined(lake)[0], inbox=inbox)


@pytest.mark.parametrize(("kind", "said"), [("signals", "signals stage"), ("windows", "drop it")])
def test_what_is_made_again_is_not_put_back(tmp_path: Path, kind: str, said: str) -> None:
    lake, found = Lake(tmp_path / "lake"), tmp_path / "x.parquet"
    found.write_text("x")
    lake.quarantine(kind, found, "bad")
    with pytest.raises(StorageError, match=said):
        release(lake, quarantined(lake)[0])


def test_what_lies_there_without_a_reason_or_with_a_damaged_one_is_listed(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    folder = lake.root / "quarantine" / "episodes"
    for name, text in (("alone.parquet", "x"), ("odd.parquet", "x"), ("odd.parquet.reason.json", "[tor"),
                       ("left.parquet.reason.json", '{"reason": "r"}')):  # fmt: skip
        write_text(folder / name, text)
    write_text(lake.root / "quarantine" / "units" / "u1" / "episodes" / "vehicle=v" / "x.json", "{}")
    found = {one.name: one.reason for one in quarantined(lake)}
    assert found == {
        "episodes/alone.parquet": "no reason lies beside it",
        "episodes/odd.parquet": "its reason is damaged",
        "episodes/left.parquet.reason.json": "r",
        "units/u1/episodes/vehicle=v/x.json": "no reason lies beside it",
    }
    for one in quarantined(lake):
        drop(lake, one)
    assert quarantined(lake) == []
    assert not isinstance(lake.root, S3Path)
    assert [path for path in (lake.root / "quarantine").rglob("*") if path.is_file()] == []


def test_a_reason_alone_is_not_taken_for_its_file(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    reason = {"reason": "its clock jumps", "source": "inbox/twin_truck/drive.blf"}
    write_text(lake.root / "quarantine" / "raw" / "1234.drive.blf.reason.json", json.dumps(reason))
    with pytest.raises(StorageError, match="only its reason is here"):
        release(lake, quarantined(lake)[0], inbox=tmp_path / "inbox")
    assert not (tmp_path / "inbox").exists()


def test_a_log_of_no_vehicle_is_not_put_into_the_inbox(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    write_text(lake.root / "quarantine" / "raw" / "1234.drive.blf", "frames")  # nothing says whose it is
    with pytest.raises(StorageError, match=r"names no vehicle.*by hand"):
        release(lake, quarantined(lake)[0], inbox=tmp_path / "inbox")
    assert len(quarantined(lake)) == 1


def test_an_episode_whose_moments_are_in_another_one_now_is_refused(lake: Lake, vehicle: Vehicle) -> None:
    """Its log was cut anew, at other places: its records would be there, and be learned from, twice."""
    put_aside(lake, vehicle)
    manifest = lake.episodes_manifest(lake.log_of(KEY))
    told = read_json(manifest)
    (entry,) = told["episodes"]
    entry["start_ns"] = pieces(vehicle)[0].times[2].item()
    write_text(manifest, json.dumps(told))
    with pytest.raises(StorageError, match="there twice; drop this one"):
        release(lake, quarantined(lake)[0])
    assert len(quarantined(lake)) == 1


def test_names(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    for name in ("a.blf", "ab.blf"):
        (tmp_path / name).write_text(name)
        lake.quarantine("raw", tmp_path / name, "bad")
    assert find_quarantined(lake, "ab.blf").own_name == "ab.blf"
    assert find_quarantined(lake, quarantined(lake)[0].name[4:16]) == quarantined(lake)[0]
    with pytest.raises(StorageError, match="one of 2"):
        find_quarantined(lake, "blf")
    with pytest.raises(StorageError, match="quarantine list"):
        find_quarantined(lake, "c.blf")


def test_episodes_table_reads_what_was_released(lake: Lake, vehicle: Vehicle) -> None:
    path, _ = put_aside(lake, vehicle)
    release(lake, quarantined(lake)[0])
    assert episodes_table.read(path).meta.episode_id == f"{KEY}#0000"
