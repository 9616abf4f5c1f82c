"""The thread that owns the guard: everything the guard is asked goes through its queue, in order.

Only a revert does not wait its turn: it runs in a thread of its own and cuts into a running flash.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

from tspace_core.errors import AuditError
from tspace_core.guard.base import GuardBase
from tspace_core.guard.state import GuardState, VehicleState
from tspace_core.supervision.pipeline import Pipeline, PipelineClosed, PipelineEmpty

_LOG = logging.getLogger(__name__)
Command = Callable[[], None]

_TICK_S = 0.02
"""Longest time between two looks at heartbeats and the VCU's session."""
_QUEUE = 512
"""Commands that may wait: a flash of 2 s with samples at 20 Hz needs 40."""


class GuardTask:
    """Runs the guard.

    Args:
        guard: called by this task's thread only, apart from ``interrupt``.
        on_state: told of each change of state or cause, on this task's thread, and on others by `tell`.
        end_s: longest wait for a revert that is under way when the bridge ends.

    Attributes:
        ended: set when the guard was brought to its end.
        refused: commands that found the queue full.
    """

    def __init__(
        self, guard: GuardBase, on_state: Callable[[GuardState, str], None], *, end_s: float = 3.0
    ) -> None:
        self.guard = guard
        self._end_s = end_s
        self._telling = threading.Lock()
        self._on_state = on_state
        self._commands: Pipeline[Command] = Pipeline("guard", _QUEUE, when_full="refuse")
        self._reverts: Pipeline[tuple[str, Command | None]] = Pipeline("revert", 8, when_full="refuse")
        self._afterwards: deque[Command] = deque()
        self._told: tuple[str, str] = ("", "")
        self._reverting = threading.Event()
        self._reverting.set()  # cleared while the thread for reverts runs
        self.ended = threading.Event()
        self.refused = 0

    def submit(self, command: Command) -> bool:
        """Queue a command, from any thread; False: the queue is full or the task is at its end."""
        try:
            taken = self._commands.put(command)
        except PipelineClosed:
            return False
        self.refused += not taken
        return taken

    def observe(self, state: VehicleState) -> None:
        """Tell the guard a sample, from any thread."""
        self.submit(lambda: self.guard.observe(state))

    def revert(self, cause: str, then: Command | None = None) -> None:
        """Reference page now, whatever the guard does; from any thread, never blocks.

        Args:
            cause: is recorded.
            then: called on the guard's thread when its state has followed.
        """
        try:
            taken = self._reverts.put((cause, then))
        except PipelineClosed:
            return
        if not taken and then is not None:  # others wait already, and one is as good as many
            self.submit(partial(self._afterwards.append, then))

    def run(self, stopping: threading.Event, why: Callable[[], str]) -> None:
        """Serve until ``stopping`` is set, then bring the reference map back.

        Args:
            stopping: ends it; call ``close`` then, so that it is seen at once.
            why: the cause that is recorded.
        """
        try:
            while not stopping.is_set():
                self._turn()
        finally:
            try:
                self.close()
                self._guarded(lambda: self.guard.trip(f"bridge ends: {why() or 'a crash'}"))
                self._reverting.wait(self._end_s)
                self._guarded(self.guard.tick)  # records what a revert left to be recorded
                self.tell()
            finally:
                self.ended.set()

    def run_reverts(self) -> None:
        """Serve reverts until ``close``."""
        self._reverting.clear()
        try:
            while True:
                try:
                    cause, then = self._reverts.get()
                except PipelineClosed:
                    return
                self.guard.interrupt(cause)
                # Wakes the guard's thread, so that the change is seen and told at once.
                self.submit(partial(self._afterwards.extend, () if then is None else (then,)))
        finally:
            self._reverting.set()

    def tell(self) -> None:
        """Tell of a change of state or cause, where there is one; from any thread."""
        with self._telling:
            now = (self.guard.state, self.guard.cause)
            if now != self._told:
                self._told = now
                self._on_state(*now)

    def close(self) -> None:
        """Take no more commands; wakes both threads."""
        self._commands.close()
        self._reverts.close()

    def _turn(self) -> None:
        """All commands that wait, then one look at the clocks: a queued heartbeat counts before that."""
        try:
            command = self._commands.get(timeout_s=_TICK_S)
        except (PipelineEmpty, PipelineClosed):
            pass
        else:
            self._guarded(command)
            for _ in range(len(self._commands)):
                try:
                    self._guarded(self._commands.get(timeout_s=0))
                except (PipelineEmpty, PipelineClosed):
                    break
        self._guarded(self.guard.tick)
        self.tell()
        while self._afterwards:
            self._afterwards.popleft()()

    def _guarded(self, command: Command) -> None:
        try:
            command()
        except AuditError as error:
            _LOG.exception("the audit log cannot vouch for flashes any more")
            self.guard.lock(f"audit log: {error}")
