"""Processes that store are killed at random times: what was reported as stored is there, and whole."""

import json
import os
import random
import secrets
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.storage.kill_work import Stores, made
from tests.storage.pools.builders import same
from tests.storage.pools.mongo_server import MongoServer, mongo_server
from tspace_core.storage.doctor import examine
from tspace_core.storage.folders import file_sizes
from tspace_core.storage.pools.mongo import MongoPool
from tspace_core.storage.replay import Replay, versions_of
from tspace_core.storage.replay_growing import GrowingReplay
from tspace_core.storage.unit_log import UNITS

__all__ = ["mongo_server"]
ROOT = Path(__file__).parents[2]
KILLS_A_LAKE = 10
MOST_LINES, LONGEST_S = 12, 0.08
"""The kill comes after so many lines at most, and so much later at most: in any part of a call."""


class Server:
    """Forks processes that store, see ``kill_work``."""

    def __init__(self) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "NUMEXPR_MAX_THREADS": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.storage.kill_work"], cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def ask(self, **command: Any) -> int:
        """The answer to a command."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return int(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End it."""
        self._process.communicate(timeout=30)


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.close()


@dataclass
class Known:
    """What a lake must hold."""

    calls: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Calls that were reported as stored, by name."""
    deleted: set[str] = field(default_factory=set)
    """Episodes of the Parquet pool that were reported as deleted."""
    last: dict[str, Any] | None = None
    """The call that was not reported: it may be stored, as a whole, or not."""

    def take(self, lines: list[list[Any]]) -> None:
        """What a process said, in order."""
        self.last = None
        for what, of in lines:
            assert what != "failed", of
            if what == "begin":
                self.last = of
            elif what == "stored" and self.last is not None:
                assert self.last["name"] == of
                self.calls[of] = self.last
                self.deleted.update(self.last.get("ids", ()))
                self.last = None


def killed(server: Server, chance: random.Random, pipe: Path, **command: Any) -> list[list[Any]]:
    """Let a process store, kill it after a random time, and return what it said."""
    pid = server.ask(pipe=str(pipe), **command)
    reader = os.open(pipe, os.O_RDONLY)
    said, lines = b"", chance.randint(1, MOST_LINES)
    while said.count(b"\n") < lines and (more := os.read(reader, 1 << 16)):
        said += more
    until = monotonic() + chance.uniform(0.0, LONGEST_S)
    while (left := until - monotonic()) > 0 and select.select([reader], [], [], left)[0]:
        said += os.read(reader, 1 << 16)
    os.kill(pid, signal.SIGKILL)
    assert server.ask(reap=pid) == -signal.SIGKILL, said[-3000:]
    while more := os.read(reader, 1 << 16):
        said += more
    os.close(reader)
    return [json.loads(line) for line in said.splitlines(keepends=True) if line.endswith(b"\n")]


def verify(stores: Stores, known: Known) -> bool | None:
    """Compare all stores with what is known; whether the last call is there, None: there was none."""
    there: dict[str, bool] = {}
    maybe = known.last or {"kind": "", "name": "", "ids": []}
    gone = known.deleted | set(maybe.get("ids", ()))
    for kind in ("parquet", "avro", *(["mongo"] if stores.mongo else [])):
        pool = stores.pool(kind)
        found = {entry.episode_id for entry in pool.find()}
        sure = {}
        for call in known.calls.values():
            if call["kind"] == kind or (call["kind"] == "unit" and kind == "parquet"):
                sure.update({one.meta.episode_id: one for one in made(call)})
        for name, expected in sure.items():
            if kind != "parquet" or name not in gone:
                assert name in found, f"{name} was reported as stored and is not in {pool}"
                assert same(pool.read(name), expected), name
        extra = found - sure.keys()
        if extra:
            assert maybe["kind"] in (kind, "unit"), (kind, extra)
            whole = {one.meta.episode_id: one for one in made(maybe)}
            assert extra == whole.keys(), "a call is stored as a whole or not at all"
            assert all(same(pool.read(name), one) for name, one in whole.items())
        there[kind] = bool(extra)
        if kind == "parquet":
            assert not found & known.deleted
            left = found & set(maybe.get("ids", ()))
            assert left in (set(), set(maybe.get("ids", ()))), "a call deletes all or nothing"
    there["growing"] = _verify_growing(stores, known, maybe)
    there["nights"] = _verify_nights(stores, known, maybe)
    if maybe["kind"] == "unit":
        parts = {there["parquet"], there["growing"], there["nights"]}
        assert len(parts) == 1, f"a unit is there as a whole or not at all: {there}"
        return parts.pop()
    return there.get(maybe["kind"])


def _verify_growing(stores: Stores, known: Known, maybe: dict[str, Any]) -> bool:
    sure = [
        one.meta.episode_id
        for call in known.calls.values()
        if call["kind"] in ("growing", "unit")
        for one in made(call)
    ]
    if not (stores.growing / "manifest.json").is_file():
        assert sure == []
        return False
    replay = GrowingReplay(stores.growing)
    replay.verify()
    found = [item.id for item in replay.manifest.content.episodes]
    assert found[: len(sure)] == sure
    extra = found[len(sure) :]
    assert not extra or extra == [one.meta.episode_id for one in made(maybe)]
    return bool(extra)


def _verify_nights(stores: Stores, known: Known, maybe: dict[str, Any]) -> bool:
    nights = [call for call in known.calls.values() if call["kind"] == "unit"]
    root = stores.lake.replay("nights")
    versions = versions_of(root)
    metrics = [
        json.loads(path.read_text())["values"]
        for path in sorted(file_sizes(stores.lake.root / "metrics", "night/*.json"))
    ]
    assert len(metrics) == len(versions)
    assert len(nights) <= len(versions) <= len(nights) + (maybe["kind"] == "unit")
    expected = [*nights, maybe][: len(versions)]
    assert [item["name"] for item in metrics] == [call["name"] for call in expected]
    for version, call in zip(versions, expected, strict=True):
        replay = Replay(root / version)
        replay.verify()
        ids = [item.id for item in replay.manifest.content.episodes]
        assert ids == [one.meta.episode_id for one in made(call)]
    return len(versions) > len(nights)


@pytest.mark.parametrize("kills", [20, pytest.param(500, marks=pytest.mark.slow)])
def test_what_was_reported_as_stored_survives_kills_at_random_times(
    tmp_path: Path, server: Server, mongo_server: MongoServer, kills: int
) -> None:
    seed = int(os.environ.get("KILL_SEED", secrets.randbelow(1 << 30)))
    print(f"KILL_SEED={seed}")  # shown where the test fails
    chance, pipe = random.Random(seed), tmp_path / "pipe"
    os.mkfifo(pipe)
    outcomes: dict[str, int] = {}
    for number in range(kills):
        if number % KILLS_A_LAKE == 0:
            root = tmp_path / f"lake-{number}"
            root.mkdir()
            mongo = [f"kills{secrets.token_hex(4)}", mongo_server.uri]
            known, stores = Known(), Stores(root, mongo)
        command = {"root": str(root), "mongo": mongo, "seed": [seed, number]}
        known.take(killed(server, chance, pipe, **command))
        found = examine(stores.lake, repair=True)
        assert all(item.repaired for item in found), found
        assert examine(stores.lake) == []
        with MongoPool(*mongo) as pool:
            pool.sweep(older_than_s=-1)
            assert pool.leftovers(older_than_s=-1) == []
        assert not list(root.rglob(".*.tmp"))
        assert {path.name for path in root.glob(f"{UNITS}/*")} <= {".lock", "last.json"}
        there = verify(stores, known)
        if known.last is not None:
            if known.last["kind"] == "delete":
                known.deleted |= set(known.last["ids"]) - {
                    entry.episode_id for entry in stores.pool("parquet").find()
                }
            elif there:
                known.calls[known.last["name"]] = known.last  # it is stored, though nobody was told
            name = f"{known.last['kind']} {'stored' if there else 'not stored'}"
            outcomes[name] = outcomes.get(name, 0) + 1
        outcomes["findings"] = outcomes.get("findings", 0) + len(found)
        if number % KILLS_A_LAKE == KILLS_A_LAKE - 1:
            outcomes["calls"] = outcomes.get("calls", 0) + len(known.calls)
            stores.closing.close()
            with mongo_server.client() as client:
                client.drop_database(mongo[0])
    print(outcomes)
    assert outcomes["calls"] > kills / 4, "the processes are killed before they store anything"
