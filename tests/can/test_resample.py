"""The grid: last value at each instant, its age, and nothing that is stale."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tspace_core.can.resample import GridBlock, GridResampler
from tspace_core.can.samples import Samples

MS = 1_000_000


def samples(*pairs: tuple[float, float]) -> Samples:
    """Pairs of (ms, value)."""
    return Samples(
        np.array([round(ms * MS) for ms, _ in pairs], np.int64),
        np.array([value for _, value in pairs], float),
    )


def whole(parts: dict[str, Samples], rate_hz: float, until_ms: float, **max_age_s: float) -> GridBlock:
    resampler = GridResampler(rate_hz, max_age_s)
    first = resampler.push(parts, 0, round(until_ms * MS))
    return GridBlock.concat([first, resampler.finish()], resampler.names)


@pytest.mark.parametrize(("rate_hz", "step_ms"), [(20, 50), (50, 20)])
def test_instants_are_multiples_of_the_period(rate_hz: float, step_ms: int) -> None:
    grid = whole({"a": samples((1234.5, 1))}, rate_hz, 1500, a=1)
    assert np.all(grid.time % (step_ms * MS) == 0)
    assert grid.time[0] == -(-1234.5 // step_ms) * step_ms * MS
    assert grid.time[-1] == 1500 * MS, "the last frame's instant is in"
    assert np.all(np.diff(grid.time) == step_ms * MS)


def test_last_value_and_its_age() -> None:
    grid = whole({"a": samples((0, 1), (70, 2), (100, 3), (130, 4))}, 20, 200, a=1)
    assert (grid.time // MS).tolist() == [0, 50, 100, 150, 200]
    assert grid.values["a"].tolist() == [1, 1, 3, 4, 4]
    assert grid.ages["a"].tolist() == pytest.approx([0, 0.05, 0, 0.02, 0.07])
    assert grid.ages["a"].dtype == np.float32


def test_of_several_samples_on_one_stamp_the_last_wins() -> None:
    assert whole({"a": samples((50, 1), (50, 2), (50, 3))}, 20, 50, a=1).values["a"].tolist() == [3]


def test_a_stale_value_is_no_value_but_keeps_its_age() -> None:
    grid = whole({"a": samples((0, 7))}, 20, 200, a=0.1)
    assert grid.values["a"][:3].tolist() == [7, 7, 7], "100 ms is the oldest that counts"
    assert np.isnan(grid.values["a"][3:]).all()
    assert grid.ages["a"].tolist() == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_before_the_first_sample_there_is_no_value_and_no_age() -> None:
    grid = whole({"a": samples((0, 1)), "b": samples((120, 2))}, 20, 150, a=1, b=1, c=1)
    assert np.isnan(grid.values["b"][:3]).all()
    assert np.isnan(grid.ages["b"][:3]).all()
    assert grid.values["b"][3] == 2
    assert np.isnan(grid.values["c"]).all()


def test_a_new_segment_starts_anew() -> None:
    resampler = GridResampler(20, {"a": 10.0, "b": 10.0})
    first = resampler.push({"a": samples((1000, 1)), "b": samples((1000, 9))}, 0, 1100 * MS)
    second = resampler.push({"a": samples((20, 2))}, 1, 100 * MS)
    grid = GridBlock.concat([first, second, resampler.finish()], resampler.names)
    assert (grid.time // MS).tolist() == [1000, 1050, 1100, 50, 100]
    assert grid.segment.tolist() == [0, 0, 0, 1, 1]
    assert grid.values["a"].tolist() == [1, 1, 1, 2, 2]
    assert np.isnan(grid.values["b"][3:]).all(), "nothing is carried over a clock step"


def test_a_row_waits_for_frames_that_may_share_its_stamp() -> None:
    resampler = GridResampler(20, {"a": 1.0})
    assert len(resampler.push({"a": samples((50, 1))}, 0, 50 * MS)) == 0
    grid = resampler.push({"a": samples((50, 2), (60, 3))}, 0, 60 * MS)
    assert grid.values["a"].tolist() == [2]


def test_no_samples_no_rows() -> None:
    resampler = GridResampler(20, {"a": 1.0})
    assert len(resampler.finish()) == 0
    assert len(resampler.push({}, 0, 10_000 * MS)) == 0
    assert len(resampler.push({"a": samples((20_000, 1))}, 0, 20_000 * MS)) == 0
    assert len(resampler.finish()) == 1


def test_memory_does_not_grow_with_the_log() -> None:
    resampler = GridResampler(20, {"a": 1.0})
    for second in range(50):
        pairs = [(1000 * second + ms, ms) for ms in range(0, 1000, 10)]
        resampler.push({"a": samples(*pairs)}, 0, 1000 * (second + 1) * MS)
        assert sum(map(len, resampler._pending.values())) <= 10


def test_negative_stamps() -> None:
    assert (whole({"a": samples((-130, 1))}, 20, -40, a=1).time // MS).tolist() == [-100, -50]


def test_misuse_is_refused() -> None:
    resampler = GridResampler(20, {"a": 1.0})
    with pytest.raises(ValueError, match="no column; the grid has a"):
        resampler.push({"b": samples((0, 1))}, 0, 0)
    with pytest.raises(ValueError, match="goes back to 50000000 ns within segment 0"):
        resampler.push({"a": samples((100, 1), (50, 2))}, 0, 100 * MS)
    with pytest.raises(ValueError, match="rate_hz must be above 0"):
        GridResampler(0, {})


Log = list[tuple[int, str, float]]


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[Log], list[int]]:
    """Segments of (time ns, signal, value) with repeated stamps, and where to cut them all."""
    segments: list[Log] = []
    for _ in range(draw(st.integers(1, 3))):
        time = draw(st.integers(-300, 300)) * MS
        log: Log = []
        for _ in range(draw(st.integers(1, 25))):
            time += draw(st.sampled_from([0, 1, 3 * MS, 20 * MS, 50 * MS, 77 * MS, 400 * MS]))
            log.append((time, draw(st.sampled_from(["a", "b", "other"])), draw(st.integers(0, 9)) / 2))
        segments.append(log)
    total = sum(map(len, segments))
    cuts = sorted(draw(st.sets(st.integers(0, total), max_size=8)) | {0, total})
    return segments, cuts


def run(segments: list[Log], cuts: list[int], rate_hz: float) -> GridBlock:
    rows = [(number, *row) for number, log in enumerate(segments) for row in log]
    resampler = GridResampler(rate_hz, {"a": 0.1, "b": 0.3})
    blocks = []
    for start, stop in pairwise(cuts):
        for number in range(len(segments)):
            part = [row for row in rows[start:stop] if row[0] == number]
            if part:
                new = {
                    name: samples(*((time / MS, value) for _, time, one, value in part if one == name))
                    for name in ("a", "b")
                }
                blocks.append(resampler.push(new, number, part[-1][1]))
    blocks.append(resampler.finish())
    return GridBlock.concat(blocks, resampler.names)


def slowly(segments: list[Log], rate_hz: float) -> list[tuple[int, int, float, float]]:
    """The definition, instant by instant."""
    period = round(1e9 / rate_hz)
    rows = []
    for number, log in enumerate(segments):
        known = [row for row in log if row[1] != "other"]
        if not known:
            continue
        instant = -(-known[0][0] // period) * period
        while instant <= log[-1][0]:
            row: list[float] = []
            for name, oldest in (("a", 0.1), ("b", 0.3)):
                seen = [(time, value) for time, one, value in log if one == name and time <= instant]
                fresh = seen and instant - seen[-1][0] <= oldest * 1e9
                row.append(seen[-1][1] if fresh else np.nan)
            rows.append((instant, number, row[0], row[1]))
            instant += period
    return rows


@given(logs(), st.sampled_from([20.0, 50.0]))
def test_how_the_log_is_cut_does_not_matter(log: tuple[list[Log], list[int]], rate_hz: float) -> None:
    segments, cuts = log
    grid = run(segments, cuts, rate_hz)
    rows = list(
        zip(
            grid.time.tolist(),
            grid.segment.tolist(),
            grid.values["a"].tolist(),
            grid.values["b"].tolist(),
            strict=True,
        )
    )
    np.testing.assert_equal(rows, slowly(segments, rate_hz))
    once = run(segments, [0, cuts[-1]], rate_hz)
    for name in ("a", "b"):
        np.testing.assert_array_equal(grid.ages[name], once.ages[name])
