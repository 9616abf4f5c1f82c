"""The torque map: the field's constants, its CSV form, the flash formula and interpolation."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tspace_core.config import FLASHED_ROWS, TorqueMap
from tspace_core.errors import ConfigError

PEDAL = (0, 0.02, 0.04, 0.08, 0.12, 0.16, 0.20, 0.24, 0.28, 0.32, 0.38, 0.44, 0.50, 0.62, 0.74, 0.86, 1.0)
PRODUCTION = (0, 7, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120)
MULE = (0, 7, 10, *range(15, 101, 5))


def make_map(table: np.ndarray | None = None, speed: tuple[float, ...] = PRODUCTION) -> TorqueMap:
    if table is None:
        table = np.linspace(-300, 4500, len(speed) * len(PEDAL)).reshape(len(speed), len(PEDAL))
    return TorqueMap(np.array(PEDAL, np.float32), np.array(speed, np.float32), table.astype(np.float32))


@pytest.mark.parametrize(
    ("speed", "row"),
    [
        (0, 0), (19.99, 0), (20, 1), (29.99, 1), (30, 2), (39.99, 2), (40, 3), (99.9, 8), (100, 9),
        (109.9, 9), (110, 10), (119.9, 10), (120, 10), (250, 10),
    ],
)  # fmt: skip
def test_first_row_on_the_production_axis(speed: float, row: int) -> None:
    assert make_map().first_row(speed) == row


@given(st.floats(0, 300))
def test_all_flashed_rows_exist_on_every_axis(speed: float) -> None:
    for axis in (PRODUCTION, MULE):
        row = int(make_map(speed=axis).first_row(speed))
        assert 0 <= row <= len(axis) - FLASHED_ROWS


@given(arrays(np.float32, (21, 17), elements=st.floats(-4500, 4500, width=32)))
def test_csv_form_reads_back_bit_for_bit(table: np.ndarray) -> None:
    written = make_map(table, MULE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "map.csv"
        written.to_csv(path)
        assert TorqueMap.from_csv(path) == written


@given(
    arrays(np.float32, (4, 17), elements=st.floats(-1, 1, width=32)),
    st.integers(0, 10),
    st.sampled_from([0.8, 1.0]),
)
def test_a_flash_changes_four_rows_within_the_limits(action: np.ndarray, row: int, factor: float) -> None:
    default = make_map()
    flashed = default.flashed(action, row, default, budget_nm=250.0, upper_factor=factor)
    rows = slice(row, row + 4)
    reference = default.table[rows]
    upper = np.where(reference > 0, reference * np.float32(factor), reference)
    assert np.array_equal(
        np.delete(flashed.table, range(row, row + 4), 0), np.delete(default.table, range(row, row + 4), 0)
    )
    assert np.all(flashed.table[rows] <= upper)
    assert np.all(flashed.table[rows] >= np.minimum(reference - 250, upper))
    inside = (reference + action * 250 < upper) & (action > -1)
    assert np.allclose(flashed.table[rows][inside], (reference + action * 250)[inside], atol=1e-2)


def test_the_budget_is_measured_against_the_default_not_the_live_map() -> None:
    default = make_map()
    live = default
    for _ in range(5):
        live = live.flashed(-np.ones(68), 3, default, budget_nm=250.0, upper_factor=1.0)
    assert np.allclose(live.table[3:7], default.table[3:7] - 250)


@pytest.mark.parametrize("action", [np.zeros(67), np.full(68, np.nan), np.zeros((17, 3))])
def test_a_wrong_action_is_refused(action: np.ndarray) -> None:
    default = make_map()
    with pytest.raises(ConfigError, match="an action has 4 x 17 finite values"):
        default.flashed(action, 0, default, budget_nm=250.0, upper_factor=1.0)


@pytest.mark.parametrize("row", [-1, 11])
def test_rows_that_do_not_exist_are_refused(row: int) -> None:
    default = make_map()
    with pytest.raises(ConfigError, match=f"first row {row}"):
        default.flashed(np.zeros(68), row, default, budget_nm=250.0, upper_factor=1.0)


def test_interpolation_hits_the_grid_and_the_middle() -> None:
    default = make_map()
    pedal, speed = np.meshgrid(PEDAL, PRODUCTION)
    assert np.allclose(default.torque(pedal, speed), default.table)
    corners = default.table[3:5, 5:7].astype(float)
    assert default.torque((PEDAL[5] + PEDAL[6]) / 2, 25) == pytest.approx(corners.mean(), rel=1e-6)
    assert default.torque(1.5, 500) == pytest.approx(float(default.table[-1, -1]))


def test_identity_depends_on_every_cell() -> None:
    default = make_map()
    other = default.table.copy()
    other[13, 16] += 0.5
    assert make_map(other).sha256() != default.sha256()
    assert make_map(default.table.copy()).sha256() == default.sha256()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        (",0,1\n0,1,x\n7,1,2\n8,1,2\n9,1,2\n", "row 2, column 3: 'x' is no number"),
        (",0,1\n0,1\n7,1,2\n8,1,2\n9,1,2\n", "row 2: 1 cells, the pedal axis has 2"),
        (",0,1\n7,1,2\n0,1,2\n8,1,2\n9,1,2\n", "ascending"),
        (",0,1\n0,1,2\nnan,1,2\n8,1,2\n9,1,2\n", "finite ascending"),
        (",0,1\n0,1,2\n7,1,2\n8,1,2\n", "at least 4"),
        (",0,1\n0,1,nan\n7,1,2\n8,1,2\n9,1,2\n", "no finite value in row 0, column 1"),
    ],
)
def test_a_broken_csv_is_refused_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "map.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        TorqueMap.from_csv(path)


@given(
    arrays(np.float32, (5, 68), elements=st.floats(-2, 2, width=32)),
    st.lists(st.integers(0, len(PRODUCTION) - FLASHED_ROWS), min_size=5, max_size=5),
    st.sampled_from((0.5, 1.0, 1.3)),
)
def test_many_rows_at_once_are_those_of_single_flashes(
    actions: np.ndarray, rows: list[int], factor: float
) -> None:
    default = make_map()
    torque, beyond = default.flashed_rows(actions, np.array(rows), budget_nm=250, upper_factor=factor)
    for k, row in enumerate(rows):
        flashed = default.flashed(actions[k], row, default, budget_nm=250, upper_factor=factor)
        there = slice(row, row + FLASHED_ROWS)
        assert np.array_equal(torque[k], flashed.table[there])
        asked = default.table[there] + actions[k].reshape(FLASHED_ROWS, -1) * np.float32(250)
        assert np.array_equal(beyond[k], asked != flashed.table[there])
