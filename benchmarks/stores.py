"""Store, find, count and sample in every kind of pool, and how the cost grows with what is stored.

::

    python benchmarks/stores.py [--json] [--episodes 1000 10000] [--rounds 9] [--all]
                                [--pools parquet avro mongodb s3]

Episodes of 8 records, state 90, action 68, ten a log, a log a day of each of ten vehicles: more episodes are
more days. Finding, counting and sampling are asked of two days of one vehicle, always 20 episodes, so their
cost should not grow with the pool; and of everything, whose cost should grow no faster than the result. The
last lines say by what the cost grew from one size to the next, beside 10 for ten times the result.

"first" is what a process pays that has just opened a pool, with the index of the files made by another. S3 is
Parquet on a SeaweedFS of this machine, MongoDB is nx-27017, which keeps documents in SQLite; both are started
here and, unless --all, measured at the smallest size only. Ratios are what to look at.
"""

import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
from interleaved import Result, arguments, off_stdout, show

from tspace_core.config.settings import settings
from tspace_core.records.episode import Episode
from tspace_core.records.meta import EpisodeMeta
from tspace_core.storage.pools.pool import Pool
from tspace_core.storage.pools.query import ALL, Query
from tspace_core.storage.pools.registry import open_pool

VEHICLES, PIECES, RECORDS = 10, 10, 8
WINDOW, SIGNALS = 30, ("velocity", "thrust", "brake")
BEGIN = datetime(2020, 1, 1, 6, tzinfo=UTC)
BATCH, CALL = 256, 1000
EVERYTHING = "everything"


def episodes(count: int, *, first_log: int = 0) -> Iterator[Episode]:
    """Episodes in order of their days; any count of logs is a beginning of any larger one."""
    generator = np.random.default_rng(count + first_log)
    common = {
        "driver_id": "d", "site_id": "s", "timezone": "UTC", "rate_hz": 20.0, "window": WINDOW,
        "signals": SIGNALS, "pedal_axis": tuple(i / 16 for i in range(17)),
        "speed_axis_kmh": tuple(float(i) for i in range(21)), "default_map_sha256": "0" * 64,
        "budget_nm": 250.0, "upper_factor": 1.0, "software_version": "0", "time_source": "log_header",
        "action_source": "flash_journal", "reward_kind": "energy", "energy_wh": 1.0, "distance_m": 10.0,
        "duration_s": 12.0, "end_reason": "log ended",
    }  # fmt: skip
    for number in range(count):
        log, piece = divmod(number, PIECES)
        day, vehicle = divmod(first_log + log, VEHICLES)
        begun = BEGIN + timedelta(days=day, minutes=piece)
        name = f"v{vehicle}"
        key = f"{name}/{begun:%Y-%m-%d}/drive.blf"
        meta = {**common, "episode_id": f"{key}#{piece:04d}", "vehicle_id": name, "log_key": key}
        yield Episode(
            states=generator.random((RECORDS + 1, WINDOW * len(SIGNALS)), np.float32),
            actions=generator.random((RECORDS, 68), np.float32),
            rows=np.zeros(RECORDS, np.int32),
            rewards=generator.random(RECORDS, np.float32),
            times=int(begun.timestamp()) * 10**9 + np.arange(RECORDS + 1, dtype=np.int64) * 1_500_000_000,
            flags=np.zeros(RECORDS, np.uint8),
            meta=EpisodeMeta.model_validate(meta),
        )


