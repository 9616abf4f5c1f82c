"""Energy on native samples against a plain loop, however the samples are cut into pushes."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tspace_core.can.samples import Samples
from tspace_core.errors import RecordError
from tspace_core.records.energy import EnergyMeter, Integral

NS = 10**9


def samples(*pairs: tuple[float, float]) -> Samples:
    return Samples(
        np.array([round(t * NS) for t, _ in pairs], np.int64), np.array([v for _, v in pairs], np.float64)
    )


def plain_energy_wh(voltage: Samples, current: Samples, max_dt_s: float) -> float:
    """The definition, as a loop: newest voltage not after the stamp and not older than max_dt."""
    total, before = 0.0, None
    for time, ampere in zip(current.time.tolist(), current.value.tolist(), strict=True):
        known = [v for t, v in zip(voltage.time.tolist(), voltage.value.tolist(), strict=True) if t <= time]
        stamps = [t for t in voltage.time.tolist() if t <= time]
        if not known or time - stamps[-1] > round(max_dt_s * NS):
            continue
        if before is not None and 0 < time - before <= round(max_dt_s * NS):
            total += known[-1] * ampere * (time - before) / NS
        before = time
    return total / 3600.0


def test_right_rectangle_by_hand() -> None:
    meter = EnergyMeter(1.0)
    meter.push(samples((0, 400), (1, 360)), samples((0, 9), (1, 10), (2, -20), (9, 5)))
    # 360 V * 10 A * 1 s + 360 V * -20 A * 1 s; at 9 s the voltage is 8 s old: that sample is left out.
    assert meter.total_wh == pytest.approx((3600 - 7200) / 3600)
    assert meter.skipped == 1


def test_steps_longer_than_the_limit_and_repeated_stamps_add_nothing() -> None:
    meter = EnergyMeter(1.0)
    volts = samples(*[(t / 2, 100) for t in range(20)])
    meter.push(volts, samples((0, 36), (0, 72), (1, 36), (2.5, 36), (3, 36)))
    assert meter.total_wh == pytest.approx((3600 * 1 + 3600 * 0.5) / 3600)
    assert meter.covered_s(np.array([round(3 * NS)]))[0] == pytest.approx(1.5)


def test_current_before_any_voltage_is_left_out_and_counted() -> None:
    meter = EnergyMeter(1.0)
    meter.push(samples((1, 100)), samples((0, 5), (0.5, 5), (1, 36), (1.5, 36)))
    assert meter.skipped == 2
    assert meter.total_wh == pytest.approx(100 * 36 * 0.5 / 3600)


def test_nothing_is_summed_across_segments() -> None:
    meter = EnergyMeter(1.0)
    meter.push(samples((5, 100)), samples((5, 36), (5.5, 36)), segment=0)
    meter.push(samples((0, 100)), samples((0.2, 36), (0.7, 36)), segment=1)
    assert meter.total_wh == pytest.approx(2 * 0.5)


def test_a_backward_step_within_a_segment_is_refused() -> None:
    meter = EnergyMeter(1.0)
    with pytest.raises(RecordError, match="cut the log into segments"):
        meter.push(samples((0, 1)), samples((1, 1), (0.5, 1)))
    integral = Integral(1.0)
    integral.push(np.array([5 * NS]), np.array([1.0]))
    with pytest.raises(RecordError, match="cut the log into segments"):
        integral.push(np.array([4 * NS]), np.array([1.0]))


def test_a_limit_that_is_not_positive_is_refused() -> None:
    with pytest.raises(RecordError, match="max_dt_s"):
        EnergyMeter(0.0)


def test_cumulative_energy_is_linear_between_samples() -> None:
    meter = EnergyMeter(1.0)
    meter.push(samples((0, 100), (1, 100)), samples((0, 36), (1, 36)))
    meter.settle()
    at = np.array([-1, 0, 0.25, 1, 5]) * NS
    assert meter.at(at.astype(np.int64)) == pytest.approx([0, 0, 0.25, 1, 1])


streams = st.lists(
    st.tuples(
        st.integers(0, 700_000_000),
        st.sampled_from(["voltage", "current", "both", "both_current_first"]),
        st.floats(-500, 500),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(streams, st.lists(st.integers(0, 60), max_size=6))
def test_total_is_the_definition_and_does_not_depend_on_the_cuts(
    stream: list[tuple[int, str, float]], cuts: list[int]
) -> None:
    log: list[tuple[int, str, float]] = []
    now = 0
    for step, kind, value in stream:
        now += step
        order = {"both": ("voltage", "current"), "both_current_first": ("current", "voltage")}
        log += [(now, name, value + 400 * (name == "voltage")) for name in order.get(kind, (kind,))]

    def run(bounds: list[int]) -> tuple[EnergyMeter, np.ndarray]:
        meter = EnergyMeter(0.5)
        for start, stop in itertools.pairwise(bounds):
            part = log[start:stop]
            both = [
                Samples(
                    np.array([t for t, n, _ in part if n == name], np.int64),
                    np.array([v for _, n, v in part if n == name], np.float64),
                )
                for name in ("voltage", "current")
            ]
            meter.push(both[0], both[1])
        total = meter.total_wh
        meter.settle()
        assert meter.total_wh == total
        return meter, meter.at(np.arange(0, now + NS, 130_000_000))

    whole, at_whole = run([0, len(log)])
    parts, at_parts = run(sorted({0, len(log), *(min(cut, len(log)) for cut in cuts)}))
    assert parts.total_wh == whole.total_wh
    assert parts.skipped == whole.skipped
    assert np.array_equal(at_parts, at_whole)

    last = {name: {t: v for t, n, v in log if n == name} for name in ("voltage",)}["voltage"]
    volts = Samples(np.array(list(last), np.int64), np.array(list(last.values()), np.float64))
    amps = [(t, v) for t, n, v in log if n == "current"]
    current = Samples(np.array([t for t, _ in amps], np.int64), np.array([v for _, v in amps], np.float64))
    assert math.isclose(whole.total_wh, plain_energy_wh(volts, current, 0.5), rel_tol=1e-9, abs_tol=1e-9)
