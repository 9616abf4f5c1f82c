"""Replay sampling against Stable-Baselines3, TorchRL and cpprb, and against a memory copy of the same bytes.

::

    python benchmarks/replay.py [--json] [--rows 200000] [--rounds 25] [--larger-rows 1600000]

State 90, action 68, float32, all buffers filled with the same records, one thread, in turns: records in
batches of 256 and sequences, 32 of 50. Ours is a version on the disk, once copied to memory
(``Replay.open(..., in_memory=True)``) and once mapped, as training reads it. The peers give what their own
agents learn from: Stable-Baselines3 and TorchRL tensors, cpprb arrays. The copies are of as many bytes as a
batch has, from a random place in one piece: no gather of random rows can be faster than that. One is from
memory, which has huge pages, the other from the mapped file. Turns are short, so that what else the machine
does hits few of them.

Last comes a buffer of twice the memory that its process may use (``replay_larger.py``; --larger-rows 0 leaves
it out).
"""

import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import replay_larger
from interleaved import Result, arguments, left_out, median_ratio, off_stdout, seconds_in_turns, show
from replay_peers import (
    ACTION_DIM,
    STATE_DIM,
    cpprb,
    episodes,
    memory_copy,
    stable_baselines3,
    torchrl,
    torchrl_slices,
)

from tspace_core.storage.replay import Replay, build_replay

SEQUENCES, LENGTH = 32, 50
COPY = "memory copy"
FILE_COPY = "copy of a mapped file"
COPIES = (COPY, FILE_COPY)
OURS = "tspace"
MAPPED = "tspace, mapped"

Subjects = dict[str, Callable[[], object]]


def ours(replay: Replay, batch: int) -> Callable[[], object]:
    generator = np.random.default_rng(1)
    return lambda: replay.sample(batch, generator)


def our_sequences(replay: Replay) -> Callable[[], object]:
    generator = np.random.default_rng(1)
    return lambda: replay.sample_sequences(SEQUENCES, LENGTH, generator)


def with_peers(subjects: Subjects, peers: Subjects) -> Subjects:
    for name, build in peers.items():
        try:
            built = build()
        except ImportError as error:
            left_out(name, error)
            continue
        if callable(built):
            subjects[name] = built
    return subjects


def results_of(what: str, subjects: Subjects, rounds: int, calls: int) -> list[Result]:
    seconds = seconds_in_turns(subjects, rounds=rounds, calls=calls)
    results = [
        Result(what, name, sorted(times)[len(times) // 2] * 1e6, "us", "lower")
        for name, times in seconds.items()
    ]
    for mine in (OURS, MAPPED):
        for name in seconds:
            if name in COPIES:
                share = 100 * median_ratio(seconds[name], seconds[mine])
                results.append(Result(f"{what}, share of a {name}", mine, share, "%", "higher"))
            elif name not in (OURS, MAPPED):
                ratio = median_ratio(seconds[name], seconds[mine])
                results.append(Result(f"{what}, times as fast as {name}", mine, ratio, "x", "higher"))
    return results


def copies(replay: Replay, size: int) -> Subjects:
    path = str(replay.directory / "rows.f32")
    return {
        COPY: memory_copy(np.fromfile(path, np.float32), size),
        FILE_COPY: memory_copy(np.memmap(path, np.float32, mode="r"), size),
    }


def measure(disk: Path, rows: int, batch: int, rounds: int) -> list[Result]:
    mapped = build_replay(disk / "benchmark", episodes(rows))
    in_memory = Replay.open(disk / "benchmark", in_memory=True)
    subjects = with_peers(
        {OURS: ours(in_memory, batch), MAPPED: ours(mapped, batch)},
        {
            "stable-baselines3": partial(stable_baselines3, in_memory, batch),
            "torchrl": partial(torchrl, in_memory, batch),
            "torchrl, on disk": partial(torchrl, in_memory, batch, folder=disk),
            "cpprb": partial(cpprb, in_memory, batch),
            "cpprb, on disk": partial(cpprb, in_memory, batch, folder=disk),
        },
    )
    subjects |= copies(mapped, batch * (2 * STATE_DIM + ACTION_DIM + 2))
    results = results_of(f"records, batch {batch}, {rows} rows", subjects, 2 * rounds, 100)
    del subjects
    shutil.rmtree(disk / "torchrl", ignore_errors=True)  # it may not be installed
    subjects = with_peers(
        {OURS: our_sequences(in_memory), MAPPED: our_sequences(mapped)},
        {
            "torchrl": partial(torchrl_slices, in_memory, SEQUENCES, LENGTH),
            "torchrl, on disk": partial(torchrl_slices, in_memory, SEQUENCES, LENGTH, folder=disk),
        },
    )
    subjects |= copies(mapped, SEQUENCES * (LENGTH + 1) * (STATE_DIM + ACTION_DIM + 2))
    what = f"sequences, {SEQUENCES} x {LENGTH}, {rows} rows"
    return results + results_of(what, subjects, 2 * rounds, 20)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--rows", type=int, default=200_000, help="rows of the buffers")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--larger-rows", type=int, default=1_600_000, help="of the one larger than memory")
    options = parser.parse_args()
    disk = Path(tempfile.mkdtemp(prefix="tspace-replay-"))
    try:
        with off_stdout():
            results = measure(disk, options.rows, options.batch, options.rounds)
            if options.larger_rows:
                results += replay_larger.measure(disk, options.larger_rows, options.batch)
    finally:
        shutil.rmtree(disk, ignore_errors=True)
    show(results, as_json=options.json, title="replay sampling, one thread, medians over interleaved rounds")


if __name__ == "__main__":
    main()
