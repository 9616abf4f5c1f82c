"""Windows: every sample in one window, every step in one energy, and what makes a window invalid."""

import random
from collections.abc import Iterable

import numpy as np
import pytest

from tests.vehicle.samples import PERIOD_NS, SIGNALS, START_NS, drive_sample, observed, truck
from tspace_core.vehicle.observation import Observation, observation
from tspace_core.vehicle.windows import AHEAD, DUPLICATE, LATE, OUT_OF_ORDER, Window, WindowBuilder


def windows(samples: Iterable[Observation], builder: WindowBuilder | None = None) -> list[Window]:
    """Return the windows that the samples make."""
    used = WindowBuilder(truck()) if builder is None else builder
    return [window for sample in samples if (window := used.push(sample)) is not None]


def test_consecutive_windows_hold_every_sample_once_in_the_order_of_the_state() -> None:
    made = windows(observed(number) for number in range(95))
    assert [window.valid for window in made] == [True] * 3
    for place, window in enumerate(made):
        expected = [
            [drive_sample(number)[name] for name in ("velocity", "thrust", "brake")]
            for number in range(30 * place, 30 * place + 30)
        ]
        np.testing.assert_array_equal(window.samples, np.array(expected, np.float32))
        assert window.samples.dtype == np.float32
        assert window.start_ns == START_NS + 30 * place * PERIOD_NS
        assert window.end_ns == window.start_ns + 29 * PERIOD_NS
        assert window.top_speed_kmh == pytest.approx(max(row[0] for row in expected))


def test_energy_and_distance_are_right_rectangles_and_every_step_counts_once() -> None:
    numbers = np.arange(90)
    made = windows(observed(int(number)) for number in numbers)
    power = [drive_sample(int(n))["voltage"] * drive_sample(int(n))["current"] for n in numbers]
    speed = [drive_sample(int(n))["velocity"] / 3.6 for n in numbers]
    for place, window in enumerate(made):
        # The first sample of all has no step before it.
        steps = slice(max(30 * place, 1), 30 * place + 30)
        assert window.energy_wh == pytest.approx(sum(power[steps]) * 0.05 / 3600)
        assert window.distance_m == pytest.approx(sum(speed[steps]) * 0.05)


def test_any_jitter_of_the_stamps_leaves_the_sums_whole() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    times = [START_NS + n * PERIOD_NS + rng.randint(-20_000_000, 20_000_000) for n in range(300)]
    made = windows(observed(number, time_ns=time) for number, time in enumerate(times))
    assert len(made) == 10
    energy = sum(
        drive_sample(n)["voltage"] * drive_sample(n)["current"] * (times[n] - times[n - 1]) / 1e9 / 3600
        for n in range(1, 300)
    )
    assert sum(window.energy_wh for window in made) == pytest.approx(energy)
    assert all(window.valid for window in made), [window.reason for window in made]


def test_a_bridge_without_stamps_is_timed_by_arrival() -> None:
    made = windows(observed(number, stamped=False) for number in range(60))
    assert [(window.valid, window.start_ns) for window in made] == [
        (True, START_NS),
        (True, START_NS + 30 * PERIOD_NS),
    ]


def test_an_observation_takes_the_bridges_stamp_where_there_is_one() -> None:
    plain = observation(drive_sample(0), SIGNALS, arrived_ns=5)
    stamped = observation(drive_sample(0), SIGNALS, arrived_ns=5, received_ns=6, time_ns=3, seq=1)
    assert (plain.time_ns, plain.stamped, plain.seq) == (5, False, None)
    assert (stamped.time_ns, stamped.stamped, stamped.received_ns) == (3, True, 6)


