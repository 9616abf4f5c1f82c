"""The remote path as its users have it: box, service, bridge, Dagster's daemon and SeaweedFS as processes.

The HMI speaks over the message queue: configure, begin -> the sensor starts the run -> three episodes, exit.
Then the dummy HMI: the newest agent drives until somebody terminates the run. What is in effect in the
vehicle is asked of the twin itself.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest
from dagster import DagsterRunStatus as Status

from tests.objects.seaweed import S3
from tests.online.stage import Process, Stage, stage, wait_event, wait_until
from tests.pipelines.test_online_scenario import start_daemon
from tspace_core.config import load_vehicle, settings
from tspace_core.link.requests import RequestOptions, Spool
from tspace_core.online.heartbeat import read_heartbeat
from tspace_core.storage.lake import lake_from_settings
from tspace_core.storage.online_episodes import is_online
from tspace_core.twin.hmi_rmq import RmqHmi
from tspace_pipelines.online_requests import ATTEMPT_TAG, VEHICLE_TAG

VEHICLE = "twin_remote"
FLASHES = 4
"""Flashes to see in an episode: enough records for it to be kept."""


class Cloud:
    """The vehicle, its cloud, and who stands at the HMI and at Dagster's pages."""

    def __init__(self, found: Stage, instance: dg.DagsterInstance) -> None:
        self.stage, self.instance = found, instance
        self.vehicle = load_vehicle(VEHICLE)
        self.spool = Spool(settings().online_dir, VEHICLE)
        self.twin = found.start("twin", "twin", "--remote", "--hmi", "none", "--hmi-by", "rmq", "--seed", "3")
        started = wait_event(self.twin, "started")
        self.url = str(started["url"])
        self.endpoints = str(started["rocketmq"])
        found.env["TSPACE_REMOTE__URL"] = self.url
        found.env["TSPACE_ROCKETMQ__ENDPOINTS"] = self.endpoints
        found.env["TSPACE_ROCKETMQ__TLS"] = "false"

    def start(self, hmi: str) -> None:
        """Bridge and daemon, with that source of the person's requests."""
        self.stage.env["TSPACE_HMI__SOURCE"] = hmi
        self.bridge = self.start_bridge()
        self.daemon = start_daemon(self.stage)

    def start_bridge(self) -> Process:
        bridge = self.stage.start("bridge", "bridge", "--no-keys")
        bridge.wait_for(lambda line: "DISARMED" in line)
        return bridge

    def tell(self) -> None:
        for run in self.runs():
            print(f"--- run {run.run_id}: {run.status.value}, {run.tags.get(ATTEMPT_TAG)}")
            for entry in self.instance.all_logs(run.run_id)[-15:]:
                print(f"{entry.timestamp:.1f} {entry.user_message[:300]}")

    def runs(self) -> list[dg.DagsterRun]:
        return list(self.instance.get_runs(dg.RunsFilter(tags={VEHICLE_TAG: VEHICLE})))

    def state(self) -> dict[str, Any]:
        """What really is in the vehicle, and what the service has seen."""
        root = re.match(r"https?://[^/]+", self.url)
        assert root is not None
        found = httpx.get(f"{root[0]}/twin/state", timeout=60.0).raise_for_status().json()
        return dict(found["vehicles"][self.vehicle.vin])

    def on_reference(self) -> bool:
        return bool(self.state()["map_sha256"] == self.vehicle.default_map().sha256())

    def wait_drives(self, other_than: str = "") -> dg.DagsterRun:
        def drives() -> bool:
            beat = read_heartbeat(self.spool.folder)
            return beat is not None and beat.run_id != other_than and beat.age_s() < 5

        wait_until(drives, "an online run that drives")
        beat = read_heartbeat(self.spool.folder)
        assert beat is not None
        run = self.instance.get_run_by_id(beat.run_id)
        assert run is not None
        return run

    def wait_status(self, run: dg.DagsterRun, *wanted: Status) -> None:
        def reached() -> bool:
            found = self.instance.get_run_by_id(run.run_id)
            return found is not None and found.status in wanted

        wait_until(reached, f"run {run.run_id} to be {wanted}")

    def watch_flashes(self, count: int = FLASHES) -> None:
        """Wait until the vehicle has really put so many further rows into effect."""
        seen = int(self.state()["rows_applied"])
        wait_until(lambda: self.state()["rows_applied"] >= seen + count, f"{count} flashes in the vehicle")

    def episodes(self) -> list[Any]:
        wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey("episodes"))
        return list(self.instance.fetch_materializations(wanted, limit=50).records)

    def wait_episodes(self, count: int) -> None:
        wait_until(lambda: len(self.episodes()) >= count, f"{count} reported episodes")


