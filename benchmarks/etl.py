"""CAN log to frames, to signals, to Parquet: ours against python-can, hilspy, cantools and asammdf.

::

    python benchmarks/etl.py [--json] [--frames 1000000] [--rounds 3] [--memory]

The log is synthetic (benchmarks/synthetic.py): 10 ids at 100 Hz, 64 signals. All subjects take turns within
every round, each in one process and with its default threads; figures are million frames a second, medians.

The slow ones (python-can, cantools, hilspy) get a log of `--slice` frames: they are linear in its length.
asammdf cannot read BLF: it gets the same frames as MF4, uncompressed, so it has nothing to inflate, and
resamples them to 100 Hz into Parquet: time and 64 columns. Ours does more in the same time: it stores the
frames as Parquet, reads them back, and stores the 64 signals at 100 Hz with the age of each, segment, energy
and distance (134 columns), checked against their schema and synced to disk; copying the raw log into the lake
is not counted. `stored frames -> ...` is what a corrected DBC or config costs. Ours uses two threads, so on a
busy machine compare processor seconds too: they are printed for the way into Parquet, all threads together.

`--memory` adds the peak resident memory of a process that takes 5 and 50 million frames through both stages.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import synthetic
from interleaved import Result, arguments, left_out, median_ratio, off_stdout, show

from tspace_core.can.dbc import load_database
from tspace_core.can.readers import open_log
from tspace_core.can.report import ReadReport
from tspace_core.can.signals import SignalExtractor
from tspace_core.config import Vehicle
from tspace_core.storage import ingest
from tspace_core.storage.lake import Lake

DATE = "2026-03-04"
MEMORY_FRAMES = (5_000_000, 50_000_000)
Subjects = dict[str, tuple[Callable[[], object], int]]
"""What to call and how many frames it takes, by subject."""


class Bench:
    """The logs in a folder and what is done with them."""

    def __init__(self, folder: Path, frames: int, part: int) -> None:
        self.folder = folder
        self.frames = frames
        self.part = min(part, frames)
        self.log = folder / "synthetic.blf"
        self.short = folder / "slice.blf"
        self.mf4 = folder / "synthetic.mf4"
        synthetic.write_blf(self.log, frames)
        synthetic.write_blf(self.short, self.part)
        self.vehicle = synthetic.vehicle(folder, float(synthetic.RATE_HZ))
        self.dbc = folder / "synthetic.dbc"

    def read(self) -> Subjects:
        """BLF to frames."""
        subjects: Subjects = {"tspace": (lambda: sum(map(len, open_log(self.log).batches())), self.frames)}
        subjects["python-can"] = (self._python_can, self.part)
        try:
            import hilspy
        except ImportError as error:
            left_out("hilspy", error)
        else:
            subjects["hilspy"] = (
                lambda: sum(1 for _ in hilspy.open(f"file://{self.short}", "raw")),
                self.part,
            )
        return subjects

    def _python_can(self) -> int:
        import can

        return sum(1 for _ in can.BLFReader(self.short))

    def decode(self) -> Subjects:
        """Frames in memory to signals."""
        import cantools

        database = load_database(self.vehicle.dbc_files())
        batches = list(open_log(self.log).batches())
        peer = cantools.database.load_file(self.dbc)
        part = batches[0].select(slice(0, self.part // 4))
        pairs = [
            (int(identifier), bytes(payload))
            for identifier, payload in zip(part.id, part.payload, strict=True)
        ]

        def ours() -> None:
            extractor = SignalExtractor(self.vehicle, database, ReadReport())
            for batch in batches:
                extractor.extract(batch)

        def cantools_loop() -> None:
            for identifier, payload in pairs:
                peer.decode_message(identifier, payload)

        return {"tspace": (ours, self.frames), "cantools": (cantools_loop, len(pairs))}

    def read_and_decode(self) -> Subjects:
        """A log in each one's own container to signals in memory."""
        database = load_database(self.vehicle.dbc_files())

        def ours() -> None:
            extractor = SignalExtractor(self.vehicle, database, ReadReport())
            for batch in open_log(self.log).batches():
                extractor.extract(batch)

        subjects: Subjects = {"tspace": (ours, self.frames)}
        if self.mf4.exists():
            subjects["asammdf"] = (self._asammdf, self.frames)
        return subjects

    def to_parquet(self) -> Subjects:
        """A log in each one's own container to signals in Parquet."""
        subjects: Subjects = {
            "tspace": (partial(take_through, self.log, self.vehicle, self.folder / "lake"), self.frames),
            "python-can + cantools": (self._loop_to_parquet, self.part // 4),
        }
        if self.mf4.exists():
            subjects["asammdf"] = (self._asammdf_to_parquet, self.frames)
        return subjects

    def _loop_to_parquet(self) -> None:
        import can
        import cantools
        import polars as pl

        database = cantools.database.load_file(self.dbc)
        rows: dict[int, list[dict[str, object]]] = {}
        for number, message in enumerate(can.BLFReader(self.short)):
            if number == self.part // 4:
                break
            decoded = dict(database.decode_message(message.arbitration_id, bytes(message.data)))
            rows.setdefault(message.arbitration_id, []).append({"time": message.timestamp, **decoded})
        for identifier, found in rows.items():
            path = self.folder / f"loop_{identifier}.parquet"
            pl.DataFrame(found, infer_schema_length=None).write_parquet(path, compression="zstd")

    def write_mf4(self) -> None:
        """The same frames in asammdf's own container, as python-can's MF4Writer lays them out."""
        from asammdf import MDF, Signal
        from asammdf.blocks.v4_blocks import SourceInformation
        from asammdf.blocks.v4_constants import BUS_TYPE_CAN, SOURCE_BUS

        fields = [("BusChannel", "u1"), ("ID", "<u4"), ("IDE", "u1"), ("DLC", "u1"), ("DataLength", "u1")]
        fields += [("DataBytes", "(8,)u1"), ("Dir", "u1"), ("EDL", "u1"), ("BRS", "u1")]
        rows = np.zeros(self.frames, np.dtype([(f"CAN_DataFrame.{name}", kind) for name, kind in fields]))
        time = np.empty(self.frames)
        start, origin = 0, None
        for batch in open_log(self.log).batches():
            here = slice(start, start + len(batch))
            start += len(batch)
            origin = batch.time[0] if origin is None else origin
            time[here] = (batch.time - origin) / 1e9
            for name, column in {
                "ID": batch.id,
                "IDE": batch.flags & 1,
                "DLC": batch.length,
                "DataLength": batch.length,
                "DataBytes": batch.payload,
            }.items():
                rows[f"CAN_DataFrame.{name}"][here] = column
        rows["CAN_DataFrame.BusChannel"] = 1
        source = SourceInformation(source_type=SOURCE_BUS, bus_type=BUS_TYPE_CAN)
        with MDF(version="4.10") as mdf:
            mdf.append(Signal(rows, time, name="CAN_DataFrame", source=source))
            mdf.save(self.mf4, overwrite=True, compression=0)

    def _asammdf(self) -> int:
        from asammdf import MDF

        with MDF(self.mf4) as mdf, mdf.extract_bus_logging({"CAN": [(self.dbc, 0)]}) as found:
            return sum(1 for group in found.groups for _ in group.channels)

    def _asammdf_to_parquet(self) -> None:
        from asammdf import MDF

        target = self.folder / "asammdf.parquet"
        with MDF(self.mf4) as mdf, mdf.extract_bus_logging({"CAN": [(self.dbc, 0)]}) as found:
            frame = found.to_dataframe(raster=1 / synthetic.RATE_HZ)
        frame.to_parquet(target, compression="zstd")


@dataclass(frozen=True)
class Spent:
    """Seconds on the clock, and of all processors together."""

    wall: float
    processor: float


def spent(call: Callable[[], object]) -> Spent:
    """What a call takes; its own measure if it returns one."""
    wall, processor = time.perf_counter(), time.process_time()
    own = call()
    if isinstance(own, Spent):
        return own
    return Spent(time.perf_counter() - wall, time.process_time() - processor)


def take_through(log: Path, vehicle: Vehicle, root: Path) -> Spent:
    """Frames and signals of a log into a fresh lake; the copy of the raw log is not counted."""
    shutil.rmtree(root, ignore_errors=True)
    lake = Lake(root)
    raw = ingest.store_raw(lake, log, vehicle, DATE)

    def stages() -> None:
        ingest.store_frames(lake, raw, vehicle)
        ingest.store_signals(lake, raw, vehicle)

    return spent(stages)


def signals_again(log: Path, vehicle: Vehicle, root: Path) -> Spent:
    """Signals of a log whose frames are stored in the lake."""
    lake = Lake(root)
    raw = ingest.store_raw(lake, log, vehicle, DATE)
    lake.signals(raw).unlink(missing_ok=True)
    return spent(lambda: ingest.store_signals(lake, raw, vehicle))


def measure(what: str, subjects: Subjects, rounds: int, *, processor: bool = False) -> list[Result]:
    """Million frames a second of each subject, and how many times as fast ours is."""
    rates: dict[str, list[float]] = {name: [] for name in subjects}
    busy: dict[str, list[float]] = {name: [] for name in subjects}
    with off_stdout():
        for turn in range(rounds + 1):
            for name, (call, frames) in subjects.items():
                found = spent(call)
                if turn:  # the first one compiles and warms up
                    rates[name].append(frames / found.wall / 1e6)
                    busy[name].append(found.processor / frames * 1e6)
    results = [
        Result(what, name, statistics.median(values), "M frames/s", "higher")
        for name, values in rates.items()
    ]
    if processor:
        results += [
            Result(f"{what}, processor seconds", name, statistics.median(values), "s/M frames", "lower")
            for name, values in busy.items()
        ]
    results += [
        Result(
            f"{what}, times as fast as {name}", "tspace", median_ratio(rates["tspace"], values), "x", "higher"
        )
        for name, values in rates.items()
        if name != "tspace"
    ]
    return results


def peak_memory(folder: Path) -> list[Result]:
    """Peak resident memory of processes of their own, GB."""
    results = []
    for frames in MEMORY_FRAMES:
        log = folder / "long.blf"
        synthetic.write_blf(log, frames)
        command = [sys.executable, __file__, "--one-pass", str(log)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        memory, seconds = map(float, done.stdout.split())
        what = f"BLF -> frames and signals, {frames // 10**6} M frames"
        results.append(Result(f"{what}, peak resident memory", "tspace", memory, "GB", "lower"))
        results.append(Result(what, "tspace", frames / seconds / 1e6, "M frames/s", "higher"))
        log.unlink()
    return results


def one_pass(log: Path) -> None:
    """What the process of `peak_memory` does, on the vehicle's own grid of 20 Hz."""
    import resource

    with tempfile.TemporaryDirectory(dir=log.parent) as name:
        folder = Path(name)
        seconds = take_through(log, synthetic.vehicle(folder, 20.0), folder / "lake").wall
    # Linux gives ru_maxrss in KiB
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, seconds)


def main() -> None:
    parser = arguments("CAN log to frames, signals and Parquet")
    parser.set_defaults(rounds=3)
    parser.add_argument("--frames", type=int, default=1_000_000, help="length of the log")
    parser.add_argument("--slice", type=int, default=100_000, help="length of the log for slow peers")
    parser.add_argument("--memory", action="store_true", help="also peak memory at 5 and 50 million frames")
    parser.add_argument("--one-pass", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one_pass:
        one_pass(options.one_pass)
        return
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), options.frames, options.slice)
        try:
            bench.write_mf4()
        except ImportError as error:
            left_out("asammdf", error)
        results = measure("BLF -> frames", bench.read(), options.rounds)
        results += measure("frames in memory -> 64 signals", bench.decode(), options.rounds)
        results += measure("log -> 64 signals in memory", bench.read_and_decode(), options.rounds)
        what = "log -> 64 signals in Parquet"
        results += measure(what, bench.to_parquet(), options.rounds, processor=True)
        again = partial(signals_again, bench.log, bench.vehicle, bench.folder / "lake")
        what = "stored frames -> 64 signals in Parquet"
        results += measure(what, {"tspace": (again, bench.frames)}, options.rounds)
        if options.memory:
            results += peak_memory(Path(name))
    show(
        results,
        as_json=options.json,
        title=f"CAN log of {options.frames} frames, medians of interleaved runs",
    )


if __name__ == "__main__":
    main()
