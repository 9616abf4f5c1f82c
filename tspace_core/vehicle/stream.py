"""What the control thread gets, in order: an episode's begin, its windows, its end; at last the run's end."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tspace_core.supervision import Pipeline
from tspace_core.vehicle.windows import Window


@dataclass(frozen=True, eq=False)
class EpisodeBegun:
    """An episode begins.

    Attributes:
        number: 1, 2, ... within the run.
        time_ns: ns UTC.
        armed: whether flashes will be taken.
        reason: why not, or what the bridge said.
        live: the whole map in effect, Nm, float32 (rows, columns); None where nothing can be flashed.
        resumed: whether that is the map the run asked to go on from.
    """

    number: int
    time_ns: int
    armed: bool
    reason: str = ""
    live: NDArray[np.float32] | None = None
    resumed: bool = False


@dataclass(frozen=True)
class EpisodeEnded:
    """An episode is over; only a valid one is stored and learned from."""

    number: int
    time_ns: int
    valid: bool
    reason: str


@dataclass(frozen=True)
class RunEnded:
    """The last item: why the run ended, and whether by a failure."""

    cause: str
    failed: bool


StreamItem = EpisodeBegun | Window | EpisodeEnded | RunEnded


class Liveness:
    """Whether the control thread is alive: it waits for work, or said so a short time ago.

    Args:
        limit_s: longest silence between two signs of life.
        now: seconds of a clock that never steps back.
    """

    def __init__(self, limit_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = limit_s
        self._now = now
        self._last: float | None = None
        self._waiting = 0
        self._lock = threading.Lock()

    def tick(self) -> None:
        """Say that the control thread is alive; between its steps, where one takes long."""
        self._last = self._now()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The control thread waits within the block for something that has a time-out or wakes it."""
        with self._lock:
            self._waiting += 1
        try:
            yield
        finally:
            self.tick()
            with self._lock:
                self._waiting -= 1

    @property
    def alive(self) -> bool:
        """Whether it is alive; not before it was seen first."""
        if self._waiting:
            return True
        return self._last is not None and self._now() - self._last <= self._limit_s


class ControlStream(Pipeline[StreamItem]):
    """The ordered queue to the control thread, which is alive as long as it comes back for more.

    Windows leave room for the ends of episodes and of the run, which are never lost to a full queue.
    """

    SIZE = 256
    RESERVED = 32

    def __init__(self, liveness: Liveness) -> None:
        super().__init__("stream", self.SIZE, when_full="refuse")
        self._liveness = liveness

    def get(self, timeout_s: float | None = None) -> StreamItem:
        """Take the oldest item, as ``Pipeline.get``."""
        with self._liveness.waiting():
            return super().get(timeout_s)

    def offer(self, window: Window) -> bool:
        """Add a window; False if the control thread is so far behind that there is no room for it."""
        return len(self) < self.SIZE - self.RESERVED and self.put(window)

    def end(self, item: RunEnded) -> None:
        """Add the last item, whatever waits already, and close."""
        with self._changed:
            self._items.append(item)
            self._closed = True
            self._changed.notify_all()
