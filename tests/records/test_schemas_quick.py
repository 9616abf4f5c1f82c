"""The quick check of signals lets nothing pass that their pandera schema refuses."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tspace_core.config import load_vehicle
from tspace_core.errors import SchemaError
from tspace_core.records import schemas
from tspace_core.records.grid import GridRows
from tspace_core.storage import signals_table

VEHICLE = load_vehicle("twin_truck")
LIMITS = tuple(
    (name, schemas._limits(source.clip or source.valid)) for name, source in VEHICLE.signals.items()
)
NARROW = {name: limit for name, limit in LIMITS if limit is not None}
ROWS = 3


def frame(given: dict[str, tuple[int, float | None]]) -> pl.DataFrame:
    """Good signals, but for one cell of each column given."""
    names = VEHICLE.signals
    middle = {name: sum(limit) / 2 if limit else 0.0 for name, limit in LIMITS}
    rows = GridRows(
        time=np.arange(ROWS, dtype=np.int64),
        segment=0,
        values={name: np.full(ROWS, middle[name]) for name in names},
        ages={name: np.zeros(ROWS, np.float32) for name in names},
        energy_wh=np.zeros(ROWS),
        energy_s=np.zeros(ROWS),
        distance_m=np.zeros(ROWS),
    )
    made = pl.DataFrame(signals_table.to_table(rows, 0))
    for name, (row, value) in given.items():
        cells = made.get_column(name).to_list()
        cells[row] = value
        made = made.with_columns(pl.Series(name, cells, made.schema[name]))
    return made


def refused(made: pl.DataFrame) -> bool:
    try:
        schemas._validate(made, schemas._signals_schema(LIMITS), "here")
    except SchemaError:
        return True
    return False


EDGES = [edge * factor for limit in NARROW.values() for edge in limit for factor in (1 - 1e-5, 1.0, 1 + 1e-5)]
VALUES = st.one_of(
    st.none(), st.floats(width=32), st.sampled_from([*EDGES, 1e4, -1e4, 10001.0, -1e-6, -2e-6, 3.4028235e38])
)
COLUMNS = [name for name in frame({}).columns if name not in ("time", "log_time_ns", "segment")]


@settings(deadline=None)  # the first check imports pandera
@given(st.dictionaries(st.sampled_from(COLUMNS), st.tuples(st.integers(0, ROWS - 1), VALUES), max_size=2))
def test_both_checks_agree(cells: dict[str, tuple[int, float | None]]) -> None:
    made = frame(cells)
    assert schemas._surely_good(made, LIMITS) is not refused(made)


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e9])
def test_no_column_is_left_out(name: str, value: float) -> None:
    made = frame({name: (1, value)})
    assert schemas._surely_good(made, LIMITS) is not refused(made)


def test_order_of_columns_and_no_rows_are_no_errors() -> None:
    made = frame({})
    for good in (made, made.select(reversed(made.columns)), made.clear()):
        assert not refused(good)
        schemas.validate_signals(good, VEHICLE)
