"""The watched folder: what is complete is taken once, what cannot be taken is reported and stays."""

from pathlib import Path

import dagster as dg
import pytest

from tests.pipelines.conftest import VEHICLE, put
from tspace_core.storage.lake import JOURNAL_SUFFIX, Lake
from tspace_pipelines.definitions import build
from tspace_pipelines.defs.raw_logs.resources import InboxResource
from tspace_pipelines.defs.raw_logs.sensors import inbox_sensor
from tspace_pipelines.inbox import Seen, Taken, from_cursor, take, to_cursor
from tspace_pipelines.partitions import LOGS
from tspace_pipelines.resources import LakeResource

KEY = f"{VEHICLE}/2026-01-05/short.blf"


def look(inbox: Path, lake: Lake, seen: Seen | None = None, *, min_age_s: float = 0.0) -> Taken:
    return take(inbox, lake, seen or {}, min_age_s=min_age_s, budget_s=60.0)


def tick(
    inbox: Path,
    lake: Lake,
    instance: dg.DagsterInstance,
    cursor: str | None = None,
    *,
    min_age_s: float = 0.0,
) -> dg.SensorResult:
    with dg.build_sensor_context(
        instance=instance,
        cursor=cursor,
        definitions=build(),
        resources={
            "lake": LakeResource(data_dir=str(lake.root)),
            "inbox": InboxResource(folder=str(inbox), min_age_s=min_age_s),
        },
    ) as context:
        result = inbox_sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def test_a_new_log_is_stored_partitioned_and_requested(
    inbox: Path, lake: Lake, drive: Path, instance: dg.DagsterInstance
) -> None:
    source = put(drive, inbox / VEHICLE)
    result = tick(inbox, lake, instance)
    (request,) = result.run_requests or []
    assert request.partition_key == KEY
    (added,) = result.dynamic_partitions_requests or []
    assert (added.partitions_def_name, added.partition_keys) == ("logs", [KEY])
    log = lake.raw_log(KEY)
    assert log.path.read_bytes() == source.read_bytes() and log.journal.is_file()
    assert source.is_file(), "the inbox belongs to the user"


def test_nothing_is_taken_twice(inbox: Path, lake: Lake, drive: Path, instance: dg.DagsterInstance) -> None:
    put(drive, inbox / VEHICLE)
    first = tick(inbox, lake, instance)
    second = tick(inbox, lake, instance, first.cursor)
    assert not second.run_requests and second.cursor == first.cursor
    assert second.skip_reason is not None
    assert "nothing new" in str(second.skip_reason.skip_message)


def test_a_lost_cursor_loses_nothing_and_asks_for_the_same_run(
    inbox: Path, lake: Lake, drive: Path, instance: dg.DagsterInstance
) -> None:
    """The run key is the same, so that Dagster does not start the run again."""
    put(drive, inbox / VEHICLE)
    first, second = tick(inbox, lake, instance), tick(inbox, lake, instance, "no json")
    assert first.run_requests == second.run_requests
    assert len(lake.raw_logs()) == 1


@pytest.mark.parametrize("suffix", [".tmp", ".part", ".partial", ".crdownload", ".filepart"])
def test_unfinished_files_wait_for_their_name(inbox: Path, lake: Lake, drive: Path, suffix: str) -> None:
    unfinished = put(drive, inbox / VEHICLE, f"short.blf{suffix}", journal=False)
    assert look(inbox, lake) == Taken()
    unfinished.rename(unfinished.with_name("short.blf"))
    assert list(look(inbox, lake).logs) == [KEY]


def test_a_file_that_was_just_touched_waits(
    inbox: Path, lake: Lake, drive: Path, instance: dg.DagsterInstance
) -> None:
    put(drive, inbox / VEHICLE)
    first = tick(inbox, lake, instance, min_age_s=3600.0)
    assert not first.run_requests and not lake.raw_logs()
    assert "1 not complete yet" in str(first.skip_reason and first.skip_reason.skip_message)
    assert tick(inbox, lake, instance, first.cursor).run_requests


def test_the_budget_leaves_files_for_the_next_look(inbox: Path, lake: Lake, drive: Path) -> None:
    put(drive, inbox / VEHICLE)
    spent = take(inbox, lake, {}, min_age_s=0.0, budget_s=-1.0)
    assert spent.waiting == [f"{VEHICLE}/short.blf"] and not spent.seen
    assert list(look(inbox, lake, spent.seen).logs) == [KEY]


