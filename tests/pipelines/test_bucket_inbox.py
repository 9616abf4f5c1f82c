"""The watched place in a bucket: each log is taken once, old keys are not looked at again."""

import http.client
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from tests.objects.seaweed import S3, SeaweedServer
from tests.pipelines.conftest import VEHICLE
from tspace_core.objects.path import S3Path
from tspace_core.objects.store import ObjectStore
from tspace_core.storage.lake import JOURNAL_SUFFIX, Lake
from tspace_pipelines import bucket_inbox
from tspace_pipelines.bucket_inbox import SLICE, Position, take_from_bucket
from tspace_pipelines.defs.raw_logs.resources import BucketInboxResource
from tspace_pipelines.defs.raw_logs.sensors import bucket_sensor
from tspace_pipelines.inbox import Taken
from tspace_pipelines.resources import LakeResource

KEY = f"{VEHICLE}/2026-01-05/short.blf"


@pytest.fixture
def bucket(s3: S3, data_dir: Path) -> S3Path:
    return S3Path(f"{s3.url}/inbox")


@pytest.fixture(params=["disk", "bucket"])
def any_lake(request: pytest.FixtureRequest, s3: S3, lake: Lake, data_dir: Path) -> Lake:
    return Lake(f"{s3.url}/lake", local=data_dir) if request.param == "bucket" else lake


def put(drive: Path, bucket: S3Path, name: str = "short.blf", *, journal: bool = True) -> S3Path:
    target = bucket / VEHICLE / name
    target.write_bytes(drive.read_bytes())
    if journal:
        beside = drive.with_name(drive.name + JOURNAL_SUFFIX)
        target.with_name(name + JOURNAL_SUFFIX).write_bytes(beside.read_bytes())
    return target


def look(bucket: S3Path, lake: Lake, position: Position | None = None, *, budget_s: float = 60.0) -> Taken:
    return take_from_bucket(bucket, lake, position or Position(), budget_s=budget_s)


def tick(
    bucket: S3Path, lake: Lake, instance: dg.DagsterInstance, cursor: str | None = None
) -> dg.SensorResult:
    with dg.build_sensor_context(
        instance=instance,
        cursor=cursor,
        resources={
            "lake": LakeResource(
                data_dir=str(lake.local), lake_url=str(lake.root) if isinstance(lake.root, S3Path) else None
            ),
            "bucket_inbox": BucketInboxResource(url=str(bucket)),
        },
    ) as context:
        result = bucket_sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def said(result: dg.SensorResult) -> str:
    return str(result.skip_reason and result.skip_reason.skip_message)


def test_a_new_log_is_stored_partitioned_and_requested_once(
    bucket: S3Path, any_lake: Lake, drive: Path, instance: dg.DagsterInstance
) -> None:
    source = put(drive, bucket)
    result = tick(bucket, any_lake, instance)
    (request,) = result.run_requests or []
    assert request.partition_key == KEY
    (added,) = result.dynamic_partitions_requests or []
    assert (added.partitions_def_name, added.partition_keys) == ("logs", [KEY])
    log = any_lake.raw_log(KEY)
    assert log.path.read_bytes() == drive.read_bytes() and log.journal.is_file()
    assert source.is_file(), "the inbox belongs to the user"
    second = tick(bucket, any_lake, instance, result.cursor)
    assert not second.run_requests and "nothing new" in said(second)
    lost = tick(bucket, any_lake, instance, "no json")
    assert lost.run_requests == result.run_requests and len(any_lake.raw_logs()) == 1


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("no_such_truck/a.blf", b"LOGG", "known vehicles: bmw_i3"),
        ("a.blf", b"LOGG", "<inbox>/<vehicle id>/<log>"),
        (f"{VEHICLE}/deeper/a.blf", b"LOGG", "<inbox>/<vehicle id>/<log>"),
        (f"{VEHICLE}/holiday.blf", b"\x89PNG\r\n\x1a\n" + bytes(64), "holiday.blf"),
        (f"{VEHICLE}/empty.blf", b"", "empty"),
    ],
)
def test_what_cannot_be_taken_is_told_once_and_stays(
    bucket: S3Path,
    lake: Lake,
    drive: Path,
    instance: dg.DagsterInstance,
    name: str,
    content: bytes,
    expected: str,
) -> None:
    (bucket / name).write_bytes(content)
    put(drive, bucket)
    first = tick(bucket, lake, instance)
    assert [request.partition_key for request in first.run_requests or []] == [KEY], "others are not held up"
    assert expected in (bucket / f"{name}.refused.txt").read_text()
    assert (bucket / name).read_bytes() == content
    second = tick(bucket, lake, instance, first.cursor)
    third = tick(bucket, lake, instance, second.cursor)
    assert "nothing new" in said(second) and "nothing new" in said(third)


def test_a_refused_log_is_looked_at_again_when_it_is_written_anew(
    bucket: S3Path, lake: Lake, drive: Path
) -> None:
    bad = bucket / VEHICLE / "short.blf"
    bad.write_bytes(b"half a file")
    position = Position()
    assert "short.blf" in next(iter(look(bucket, lake, position).refused))
    put(drive, bucket)
    assert list(look(bucket, lake, position).logs) == [KEY]
    assert not bad.with_name("short.blf.refused.txt").is_file()


def test_a_name_before_the_last_one_is_found_by_going_round(bucket: S3Path, lake: Lake, drive: Path) -> None:
    put(drive, bucket, "z.blf", journal=False)
    position = Position()
    assert len(look(bucket, lake, position).logs) == 1
    assert position.after == {VEHICLE: "z.blf"}
    (bucket / VEHICLE / "a.blf").write_bytes(b"of another kind")
    assert list(look(bucket, lake, position).refused) == [f"{VEHICLE}/a.blf"]
    assert look(bucket, lake, position) == Taken()


