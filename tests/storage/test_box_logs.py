"""What boxes uploaded becomes raw logs: each window in exactly one, whatever happens in between."""

import gzip
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.objects.seaweed import S3
from tests.storage.boxes import MONDAY_NS, WINDOW_S, Box
from tspace_core.can.window_log import parse_line
from tspace_core.config import load_vehicle
from tspace_core.errors import ObjectMissingError, ObjectServerError, StorageError, WriterBusyError
from tspace_core.objects.path import AnyPath, S3Path, any_path
from tspace_core.storage import box_vehicle, files
from tspace_core.storage.box_logs import BoxCollector, Rules
from tspace_core.storage.lake import Lake
from tspace_core.storage.online_runs import close_run, open_run
from tspace_core.storage.only_one import only_one

VEHICLE = "twin_remote"


@pytest.fixture
def box(s3: S3) -> Box:
    return Box(S3Path(f"{s3.url}/boxes"), load_vehicle(VEHICLE))


@pytest.fixture(params=["disk", "bucket"])
def lake(request: pytest.FixtureRequest, s3: S3, tmp_path: Path) -> Lake:
    return Lake(any_path(f"{s3.url}/lake") if request.param == "bucket" else tmp_path / "lake")


@pytest.fixture
def disk(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def collector(lake: Lake, box: Box, tmp_path: Path, **rules: float) -> BoxCollector:
    return BoxCollector(
        lake,
        box.root,
        [box.vehicle],
        spool=tmp_path / "spool",
        rules=Rules(**rules),  # type: ignore[arg-type]
        now_ns=box.now_ns,
    )


def keys_of(path: AnyPath) -> list[str]:
    return [parse_line(line).key for line in gzip.decompress(path.read_bytes()).splitlines()]


def all_keys(lake: Lake) -> list[str]:
    return [key for log in lake.raw_logs() for key in keys_of(log.path)]


def test_a_drive_becomes_one_log_when_it_is_quiet(lake: Lake, box: Box, tmp_path: Path) -> None:
    keys = box.drive(0, 10)
    looking = collector(lake, box, tmp_path)
    first = looking.collect()
    assert (first.windows, first.logs, first.waiting) == (10, [], 10), "it may go on"
    box.ahead_s = 61
    (log,) = looking.collect().logs
    assert log.key == f"{VEHICLE}/2026-01-05/box-070000.windows.jsonl.gz"
    assert keys_of(log.path) == keys
    bodies = [parse_line(line).window for line in gzip.decompress(log.path.read_bytes()).splitlines()]
    assert bodies == [json.loads((box.root / key).read_bytes()) for key in keys], "as they came"
    assert [found.key for found in lake.raw_logs()] == [log.key]
    assert not list((tmp_path / "spool").glob("*.jsonl")), "nothing is kept twice"


def test_a_gap_ends_a_drive_and_a_second_between_windows_does_not(
    disk: Lake, box: Box, tmp_path: Path
) -> None:
    box.drive(0, 5, apart_s=WINDOW_S + 1)
    box.drive(60, 5)
    looking = collector(disk, box, tmp_path)
    assert not looking.collect().logs, "late uploads may be on their way"
    box.ahead_s = 11
    (log,) = looking.collect().logs
    assert keys_of(log.path) == box.keys[:5]
    assert looking.collect().waiting == 5


def test_a_long_drive_is_sealed_every_half_hour(disk: Lake, box: Box, tmp_path: Path) -> None:
    box.drive(0, 41, apart_s=60)  # longer units than a box sends would do; gaps are allowed for here
    box.vehicle = box.vehicle.model_copy(update={"log": box.vehicle.log.model_copy(update={"gap_s": 100.0})})
    box.ahead_s = 11
    (log,) = collector(disk, box, tmp_path).collect().logs
    assert keys_of(log.path) == box.keys[:30], "the next half hour goes on"


def test_windows_are_taken_once_however_often_one_looks(lake: Lake, box: Box, tmp_path: Path) -> None:
    box.drive(0, 3)
    box.ahead_s = 100
    looking = collector(lake, box, tmp_path)
    looking.collect()
    again = [looking.collect(), collector(lake, box, tmp_path).collect()]
    assert not any(found.windows or found.logs for found in again)
    (tmp_path / "spool").rename(tmp_path / "lost")
    assert not collector(lake, box, tmp_path).collect().windows
    assert sorted(all_keys(lake)) == box.keys


def test_a_lost_spool_only_costs_fetching_again(disk: Lake, box: Box, tmp_path: Path) -> None:
    box.drive(0, 4)
    assert collector(disk, box, tmp_path).collect().waiting == 4
    assert collector(disk, box, tmp_path).collect().windows == 0, "the spool has them"
    (tmp_path / "spool").rename(tmp_path / "lost")
    assert collector(disk, box, tmp_path).collect().windows == 4
    box.ahead_s = 100
    collector(disk, box, tmp_path).collect()
    assert all_keys(disk) == box.keys


def test_a_damaged_log_without_origin_is_named(disk: Lake, box: Box, tmp_path: Path) -> None:
    box.drive(0, 2)
    box.ahead_s = 100
    (log,) = collector(disk, box, tmp_path).collect().logs
    log.origin.unlink()
    assert not collector(disk, box, tmp_path).collect().windows, "it says itself what it holds"
    content = log.path.read_bytes()
    for damaged in (content[:-9], b"no gzip", content[:10] + b"\xff" * 20):
        log.path.unlink()
        log.path.write_bytes(damaged)
        with pytest.raises(StorageError, match="does not say which windows it holds"):
            collector(disk, box, tmp_path).collect()


def test_a_torn_spool_is_read_as_far_as_it_goes(disk: Lake, box: Box, tmp_path: Path) -> None:
    box.drive(0, 4)
    collector(disk, box, tmp_path).collect()
    (spool,) = (tmp_path / "spool").glob("*.jsonl")
    spool.write_bytes(spool.read_bytes()[:-50])
    box.ahead_s = 100
    found = collector(disk, box, tmp_path).collect()
    assert found.windows == 1 and all_keys(disk) == box.keys


@pytest.mark.parametrize("step", ["write origin", "write log", "settle", "follow", "write cursor"])
def test_a_crash_between_any_two_steps_neither_loses_nor_doubles(
    disk: Lake, box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    box.drive(0, 3)
    box.drive(100, 3)
    box.ahead_s = 100

    class Crash(BaseException):
        pass

    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        if step == "write log":
            patch.setattr("tspace_core.storage.files.os.link", crash)
        elif step in ("write origin", "write cursor"):
            real, part = files.write_text, "origin" if step == "write origin" else "cursors"
            patch.setattr(
                box_vehicle,
                "write_text",
                lambda path, text: crash() if part in str(path) else real(path, text),
            )
        else:
            patch.setattr(f"tspace_core.storage.box_vehicle.BoxVehicle.{step}", crash)
        with pytest.raises(Crash):
            collector(disk, box, tmp_path).collect()
    if step == "settle":
        (tmp_path / "spool").rename(tmp_path / "lost")
    collector(disk, box, tmp_path).collect()
    assert sorted(all_keys(disk)) == box.keys


def test_a_log_whose_answer_was_lost_is_not_sealed_again(
    lake: Lake, box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same collector goes on, as a sensor's does; one drive more is sealed before the answer is lost."""
    box.drive(0, 3)
    box.drive(100, 3)
    box.drive(200, 2)
    box.ahead_s = 100
    looking, write = collector(lake, box, tmp_path), files.atomic_write
    written: list[AnyPath] = []

    @contextmanager
    def lost(path: AnyPath, *, if_absent: bool) -> Iterator[Path]:
        with write(path, if_absent=if_absent) as temporary:
            yield temporary
        written.append(path)
        if len(written) == 2:
            message = "write: no answer"
            raise ObjectServerError(message)

    monkeypatch.setattr(box_vehicle, "atomic_write", lost)
    with pytest.raises(ObjectServerError):
        looking.collect()
    found = looking.collect()
    assert sorted(all_keys(lake)) == box.keys
    told = {log.key for log in found.logs} | set(found.earlier)
    assert told == {log.key for log in lake.raw_logs()}, "each log gets its partition"
    again = looking.collect()
    assert (again.logs, again.earlier, again.windows) == ([], [], 0)


def test_logs_that_were_there_are_told_also_after_a_look_that_broke_off(
    disk: Lake, box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.drive(0, 2)
    box.ahead_s = 100
    (log,) = collector(disk, box, tmp_path).collect().logs
    looking = collector(disk, box, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(looking, "_list", lambda one: box.root.with_name("x").store.get("gone"))
        with pytest.raises(ObjectMissingError):
            looking.collect()
    assert looking.collect().earlier == [log.key]


def test_a_late_upload_is_found_and_goes_into_a_log_of_its_own(disk: Lake, box: Box, tmp_path: Path) -> None:
    looking = collector(disk, box, tmp_path)
    box.drive(0, 3)
    box.drive(1800, 3)
    box.ahead_s = 100
    assert len(looking.collect().logs) == 2
    late = box.upload(900)
    (log,) = looking.collect().logs
    assert keys_of(log.path) == [late]
    assert not looking.collect().windows
    beyond = box.upload(-3600)
    assert not looking.collect().windows, f"{beyond} lies further back than one looks"


def test_a_window_under_an_old_key_with_new_content_is_another_window(
    disk: Lake, box: Box, tmp_path: Path
) -> None:
    """The hour that there is twice gives the same names to other windows."""
    looking = collector(disk, box, tmp_path)
    key = box.upload(0)
    box.ahead_s = 100
    looking.collect()
    box.put(key, json.dumps(box.window(3600)).encode())
    (log,) = looking.collect().logs
    assert log.name == "box-080000.windows.jsonl.gz" and keys_of(log.path) == [key]
    assert not collector(disk, box, tmp_path).collect().windows


def test_windows_of_an_online_run_are_left_out(lake: Lake, box: Box, tmp_path: Path) -> None:
    keys = box.drive(0, 12)
    run = open_run(lake, VEHICLE, "run-1", MONDAY_NS + 17 * 10**9)
    close_run(lake, VEHICLE, run, MONDAY_NS + 27 * 10**9)
    box.ahead_s = 100
    found = collector(lake, box, tmp_path).collect()
    assert [keys_of(log.path) for log in found.logs] == [keys[:4], keys[7:]]
    assert found.left_out == 3


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"timestamps": ["260105080000', "JSONDecodeError"),
        (b"[1, 2]", "no object"),
        (b"null", "no object"),
        (b"", "no JSON"),
        (b'{}, "key": "of another"', "no JSON"),
        ('{"timestamps": []}'.encode("utf-16"), "UnicodeDecodeError"),
        (b"[" * 20_000, "RecursionError"),
        (b"\xff\xfe\x00", "UnicodeDecodeError"),
        (b'{"timestamps": []}', "units"),
        (b'{"vin": "SOMEBODYELSE00001", "timestamps": []}', "SOMEBODYELSE00001"),
        (b" " * 5_000_000, "at most 4194304"),
    ],
)
def test_what_is_damaged_is_put_aside_with_the_reason(
    disk: Lake, box: Box, tmp_path: Path, body: bytes, reason: str
) -> None:
    good = box.drive(0, 3)
    bad = box.put(box.key(2), body)
    box.ahead_s = 100
    looking = collector(disk, box, tmp_path)
    found = looking.collect()
    assert reason in found.refused[f"{box.root}/{bad}"]
    assert [keys_of(log.path) for log in found.logs] == [good]
    (note,) = (disk.root / "quarantine" / "windows").glob("*.reason.json")
    assert reason in note.read_text() and bad in note.read_text()
    assert not looking.collect().refused, "told once"


def test_nan_strings_and_future_stamps_are_put_aside(disk: Lake, box: Box, tmp_path: Path) -> None:
    window = box.window(0, as_strings=True)
    window["list_speed_1s"][0][7] = "NaN"  # type: ignore[index]
    bad = box.put(box.key(0), json.dumps(window).encode())
    ahead = (box.now_ns() - MONDAY_NS) / 1e9 + 600
    soon = box.upload(ahead)
    far = box.upload(ahead + 30 * 86_400)
    good = box.upload(40)
    box.ahead_s = 100
    found = collector(disk, box, tmp_path).collect()
    reasons = [found.refused[f"{box.root}/{key}"] for key in (bad, soon, far)]
    assert "NaN" in reasons[0] and "after its upload" in reasons[1] and "in the future" in reasons[2]
    assert all_keys(disk) == [good]
    later = box.upload(60)
    looking = collector(disk, box, tmp_path)
    looking.collect()
    assert later in all_keys(disk), "a key of the future does not carry the cursor away"


def test_names_and_vins_of_nobody_are_told_once_and_left(disk: Lake, box: Box, tmp_path: Path) -> None:
    box.upload(0)
    box.put(f"{box.vehicle.vin}/zzz/notes.txt", b"x")
    box.put("NOBODY00000000001/2026/01/05/080000000.json", b"{}")
    looking = collector(disk, box, tmp_path)
    told = looking.collect().refused
    assert len(told) == 2 and any("vin 'NOBODY00000000001'" in text for text in told.values())
    box.upload(4)
    second = looking.collect()
    assert second.windows == 1 and not second.refused


def test_a_backlog_is_taken_in_bounded_looks_and_not_sealed_before_it_is_listed(
    disk: Lake, box: Box, tmp_path: Path
) -> None:
    keys = box.drive(0, 25)
    box.ahead_s = 1000
    looking = collector(disk, box, tmp_path, keys=10)
    windows = []
    for _ in range(3):
        found = looking.collect()
        windows.append(found.windows)
        if found.windows == 10:
            assert found.behind == [VEHICLE] and not found.logs
    assert windows == [10, 10, 5]
    assert [keys_of(log.path) for log in disk.raw_logs()] == [keys]


def test_no_time_left_loses_nothing(disk: Lake, box: Box, tmp_path: Path) -> None:
    keys = box.drive(0, 3)
    box.ahead_s = 100
    found = collector(disk, box, tmp_path, budget_s=-1.0).collect()
    assert found.behind == [VEHICLE] and not found.windows
    collector(disk, box, tmp_path).collect()
    assert all_keys(disk) == keys


def test_two_collectors_do_not_work_on_one_spool(disk: Lake, box: Box, tmp_path: Path) -> None:
    first, second = collector(disk, box, tmp_path), collector(disk, box, tmp_path)
    busy = pytest.raises(WriterBusyError, match=f"process {os.getpid()} collects")
    with only_one(first._spool / "lock", StorageError), busy:
        second.collect()


def test_windows_in_any_order_of_upload_end_in_one_log_each(disk: Lake, box: Box, tmp_path: Path) -> None:
    """Uploads overtake each other; looks fall in between."""
    looking = collector(disk, box, tmp_path)
    for start in (0, 8, 4, 24, 12, 20, 16):
        box.upload(start)
        looking.collect()
    box.ahead_s = 100
    looking.collect()
    assert Counter(all_keys(disk)) == Counter(box.keys)
    assert len(disk.raw_logs()) == 1