@pytest.fixture
def cloud(tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    with stage(tmp_path, vehicle=VEHICLE, window=50, online={"countdown_s": 3.0}) as found:
        found.env |= {
            "TSPACE_LAKE_URL": f"{s3.url}/lake",
            "TSPACE_BOX_URL": f"{s3.url}/boxes",
        }
        for name, value in found.env.items():
            if name.startswith(("TSPACE_", "DAGSTER_")):
                monkeypatch.setenv(name, value)
        settings.cache_clear()
        with dg.DagsterInstance.get() as instance:
            made = Cloud(found, instance)
            for name in ("TSPACE_REMOTE__URL", "TSPACE_ROCKETMQ__ENDPOINTS", "TSPACE_ROCKETMQ__TLS"):
                monkeypatch.setenv(name, found.env[name])
            settings.cache_clear()
            yield made
            made.tell()
    settings.cache_clear()


def test_three_episodes_by_the_message_queue_then_inference_with_the_dummy(cloud: Cloud) -> None:
    cloud.start("rmq")
    first = _train(cloud)
    _look_at_what_is_kept(cloud, first)
    cloud.daemon.kill()
    cloud.bridge.stop()
    cloud.start("dummy")
    _infer(cloud, first)


def _train(cloud: Cloud) -> dg.DagsterRun:
    """Three episodes, from the HMI's configure to its exit."""
    hmi = RmqHmi(cloud.vehicle, lambda event, **fields: None)
    try:
        assert hmi.configure(180.0), "no ready message came"
        hmi.send("begin")
        run = cloud.wait_drives()
        for number in (1, 2, 3):
            if number > 1:
                hmi.send("begin")
            cloud.watch_flashes()
            hmi.send("end_valid")
            cloud.wait_episodes(number)
        # Of this bridge: the service may see its end later than the next bridge's connection.
        assert cloud.state()["connections_at_once"] == 1
        hmi.send("exit")
        cloud.wait_status(run, Status.SUCCESS)
    finally:
        hmi.close()
    wait_until(cloud.on_reference, "the reference map after exit")
    return run


def _infer(cloud: Cloud, before: dg.DagsterRun) -> None:
    """The newest agent drives, nothing is learned; the stop request ends the episode as valid."""
    cloud.spool.write("command", "start", RequestOptions(infer=True))
    run = cloud.wait_drives(other_than=before.run_id)
    cloud.watch_flashes()
    assert cloud.instance.run_launcher.terminate(run.run_id)
    cloud.wait_status(run, Status.CANCELED)
    cloud.wait_episodes(4)
    wait_until(cloud.on_reference, "the reference map after Terminate")


def _look_at_what_is_kept(cloud: Cloud, run: dg.DagsterRun) -> None:
    lake = lake_from_settings()
    assert str(lake.root).startswith("s3://")
    logs = [log for log in lake.episode_logs(VEHICLE) if is_online(log)]
    assert len(logs) == 3
    for log in logs:
        assert lake.episodes(log), f"{log.key} holds no episode"
        training_log = json.loads(lake.training_log(log).read_text())
        assert training_log["records"]
        assert any(step["flash"] == "APPLIED" for step in training_log["steps"])
    assert {record.partition_key for record in cloud.episodes()} == {log.key for log in logs}
    checks = cloud.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    verdicts = [
        entry.dagster_event.asset_check_evaluation_data.passed for entry in checks if entry.dagster_event
    ]
    assert verdicts == [True, True, True]
    assert list((lake.root / "checkpoints").rglob("manifest.json")), "no checkpoint was stored"
