"""A log from a bucket beside the same log from a disk: the same stages, to lakes in both places.

In each round every way is gone once, in turns, each into an empty lake with empty local copies; the server's
own get and put of the log are timed between them, since no ingest can be faster than those.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import synthetic
from interleaved import Result, median_ratio

from tspace_core.config import Vehicle
from tspace_core.objects.path import AnyPath, S3Path
from tspace_core.storage import ingest
from tspace_core.storage.lake import Lake

DATE = "2026-03-04"


def measure(place: S3Path, cache: Path, *, rounds: int, frames: int) -> dict[str, list[float]]:
    """Seconds of each way, one figure a round.

    Args:
        place: an empty place in a bucket.
        cache: folder of local copies, as the settings say.
        rounds: how often each way is gone.
        frames: of the synthetic log.
    """
    with tempfile.TemporaryDirectory(prefix="tspace-ingest-") as name:
        folder = Path(name)
        log = folder / "synthetic.blf"
        synthetic.write_blf(log, frames)
        vehicle = synthetic.vehicle(folder, 20.0)
        remote = place / log.name
        place.store.upload(log, remote.key)
        found: dict[str, list[float]] = {}
        for number in range(rounds + 1):
            ways = _ways(log, remote, folder / f"lake{number}", place / f"lake{number}")
            for what, (source, root) in ways.items():
                _forget(cache)
                lake = Lake(root, local=folder / f"local{number}")
                seconds = _seconds(partial(_ingest, lake, source, vehicle))
                found.setdefault(what, []).append(seconds)
            found.setdefault("get", []).append(
                _seconds(lambda: place.store.download(remote.key, folder / "got"))
            )
            put = f"{remote.key}.{number}"
            found.setdefault("put", []).append(_seconds(partial(place.store.upload, log, put)))
    return {what: seconds[1:] for what, seconds in found.items()}  # the first round compiles and warms


def results(found: dict[str, list[float]], frames: int) -> list[Result]:
    """Speeds, and the ways from a bucket as shares of the one on a disk."""
    lines = [
        Result(f"ingest, {what}", "tspace", frames / statistics.median(seconds) / 1e6, "M frames/s", "higher")
        for what, seconds in found.items()
        if what not in ("get", "put")
    ]
    lines += [
        Result(
            f"server's own {what} of the log",
            "seaweedfs",
            statistics.median(found[what]) * 1e3,
            "ms",
            "lower",
        )
        for what in ("get", "put")
    ]
    disk = found["disk to disk"]
    lines += [
        Result(f"ingest, {what} / disk to disk", "tspace", median_ratio(disk, found[what]), "x", "higher")
        for what in ("bucket to disk", "bucket to bucket")
    ]
    return lines


def _ways(log: Path, remote: S3Path, disk: Path, bucket: S3Path) -> dict[str, tuple[AnyPath, AnyPath]]:
    return {
        "disk to disk": (log, disk / "a"),
        "bucket to disk": (remote, disk / "b"),
        "bucket to bucket": (remote, bucket / "c"),
    }


def _ingest(lake: Lake, source: AnyPath, vehicle: Vehicle) -> None:
    ingest.ingest_log(lake, source, vehicle, date=DATE)


def _seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _forget(cache: Path) -> None:
    for path in cache.rglob("*"):
        if path.is_file():
            path.unlink()
