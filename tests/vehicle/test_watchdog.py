"""The watchdog: every failure counts at once, and only the recent ones."""

import random
import threading

import pytest

from tspace_core.config.online import WatchdogLimits
from tspace_core.vehicle.watchdog import Watchdog

LONG_S = 30.0
FIELD = WatchdogLimits()


class Clock:
    """Time as the test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def tripped(watchdog: Watchdog) -> str | None:
    """Why it tripped, asked anew."""
    return watchdog.tripped


def test_a_watchdog_that_only_counts_once_a_nap() -> None:
    """Field failure: 30 failures within one moment must trip it at the thirtieth, not at the next look."""
    watchdog = Watchdog(FIELD, Clock())
    for _ in range(29):
        watchdog.capture_failure("bad")
    assert not tripped(watchdog)
    watchdog.capture_failure("worst")
    assert tripped(watchdog) == "watchdog: 30 capture failures within 600 s, the last: worst"


@pytest.mark.parametrize(("last_s", "trips"), [(599.0, True), (600.0, True), (600.01, False)])
def test_failures_older_than_the_time_are_forgotten(last_s: float, trips: bool) -> None:
    clock = Clock()
    watchdog = Watchdog(FIELD, clock)
    watchdog.flash_failure("first")
    clock.now += last_s
    for _ in range(29):
        watchdog.flash_failure("later")
    assert (watchdog.tripped is not None) == trips


def test_capture_and_flash_failures_are_counted_apart() -> None:
    watchdog = Watchdog(WatchdogLimits(capture_failures=3, flash_failures=2), Clock())
    for _ in range(2):
        watchdog.capture_failure("bad datagram")
    watchdog.flash_failure("no answer")
    assert not tripped(watchdog)
    watchdog.flash_failure("no answer again")
    assert tripped(watchdog) == "watchdog: 2 flash failures within 600 s, the last: no answer again"
    assert watchdog.counts == {"capture": 2, "flash": 2}
    assert watchdog.reasons["bad datagram"] == 2


def test_any_sequence_trips_exactly_where_the_window_is_full() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(50):
        limits = WatchdogLimits(capture_failures=rng.randint(1, 6), within_s=rng.uniform(1, 20))
        clock, times = Clock(), list[float]()
        watchdog = Watchdog(limits, clock)
        expected = False
        for _ in range(60):
            clock.now += rng.expovariate(0.5)
            watchdog.capture_failure("x")
            times.append(clock.now)
            recent = [time for time in times if clock.now - time <= limits.within_s]
            expected = expected or len(recent) >= limits.capture_failures
            assert (watchdog.tripped is not None) == expected


def test_the_first_trip_is_kept_and_wakes_who_waits() -> None:
    watchdog = Watchdog(WatchdogLimits(capture_failures=1), Clock())
    heard: list[str | None] = []
    thread = threading.Thread(target=lambda: heard.append(watchdog.wait()), daemon=True)
    thread.start()
    watchdog.capture_failure("one")
    watchdog.capture_failure("two")
    thread.join(LONG_S)
    assert heard == ["watchdog: 1 capture failures within 600 s, the last: one"]


def test_close_wakes_who_waits_without_a_trip() -> None:
    watchdog = Watchdog(FIELD, Clock())
    assert watchdog.wait(0.01) is None
    watchdog.close()
    assert watchdog.wait() is None


def test_failures_of_many_threads_are_all_counted() -> None:
    watchdog = Watchdog(WatchdogLimits(capture_failures=2001), Clock())

    def fail() -> None:
        for _ in range(200):
            watchdog.capture_failure("x")

    threads = [threading.Thread(target=fail) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    assert watchdog.counts["capture"] == 2000
    assert watchdog.tripped is None


def test_reasons_of_a_liar_do_not_fill_the_memory() -> None:
    watchdog = Watchdog(FIELD, Clock())
    for number in range(1000):
        watchdog.capture_failure(f"reason {number}")
    assert len(watchdog.reasons) == Watchdog.REASONS
