"""Online episodes in Dagster: reported once each with their check, whatever becomes of the run."""

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import numpy as np
import pytest
from dagster import DagsterRunStatus as Status

from tests.online.avatars import FakeLearner, NotingTracker
from tests.online.builders import BEGIN_NS, window
from tests.online.fake_car import FakeCar, begun, ended, episode
from tests.pipelines.conftest import VEHICLE, Pipeline, error_text
from tests.vehicle.fake_bridge import KEY, FakeBridge, free_udp_port
from tspace_core.config import Vehicle, load_vehicle, settings
from tspace_core.link.endpoints import Endpoints
from tspace_core.link.messages import Arm, Disarm
from tspace_core.link.requests import RequestOptions, Spool
from tspace_core.online import avatar, cars
from tspace_core.online.avatar import AvatarOptions, ResumeFrom
from tspace_core.online.results import unhindered
from tspace_core.online.run_state import RunStateFile
from tspace_core.storage import episodes_table
from tspace_core.storage.lake import Lake
from tspace_core.vehicle.kvaser import KvaserCAN, KvaserOptions
from tspace_core.vehicle.stream import StreamItem
from tspace_core.vehicle.windows import Window
from tspace_pipelines.definitions import build
from tspace_pipelines.new_episodes import CHECK, EPISODES, Progress, RunVerdicts, advance
from tspace_pipelines.online_report import EpisodeReporter
from tspace_pipelines.online_requests import REQUEST_TAG, VEHICLE_TAG, decide

LONG_S = 180.0
LEARNER = dg.AssetKey("replay_buffer")
TRUCK = load_vehicle(VEHICLE)
WINDOWS = 25
"""Twelve records, enough for an episode of the truck to be stored."""


class ReadyLearner(FakeLearner):
    def require_ready(self) -> Any:
        return SimpleNamespace(notes=())


