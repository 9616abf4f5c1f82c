"""Frames that a logger wrote slightly late get their place; a clock that was set is left alone."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tspace_core.can.frames import FrameBatch
from tspace_core.can.ordering import FrameOrder

MS = 1_000_000


def frames(stamps_ms: list[int]) -> FrameBatch:
    """Frames whose ids are their positions in the log."""
    count = len(stamps_ms)
    return FrameBatch(
        np.array(stamps_ms, np.int64) * MS,
        np.zeros(count, np.uint8),
        np.arange(count, dtype=np.uint32),
        np.zeros(count, np.uint8),
        np.full(count, 8, np.uint8),
        np.zeros((count, 8), np.uint8),
    )


def order(
    stamps_ms: list[int], cuts: list[int], tolerance_s: float = 0.05
) -> tuple[list[int], list[int], int]:
    batch = frames(stamps_ms)
    ordering = FrameOrder(tolerance_s)
    edges = [0, *sorted(min(cut, len(batch)) for cut in cuts), len(batch)]
    parts = [ordering.push(batch.select(slice(start, end))) for start, end in itertools.pairwise(edges)]
    parts.append(ordering.finish())
    whole = FrameBatch.concat(parts)
    return (whole.time // MS).tolist(), whole.id.tolist(), ordering.late


def test_a_late_frame_moves_to_its_place() -> None:
    assert order([0, 10, 20, 15, 30], []) == ([0, 10, 15, 20, 30], [0, 1, 3, 2, 4], 1)


def test_frames_on_one_stamp_keep_their_order() -> None:
    assert order([0, 10, 10, 5, 10, 5], []) == ([0, 5, 5, 10, 10, 10], [0, 3, 5, 1, 2, 4], 2)


def test_a_clock_that_was_set_is_no_disorder() -> None:
    stamps = [1000, 1010, 3, 13, 8]
    assert order(stamps, []) == ([1000, 1010, 3, 8, 13], [0, 1, 2, 4, 3], 1)


def test_the_tolerance_is_a_limit() -> None:
    assert order([100, 50], [])[0] == [50, 100]
    assert order([100, 49], [])[0] == [100, 49]
    assert order([100, 99], [], tolerance_s=0.0) == ([100, 99], [0, 1], 0)


@settings(deadline=None, print_blob=True)
@given(
    steps=st.lists(st.sampled_from([0, 1, 7, 40, 6000, -1, -20, -50, -51, -3000]), min_size=1, max_size=80),
    cuts=st.lists(st.integers(0, 80), max_size=8),
)
def test_cutting_into_batches_changes_nothing_and_no_frame_is_lost(steps: list[int], cuts: list[int]) -> None:
    stamps = np.cumsum(steps).tolist()
    whole = order(stamps, [])
    assert order(stamps, cuts) == whole
    assert sorted(whole[1]) == list(range(len(stamps)))
    # by the definition: runs in log order, each sorted by time, ties in log order
    run, newest, keys = 0, stamps[0], []
    for index, stamp in enumerate(stamps):
        if stamp < newest - 50:
            run, newest = run + 1, stamp
        newest = max(newest, stamp)
        keys.append((run, stamp, index))
    assert whole[1] == [index for _, _, index in sorted(keys)]
