"""Pipelines: nothing lost, nothing invented, everyone woken."""

import random
import threading
from collections import Counter
from collections.abc import Callable

import pytest

from tspace_core.supervision import Pipeline, PipelineClosed, PipelineEmpty
from tspace_core.supervision.pipeline import WhenFull

LONG_S = 30.0
MODES: tuple[WhenFull, ...] = ("wait", "refuse", "drop_oldest")


def start(*targets: Callable[[], None]) -> list[threading.Thread]:
    threads = [threading.Thread(target=target, daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    return threads


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(LONG_S)
    assert not [thread for thread in threads if thread.is_alive()], "a thread was never woken"


def test_items_come_out_in_order() -> None:
    pipeline: Pipeline[int] = Pipeline("test", 3)
    for item in range(3):
        assert pipeline.put(item)
    assert len(pipeline) == 3
    assert [pipeline.get() for _ in range(3)] == [0, 1, 2]


def test_a_size_below_one_is_refused_with_the_size() -> None:
    with pytest.raises(ValueError, match="has size 0"):
        Pipeline("test", 0)


def test_a_full_pipeline_waits_refuses_or_drops_as_it_was_told() -> None:
    waiting, refusing, dropping = (Pipeline[int]("test", 2, when_full=how) for how in MODES)
    for pipeline in (waiting, refusing, dropping):
        assert pipeline.put(1)
        assert pipeline.put(2)
    assert not waiting.put(3, timeout_s=0.01)
    assert not refusing.put(3)
    assert dropping.put(3)
    assert [waiting.get(), waiting.get(), waiting.dropped] == [1, 2, 0]
    assert [refusing.get(), refusing.get(), refusing.dropped] == [1, 2, 1]
    assert [dropping.get(), dropping.get(), dropping.dropped] == [2, 3, 1]


def test_an_empty_pipeline_says_so_after_the_timeout() -> None:
    with pytest.raises(PipelineEmpty, match=r"'test'.*0\.01 s"):
        Pipeline[int]("test", 1).get(timeout_s=0.01)


def test_a_closed_pipeline_is_drained_and_takes_nothing_more() -> None:
    pipeline: Pipeline[int] = Pipeline("test", 2)
    pipeline.put(1)
    pipeline.close()
    pipeline.close()
    assert pipeline.closed
    with pytest.raises(PipelineClosed, match="nothing more"):
        pipeline.put(2)
    assert pipeline.get() == 1
    with pytest.raises(PipelineClosed, match="nothing is left"):
        pipeline.get()


def test_closing_wakes_everyone_who_waits_at_either_end() -> None:
    full, empty = Pipeline[int]("full", 1), Pipeline[int]("empty", 1)
    full.put(0)
    woken: list[str] = []

    def putter() -> None:
        with pytest.raises(PipelineClosed):
            full.put(1)
        woken.append("putter")

    def getter() -> None:
        with pytest.raises(PipelineClosed):
            empty.get()
        woken.append("getter")

    threads = start(*[putter] * 4, *[getter] * 4)
    full.close()
    empty.close()
    join(threads)
    assert Counter(woken) == {"putter": 4, "getter": 4}


def test_clear_does_not_call_itself_and_wakes_who_waits_for_room() -> None:
    """Field failure: a queue's `clear` that called itself, until the stack was full."""
    pipeline: Pipeline[int] = Pipeline("test", 5000)
    for item in range(5000):
        pipeline.put(item)
    threads = start(lambda: none(pipeline.put(-1)), lambda: none(pipeline.put(-2)))
    assert pipeline.clear() == 5000
    join(threads)
    pipeline.clear()
    assert (pipeline.clear(), len(pipeline)) == (0, 0)


def none(_: object) -> None:
    """Make a callable of no result out of one with a result."""


@pytest.mark.parametrize("round_number", range(6))
def test_many_threads_with_clears_lose_nothing_and_all_end(round_number: int) -> None:
    """Every item is got once, cleared, or left: threads of unequal speed at both ends, one that clears."""
    seed = random.randrange(2**32)
    print(f"seed {seed}, round {round_number}")
    rng = random.Random(seed)
    pipeline: Pipeline[tuple[int, int]] = Pipeline("test", rng.choice([1, 2, 7]))
    producers, consumers, items = rng.randint(2, 6), rng.randint(2, 6), 300
    got: list[tuple[int, int]] = []
    cleared: list[int] = []
    lock = threading.Lock()

    def producer(number: int) -> Callable[[], None]:
        def run() -> None:
            for item in range(items):
                while not pipeline.put((number, item), timeout_s=rng.choice([None, 0.001])):
                    pass

        return run

    def consumer() -> None:
        while True:
            try:
                item = pipeline.get(timeout_s=rng.choice([None, 0.001]))
            except PipelineEmpty:
                continue
            except PipelineClosed:
                return
            with lock:
                got.append(item)

    def clearer() -> None:
        cleared.extend(pipeline.clear() for _ in range(50))

    at_end = start(*[consumer] * consumers)
    join(start(*[producer(number) for number in range(producers)], clearer))
    pipeline.close()
    join(at_end)
    assert len(got) + sum(cleared) == producers * items
    assert len(set(got)) == len(got)


def test_one_getter_sees_each_producers_items_in_their_order() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    pipeline: Pipeline[tuple[int, int]] = Pipeline("test", 3)
    items = 200

    def producer(number: int) -> Callable[[], None]:
        def run() -> None:
            for item in range(items):
                pipeline.put((number, item))

        return run

    threads = start(*[producer(number) for number in range(4)])
    seen: dict[int, list[int]] = {}
    for _ in range(4 * items):
        number, item = pipeline.get(LONG_S)
        seen.setdefault(number, []).append(item)
    join(threads)
    assert seen == {number: list(range(items)) for number in range(4)}


def test_it_is_idle_once_what_was_put_in_has_been_dealt_with() -> None:
    pipeline: Pipeline[int] = Pipeline("test", 3)
    dealt: list[int] = []
    may_go_on = threading.Event()

    def take() -> None:
        for _ in range(2):
            item = pipeline.get()
            assert may_go_on.wait(LONG_S)
            dealt.append(item)
        with pytest.raises(PipelineClosed):
            pipeline.get()

    assert not pipeline.wait_idle(0.01), "nobody takes"
    pipeline.put(1)
    pipeline.put(2)
    threads = start(take)
    assert not pipeline.wait_idle(0.05), "an item that was taken is not one that was dealt with"
    may_go_on.set()
    assert pipeline.wait_idle(LONG_S)
    assert dealt == [1, 2]
    pipeline.close()
    join(threads)
    assert not pipeline.wait_idle(LONG_S)


def test_a_close_wakes_who_waits_for_idleness() -> None:
    pipeline: Pipeline[int] = Pipeline("test", 3)
    pipeline.put(1)
    found: list[bool] = []
    threads = start(lambda: found.append(pipeline.wait_idle()))
    pipeline.close()
    join(threads)
    assert found == [False]
