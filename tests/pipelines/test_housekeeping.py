"""The job ``apply_retention``, and that stages make again what retention lets go."""

import os
import time
from pathlib import Path
from typing import Any

import dagster as dg

from tests.pipelines.conftest import Pipeline, error_text
from tests.storage.replay_episodes import coded_episode
from tspace_core.config.retention import Retention
from tspace_core.storage.files import sha256, write_text
from tspace_core.storage.lake import Lake, RawLog
from tspace_core.storage.replay import build_replay, versions_of
from tspace_core.storage.retention import apply_retention, plan_retention

CHAIN = ["raw_can_logs", "can_frames", "can_signals", "episodes"]


def carry_out(pipeline: Pipeline, config: dict[str, Any] | None = None) -> dg.ExecuteInProcessResult:
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    ops = {"ops": {"remove_old": {"config": config}}} if config is not None else {}
    job = pipeline.definitions.resolve_job_def("apply_retention")
    return job.execute_in_process(
        instance=pipeline.instance, run_config={**quiet, **ops}, raise_on_error=False
    )


def told(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (event,) = [event for event in result.all_events if event.is_successful_output]
    return {name: value.value for name, value in event.step_output_data.metadata.items()}


def test_the_job_shows_and_only_removes_when_it_is_told_to(pipeline: Pipeline, lake: Lake) -> None:
    for number in range(5):
        build_replay(lake.replay("twin_truck"), [coded_episode(number, 4)])
    result = carry_out(pipeline)
    assert result.success, error_text(result)
    shown = told(result)
    assert shown["items"] == 2 and "twin_truck/000001" in shown["goes"] and "newest 3" in shown["goes"]
    assert "removed" not in shown and len(versions_of(lake.replay("twin_truck"))) == 5
    result = carry_out(pipeline, {"dry_run": False, "areas": ["replay"]})
    assert result.success, error_text(result)
    assert told(result)["removed"] == 2 and told(result)["removed_bytes"] == shown["bytes"]
    assert versions_of(lake.replay("twin_truck")) == ["000003", "000004", "000005"]


def test_a_wrong_area_is_said_in_plain_words(pipeline: Pipeline, lake: Lake) -> None:
    result = carry_out(pipeline, {"areas": ["signals"]})
    assert not result.success
    assert "StorageError: retention knows no area 'signals'" in error_text(result)


def test_the_schedule_is_off_and_would_remove(pipeline: Pipeline) -> None:
    schedule = pipeline.definitions.resolve_schedule_def("nightly_retention")
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
    with dg.build_schedule_context(instance=pipeline.instance) as context:
        (request,) = schedule.evaluate_tick(context).run_requests or ()
    assert request.run_config == {"ops": {"remove_old": {"config": {"dry_run": False}}}}


def test_frames_that_went_are_made_again_and_nothing_is_lost(
    pipeline: Pipeline, lake: Lake, stored: RawLog
) -> None:
    assert pipeline.run(CHAIN, stored.key).success
    frames, signals = lake.frames(stored), lake.signals(stored)
    before = {str(path): sha256(path) for path in (signals, *lake.episodes(stored))}
    rows = sha256(frames)
    old = time.time() - 200 * 86_400
    assert isinstance(frames, Path)
    os.utime(frames, (old, old))
    write_text(lake.root / "keep.txt", "x")
    plan = plan_retention(lake, Retention.model_validate({"frames": {"days": 180}}), now=time.time())
    assert [verdict.item.name for verdict in plan.goes] == [stored.key]
    assert apply_retention(lake, plan).removed == 1
    assert not frames.exists()
    again = pipeline.run(CHAIN, stored.key)
    assert again.success, error_text(again)
    assert sha256(frames) == rows
    assert {str(path): sha256(path) for path in (signals, *lake.episodes(stored))} == before
