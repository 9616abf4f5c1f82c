"""The histogram against numpy's quantiles."""

import math

import numpy as np
import pytest

from tspace_core.online.latency import LatencyHistogram


@pytest.mark.parametrize("seed", range(3))
def test_quantiles_are_numpys_within_a_bin(seed: int) -> None:
    values = np.random.default_rng(seed).lognormal(math.log(1e-3), 1.0, 5000)
    histogram = LatencyHistogram()
    for value in values:
        histogram.add(float(value))
    for share in (0.5, 0.9, 0.99):
        exact = float(np.quantile(values, share, method="inverted_cdf"))
        assert exact <= histogram.quantile_s(share) <= exact * 10 ** (1 / 50) * 1.0001, (seed, share)
    assert histogram.quantile_s(1.0) == histogram.largest_s == values.max()
    assert len(histogram) == 5000


def test_without_durations_there_is_nothing_to_say() -> None:
    assert math.isnan(LatencyHistogram().quantile_s(0.5))
    assert LatencyHistogram().summary_ms() == {"count": 0.0}


def test_what_lies_beyond_the_bins_is_counted() -> None:
    histogram = LatencyHistogram()
    for value in (0.0, 1e-9, 1e3):
        histogram.add(value)
    assert len(histogram) == 3
    assert histogram.summary_ms()["max"] == 1e6
    assert histogram.quantile_s(0.5) == pytest.approx(1e-5, rel=0.05)