@pytest.mark.parametrize(
    ("folder", "name", "content", "expected"),
    [
        ("no_such_truck", "a.blf", b"LOGG", "known vehicles: bmw_i3"),
        (".", "a.blf", b"LOGG", "<inbox>/<vehicle id>/<log>"),
        (f"{VEHICLE}/deeper", "a.blf", b"LOGG", "<inbox>/<vehicle id>/<log>"),
        (VEHICLE, "holiday.blf", b"\x89PNG\r\n\x1a\n" + bytes(64), "holiday.blf"),
        (VEHICLE, "empty.blf", b"", "empty.blf"),
        (
            VEHICLE,
            "a...b.asc",
            b"date Mon Jan 5 08:00:00.000 am 2026\nbase hex  timestamps absolute\n",
            "...",
        ),
    ],
)
def test_what_cannot_be_taken_is_reported_once_and_stays(
    inbox: Path,
    lake: Lake,
    drive: Path,
    instance: dg.DagsterInstance,
    folder: str,
    name: str,
    content: bytes,
    expected: str,
) -> None:
    bad = inbox / folder / name
    bad.parent.mkdir(parents=True, exist_ok=True)
    bad.write_bytes(content)
    put(drive, inbox / VEHICLE)
    first = tick(inbox, lake, instance)
    assert [request.partition_key for request in first.run_requests or []] == [KEY], "others are not held up"
    note = bad.with_name(f"{name}.refused.txt")
    assert expected in note.read_text()
    assert bad.read_bytes() == content
    second = tick(inbox, lake, instance, first.cursor)
    assert "nothing new" in str(second.skip_reason and second.skip_reason.skip_message)


def test_a_refused_log_is_looked_at_again_when_it_changes(
    inbox: Path, lake: Lake, drive: Path, instance: dg.DagsterInstance
) -> None:
    bad = inbox / VEHICLE / "short.blf"
    bad.write_bytes(b"half a file")
    first = tick(inbox, lake, instance)
    assert "not taken" in str(first.skip_reason and first.skip_reason.skip_message)
    put(drive, inbox / VEHICLE)
    second = tick(inbox, lake, instance, first.cursor)
    assert [request.partition_key for request in second.run_requests or []] == [KEY]
    assert not bad.with_name("short.blf.refused.txt").exists()


def test_another_content_under_a_stored_name_is_refused(inbox: Path, lake: Lake, drive: Path) -> None:
    source = put(drive, inbox / VEHICLE)
    first = look(inbox, lake)
    with source.open("ab") as file:
        file.write(b"\0")
    second = look(inbox, lake, first.seen)
    assert not second.logs and "not the same content" in second.refused[f"{VEHICLE}/short.blf"]
    assert lake.raw_log(KEY).path.read_bytes() == drive.read_bytes()


def test_a_trip_table_vehicle_gets_no_can_log(inbox: Path, lake: Lake, drive: Path) -> None:
    put(drive, inbox / "bmw_i3", journal=False)
    taken = look(inbox, lake)
    assert "format is blf" in taken.refused["bmw_i3/short.blf"] and not taken.logs


def test_a_late_journal_starts_another_run(
    inbox: Path, lake: Lake, drive: Path, instance: dg.DagsterInstance
) -> None:
    put(drive, inbox / VEHICLE, journal=False)
    first = tick(inbox, lake, instance)
    assert not lake.raw_log(KEY).journal.exists()
    put(drive, inbox / VEHICLE)
    second = tick(inbox, lake, instance, first.cursor)
    assert lake.raw_log(KEY).journal.is_file()
    keys = [request.run_key for result in (first, second) for request in result.run_requests or []]
    assert len(set(keys)) == 2


def test_a_full_disk_is_tried_again(
    inbox: Path, lake: Lake, drive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(drive, inbox / VEHICLE)

    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("tspace_core.storage.raw_store.shutil.copyfile", full)
        taken = look(inbox, lake)
    assert "No space left" in taken.refused[f"{VEHICLE}/short.blf"] and not taken.seen
    assert list(look(inbox, lake, taken.seen).logs) == [KEY]


def test_the_cursor_forgets_files_that_are_gone(inbox: Path, lake: Lake, drive: Path) -> None:
    source = put(drive, inbox / VEHICLE)
    seen = look(inbox, lake).seen
    assert from_cursor(to_cursor(seen)) == seen != {}
    source.unlink()
    source.with_name(source.name + JOURNAL_SUFFIX).unlink()
    assert look(inbox, lake, seen).seen == {}


def test_no_inbox_is_no_error(tmp_path: Path, lake: Lake) -> None:
    assert look(tmp_path / "nowhere", lake) == Taken()


def test_register_logs_adds_lake_and_inbox(
    inbox: Path, lake: Lake, drive: Path, instance: dg.DagsterInstance
) -> None:
    from tspace_core.config import load_vehicle
    from tspace_core.storage.ingest import store_raw

    stored = store_raw(lake, drive, load_vehicle("twin_mule"))
    put(drive, inbox / VEHICLE)
    resources = {"inbox": InboxResource(folder=str(inbox), min_age_s=0.0)}
    definitions = dg.Definitions.merge(
        dg.Definitions(
            jobs=[dg_job for dg_job in build().jobs or [] if dg_job.name == "register_logs"],
            resources={**resources, "lake": LakeResource(data_dir=str(lake.root))},
        )
    )
    job = definitions.resolve_job_def("register_logs")
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    for _ in range(2):
        assert job.execute_in_process(instance=instance, run_config=quiet).success
        assert set(instance.get_dynamic_partitions(str(LOGS.name))) == {KEY, stored.key}
