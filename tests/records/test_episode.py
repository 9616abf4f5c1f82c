"""Episodes and flash journals refuse what contradicts their definition."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from tests.records.builders import context, grid, small_vehicle
from tspace_core.can.report import ReadReport
from tspace_core.errors import RecordError
from tspace_core.records.cutting import CutReport, cut_episodes
from tspace_core.records.episode import Episode
from tspace_core.records.flash_journal import TORN_LINE, Flash, FlashResult, read_journal, write_journal
from tspace_core.records.policy import ConstantPolicy, Policy, ZeroPolicy


@pytest.fixture
def episode() -> Episode:
    vehicle = small_vehicle(actions="default_map")
    return next(cut_episodes(grid(11), context(vehicle), [], CutReport()))


@pytest.mark.parametrize(
    ("field", "change", "words"),
    [
        ("states", lambda a: a[:-1], "states is float32"),
        ("states", lambda a: a.astype(np.float64), "states is float64"),
        ("rewards", lambda a: a * np.float32(np.nan), "rewards holds 2 values that are not finite"),
        ("actions", lambda a: a + np.float32(1.5), "an action is 1.5, the limit is 1"),
        ("actions", lambda a: a[:, :67], "actions"),
        ("rows", lambda a: a.astype(np.int64), "rows is int64"),
        ("times", lambda a: a[::-1], "times do not ascend"),
        ("flags", lambda a: a[:1], "flags"),
    ],
)
def test_an_episode_that_contradicts_itself_is_refused(
    episode: Episode, field: str, change: Any, words: str
) -> None:
    with pytest.raises(RecordError, match=words):
        replace(episode, **{field: change(getattr(episode, field))})


def test_an_episode_without_records_is_refused(episode: Episode) -> None:
    empty = {name: getattr(episode, name)[:0] for name in ("actions", "rows", "rewards", "flags")}
    with pytest.raises(RecordError, match="no record"):
        replace(episode, states=episode.states[:1], times=episode.times[:1], **empty)


def test_a_journal_reads_back_exactly(tmp_path: Path) -> None:
    default = context(small_vehicle()).default_map
    rng = np.random.default_rng(3)
    flashes = [
        Flash(1_767_600_000_123_456_789 + k, k, rng.normal(0, 900, (4, 17)).astype(np.float32), result)
        for k, result in enumerate(get_args(FlashResult))
    ]
    path = tmp_path / "a.blf.flashes.jsonl"
    write_journal(path, flashes)
    found = read_journal(path, default)
    assert [(f.time_ns, f.first_row, f.result) for f in found] == [
        (f.time_ns, f.first_row, f.result) for f in flashes
    ]
    assert all(np.array_equal(a.torque_nm, b.torque_nm) for a, b in zip(found, flashes, strict=True))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("not json", "JSONDecodeError"),
        ('{"time_ns": 1}', "torque_nm"),
        ('{"time_ns": 1, "first_row": 0, "torque_nm": [[1]], "result": "APPLIED"}', r"shape \(1, 1\)"),
        ('{"time_ns": 1, "first_row": 99, "torque_nm": %s, "result": "APPLIED"}', "first_row 99 is outside"),
        ('{"time_ns": 1, "first_row": 0, "torque_nm": %s, "result": "OK"}', "'OK' is none of APPLIED"),
    ],
)
def test_a_damaged_journal_names_its_line(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "a.blf.flashes.jsonl"
    path.write_text("\n" + line.replace("%s", str([[0] * 17] * 4)) + "\n")
    with pytest.raises(RecordError, match=f"line 2: .*{words}"):
        read_journal(path, context(small_vehicle()).default_map)


def test_fixed_policies_give_an_action_for_every_state() -> None:
    states = np.zeros((3, 90), np.float32)
    for policy, value in ((ZeroPolicy(), 0.0), (ConstantPolicy(-1.0), -1.0), (ConstantPolicy(7.0), 1.0)):
        assert isinstance(policy, Policy)
        found = policy(states)
        assert found.shape == (3, 68)
        assert found.dtype == np.float32
        assert (found == value).all()


def test_a_journal_of_foreign_bytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.flashes.jsonl").write_bytes(b"\xff\xfe{}")
    with pytest.raises(RecordError, match=r"a\.flashes\.jsonl: no flash journal, byte 0"):
        read_journal(tmp_path / "a.flashes.jsonl", context(small_vehicle()).default_map)


@pytest.mark.parametrize(
    ("kept", "unknown"), [(1, []), (12, []), (45, []), (58, [(10**18 + 1, 3)]), (300, [(10**18 + 1, 3)])]
)
def test_a_torn_last_line_costs_only_itself(tmp_path: Path, kept: int, unknown: list[object]) -> None:
    default = context(small_vehicle()).default_map
    whole, last = (Flash(10**18 + k, 2 + k, np.ones((4, 17), np.float32), "APPLIED") for k in range(2))
    path = tmp_path / "a.flashes.jsonl"
    path.write_text(f"{whole.to_json()}\n{last.to_json()[:kept]}")
    report = ReadReport()
    first, *torn = read_journal(path, default, report)
    assert (first.time_ns, first.result) == (10**18, "APPLIED")
    assert [(flash.time_ns, flash.first_row) for flash in torn] == unknown
    assert all(flash.result == "UNKNOWN" for flash in torn)
    assert report.dropped == {TORN_LINE: 1}
    assert f"{path}, line 2: " in report.messages[TORN_LINE]


def test_a_last_line_that_is_whole_but_wrong_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.flashes.jsonl"
    path.write_text('{"time_ns": 1}')
    with pytest.raises(RecordError, match="line 1"):
        read_journal(path, context(small_vehicle()).default_map, ReadReport())
