"""What Dagster adds: `dagster asset materialize` of one small partition against the bare function.

::

    python benchmarks/pipeline.py [--json] [--rounds 5]

The log is a drive of two minutes (some 45,000 frames). Each round removes the asset's file and makes it three
ways, in turns: by the command, by the bare function in a fresh Python process, by the bare function in this
process (all imports done). The medians of the wall times are printed, and the command's surplus over both.
The command records events and metadata, draws the plot, and runs the asset's blocking check.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from interleaved import Result, arguments, off_stdout, show

if TYPE_CHECKING:
    from collections.abc import Callable

PROJECT = Path(__file__).resolve().parents[1]
VEHICLE = "twin_truck"
FUNCTIONS = {"can_frames": "store_frames", "can_signals": "store_signals", "episodes": "store_episodes"}
BARE = """
import sys
from pathlib import Path
from tspace_core.config import load_vehicle
from tspace_core.storage.ingest import {function}
from tspace_core.storage.lake import Lake
lake = Lake(Path(sys.argv[1]))
{function}(lake, lake.raw_log(sys.argv[2]), load_vehicle({vehicle!r}))
"""


def run(command: list[str], home: Path) -> None:
    environment = {**os.environ, "TSPACE_DATA_DIR": str(home), "DAGSTER_HOME": str(PROJECT)}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-2000:]}")


def materialize(assets: str, key: str, home: Path) -> None:
    module = "tspace_pipelines.definitions"
    words = ["asset", "materialize", "-m", module, "--select", assets, "--partition", key]
    run([sys.executable, "-m", "dagster", *words], home)


def prepare(home: Path) -> str:
    """A lake with one log whose frames, signals and episodes are made, known as a partition."""
    from tspace_core.config import load_vehicle
    from tspace_core.storage.ingest import ingest_log
    from tspace_core.storage.lake import Lake
    from tspace_core.twin.exploration import SmoothExploration
    from tspace_core.twin.recorder import record_drive
    from tspace_core.twin.route import make_route

    vehicle = load_vehicle(VEHICLE)
    seconds = np.arange(0.0, 121.0)
    speed = np.interp(seconds, [0, 5, 30, 60, 80, 110, 120], [0, 0, 12, 15, 6, 14, 0])
    path = home / "short.blf"
    route = make_route("short", seconds, speed)
    record_drive(vehicle, "tracker", route, 1, path, SmoothExploration(vehicle, 1))
    result = ingest_log(Lake(home), path, vehicle)
    module = "tspace_pipelines.definitions"
    run([sys.executable, "-m", "dagster", "job", "execute", "-m", module, "-j", "register_logs"], home)
    return result.raw.key


def measure(home: Path, key: str, asset: str, rounds: int) -> dict[str, list[float]]:
    from tspace_core.config import load_vehicle
    from tspace_core.storage import ingest
    from tspace_core.storage.lake import Lake

    lake = Lake(home)
    raw = lake.raw_log(key)
    results = {
        "can_frames": lake.frames(raw),
        "can_signals": lake.signals(raw),
        "episodes": lake.episodes_manifest(raw),
    }
    function = FUNCTIONS[asset]
    code = BARE.format(function=function, vehicle=VEHICLE)
    call = getattr(ingest, function)
    vehicle = load_vehicle(VEHICLE)
    ways: dict[str, Callable[[], object]] = {
        "command": lambda: materialize(asset, key, home),
        "process": lambda: run([sys.executable, "-c", code, str(home), key], home),
        "call": lambda: call(lake, raw, vehicle),
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, make in ways.items():
            results[asset].unlink()
            began = time.perf_counter()
            make()
            found[way].append(time.perf_counter() - began)
            if not results[asset].is_file():
                sys.exit(f"{way} did not make {results[asset]}")
    return found


def main() -> None:
    parser = arguments("Dagster's surplus over the bare function.")
    parser.set_defaults(rounds=5)
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="tspace-pipeline-"))
    results = []
    try:
        with off_stdout():
            key = prepare(home)
            found = {asset: measure(home, key, asset, options.rounds) for asset in FUNCTIONS}
    finally:
        shutil.rmtree(home)
    for asset, times in found.items():
        for way, title in (
            ("command", "dagster asset materialize"),
            ("process", "bare function, fresh process"),
            ("call", "bare function, in process"),
        ):
            value = statistics.median(times[way])
            results.append(Result(f"{asset}: {title}", "tspace", value, "s", "lower"))
        for way, title in (("process", "fresh process"), ("call", "call in process")):
            surplus = statistics.median(a - b for a, b in zip(times["command"], times[way], strict=True))
            what = f"{asset}: surplus of the command over the {title}"
            results.append(Result(what, "tspace", surplus, "s", "lower"))
    show(results, as_json=options.json, title=f"one small partition, medians of {options.rounds} rounds")


if __name__ == "__main__":
    main()
