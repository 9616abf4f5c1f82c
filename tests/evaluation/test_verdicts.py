"""Paired differences and verdicts of drives made by hand."""

import polars as pl
import pytest

from tests.evaluation.conftest import Drives
from tspace_core.errors import RecordError
from tspace_core.evaluation.comparison import Comparison
from tspace_core.evaluation.summary import CandidateSummary
from tspace_core.evaluation.verdict import Verdict


def compared(*drives: pl.DataFrame) -> Comparison:
    return Comparison.of_drives(pl.concat(drives), vehicle_id="truck", cycle="route")


def judged(*drives: pl.DataFrame) -> CandidateSummary:
    return compared(*drives).summary.subject


def test_a_saving_is_paired_and_its_interval_is_that_of_the_differences(drives_of: Drives) -> None:
    # The drivers use 600, 620 and 640 Wh/km; unpaired, that scatter would hide a saving of 1 %.
    subject = judged(drives_of("default"), drives_of("policy", lambda driver, seed: 1.0 + 0.1 * (seed - 2)))
    assert subject.saving_percent is not None
    assert subject.saving_percent.mean == pytest.approx(1.0)
    # 15 differences: 5 deviations of 0.1 x (-2..2) three times over; t(0.975, 14) = 2.144787
    half = 2.144787 * (0.01 * 3 * 10 / 14) ** 0.5 / 15**0.5
    assert subject.saving_percent.high == pytest.approx(1.0 + half, rel=1e-5)
    assert subject.verdict is Verdict.SAVES
    assert subject.sentence == (
        f"policy saves 1.00 % energy at equal distance and trip time (95 % interval of the saving "
        f"+{1 - half:.2f} % to +{1 + half:.2f} %) over 15 paired drives."
    )
    assert [item.driver for item in subject.per_driver] == ["driver_0", "driver_1", "driver_2"]
    assert all(item.pairs == 5 for item in subject.per_driver)


def test_more_energy_is_said_to_cost(drives_of: Drives) -> None:
    subject = judged(drives_of("default"), drives_of("policy", lambda driver, seed: -0.5 - 0.01 * seed))
    assert subject.verdict is Verdict.COSTS
    assert subject.sentence.startswith("policy does not save energy: it uses 0.52 % more")


def test_an_interval_across_zero_is_no_saving(drives_of: Drives) -> None:
    subject = judged(drives_of("default"), drives_of("policy", lambda driver, seed: float(seed - 1.9)))
    assert subject.verdict is Verdict.UNDECIDED
    assert "is not shown to save energy" in subject.sentence
    assert "holds zero" in subject.sentence


def test_a_saving_bought_with_time_does_not_count(drives_of: Drives) -> None:
    slow = drives_of("policy", lambda driver, seed: 3.0 + seed, trip_time=lambda driver, seed: 1.01)
    comparison = compared(drives_of("default"), slow)
    subject = comparison.summary.subject
    assert subject.verdict is Verdict.OTHER_TRIP_TIME
    assert subject.unequal_time_pairs == 15
    assert subject.counted_saving_percent is not None
    assert subject.counted_saving_percent.mean == 0
    assert subject.saving_percent is not None
    assert subject.saving_percent.mean == pytest.approx(5.0)
    assert "in 15 of 15 drives the trip time differs by more than 1 %" in subject.sentence
    assert not comparison.pairs["equal_time"].any()


@pytest.mark.parametrize(("trip_time", "equal"), [(0.99, True), (-0.99, True), (1.01, False), (-1.01, False)])
def test_trip_times_are_equal_within_one_percent(drives_of: Drives, trip_time: float, equal: bool) -> None:
    drives = drives_of("policy", lambda driver, seed: 1.0, trip_time=lambda driver, seed: trip_time)
    assert compared(drives_of("default"), drives).pairs["equal_time"].to_list() == [equal] * 15


def test_one_slow_driver_lowers_the_counted_saving_and_is_named(drives_of: Drives) -> None:
    drives = drives_of(
        "policy",
        lambda driver, seed: 1.0,
        trip_time=lambda driver, seed: 2.0 if driver == 2 else 0.0,
    )
    subject = judged(drives_of("default"), drives)
    assert subject.counted_saving_percent is not None
    assert subject.counted_saving_percent.mean == pytest.approx(2 / 3)
    assert subject.verdict is Verdict.SAVES
    assert "in 5 of 15 drives the trip time differs by more than 1 %" in subject.sentence
    assert [item.unequal_time_pairs for item in subject.per_driver] == [0, 0, 5]


