"""A bounded queue between two tasks that can be cleared and closed while others wait on it."""

import threading
from collections import deque
from typing import Generic, Literal, TypeVar

T = TypeVar("T")

WhenFull = Literal["wait", "drop_oldest", "refuse"]


class PipelineClosed(Exception):  # noqa: N818 - an end that is expected, not an error
    """Nothing more goes in, or nothing is left to come out: the task at this end has done its work."""


class PipelineEmpty(Exception):  # noqa: N818 - a time-out that is expected, not an error
    """Nothing came within the time-out."""


class Pipeline(Generic[T]):
    """A first-in, first-out queue of at most ``size`` items for any number of threads at both ends.

    Args:
        name: for messages.
        size: most items held, at least 1.
        when_full: what ``put`` does on a full queue: ``wait`` for room, ``drop_oldest`` to make room, or
            ``refuse`` the new item.

    Attributes:
        dropped: items lost so far: dropped to make room, or refused.
    """

    def __init__(self, name: str, size: int, *, when_full: WhenFull = "wait") -> None:
        if size < 1:
            message = f"pipeline {name!r} has size {size}, it must hold at least 1 item"
            raise ValueError(message)
        self.name = name
        self.size = size
        self.when_full = when_full
        self.dropped = 0
        self._items: deque[T] = deque()
        self._takers = 0
        self._closed = False
        # One condition and notify_all: a waiter that leaves by an exception from a signal handler takes no
        # one else's wake-up with it.
        self._changed = threading.Condition(threading.Lock())

    def __len__(self) -> int:
        return len(self._items)

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called; items may be left to get."""
        return self._closed

    def put(self, item: T, timeout_s: float | None = None) -> bool:
        """Add an item at the end.

        Args:
            item: what goes in.
            timeout_s: longest wait for room where ``when_full`` is ``wait``; None: as long as it takes.

        Returns:
            False if the item was refused or there was no room in time.

        Raises:
            PipelineClosed: it is closed, or was closed while waiting.
        """
        with self._changed:
            if self.when_full == "wait":
                roomy = self._changed.wait_for(
                    lambda: self._closed or len(self._items) < self.size, timeout_s
                )
                if not roomy:
                    return False
            if self._closed:
                message = f"pipeline {self.name!r} is closed, nothing more can be put in"
                raise PipelineClosed(message)
            if len(self._items) >= self.size:
                self.dropped += 1
                if self.when_full == "refuse":
                    return False
                self._items.popleft()
            self._items.append(item)
            self._changed.notify_all()
            return True

    def get(self, timeout_s: float | None = None) -> T:
        """Take the oldest item.

        Args:
            timeout_s: longest wait for one; None: as long as it takes.

        Raises:
            PipelineEmpty: none came in time.
            PipelineClosed: it is closed and nothing is left.
        """
        with self._changed:
            self._takers += 1
            self._changed.notify_all()
            try:
                came = self._changed.wait_for(lambda: self._items or self._closed, timeout_s)
            finally:
                self._takers -= 1
            if not came:
                message = f"pipeline {self.name!r}: nothing came within {timeout_s} s"
                raise PipelineEmpty(message)
            if not self._items:
                message = f"pipeline {self.name!r} is closed and nothing is left in it"
                raise PipelineClosed(message)
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def wait_idle(self, timeout_s: float | None = None) -> bool:
        """Wait until all that was put in has been dealt with: nothing is in it, and who takes waits for more.

        Exact where one task takes, which has dealt with an item by the time it comes back for the next.

        Returns:
            False if it is closed, or was not idle in time.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._idle, timeout_s)
            return self._idle and not self._closed

    @property
    def _idle(self) -> bool:
        return self._takers > 0 and not self._items

    def clear(self) -> int:
        """Throw away what is in it and wake who waits for room; return the number of items thrown away."""
        with self._changed:
            count = len(self._items)
            self._items.clear()
            self._changed.notify_all()
            return count

    def close(self) -> None:
        """Take nothing more; who waits wakes up, what is in it can still be got. Again is no matter."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
