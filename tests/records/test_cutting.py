"""Windows, half steps, rewards and ends of episodes, on grids with numbers that tell where they come from."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.records.builders import START_NS, context, grid, small_vehicle
from tspace_core.config import RewardConfig, Vehicle
from tspace_core.records.cutting import AMBIGUOUS_JOURNAL, UNKNOWN_FLASH, CutReport, cut_episodes
from tspace_core.records.episode import Episode, RecordFlag
from tspace_core.records.flash_journal import Flash
from tspace_core.records.window import GridTable


def cut(
    table: GridTable, vehicle: Vehicle, flashes: list[Flash] | None = None
) -> tuple[list[Episode], CutReport]:
    report = CutReport()
    return list(cut_episodes(table, context(vehicle), flashes or [], report)), report


DEFAULT_MAP = small_vehicle(actions="default_map")


def test_timeline_of_states_rewards_and_times_by_hand() -> None:
    # 11 rows, W = 2: windows [0,1] [2,3] [4,5] [6,7] [8,9], row 10 is left: 2 records.
    episodes, report = cut(grid(11), DEFAULT_MAP)
    (episode,) = episodes
    assert len(episode) == 2
    assert episode.states.tolist() == [
        [0, 100, 200, 1, 101, 201],
        [4, 104, 204, 5, 105, 205],
        [8, 108, 208, 9, 109, 209],
    ]
    # Reward 0 is of rows 2..5 (half step and next window), reward 1 of rows 6..9.
    assert episode.rewards.tolist() == [-(4 + 8 + 16 + 32), -(64 + 128 + 256 + 512)]
    assert episode.times.tolist() == [START_NS + 7 + row * 100_000_000 for row in (0, 4, 8)]
    assert episode.meta.energy_wh == 60 + 960
    assert episode.meta.distance_m == 8
    assert episode.meta.duration_s == pytest.approx(0.9)
    assert report.left_rows == 1
    assert report.rows == 11


def test_the_first_action_is_zero_and_every_sample_is_counted_once() -> None:
    (episode,), _ = cut(grid(22), DEFAULT_MAP)
    assert not episode.actions[0].any()
    assert episode.flags[0] & RecordFlag.FIRST
    assert not (episode.flags[1:] & RecordFlag.FIRST).any()
    used = 2 * (2 * len(episode) + 1)
    assert episode.rewards.sum() == -(2.0 ** np.arange(2, used)).sum()


def test_rewards_of_other_kinds_use_the_last_samples_of_both_windows() -> None:
    vehicle = small_vehicle(
        actions="default_map", reward=RewardConfig(kind="energy_shaped", gamma=0.5), road=DEFAULT_MAP.road
    )
    (episode,), _ = cut(grid(6), vehicle)
    mass = vehicle.road.mass_kg * vehicle.road.rotating_mass_factor

    def potential(speed_kmh: float) -> float:
        return 0.5 * mass * (speed_kmh / 3.6) ** 2 / 3600

    assert episode.rewards[0] == pytest.approx(-60 + 0.5 * potential(5) - potential(1), rel=1e-5)


def test_a_stale_row_ends_the_episode_and_is_counted() -> None:
    table = grid(30)
    table.values["brake"][13] = np.nan
    episodes, report = cut(table, DEFAULT_MAP)
    assert [len(episode) for episode in episodes] == [2, 3]
    assert [episode.meta.end_reason for episode in episodes] == ["stale: brake", "end of segment"]
    assert episodes[1].states[0, 0] == 14
    assert report.unusable_rows == {"stale: brake": 1}
    assert [episode.meta.episode_id[-5:] for episode in episodes] == ["#0000", "#0001"]


def test_a_row_without_measured_energy_ends_the_episode() -> None:
    table = grid(30)
    table.energy_s[0] = 0.0  # the step before the log's first row is nobody's
    table.energy_s[10] = 0.05
    episodes, report = cut(table, DEFAULT_MAP)
    assert [episode.states[0, 0] for episode in episodes] == [0, 11]
    assert report.unusable_rows == {"no energy: current or voltage missing": 1}


def test_short_runs_are_counted_and_long_ones_go_on_in_another_episode() -> None:
    rules = DEFAULT_MAP.episodes.model_copy(update={"minimum_records": 2, "maximum_records": 3})
    vehicle = DEFAULT_MAP.model_copy(update={"episodes": rules})
    table = grid(50, segment=np.repeat([0, 1], [9, 41]))
    episodes, report = cut(table, vehicle)
    assert report.short_runs == 1  # 9 rows hold 1 record
    assert report.short_rows == 9
    # 41 rows hold 20 windows, 9 records: 3 + 3 + 3, each beginning with the last window of the one before.
    assert [len(episode) for episode in episodes] == [3, 3, 3]
    assert [e.meta.end_reason for e in episodes] == ["maximum length", "maximum length", "end of segment"]
    assert np.array_equal(episodes[0].states[-1], episodes[1].states[0])
    assert report.ended == {"maximum length": 2, "end of segment": 1}
    assert {e.meta.segment for e in episodes} == {1}


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 25), min_size=1, max_size=6), st.lists(st.integers(0, 100), max_size=5))
def test_no_window_crosses_a_segment_or_holds_a_bad_row(lengths: list[int], holes: list[int]) -> None:
    table = grid(sum(lengths), segment=np.repeat(np.arange(len(lengths)), lengths))
    index = np.arange(len(table), dtype=np.float32)
    table.values["velocity"][:] = index
    table.energy_wh[:] = 1.0  # 2^r Wh are no float32 any more in 129 rows
    bad = [hole for hole in holes if hole < len(table)]
    table.values["thrust"][bad] = np.nan
    episodes, report = cut(table, DEFAULT_MAP)
    used: list[int] = []
    for episode in episodes:
        first, last = int(episode.states[0, 0]), int(episode.states[-1, -3])
        rows = list(range(first, last + 1))
        assert len(rows) == 2 * (2 * len(episode) + 1)
        assert len(set(table.segment[rows].tolist())) == 1
        assert not set(rows) & set(bad)
        used += rows
    assert len(used) == len(set(used))
    accounted = sum(report.unusable_rows.values()) + report.short_rows + report.left_rows + len(used)
    assert accounted == report.rows == len(table)


def journal_flash(row: float, first_row: int, change_nm: float, result: str = "APPLIED") -> Flash:
    default = context(small_vehicle()).default_map
    torque = default.table[first_row : first_row + 4] + np.float32(change_nm)
    return Flash(START_NS + round(row * 1e8), first_row, torque, result)  # type: ignore[arg-type]


def test_actions_are_the_live_map_relative_to_the_default() -> None:
    # Decisions behind rows 1, 5, 9, 13 (W = 2); flashes in the half steps at rows 6 and 10, none in the last.
    flashes = [journal_flash(6, 0, -125), journal_flash(10, 0, -250)]
    (episode,), _ = cut(grid(18, velocity=5), small_vehicle(), flashes)
    assert episode.actions.mean(axis=1).tolist() == [0, -0.5, -1, -1]
    first = RecordFlag.FIRST | RecordFlag.HELD
    assert episode.flags.tolist() == [first, RecordFlag.FLASHED, RecordFlag.FLASHED, RecordFlag.HELD]
    assert episode.rows.tolist() == [0, 0, 0, 0]


def test_a_flash_beyond_the_budget_is_clipped_and_counted() -> None:
    flashes = [journal_flash(6, 0, -250), journal_flash(10, 0, -300)]
    (episode,), report = cut(grid(18, velocity=5), small_vehicle(), flashes)
    assert episode.actions.mean(axis=1).tolist() == [0, -1, -1, -1]
    assert (episode.flags & RecordFlag.CLIPPED > 0).tolist() == [False, False, True, True]
    assert report.clipped_records == 2


def test_only_the_rows_in_view_count_and_earlier_flashes_stay_live() -> None:
    # The flash changed rows 0..3; the third step flashes rows 2..5: it sees rows 2 and 3 of the first, too.
    flashes = [journal_flash(6, 0, -125), journal_flash(10, 2, -50)]
    (episode,), _ = cut(grid(15, velocity=5), small_vehicle(), flashes)
    action = episode.actions[2].reshape(4, 17)
    assert episode.rows[2] == 2
    assert action == pytest.approx(np.full((4, 17), -0.2), abs=1e-6)


def test_a_reverted_flash_changes_nothing_and_an_unknown_one_ends_the_episode() -> None:
    reverted = [journal_flash(6, 0, -125, "REVERTED")]
    (episode,), _ = cut(grid(15, velocity=5), small_vehicle(), reverted)
    assert not episode.actions.any()
    unknown = [journal_flash(10, 0, -125, "UNKNOWN"), journal_flash(18, 0, 0)]
    episodes, report = cut(grid(30, velocity=5), small_vehicle(), unknown)
    assert [len(episode) for episode in episodes] == [2, 3]
    assert episodes[0].meta.end_reason == UNKNOWN_FLASH
    assert report.lost_records[UNKNOWN_FLASH] == 2


def test_rows_of_an_unknown_flash_stay_unknown_until_they_are_flashed_again() -> None:
    # Rows 0..3 unknown from the second step on; an applied flash of rows 4..7 says nothing about them.
    flashes = [journal_flash(6, 0, -125, "UNKNOWN"), journal_flash(10, 4, -50), journal_flash(18, 0, 0)]
    episodes, report = cut(grid(30, velocity=5), small_vehicle(), flashes)
    assert report.lost_records[UNKNOWN_FLASH] == 2
    assert [len(episode) for episode in episodes] == [1, 1, 3]
    assert episodes[1].rows.tolist() == [4]


def test_a_first_record_under_a_changed_map_says_so() -> None:
    flashes = [journal_flash(2, 0, -125), journal_flash(6, 0, -250)]
    (episode,), _ = cut(grid(11, velocity=5), small_vehicle(), flashes)
    assert not episode.actions[0].any()
    assert episode.flags[0] == RecordFlag.FIRST | RecordFlag.FLASHED | RecordFlag.ZEROED
    assert episode.actions[1].mean() == -1


def test_windows_are_laid_so_that_the_first_flash_follows_a_decision() -> None:
    vehicle = small_vehicle()
    sampling = vehicle.sampling.model_copy(update={"window": 8})
    vehicle = vehicle.model_copy(update={"sampling": sampling})
    table = grid(100, velocity=5)
    # The natural decision lies behind row 7 and 23; a flash behind row 13 asks for windows from row 6 on.
    (episode,), _ = cut(table, vehicle, [journal_flash(13.5, 0, -125)])
    assert episode.states[0, 1] == 100 + 6
    (episode,), _ = cut(table, vehicle, [journal_flash(8.5, 0, -125)])
    assert episode.states[0, 1] == 100


def test_a_journal_of_a_log_whose_clock_steps_back_is_not_guessed_at() -> None:
    table = grid(40, velocity=5, segment=np.repeat([0, 1], [20, 20]))
    back = replace(table, log_time_ns=np.concatenate([table.log_time_ns[20:], table.log_time_ns[:20]]))
    episodes, report = cut(back, small_vehicle(), [journal_flash(6, 0, -125)])
    assert episodes == []
    assert report.unusable_rows == {AMBIGUOUS_JOURNAL: 40}
    assert len(cut(back, DEFAULT_MAP)[0]) == 2


def test_realised_torque_fills_visited_cells_only() -> None:
    vehicle = small_vehicle(actions="realised_torque")
    default = context(vehicle).default_map
    table = grid(15, velocity=30.0)
    table.values["thrust"][:] = 20.0
    at_cell = float(default.torque(0.2, 30.0))
    table.values["motor_torque"][:] = at_cell
    table.values["motor_torque"][6:10] = at_cell - 100  # in effect after the second decision, behind row 5
    (episode,), report = cut(table, vehicle)
    assert report.clipped_records == 0
    action = episode.actions[1].reshape(4, 17)
    row = int(np.argmin(np.abs(default.speed_axis_kmh - 30))) - episode.rows[1]
    column = int(np.argmin(np.abs(default.pedal_axis - 0.2)))
    assert action[row, column] == pytest.approx(-100 / 250, abs=1e-5)
    assert np.count_nonzero(np.abs(action) > 1e-5) == 1
    assert np.abs(episode.actions[2]).max() < 1e-5
    assert (episode.flags & RecordFlag.INFERRED).all()
    assert "inferred" in episode.meta.action_note
    table.values["motor_torque"][6:10] = at_cell - 300
    (episode,), report = cut(table, vehicle)
    assert episode.actions[1].min() == -1
    assert (episode.flags & RecordFlag.CLIPPED > 0).tolist() == [False, True, False]
    assert report.clipped_records == 1


def test_meta_says_what_the_numbers_are() -> None:
    (episode,), _ = cut(grid(11), DEFAULT_MAP)
    meta = episode.meta
    assert (meta.vehicle_id, meta.rate_hz, meta.window) == ("twin_truck", 10.0, 2)
    assert meta.timezone == "Europe/Berlin"
    assert meta.units["velocity"] == "km/h"
    assert meta.pedal_axis[:3] == (0, 0.02, 0.04)
    assert len(meta.speed_axis_kmh) == 14
    assert meta.action_source == "default_map"
    assert meta.software_version
    assert meta.default_map_sha256 == context(DEFAULT_MAP).default_map.sha256()
    assert (meta.budget_nm, meta.upper_factor) == (250, 1.0)
