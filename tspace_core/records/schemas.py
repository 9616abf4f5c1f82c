"""What signals, frames and episodes must hold, as pandera schemas on polars data frames.

Data frames, never lazy frames: pandera checks only the columns' types of a lazy frame and lets bad values
pass, so the functions here refuse one. pandera is imported on the first check: it costs a second.
"""

import sys
from functools import cache
from typing import TYPE_CHECKING, Any

from tspace_core.config import Vehicle
from tspace_core.errors import SchemaError
from tspace_core.records.policy import ACTION_DIM

if TYPE_CHECKING:
    import polars as pl

Limits = tuple[tuple[str, tuple[float, float] | None], ...]
"""Closed range of each signal, None = any finite number."""

MAX_PAYLOAD = 64
MAX_ID = 0x1FFFFFFF


def validate_signals(frame: "pl.DataFrame", vehicle: Vehicle, *, place: str = "signals") -> None:
    """Check a log's signals on the grid.

    Every signal of the vehicle is there as f32 within the range of its file (null = none or stale), time and
    segment are complete, energy, distance and ages are finite, no age is negative.

    Raises:
        SchemaError: names the place, column, first bad value, limit and the number of bad rows.
    """
    limits = tuple((name, _limits(source.clip or source.valid)) for name, source in vehicle.signals.items())
    if not _surely_good(frame, limits):
        _validate(frame, _signals_schema(limits), place)


def validate_frames(frame: "pl.DataFrame", *, place: str = "frames") -> None:
    """Check the frames of a log.

    Raises:
        SchemaError: names the place, column, first bad value, limit and the number of bad rows.
    """
    _validate(frame, _frames_schema(), place)


def validate_episode(frame: "pl.DataFrame", *, state_dim: int, place: str = "episode") -> None:
    """Check an episode as it is stored: n records and the last observation.

    States and actions have their lengths and finite values, actions are within [-1, 1], time ascends, and the
    last row, and only it, has no action, row, reward and flags.

    Raises:
        SchemaError: names the place, column, first bad value, limit and the number of bad rows.
    """
    _validate(frame, _episode_schema(state_dim), place)
    _check_observation_rows(frame, place)


def _limits(given: tuple[float, float] | None) -> tuple[float, float] | None:
    if given is None:
        return None
    # float32 rounds by 6e-8 of the value: a value on its limit may lie that much beyond it.
    slack = 1e-6 * max(abs(given[0]), abs(given[1]), 1e-6)
    return given[0] - slack, given[1] + slack


def _surely_good(frame: "pl.DataFrame | pl.LazyFrame", limits: Limits) -> bool:
    """Whether the frame holds ``_signals_schema``, in one query of extremes for all columns.

    pandera asks a query or more for each of hundreds of columns, which takes longer than to make the frame.
    It has the last word on whatever does not pass here, and explains it.
    """
    import polars as pl

    schema = _signals_schema(limits)
    wanted = {name: column.dtype.type for name, column in schema.columns.items()}
    if not isinstance(frame, pl.DataFrame) or dict(frame.schema) != wanted:
        return False
    whole = [name for name, column in schema.columns.items() if not column.nullable]
    if any(frame.get_column(name).null_count() for name in whole):
        return False
    bounds = _bounds(limits)
    every = pl.col(list(bounds))
    lowest, highest = frame.select(every.min()).row(0), frame.select(every.max()).row(0)
    # polars takes no NaN for an extreme unless there is nothing else
    nan = any(frame.select(every.is_nan().any()).row(0))
    return not nan and all(
        least is None or (low <= least and most <= high)
        for least, most, (low, high) in zip(lowest, highest, bounds.values(), strict=True)
    )


def _bounds(limits: Limits) -> dict[str, tuple[float, float]]:
    """What ``_signals_schema`` lets pass, as closed intervals a column."""
    largest = sys.float_info.max
    bounds = {name: limit or (-largest, largest) for name, limit in limits}
    bounds |= {f"{name}_age_s": (0.0, largest) for name, _ in limits}
    return bounds | {"energy_wh": (-1e4, 1e4), "energy_s": (-1e-6, largest), "distance_m": (-1e4, 1e4)}


@cache
def _signals_schema(limits: Limits) -> Any:
    import pandera.polars as pa
    import polars as pl

    columns = {
        "time": pa.Column(pl.Datetime("ns", "UTC")),
        "log_time_ns": pa.Column(pl.Int64),
        "segment": pa.Column(pl.UInt16),
        "energy_wh": pa.Column(pl.Float64, [_finite(pa), pa.Check.in_range(-1e4, 1e4)]),
        "energy_s": pa.Column(pl.Float64, [_finite(pa), pa.Check.ge(-1e-6)]),
        "distance_m": pa.Column(pl.Float64, [_finite(pa), pa.Check.in_range(-1e4, 1e4)]),
    }
    for name, limit in limits:
        checks = [_finite(pa)] if limit is None else [_finite(pa), pa.Check.in_range(*limit)]
        columns[name] = pa.Column(pl.Float32, checks, nullable=True)
        columns[f"{name}_age_s"] = pa.Column(pl.Float32, [_finite(pa), pa.Check.ge(0.0)], nullable=True)
    return pa.DataFrameSchema(columns, strict=True)


