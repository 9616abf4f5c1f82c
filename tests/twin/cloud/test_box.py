"""The truck behind the box: its windows are its drive, rows act on it, and the line to the service heals."""

import itertools
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.link.test_channel_tls import made
from tests.twin.cloud.told import PATIENCE_S, Told, ask, code_of, four_rows, get_signal, hang_up, set_torque
from tspace_core.can.box_window import decode_window
from tspace_core.config import Vehicle
from tspace_core.config.remote import RemoteConfig
from tspace_core.errors import TwinError
from tspace_core.twin.cloud.box import BoxOptions, TelematicsBox
from tspace_core.twin.cloud.live_cloud import CloudOptions, CloudTwin
from tspace_core.twin.cloud.service import RemoteCanService, ServiceOptions
from tspace_core.twin.cloud.truck import CHANNELS, BoxTruck, DriveOptions
from tspace_core.twin.fleet import Fleet
from tspace_core.twin.route import Route, make_route

FACTOR = 20.0


@pytest.fixture(scope="module")
def short() -> Route:
    """Some 150 m of city street."""
    seconds = np.arange(0.0, 41.0)
    speed = np.interp(seconds, [0, 5, 15, 25, 35, 40], [0, 0, 6, 6, 0, 0])
    return make_route("short", seconds, speed)


@contextmanager
def driving(truck: BoxTruck) -> Iterator[None]:
    stopping = threading.Event()
    thread = threading.Thread(target=truck.run, args=(stopping,))
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(PATIENCE_S)
    assert not thread.is_alive()


@contextmanager
def connected(box: TelematicsBox) -> Iterator[None]:
    thread = threading.Thread(target=box.run)
    thread.start()
    try:
        assert box.connected.wait(PATIENCE_S)
        yield
    finally:
        box.stop()
        thread.join(PATIENCE_S)
    assert not thread.is_alive()


def drive_of(vehicle: Vehicle, seconds: float, seed: int = 0) -> NDArray[np.float64]:
    """What the same driver does on the same road, simulated without box and clock."""
    fleet = Fleet(vehicle, "truck_route", ["habitual"], [seed], rate_hz=50.0)
    trace = fleet.advance(seconds)
    return np.stack([np.asarray(trace.signal(name))[0] for name in CHANNELS], axis=-1)


def energy_wh(values: NDArray[np.float64]) -> float:
    return float(np.sum(values[:, 3] * values[:, 4]) / 50.0 / 3600.0)


def test_windows_are_the_trucks_own_drive(vehicle: Vehicle, told: Told) -> None:
    options = CloudOptions(drive=DriveOptions(time_factor=FACTOR))
    with CloudTwin(vehicle, options, told) as twin:
        windows = [get_signal(twin.url, vehicle.vin, 4).json()["result"] for _ in range(5)]
    events = told.named("window")
    assert len(events) == 5
    drive = drive_of(vehicle, 4 + events[-1]["first"] / 50)
    before_ns = 0
    for window, event in zip(windows, events, strict=True):
        decoded = decode_window(window, vehicle, near_ns=time.time_ns(), units=4)
        assert decoded.reason == ""
        own = drive[event["first"] :][:200]
        np.testing.assert_allclose(decoded.values[:, :5], own[:, :5], atol=0.0006)
        np.testing.assert_array_equal(decoded.values[:, 5], own[:, 5])
        assert energy_wh(decoded.values) == pytest.approx(energy_wh(own), abs=0.001)
        assert event["energy_wh"] == pytest.approx(energy_wh(own), abs=1e-9)
        assert decoded.time_ns[0] == pytest.approx(event["start_ns"], abs=1_000_000)
        assert decoded.time_ns[0] >= before_ns
        before_ns = decoded.time_ns[-1]
        for earlier, later in itertools.pairwise(decoded.time_ns.tolist()):
            assert later - earlier == 20_000_000
    assert np.ptp([value for window in windows for unit in window["list_speed_1s"] for value in unit]) > 5