def test_late_duplicate_and_disordered_samples_are_dropped_and_counted() -> None:
    builder = WindowBuilder(truck())
    samples = [observed(number, seq=number) for number in range(10)]
    disordered = [*samples[:5], samples[3], samples[4], samples[4], *samples[5:]]
    late = observed(10, seq=10, received_ns=START_NS + 10 * PERIOD_NS + 500_000_001)
    ahead = observed(11, seq=11, received_ns=START_NS + 11 * PERIOD_NS - 500_000_001)
    assert windows([*disordered, late, ahead], builder) == []
    assert builder.dropped == {OUT_OF_ORDER: 1, DUPLICATE: 2, LATE: 1, AHEAD: 1}
    made = windows((observed(number, seq=number) for number in range(10, 30)), builder)
    assert [window.valid for window in made] == [True]
    np.testing.assert_array_equal(
        made[0].samples[:, 0],
        np.array([drive_sample(number)["velocity"] for number in range(30)], np.float32),
    )


def test_running_numbers_alone_tell_duplicates_from_samples() -> None:
    builder = WindowBuilder(truck())
    seqs = [5000, 5001, 5001, 5000, 5002, 0, 1]
    for place, seq in enumerate(seqs):
        builder.push(observed(place, seq=seq, stamped=False))
    assert builder.dropped == {DUPLICATE: 1, OUT_OF_ORDER: 1}  # and 0 is a bridge that was started anew


def test_shuffled_and_repeated_samples_never_make_time_run_backwards() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    numbers = sorted(
        (n for n in range(600) for _ in range(rng.choice([0, 1, 1, 1, 2]))),
        key=lambda n: n + rng.uniform(0, 3),
    )
    samples = [
        observed(n, seq=n, received_ns=START_NS + max(n, place) * PERIOD_NS)
        for place, n in enumerate(numbers)
    ]
    builder = WindowBuilder(truck())
    made = windows(samples, builder)
    assert made
    ends = [START_NS - 1]
    for window in (window for window in made if len(window.samples)):
        assert window.start_ns > ends[-1]
        assert window.end_ns >= window.start_ns
        ends.append(window.end_ns)
    used = sum(len(window.samples) for window in made)
    assert used + sum(builder.dropped.values()) <= len(numbers)


@pytest.mark.parametrize(
    ("period_ns", "valid"),
    [(50_000_000, True), (55_000_000, True), (56_000_000, False), (45_500_000, True), (44_500_000, False)],
)
def test_the_rate_must_be_within_its_limits(period_ns: int, valid: bool) -> None:
    made = windows(observed(n, time_ns=START_NS + n * period_ns) for n in range(60))
    assert [window.valid for window in made] == [valid] * 2
    if not valid:
        assert "samples a second" in made[0].reason


def test_one_lost_datagram_in_ten_is_tolerable_and_two_are_not() -> None:
    one = [observed(n, stamped=False) for n in range(66) if n % 11 != 5]
    two = [observed(n, stamped=False) for n in range(72) if n % 6 != 5]
    assert [window.valid for window in windows(one)] == [True, True]
    assert [window.valid for window in windows(two)] == [False, False]


@pytest.mark.parametrize(("gap", "ends"), [(10, []), (11, ["no sample for 0.55 s, the limit is 0.5 s"])])
def test_a_gap_longer_than_ten_periods_ends_the_window_at_once(gap: int, ends: list[str]) -> None:
    made = windows([*(observed(n) for n in range(12)), observed(11 + gap)])
    assert [window.reason for window in made] == ends
    if ends:
        assert len(made[0].samples) == 12
        assert not made[0].valid


