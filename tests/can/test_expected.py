"""Signals of every published log and trip against figures that straight loops of other libraries computed."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tspace_core.can.dbc import load_database
from tspace_core.can.readers import detect_format, open_log
from tspace_core.can.report import ReadReport
from tspace_core.can.samples import Samples
from tspace_core.can.signals import SignalExtractor
from tspace_core.can.trip_table import read_trip_table
from tspace_core.config import load_vehicle

LEAF = {
    "voltage": ("hv_voltage_V", 1.0),
    "current": ("hv_current_A", -1.0),
    "torque_request": ("torque_request_Nm", 1.0),
    "motor_torque": ("motor_torque_Nm", 1.0),
    "motor_speed": ("motor_rpm", 1.0),
    "gear": ("gear_raw", 1.0),
    "velocity": ("speed_kmh", 1.0),
}
IONIQ = {
    "thrust": ("accel_pedal_raw", 100 / 254),
    "brake": ("brake_pedal_force_raw", 0.1),
    "velocity": ("speed_kmh", 1.0),
    "voltage": ("hv_voltage_V", 1.0),
    "current": ("hv_current_A", 1.0),
}
BMW = {
    "velocity": ("speed_kmh", 1.0),
    "thrust": ("accel_pedal_pct", 1.0),
    "motor_torque": ("motor_torque_Nm", 1.0),
    "brake": ("regen_flag", 100.0),
    "voltage": ("hv_voltage_V", 1.0),
    "current": ("hv_current_A", -1.0),
    "soc": ("soc_pct", 1.0),
    "elevation": ("elevation_m", 1.0),
}
WITH_BRAKE = {**LEAF, "brake": ("brake_pressed", 100.0)}

LOGS = {
    "can/leaf_gen1/leaf_on_Driveincircle_off.txt": ("leaf_gen1", WITH_BRAKE),
    "can/leaf_gen1/leaf_on_revnorm_dnorm_off.txt": ("leaf_gen1", WITH_BRAKE),
    "can/leaf_gen1/leaf_on_wotind_off.txt": ("leaf_gen1", WITH_BRAKE),
    "can/leaf_gen1/leafon_reverse10m_stop_leafoff.csv": ("leaf_gen1", WITH_BRAKE),
    "can/derived/leaf_on_wotind_off.asc": ("leaf_gen1", WITH_BRAKE),
    "can/derived/leaf_on_wotind_off.blf": ("leaf_gen1", WITH_BRAKE),
    "can/derived/leaf_on_wotind_off.log": ("leaf_gen1", WITH_BRAKE),
    "can/leaf_eplus62/EV-CANepluseco.log": ("leaf_eplus62", LEAF),
    "can/ioniq28/IONIQ_PCAN_leave_car_while_drive_ready_beep.csv": ("ioniq28", IONIQ),
}
TRIPS = [f"trips_bmw_i3/Trip{name}.csv" for name in ("A01", "A13", "A24", "B11", "B13")]


def expected_of(shared_data: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((shared_data / "expected.json").read_text())
    figures: dict[str, Any] = content["files"][name]
    return figures


def extract(path: Path, vehicle_id: str, report: ReadReport, max_frames: int) -> dict[str, Samples]:
    vehicle = load_vehicle(vehicle_id)
    extractor = SignalExtractor(vehicle, load_database(vehicle.dbc_files()), report)
    parts = [extractor.extract(batch) for batch in open_log(path, report).batches(max_frames)]
    return {name: Samples.concat(part[name] for part in parts) for name in vehicle.signals}


def check(samples: dict[str, Samples], names: dict[str, tuple[str, float]], figures: dict[str, Any]) -> None:
    assert set(figures) == {theirs for theirs, _ in names.values()}, "every figure there is gets compared"
    for ours, (theirs, factor) in names.items():
        value, wanted = samples[ours].value, figures[theirs]
        low, high = sorted((wanted["min"] * factor, wanted["max"] * factor))
        assert len(value) == wanted["count"], ours
        found = (value.min(), value.max(), float(np.mean(value)))
        for got, want in zip(found, (low, high, wanted["mean"] * factor), strict=True):
            assert math.isclose(got, want, rel_tol=1e-12, abs_tol=1e-12), (ours, found)


@pytest.mark.parametrize("name", LOGS)
def test_log(shared_data: Path, name: str) -> None:
    vehicle_id, names = LOGS[name]
    figures = expected_of(shared_data, name)
    report = ReadReport()
    samples = extract(shared_data / name, vehicle_id, report, 1 << 20)
    check(samples, names, figures["signals"])
    sentinels = 2 * figures.get("invalid_1DB_frames", 0) + figures.get("invalid_rpm_frames", 0)
    assert report.dropped.get("sentinel", 0) == sentinels
    assert set(report.dropped) <= {"sentinel"}, report.messages


def test_batches_do_not_matter(shared_data: Path) -> None:
    path = shared_data / "can/leaf_gen1/leafon_reverse10m_stop_leafoff.csv"
    whole, cut = ReadReport(), ReadReport()
    one = extract(path, "leaf_gen1", whole, 1 << 20)
    many = extract(path, "leaf_gen1", cut, 777)
    for name, samples in one.items():
        assert np.array_equal(samples.time, many[name].time)
        assert np.array_equal(samples.value, many[name].value)
    assert whole.dropped == cut.dropped


@pytest.mark.parametrize("name", TRIPS)
def test_trip(shared_data: Path, name: str) -> None:
    figures = expected_of(shared_data, name)
    report = ReadReport()
    path = shared_data / name
    assert detect_format(path) == "trip_table"
    table = read_trip_table(path, load_vehicle("bmw_i3"), report)
    assert table.rows == figures["rows"]
    assert len(table.columns) == figures["columns"] == len(set(table.columns))
    assert (table.time[0] / 1e9, table.time[-1] / 1e9) == (figures["t_first"], figures["t_last"])
    check(table.samples, BMW, figures["signals"])
    missing = figures["rows"] - figures["signals"]["soc_pct"]["count"]
    assert report.dropped == ({"empty_cell": missing} if missing else {}), report.messages