def test_stamps_are_local_time(vehicle: Vehicle, told: Told) -> None:
    with CloudTwin(vehicle, CloudOptions(), told) as twin:
        before_ns = time.time_ns()
        window = get_signal(twin.url, vehicle.vin, 1).json()["result"]
        decoded = decode_window(window, vehicle, near_ns=time.time_ns())
    assert decoded.reason == ""
    # The truck runs in real time here: what comes was driven just now, less than any zone's offset ago,
    # also where a busy machine lets the truck lag behind its clock.
    assert abs(int(decoded.time_ns[0]) - before_ns) / 1e9 < 300.0
    assert int(decoded.time_ns[-1]) <= time.time_ns()


def test_a_box_that_counts_the_other_way_round(vehicle: Vehicle) -> None:
    turned = vehicle.model_copy(update={"remote": RemoteConfig(sign={"current": -1})})
    with CloudTwin(turned, CloudOptions(drive=DriveOptions(time_factor=FACTOR))) as twin:
        window = get_signal(twin.url, vehicle.vin, 4).json()["result"]
    assert window["list_current_1s"][0][0] < 0, "standing, it only uses"
    ours = decode_window(window, turned, near_ns=time.time_ns()).values
    theirs = decode_window(window, vehicle, near_ns=time.time_ns()).values
    np.testing.assert_array_equal(ours[:, 3], -theirs[:, 3])
    assert ours[0, 3] > 0


def test_a_map_without_torque_takes_no_power(vehicle: Vehicle) -> None:
    nothing = np.zeros_like(vehicle.default_map().table)

    def most_kw(truck: BoxTruck) -> float:
        found = truck.collect(20 * 50, threading.Event())
        assert found is not None
        return float((found.values[:, 3] * found.values[:, 4]).max() / 1e3)

    # Not faster: what nobody takes for a second or so would be gone from the truck's ring.
    truck = BoxTruck(vehicle, DriveOptions(time_factor=FACTOR))
    assert truck.state()["page"] == "reference"
    with driving(truck):
        assert truck.flash(0, nothing)
        assert truck.collect(50, threading.Event()) is not None
        assert most_kw(truck) == pytest.approx(3.0, abs=0.1), "the auxiliaries"
        assert truck.flash(0, vehicle.default_map().table)
        assert most_kw(truck) > 20.0
        assert truck.state()["page"] == "reference"


def test_rows_take_effect_after_the_delay(vehicle: Vehicle, told: Told) -> None:
    truck = BoxTruck(vehicle, DriveOptions(time_factor=10.0), told)
    with driving(truck):
        told.wait("map")
        before = truck.count
        assert truck.flash(2, four_rows(vehicle))
        assert truck.count - before >= 10, "0.2 s at 50 Hz"
    flashed = told.named("map")[-1]
    assert (flashed["reason"], flashed["first_row"], flashed["count"]) == ("set_torque", 2, 4)
    assert flashed["rows"][2] == four_rows(vehicle)[0].astype("<f4").tobytes().hex()


def test_the_switch_in_the_middle_of_a_flash(vehicle: Vehicle) -> None:
    slow = vehicle.model_copy(
        update={"twin": vehicle.twin.model_copy(update={"flash_delay_s": 4.0}) if vehicle.twin else None}
    )
    truck = BoxTruck(slow)
    outcomes: list[bool] = []
    with driving(truck):
        thread = threading.Thread(target=lambda: outcomes.append(truck.flash(2, four_rows(vehicle))))
        thread.start()
        while not truck._flashing:
            assert truck.collect(1, threading.Event()) is not None
        truck.set_ai_mode(on=False)
        thread.join(PATIENCE_S)
    assert outcomes == [False]
    assert truck.state()["map_sha256"] == vehicle.default_map().sha256()


def test_a_drive_that_ends_lets_nobody_wait(vehicle: Vehicle, short: Route, told: Told) -> None:
    truck = BoxTruck(vehicle, DriveOptions(cycle=short, repeat=False, time_factor=500.0), told)
    truck.run(threading.Event())
    assert truck.ended
    assert truck.collect(1, threading.Event()) is None
    with pytest.raises(TwinError, match="the drive ended"):
        truck.flash(0, four_rows(vehicle))
    assert [event for event, _ in told.events if event.startswith("drive")] == ["drive_begins", "drive_ends"]