class Stage:
    """The job as the daemon starts it, in this process, on a scripted vehicle."""

    def __init__(self, pipeline: Pipeline, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pipeline, self.lake = pipeline, lake
        self.instance = pipeline.instance
        self.spool = Spool(settings().online_dir, VEHICLE)
        self.script: list[StreamItem] = []
        self.hold = False
        self.cars: list[FakeCar] = []
        self.made = threading.Event()
        monkeypatch.setattr(cars, "kvaser_car", self._car)
        monkeypatch.setattr(avatar, "LearnerProcess", ReadyLearner)
        monkeypatch.setattr("tspace_core.agents.tracking.Tracker", lambda **_: NotingTracker())

    def drive(self, *episodes: list[StreamItem], tags: dict[str, str] | None = None) -> dg.DagsterRun:
        """Carry the job out; ``begin`` as the sensor sets it for a request of the HMI."""
        self.script = [item for one in episodes for item in one]
        config = {"vehicle": VEHICLE, "begin": tags is not None and REQUEST_TAG in tags}
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        result = (
            build()
            .resolve_job_def("online_episodes")
            .execute_in_process(
                instance=self.instance,
                run_config={"ops": {"drive_online": {"config": config}}, **quiet},
                tags=tags,
                raise_on_error=False,
            )
        )
        run = self.instance.get_run_by_id(result.run_id)
        assert run is not None
        print(error_text(result))  # shown where the test fails
        return run

    def keys(self) -> list[str]:
        return [log.key for log in self.lake.episode_logs(VEHICLE)]

    def reported(self) -> list[str | None]:
        """Partitions of all materializations, the oldest first."""
        wanted = dg.AssetRecordsFilter(asset_key=EPISODES)
        found = self.instance.fetch_materializations(wanted, limit=50, ascending=True).records
        return [record.partition_key for record in found]

    def checks(self, run: dg.DagsterRun) -> list[Any]:
        entries = self.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
        return [entry.dagster_event.asset_check_evaluation_data for entry in entries if entry.dagster_event]

    def new_episodes(self) -> int:
        """What a retraining would count."""
        found = advance(self.instance, Progress(), [LEARNER])
        return found[VEHICLE].episodes if VEHICLE in found else 0

    def _car(self, vehicle: Vehicle, options: AvatarOptions, resume: ResumeFrom) -> FakeCar:
        self.cars.append(FakeCar(vehicle, self.script, resume=resume, hold=self.hold))
        self.made.set()
        return self.cars[-1]


@pytest.fixture
def stage(pipeline: Pipeline, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(pipeline, lake, monkeypatch)


def drive(number: int, *, valid: bool = True) -> list[StreamItem]:
    """An episode of an uneventful drive."""
    found = episode(TRUCK, number, WINDOWS, valid=valid)
    return [_plain(item, k) if isinstance(item, Window) else item for k, item in enumerate(found)]


def _plain(item: Window, k: int) -> Window:
    samples = item.samples.copy()
    samples[:, 1:] = (20.0, 0.0)
    return replace(item, samples=samples, energy_wh=1.0 + k / 100, distance_m=20.0)


def spoil(path: Path) -> None:
    """Make an action of a stored piece larger than any may be."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = pq.read_table(path, partitioning=None)
    column = found.column("action")
    values = np.array(column.combine_chunks().flatten().to_numpy(zero_copy_only=False))
    values[100] = 1.5
    lengths = column.type.list_size
    spoiled = pa.FixedSizeListArray.from_arrays(pa.array(values), lengths).cast(column.type)
    pq.write_table(found.set_column(found.schema.get_field_index("action"), "action", spoiled), path)


def test_each_stored_episode_is_one_materialization_with_its_check(stage: Stage) -> None:
    run = stage.drive(drive(1), drive(2, valid=False), drive(3))
    assert run.status is Status.SUCCESS
    assert run.tags[VEHICLE_TAG] == VEHICLE
    keys = stage.keys()
    assert len(keys) == 2
    assert stage.reported() == keys
    assert set(keys) <= set(stage.instance.get_dynamic_partitions("logs"))
    for key, check in zip(keys, stage.checks(run), strict=True):
        assert (check.asset_key, check.check_name, check.partition) == (EPISODES, CHECK, key)
        assert (check.passed, check.blocking) == (True, True)
    metadata = stage.pipeline.metadata("episodes", keys[1])
    assert metadata["records"] == metadata["dagster/row_count"] == 12
    assert (metadata["number"], metadata["episodes"], metadata["end_reason"]) == (3, 1, "end_valid")
    assert metadata["flashes"] == {"APPLIED": 12, "HELD": 1}
    assert metadata["learned"]["critic_loss"] == 1.5
    assert Path(str(metadata["training_log"])).is_file()
    assert metadata["plot"].startswith("![") and len(metadata["plot"]) < 50_000
    assert stage.new_episodes() == 2


def test_a_bad_episode_is_put_aside_its_check_is_red_and_nobody_counts_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = EpisodeReporter.__call__

    def spoiled(self: EpisodeReporter, result: Any) -> None:
        if result.number == 1:
            spoil(result.summary.paths[0])
        report(self, result)

    monkeypatch.setattr(EpisodeReporter, "__call__", spoiled)
    run = stage.drive(drive(1), drive(2))
    assert run.status is Status.SUCCESS, "the vehicle drives on"
    bad, good = stage.keys()
    assert [check.passed for check in stage.checks(run)] == [False, True]
    assert stage.lake.episodes(stage.lake.episode_log(bad)) == []
    assert len(list((stage.lake.root / "quarantine" / "episodes").glob("*.reason.json"))) == 1
    assert stage.new_episodes() == 1
    # Made again by hand it says what is left of it.
    result = stage.pipeline.run(["episodes"], bad)
    assert result.success, error_text(result)
    metadata = stage.pipeline.metadata("episodes", bad)
    assert (metadata["episodes"], metadata["records"]) == (0, 0)
    assert stage.new_episodes() == 1
    assert good in stage.reported()


def test_an_online_episode_can_be_materialized_by_hand(stage: Stage) -> None:
    stage.drive(drive(1))
    (key,) = stage.keys()
    before = stage.pipeline.metadata("episodes", key)
    result = stage.pipeline.run(["episodes"], key)
    assert result.success, error_text(result)
    after = stage.pipeline.metadata("episodes", key)
    for name in ("records", "episodes", "energy_wh", "number", "total_reward", "end_reason", "plot"):
        assert after[name] == before[name], name
    assert stage.new_episodes() == 1, "the same episode counts once"


def test_what_an_online_episode_never_had_is_said(stage: Stage) -> None:
    stage.drive(drive(1))
    (key,) = stage.keys()
    result = stage.pipeline.run(["raw_can_logs"], key)
    assert not result.success
    assert "it was recorded online and never had one" in error_text(result)
    gone = f"{VEHICLE}/2026-01-05/online-080000-0099"
    stage.instance.add_dynamic_partitions("logs", [gone])
    result = stage.pipeline.run(["episodes"], gone)
    assert f"no online episode {gone}" in error_text(result)


@pytest.mark.parametrize("reported", ["nothing", "materialization"])
def test_an_episode_that_a_dead_run_stored_is_reported_by_the_next(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, reported: str
) -> None:
    """The worker is killed after storing: before it reports, or between the report and its check."""

    def killed(*_: object) -> None:
        message = "killed"
        raise RuntimeError(message)

    with monkeypatch.context() as patch:
        name = "__call__" if reported == "nothing" else "_check"
        patch.setattr(EpisodeReporter, name, killed)
        assert stage.drive(drive(1)).status is Status.FAILURE
    assert len(stage.keys()) == 1
    assert len(stage.reported()) == (reported == "materialization")
    assert stage.new_episodes() == 0
    second = stage.drive(drive(2))
    first_key, second_key = stage.keys()
    assert stage.reported()[-2:] == [first_key, second_key]
    assert [check.passed for check in stage.checks(second)] == [True, True]
    assert stage.new_episodes() == 2
    # Once known and checked, no run reports it again.
    third = stage.drive(drive(3))
    assert len(stage.checks(third)) == 1


def test_a_damaged_episode_of_the_past_does_not_keep_the_vehicle_from_driving(stage: Stage) -> None:
    stage.drive(drive(1))
    other = stage.lake.episodes_manifest(stage.lake.log_of(f"{VEHICLE}/2026-01-05/online-070000-0009"))
    other.write_text("{}")
    assert stage.drive(drive(2)).status is Status.SUCCESS
    assert len(stage.reported()) == 2


def test_a_report_that_cannot_be_written_is_the_cause_and_the_episode_stays(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.hold = True

    def locked(*_: object) -> None:
        message = "database is locked"
        raise RuntimeError(message)

    monkeypatch.setattr(EpisodeReporter, "_report", locked)
    run = stage.drive(drive(1))
    assert run.status is Status.FAILURE
    assert RunStateFile(settings().online_dir / VEHICLE, TRUCK).load().ended == "keeper: database is locked"
    assert len(stage.keys()) == 1


def test_lines_that_nobody_takes_cost_nothing() -> None:
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        message = "database is locked"
        raise RuntimeError(message)

    unhindered(tell)("a line")
    assert told == ["a line"]


def test_a_repeated_run_waits_for_the_hmi(stage: Stage) -> None:
    """Re-execution in the UI copies tags and config of a run whose request is long over."""
    request = stage.spool.write("hmi", "begin", RequestOptions())
    tags = {VEHICLE_TAG: VEHICLE, REQUEST_TAG: request.id}
    stage.drive(drive(1), tags=tags)
    assert [event.value for event in stage.cars[0].requests] == ["begin"]
    stage.spool.finish(request, "done")
    first = stage.instance.get_runs(limit=1)[0]
    stage.drive(drive(2), tags={**tags, "dagster/parent_run_id": first.run_id})
    assert stage.cars[1].requests == []


def interrupt_when(ready: Callable[[], object]) -> threading.Thread:
    """Send what Terminate in the UI comes to in the run's worker."""

    def wait() -> None:
        ready()
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_terminate_in_the_ui_saves_what_there_is_and_cancels_the_run(stage: Stage) -> None:
    stage.hold = True
    request = stage.spool.write("hmi", "begin", RequestOptions())

    def driven() -> None:
        assert stage.made.wait(LONG_S)
        assert stage.cars[0].played.wait(LONG_S)
        (active,) = stage.instance.get_runs(dg.RunsFilter(statuses=[Status.STARTED]))
        stage.instance.report_run_canceling(active)

    thread = interrupt_when(driven)
    # The second episode is still open.
    tags = {VEHICLE_TAG: VEHICLE, REQUEST_TAG: request.id}
    run = stage.drive(drive(1), drive(2)[:-1], tags=tags)
    thread.join(LONG_S)
    assert run.status is Status.CANCELED
    state = RunStateFile(settings().online_dir / VEHICLE, TRUCK).load()
    assert state.episodes == 2, "the number of the open episode is used up"
    assert "Interrupted" in state.ended
    assert state.live_map is not None
    (key,) = stage.keys()
    assert stage.reported() == [key]
    assert RunVerdicts.read(stage.instance, run.run_id).over
    assert stage.new_episodes() == 1
    # The vehicle is on hold.
    assert decide(stage.instance, stage.spool, datetime.now(UTC)).requests == []
    assert "cancelled by a person" in str(stage.spool.done()[-1].outcome)


def test_terminate_asks_the_bridge_for_the_reference_map(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real vehicle interface, a bridge on a real channel."""
    bridge = FakeBridge(TRUCK)
    addresses = Endpoints("127.0.0.1", free_udp_port(), "127.0.0.1", bridge.server.port)

    def car(vehicle: Vehicle, options: AvatarOptions, resume: ResumeFrom) -> KvaserCAN:
        return KvaserCAN(vehicle, KvaserOptions(run_id=options.run_id, addresses=addresses, key=KEY))

    monkeypatch.setattr(cars, "kvaser_car", car)
    heard: list[object] = []
    request = stage.spool.write("hmi", "begin", RequestOptions())

    def armed() -> None:
        heard.append(bridge.next())
        (active,) = stage.instance.get_runs(dg.RunsFilter(statuses=[Status.STARTED]))
        stage.instance.report_run_canceling(active)

    thread = interrupt_when(armed)
    try:
        run = stage.drive(tags={VEHICLE_TAG: VEHICLE, REQUEST_TAG: request.id})
        thread.join(LONG_S)
        heard.append(bridge.next())
        assert bridge.gone.wait(LONG_S)
    finally:
        bridge.stop()
    assert run.status is Status.CANCELED
    # It may come while the answer to arming is still on its way; asked for is the reference map in any case.
    assert isinstance(heard[0], Arm)
    assert isinstance(heard[1], Disarm)
    assert "Interrupted" in RunStateFile(settings().online_dir / VEHICLE, TRUCK).load().ended


def test_a_disk_that_fills_up_between_two_episodes_ends_the_run_and_keeps_the_first(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.hold = True
    write = episodes_table.write

    def full(path: Path, found: Any) -> None:
        if found.meta.log_key.endswith("-0002"):
            raise OSError(28, "No space left on device")
        write(path, found)

    monkeypatch.setattr(episodes_table, "write", full)
    run = stage.drive(drive(1), drive(2))
    assert run.status is Status.FAILURE
    assert len(stage.keys()) == len(stage.reported()) == 1
    ended_by = RunStateFile(settings().online_dir / VEHICLE, TRUCK).load().ended
    assert "No space left on device" in ended_by and "make room" in ended_by


def test_an_episode_without_records_is_reported_and_counts_nothing(stage: Stage) -> None:
    script: list[StreamItem] = [begun(1, BEGIN_NS), window(TRUCK, 0, valid=False), ended(1)]
    run = stage.drive(script)
    assert run.status is Status.SUCCESS
    metadata = stage.pipeline.metadata("episodes", stage.keys()[0])
    assert (metadata["records"], metadata["episodes"]) == (0, 0)
    assert "plot" not in metadata
    assert stage.new_episodes() == 0
