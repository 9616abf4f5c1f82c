"""Real logs against figures that independent loops computed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.can.logs import read_all
from tspace_core.can.frames import UNKNOWN_BUS, FrameFlag
from tspace_core.can.segments import SegmentCounter

LOGS = [
    "can/derived/leaf_on_wotind_off.asc",
    "can/derived/leaf_on_wotind_off.blf",
    "can/derived/leaf_on_wotind_off.log",
    "can/ioniq28/IONIQ_PCAN_leave_car_while_drive_ready_beep.csv",
    "can/leaf_eplus62/EV-CANepluseco.log",
    "can/leaf_gen1/leaf_on_Driveincircle_off.txt",
    "can/leaf_gen1/leaf_on_revnorm_dnorm_off.txt",
    "can/leaf_gen1/leaf_on_wotind_off.txt",
    "can/leaf_gen1/leafon_reverse10m_stop_leafoff.csv",
]
CONFORMANCE = [
    "logfile.asc",
    "logfile_errorframes.asc",
    "single_frame_us_locale.asc",
    "test_CanFdMessage.blf",
    "test_CanMessage.asc.gz",
    "test_CanMessage.blf",
    "test_CanMessage_V1_1.trc",
    "test_CanMessage_V2_1.trc",
]


def figures(shared_data: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((shared_data / "expected.json").read_text())["files"][name]
    return found


@pytest.mark.parametrize("name", LOGS)
def test_log(shared_data: Path, name: str) -> None:
    wanted = figures(shared_data, name)
    batch, report = read_all(shared_data / name, max_frames=10_000)
    assert report.dropped == {}
    assert len(batch) == wanted["frames"]
    seconds = {
        "t_first": batch.time[0],
        "t_last": batch.time[-1],
        "t_min": batch.time.min(),
        "t_max": batch.time.max(),
    }
    assert {key: value / 1e9 for key, value in seconds.items()} == pytest.approx(
        {key: wanted[key] for key in seconds}, abs=1e-9
    )
    assert len(np.unique(batch.id)) == wanted["distinct_ids"]
    names = {str(number): text for text, number in report.buses.items()}
    numbers, counts = np.unique(batch.bus, return_counts=True)
    per_bus = {
        names.get(str(bus), str(bus)): count for bus, count in zip(numbers, counts.tolist(), strict=True)
    }
    assert per_bus == wanted["frames_per_bus"]
    segments = SegmentCounter(gap_s=5.0)
    assigned = segments.assign(batch.time)
    assert segments.backward_steps == wanted["backward_steps"]
    assert segments.longest_gap_s == pytest.approx(wanted["largest_forward_gap_s"], abs=1e-9)
    assert int(assigned[-1]) == wanted["backward_steps"]


@pytest.mark.parametrize("name", CONFORMANCE)
def test_conformance_file(shared_data: Path, name: str) -> None:
    wanted = figures(shared_data, f"conformance_python_can/{name}")
    batch, report = read_all(shared_data / "conformance_python_can" / name)
    assert report.dropped == {}
    assert len(batch) == wanted["frames"]
    assert batch.time[0] / 1e9 == pytest.approx(wanted["t_first"], abs=1e-6)
    assert batch.time[-1] / 1e9 == pytest.approx(wanted["t_last"], abs=1e-6)
    for key, flag in {
        "fd_frames": FrameFlag.FD,
        "error_frames": FrameFlag.ERROR,
        "remote_frames": FrameFlag.REMOTE,
        "extended_frames": FrameFlag.EXTENDED,
    }.items():
        assert np.count_nonzero(batch.flags & int(flag)) == wanted[key], key
    no_error = (batch.flags & int(FrameFlag.ERROR)) == 0
    assert np.unique(batch.id[no_error]).tolist() == wanted["ids"]


def test_channel_beyond_the_bus_numbers_is_unknown(shared_data: Path) -> None:
    batch, _ = read_all(shared_data / "conformance_python_can/test_CanMessage.blf")
    assert batch.bus.tolist() == [UNKNOWN_BUS] * 2


def test_one_drive_in_four_containers_holds_the_same_frames(shared_data: Path) -> None:
    names = ["can/leaf_gen1/leaf_on_wotind_off.txt"] + [
        f"can/derived/leaf_on_wotind_off.{ending}" for ending in ("log", "asc", "blf")
    ]
    first, *others = (read_all(shared_data / name)[0] for name in names)
    for other in others:
        np.testing.assert_array_equal(other.id, first.id)
        np.testing.assert_array_equal(other.payload, first.payload)
        np.testing.assert_array_equal(other.length, first.length)
        shift = other.time - first.time
        assert np.ptp(shift) <= 1000