def test_a_mean_trip_time_beyond_one_percent_forbids_a_saving(drives_of: Drives) -> None:
    drives = drives_of(
        "policy", lambda driver, seed: 1.0, trip_time=lambda driver, seed: 4.0 if driver == 2 else 0.0
    )
    subject = judged(drives_of("default"), drives)
    assert subject.counted_saving_percent is not None
    assert subject.counted_saving_percent.above_zero
    assert subject.verdict is Verdict.OTHER_TRIP_TIME


def test_a_loss_counts_whatever_the_trip_time(drives_of: Drives) -> None:
    drives = drives_of("policy", lambda driver, seed: -2.0 - seed, trip_time=lambda driver, seed: -5.0)
    subject = judged(drives_of("default"), drives)
    assert subject.verdict is Verdict.COSTS
    assert subject.counted_saving_percent == subject.saving_percent


def test_unequal_distance_is_named_and_makes_the_verdict_incomplete(drives_of: Drives) -> None:
    drives = drives_of("policy", lambda driver, seed: 2.0 + seed).with_columns(
        pl.when((pl.col("driver") == "driver_1") & (pl.col("seed") == 3))
        .then(pl.col("distance_m") * 0.998)
        .otherwise("distance_m")
        .alias("distance_m")
    )
    comparison = compared(drives_of("default"), drives)
    subject = comparison.summary.subject
    assert subject.verdict is Verdict.INCOMPLETE
    assert subject.pairs == 14
    assert len(subject.problems) == 1
    assert subject.problems[0] == (
        "policy, driver driver_1, seed 3: distance differs by -0.2 %, more than 0.1 %"
    )
    assert "cannot be judged: 1 of 15 drives" in subject.sentence
    assert len(comparison.pairs) == 15
    assert comparison.pairs["saving_percent"].null_count() == 1


def test_distances_within_the_tolerance_are_equal(drives_of: Drives) -> None:
    drives = drives_of("policy", lambda driver, seed: 1.0).with_columns(pl.col("distance_m") * 1.0009)
    assert judged(drives_of("default"), drives).problems == ()


def test_drives_that_did_not_finish_are_named(drives_of: Drives) -> None:
    subject = judged(drives_of("default"), drives_of("policy", finished=False))
    assert subject.verdict is Verdict.INCOMPLETE
    assert subject.sentence == "policy cannot be judged: none of its 15 drives can be compared."
    assert subject.finished == 0
    assert subject.energy_wh is None
    assert subject.problems[0].endswith("did not finish")
    by_default = judged(drives_of("default", finished=False), drives_of("policy"))
    assert by_default.problems[0].endswith("the default map's drive did not finish")


def test_a_single_pair_gives_no_verdict(drives_of: Drives) -> None:
    one = {"drivers": 1, "seeds": 1}
    subject = judged(drives_of("default", **one), drives_of("policy", lambda driver, seed: 5.0, **one))
    assert subject.verdict is Verdict.UNDECIDED
    assert subject.sentence == "policy cannot be judged: 1 paired drive gives no interval."


def test_the_same_drives_are_called_the_same(drives_of: Drives) -> None:
    subject = judged(drives_of("default"), drives_of("policy"))
    assert subject.verdict is Verdict.SAME
    assert subject.sentence == "policy drives exactly as the default map does in all 15 drives."


def test_a_baseline_that_saves_as_much_is_a_rival(drives_of: Drives) -> None:
    summary = compared(
        drives_of("default"),
        drives_of("minus_budget", lambda driver, seed: 2.0 + 0.1 * seed),
        drives_of("random", lambda driver, seed: 0.5 + 0.1 * seed),
        drives_of("policy", lambda driver, seed: 1.0 + 0.1 * seed),
    ).summary
    assert summary.subject.name == "policy"
    assert [rival.name for rival in summary.rivals] == ["minus_budget"]


def test_drives_without_a_partner_or_twice_are_refused(drives_of: Drives) -> None:
    with pytest.raises(
        RecordError, match=r"no drive of the 'default' map for driver and seed \[\('driver_0', 4\)"
    ):
        compared(drives_of("default", seeds=4), drives_of("policy"))
    with pytest.raises(RecordError, match="more than once"):
        compared(drives_of("default"), drives_of("default"))


def test_a_default_drive_without_energy_has_no_share(drives_of: Drives) -> None:
    subject = judged(drives_of("default", energy_wh_per_km=-3.0), drives_of("policy"))
    assert subject.verdict is Verdict.INCOMPLETE
    assert "used no energy" in subject.problems[0]
