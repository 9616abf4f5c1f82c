"""The schemas let good frames pass and say column, value, limit and rows of bad ones."""

import numpy as np
import polars as pl
import pytest

from tests.records.builders import context, grid, small_vehicle
from tspace_core.config import load_vehicle
from tspace_core.errors import SchemaError
from tspace_core.records.cutting import CutReport, cut_episodes
from tspace_core.records.grid import GridRows
from tspace_core.records.schemas import validate_episode, validate_frames, validate_signals
from tspace_core.storage import episodes_table, frames_table, signals_table

VEHICLE = load_vehicle("twin_truck")


@pytest.fixture
def signals() -> pl.DataFrame:
    n = 5
    rows = GridRows(
        time=np.arange(n, dtype=np.int64) * 50_000_000,
        segment=0,
        values={name: np.array([np.nan, 1, 1, 1, 1.0]) for name in VEHICLE.signals},
        ages={name: np.array([np.nan, 0, 0, 0, 0.01], np.float32) for name in VEHICLE.signals},
        energy_wh=np.ones(n),
        energy_s=np.full(n, 0.05),
        distance_m=np.ones(n),
    )
    return pl.DataFrame(signals_table.to_table(rows, 0))


@pytest.fixture
def episode() -> pl.DataFrame:
    vehicle = small_vehicle(actions="default_map")
    made = next(cut_episodes(grid(11), context(vehicle), [], CutReport()))
    return pl.DataFrame(episodes_table.to_table(made))


def test_good_frames_pass(signals: pl.DataFrame, episode: pl.DataFrame) -> None:
    signals = signals.with_columns(voltage=pl.lit(700.0, pl.Float32))
    validate_signals(signals, VEHICLE)
    validate_episode(episode, state_dim=6)
    validate_frames(pl.DataFrame(frames_table.SCHEMA.empty_table()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"velocity": pl.lit(900.0, pl.Float32)},
            r"column velocity: in_range\(.*fails in 5 rows, first value 900",
        ),
        ({"thrust": pl.lit(float("inf"), pl.Float32)}, "column thrust: must be finite fails in 5 rows"),
        ({"energy_wh": pl.lit(None, pl.Float64)}, "column energy_wh: not_nullable fails"),
        ({"brake": pl.lit(1, pl.Int32)}, "column brake: dtype"),
        ({"current_age_s": pl.lit(-1.0, pl.Float32)}, "column current_age_s: greater_than_or_equal_to"),
        ({"extra": pl.lit(1)}, "extra"),
    ],
)
def test_bad_signals_are_explained(signals: pl.DataFrame, change: dict[str, pl.Expr], words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        validate_signals(signals.with_columns(**change), VEHICLE, place="here")


def test_a_missing_column_is_named(signals: pl.DataFrame) -> None:
    with pytest.raises(SchemaError, match="column_in_dataframe fails for voltage"):
        validate_signals(signals.drop("voltage"), VEHICLE)


def test_a_lazy_frame_is_refused(signals: pl.DataFrame) -> None:
    bad = signals.with_columns(velocity=pl.lit(900.0, pl.Float32)).lazy()
    with pytest.raises(SchemaError, match="LazyFrame cannot be checked"):
        validate_signals(bad, VEHICLE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (pl.col("reward") * float("nan"), "column reward: must be finite"),
        (pl.col("reward").fill_null(0.0), "column reward is null in the wrong rows"),
        (pl.col("time").reverse(), "time does not ascend"),
        (pl.col("flags").cast(pl.Int64), "column flags: dtype"),
        (
            (pl.col("action").arr.to_list() + 1.5).list.to_array(68).alias("action"),
            "column action: action must",
        ),
        (
            (pl.col("state").arr.to_list() * float("nan")).list.to_array(6).alias("state"),
            "column state: state must",
        ),
    ],
)
def test_bad_episodes_are_explained(episode: pl.DataFrame, change: pl.Expr, words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        validate_episode(episode.with_columns(change), state_dim=6)


def test_an_episode_without_its_last_observation_is_refused(episode: pl.DataFrame) -> None:
    with pytest.raises(SchemaError, match="null in the wrong rows"):
        validate_episode(episode.head(-1), state_dim=6)
    with pytest.raises(SchemaError, match="at least 1 record"):
        validate_episode(episode.tail(1), state_dim=6)


def test_frames_with_an_impossible_id_are_refused() -> None:
    frame = pl.DataFrame(frames_table.SCHEMA.empty_table())
    row = pl.DataFrame([[0, 0, 0, 1 << 30, 0, 8, 0, None]], schema=frame.schema, orient="row")
    with pytest.raises(SchemaError, match="column id: less_than_or_equal_to"):
        validate_frames(row)
