"""Windows, heartbeats and the driver, dense around each limit."""

import numpy as np
import pytest

from tests.guard.vehicles import limited
from tspace_core.config import load_vehicle
from tspace_core.guard.state import VehicleState
from tspace_core.guard.supervision import Supervision

MS = 1_000_000
START = 10_000 * MS


def watching(**limits: float) -> Supervision:
    watch = Supervision(limited(load_vehicle("twin_truck"), **limits))
    watch.begin(START)
    return watch


def window(
    watch: Supervision, number: int, samples: int = 30, errors: int = 0, thrust_percent: float = 30.0
) -> str | None:
    """One window of 1.5 s with so many samples, evenly spread; what the window's end says."""
    begin = START + number * 1500 * MS
    for index in range(samples):
        at = begin + round((index + 0.5) * 1500 * MS / samples)
        new = errors if index == 0 else 0
        watch.observe(VehicleState(45.0, thrust_percent, 0.0, at, counter_errors=new), at)
    return watch.windows(begin + 1500 * MS)


@pytest.mark.parametrize(("samples", "valid"), [(30, True), (27, True), (26, False), (0, False)])
def test_a_window_below_90_percent_of_its_rate_is_invalid(samples: int, valid: bool) -> None:
    watch = watching(invalid_windows=1)
    assert (window(watch, 0, samples) is None) == valid


@pytest.mark.parametrize(("errors", "valid"), [(0, True), (4, True), (5, False)])
def test_five_counter_errors_make_a_window_invalid(errors: int, valid: bool) -> None:
    assert (window(watching(invalid_windows=1), 0, errors=errors) is None) == valid


def test_counter_errors_are_counted_a_window() -> None:
    watch = watching(invalid_windows=1)
    assert [window(watch, number, errors=4) for number in range(4)] == [None] * 4


def test_three_invalid_windows_in_a_row() -> None:
    watch = watching()
    assert window(watch, 0, thrust_percent=np.nan) is None
    assert window(watch, 1, thrust_percent=np.nan) is None
    assert window(watch, 2) is None
    assert window(watch, 3, thrust_percent=np.nan) is None
    assert window(watch, 4, thrust_percent=np.nan) is None
    cause = window(watch, 5, thrust_percent=np.nan)
    assert cause is not None
    assert "3 invalid windows" in cause
    assert "thrust" in cause


def test_windows_that_nobody_filled_count_when_the_time_is_over() -> None:
    watch = watching()
    assert watch.windows(START + 4499 * MS) is None
    assert watch.windows(START + 4500 * MS) is not None


def test_a_long_sleep_ends_at_once_and_not_after_as_many_windows() -> None:
    watch = watching()
    assert watch.windows(START + 10**18) is not None


@pytest.mark.parametrize(("gap_ms", "valid"), [(500, True), (501, False)])
def test_a_gap_of_more_than_ten_periods_makes_a_window_invalid(gap_ms: int, valid: bool) -> None:
    watch = watching(invalid_windows=1)
    at = START
    for step in [gap_ms] + [30] * 32:
        at += step * MS
        watch.observe(VehicleState(45.0, 30.0, 0.0, at), at)
    assert (watch.windows(START + 1500 * MS) is None) == valid


@pytest.mark.parametrize(("age_ms", "valid"), [(0, True), (500, True), (501, False), (-1, False)])
def test_samples_older_than_ten_periods_make_a_window_invalid(age_ms: int, valid: bool) -> None:
    watch = watching(invalid_windows=1)
    for index in range(30):
        at = START + (50 * index + 25) * MS
        watch.observe(VehicleState(45.0, 30.0, 0.0, at - age_ms * MS), at)
    assert (watch.windows(START + 1500 * MS) is None) == valid


@pytest.mark.parametrize(
    ("silent_ms", "late", "lost"),
    [(0, False, False), (499, False, False), (500, True, False), (1999, True, False), (2000, True, True)],
)
def test_heartbeat(silent_ms: int, late: bool, lost: bool) -> None:
    watch = watching()
    watch.heartbeat(START + 100 * MS)
    now = START + (100 + silent_ms) * MS
    assert (watch.agent_late(now) is not None) == late
    assert (watch.agent_lost(now) is not None) == lost


@pytest.mark.parametrize(("brake", "override"), [(59.9, False), (60.0, False), (60.1, True), (100.0, True)])
def test_the_driver_overrides_beyond_the_limit(brake: float, override: bool) -> None:
    watch = watching(override_brake_percent=60.0)
    cause = watch.observe(VehicleState(45.0, 0.0, brake, START), START)
    assert (cause is not None) == override


def test_a_brake_that_cannot_be_read_is_no_override() -> None:
    watch = watching(override_brake_percent=60.0)
    state = VehicleState(45.0, 0.0, 90.0, START, valid=False, reason="stale")
    assert watch.observe(state, START) is None


def test_word_that_comes_late_makes_the_agent_no_younger_and_no_older() -> None:
    watch = watching()
    watch.heartbeat(START + 1000 * MS)
    watch.heartbeat(START + 500 * MS)
    assert watch.agent_late(START + 1250 * MS) is None
    assert watch.agent_late(START + 1500 * MS) is not None
    assert watch.agent_lost(START + 3000 * MS) is not None
