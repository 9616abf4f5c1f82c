import numpy as np
import pytest

from tspace_core.evaluation.statistics import (
    Interval,
    cluster_bootstrap_interval,
    signed,
    student_t_interval,
    student_t_quantile,
)


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (14, 2.145), (30, 2.042)],
)
def test_quantiles_are_those_of_the_printed_tables(degrees: int, quantile: float) -> None:
    assert student_t_quantile(0.975, degrees) == pytest.approx(quantile, abs=5e-4)


def test_interval_of_numbers_computed_by_hand() -> None:
    # mean 3, standard deviation sqrt(2.5), standard error sqrt(0.5), t(0.975, 4) = 2.776445
    interval = student_t_interval([1, 2, 3, 4, 5])
    assert interval is not None
    assert interval.low is not None
    assert interval.high is not None
    assert interval.mean == 3
    assert interval.high - 3 == pytest.approx(2.776445 * 0.5**0.5, rel=1e-6)
    assert 3 - interval.low == pytest.approx(interval.high - 3)
    assert interval.count == 5
    assert interval.above_zero
    assert not interval.below_zero


def test_no_scatter_gives_a_point_and_few_values_give_no_bounds() -> None:
    point = student_t_interval([0.5, 0.5, 0.5])
    assert point is not None
    assert (point.low, point.mean, point.high) == (0.5, 0.5, 0.5)
    single = student_t_interval([0.5])
    assert single is not None
    assert (single.low, single.high) == (None, None)
    assert not single.above_zero
    assert single.text("%") == "+0.50 % [no interval]"
    assert student_t_interval([]) is None
    assert cluster_bootstrap_interval([], []) is None


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(7)
    hits = 0
    for _ in range(1000):
        interval = student_t_interval(generator.normal(0.3, 2.0, 6))
        assert interval is not None
        assert interval.low is not None
        assert interval.high is not None
        hits += interval.low <= 0.3 <= interval.high
    assert 930 <= hits <= 970


def test_bootstrap_draws_whole_clusters() -> None:
    clusters = ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    values = [1.0, 1.2, 0.8, 1.0, 2.0, 2.2, 1.8, 2.0, 6.0, 6.2, 5.8, 6.0]
    interval = cluster_bootstrap_interval(values, clusters, seed=3)
    assert interval is not None
    # Of three clusters all three draws are the lowest with probability 1/27, which is more than 2.5 %.
    assert interval.low == pytest.approx(1.0)
    assert interval.high == pytest.approx(6.0)
    assert interval.mean == pytest.approx(3.0)
    assert interval == cluster_bootstrap_interval(values, clusters, seed=3)
    assert interval.method == "cluster_bootstrap"
    alone = cluster_bootstrap_interval([1.0, 2.0], ["a", "a"])
    assert alone is not None
    assert (alone.mean, alone.low, alone.high) == (1.5, None, None)


def test_small_numbers_show_on_which_side_of_zero_they_lie() -> None:
    interval = Interval(mean=0.012, low=0.0031, high=0.021, count=5, method="student_t")
    assert interval.text("%") == "+0.012 % [+0.003, +0.021]"
    wide = Interval(mean=1.234, low=-0.5, high=2.968, count=5, method="student_t")
    assert wide.text() == "+1.23 [-0.50, +2.97]"
    assert signed(-0.001) == "0.00"
    assert signed(0.0) == "0.00"
