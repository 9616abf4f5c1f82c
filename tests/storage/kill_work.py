"""Processes that store until they are killed, and say on a pipe what they begin and what is stored.

As a program: a server that forks. A line of JSON a command: ``{"root": lake, "mongo": [database, uri] or
null, "seed": [...], "pipe": path of a fifo}`` forks a child and is answered by its pid; ``{"reap": pid}``
waits for its end. The server has imported everything, so that a child costs milliseconds; its only other
thread is Arrow's, which knows of forks.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas  # noqa: F401  Arrow imports it at the first table, which would cost each child a second
import pyarrow.compute
import pyarrow.pandas_compat  # noqa: F401

from tests.storage.pools.builders import episode
from tspace_core.records.episode import Episode
from tspace_core.storage.lake import Lake
from tspace_core.storage.pools.avro import AvroPool
from tspace_core.storage.pools.mongo import MongoPool
from tspace_core.storage.pools.parquet import ParquetPool
from tspace_core.storage.pools.pool import Pool
from tspace_core.storage.pools.query import Query
from tspace_core.storage.replay import write_replay
from tspace_core.storage.replay_appender import ReplayAppender
from tspace_core.storage.unit_of_work import UnitOfWork

KINDS = ("parquet", "avro", "mongo", "growing", "unit", "delete")
CAPACITY = 1_000_000


def made(call: dict[str, Any]) -> list[Episode]:
    """The episodes of a call, again."""
    return [
        episode(number, records, name=f"{call['name']}.{number % 2}.blf", vehicle=call["vehicle"])
        for number, records in enumerate(call["records"])
    ]


class Stores:
    """All that is stored into, below one lake and in one database."""

    def __init__(self, root: Path, mongo: list[str] | None) -> None:
        self.lake = Lake(root)
        self.mongo = mongo
        self.growing = self.lake.replay("kills") / "growing"
        self._open: dict[str, Pool] = {}
        self.closing = ExitStack()

    def pool(self, kind: str) -> Pool:
        """A pool, opened once."""
        if kind not in self._open:
            made = {"parquet": ParquetPool, "avro": AvroPool}
            pool = MongoPool(*self.mongo) if kind == "mongo" and self.mongo else made[kind](self.lake)
            self._open[kind] = self.closing.enter_context(pool)
        return self._open[kind]


def do(stores: Stores, call: dict[str, Any], appender: ReplayAppender) -> None:
    """Do one call; it is stored when this returns."""
    kind, episodes = call["kind"], made(call)
    if kind in ("parquet", "avro", "mongo"):
        assert stores.pool(kind).store(episodes) == len(episodes)
    elif kind == "growing":
        assert appender.extend(episodes) == len(episodes)
    elif kind == "delete":
        assert stores.pool("parquet").delete(Query(episodes=tuple(call["ids"]))) == len(call["ids"])
    else:
        with UnitOfWork(stores.lake, name=call["name"]) as unit:
            ParquetPool(stores.lake, writer=unit).store(episodes)
            appender.extend(episodes, writer=unit)
            write_replay(stores.lake.replay("nights"), episodes, writer=unit)
            unit.metrics("night", {"name": call["name"], "episodes": len(episodes)})


def calls(seed: list[int], kinds: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """What a process does, one call after the other."""
    generator = np.random.default_rng(seed)
    stored: list[list[str]] = []
    for number in range(1_000_000):
        kind = str(generator.choice(kinds)) if stored else "parquet"
        name = "-".join(map(str, [*seed, number]))
        records = [int(n) for n in generator.integers(1, 40, int(generator.integers(1, 4)))]
        call: dict[str, Any] = {"kind": kind, "name": name, "vehicle": f"v{number % 2}", "records": records}
        if kind == "delete":
            call |= {"records": [], "ids": stored.pop(0)}
        elif kind in ("parquet", "unit"):
            stored.append([one.meta.episode_id for one in made(call)])
        yield call


def live(root: Path, mongo: list[str] | None, seed: list[int], say: Callable[[str, Any], None]) -> None:
    """Store until killed."""
    stores = Stores(root, mongo)
    with ReplayAppender(stores.growing, capacity_rows=CAPACITY) as appender:
        say("ready", None)
        for call in calls(seed, KINDS if mongo else tuple(kind for kind in KINDS if kind != "mongo")):
            say("begin", call)
            do(stores, call, appender)
            say("stored", call["name"])


def _child(command: dict[str, Any]) -> None:
    pipe = os.open(command["pipe"], os.O_WRONLY)

    def say(what: str, of: Any) -> None:
        os.write(pipe, (json.dumps([what, of]) + "\n").encode())

    try:
        live(Path(command["root"]), command["mongo"], command["seed"], say)
    except BaseException:
        say("failed", traceback.format_exc()[-2000:])
    finally:
        os._exit(1)


def serve() -> None:
    """Answer commands until the input ends."""
    for line in sys.stdin:
        command = json.loads(line)
        if "reap" in command:
            answer = os.waitstatus_to_exitcode(os.waitpid(command["reap"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                _child(command)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
