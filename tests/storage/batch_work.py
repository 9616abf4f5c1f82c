"""Work for batches that other processes import."""

import os
import signal
import threading
from collections.abc import Mapping
from typing import Any

from tspace_core.storage.lake import Lake
from tspace_core.storage.writer import Writer


def count(lake: Lake, partition: str, writer: Writer) -> Mapping[str, Any]:
    """Leave a trace of each try, outside of the unit, and one result through it."""
    from pathlib import Path

    assert isinstance(lake.root, Path)
    tries = lake.root / "tries"
    tries.mkdir(exist_ok=True)
    with (tries / partition.replace("/", "_")).open("a") as file:
        file.write(f"{os.getpid()}\n")
    writer.text(lake.root / "results" / f"{partition.replace('/', '_')}.json", partition)
    if partition == "bad":
        message = "no such drive"
        raise ValueError(message)
    if partition == "dies" and os.environ.get("BATCH_DIES"):
        os.kill(os.getpid(), signal.SIGKILL)
    if partition.startswith("waits") and (waiting := lake.root / "go").exists():
        (lake.root / f"{partition}.waiting").touch()
        with waiting.open() as fifo:  # until the test opens its end
            fifo.read()
    return {"length": len(partition), "threads": os.environ.get("OMP_NUM_THREADS")}


def in_bucket(lake: Lake, partition: str, writer: Writer) -> Mapping[str, Any]:
    """One result a partition."""
    writer.text(lake.root / "results" / partition, partition)
    return {"alive": threading.active_count() > 0}
