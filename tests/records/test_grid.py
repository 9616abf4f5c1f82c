"""The grid: energy is conserved, and rows do not depend on how the log is cut."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tspace_core.can.samples import Samples
from tspace_core.config import load_vehicle
from tspace_core.records.grid import GridBuilder, GridRows

NS = 10**9
Event = tuple[int, str, float]


def collect(events: list[Event], bounds: list[int]) -> tuple[list[GridRows], GridBuilder]:
    builder = GridBuilder(load_vehicle("twin_truck"))
    rows: list[GridRows] = []
    for start, stop in itertools.pairwise(bounds):
        part = events[start:stop]
        names = {name for _, name, _ in part}
        pushed = {
            name: Samples(
                np.array([t for t, n, _ in part if n == name], np.int64),
                np.array([v for _, n, v in part if n == name], np.float64),
            )
            for name in names
        }
        rows += builder.push(pushed, 0, part[-1][0])
    return rows + builder.finish(), builder


def joined(rows: list[GridRows], name: str) -> np.ndarray:
    if name in ("velocity", "current"):
        return np.concatenate([row.values[name] for row in rows])
    return np.concatenate([getattr(row, name) for row in rows])


events = st.lists(
    st.tuples(
        st.integers(1, 300_000_000), st.sampled_from(["voltage", "current", "velocity"]), st.floats(0, 500)
    ),
    min_size=2,
    max_size=80,
)


@settings(max_examples=100, deadline=None)
@given(events, st.lists(st.integers(1, 80), max_size=6))
def test_rows_do_not_depend_on_the_cuts_and_energy_is_conserved(steps: list[Event], cuts: list[int]) -> None:
    times = np.cumsum([step for step, _, _ in steps]).tolist()
    log = [(t, name, value) for t, (_, name, value) in zip(times, steps, strict=True)]
    whole, builder = collect(log, [0, len(log)])
    parts, other = collect(log, sorted({0, len(log), *(min(cut, len(log)) for cut in cuts)}))
    if not whole:
        assert not parts
        return
    for name in ("time", "velocity", "current", "energy_wh", "energy_s", "distance_m"):
        assert np.array_equal(joined(parts, name), joined(whole, name), equal_nan=True), name
    time = joined(whole, "time")
    assert (time % 50_000_000 == 0).all()
    assert (np.diff(time) == 50_000_000).all()
    at_last_row = builder.energy.at(time[-1:])[0]
    assert joined(whole, "energy_wh").sum() == pytest.approx(at_last_row, abs=1e-9)
    assert other.energy.total_wh == builder.energy.total_wh


def test_energy_and_distance_of_every_step_by_hand() -> None:
    builder = GridBuilder(load_vehicle("twin_truck"))
    time = np.arange(0, 11) * 20_000_000  # 50 Hz on a grid of 20 Hz: rows at 0, 0.05, ... 0.2 s
    flat = {
        name: Samples(time, np.full(11, value))
        for name, value in {"voltage": 720.0, "current": 100.0, "velocity": 36.0}.items()
    }
    rows = builder.push(flat, 0, int(time[-1])) + builder.finish()
    energy = joined(rows, "energy_wh")
    assert energy == pytest.approx([0] + [72_000 * 0.05 / 3600] * 4)
    assert joined(rows, "distance_m") == pytest.approx([0] + [10 * 0.05] * 4)
    assert joined(rows, "energy_s") == pytest.approx([0] + [0.05] * 4)


def test_the_first_row_of_a_segment_has_nothing_of_the_one_before() -> None:
    builder = GridBuilder(load_vehicle("twin_truck"))
    time = np.arange(0, 11) * 21_000_000

    def push(segment: int, offset: int) -> list[GridRows]:
        flat = {name: Samples(time + offset, np.full(11, 100.0)) for name in ("voltage", "current")}
        return builder.push(flat, segment, int(time[-1]) + offset)

    rows = push(0, 0) + push(1, 100 * NS) + builder.finish()
    per_segment = {number: sum(len(row) for row in rows if row.segment == number) for number in (0, 1)}
    assert per_segment[0] == per_segment[1] == 5
    energies = [np.concatenate([row.energy_wh for row in rows if row.segment == number]) for number in (0, 1)]
    assert energies[0] == pytest.approx(energies[1])
    tail = builder.energy.total_wh - sum(float(part.sum()) for part in energies)
    assert tail == pytest.approx(2 * 10_000 * 0.01 / 3600)  # 0.20 s to 0.21 s of both segments


def test_a_gap_in_the_current_leaves_steps_unmeasured() -> None:
    builder = GridBuilder(load_vehicle("twin_truck"))
    stamps = np.concatenate([np.arange(0, 11), np.arange(200, 211)]) * 20_000_000
    flat = {name: Samples(stamps, np.full(22, 100.0)) for name in ("voltage", "current")}
    rows = builder.push(flat, 0, int(stamps[-1])) + builder.finish()
    time, measured = joined(rows, "time"), joined(rows, "energy_s")
    inside = (time > 200_000_000) & (time <= 4_000_000_000)
    assert measured[inside].sum() == pytest.approx(0, abs=1e-12)
    assert (measured[~inside][1:] > 0.049).all()
