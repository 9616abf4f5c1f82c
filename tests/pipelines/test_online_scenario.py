"""The online loop as its users have it: twin, bridge, Dagster's daemon and code server, each a process.

HMI begin -> the sensor starts the run -> two episodes -> exit; then kill -9 of the run's worker, of the
bridge and of everything. Each time the VCU is on its reference page within 3 s, and the sensor recovers.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster import DagsterRunStatus as Status

from tests.conftest import PROJECT
from tests.online.stage import VEHICLE, Process, Stage, events, stage, wait_event, wait_until
from tspace_core.config import settings
from tspace_core.link.requests import Spool
from tspace_core.online.heartbeat import read_heartbeat
from tspace_core.storage.lake import Lake
from tspace_pipelines.online_requests import ATTEMPT_TAG, VEHICLE_TAG

REFERENCE_PAGE = 0
FALL_BACK_S = 3.0
"""The VCU is back on its reference page within this time of whatever is killed."""
AGAIN_S = 15.0
"""Before a person who sees nothing happen says the same again."""
FLASHES = 4
"""Flashes to see in an episode: enough records for it to be kept."""


def start_daemon(found: Stage) -> Process:
    """Dagster's daemon, which starts a code server and the runs."""
    workspace = str(PROJECT / "workspace.yaml")
    return found.run("daemon", [sys.executable, "-m", "dagster._daemon", "run", "--workspace", workspace])


class Scene:
    """What a person at the truck, and one at Dagster's pages, sees and does."""

    def __init__(self, found: Stage, instance: dg.DagsterInstance) -> None:
        self.stage = found
        self.instance = instance
        self.spool = Spool(settings().online_dir, VEHICLE)
        self.twin = found.start("twin", "twin", "--hmi", "none", "--seed", "3")
        wait_event(self.twin, "ready")
        self.bridge = self.start_bridge()
        self.daemon = start_daemon(found)

    def start_bridge(self) -> Process:
        bridge = self.stage.start("bridge", "bridge", "--no-keys")
        bridge.wait_for(lambda line: "DISARMED" in line or "LOCKED" in line)
        return bridge

    def tell(self) -> None:
        """What Dagster knows of the runs, to be shown where the test fails."""
        for run in self.runs():
            print(f"--- run {run.run_id}: {run.status.value}, {run.tags.get(ATTEMPT_TAG)}")
            for entry in self.instance.all_logs(run.run_id)[-15:]:
                print(f"{entry.timestamp:.1f} {entry.user_message[:300]}")

    def runs(self) -> list[dg.DagsterRun]:
        """Online runs, the newest first."""
        return list(self.instance.get_runs(dg.RunsFilter(tags={VEHICLE_TAG: VEHICLE})))

    def wait_drives(self, other_than: str = "") -> dg.DagsterRun:
        """Wait until a run's own sign of life is there."""

        def drives() -> bool:
            beat = read_heartbeat(self.spool.folder)
            return beat is not None and beat.run_id != other_than and beat.age_s() < 5

        wait_until(drives, "an online run that drives")
        beat = read_heartbeat(self.spool.folder)
        assert beat is not None
        run = self.instance.get_run_by_id(beat.run_id)
        assert run is not None
        return run

    def has_status(self, run: dg.DagsterRun, status: Status) -> bool:
        found = self.instance.get_run_by_id(run.run_id)
        return found is not None and found.status is status

    def wait_status(self, run: dg.DagsterRun, status: Status) -> None:
        wait_until(lambda: self.has_status(run, status), f"run {run.run_id} to be {status.value}")

    def first_begin(self) -> None:
        """Begin while no run is up: the bridge hears it and asks for a run."""
        before = {request.id for request in self.spool.done()}

        def asked() -> bool:
            self.stage.hmi("begin")
            waiting = self.spool.pending()
            return bool(waiting) or any(request.id not in before for request in self.spool.done())

        wait_until(asked, "the bridge to ask for a run")

    def say_until(self, status: str, done: Callable[[], bool], what: str) -> None:
        """Say something to a run that has just come up, and again where it was not heard.

        While the address goes over from the bridge to the run nobody listens there, as on any network.
        """
        again_s = 0.0

        def heard() -> bool:
            nonlocal again_s
            if done():
                return True
            if time.monotonic() >= again_s:
                self.stage.hmi(status)
                again_s = time.monotonic() + AGAIN_S
            return False

        wait_until(heard, what)

    def begin(self) -> None:
        """Let a run that waits for the HMI begin."""

        def begun() -> bool:
            beat = read_heartbeat(self.spool.folder)
            return beat is not None and beat.state.startswith("episode")

        self.say_until("begin", begun, "an episode")

    def watch_flashes(self, count: int = FLASHES) -> None:
        """Wait until the VCU has really put so many further maps into effect."""
        seen = len(events(self.twin, "map"))
        wait_until(
            lambda: (
                sum(event["page"] != REFERENCE_PAGE for event in events(self.twin, "map")[seen:]) >= count
            ),
            f"{count} flashes in the VCU",
        )

    def page(self) -> int:
        return int(events(self.twin, "map")[-1]["page"])

    def episodes(self) -> list[Any]:
        """Materializations of `episodes`, the newest first."""
        wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey("episodes"))
        return list(self.instance.fetch_materializations(wanted, limit=50).records)

    def wait_episodes(self, count: int) -> None:
        wait_until(lambda: len(self.episodes()) >= count, f"{count} reported episodes")

    def wait_reference(self, killed_ns: int) -> None:
        """The page in effect is the reference, and was so in time."""
        wait_until(lambda: self.page() == REFERENCE_PAGE, "the reference page")
        since = events(self.twin, "map")[-1]["time_ns"] - killed_ns
        # A VCU of its own never waits for a processor; the twin's does, and says for how long it stood still.
        late = [event for event in events(self.twin, "late") if event["time_ns"] > killed_ns]
        limit_s = FALL_BACK_S + sum(event["seconds"] for event in late)
        assert since < limit_s * 1e9, f"the reference page came {since / 1e9:.2f} s after the kill"

    def kill_worker(self) -> int:
        beat = read_heartbeat(self.spool.folder)
        assert beat is not None
        now = time.time_ns()
        os.kill(beat.pid, signal.SIGKILL)
        return now


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    with stage(tmp_path) as found:
        for name in (
            "TSPACE_CONF_DIR",
            "TSPACE_DATA_DIR",
            "TSPACE_OUT_DIR",
            "TSPACE_INBOX_DIR",
            "DAGSTER_HOME",
        ):
            monkeypatch.setenv(name, found.env[name])
        settings.cache_clear()
        with dg.DagsterInstance.get() as instance:
            made = Scene(found, instance)
            yield made
            made.tell()
    settings.cache_clear()


