"""What every kind of pool is held against: its test inherits ``PoolContract`` and says how to open it."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tests.storage.pools.builders import (
    at,
    episode,
    expected_records,
    expected_sequences,
    fleet,
    matching,
    same,
)
from tspace_core.errors import PoolError
from tspace_core.records.episode import Episode
from tspace_core.storage.pools.pool import Pool
from tspace_core.storage.pools.query import ALL, Query

Opener = Callable[[], Pool]
"""Opens one store, empty at first; each call another ``Pool`` on the same one."""

QUERIES = [
    ALL,
    Query(vehicles=("v2",)),
    Query(vehicles=("v1", "v3", "unknown")),
    Query(drivers=("d2",)),
    Query(sites=("s2",)),
    Query(agents=("agent", "default_map")),
    Query(episodes=("v1/2026-03-01/log.blf#0001", "v2/2026-03-03/log.blf#0000", "no/such#1")),
    Query(started_from=at(1)),
    Query(started_before=at(1)),
    Query(started_from=at(0, 60), started_before=at(0, 120)),
    Query(after=at(1)),
    Query(after=at(1, 0.000001)),
    Query(before=at(0, 60.000001)),
    Query(before=at(0, 60)),
    Query(after=at(0, 3), before=at(0, 12)),
    Query(after=at(0, 4), before=at(0, 5)),
    Query(after=at(0, 12.5), before=at(0, 15)),
    Query(length_from=5),
    Query(length_to=5),
    Query(length_from=4, length_to=5),
    Query(valid=True),
    Query(valid=False),
    Query(valid=True, after=at(1), before=at(1, 15), vehicles=("v1",)),
    Query(valid=False, after=at(1, 3)),
    Query(vehicles=("unknown",)),
    Query(vehicles=("..", "*", "a/b", "a\0b", "$ne", "", "a" * 5000)),
    Query(episodes=("", "#", "v1/..#1", "v1/../x/y#1", f"{'a' * 5000}/2026-03-01/log#1", "v1/a\0/log#1")),
    Query(vehicles=("v2",), drivers=("d1",), started_from=at(2), length_from=7, valid=True),
]

NO_PLACE: list[tuple[dict[str, Any], str]] = [
    ({"episode_id": "e1"}, "must be 'v1/2026-03-01/log.blf#<piece>'"),
    ({"episode_id": "v1/2026-03-01/log.blf#"}, "must be"),
    ({"log_key": "log", "episode_id": "log#1"}, "vehicle/YYYY-MM-DD/name"),
    ({"log_key": "v1/2026-03-32/x", "episode_id": "v1/2026-03-32/x#1"}, "2026-03-32"),
    ({"log_key": "v2/2026-03-01/x", "episode_id": "v2/2026-03-01/x#1"}, "of vehicle 'v2'"),
    ({"log_key": "v1/2026-03-01/..", "episode_id": "v1/2026-03-01/..#1"}, "file name"),
]
"""Fields of meta information that name no place to store the episode, and what is said."""

LAYOUTS: list[dict[str, Any]] = [
    {"window": 4},
    {"signals": ("velocity", "brake", "thrust")},
    {"rate_hz": 10.0},
    {"pedal_axis": tuple(i / 17 for i in range(17))},
    {"reward_kind": "energy_and_comfort"},
]
"""Each makes another layout."""


class PoolContract:
    """The contract; ``opener`` is what a kind of pool gives."""

    @pytest.fixture
    def opener(self) -> Opener:
        raise NotImplementedError

    @pytest.fixture
    def pool(self, opener: Opener) -> Iterator[Pool]:
        with opener() as pool:
            yield pool

    @pytest.fixture
    def filled(self, pool: Pool) -> Pool:
        assert pool.store(fleet()) == 7
        return pool

    def test_an_episode_is_read_bit_for_bit(self, pool: Pool, opener: Opener) -> None:
        one = _extreme()
        assert pool.store([one]) == 1
        with opener() as other:
            assert same(other.read(one.meta.episode_id), one)
            assert [entry.meta for entry in other.find()] == [one.meta]

    def test_an_empty_pool_holds_nothing(self, pool: Pool) -> None:
        assert pool.find() == []
        assert pool.count() == (0, 0)
        assert list(pool.iterate()) == []
        assert pool.store([]) == 0
        assert pool.delete(ALL, everything=True) == 0
        with pytest.raises(PoolError, match="holds no record that matches"):
            pool.sample(3, np.random.default_rng(0))
        with pytest.raises(PoolError, match=r"v1/2026-03-01/log\.blf#0000"):
            pool.read("v1/2026-03-01/log.blf#0000")
        with pytest.raises(PoolError, match="nonsense"):
            pool.read("nonsense")

    def test_the_same_again_is_no_change(self, filled: Pool, opener: Opener) -> None:
        before = filled.find()
        assert filled.store(fleet()) == 0
        assert filled.find() == before
        with opener() as other:
            assert other.store([*fleet(), episode(9)]) == 1
        assert filled.count().episodes == 8

    def test_one_given_twice_is_stored_once(self, pool: Pool) -> None:
        assert pool.store([episode(0), episode(1), episode(0)]) == 2
        with pytest.raises(PoolError, match="given twice"):
            pool.store([episode(2), episode(2, seed=7)])
        assert pool.count().episodes == 2

    def test_another_content_under_a_known_id_is_refused_and_nothing_stored(self, filled: Pool) -> None:
        before = filled.find()
        with pytest.raises(PoolError, match=r"another episode 'v1/2026-03-01/log.blf#0000'.*of 5 rec.*of 6"):
            filled.store([episode(0, vehicle="v0"), episode(0, 6)])
        assert filled.find() == before
        assert same(filled.read("v1/2026-03-01/log.blf#0000"), episode(0, 5))

    def test_a_change_of_meta_information_alone_is_another_content(self, filled: Pool) -> None:
        with pytest.raises(PoolError, match="another episode"):
            filled.store([episode(0, 5, action_note="changed")])

    def test_an_id_without_a_place_is_refused(self, pool: Pool) -> None:
        for changes, what in NO_PLACE:
            with pytest.raises(PoolError, match=what):
                pool.store([episode(0), episode(1, **changes)])
        assert pool.find() == []

    def test_whatever_an_iterable_raises_nothing_of_it_is_stored(self, pool: Pool) -> None:
        def broken() -> Iterator[Episode]:
            yield episode(0)
            message = "the source is gone"
            raise KeyError(message)

        with pytest.raises(KeyError, match="the source is gone"):
            pool.store(broken())
        assert pool.find() == []

    def test_each_query_finds_and_counts_what_a_plain_loop_finds(self, filled: Pool) -> None:
        for query in QUERIES:
            wanted = matching(fleet(), query)
            found = filled.find(query)
            assert [entry.episode_id for entry in found] == [one.meta.episode_id for one, _ in wanted], query
            assert filled.count(query) == (len(wanted), sum(len(places) for _, places in wanted)), query
            for entry, (one, _) in zip(found, wanted, strict=True):
                assert (entry.vehicle_id, entry.driver_id, entry.site_id, entry.agent) == (
                    one.meta.vehicle_id, one.meta.driver_id, one.meta.site_id, one.meta.action_source,
                )  # fmt: skip
                assert (entry.start_ns, entry.end_ns) == (one.times[0], one.times[-1])
                assert (entry.records, entry.state_dim) == (len(one), one.state_dim)
                assert entry.invalid == np.count_nonzero(one.flags & 8)
                assert entry.meta == one.meta

    def test_iterate_gives_whole_episodes_in_order(self, filled: Pool) -> None:
        query = Query(vehicles=("v1",), after=at(0, 61))
        wanted = [one for one, _ in matching(fleet(), query)]
        found = list(filled.iterate(query))
        assert len(found) == len(wanted) == 3
        assert all(map(same, found, wanted))

    def test_samples_are_what_a_plain_list_of_records_gives(self, filled: Pool) -> None:
        for number, query in enumerate(QUERIES):
            if not matching(fleet(), query):
                continue
            batch = filled.sample(40, np.random.default_rng(number), query)
            wanted = expected_records(fleet(), query, np.random.default_rng(number).random(40))
            for name, got, value in zip(batch._fields, batch, wanted, strict=True):
                assert got.dtype == np.float32, name
                np.testing.assert_array_equal(got, value, f"{name} of {query}")

    def test_sequences_are_what_a_plain_list_of_beginnings_gives(self, filled: Pool) -> None:
        for number, (query, length) in enumerate(
            [(ALL, 1), (ALL, 3), (ALL, 6), (Query(valid=True), 3), (Query(valid=False), 2),
             (Query(after=at(0, 3), before=at(1, 6)), 4)]
        ):  # fmt: skip
            batch = filled.sample_sequences(30, length, np.random.default_rng(number), query)
            numbers = np.random.default_rng(number).random(30)
            wanted = expected_sequences(fleet(), query, numbers, length)
            assert batch.memory is None
            for name, got, value in zip(batch._fields[:6], batch[:6], wanted[:6], strict=True):
                assert got is not None
                assert value is not None
                assert got.dtype == np.float32, name
                np.testing.assert_array_equal(got, value, f"{name} of {query}, {length}")

    def test_a_draw_goes_on_with_its_generator(self, filled: Pool, opener: Opener) -> None:
        generator = np.random.default_rng(3)
        first, second = filled.sample(20, generator), filled.sample(20, generator)
        assert not np.array_equal(first.rewards, second.rewards)
        with opener() as other:
            again = other.sample(40, np.random.default_rng(3))
        np.testing.assert_array_equal(again.rewards, np.concatenate([first.rewards, second.rewards]))

    def test_a_sample_sees_what_was_stored_and_deleted_since(self, filled: Pool, opener: Opener) -> None:
        query = Query(vehicles=("v9",))
        with opener() as other:
            other.store([episode(0, 4, vehicle="v9")])
            wanted = set(episode(0, 4, vehicle="v9").rewards)
            assert set(filled.sample(64, np.random.default_rng(0), query).rewards) == wanted
            other.store([episode(1, 4, vehicle="v9")])
            wanted |= set(episode(1, 4, vehicle="v9").rewards)
            assert set(filled.sample(200, np.random.default_rng(0), query).rewards) == wanted
            other.delete(Query(episodes=("v9/2026-03-01/log.blf#0000",)))
            wanted -= set(episode(0, 4, vehicle="v9").rewards)
            assert set(filled.sample(200, np.random.default_rng(0), query).rewards) == wanted

    def test_a_batch_of_nothing_is_refused(self, filled: Pool) -> None:
        generator = np.random.default_rng(0)
        with pytest.raises(PoolError, match="size is 0"):
            filled.sample(0, generator)
        with pytest.raises(PoolError, match="length is -1"):
            filled.sample_sequences(3, -1, generator)
        with pytest.raises(PoolError, match="vehicles=unknown"):
            filled.sample(1, generator, Query(vehicles=("unknown",)))

    def test_two_layouts_are_never_in_one_sample(self, pool: Pool) -> None:
        pool.store(
            one
            for number, change in enumerate(LAYOUTS)
            for one in (
                episode(0, vehicle=f"v{number}"),
                episode(1, vehicle=f"v{number}", second=60, **change),
            )
        )
        for number, change in enumerate(LAYOUTS):
            query = Query(vehicles=(f"v{number}",))
            field = "state_dim" if "window" in change else next(iter(change))
            ids = f"#0000' and 'v{number}/2026-03-01/log.blf#0001'"
            with pytest.raises(PoolError, match=f"{ids}.*{field}"):
                pool.sample(1, np.random.default_rng(0), query)
            with pytest.raises(PoolError, match="cannot be in one sample"):
                pool.sample_sequences(1, 2, np.random.default_rng(0), query)
        pool.sample(5, np.random.default_rng(0), Query(before=at(0, 60)))

    def test_delete_takes_whole_episodes_with_a_matching_record(self, filled: Pool, opener: Opener) -> None:
        query = Query(after=at(1, 6), before=at(1, 7), vehicles=("v1",))
        assert filled.delete(query) == 1
        assert filled.delete(query) == 0
        left = [one for one in fleet() if one.meta.episode_id != "v1/2026-03-02/log.blf#0000"]
        with opener() as other:
            assert other.count() == (6, sum(map(len, left)))
            with pytest.raises(PoolError, match=r"v1/2026-03-02/log\.blf#0000"):
                other.read("v1/2026-03-02/log.blf#0000")
            for one in left:
                assert same(other.read(one.meta.episode_id), one)
        assert filled.store(fleet()) == 1

    def test_deleting_everything_must_be_said(self, filled: Pool) -> None:
        with pytest.raises(PoolError, match="everything=True"):
            filled.delete(ALL)
        assert filled.count().episodes == 7
        assert filled.delete(Query(), everything=True) == 7
        assert filled.find() == []
        assert filled.store([episode(0, 6)]) == 1  # another content than before is no conflict now

    def test_two_writers_at_once_lose_nothing(self, opener: Opener) -> None:
        """Pieces of the same logs, from two sides; what both store is stored once."""
        begin = threading.Barrier(2)

        def write(numbers: list[int]) -> int:
            new = 0
            with opener() as pool:
                begin.wait(30)
                for number in numbers:
                    new += pool.store([episode(number, 2), episode(number, 2, day=1)])
            return new

        with ThreadPoolExecutor(2) as threads:
            both = [threads.submit(write, numbers) for numbers in ([0, 1, 2, 3], [4, 3, 2, 5])]
            assert sum(one.result(120) for one in both) == 12
        with opener() as pool:
            assert pool.count() == (12, 24)
            assert len(list(pool.iterate())) == 12

    def test_a_reader_at_work_sees_whole_calls_of_store(self, opener: Opener) -> None:
        """A call stores three episodes of three vehicles: readers find a multiple of three, all readable."""
        done = threading.Event()

        def write() -> None:
            try:
                with opener() as pool:
                    for number in range(4):
                        calls = [episode(number, 2, vehicle=f"v{k}", day=k) for k in range(3)]
                        assert pool.store(calls) == 3
                    pool.delete(ALL, everything=True)
            finally:
                done.set()

        with ThreadPoolExecutor(1) as threads, opener() as pool:
            writing = threads.submit(write)
            while not done.is_set():
                assert len(pool.find()) % 3 == 0
                assert all(len(one) == 2 for one in pool.iterate())
            writing.result(120)
            assert pool.find() == []

    def test_closing_again_is_no_error(self, opener: Opener) -> None:
        pool = opener()
        pool.store([episode(0)])
        pool.close()
        pool.close()


def _extreme() -> Episode:
    one = episode(0, 4, action_note="Gefälle „Süd“ 雪 \U0001f69a", gamma=0.1 + 0.2, energy_wh=-5e-324)
    least, most = int(np.iinfo(np.int64).min), int(np.iinfo(np.int64).max)
    tiny = 1e-45
    one.times[:] = [least, -1, 0, most - 1, most]
    one.states[0, :7] = [-0.0, 0.0, tiny, -tiny, 3.4028235e38, -3.4028235e38, 0.1]
    one.actions[0, :5] = [-0.0, 1, -1, tiny, 0.99999994]
    one.rewards[:2] = [-0.0, -3.4028235e38]
    one.rows[:2] = [np.iinfo(np.int32).min, np.iinfo(np.int32).max]
    one.flags[:] = [0, 255, 128, 1]
    return one