def test_a_late_journal_starts_another_run(
    bucket: S3Path, lake: Lake, drive: Path, instance: dg.DagsterInstance
) -> None:
    put(drive, bucket, journal=False)
    first = tick(bucket, lake, instance)
    assert not lake.raw_log(KEY).journal.exists()
    put(drive, bucket)
    second = tick(bucket, lake, instance, first.cursor)
    assert lake.raw_log(KEY).journal.is_file()
    keys = [request.run_key for result in (first, second) for request in result.run_requests or []]
    assert len(set(keys)) == 2
    assert "nothing new" in said(tick(bucket, lake, instance, second.cursor))


def test_a_journal_that_comes_before_its_log_waits_for_it(bucket: S3Path, lake: Lake, drive: Path) -> None:
    source = put(drive, bucket)
    source.unlink()
    position = Position()
    assert look(bucket, lake, position) == Taken()
    put(drive, bucket)
    assert list(look(bucket, lake, position).logs) == [KEY]
    assert lake.raw_log(KEY).journal.is_file()


@pytest.mark.parametrize("suffix", [".tmp", ".part", ".partial", ".crdownload", ".filepart"])
def test_unfinished_names_are_left(bucket: S3Path, lake: Lake, drive: Path, suffix: str) -> None:
    put(drive, bucket, f"short.blf{suffix}", journal=False)
    assert look(bucket, lake) == Taken()


def test_no_time_left_loses_nothing(bucket: S3Path, lake: Lake, drive: Path) -> None:
    put(drive, bucket)
    position = Position()
    spent = look(bucket, lake, position, budget_s=-1.0)
    assert spent.waiting and not spent.logs
    assert list(look(bucket, lake, position).logs) == [KEY]


def test_a_full_disk_is_tried_again(
    bucket: S3Path, lake: Lake, drive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(drive, bucket, journal=False)
    position = Position()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("tspace_pipelines.bucket_inbox.store_one", full)
        taken = look(bucket, lake, position)
    assert "No space left" in taken.refused[f"{VEHICLE}/short.blf"]
    assert not (bucket / VEHICLE / "short.blf.refused.txt").is_file()
    assert list(look(bucket, lake, position).logs) == [KEY]


def test_a_position_survives_its_cursor() -> None:
    position = Position({VEHICLE: "a"}, "b", 1.5, 0.5, 2, {"c": ("tag", 3.0)}, 4)
    assert Position.from_cursor(position.to_cursor()) == position
    for broken in (None, "", "no json", "[1]", '{"after": 3}', '{"recent": {"a": 1}}'):
        assert Position.from_cursor(broken) == Position()


class Requests:
    """Counts pages and keys listed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pages = self.keys = 0
        real = ObjectStore._page

        def page(store: ObjectStore, prefix: str, **arguments: Any) -> dict[str, Any]:
            found = real(store, prefix, **arguments)
            self.pages += 1
            self.keys += len(found.get("Contents", []))
            return found

        monkeypatch.setattr(ObjectStore, "_page", page)


def fill(server: SeaweedServer, bucket: S3Path, count: int) -> Position:
    """So many logs that were dealt with long ago, and the cursor that knows it.

    They are written through the server's own door, some ten times as fast as signed requests.
    """
    names = [f"old-{number:06d}.blf" for number in range(count)]

    def write(mine: list[str]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server._ports["filer.port"], timeout=60)
        with closing(connection):
            for name in mine:
                connection.request("PUT", f"/buckets/{bucket.bucket}/{bucket.key}/{VEHICLE}/{name}", b"")
                answer = connection.getresponse()
                answer.read()
                assert answer.status in (200, 201), answer.status

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, [names[first::4] for first in range(4)]))
    # The server keeps whole seconds, and clocks may be apart: these count as written before.
    later = time.time() + 3600
    return Position({VEHICLE: names[-1]}, "", later, later, 1)


@pytest.fixture
def no_skew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(bucket_inbox, "SKEW_S", 0.0)
    yield


def check_bounded(s3: S3, bucket: S3Path, lake: Lake, drive: Path, count: int, requests: Requests) -> float:
    """Look with many old keys there; return how long the look with a new log took, s."""
    position = fill(s3.server, bucket, count)
    put(drive, bucket, "znew.blf", journal=False)
    begun = time.monotonic()
    taken = look(bucket, lake, position)
    spent = time.monotonic() - begun
    assert [name.rpartition("/")[2] for name in taken.logs] == ["znew.blf"]
    # Folders, the vehicle's keys, the slice, and what storing a log asks for.
    assert requests.pages <= 8 and requests.keys <= SLICE + 10
    requests.pages = requests.keys = 0
    looks = 0
    while position.walk:
        assert look(bucket, lake, position) == Taken()
        looks += 1
    assert looks == -(-(count + 2) // SLICE) - 1 if (count + 2) % SLICE else looks
    assert requests.pages <= 5 * looks and requests.keys <= SLICE * looks
    return spent


def test_a_look_costs_the_same_however_many_old_logs_there_are(
    s3: S3, bucket: S3Path, lake: Lake, drive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_bounded(s3, bucket, lake, drive, 4500, Requests(monkeypatch))


@pytest.mark.slow
def test_a_look_among_100_000_old_logs_takes_less_than_5_s(
    s3: S3, bucket: S3Path, lake: Lake, drive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_bounded(s3, bucket, lake, drive, 100_000, Requests(monkeypatch)) < 5.0
