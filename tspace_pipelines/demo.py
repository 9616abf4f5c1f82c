"""The whole way once, without hardware: ``make demo``, or ``python -m tspace_pipelines.demo``.

The twin of ``twin_truck`` is driven by three simulated drivers, with the default map and with random changes
of it, and records CAN logs; Dagster takes the logs through all assets to a trained and evaluated agent; a
report says what it saves. Then the agent drives two short online episodes: it flashes the torque map of the
running twin over its CAN bus and learns from what happens. What is there already and up to date is used
again. The runs are in the same instance that ``make ui`` shows.
"""

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from tspace_core.config import load_vehicle, settings
from tspace_core.config.settings import project_dir
from tspace_core.errors import TspaceError
from tspace_pipelines.progress import Progress

if TYPE_CHECKING:
    from tspace_core.config import Vehicle
    from tspace_core.storage.lake import Lake, RawLog
    from tspace_pipelines.demo_runs import Runs

VEHICLE = "twin_truck"
CYCLE = "truck_route"
DRIVERS = ("tracker", "habitual", "aggressive")
EXPLORING_DRIVES = 3
FIRST_START = datetime(2026, 1, 5, 6, 0, tzinfo=UTC)
BETWEEN_STARTS = timedelta(hours=1)
REPORT = "demo"


@dataclass(frozen=True)
class Drive:
    """One drive to be recorded."""

    driver: str
    seed: int
    exploring: bool
    start: datetime

    @property
    def name(self) -> str:
        """Name of its log."""
        return f"{self.driver}-{CYCLE}-{self.seed}-{'exploring' if self.exploring else 'default'}.blf"


def drives() -> list[Drive]:
    """What is recorded: each driver once with the default map and some times with random changes of it."""
    plan = [(driver, number) for driver in DRIVERS for number in range(1 + EXPLORING_DRIVES)]
    return [
        Drive(driver, seed=100 + place, exploring=number > 0, start=FIRST_START + place * BETWEEN_STARTS)
        for place, (driver, number) in enumerate(plan)
    ]


def main() -> int:
    """Run the demo; returns the exit status."""
    os.environ.setdefault("DAGSTER_HOME", str(project_dir()))
    with Progress() as progress, _interruptible():
        try:
            return _run(progress)
        except (KeyboardInterrupt, Interrupted):
            progress.say("stopped; what is finished stays, `make demo` goes on from there")
            return 130
        except TspaceError as error:
            progress.say(f"{type(error).__name__}: {error}")
            return 1


class Interrupted(BaseException):
    """Somebody asked the demo to stop."""


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let a stop request from a process manager end as cleanly as Ctrl-C."""

    def stop(number: int, frame: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(progress: Progress) -> int:
    vehicle = load_vehicle(VEHICLE)
    progress.say(f"tspace demo: {vehicle.description}; data in {settings().data_dir}")
    progress.say("a few minutes; Ctrl-C stops, and the next run goes on from there")
    progress.begin("loading the simulator")
    from tspace_core.storage.lake import lake_from_settings

    lake = lake_from_settings()
    logs = _record(lake, vehicle, progress)
    progress.begin("loading Dagster")
    from tspace_pipelines.demo_online import drive_online
    from tspace_pipelines.demo_runs import Runs

    with Runs.open(progress) as runs:
        _materialize(runs, vehicle, logs, progress)
        online = drive_online(runs, lake, vehicle, progress)
    _explain(online, progress)
    return 0


def _record(lake: "Lake", vehicle: "Vehicle", progress: Progress) -> "list[RawLog]":
    """Drives that are not in the lake yet are driven and stored."""
    from tspace_core.storage.ingest import store_raw
    from tspace_core.twin.exploration import SmoothExploration
    from tspace_core.twin.recorder import record_drive

    logs = []
    plan = drives()
    for number, drive in enumerate(plan, 1):
        day = drive.start.date().isoformat()
        if lake.raw(vehicle.id, day, drive.name).is_file():
            logs.append(lake.raw_log(f"{vehicle.id}/{day}/{drive.name}"))
            continue
        progress.begin(f"drive {number} of {len(plan)}: {drive.name}")
        lake.local.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=lake.local, prefix=".demo-") as folder:
            policy = SmoothExploration(vehicle, drive.seed) if drive.exploring else None
            summary = record_drive(
                vehicle, drive.driver, CYCLE, drive.seed, Path(folder, drive.name), policy, start=drive.start
            )
            logs.append(store_raw(lake, summary.path, vehicle, driver=drive.driver))
        minutes, km = summary.duration_s / 60, summary.distance_m / 1000
        progress.done(f"{minutes:.0f} min, {km:.1f} km, {summary.frames:,} frames")
    progress.say(f"{len(logs)} logs of {vehicle.id} are in the lake")
    return logs


def _materialize(runs: "Runs", vehicle: "Vehicle", logs: "list[RawLog]", progress: Progress) -> None:
    runs.register([log.key for log in logs])
    for number, log in enumerate(logs, 1):
        what = f"log {number} of {len(logs)}: {log.name}"
        if runs.up_to_date("episodes", log.key, after=log.path.stat().st_mtime, vehicle=vehicle):
            progress.say(f"{what} is up to date")
        else:
            runs.execute("logs_to_episodes", log.key, what)
    newest = runs.newest("episodes", [log.key for log in logs])
    report = settings().out_dir / REPORT / "report.html"
    done = runs.up_to_date("policy_evaluation", vehicle.id, after=newest, vehicle=vehicle)
    if done and report.is_file():
        progress.say("agent and report are up to date")
        return
    chosen = {"report": REPORT, "command": "make demo"}
    config = {"ops": {"policy_evaluation": {"config": chosen}}}
    runs.execute("retrain", vehicle.id, "replay, training and evaluation", config)
    runs.execute("refresh_catalogue", None, "catalogue")


def _explain(online: Path, progress: Progress) -> None:
    found = settings()
    report = found.out_dir / REPORT / "report.html"
    progress.say("done")
    progress.plain(
        f"""
  the report          {report}
  online episodes     {online}
  every flash         .venv/bin/tspace audit --vehicle {VEHICLE}
  assets and runs     make ui, then http://localhost:3000/assets
  training runs       .venv/bin/mlflow ui --backend-store-uri {found.tracking_uri}
  questions in SQL    .venv/bin/tspace catalogue "FROM episodes"
  your own logs       put them into {found.inbox_dir}/<vehicle id>/ while `make ui` runs,
                      or: .venv/bin/tspace ingest PATH --vehicle ID
"""
    )


if __name__ == "__main__":
    sys.exit(main())
