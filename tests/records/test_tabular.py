"""Episodes, records and raw windows as Arrow, polars and pandas: one call each, the same numbers in all."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings

from tests.records.made import assert_same, bits, episodes, made_episode, raw_windows
from tspace_core.errors import RecordError
from tspace_core.records.episode import Episode, RecordFlag
from tspace_core.records.meta import EpisodeMeta
from tspace_core.records.raw_windows import RawWindows, windows_of
from tspace_core.records.schemas import validate_episode
from tspace_core.records.tabular import Rows, from_arrow, metas_of, to_arrow, to_pandas, to_polars
from tspace_core.storage import episodes_table

RECORD_COLUMNS = ["time", "state", "action", "first_row", "reward", "next_state", "flags"]


@settings(derandomize=True, max_examples=40)
@given(episodes())
def test_an_episode_comes_back_from_arrow_bit_for_bit(episode: Episode) -> None:
    assert_same(from_arrow(to_arrow(episode)), episode)


def test_the_lake_s_files_hold_the_same_table(tmp_path: Path) -> None:
    episode = made_episode(3, 4, energy_wh=float("nan"))
    episodes_table.write(tmp_path / "e.parquet", episode)
    assert_same(episodes_table.read(tmp_path / "e.parquet"), episode)
    frame = pl.read_parquet(tmp_path / "e.parquet")
    assert frame.equals(to_polars(episode))


def test_observations_hold_the_schema_of_stored_episodes() -> None:
    states = np.ones((4, 6), np.float32)
    episode = replace(made_episode(1, 3), states=states, rewards=states[:3, 0])
    frame = to_polars(episode)
    validate_episode(frame, state_dim=6)
    assert frame.get_column("reward").to_list() == [1.0, 1.0, 1.0, None]


def test_records_have_their_next_state_beside_them() -> None:
    episode = made_episode(2, 5)
    table = to_arrow(episode, "records")
    assert table.column_names == RECORD_COLUMNS
    assert not any(table.column(name).null_count for name in RECORD_COLUMNS)
    assert np.array_equal(to_polars(episode, "records").get_column("state").to_numpy(), episode.states[:-1])
    frame = to_pandas(episode, "records")
    assert np.array_equal(np.stack(frame["next_state"].to_list()), episode.states[1:])
    assert np.array_equal(np.stack(frame["action"].to_list()), episode.actions)
    assert frame["first_row"].to_numpy().tobytes() == episode.rows.tobytes()
    assert frame["flags"].to_numpy().tobytes() == episode.flags.tobytes()
    assert frame["time"].dt.as_unit("ns").astype("int64").tolist() == episode.times[:-1].tolist()
    true = frame[(frame["flags"] & int(RecordFlag.ZEROED)) == 0]
    assert len(true) == int(((episode.flags & RecordFlag.ZEROED) == 0).sum())


def test_samples_are_long_with_units_in_the_fields() -> None:
    episode = made_episode(4, 2, window=3)
    table = to_arrow(episode, "samples")
    assert table.column_names == ["time", "window", "velocity", "thrust", "brake"]
    assert table.schema.field("velocity").metadata == {b"unit": b"km/h"}
    assert table.column("window").to_pylist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    times = table.column("time").cast(pa.int64()).to_numpy()
    assert times.reshape(3, 3).tolist() == [
        [start, start + 50_000_000, start + 100_000_000] for start in episode.times.tolist()
    ]
    values = to_polars(episode, "samples").select("velocity", "thrust", "brake").to_numpy()
    assert np.array_equal(values.reshape(3, 9), episode.states)


@settings(derandomize=True, max_examples=40)
@given(raw_windows())
def test_holes_of_raw_windows_are_null_and_all_else_is_kept(windows: RawWindows) -> None:
    table = to_arrow(windows)
    for place, name in enumerate(windows.signals):
        column, values = table.column(name), windows.samples[:, :, place].ravel()
        assert column.null_count == int(np.isnan(values).sum())
        assert bits(column.to_numpy().astype(np.float32)) == bits(values)
        assert (table.schema.field(name).metadata or {})[b"unit"].decode() == windows.units.get(name, "")
    assert len(to_polars(windows)) == len(to_pandas(windows)) == windows.samples.shape[0] * windows.window


@pytest.mark.parametrize("rows", ["observations", "records", "samples"])
def test_several_episodes_are_one_table_with_their_ids(rows: Rows) -> None:
    made = [made_episode(number, 2 + number) for number in range(3)]
    table = to_arrow(iter(made), rows)
    parts = [to_arrow(episode, rows) for episode in made]
    ids = [episode.meta.episode_id for episode in made]
    assert table.column("episode_id").to_pylist() == [
        name for name, part in zip(ids, parts, strict=True) for _ in range(len(part))
    ]
    whole = table.drop_columns("episode_id").replace_schema_metadata(None)
    assert whole.equals(pa.concat_tables([part.replace_schema_metadata(None) for part in parts]))
    assert [meta.episode_id for meta in metas_of(table.schema)] == ids
    assert metas_of(pa.ipc.read_schema(table.schema.serialize())) == [episode.meta for episode in made]
    assert to_polars(made, rows).get_column("episode_id").n_unique() == 3


@pytest.mark.parametrize("rows", ["observations", "records", "samples"])
def test_pandas_knows_where_its_rows_come_from(rows: Rows) -> None:
    episode = made_episode(1, 2)
    frame = to_pandas(episode, rows)
    assert EpisodeMeta.model_validate_json(frame.attrs["tspace"]) == episode.meta
    assert len(frame) == len(to_arrow(episode, rows))


def test_integers_stay_integers_beside_the_last_observation() -> None:
    episode = made_episode(1, 2)
    frame = to_pandas(episode)
    assert frame["first_row"].isna().tolist() == [False, False, True]
    assert frame["first_row"].iloc[:2].astype("int64").tolist() == episode.rows.tolist()


def test_episodes_without_a_common_table_are_refused() -> None:
    one, other = made_episode(1, 2), made_episode(2, 2, window=3)
    for rows in ("observations", "records"):
        with pytest.raises(RecordError, match=r"no table in common.*2 x velocity.*3 x velocity"):
            to_arrow([one, other], rows)
    renamed = made_episode(3, 2, signals=("velocity", "thrust", "soc"))
    with pytest.raises(RecordError, match="no table in common"):
        to_arrow([one, renamed], "samples")
    with pytest.raises(RecordError, match="no episode"):
        to_arrow([])


def test_a_signal_with_the_name_of_a_column_is_refused() -> None:
    with pytest.raises(RecordError, match="rename the signal"):
        to_arrow(made_episode(1, 2, signals=("velocity", "time")), "samples")


def test_tables_that_are_no_episode_are_refused() -> None:
    table = to_arrow(made_episode(1, 2))
    for wrong in (
        table.slice(0, 1),
        table.drop_columns("flags"),
        to_arrow(made_episode(1, 2), "records"),
        to_arrow([made_episode(1, 2)]),
    ):
        with pytest.raises(RecordError, match="no episode"):
            from_arrow(wrong)
    for metadata in (None, {b"tspace": b"{}"}, {b"tspace": b"[1]"}, {b"tspace": b"\xff"}):
        with pytest.raises(RecordError, match="no valid episode metadata"):
            from_arrow(table.replace_schema_metadata(metadata))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("starts", np.zeros(2), "starts is float64"),
        ("samples", np.zeros((3, 2, 3)), "samples is float64"),
        ("samples", np.zeros((3, 2), np.float32), "samples is float32"),
        ("signals", ("a", "a", "b"), "named twice"),
        ("rate_hz", float("nan"), "rate_hz is nan"),
    ],
)
def test_raw_windows_that_contradict_themselves_are_refused(field: str, value: object, words: str) -> None:
    windows = windows_of(made_episode(1, 2))
    with pytest.raises(RecordError, match=words):
        replace(windows, **{field: value})  # type: ignore[arg-type]
