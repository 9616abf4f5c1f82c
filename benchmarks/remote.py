"""The remote path: from get_signals to a proposal, boxes' windows, logs from a bucket.

::

    python benchmarks/remote.py [--json] [--rounds 5] [--decisions 200] [--vehicles 100] [--windows 45]
    python benchmarks/remote.py --only latency
    python benchmarks/remote.py --json --quick

=========  =======================================================================================
latency    ``remote_latency``: get_signals -> window -> proposal, without the service's own time
boxes      ``remote_boxes``: windows of many boxes, from the bucket to episodes, in windows a second
ingest     ``remote_ingest``: a log from a bucket beside the same one from a disk
=========  =======================================================================================

Buckets are on SeaweedFS, started for the run (extra ``dev``), or where TSPACE_S3__ENDPOINT and
TSPACE_BOX_URL lead.
"""

import argparse
import os
import tempfile
from pathlib import Path

from interleaved import Result, arguments, off_stdout, show

from tspace_core.config import settings

PARTS = ("latency", "boxes", "ingest")


def measure(options: argparse.Namespace, folder: Path) -> list[Result]:
    """What was asked for, part by part."""
    lines: list[Result] = []
    quick: bool = options.quick
    if "latency" in options.only:
        import remote_latency

        lines += remote_latency.results(remote_latency.measure(20 if quick else options.decisions))
    if {"boxes", "ingest"} & set(options.only):
        import remote_boxes

        with remote_boxes.server() as box:
            if "boxes" in options.only:
                vehicles, windows = (4, 15) if quick else (options.vehicles, options.windows)
                found = remote_boxes.measure(
                    box, box.parent / "lake", folder / "local", vehicles=vehicles, windows=windows
                )
                lines += remote_boxes.results(found)
            if "ingest" in options.only:
                import remote_ingest

                frames, rounds = (100_000, 1) if quick else (1_000_000, options.rounds)
                cache = settings().s3.cache_dir
                seconds = remote_ingest.measure(box.parent / "ingest", cache, rounds=rounds, frames=frames)
                lines += remote_ingest.results(seconds, frames)
    return lines


def main() -> None:
    parser = arguments("The remote path: proposals, boxes' windows, logs from a bucket.")
    parser.set_defaults(rounds=5)
    parser.add_argument("--decisions", type=int, default=200, help="proposals to time")
    parser.add_argument("--vehicles", type=int, default=100, help="boxes")
    parser.add_argument("--windows", type=int, default=45, help="of each box")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure")
    parser.add_argument("--quick", action="store_true", help="a minute: whether it works, not how fast")
    options = parser.parse_args()
    with off_stdout(), tempfile.TemporaryDirectory(prefix="tspace-remote-") as folder:
        os.environ["TSPACE_DATA_DIR"] = f"{folder}/data"
        os.environ["TSPACE_S3__CACHE_DIR"] = f"{folder}/cache"
        settings.cache_clear()
        lines = measure(options, Path(folder))
    show(lines, as_json=options.json, title="the remote path, medians where nothing else is said")


if __name__ == "__main__":
    main()