@cache
def _frames_schema() -> Any:
    import pandera.polars as pa
    import polars as pl

    return pa.DataFrameSchema(
        {
            "time": pa.Column(pl.Int64),
            "segment": pa.Column(pl.UInt16),
            "bus": pa.Column(pl.UInt8),
            "id": pa.Column(pl.UInt32, pa.Check.le(MAX_ID)),
            "flags": pa.Column(pl.UInt8, pa.Check.le(127)),
            "length": pa.Column(pl.UInt8, pa.Check.le(MAX_PAYLOAD)),
            "payload": pa.Column(pl.UInt64),
            "payload_long": pa.Column(pl.Binary, nullable=True),
        },
        strict=True,
    )


@cache
def _episode_schema(state_dim: int) -> Any:
    import pandera.polars as pa
    import polars as pl

    def listed(name: str, limit: float) -> Any:
        def within(data: Any) -> Any:
            values = pl.col(data.key).arr
            # NaN is above every limit; a list of nulls, the last observation's action, has no extremes.
            largest = values.eval(pl.element().abs().is_finite() & (pl.element().abs() <= limit)).arr
            return data.lazyframe.select(largest.all())

        return pa.Check(within, error=f"{name} must hold finite numbers of at most {limit:g}")

    return pa.DataFrameSchema(
        {
            "time": pa.Column(pl.Datetime("ns", "UTC")),
            "state": pa.Column(pl.Array(pl.Float32, state_dim), listed("state", 1e6)),
            "action": pa.Column(pl.Array(pl.Float32, ACTION_DIM), listed("action", 1.0), nullable=True),
            "first_row": pa.Column(pl.Int32, pa.Check.ge(0), nullable=True),
            "reward": pa.Column(pl.Float32, [_finite(pa), pa.Check.in_range(-1e6, 1e6)], nullable=True),
            "flags": pa.Column(pl.UInt8, nullable=True),
        },
        strict=True,
    )


def _finite(pa: Any) -> Any:
    import polars as pl

    def finite(data: Any) -> Any:
        return data.lazyframe.select(pl.col(data.key).is_finite())

    return pa.Check(finite, error="must be finite")


def _validate(frame: "pl.DataFrame | pl.LazyFrame", schema: Any, place: str) -> None:
    import polars as pl
    from pandera.errors import SchemaErrors

    if not isinstance(frame, pl.DataFrame):
        message = f"{place}: {type(frame).__name__} cannot be checked for values; collect() it to a DataFrame"
        raise SchemaError(message)
    try:
        schema.validate(frame, lazy=True)
    except SchemaErrors as error:
        raise SchemaError(_explain(error, place)) from None


def _explain(error: Any, place: str) -> str:
    """One line a failed check: column, check with its limit, number of rows, first value."""
    lines = []
    for (column, check), group in error.failure_cases.group_by("column", "check", maintain_order=True):
        cases = group.get_column("failure_case").to_list()
        first = next((case for case in cases if case is not None), None)
        if column is None:
            lines.append(f"{check} fails for {', '.join(map(str, cases))}")
            continue
        lines.append(f"column {column}: {check} fails in {len(cases)} rows, first value {str(first)[:80]}")
    return f"{place} does not hold its schema: " + "; ".join(lines) + ". Correct the source or its config"


def _check_observation_rows(frame: "pl.DataFrame", place: str) -> None:
    import polars as pl

    n = len(frame) - 1
    if n < 1:
        message = f"{place}: {n + 1} rows; an episode has at least 1 record and the last observation"
        raise SchemaError(message)
    if not frame.get_column("time").is_sorted() or frame.get_column("time").n_unique() != n + 1:
        message = f"{place}: column time does not ascend strictly over its {n + 1} rows"
        raise SchemaError(message)
    listed = {
        name: frame.select(
            pl.col(name).arr.to_list().list.eval(pl.element().is_null()).list.sum()
        ).to_series()
        for name in ("state", "action")
    }
    if listed["state"].sum() or frame.get_column("state").has_nulls():
        message = f"{place}: column state has {listed['state'].sum()} missing values, it must have none"
        raise SchemaError(message)
    missing = {name: frame.get_column(name).is_null() for name in ("first_row", "reward", "flags")}
    missing["action"] = listed["action"] == ACTION_DIM
    if listed["action"][:n].sum():
        missing["action"] = listed["action"] > 0
    for name, null in missing.items():
        if null[:n].any() or not null[n]:
            wrong = int(null[:n].sum()) + int(not null[n])
            message = (
                f"{place}: column {name} is null in the wrong rows ({wrong} rows): it is null in the "
                "last row, the last observation, and only there"
            )
            raise SchemaError(message)
