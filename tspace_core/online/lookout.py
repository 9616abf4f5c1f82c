"""Looks for something on a thread of its own, so that whoever wants the newest of it need not wait for it."""

import threading
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

T = TypeVar("T")


class Lookout(ABC, Generic[T]):
    """Has the newest of something at hand. Looking may take its time and belongs on a task: ``watch``.

    Of what is found only the newest counts: what nobody has taken by then makes room for it.

    Args:
        every_s: time between looks that nobody asks for, s; None: there are none.
    """

    def __init__(self, every_s: float | None = None) -> None:
        self._every_s = every_s
        self._changed = threading.Condition()
        self._asked = self._looked = self._forgotten = 0
        self._found: T | None = None
        self._closed = False

    @abstractmethod
    def find(self) -> T | None:
        """What is new since the last call, ready to be used; None: nothing is."""

    def newer(self, wait_s: float) -> T | None:
        """The newest that was found, once.

        A look is asked for and waited for, that long at most: one that takes longer counts for the next call.
        """
        with self._changed:
            self._asked += 1
            asked = self._asked
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._looked >= asked or self._closed, wait_s)
            found, self._found = self._found, None
        return found

    def ready(self) -> T | None:
        """The newest that was found, once; neither asks for a look nor waits for one."""
        with self._changed:
            found, self._found = self._found, None
        return found

    def wake(self) -> None:
        """There is something new: look soon. Never waits, from any thread."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()

    def forget(self) -> None:
        """Throw away what was found, and what a look that goes on will find."""
        with self._changed:
            self._forgotten += 1
            self._found = None

    def watch(self) -> None:
        """Look when it is asked for, and now and then, until ``close``; a task of the run's supervisor."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._asked > self._looked or self._closed, self._every_s)
                if self._closed:
                    return
                asked = self._asked
            self.look()
            with self._changed:
                self._looked = asked
                self._changed.notify_all()

    def look(self) -> None:
        """Look once, now, in this thread."""
        forgotten = self._forgotten
        found = self.find()
        with self._changed:
            if found is not None and forgotten == self._forgotten and not self._closed:
                self._found = found

    def close(self) -> None:
        """Look no more, and hold nothing."""
        with self._changed:
            self._closed = True
            self._found = None
            self._changed.notify_all()
