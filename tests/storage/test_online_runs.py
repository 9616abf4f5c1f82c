"""When a vehicle was in an online run, also where the run died."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tspace_core.errors import StorageError
from tspace_core.storage.box_drives import DriveRules, Held, outside, over, split
from tspace_core.storage.lake import Lake
from tspace_core.storage.online_runs import GRACE_S, close_run, open_run, runs_between, touch_run

S = 10**9
GRACE_NS = round(GRACE_S * S)
VEHICLE = "twin_remote"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


def test_a_closed_run_is_as_long_as_it_was(lake: Lake) -> None:
    run = open_run(lake, VEHICLE, "a", 100 * S)
    close_run(lake, VEHICLE, touch_run(lake, VEHICLE, run, 150 * S), 160 * S)
    assert runs_between(lake, VEHICLE, 0, 1000 * S) == [(100 * S, 160 * S)]
    assert runs_between(lake, VEHICLE, 160 * S, 1000 * S) == [(100 * S, 160 * S)], "the ends count"
    assert not runs_between(lake, VEHICLE, 161 * S, 1000 * S)
    assert not runs_between(lake, VEHICLE, 0, 99 * S)
    assert not runs_between(lake, "twin_truck", 0, 1000 * S)


def test_a_run_that_died_ends_some_time_after_its_last_sign_of_life(lake: Lake) -> None:
    run = open_run(lake, VEHICLE, "a", 100 * S)
    assert runs_between(lake, VEHICLE, 0, 10_000 * S) == [(100 * S, 100 * S + GRACE_NS)]
    touch_run(lake, VEHICLE, run, 500 * S)
    assert runs_between(lake, VEHICLE, 0, 10_000 * S) == [(100 * S, 500 * S + GRACE_NS)]


def test_a_run_that_died_ends_when_the_next_one_begins(lake: Lake) -> None:
    open_run(lake, VEHICLE, "a", 100 * S)
    second = open_run(lake, VEHICLE, "b", 130 * S)
    close_run(lake, VEHICLE, second, 200 * S)
    assert runs_between(lake, VEHICLE, 0, 10_000 * S) == [(100 * S, 130 * S), (130 * S, 200 * S)]
    assert runs_between(lake, VEHICLE, 190 * S, 10_000 * S) == [(130 * S, 200 * S)]


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a b", "x" * 101])
def test_a_name_that_could_leave_its_folder_is_refused(lake: Lake, name: str) -> None:
    with pytest.raises(StorageError, match="run id"):
        open_run(lake, VEHICLE, name, 1)


def test_a_damaged_run_says_what_to_do(lake: Lake) -> None:
    open_run(lake, VEHICLE, "a", 100 * S)
    (path,) = (Path(str(lake.root)) / "online_runs" / f"vehicle={VEHICLE}").iterdir()
    path.write_text('{"begun_ns": "soon"}')
    with pytest.raises(StorageError, match="delete it"):
        runs_between(lake, VEHICLE, 0, 1000 * S)


RULES = DriveRules(gap_s=5.0, quiet_s=60.0, settle_s=10.0, longest_s=100.0)


def held(starts: list[int]) -> list[Held]:
    return [
        Held(start * S, f"{number:03d}", (start + 4) * S, (start + 5) * S, "e", 0, 1)
        for number, start in enumerate(starts)
    ]


@given(st.lists(st.integers(0, 2000), max_size=40), st.integers(0, 3000))
def test_every_window_is_in_one_drive_and_drives_keep_their_rules(starts: list[int], now_s: int) -> None:
    windows = held(starts)
    drives = split(windows, RULES)
    assert sorted(window for drive in drives for window in drive) == sorted(windows)
    for drive in drives:
        assert drive == sorted(drive)
        assert drive[-1].start_ns - drive[0].start_ns < RULES.longest_s * S
        newest = drive[0].end_ns
        for window in drive[1:]:
            assert window.start_ns - newest <= RULES.gap_s * S
            newest = max(newest, window.end_ns)
    done = over(windows, RULES, now_s * S)
    assert all(drive in drives for drive in done)
    assert all(drive in drives[:-1] for drive in over(windows, RULES, now_s * S, all_listed=False))
    assert over(windows, RULES, 10_000 * S) == drives, "in the end all are over"


@given(st.lists(st.integers(0, 300), max_size=20), st.integers(0, 300), st.integers(0, 100))
def test_what_touches_a_run_is_left_out(starts: list[int], begin: int, length: int) -> None:
    windows = held(starts)
    kept, left = outside(windows, [(begin * S, (begin + length) * S)])
    assert sorted(kept + left) == sorted(windows)
    for window in left:
        assert window.start_ns <= (begin + length) * S and window.end_ns >= begin * S
    for window in kept:
        assert window.start_ns > (begin + length) * S or window.end_ns < begin * S