def test_a_flashed_map_drives_the_next_drive_too(vehicle: Vehicle, short: Route, told: Told) -> None:
    truck = BoxTruck(vehicle, DriveOptions(cycle=short, time_factor=500.0), told)
    with driving(truck):
        assert truck.flash(0, np.zeros_like(vehicle.default_map().table))
        sha256 = truck.state()["map_sha256"]
        truck.flash(0, vehicle.default_map().table)
        told.wait("drive_begins", 2)
        assert truck.flash(0, np.zeros_like(vehicle.default_map().table))
        assert truck.state()["map_sha256"] == sha256
        assert not truck._fleet.map(0).table.any()


@pytest.mark.parametrize("factor", [0.0, -1.0, 1001.0])
def test_time_factors_that_make_no_sense(vehicle: Vehicle, factor: float) -> None:
    with pytest.raises(TwinError, match="time factor"):
        BoxTruck(vehicle, DriveOptions(time_factor=factor))


def other_vehicle(vehicle: Vehicle) -> Vehicle:
    return vehicle.model_copy(update={"vin": "TWNREMOTE00000002"})


def test_two_boxes_on_one_service(vehicle: Vehicle) -> None:
    both = [vehicle, other_vehicle(vehicle)]
    trucks = [BoxTruck(each, DriveOptions(seed=seed, time_factor=FACTOR)) for seed, each in enumerate(both)]
    with RemoteCanService(both) as service:
        boxes = [TelematicsBox(truck, service.root) for truck in trucks]
        with driving(trucks[0]), driving(trucks[1]), connected(boxes[0]), connected(boxes[1]):
            answers: dict[str, Any] = {}

            def fetch(vin: str) -> None:
                answers[vin] = get_signal(service.url, vin, 4).json()

            threads = [threading.Thread(target=fetch, args=(each.vin,)) for each in both]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE_S)
            rows = four_rows(vehicle).tolist()
            assert set_torque(service.url, both[1].vin, rows, 2).json() == {"success": True}
            found = ask("GET", f"{service.root}/twin/state").json()["vehicles"]
    assert all(answers[each.vin]["success"] is True for each in both)
    assert [found[each.vin]["page"] for each in both] == ["reference", "live"]
    assert [found[each.vin]["connections_at_once"] for each in both] == [1, 1]


def test_a_box_that_is_gone_and_back(vehicle: Vehicle, told: Told) -> None:
    truck = BoxTruck(vehicle, DriveOptions(time_factor=FACTOR))
    with RemoteCanService([vehicle]) as service, driving(truck):
        assert code_of(get_signal(service.url, vehicle.vin)) == "304"
        rows = four_rows(vehicle).tolist()
        with connected(TelematicsBox(truck, service.root)):
            assert set_torque(service.url, vehicle.vin, rows, 2).json() == {"success": True}
        # A box that says nothing any more may only be between two polls; then it is offline.
        assert code_of(set_torque(service.url, vehicle.vin, rows, 2)) in ("301", "304")
        assert truck.state()["page"] == "live", "nothing brings the reference map back by itself"
        with connected(TelematicsBox(truck, service.root)):
            assert get_signal(service.url, vehicle.vin).json()["success"] is True


def test_a_service_that_is_gone_and_back(vehicle: Vehicle, told: Told) -> None:
    truck = BoxTruck(vehicle, DriveOptions(time_factor=FACTOR))
    service = RemoteCanService([vehicle])
    service.start()
    options = ServiceOptions(port=int(service.root.rpartition(":")[2]))
    with driving(truck), connected(TelematicsBox(truck, service.root, tell=told)):
        told.wait("box_connected", 1)
        rows = four_rows(vehicle).tolist()
        assert set_torque(service.url, vehicle.vin, rows, 2).json() == {"success": True}
        service.stop()
        told.wait("box_lost", 1)
        with RemoteCanService([vehicle], options) as again:
            told.wait("box_connected", 2)
            found = ask("GET", f"{again.root}/twin/state").json()["vehicles"][vehicle.vin]
            assert found["page"] == "live", "the service learns again what is in the vehicle"
            assert get_signal(again.url, vehicle.vin).json()["success"] is True


