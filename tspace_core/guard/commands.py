"""The flash target behind one lock: a revert goes in front of whatever else wants to use it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tspace_core.errors import GuardError, LinkError
from tspace_core.guard.target import FlashTarget, Identity, Interruptible

REVERT_WAIT_S = 1.0
"""A target whose command takes longer than this is broken; the VCU then falls back by itself."""


REVERT_LIMIT_S = 1.0
"""A VCU that does not confirm its reference page within it is left in silence, and falls back by itself."""
RECONNECT_LIMIT_S = 2.0
"""The same with a session that is opened, identified and unlocked before."""
_ROUNDING_S = 0.001


class AbortedError(GuardError):
    """A transaction must go no further: somebody reverts."""


class OverrunError(GuardError):
    """A transaction must go no further: its time is over."""


class WayBack(Protocol):
    """What is behind a guard, as far as calling off and going back are concerned."""

    def mark(self) -> int:
        """A number that changes with every `abort`; take it before looking whether a flash is allowed."""
        ...

    def abort(self) -> None:
        """Let no flash that was allowed before go any further; any thread, never blocks."""
        ...

    def revert(self, *, reconnect: bool = False) -> str | None:
        """Put the reference map into effect, from any thread; None: confirmed, else why it is not."""
        ...


class Commands:
    """A `FlashTarget` for one transaction at a time.

    Before every command of a transaction it is asked whether somebody aborted and whether its time is over,
    so that it ends between two commands; a command of an `Interruptible` target ends within itself. `abort`
    and then `revert` may be called from any thread: they wait for at most the command that is running, and
    nothing of the aborted transaction follows.

    Args:
        target: what is behind it.
        now_ns: monotonic clock, ns.
    """

    def __init__(self, target: FlashTarget, now_ns: Callable[[], int]) -> None:
        self._target = target
        self._now_ns = now_ns
        self._turns = threading.Lock()
        self._counter = threading.Lock()
        self._aborts = 0
        self._mark = 0
        self._deadline_ns: int | None = None
        self._interruptible = target if isinstance(target, Interruptible) else None
        self._running = False  # a command that may be ended; a way back to the reference page never is
        self.answered_ns = now_ns()
        """When the VCU last answered."""

    @property
    def reference_page(self) -> int:
        """The page that cannot be written."""
        return self._target.reference_page

    def mark(self) -> int:
        """A number that changes with every abort; take it before looking whether a flash is allowed."""
        with self._counter:
            return self._aborts

    def abort(self) -> None:
        """End the running transaction before its next command, or within the one that is running."""
        with self._counter:
            self._aborts += 1
            if self._running and self._interruptible is not None:
                self._interruptible.abort("the reference map was called for")

    @contextmanager
    def transaction(self, mark: int, limit_s: float) -> Iterator[None]:
        """Commands in the body raise `AbortedError` after an abort since ``mark``, end after ``limit_s``."""
        self._mark = mark
        self._deadline_ns = self._now_ns() + round(limit_s * 1e9)
        try:
            yield
        finally:
            self._deadline_ns = None

    @contextmanager
    def _turn(self) -> Iterator[FlashTarget]:
        with self._turns:
            with self._counter:
                self._running = True
            try:
                self.check()
                with self._limited(self._left_s(), "the transaction"):
                    yield self._target
            except LinkError:
                self.check()  # not the VCU's fault where somebody reverts or the time is over
                raise
            finally:
                with self._counter:
                    self._running = False
                    if self._interruptible is not None:
                        self._interruptible.resume()
            self.answered_ns = self._now_ns()

    def _left_s(self) -> float | None:
        if self._deadline_ns is None:
            return None
        return max(0.0, (self._deadline_ns - self._now_ns()) / 1e9) + _ROUNDING_S

    def _limited(self, seconds: float | None, what: str) -> AbstractContextManager[None]:
        if seconds is None or self._interruptible is None:
            return nullcontext()
        return self._interruptible.limited(seconds, what)

    def check(self) -> None:
        """Whether the transaction may go on.

        Raises:
            AbortedError: somebody reverts.
            OverrunError: its time is over.
        """
        if self._deadline_ns is None:
            return
        if self.mark() != self._mark:
            message = "aborted: the reference map was called for"
            raise AbortedError(message)
        if self._now_ns() >= self._deadline_ns:
            message = "it took longer than its time limit"
            raise OverrunError(message)

    def revert(self, *, reconnect: bool = False) -> str | None:
        """Put the reference page into effect, from any thread.

        Args:
            reconnect: open the session anew before it, where it may be lost.

        Returns:
            None where the VCU confirmed it, else why it is not known to be in effect.
        """
        if not self._turns.acquire(timeout=REVERT_WAIT_S):
            return f"a command to the VCU did not end within {REVERT_WAIT_S:g} s"
        try:
            page = self._target.reference_page
            limit_s = RECONNECT_LIMIT_S if reconnect else REVERT_LIMIT_S
            with self._limited(limit_s, "the way back to the reference page"):
                if reconnect:
                    self._target.identify()
                self._target.activate(page)
                found = self._target.active_page()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        finally:
            self._turns.release()
        self.answered_ns = self._now_ns()
        return None if found == page else f"page {found} is in effect, not the reference page {page}"

    def identify(self) -> Identity:
        """As `FlashTarget.identify`."""
        with self._turn() as target:
            return target.identify()

    def unlock(self) -> None:
        """As `FlashTarget.unlock`."""
        with self._turn() as target:
            target.unlock()

    def idle_page(self) -> int:
        """As `FlashTarget.idle_page`."""
        with self._turn() as target:
            return target.idle_page()

    def write(self, page: int, table: NDArray[np.float32]) -> int:
        """As `FlashTarget.write`."""
        with self._turn() as target:
            return target.write(page, table)

    def read(self, page: int, first_row: int, rows: int) -> NDArray[np.float32]:
        """As `FlashTarget.read`."""
        with self._turn() as target:
            return target.read(page, first_row, rows)

    def checksum_ok(self, page: int, table: NDArray[np.float32]) -> bool:
        """As `FlashTarget.checksum_ok`."""
        with self._turn() as target:
            return target.checksum_ok(page, table)

    def activate(self, page: int) -> None:
        """As `FlashTarget.activate`."""
        with self._turn() as target:
            target.activate(page)

    def active_page(self) -> int:
        """As `FlashTarget.active_page`."""
        with self._turn() as target:
            return target.active_page()

    def keep_alive(self) -> None:
        """As `FlashTarget.keep_alive`."""
        with self._turn() as target:
            target.keep_alive()
