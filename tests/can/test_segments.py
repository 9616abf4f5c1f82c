"""Where a log's clock breaks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tspace_core.can.report import ReadReport
from tspace_core.can.segments import MAX_SEGMENTS, SegmentCounter
from tspace_core.errors import LogReadError

S = 1_000_000_000


def times(*seconds: float) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([round(second * S) for second in seconds], np.int64)


def test_backward_steps_and_gaps_start_segments_and_equal_stamps_do_not() -> None:
    counter = SegmentCounter(gap_s=5.0)
    assigned = counter.assign(times(100, 100, 105, 110.000000001, 3, 3, 2, 20))
    assert assigned.tolist() == [0, 0, 0, 1, 2, 2, 3, 4]
    assert assigned.dtype == np.uint16
    assert (counter.backward_steps, counter.gaps, counter.segments) == (2, 2, 5)
    assert counter.longest_gap_s == 18.0


def test_nothing_yet() -> None:
    counter = SegmentCounter(gap_s=5.0)
    assert counter.assign(times()).tolist() == []
    assert counter.segments == 0


@settings(deadline=None, print_blob=True)
@given(
    steps=st.lists(st.sampled_from([0, 1, S, 5 * S, 5 * S + 1, -1, -3 * S]), min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=6),
)
def test_cutting_into_batches_changes_nothing(steps: list[int], cuts: list[int]) -> None:
    stamps = np.cumsum(np.array(steps, np.int64))
    whole, parts = SegmentCounter(5.0), SegmentCounter(5.0)
    wanted = whole.assign(stamps)
    found = [parts.assign(part) for part in np.split(stamps, sorted(min(cut, len(stamps)) for cut in cuts))]
    np.testing.assert_array_equal(np.concatenate(found), wanted)
    assert (parts.backward_steps, parts.gaps, parts.longest_gap_s) == (
        whole.backward_steps,
        whole.gaps,
        whole.longest_gap_s,
    )
    # by the definition, one frame after the other
    number = 0
    for index in range(1, len(stamps)):
        step = int(stamps[index] - stamps[index - 1])
        number += step < 0 or step > 5 * S
        assert wanted[index] == number


def test_stamps_that_are_no_clock_are_refused() -> None:
    stamps = np.zeros(2 * MAX_SEGMENTS + 2, np.int64)
    stamps[::2] = 1
    with pytest.raises(LogReadError, match="breaks more than 65535 times"):
        SegmentCounter(5.0).assign(stamps)
    fewer = SegmentCounter(5.0)
    assert fewer.assign(stamps[: 2 * MAX_SEGMENTS - 1]).max() == MAX_SEGMENTS - 1


def test_breaks_are_told_with_their_first_place() -> None:
    counter = SegmentCounter(5.0)
    for seconds in ((10, 11, 9), (9, 20), (2,)):
        counter.assign(times(*seconds))
    report = ReadReport()
    counter.tell(report, "a.log")
    assert report.dropped == {"clock_step_back": 2, "gap": 1}
    assert report.messages["clock_step_back"] == (
        "a.log: the clock steps back, from 11.000000 s to 9.000000 s: a new segment begins there"
    )
    assert "log.gap_s = 5 s, from 9.000000 s to 20.000000 s" in report.messages["gap"]
    quiet = ReadReport()
    SegmentCounter(5.0).tell(quiet, "a.log")
    assert quiet.dropped == {}
