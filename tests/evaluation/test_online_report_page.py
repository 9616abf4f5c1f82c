"""The page on online episodes: needs nothing else, escapes what it is given, and bears odd episodes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.evaluation.test_report import EVIL, Page
from tests.online.builders import BEGIN_NS, small_vehicle, window
from tspace_core.cli import app
from tspace_core.config import TorqueMap, Vehicle, load_site, load_vehicle
from tspace_core.errors import StorageError
from tspace_core.evaluation.online import write_online_report
from tspace_core.online.recording import EpisodeBuilder, RecordingContext, StepAction
from tspace_core.storage.lake import Lake
from tspace_core.storage.online_episodes import online_key, store_online_episode


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def step(time_ns: int, **changes: Any) -> dict[str, Any]:
    return {
        "time_ns": time_ns, "first_row": 0, "flash": "APPLIED", "code": 0, "reason": "", "clipped": {},
        "reward": -1.0, **changes,
    }  # fmt: skip


def training_log(steps: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return {
        "end_reason": "end_valid", "records": 0, "total_reward": 0.0, "running_reward": None,
        "lost_records": {}, "invalid_windows": {}, "latency_ms": {}, "learning": None, "learner": None,
        "steps": steps, **changes,
    }  # fmt: skip


def store(
    lake: Lake,
    vehicle: Vehicle,
    number: int,
    *,
    windows: int = 9,
    live: TorqueMap | None = None,
    steps: list[dict[str, Any]] | None = None,
    **log: Any,
) -> str:
    """An online episode in the lake, recorded by the real builder."""
    key = online_key(vehicle.id, BEGIN_NS, number)
    default = vehicle.default_map()
    builder = EpisodeBuilder(RecordingContext(vehicle, load_site(vehicle.site), default, vehicle.driver, key))
    for k in range(windows):
        builder.window(window(vehicle, k))
        if builder.waiting:
            builder.act(StepAction(0, default.table[:4], flashed=k > 0))
    pieces = builder.finish("end_valid")
    if steps is None:
        steps = [step(int(instant)) for piece in pieces for instant in piece.times[:-1]]
    content = training_log(steps, records=sum(map(len, pieces)), **log)
    store_online_episode(lake, vehicle, key, pieces, training_log=content, live_map=live)
    return key


def page(lake: Lake, vehicle: Vehicle, *keys: str, command: str = "") -> Page:
    path = lake.local / "page.html"
    write_online_report(path, lake=lake, vehicle=vehicle, keys=keys, command=command)
    return Page(path.read_text(encoding="utf-8"))


def test_it_shows_episodes_and_needs_nothing_else(lake: Lake) -> None:
    truck = small_vehicle()
    refused = step(BEGIN_NS, flash="REFUSED", reason="rate: 0.4 s since the last flash")
    clipped = step(BEGIN_NS + 10**9, clipped={"budget": 3})
    first = store(lake, truck, 1, live=truck.default_map(), steps=[refused, clipped])
    second = store(lake, truck, 2, learning={"updates": 6, "live_records": 4}, latency_ms={"p99": 3.25})
    found = page(lake, truck, first, second, command="tspace report")
    assert found.loads == [] and "script" not in found.tags
    assert found.tags.count("svg") == 3
    for text in (first, second, "1 × rate: 0.4 s since the last flash", "budget 3", "3.25", "1 of 2"):
        assert text in found.text, text
    assert "Made by tspace report" in found.text


def test_it_escapes_what_it_is_given(lake: Lake) -> None:
    truck = small_vehicle(description=EVIL)
    steps = [step(BEGIN_NS, flash=EVIL, reason=EVIL, clipped={EVIL: 1})]
    key = store(lake, truck, 1, steps=steps, end_reason=EVIL, lost_records={EVIL: 1}, learner=EVIL)
    found = page(lake, truck, key, command=EVIL)
    assert "script" not in found.tags and "b" not in found.tags
    assert found.text.count("alert('x')") >= 6


def test_an_episode_without_pieces_and_steps_has_a_section(lake: Lake) -> None:
    truck = small_vehicle()
    found = page(lake, truck, store(lake, truck, 1, windows=0))
    assert "Decisions: none" in found.text
    assert "svg" not in found.tags


def test_no_episode_at_all_is_a_page_that_says_so(lake: Lake) -> None:
    assert "0 episodes" in page(lake, small_vehicle()).text


def test_an_episode_of_another_window_and_map_than_the_vehicle_has_now(lake: Lake) -> None:
    """The vehicle's file was changed since: the episode is shown as it was recorded."""
    truck = load_vehicle("twin_truck")
    default = truck.default_map()
    other = TorqueMap(default.pedal_axis, default.speed_axis_kmh[:-1], default.table[:-1])
    key = store(lake, small_vehicle(), 1, live=other)
    found = page(lake, truck, key)
    assert found.tags.count("svg") == 1, "its course; its map cannot be compared with today's"
    assert "another axis" in found.text


def test_a_missing_training_log_is_a_clear_error(lake: Lake) -> None:
    truck = small_vehicle()
    key = store(lake, truck, 1)
    lake.training_log(lake.log_of(key)).unlink()
    with pytest.raises(StorageError, match="training"):
        page(lake, truck, key)


def test_the_command_writes_the_page_of_the_last_episodes(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truck = load_vehicle("twin_truck")
    keys = [store(lake, truck, number, windows=9 + 2 * number) for number in (1, 2, 3)]
    out = tmp_path / "page.html"
    arguments = ["report", "--vehicle", truck.id, "--data-dir", str(lake.root), "--out", str(out)]
    result = CliRunner().invoke(app, [*arguments, "--last", "2"])
    assert result.exit_code == 0, result.output
    assert f"2 of 3 online episodes of {truck.id}" in result.output
    text = Page(out.read_text(encoding="utf-8")).text
    assert [key in text for key in keys] == [False, True, True]


def test_the_course_of_an_episode_is_that_of_its_samples(lake: Lake) -> None:
    from tspace_core.evaluation.online import _course
    from tspace_core.storage import episodes_table

    truck = small_vehicle()
    key = store(lake, truck, 1)
    pieces = [episodes_table.read(path) for path in lake.episodes(lake.log_of(key))]
    course = _course(pieces, [])
    curve = course.velocity_kmh[np.isfinite(course.velocity_kmh)]
    assert len(curve) == sum(len(piece.states) for piece in pieces) * truck.sampling.window
    assert (curve == 50.0).all()
    assert np.isnan(course.velocity_kmh).sum() == sum(len(piece.states) for piece in pieces)
