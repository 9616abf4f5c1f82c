"""Looking on a thread of its own: the newest counts, nobody waits longer than said, nothing is left."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tspace_core.online.lookout import Lookout

PATIENCE_S = 30.0


class Numbers(Lookout[int]):
    """Finds what is put into a queue; ``inside`` and ``go_on`` hold a look in the middle where asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.there: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self.hold = False
        self.inside, self.go_on = threading.Event(), threading.Event()
        self.threads: set[str] = set()

    def find(self) -> int | None:
        self.threads.add(threading.current_thread().name)
        found = None
        while not self.there.empty():
            found = self.there.get()
        if self.hold:
            self.inside.set()
            assert self.go_on.wait(PATIENCE_S)
        return found

    def put(self, number: int | None) -> None:
        self.there.put(number)
        self.wake()


@contextmanager
def watched(numbers: Numbers) -> Iterator[None]:
    thread = threading.Thread(target=numbers.watch, name="lookout")
    thread.start()
    try:
        yield
    finally:
        numbers.go_on.set()
        numbers.close()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def looked(numbers: Numbers, act: Callable[[], None]) -> None:
    """Let it look once, with something done while it is in the middle of that."""
    numbers.hold = True
    assert numbers.inside.wait(PATIENCE_S)
    act()
    numbers.hold = False
    numbers.go_on.set()


def test_what_is_there_is_found_on_the_task_s_thread_and_given_once() -> None:
    numbers = Numbers()
    with watched(numbers):
        numbers.there.put(7)
        assert numbers.newer(PATIENCE_S) == 7
        assert numbers.newer(PATIENCE_S) is None
        assert numbers.ready() is None
    assert numbers.threads == {"lookout"}


def test_a_look_that_takes_long_is_not_waited_for_and_counts_the_next_time() -> None:
    numbers = Numbers()
    numbers.hold = True
    with watched(numbers):
        numbers.put(7)
        assert numbers.inside.wait(PATIENCE_S)
        assert numbers.ready() is None
        assert numbers.newer(0.01) is None
        numbers.hold = False
        numbers.go_on.set()
        assert numbers.newer(PATIENCE_S) == 7


def test_only_the_newest_counts() -> None:
    numbers = Numbers()
    numbers.hold = True
    with watched(numbers):
        numbers.put(1)

        def meanwhile() -> None:
            numbers.put(2)
            numbers.put(3)

        looked(numbers, meanwhile)
        assert numbers.newer(PATIENCE_S) == 3


def test_what_is_found_stays_where_the_next_look_finds_nothing() -> None:
    numbers = Numbers()
    numbers.there.put(5)
    numbers.look()
    numbers.there.put(None)  # as a version that is no good
    numbers.look()
    assert numbers.ready() == 5


def test_what_is_forgotten_never_comes_not_even_from_a_look_that_goes_on() -> None:
    numbers = Numbers()
    numbers.there.put(4)
    numbers.look()
    numbers.forget()
    assert numbers.ready() is None
    numbers.hold = True
    with watched(numbers):
        numbers.put(5)
        looked(numbers, numbers.forget)
        assert numbers.newer(PATIENCE_S) is None
        numbers.there.put(6)
        assert numbers.newer(PATIENCE_S) == 6


def test_closed_it_holds_nothing_and_whoever_waits_goes_on() -> None:
    numbers = Numbers()
    numbers.hold = True
    found: list[int | None] = []
    with watched(numbers):
        numbers.put(1)
        assert numbers.inside.wait(PATIENCE_S)
        waiting = threading.Thread(target=lambda: found.append(numbers.newer(PATIENCE_S)))
        waiting.start()
        numbers.close()
        waiting.join(PATIENCE_S)
        assert found == [None]
    assert numbers.ready() is None
