"""MongoDB pools with servers that die, refuse or answer too late: nothing half stored, and a clear error."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.storage.pools.builders import episode, same
from tests.storage.pools.mongo_server import MongoServer
from tests.storage.pools.mongo_wire import Relay, connected, responder
from tspace_core.errors import PoolAccessError, PoolError, PoolServerError
from tspace_core.records.episode import Episode
from tspace_core.storage.pools import mongo_commits, mongo_writer
from tspace_core.storage.pools.mongo import MongoPool
from tspace_core.storage.pools.mongo_commits import VOID, Commits
from tspace_core.storage.pools.query import ALL, Query

PASSWORD = "s3cret-word"


def documents(server: MongoServer, database: str) -> dict[str, int]:
    """How many documents there are, whoever may see them."""
    with server.client() as client:
        return {
            name: sum(1 for _ in client[database][name].find({}, {"_id": 1}))
            for name in ("episodes", "records", "writing")
        }


def nth(number: int) -> Callable[[dict[str, Any]], str | None]:
    """The answer to the n-th command is lost: for the server the client died after it, or before the next."""
    seen = iter(range(10**6))
    return lambda _: "after" if next(seen) == number else None


def whole(pool: MongoPool) -> list[str]:
    """Ids of what a reader sees, all of it readable."""
    ids = [entry.episode_id for entry in pool.find()]
    for one in ids:
        assert len(pool.read(one)) in (2, 3)
    return ids


FIRST, SECOND = [episode(0, 2)], [episode(number, 3) for number in (1, 2, 3)]


def test_a_writer_that_dies_at_any_command_leaves_the_old_or_the_new_state(
    mongo_server: MongoServer, mongo_database: str
) -> None:
    with MongoPool(mongo_database, mongo_server.uri) as pool:
        pool.store(FIRST)
        outcomes = set()
        for number in range(200):
            relay = Relay(mongo_server.port, nth(number))
            with relay.serve() as uri, MongoPool(mongo_database, uri) as writer:
                connected(writer)
                try:
                    reported = writer.store(SECOND)
                except PoolServerError:
                    reported = None
            visible = len(whole(pool)) - 1
            assert visible in (0, 3), number
            assert reported in (None, 3)
            if reported:
                assert visible == 3, number
            pool.sweep(0)
            assert len(whole(pool)) - 1 == visible, number
            assert documents(mongo_server, mongo_database) == {
                "episodes": 1 + visible, "records": 3 + 4 * visible, "writing": 0
            }, number  # fmt: skip
            outcomes.add((reported, visible))
            pool.delete(Query(length_from=3))
            if not relay.dead.is_set():
                break
        assert not relay.dead.is_set()
        assert {(None, 0), (3, 3)} <= outcomes


def test_a_deleter_that_dies_at_any_command_leaves_all_or_nothing(
    mongo_server: MongoServer, mongo_database: str
) -> None:
    with MongoPool(mongo_database, mongo_server.uri) as pool:
        pool.store(FIRST)
        outcomes = set()
        for number in range(200):
            pool.store(SECOND)
            relay = Relay(mongo_server.port, nth(number))
            with relay.serve() as uri, MongoPool(mongo_database, uri) as deleter:
                connected(deleter)
                try:
                    reported = deleter.delete(Query(length_from=3))
                except PoolServerError:
                    reported = None
            visible = len(whole(pool)) - 1
            assert visible in (0, 3), number
            if reported:
                assert visible == 0, number
            pool.sweep(0)
            assert len(whole(pool)) - 1 == visible, number
            assert documents(mongo_server, mongo_database) == {
                "episodes": 1 + visible, "records": 3 + 4 * visible, "writing": 0
            }, number  # fmt: skip
            outcomes.add((reported, visible))
            if not relay.dead.is_set():
                break
        assert not relay.dead.is_set()
        assert {(None, 3), (3, 0)} <= outcomes


def commits_of(command: dict[str, Any]) -> bool:
    return command.get("insert") == "batches"


@pytest.mark.parametrize(("fate", "stored"), [("before", False), ("after", True)])
def test_an_answer_that_is_lost_at_the_commit_is_found_out(
    mongo_server: MongoServer, mongo_database: str, fate: str, stored: bool
) -> None:
    relay = Relay(mongo_server.port, lambda command: fate if commits_of(command) else None)
    relay.heals = True
    with relay.serve() as uri, MongoPool(mongo_database, uri) as pool:
        if stored:
            assert pool.store(SECOND) == 3
        else:
            with pytest.raises(PoolServerError, match="Nothing was changed"):
                pool.store(SECOND)
        assert relay.dead.is_set()
        assert len(whole(pool)) == (3 if stored else 0)
        assert pool.store(SECOND) == (0 if stored else 3)


def test_where_it_cannot_be_found_out_the_error_says_so(
    mongo_server: MongoServer, mongo_database: str
) -> None:
    relay = Relay(mongo_server.port, lambda command: "after" if commits_of(command) else None)
    unknown = pytest.raises(PoolServerError, match="not known whether it took effect: do the same again")
    with relay.serve() as uri, MongoPool(mongo_database, uri) as pool:
        connected(pool)
        with unknown:
            pool.store(SECOND)
    with MongoPool(mongo_database, mongo_server.uri) as pool:
        assert len(whole(pool)) == 3
        assert pool.store(SECOND) == 0


@pytest.mark.parametrize("late", [True, False], ids=["after the commit", "before the commit"])
def test_an_interruption_while_committing_leaves_all_or_nothing(
    mongo_server: MongoServer, mongo_database: str, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """Ctrl-C may come when others see already what is being stored or deleted: they go on seeing so."""
    whole_of = Commits.try_commit

    def interrupted(self: Commits, batch: str, number: int, kind: str, episodes: int = 0) -> bool:
        if kind == VOID:
            return whole_of(self, batch, number, kind, episodes)
        if late:
            assert whole_of(self, batch, number, kind, episodes)
        raise KeyboardInterrupt

    with MongoPool(mongo_database, mongo_server.uri) as pool:
        pool.store(FIRST)
        with monkeypatch.context() as patch:
            patch.setattr(Commits, "try_commit", interrupted)
            with pytest.raises(KeyboardInterrupt):
                pool.store(SECOND)
        assert len(whole(pool)) == (4 if late else 1)
        assert pool.leftovers(0) == []
        assert pool.store(SECOND) == (0 if late else 3)
        with monkeypatch.context() as patch:
            patch.setattr(Commits, "try_commit", interrupted)
            with pytest.raises(KeyboardInterrupt):
                pool.delete(Query(length_from=3))
        assert len(whole(pool)) == (1 if late else 4)
        pool.sweep(0)
        left = 1 if late else 4
        assert documents(mongo_server, mongo_database)["episodes"] == len(whole(pool)) == left


def test_a_server_killed_in_mid_write_loses_nothing_that_was_stored(own_mongo_server: MongoServer) -> None:
    server = own_mongo_server
    uri = f"{server.uri}/?serverSelectionTimeoutMS=300"

    def killing() -> Iterator[Episode]:
        for number in range(70):
            if number == 66:  # the first 64 have been sent
                server.stop()
            yield episode(number, 2, vehicle="v2")

    with MongoPool("fleet", uri) as pool:
        connected(pool).store(SECOND)
        with pytest.raises(PoolServerError, match=r"nothing of it is stored; .* `tspace doctor --repair`"):
            pool.store(killing())
        with pytest.raises(PoolServerError, match="did not answer while looking for everything"):
            pool.find()
        server.start()
        assert len(whole(connected(pool))) == 3
        assert len(pool.leftovers(0)) == 1
        assert pool.leftovers() == []
        done = pool.sweep(0)
        assert len(done) == 1
        assert "did not finish" in done[0]
        assert documents(server, "fleet") == {"episodes": 3, "records": 12, "writing": 0}
        assert pool.store(episode(number, 2, vehicle="v2") for number in range(70)) == 70


def test_what_a_writer_of_an_earlier_version_left_is_swept(
    mongo_server: MongoServer, mongo_database: str
) -> None:
    """Its sign of life is a date."""
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    left = {"_id": "killed", "kind": "store", "begun": long_ago, "alive": long_ago, "by": "host:1"}
    with MongoPool(mongo_database, mongo_server.uri) as pool, mongo_server.client() as client:
        pool.store(FIRST)
        client[mongo_database]["writing"].insert_one(left)
        assert [one.batch for one in pool.leftovers()] == ["killed"]
        assert len(pool.sweep()) == 1
        assert pool.leftovers(0) == []
        assert len(whole(pool)) == 1


def test_a_server_that_is_not_there_is_said_so_within_seconds(mongo_server: MongoServer) -> None:
    with responder({}) as address:
        pass  # nobody listens there any more
    uri = f"mongodb://reader:{PASSWORD}@{address}/?serverSelectionTimeoutMS=200"
    with MongoPool("fleet", uri) as pool:
        for call in (pool.find, pool.sweep, lambda: pool.read("v1/2026-03-01/log.blf#0000")):
            with pytest.raises(PoolServerError, match="check that it runs") as caught:
                call()
            assert PASSWORD not in f"{caught.value} {caught.value.__cause__} {pool}"
        with pytest.raises(PoolServerError, match="nothing was stored"):
            pool.store(FIRST)


DENIED = {"ok": 0.0, "code": 18, "codeName": "AuthenticationFailed", "errmsg": "Authentication failed."}
UNAUTHORIZED = {"ok": 0.0, "code": 13, "codeName": "Unauthorized", "errmsg": "not authorized on fleet"}


def test_wrong_credentials_are_said_so_without_them() -> None:
    with (
        responder({"saslStart": DENIED}) as address,
        MongoPool("fleet", f"mongodb://reader:{PASSWORD}@{address}") as pool,
    ):
        for call in (pool.find, lambda: pool.store(FIRST)):
            with pytest.raises(PoolAccessError, match=r"refuses user or pass.*TSPACE_MONGODB_URI") as seen:
                call()
            assert PASSWORD not in f"{seen.value} {seen.value.__cause__!r} {pool}"


def test_missing_rights_are_said_so() -> None:
    refused = pytest.raises(PoolAccessError, match="ask for the rights to read and write")
    with (
        responder({"find": UNAUTHORIZED}) as address,
        MongoPool("fleet", f"mongodb://{address}") as pool,
        refused,
    ):
        pool.find()


def empty(name: str) -> dict[str, Any]:
    return {"cursor": {"id": 0, "ns": f"fleet.{name}", "firstBatch": []}}


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (
            {"writeErrors": [{"index": 0, "code": 14031, "errmsg": "No space left on device"}]},
            PoolServerError,
        ),
        ({"ok": 0.0, "code": 91, "errmsg": "the server is in quiesce mode"}, PoolServerError),
        ({"writeErrors": [{"index": 0, "code": 121, "errmsg": "Document failed validation"}]}, PoolError),
    ],
)
def test_a_server_that_cannot_write_is_said_so(answer: dict[str, Any], error: type[PoolError]) -> None:
    answers = {
        "find": empty("episodes"),
        "createIndexes": {},
        "update": {"n": 1},
        "insert": {"n": 1} | answer,
    }
    with responder(answers) as address, MongoPool("fleet", f"mongodb://{address}") as pool:
        with pytest.raises(PoolError, match="nothing of it is stored") as caught:
            pool.store(FIRST)
        assert type(caught.value) is error


def test_of_two_writers_of_the_same_the_second_has_nothing_new(
    mongo_server: MongoServer, mongo_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mongo_writer, "_EPISODES", 1)  # each episode is sent before the next is taken
    with (
        MongoPool(mongo_database, mongo_server.uri) as one,
        MongoPool(mongo_database, mongo_server.uri) as two,
    ):

        def overtaken(last: Episode) -> Iterator[Episode]:
            yield from SECOND
            assert two.store([*SECOND[:2], FIRST[0]]) == 3
            yield last

        assert one.store(overtaken(episode(9, 2))) == 2
        assert len(whole(two)) == 5
        assert documents(mongo_server, mongo_database) == {"episodes": 5, "records": 18, "writing": 0}

        def overtaken_by_another(ours: Episode, theirs: Episode) -> Iterator[Episode]:
            yield ours
            assert two.store([theirs]) == 1
            yield episode(12, 2)

        with pytest.raises(PoolError, match=r"another episode '.*#0010' has just been stored by somebody"):
            one.store(overtaken_by_another(episode(10, 2), episode(10, 2, seed=5)))
        assert len(whole(one)) == 6
        assert same(one.read("v1/2026-03-01/log.blf#0010"), episode(10, 2, seed=5))
        assert documents(mongo_server, mongo_database) == {"episodes": 6, "records": 21, "writing": 0}


def test_a_writer_taken_for_dead_is_told_and_stores_nothing(
    mongo_server: MongoServer, mongo_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mongo_commits, "_ALIVE_S", 0.0)  # it says so after each piece that it sends
    with (
        MongoPool(mongo_database, mongo_server.uri) as one,
        MongoPool(mongo_database, mongo_server.uri) as two,
    ):

        def swept() -> Iterator[Episode]:
            for number in range(65):
                yield episode(number, 2)
            assert two.sweep() == []  # it has just said that it is alive
            assert len(two.sweep(-1)) == 1
            yield episode(99, 2)

        with pytest.raises(PoolError, match="took it for dead; nothing was changed"):
            one.store(swept())
        assert two.find(ALL) == []
        assert documents(mongo_server, mongo_database) == {"episodes": 0, "records": 0, "writing": 0}
        assert one.store(FIRST) == 1