def test_a_box_that_is_too_slow(vehicle: Vehicle) -> None:
    truck = BoxTruck(vehicle, DriveOptions(time_factor=0.1))
    options = ServiceOptions(signals_margin_s=-0.5, torque_s=0.3)
    with RemoteCanService([vehicle], options) as service:
        rows = four_rows(vehicle).tolist()
        with driving(truck), connected(TelematicsBox(truck, service.root)):
            assert code_of(get_signal(service.url, vehicle.vin, 1)) == "301"
            assert code_of(set_torque(service.url, vehicle.vin, rows, 2)) == "301"


def test_a_caller_who_leaves_ends_its_call(twin: CloudTwin, vehicle: Vehicle) -> None:
    hang_up(twin, "get_signal", {"vin": vehicle.vin, "signal_duration": 60})
    assert get_signal(twin.url, vehicle.vin, 1).json()["success"] is True
    assert twin.state()["calls_now"] == 0


def test_who_may_call(vehicle: Vehicle) -> None:
    secret = "Bearer of good news"
    options = CloudOptions(
        drive=DriveOptions(time_factor=FACTOR), service=ServiceOptions(authorization=secret, base="/api/v1/")
    )
    with CloudTwin(vehicle, options) as twin:
        assert twin.url.endswith("/api/v1")
        for headers in ({}, {"authorization": "Bearer of bad news"}, {"authorization": ""}):
            assert get_signal(twin.url, vehicle.vin, headers=headers).status_code == 401
        assert get_signal(twin.url, vehicle.vin, headers={"authorization": secret}).json()["success"] is True
        assert twin.state()["calls"] == {"get_signal": 1}


def test_a_service_with_tls(vehicle: Vehicle, tmp_path: Path) -> None:
    made(tmp_path, "service", made(tmp_path, "ca", None))
    service = ServiceOptions(certificate=tmp_path / "service.pem", key=tmp_path / "service.key")
    options = CloudOptions(drive=DriveOptions(time_factor=FACTOR), service=service, ca=tmp_path / "ca.pem")
    with CloudTwin(vehicle, options) as twin:
        assert twin.url.startswith("https://")
        trusted = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        assert get_signal(twin.url, vehicle.vin, verify=trusted).json()["success"] is True
        for fault in ("drop", "cut", "lost_answer"):
            twin.fault(fault)
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                get_signal(twin.url, vehicle.vin, verify=trusted)
        assert twin.state()["connected"] is True
        with pytest.raises(httpx.ConnectError):
            get_signal(twin.url, vehicle.vin, verify=True)


def test_options_that_contradict_each_other(vehicle: Vehicle) -> None:
    with pytest.raises(TwinError, match="needs the URL"):
        CloudTwin(vehicle, CloudOptions(part="vehicle"))
    with pytest.raises(TwinError, match="needs the URL"):
        CloudTwin(vehicle, CloudOptions(service_url="http://127.0.0.1:1"))
    with pytest.raises(TwinError, match="--storage"):
        CloudTwin(vehicle, replace(CloudOptions(), record=True))
    with pytest.raises(TwinError, match="no telematics box"):
        CloudTwin(vehicle.model_copy(update={"remote": None}))
    with pytest.raises(TwinError, match="no place in a bucket"):
        CloudTwin(vehicle, CloudOptions(storage="/tmp/windows"))
    with pytest.raises(TwinError, match="have a vin of their own"):
        RemoteCanService([vehicle, vehicle])
    with pytest.raises(TwinError, match="give --storage"):
        TelematicsBox(BoxTruck(vehicle), "http://127.0.0.1:1", BoxOptions(record=True))


def test_a_port_that_is_taken(vehicle: Vehicle, twin: CloudTwin) -> None:
    port = int(twin.url.rpartition(":")[2])
    with pytest.raises(TwinError, match=f"127.0.0.1:{port}"):
        RemoteCanService([vehicle], ServiceOptions(port=port))