def test_episodes_by_request_and_what_happens_when_things_die(scene: Scene, tmp_path: Path) -> None:
    # Two episodes, from the HMI's begin to its exit.
    scene.first_begin()
    first = scene.wait_drives()
    scene.watch_flashes()
    scene.stage.hmi("end_valid")
    scene.wait_episodes(1)
    scene.stage.hmi("begin")
    scene.watch_flashes()
    scene.stage.hmi("end_valid")
    scene.wait_episodes(2)
    scene.stage.hmi("exit")
    scene.wait_status(first, Status.SUCCESS)
    wait_until(lambda: scene.page() == REFERENCE_PAGE, "the reference page after exit")
    _look_at_what_is_kept(scene, first)

    # kill -9 of the run's worker: Dagster and the sensor notice, a second attempt drives.
    scene.first_begin()
    second = scene.wait_drives(other_than=first.run_id)
    scene.watch_flashes(2)
    scene.wait_reference(scene.kill_worker())
    scene.wait_status(second, Status.FAILURE)
    third = scene.wait_drives(other_than=second.run_id)
    scene.begin()
    scene.watch_flashes(2)

    # kill -9 of the bridge: the VCU helps itself, the run ends and says why.
    killed = time.time_ns()
    scene.bridge.kill()
    scene.wait_reference(killed)
    scene.wait_status(third, Status.FAILURE)
    scene.bridge = scene.start_bridge()
    fourth = scene.wait_drives(other_than=third.run_id)
    scene.begin()
    scene.watch_flashes(2)

    # kill -9 of everything but the vehicle: what is left in Dagster's storage is put right.
    killed = scene.kill_worker()
    scene.bridge.kill()
    scene.daemon.kill()
    scene.wait_reference(killed)
    scene.bridge = scene.start_bridge()
    scene.daemon = start_daemon(scene.stage)
    scene.wait_status(fourth, Status.FAILURE)
    assert scene.instance.get_run_by_id(fourth.run_id) is not None
    scene.first_begin()
    fifth = scene.wait_drives(other_than=fourth.run_id)
    scene.say_until("exit", lambda: scene.has_status(fifth, Status.SUCCESS), "the end of the last run")
    assert scene.page() == REFERENCE_PAGE


def _look_at_what_is_kept(scene: Scene, run: dg.DagsterRun) -> None:
    lake = Lake(settings().data_dir)
    keys = {record.partition_key for record in scene.episodes()}
    assert len(keys) == 2
    for key in keys:
        assert key is not None
        log = lake.episode_log(key)
        assert lake.episodes(log), f"{key} holds no episode"
        training_log = json.loads(lake.training_log(log).read_text())
        assert training_log["records"]
        assert lake.last_live_map(log).is_file()
    checks = scene.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    verdicts = [
        entry.dagster_event.asset_check_evaluation_data.passed for entry in checks if entry.dagster_event
    ]
    assert verdicts == [True, True]
    assert list((lake.root / "checkpoints").rglob("manifest.json")), "no checkpoint was stored"
    assert _finished_runs() >= 1
    settled = f"done by run {run.run_id}"
    wait_until(lambda: settled in {request.outcome for request in scene.spool.done()}, "its outcome")


def _finished_runs() -> int:
    """Runs that MLflow knows as finished."""
    import sqlite3

    file = settings().tracking_uri.removeprefix("sqlite:///")
    with sqlite3.connect(file) as connection:
        (count,) = connection.execute("select count(*) from runs where status = 'FINISHED'").fetchone()
    return int(count)
