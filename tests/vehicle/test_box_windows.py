"""Windows of a telematics box as the run takes them: what they are worth, and which are not taken."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.vehicle.remote_rig import quick_truck
from tests.vehicle.samples import truck
from tspace_core.can.box_window import SIGNALS, BoxWindow
from tspace_core.config import Vehicle, load_vehicle
from tspace_core.errors import ConfigError
from tspace_core.vehicle.box_windows import BoxWindows, Fetched
from tspace_core.vehicle.plausible import Plausibility
from tspace_core.vehicle.windows import Window

START_NS = 1_760_000_000_000_000_000
PERIOD_NS = 20_000_000
S = 1_000_000_000
USUAL = {"velocity": 36.0, "thrust": 20.0, "brake": 0.0, "current": 100.0, "voltage": 600.0, "gear": 1.0}


def values(count: int = 200, **changed: float) -> NDArray[np.float64]:
    return np.tile(np.array([(USUAL | changed)[name] for name in SIGNALS]), (count, 1))


def box(
    start_ns: int = START_NS, rows: NDArray[np.float64] | None = None, period_ns: int = PERIOD_NS
) -> BoxWindow:
    rows = values() if rows is None else rows
    return BoxWindow(start_ns + period_ns * np.arange(len(rows), dtype=np.int64), rows)


def push(builder: BoxWindows, window: BoxWindow, *, late_s: float = 1.0) -> Window:
    end_ns = int(window.time_ns[-1]) if len(window.time_ns) else START_NS
    return builder.push(Fetched(window, end_ns + round(late_s * 1e9)))


@pytest.fixture
def vehicle() -> Vehicle:
    return load_vehicle("twin_remote")


def test_a_window_is_worth_its_whole_length(vehicle: Vehicle) -> None:
    window = push(BoxWindows(vehicle), box())
    assert window.valid
    assert window.samples.shape == (200, 3)
    assert window.samples.dtype == np.float32
    assert window.energy_wh == pytest.approx(600.0 * 100.0 * 4.0 / 3600.0)
    assert window.distance_m == pytest.approx(10.0 * 4.0)
    assert window.top_speed_kmh == 36.0
    assert (window.start_ns, window.end_ns) == (START_NS, START_NS + 199 * PERIOD_NS)


def test_the_time_up_to_the_first_sample_counts_where_no_sample_can_be_missing(vehicle: Vehicle) -> None:
    builder = BoxWindows(vehicle)
    push(builder, box())
    near = push(builder, box(START_NS + 4 * S + S // 2))
    assert near.energy_wh == pytest.approx(600.0 * 100.0 * 4.5 / 3600.0)
    far = push(builder, box(START_NS + 20 * S))
    assert far.energy_wh == pytest.approx(600.0 * 100.0 * 4.0 / 3600.0)
    builder.reset()
    other_episode = push(builder, box(START_NS + 24 * S))
    assert other_episode.energy_wh == pytest.approx(600.0 * 100.0 * 4.0 / 3600.0)


def test_current_that_flows_back_is_energy_won(vehicle: Vehicle) -> None:
    window = push(BoxWindows(vehicle), box(rows=values(current=-50.0)))
    assert window.energy_wh == pytest.approx(-600.0 * 50.0 * 4.0 / 3600.0)


@pytest.mark.parametrize(
    ("late_s", "reason"),
    [(-4.9, ""), (-5.5, "ahead of our clock, at most 5 s"), (59.0, ""), (61.0, "61.0 s ago, at most 60 s")],
)
def test_stamps_of_the_future_and_the_past_make_a_window_invalid(
    vehicle: Vehicle, late_s: float, reason: str
) -> None:
    window = push(BoxWindows(vehicle), box(), late_s=late_s)
    assert window.valid == (not reason)
    assert reason in window.reason


def test_a_stamp_ahead_does_not_make_the_windows_after_it_old(vehicle: Vehicle) -> None:
    builder = BoxWindows(vehicle)
    assert not push(builder, box(START_NS + 3600 * S), late_s=-3600.0).valid
    assert push(builder, box()).valid


def test_a_repeated_and_an_overlapping_window_are_not_taken(vehicle: Vehicle) -> None:
    builder = BoxWindows(vehicle)
    assert push(builder, box()).valid
    assert "repeated" in push(builder, box()).reason
    assert "begins 1.98 s before the end of the last one" in push(builder, box(START_NS + 2 * S)).reason
    builder.reset()
    assert "repeated" in push(builder, box()).reason, "also by the next episode"
    assert push(builder, box(START_NS + 4 * S)).valid


def test_stamps_of_two_digits_overlap_by_less_than_a_sample(vehicle: Vehicle) -> None:
    builder = BoxWindows(vehicle)
    assert push(builder, box()).valid
    assert push(builder, box(START_NS + 4 * S - 10_000_000)).valid


@pytest.mark.parametrize("period_ns", [15_000_000, 23_000_000])
def test_a_clock_that_runs_wrong_makes_a_window_invalid(vehicle: Vehicle, period_ns: int) -> None:
    assert "samples a second, expected 50" in push(BoxWindows(vehicle), box(period_ns=period_ns)).reason


def test_an_undecodable_window_has_no_samples_and_a_reason(vehicle: Vehicle) -> None:
    builder = BoxWindows(vehicle)
    window = builder.push(Fetched(BoxWindow(np.empty(0, np.int64), np.empty((0, 6)), "no units"), START_NS))
    assert (window.valid, window.reason, window.samples.shape) == (False, "no units", (0, 3))
    assert (builder.seen.valid, builder.seen.reason) == (False, "no units")


def test_what_was_seen_last_is_the_last_sample(vehicle: Vehicle) -> None:
    builder = BoxWindows(vehicle)
    rows = values()
    rows[-1, :3] = (12.0, 0.0, 40.0)
    push(builder, box(rows=rows))
    seen = builder.seen
    assert (seen.velocity_kmh, seen.thrust_percent, seen.brake_percent, seen.valid) == (12.0, 0.0, 40.0, True)
    assert seen.at_ns == START_NS + 199 * PERIOD_NS


def test_a_vehicle_without_a_box_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"twin_truck.*no `remote:` section"):
        BoxWindows(truck())


NUMBERS = st.one_of(
    st.floats(-10.0, 1100.0),
    st.sampled_from([0.0, 5.0, 100.0, 100.5, 200.0, 201.0, -0.1, float("nan"), float("inf"), -2000.0]),
)


@given(st.lists(st.tuples(*[NUMBERS] * len(SIGNALS)), min_size=1, max_size=6))
def test_many_samples_are_judged_as_one_after_the_other(rows: list[tuple[float, ...]]) -> None:
    judge = Plausibility(load_vehicle("twin_remote"), SIGNALS)
    table = np.array(rows, np.float64)
    reasons = [judge.reason(row) for row in table]
    assert judge.first_reason(table) == next((reason for reason in reasons if reason is not None), None)


@given(st.integers(0, 199), st.sampled_from(["velocity", "thrust", "current"]))
def test_one_wrong_sample_is_found_wherever_it_is(place: int, name: str) -> None:
    rows = values()
    rows[place, SIGNALS.index(name)] = 5000.0
    window = push(BoxWindows(load_vehicle("twin_remote")), box(rows=rows))
    assert name in window.reason
    assert "5000" in window.reason


def test_windows_of_a_short_vehicle_are_short() -> None:
    assert push(BoxWindows(quick_truck()), box(rows=values(50))).samples.shape == (50, 3)
