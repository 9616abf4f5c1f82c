"""Boxes that upload to a real object storage, and the service that answers with links."""

import json
import time

import pytest

from tests.objects.seaweed import S3
from tests.online.stage import wait_until
from tests.twin.cloud.told import PATIENCE_S, Told, code_of, four_rows, get_signal, set_torque
from tspace_core.can.box_window import decode_window
from tspace_core.config import Vehicle, load_site
from tspace_core.objects.store import ObjectStore
from tspace_core.twin.cloud.fleet import UploadFleet, fleet_vins
from tspace_core.twin.cloud.live_cloud import CloudOptions, CloudTwin
from tspace_core.twin.cloud.service import ServiceOptions
from tspace_core.twin.cloud.truck import DriveOptions
from tspace_core.twin.cloud.windows import Place, window_key

FACTOR = 20.0


def options(s3: S3, answer: str = "link", *, record: bool = False) -> CloudOptions:
    # What is recorded without a gap may wait in the truck's ring for an upload: 12 s, not 6.
    return CloudOptions(
        drive=DriveOptions(time_factor=FACTOR / 2 if record else FACTOR),
        service=ServiceOptions(answer="link" if answer == "link" else "body"),
        storage=f"{s3.url}/boxes",
        record=record,
    )


def test_links_and_bodies_are_the_same_window(s3: S3, vehicle: Vehicle, told: Told) -> None:
    store = ObjectStore(s3.bucket)
    zone = load_site(vehicle.site).zone
    with CloudTwin(vehicle, options(s3), told) as twin:
        answer = get_signal(twin.url, vehicle.vin, 2).json()
    assert answer.keys() == {"success", "oss_link"}
    event = told.wait("window")
    key = f"boxes/{window_key(vehicle.vin, event['start_ns'], zone)}"
    assert answer == {"success": True, "oss_link": f"{s3.url}/{key}"}
    linked = decode_window(json.loads(store.get(key)), vehicle, near_ns=time.time_ns(), units=2)
    assert linked.reason == ""
    with CloudTwin(vehicle, options(s3, "body"), told) as twin:
        body = get_signal(twin.url, vehicle.vin, 2).json()
    link = told.wait("window", 2)["link"]
    assert json.loads(store.get(link.removeprefix(f"{s3.url}/"))) == body["result"]
    assert len(list(store.list(f"boxes/{vehicle.vin}/"))) == 2


def test_spoilt_links(s3: S3, vehicle: Vehicle) -> None:
    store = ObjectStore(s3.bucket)

    def ask(fault: str) -> tuple[str, str]:
        twin.fault(fault)
        link = get_signal(twin.url, vehicle.vin, 1).json()["oss_link"]
        bucket, _, key = link.removeprefix("s3://").partition("/")
        return bucket, key

    with CloudTwin(vehicle, options(s3)) as twin:
        bucket, key = ask("nan")
        assert json.loads(store.get(key))["list_speed_1s"][0][7] == "NaN"
        bucket, key = ask("wrong_vin")
        assert vehicle.vin not in key
        assert json.loads(store.get(key))["vin"] != vehicle.vin
        _, key = ask("huge_object,value=5")
        info = store.head(key)
        assert info is not None
        assert info.size > 5_000_000
        began = time.monotonic()
        _, key = ask("late_object,value=1")
        if store.head(key) is None:
            wait_until(lambda: store.head(key) is not None, "the late object")
        assert time.monotonic() - began >= 1.0
        assert decode_window(json.loads(store.get(key)), vehicle, near_ns=time.time_ns()).reason == ""
        bucket, key = ask("missing_object")
        assert (bucket, store.head(key)) == (s3.bucket, None)
        bucket, key = ask("foreign_link")
        assert bucket != s3.bucket
        assert store.head(key) is not None, "it is where it belongs, only the link is wrong"


def test_an_upload_that_fails_is_missing_data(
    s3: S3, vehicle: Vehicle, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "somebody else's")
    with CloudTwin(vehicle, options(s3), told) as twin:
        assert code_of(get_signal(twin.url, vehicle.vin, 1)) == "2002"
        assert set_torque(twin.url, vehicle.vin, four_rows(vehicle).tolist(), 2).json() == {"success": True}
    assert told.wait("upload_failed")["reason"]


def test_windows_that_are_recorded_unasked(s3: S3, vehicle: Vehicle, told: Told) -> None:
    with CloudTwin(vehicle, options(s3, record=True), told) as twin:
        told.wait("window", 3)
        assert get_signal(twin.url, vehicle.vin, 2).json()["success"] is True
        told.wait("window", 7)
    events = sorted(told.named("window"), key=lambda event: int(event["first"]))
    assert [event["asked"] for event in events].count(True) == 1
    ends = 0
    for event in events:
        assert event["first"] >= ends, "no sample is in two windows"
        ends = event["first"] + event["samples"]
    assert events[1]["first"] == events[0]["first"] + 200, "without a gap while nobody asks"
    keys = [info.key for info in ObjectStore(s3.bucket).list("boxes/")]
    assert keys == [event["link"].removeprefix(f"{s3.url}/") for event in events]


def test_many_boxes_upload_realistic_windows(s3: S3, vehicle: Vehicle) -> None:
    vins = fleet_vins(5)
    fleet = UploadFleet(vehicle, vins, 3, drives=2)
    uploaded = fleet.upload(Place(f"{s3.url}/fleet/"))
    assert (uploaded.windows, len(set(uploaded.keys))) == (15, 15)
    store = ObjectStore(s3.bucket)
    for vin in vins:
        infos = list(store.list(f"fleet/{vin}/"))
        assert len(infos) == 3
        before_ns, energy = 0, 0.0
        for info in infos:
            window = decode_window(json.loads(store.get(info.key)), vehicle, near_ns=time.time_ns(), units=4)
            assert window.reason == ""
            assert before_ns < window.time_ns[0] <= window.time_ns[-1] <= time.time_ns()
            assert before_ns == 0 or window.time_ns[0] - before_ns == 20_000_000, "a drive has no gaps"
            before_ns = int(window.time_ns[-1])
            energy += float((window.values[:, 3] * window.values[:, 4]).sum() / 50 / 3600)
        assert energy == pytest.approx(uploaded.energy_wh[vin], abs=0.01)
    assert uploaded.bytes == sum(info.size for info in store.list("fleet/"))
    assert len({round(value, 6) for value in uploaded.energy_wh.values()}) == 2, "two drives were simulated"


def test_a_paced_fleet_keeps_to_its_time(s3: S3, vehicle: Vehicle) -> None:
    uploaded = UploadFleet(vehicle, fleet_vins(4), 2).upload(Place(s3.url), time_factor=10.0)
    # The last box begins 3 s after the first one and uploads its second window 8 s later.
    assert uploaded.seconds >= 1.1
    assert 0.0 < uploaded.latest_s < PATIENCE_S
