"""The online part of the demo: the twin drives on a bus, the HMI begins, maps are flashed and learned from.

Twin and bridge are processes of their own, as truck and bridge are; this process does what Dagster's daemon
and run worker do: it takes the request that the bridge writes when it hears the HMI, and carries out the job.
"""

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tspace_core.config import Vehicle, settings
from tspace_core.config.settings import project_dir
from tspace_core.errors import OnlineError
from tspace_core.link.requests import Spool
from tspace_core.storage.lake import Lake
from tspace_core.storage.online_episodes import is_online
from tspace_pipelines.demo_runs import Runs
from tspace_pipelines.online_requests import decide
from tspace_pipelines.progress import Progress

if TYPE_CHECKING:
    import dagster as dg

EPISODES = 2
SCRIPT = (
    "--hmi=script",
    f"--episodes={EPISODES}",
    "--flashes=4",  # an episode's time begins with its 4th flash, so that it is long enough on any machine
    "--episode-seconds=6",
    "--pause-seconds=5",
    "--delay-seconds=2",
    "--driver=habitual",
    "--seed=7",
)
PATIENCE_S = 90.0


def drive_online(runs: Runs, lake: Lake, vehicle: Vehicle, progress: Progress) -> Path:
    """Drive short online episodes, if there are none yet, and write their page.

    Returns:
        The page.

    Raises:
        OnlineError: twin or bridge did not start, or the HMI was not heard; says where to look.
        RunFailedError: the online run failed.
    """
    out = settings().out_dir / "demo"
    done = _episodes(lake, vehicle)
    if len(done) >= EPISODES:
        progress.say(f"{len(done)} online episodes are there already")
    else:
        out.mkdir(parents=True, exist_ok=True)
        progress.begin(f"online: twin and bridge on {_bus(vehicle)}")
        with _process("bridge", vehicle, out, ("--no-keys",)), _process("twin", vehicle, out, SCRIPT):
            spool = Spool(settings().online_dir, vehicle.id)
            progress.begin("online: waiting until the HMI begins and the bridge asks for a run")
            request = _wait_for_request(runs, spool, out)
            what = "online: observe, infer, flash, learn"
            runs.execute("online_episodes", None, what, request.run_config, request.tags)
            gc.unfreeze()  # by the run; what is frozen at the process's end DuckDB reports as leaked
            decide(runs.instance, spool, datetime.now(UTC))  # settles the request, as the sensor would
        done = _episodes(lake, vehicle)
    return _report(lake, vehicle, done, out)


def _episodes(lake: Lake, vehicle: Vehicle) -> list[str]:
    return sorted(log.key for log in lake.episode_logs(vehicle.id) if is_online(log))


def _report(lake: Lake, vehicle: Vehicle, keys: list[str], out: Path) -> Path:
    from tspace_core.evaluation.online import write_online_report

    path = out / "online.html"
    return write_online_report(path, lake=lake, vehicle=vehicle, keys=keys[-10:], command="make demo")


def _bus(vehicle: Vehicle) -> str:
    return "no bus" if vehicle.bus is None else f"{vehicle.bus.interface} {vehicle.bus.channel}"


@contextmanager
def _process(name: str, vehicle: Vehicle, out: Path, arguments: tuple[str, ...]) -> Iterator[None]:
    """A ``tspace`` command beside this process; its lines go to ``<out>/<name>.log``."""
    command = [sys.executable, "-m", "tspace_core.cli", name, "--vehicle", vehicle.id, *arguments]
    with (out / f"{name}.log").open("w") as log:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and command
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=project_dir()
        )
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for_request(runs: Runs, spool: Spool, out: Path) -> "dg.RunRequest":
    pause = threading.Event()
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        requests = decide(runs.instance, spool, datetime.now(UTC)).requests
        if requests:
            return requests[0]
        pause.wait(0.5)
    lines = [
        f"{name}: {log.read_text().strip().splitlines()[-1:] or ['nothing']}"
        for name in ("bridge", "twin")
        if (log := out / f"{name}.log").is_file()
    ]
    message = (
        f"no request came from the bridge within {PATIENCE_S:.0f} s ({'; '.join(lines)}); look into {out}, "
        "and whether another bridge or twin runs on this machine"
    )
    raise OnlineError(message)