def two_days(count: int) -> Query:
    """Twenty episodes from the middle of a pool."""
    middle = BEGIN.replace(hour=0) + timedelta(days=count // PIECES // VEHICLES // 2)
    return Query(vehicles=("v3",), started_from=middle, started_before=middle + timedelta(days=2))


def seconds(call: Callable[[], object], rounds: int) -> float:
    """Median of the rounds."""
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def fill(pool: Pool, count: int) -> float:
    """Seconds to store that many episodes, ``CALL`` a call; making them is not counted."""
    made, took = episodes(count), 0.0
    while batch := [episode for _, episode in zip(range(CALL), made, strict=False)]:
        began = time.perf_counter()
        stored = pool.store(batch)
        took += time.perf_counter() - began
        if stored != len(batch):
            sys.exit(f"{pool} stored {stored} of {len(batch)} episodes")
    return took


def measure(name: str, url: str, count: int, rounds: int) -> list[Result]:
    """All figures of one pool at one size."""
    print(f"{name}: {count} episodes", file=sys.stderr)
    of, few, results = f"{count:,} episodes", two_days(count), []

    def note(what: str, value: float, unit: str, factor: float) -> None:
        results.append(Result(f"{what}, {of}", name, value * factor, unit, "lower"))

    with open_pool(url) as pool:
        note("store, an episode", fill(pool, count) / count, "ms", 1e3)
        log = count // PIECES
        more = [list(episodes(PIECES, first_log=log + i)) for i in range(min(rounds, 5))]
        note("store 10 more", seconds(lambda: pool.store(more.pop()), len(more)), "ms", 1e3)
        again = list(episodes(count))[:PIECES] if count <= CALL else []
        if again:
            note("store 10 that are there", seconds(lambda: pool.store(again), min(rounds, 5)), "ms", 1e3)

    def first() -> None:
        with open_pool(url) as opened:
            found = opened.find(few)
        if len(found) != 2 * PIECES:
            sys.exit(f"{url}: found {len(found)} episodes, expected {2 * PIECES}")

    note("find 20, first", seconds(first, min(rounds, 5)), "ms", 1e3)
    with open_pool(url) as pool:
        generator = np.random.default_rng(1)
        one = pool.find(few)[0].episode_id
        note("find 20", seconds(lambda: pool.find(few), rounds), "ms", 1e3)
        note("count 20", seconds(lambda: pool.count(few), rounds), "ms", 1e3)
        note("read an episode", seconds(lambda: pool.read(one), rounds), "ms", 1e3)
        pool.sample(BATCH, generator, few)
        note(f"sample {BATCH} of 20", seconds(lambda: pool.sample(BATCH, generator, few), rounds), "ms", 1e3)
        some = min(rounds, 3)
        note(f"find {EVERYTHING}", seconds(lambda: pool.find(ALL), some), "ms", 1e3)
        note(f"count {EVERYTHING}", seconds(lambda: pool.count(ALL), some), "ms", 1e3)
        pool.sample(BATCH, generator)
        note(
            f"sample {BATCH} of {EVERYTHING}", seconds(lambda: pool.sample(BATCH, generator), some), "ms", 1e3
        )
    return results


def growth(results: list[Result], sizes: list[int]) -> list[Result]:
    """By what each figure grew from a size to the next."""
    known = {(result.what, result.subject): result.value for result in results}
    found = []
    for (what, subject), value in known.items():
        for small, large in pairwise(sizes):
            end = f", {small:,} episodes"
            later = known.get((f"{what.removesuffix(end)}, {large:,} episodes", subject))
            if what.endswith(end) and later is not None and value > 0:
                title = f"{what.removesuffix(end)}: growth, {small:,} to {large:,}"
                found.append(Result(title, subject, later / value, "x", "lower"))
    return found


def servers(stack: ExitStack, pools: list[str]) -> dict[str, Callable[[Path, int], str]]:
    """Starts what is asked for; how to name a fresh pool of each kind."""
    urls: dict[str, Callable[[Path, int], str]] = {
        "parquet": lambda folder, count: f"parquet:{folder / f'parquet-{count}'}",
        "avro": lambda folder, count: f"avro:{folder / f'avro-{count}'}",
    }
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the servers are those of the tests
    if "mongodb" in pools:
        from tests.storage.pools.mongo_server import MongoServer

        mongo = MongoServer()
        stack.callback(mongo.close)
        os.environ["TSPACE_MONGODB_URI"] = mongo.start().uri
        urls["mongodb"] = lambda _, count: f"mongodb:stores_{count}"
    if "s3" in pools:
        from tests.objects.seaweed import SeaweedServer

        seaweed = SeaweedServer()
        stack.callback(seaweed.close)
        os.environ.update(seaweed.start().environment)
        bucket = seaweed.new_bucket()
        urls["s3"] = lambda _, count: f"parquet:s3://{bucket}/{count}"
    settings.cache_clear()
    return {name: urls[name] for name in pools}


def main() -> None:
    parser = arguments(__doc__.split("\n")[0])
    parser.set_defaults(rounds=9)
    parser.add_argument("--episodes", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument(
        "--pools", nargs="+", default=["parquet", "avro", "mongodb", "s3"],
        choices=["parquet", "avro", "mongodb", "s3"],
    )  # fmt: skip
    parser.add_argument("--all", action="store_true", help="MongoDB and S3 at every size")
    given = parser.parse_args()
    sizes = sorted(given.episodes)
    if sizes[0] < 4 * VEHICLES * PIECES:
        parser.error(f"--episodes must be at least {4 * VEHICLES * PIECES}")
    results: list[Result] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the servers end with it
    with ExitStack() as stack, off_stdout():
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stores-")))
        os.environ["TSPACE_DATA_DIR"] = str(folder / "data")
        os.environ["TSPACE_S3__CACHE_DIR"] = str(folder / "cache")
        for name, url in servers(stack, given.pools).items():
            few = sizes if given.all or name in ("parquet", "avro") else sizes[:1]
            for count in few:
                results += measure(name, url(folder, count), count, given.rounds)
    show(results + growth(results, sizes), as_json=given.json, title="Stores of episodes")


if __name__ == "__main__":
    main()
