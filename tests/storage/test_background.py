"""Parts made ahead come in order, with their errors, and leave no thread behind."""

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from tspace_core.storage.background import ahead


def test_parts_come_in_order_and_are_made_in_another_thread() -> None:
    def parts() -> Iterator[tuple[int, int]]:
        for number in range(50):
            yield number, threading.get_ident()

    taken = list(ahead(parts()))
    assert [number for number, _ in taken] == list(range(50))
    assert {thread for _, thread in taken}.isdisjoint({threading.get_ident()})
    assert list(ahead([])) == []


def test_a_part_is_made_while_the_one_before_is_in_use_and_no_further() -> None:
    made = [threading.Event() for _ in range(3)]

    def parts() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    taken = ahead(parts())
    assert next(taken) == 0
    assert made[1].wait(60)
    assert not made[2].is_set()
    assert list(taken) == [1, 2]


def test_an_error_comes_in_the_place_of_its_part() -> None:
    def parts() -> Iterator[int]:
        yield 1
        message = "the second part is broken"
        raise ValueError(message)

    taken = ahead(parts())
    assert next(taken) == 1
    with pytest.raises(ValueError, match="second part"):
        next(taken)


def test_leaving_early_ends_the_thread() -> None:
    with closing(ahead(iter(range(1000)))) as taken:
        assert next(taken) == 0
        (made,) = [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]
    assert not made.is_alive()
