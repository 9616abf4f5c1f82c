"""MongoDB pools hold the contract of every pool; their layout is what people and other programs query."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examples
from pymongo import monitoring

from tests.records.made import assert_same, episodes, made_episode
from tests.storage.pools.builders import at, episode, fleet, matching, same
from tests.storage.pools.contract import Opener, PoolContract
from tests.storage.pools.mongo_server import MongoServer
from tspace_core.config.settings import settings
from tspace_core.errors import ConfigError, PoolError, SchemaVersionError
from tspace_core.records.episode import Episode
from tspace_core.storage.pools.convert import convert
from tspace_core.storage.pools.mongo import MongoPool
from tspace_core.storage.pools.mongo_documents import SCHEMA_VERSION
from tspace_core.storage.pools.query import ALL, Query
from tspace_core.storage.pools.registry import open_pool


class TestMongoPool(PoolContract):
    @pytest.fixture
    def opener(self, mongo_server: MongoServer, mongo_database: str) -> Opener:
        return lambda: MongoPool(mongo_database, mongo_server.uri)


@pytest.fixture
def pool(mongo_server: MongoServer, mongo_database: str) -> Iterator[MongoPool]:
    with MongoPool(mongo_database, mongo_server.uri) as opened:
        yield opened


@pytest.fixture
def database(mongo_server: MongoServer, mongo_database: str) -> Iterator[Any]:
    with mongo_server.client() as client:
        yield client[mongo_database]


@pytest.fixture
def by_settings(mongo_server: MongoServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TSPACE_MONGODB_URI", mongo_server.uri)
    settings.cache_clear()
    yield
    settings.cache_clear()


odd = made_episode(
    1, 2, energy_wh=float("nan"), distance_m=float("-inf"), units={"a.b": "$", "$c": "", "": "\0", "\0": "x"}
)


@examples(max_examples=8, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(odd)
@given(episodes())
def test_from_files_to_documents_and_back_no_bit_changes(
    tmp_path: Path, pool: MongoPool, mongo_server: MongoServer, one: Episode
) -> None:
    pool.delete(ALL, everything=True)
    with (
        open_pool(f"parquet:{tmp_path / 'from'}") as source,
        open_pool(f"parquet:{tmp_path / 'to'}") as target,
    ):
        for files in (source, target):
            files.delete(ALL, everything=True)
        source.store([one])
        assert convert(source, pool).new == 1
        assert convert(pool, target).new == 1
        name = one.meta.episode_id
        assert_same(pool.read(name), one)
        assert_same(target.read(name), one)
        assert [entry.digest for entry in pool.find()] == [entry.digest for entry in source.find()]


def test_a_url_and_the_environment_lead_to_it(by_settings: None, mongo_database: str) -> None:
    with open_pool(f"mongodb:{mongo_database}") as pool:
        assert str(pool) == f"mongodb:{mongo_database}"
        assert pool.store(fleet()) == 7


def test_the_uri_may_name_the_database(mongo_server: MongoServer, mongo_database: str) -> None:
    with MongoPool(None, f"{mongo_server.uri}/{mongo_database}") as pool:
        assert str(pool) == f"mongodb:{mongo_database}"


def test_without_a_server_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TSPACE_MONGODB_URI", raising=False)
    settings.cache_clear()
    with pytest.raises(ConfigError, match="set TSPACE_MONGODB_URI=mongodb://"):
        MongoPool("fleet")


@pytest.mark.parametrize(
    ("uri", "database"),
    [
        ("mongodb://u:s3cret/word@host:1", "fleet"),
        ("mongodb://u:s3cret@word:port", "fleet"),
        ("http://u:s3cret@host", "fleet"),
        ("mongodb://u:s3cret@host", None),
        ("mongodb://u:s3cret@host", "no/name"),
        ("mongodb://u:s3cret@host", ""),
    ],
)
def test_an_impossible_server_is_refused_without_its_password(uri: str, database: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        MongoPool(database, uri)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_the_layout_is_what_its_description_says(pool: MongoPool, database: Any) -> None:
    one = episode(1, 2, vehicle="v7", zeroed=(1,))
    pool.store([episode(0, 1, vehicle="v7"), one])
    (found,) = database.episodes.find({"episode_id": one.meta.episode_id})
    assert (found["vehicle"], found["driver"], found["site"], found["agent"]) == (
        "v7", "d1", "s1", "flash_journal"
    )  # fmt: skip
    assert (found["start"], found["start_ns"]) == (at(), one.times[0])
    assert (found["end"], found["end_ns"]) == (at(0, 6), one.times[2])
    assert (found["records"], found["valid"], found["invalid"]) == (2, 1, 1)
    assert (found["state_dim"], found["action_dim"], found["first"]) == (9, 68, 2)
    assert found["meta"]["units"]["velocity"] == "km/h"
    records = list(database.records.find({"episode_id": one.meta.episode_id}).sort([("k", 1)]))
    assert [record["_id"] for record in records] == [f"{found['batch']}:{k}" for k in (2, 3, 4)]
    assert [record["time_ns"] for record in records] == one.times.tolist()
    assert [record["time"] for record in records] == [at(), at(0, 3), at(0, 6)]
    assert np.array_equal(np.array([record["state"] for record in records], np.float32), one.states)
    assert np.array_equal(np.array([record["action"] for record in records[:2]], np.float32), one.actions)
    assert records[1]["flags"] == one.flags[1]
    assert not {"action", "first_row", "reward", "flags"} & records[2].keys()
    (batch,) = database.batches.find()
    assert (batch["_id"], batch["number"], batch["kind"], batch["episodes"]) == (
        found["batch"], 1, "store", 2
    )  # fmt: skip
    assert database.pool.find_one()["schema_version"] == SCHEMA_VERSION


def test_people_s_queries_find_what_the_pool_finds(pool: MongoPool, database: Any) -> None:
    """The queries of docs/storage.md."""
    pool.store(fleet())
    day = {"$gte": at(1), "$lt": at(2)}
    found = database.episodes.find({"vehicle": "v1", "start": day}, {"meta": 0})
    assert [item["episode_id"] for item in found] == ["v1/2026-03-02/log.blf#0000"]
    found = database.records.find({"time": day, "reward": {"$lt": 0}}, {"state": 0, "action": 0})
    wanted = matching(fleet(), Query(after=at(1), before=at(2)))
    assert len(list(found)) == sum(int((one.rewards[places] < 0).sum()) for one, places in wanted) > 0
    energy = database.episodes.aggregate(
        [
            {"$lookup": {"from": "batches", "localField": "batch", "foreignField": "_id", "as": "stored"}},
            {"$unwind": "$stored"},
            {"$match": {"stored.kind": "store"}},
            {"$group": {"_id": "$driver", "wh": {"$sum": "$meta.energy_wh"}, "episodes": {"$sum": 1}}},
        ]
    )
    by_driver = {item["_id"]: (item["wh"], item["episodes"]) for item in energy}
    assert by_driver == {"d1": (7.0, 5), "d2": (3.0, 2)}


def test_the_indexes_serve_the_queries(pool: MongoPool, database: Any) -> None:
    pool.store([episode(0)])

    def indexes(name: str) -> dict[tuple[str, ...], bool]:
        return {
            tuple(item["key"]): bool(item.get("unique"))
            for item in database[name].list_indexes()
            if item["name"] != "_id_"
        }

    assert indexes("records") == {("time",): False, ("batch", "k"): True}
    assert indexes("batches") == {("number",): True}
    assert {key[0] for key in indexes("episodes")} == {
        "episode_id", "batch", "vehicle", "driver", "site", "agent", "start_ns", "deleting"
    }  # fmt: skip


class Counting(monitoring.CommandListener):
    """Counts commands and the documents that come back."""

    def __init__(self) -> None:
        self.commands = self.documents = 0

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.commands += 1

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        cursor = event.reply.get("cursor", {})
        self.documents += len(cursor.get("firstBatch", cursor.get("nextBatch", ())))

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        raise AssertionError(event.failure)


@pytest.mark.parametrize(
    "query",
    [
        Query(vehicles=("v1",), started_from=at(0, 30), started_before=at(0, 90)),
        Query(after=at(0, 60), before=at(0, 64), drivers=("d1",)),
        Query(episodes=("v1/2026-03-01/log.blf#0002", "v1/2026-03-01/log.blf#0001")),
    ],
)
def test_what_find_asks_for_follows_its_result(
    mongo_server: MongoServer, mongo_database: str, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    with MongoPool(mongo_database, mongo_server.uri) as writer:
        for piece in range(3):
            writer.store(episode(n, 2, second=30.0 * n) for n in range(40 * piece, 40 * piece + 40))
            counting = Counting()
            with monkeypatch.context() as patch:
                patch.setattr(
                    monitoring, "_LISTENERS", monitoring._LISTENERS._replace(command_listeners=[counting])
                )
                with MongoPool(mongo_database, mongo_server.uri) as pool:
                    found = pool.find(query)
            assert 1 <= len(found) <= 3
            asked.append((counting.commands, counting.documents))
    assert asked[0] == asked[1] == asked[2]


def test_a_sample_of_many_episodes_takes_few_commands(mongo_server: MongoServer, mongo_database: str) -> None:
    with MongoPool(mongo_database, mongo_server.uri) as writer:
        writer.store(episode(n, 2, second=30.0 * n) for n in range(60))
    counting = Counting()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(monitoring, "_LISTENERS", monitoring._LISTENERS._replace(command_listeners=[counting]))
        with MongoPool(mongo_database, mongo_server.uri) as pool:
            for number in range(3):
                counting.commands = 0
                assert len(pool.sample(200, np.random.default_rng(number)).rewards) == 200
    assert counting.commands <= 5


@pytest.mark.parametrize(
    ("version", "words"),
    [
        (SCHEMA_VERSION - 1, "made by tspace 0.*tspace convert mongodb:.* parquet:DIR"),
        (SCHEMA_VERSION + 1, "use the newer tspace"),
        (None, "tspace convert"),
    ],
)
def test_another_schema_version_is_refused_with_the_way(
    mongo_server: MongoServer, mongo_database: str, database: Any, version: int | None, words: str
) -> None:
    with MongoPool(mongo_database, mongo_server.uri) as pool:
        pool.store([episode(0)])
    database.pool.update_one({"_id": "pool"}, {"$set": {"schema_version": version}})
    with MongoPool(mongo_database, mongo_server.uri) as pool:
        for call in (
            pool.find,
            pool.sweep,
            lambda: pool.store([episode(1)]),
            lambda: pool.read("v1/2026-03-01/log.blf#0000"),
        ):
            with pytest.raises(SchemaVersionError, match=words):
                call()


def test_somebody_else_s_database_is_left_alone(pool: MongoPool, database: Any) -> None:
    database.episodes.insert_one({"title": "Pilot", "season": 1})
    for call in (pool.find, lambda: pool.store([episode(0)])):
        with pytest.raises(PoolError, match="`episodes` that tspace did not make: choose another database"):
            call()
    assert database.list_collection_names() == ["episodes"]


def test_damage_is_named_and_costs_only_its_episode(pool: MongoPool, database: Any) -> None:
    pool.store(fleet())
    names = [one.meta.episode_id for one in fleet()]
    database.records.delete_one({"episode_id": names[0], "reward": {"$exists": True}})
    database.records.update_many({"episode_id": names[1]}, {"$set": {"state": [1.0]}})
    database.episodes.update_one({"episode_id": names[2]}, {"$set": {"meta": {"gamma": 2}}})
    for name, words in ((names[0], "5 of 6 rec"), (names[1], "damaged"), (names[2], "no valid meta")):
        with pytest.raises(PoolError, match=words):
            pool.read(name)
    assert same(pool.read(names[3]), fleet()[3])
    with pytest.raises(PoolError, match="damaged"):  # not left out as if it had been deleted
        list(pool.iterate())
    assert pool.delete(Query(episodes=tuple(names[:3]))) == 3
    assert pool.store(fleet()) == 3
    assert all(
        map(same, pool.iterate(), sorted(fleet(), key=lambda one: (one.times[0], one.meta.episode_id)))
    )