def test_after_a_gap_windows_begin_with_the_next_sample_and_no_energy_leads_across() -> None:
    builder = WindowBuilder(truck())
    windows((observed(n) for n in range(40)), builder)
    made = windows((observed(n) for n in range(1000, 1030)), builder)
    assert [window.valid for window in made] == [False, True]
    assert made[1].start_ns == START_NS + 1000 * PERIOD_NS
    fresh = windows(observed(n) for n in range(1000, 1030))
    assert made[1].energy_wh == fresh[0].energy_wh


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"thrust": 100.0}, ""),
        ({"thrust": 100.01}, "thrust is 100.01 %"),
        ({"thrust": -0.01}, "thrust is -0.01 %"),
        ({"brake": 101.0}, "brake is 101 %"),
        ({"thrust": 5.0, "brake": 60.0}, ""),
        ({"thrust": 5.01, "brake": 5.01}, "accelerator 5.01 % and brake 5.01 % together"),
        ({"voltage": 99.0}, "voltage is 99 V, possible is 100 to 1000"),
        ({"voltage": 1001.0}, "voltage is 1001 V"),
        ({"current": -2001.0}, "current is -2001 A"),
        ({"velocity": -1.0}, "velocity is -1 km/h"),
        ({"velocity": 201.0}, "velocity is 201 km/h"),
        ({"velocity": float("nan")}, "velocity is nan"),
    ],
)
@pytest.mark.parametrize("place", [0, 17, 29])
def test_one_implausible_sample_makes_its_window_invalid(
    changed: dict[str, float], reason: str, place: int
) -> None:
    made = windows(observed(n, changed=changed if n == place else {}) for n in range(60))
    assert [window.valid for window in made] == [not reason, True]
    assert made[0].reason.startswith(reason)


def test_a_brake_in_bar_is_judged_by_its_own_range() -> None:
    vehicle = truck()
    in_bar = vehicle.signals["brake"].model_copy(update={"unit": "bar", "valid": (0.0, 250.0)})
    other = vehicle.model_copy(update={"signals": vehicle.signals | {"brake": in_bar}})
    made = windows((observed(n, changed={"brake": 200.0}) for n in range(30)), WindowBuilder(other))
    assert [window.valid for window in made] == [True]


@pytest.mark.parametrize(("errors", "valid"), [(4, True), (5, False)])
def test_five_errors_of_the_running_number_make_a_window_invalid(errors: int, valid: bool) -> None:
    seq = 0
    samples = []
    for number in range(30):
        seq += 2 if number and number <= errors else 1
        samples.append(observed(number, seq=seq))
    builder = WindowBuilder(truck())
    assert [window.valid for window in windows(samples, builder)] == [valid]
    assert builder.lost == errors


def test_a_clock_that_is_set_back_costs_one_window() -> None:
    hour = 3600 * 1_000_000_000
    builder = WindowBuilder(truck())
    windows((observed(n) for n in range(10)), builder)
    made = windows((observed(n, time_ns=START_NS - hour + n * PERIOD_NS) for n in range(30)), builder)
    assert [(window.valid, window.reason) for window in made] == [
        (False, "the clock was set back"),
        (True, ""),
    ]


def test_reset_forgets_what_was_collected() -> None:
    builder = WindowBuilder(truck())
    windows((observed(n, changed={"thrust": 200.0}) for n in range(20)), builder)
    builder.reset()
    made = windows((observed(n) for n in range(5000, 5030)), builder)
    assert [window.valid for window in made] == [True]


def test_a_bridge_whose_clock_is_wrong_makes_invalid_windows_not_silence() -> None:
    hour = 3600 * 1_000_000_000
    made = windows(observed(n, received_ns=START_NS + hour + n * PERIOD_NS) for n in range(60))
    assert [window.reason for window in made] == ["30 samples in a row were dropped, the last one: late"] * 2


def test_no_energy_is_invented_across_a_step_that_is_too_long() -> None:
    vehicle = truck()
    short = vehicle.model_copy(update={"log": vehicle.log.model_copy(update={"max_dt_s": 0.12})})
    samples = [observed(n) for n in range(33) if n not in (10, 11, 12)]  # a step of 0.2 s
    whole, cut = windows(samples)[0], windows(samples, WindowBuilder(short))[0]
    power = drive_sample(13)["voltage"] * drive_sample(13)["current"]
    assert whole.energy_wh - cut.energy_wh == pytest.approx(power * 0.2 / 3600)
