"""A replay buffer of twice the memory that its process may use; ``benchmarks/replay.py`` runs it.

Each subject samples in a process of its own, in a control group whose limit is half of the bytes of our rows
and holds for all of its memory and for the pages of files that it reads. The files are dropped from the page
cache before. Where no control group can be made it is left out, with the reason.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from interleaved import Result
from replay_peers import episodes, torchrl_storage

from tspace_core.storage.replay import Replay, build_replay

SEQUENCES, LENGTH = 32, 50
CALLS, SECONDS = 100, 10.0
"""Calls of each kind, fewer where they take longer than this; the first third does not count."""
SUBJECTS = ("tspace", "torchrl")


def measure(folder: Path, rows: int, batch: int) -> list[Result]:
    group = memory_group()
    if group is None:
        print("the buffer larger than memory is left out: no control group can be made", file=sys.stderr)
        return []
    place = folder / "larger"
    limit = rows * 640 // 2
    command = [sys.executable, __file__, "build", str(place), str(rows), "0"]
    subprocess.run(command, check=True, stdout=sys.stderr)  # torchrl logs there
    results, found = [], dict[tuple[str, str], float]()
    for subject in SUBJECTS:
        drop_pages(place)
        with limited(group, limit) as member:
            command = [sys.executable, __file__, subject, str(place), str(batch), str(member)]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            reason = done.stderr[-300:] or f"killed by {-done.returncode}, so it alone needs more"
            print(f"{subject} cannot sample with {limit >> 20} MiB: {reason}", file=sys.stderr)
            continue
        for kind, seconds in json.loads(done.stdout.splitlines()[-1]).items():
            found[kind, subject] = seconds
    for kind, what in (
        ("records", f"records, batch {batch}"),
        ("sequences", f"sequences, {SEQUENCES} x {LENGTH}"),
    ):
        what = f"{what}, {rows * 640 >> 20} MiB with {limit >> 20} MiB of memory"
        results += [
            Result(what, name, found[kind, name] * 1e6, "us", "lower")
            for name in SUBJECTS
            if (kind, name) in found
        ]
        if (kind, "tspace") in found and (kind, "torchrl") in found:
            ratio = found[kind, "torchrl"] / found[kind, "tspace"]
            results.append(Result(f"{what}, times as fast as torchrl", "tspace", ratio, "x", "higher"))
    return results


def memory_group() -> Path | None:
    """Folder of this process's control group for memory, if one may be made below it."""
    for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
        _, controllers, name = line.split(":", 2)
        if "memory" in controllers.split(","):
            base = Path("/sys/fs/cgroup/memory")
        elif not controllers and Path("/sys/fs/cgroup/cgroup.controllers").exists():
            base = Path("/sys/fs/cgroup")
        else:
            continue
        for group in (base / name.lstrip("/"), base):
            probe = group / f"tspace-probe-{os.getpid()}"
            try:
                probe.mkdir()
            except OSError:
                continue
            usable = limit_file(probe) is not None
            probe.rmdir()
            if usable:
                return group
    return None


def limit_file(group: Path) -> Path | None:
    for name in ("memory.limit_in_bytes", "memory.max"):
        if os.access(group / name, os.W_OK):
            return group / name
    return None


@contextmanager
def limited(group: Path, limit: int) -> Iterator[Path]:
    member = group / f"tspace-replay-{os.getpid()}"
    member.mkdir()
    try:
        file = limit_file(member)
        if file is None:
            raise AssertionError
        file.write_text(str(limit), encoding="ascii")
        yield member
    finally:
        member.rmdir()


def drop_pages(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def build(place: Path, rows: int) -> None:
    replay = build_replay(place / "benchmark", episodes(rows))
    try:
        torchrl_storage(replay, place)
    except ImportError as error:
        print(f"torchrl is left out: {error}", file=sys.stderr)


def tspace(place: Path, batch: int) -> dict[str, Callable[[], object]]:
    replay, generator = Replay.open(place / "benchmark"), np.random.default_rng(1)
    return {
        "records": lambda: replay.sample(batch, generator),
        "sequences": lambda: replay.sample_sequences(SEQUENCES, LENGTH, generator),
    }


def torchrl(place: Path, batch: int) -> dict[str, Callable[[], object]]:
    import torch
    from tensordict import TensorDict
    from torchrl.data import RandomSampler, SliceSampler, TensorDictReplayBuffer, TensorStorage

    torch.set_num_threads(1)
    storage = TensorStorage(TensorDict.load_memmap(place / "torchrl"))
    records = TensorDictReplayBuffer(storage=storage, sampler=RandomSampler(), batch_size=batch)
    sampler = SliceSampler(num_slices=SEQUENCES, traj_key="episode", cache_values=True)
    slices = TensorDictReplayBuffer(storage=storage, sampler=sampler, batch_size=SEQUENCES * LENGTH)
    return {"records": records.sample, "sequences": slices.sample}


def child(subject: str, place: Path, batch: int, group: Path) -> None:
    """Join the group, sample, print the median seconds of a call as the last line."""
    (group / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
    found = {}
    for kind, call in {"tspace": tspace, "torchrl": torchrl}[subject](place, batch).items():
        times: list[float] = []
        while len(times) < 6 or (len(times) < CALLS and sum(times) < SECONDS):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
        counted = sorted(times[len(times) // 3 :])
        found[kind] = counted[len(counted) // 2]
    print(json.dumps(found))


if __name__ == "__main__":
    task, folder, number, member = sys.argv[1:5]
    if task == "build":
        build(Path(folder), int(number))
    else:
        child(task, Path(folder), int(number), Path(member))
