"""Keys and places of windows, and a truck that stood still."""

import threading
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from tests.twin.cloud.told import PATIENCE_S, Told
from tspace_core.can.box_window import SIGNALS
from tspace_core.config import Vehicle
from tspace_core.errors import TwinError
from tspace_core.twin.cloud import truck as truck_module
from tspace_core.twin.cloud.truck import CHANNELS, BoxTruck, DriveOptions, Samples
from tspace_core.twin.cloud.windows import BoxWindows, Place, window_key

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    "instant,key",
    [
        ("2026-01-05T07:08:09.123", "2026/01/05/080809123"),
        ("2026-07-05T07:08:09.9999", "2026/07/05/090809999"),
        ("2025-12-31T23:00:00.000", "2026/01/01/000000000"),
    ],
)
def test_keys_show_the_vehicles_local_time(instant: str, key: str) -> None:
    time = datetime.fromisoformat(instant).replace(tzinfo=UTC)
    ns = int(time.timestamp()) * 1_000_000_000 + time.microsecond * 1000
    assert window_key("VIN", ns, BERLIN) == f"VIN/{key}.json"


def test_the_box_sends_what_the_contract_names() -> None:
    assert CHANNELS == SIGNALS


def test_a_box_rounds_and_may_send_strings(vehicle: Vehicle) -> None:
    values = np.full((50, 6), 1.23456)
    window = BoxWindows(vehicle, as_strings=True).encode(Samples(values, 0))
    assert window["list_speed_1s"] == [["1.235"] * 50]
    assert window["list_gears"] == [["1.235"] * 2]


@pytest.mark.parametrize(
    "url,prefix",
    [("s3://bucket", ""), ("s3://bucket/", ""), ("s3://bucket/a/b/", "a/b/"), ("s3://b/a", "a/")],
)
def test_places_in_buckets(url: str, prefix: str) -> None:
    place = Place(url)
    assert place.prefix == prefix
    assert place.link("VIN/x.json") == f"s3://{place.store.bucket}/{prefix}VIN/x.json"


@pytest.mark.parametrize("url", ["", "bucket", "/tmp/x", "s3://", "s3:///x", "http://bucket/x"])
def test_places_that_are_none(url: str) -> None:
    with pytest.raises(TwinError, match="no place in a bucket"):
        Place(url)


def test_a_truck_that_stood_still(vehicle: Vehicle, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a suspended machine: the clock goes on, the window in progress is lost, the next is whole."""
    truck = BoxTruck(vehicle, DriveOptions(), told)
    stopping, never = threading.Event(), threading.Event()
    driving = threading.Thread(target=truck.run, args=(stopping,))
    driving.start()
    found: list[Samples | None] = []
    try:
        before = truck.collect(5, never)
        begin = truck.count
        collecting = threading.Thread(target=lambda: found.append(truck.collect(150, never, begin)))
        collecting.start()
        while not truck.count > 10:
            assert truck.collect(1, never) is not None
        # Only now: a busy machine holds the truck up longer than that at any other time, too.
        with truck._changed, monkeypatch.context() as patch:
            patch.setattr(truck_module, "LONGEST_LAG_S", 0.5)
            never.wait(1.0)
            truck._changed.wait_for(lambda: truck._oldest > 0, PATIENCE_S)
        told.wait("late")
        collecting.join(PATIENCE_S)
        after = truck.collect(5, never)
    finally:
        stopping.set()
        driving.join(PATIENCE_S)
    assert found == [None]
    assert before is not None
    assert after is not None
    stood_s = (after.start_ns - before.start_ns) / 1e9 - (after.first - before.first) / 50
    assert stood_s == pytest.approx(sum(event["seconds"] for event in told.named("late")), abs=0.001)
