"""How fast what telematics boxes uploaded is collected and becomes episodes.

``measure`` uploads a drive of each vehicle into a bucket of a running server, then times, one after the
other,

- collecting: listing, fetching, judging and sealing raw logs, as the box sensor does, in windows a second;
- the stages of each sealed log, frames to episodes, in windows a second.

100 boxes that upload a window of 4 s without a pause make 25 windows a second. Alone it is run as

::

    python benchmarks/remote_boxes.py [--json] [--vehicles 100] [--windows 45]

with AWS_*, TSPACE_S3__ENDPOINT and TSPACE_BOX_URL leading to an empty place in a bucket; without an endpoint
it starts SeaweedFS for itself. CPU times are of this process alone; the server works beside it.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from interleaved import Result, arguments, off_stdout, show

from tspace_core.can.box_window import encode_window
from tspace_core.config import Vehicle, load_site, load_vehicle, settings
from tspace_core.objects.path import AnyPath, S3Path
from tspace_core.storage.box_logs import BoxCollector, Rules
from tspace_core.storage.ingest import store_episodes, store_frames, store_signals
from tspace_core.storage.lake import Lake

NEEDED_PER_S = 25.0
"""Windows a second of 100 boxes."""
START_NS = 1_767_596_400 * 10**9
WINDOW_S = 4
VEHICLE = "twin_remote"


@dataclass(frozen=True)
class BoxFigures:
    """What was measured.

    Attributes:
        windows: uploaded, collected and taken through the stages.
        logs: sealed.
        records: in the episodes.
        upload_s: uploading, which is no part of ingesting.
        collect_s: from an empty lake to sealed logs.
        stages_s: frames, signals and episodes of all logs.
        cpu_s: of this process for both; it tells more than time where others use the machine too.
    """

    windows: int
    logs: int
    records: int
    upload_s: float
    collect_s: float
    stages_s: float
    cpu_s: float

    @property
    def collected_per_s(self) -> float:
        """Windows collected a second."""
        return self.windows / self.collect_s

    @property
    def stages_ms(self) -> float:
        """All stages, ms a window."""
        return 1e3 * self.stages_s / self.windows

    @property
    def ingested_per_s(self) -> float:
        """Windows a second, collecting and stages one after the other."""
        return self.windows / (self.collect_s + self.stages_s)


def measure(box: S3Path, root: AnyPath, local: Path, *, vehicles: int = 100, windows: int = 45) -> BoxFigures:
    """Upload and ingest.

    Args:
        box: an empty place in a bucket.
        root: an empty lake.
        local: a folder on this machine.
        vehicles: boxes.
        windows: of 4 s, of each box.
    """
    fleet = _fleet(vehicles)
    spent = upload(box, fleet, windows)
    lake, now_ns = Lake(root, local=local), time.time_ns
    rules = Rules(quiet_s=0.0, budget_s=600.0)
    collector = BoxCollector(lake, box, list(fleet.values()), rules=rules, now_ns=now_ns)
    logs, collected, cpu, began = [], 0, time.process_time(), time.perf_counter()
    while True:
        found = collector.collect()
        logs += found.logs
        collected += found.windows
        if not found.waiting and not found.behind:
            break
    collect_s = time.perf_counter() - began
    assert collected == vehicles * windows, (collected, found.refused)
    records, began = 0, time.perf_counter()
    for log in logs:
        vehicle = fleet[log.vehicle_id]
        store_frames(lake, log, vehicle)
        store_signals(lake, log, vehicle)
        records += store_episodes(lake, log, vehicle).records
    stages_s = time.perf_counter() - began
    return BoxFigures(collected, len(logs), records, spent, collect_s, stages_s, time.process_time() - cpu)


def upload(box: S3Path, fleet: dict[str, Vehicle], windows: int) -> float:
    """Upload so many windows of each vehicle, all vehicles in parallel; seconds spent."""
    store, prefix = box.store, f"{box.key}/" if box.key else ""
    zone = load_site(load_vehicle(VEHICLE).site).zone
    bodies = []
    for number in range(windows):
        start = START_NS + number * WINDOW_S * 10**9
        body = json.dumps(encode_window(_values(number), start, zone)).encode()
        bodies.append((f"{datetime.fromtimestamp(start / 1e9, UTC):%Y/%m/%d/%H%M%S}000.json", body))

    def one(vehicle: Vehicle) -> None:
        for name, body in bodies:
            store.put(f"{prefix}{vehicle.vin}/{name}", body)

    began = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, fleet.values()))
    return time.perf_counter() - began


def results(found: BoxFigures) -> list[Result]:
    """As lines of a benchmark."""
    return [
        Result("boxes: windows collected", "tspace", found.collected_per_s, "1/s", "higher"),
        Result("boxes: stages of a window", "tspace", found.stages_ms, "ms", "lower"),
        Result("boxes: windows from bucket to episode", "tspace", found.ingested_per_s, "1/s", "higher"),
        Result("boxes: CPU time of a window", "tspace", 1e3 * found.cpu_s / found.windows, "ms", "lower"),
        Result("boxes: 100 boxes upload", "needed", NEEDED_PER_S, "1/s", "higher"),
    ]


def _fleet(count: int) -> dict[str, Vehicle]:
    model = load_vehicle(VEHICLE)
    fleet = {}
    for number in range(count):
        vehicle = model.model_copy(update={"id": f"box_{number:03d}", "vin": f"BENCHBOX{number:09d}"})
        vehicle._folder = model._folder
        fleet[vehicle.id] = vehicle
    return fleet


def _values(number: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    t = number * WINDOW_S + np.arange(WINDOW_S * 50) / 50
    columns = (40 + 20 * np.sin(t / 15), 30 + 20 * np.sin(t / 7), 0 * t, 100 + 80 * np.sin(t / 7))
    return np.column_stack([*columns, np.full_like(t, 650.0), np.full_like(t, 2.0)]).round(3)


@contextmanager
def server() -> Iterator[S3Path]:
    """The place that the settings name, or one on a server started for it."""
    url = settings().box_url
    if url and settings().s3.endpoint:
        yield S3Path(url)
        return
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tests.objects.seaweed import SeaweedServer

    server = SeaweedServer()
    try:
        os.environ.update(server.start().environment)
        settings.cache_clear()
        yield S3Path(f"s3://{server.new_bucket()}/boxes")
    finally:
        server.close()


def main() -> None:
    parser = arguments("Windows of telematics boxes, from a bucket to episodes.")
    parser.add_argument("--vehicles", type=int, default=100)
    parser.add_argument("--windows", type=int, default=45, help="of each vehicle")
    parser.add_argument("--lake", choices=("disk", "bucket"), default="bucket")
    options = parser.parse_args()
    with off_stdout(), tempfile.TemporaryDirectory() as folder:
        os.environ["TSPACE_S3__CACHE_DIR"] = f"{folder}/cache"
        settings.cache_clear()
        with server() as box:
            root: AnyPath = box.parent / "lake" if options.lake == "bucket" else Path(folder, "lake")
            found = measure(
                box, root, Path(folder, "local"), vehicles=options.vehicles, windows=options.windows
            )
    print(found, file=sys.stderr)
    title = f"{found.windows} windows of {options.vehicles} boxes, {found.logs} logs, lake on {options.lake}"
    show(results(found), as_json=options.json, title=title)


if __name__ == "__main__":
    main()
