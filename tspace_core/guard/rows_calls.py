"""Calls that send rows to a vehicle far away, one at a time, the way back in front of all others."""

import threading
from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tspace_core.errors import LinkError, RemoteCanError
from tspace_core.guard.commands import AbortedError

_SLACK_S = 1.0
"""A call that was told to end, or whose time is over, ends within it, or it is broken."""


class RowsTarget(Protocol):
    """Carries rows into a vehicle; `tspace_core.link.remote_can.RemoteCanClient` is behind the real one."""

    def send(self, first_row: int, rows: NDArray[np.float32], *, timeout_s: float) -> bool:
        """Send rows (Nm, shape (n, columns)) from ``first_row`` on; returns when the service confirmed them.

        Returns:
            False where an earlier try of the same call may be carried out still, a second time.

        Raises:
            LinkError: they are not confirmed; `RemoteCanError.unchanged` says whether it is certain that they
                did not take effect, any other error does not.
        """
        ...

    def abort(self, cause: str) -> None:
        """Have the running call and all after it raise until ``resume``; any thread, never blocks."""
        ...

    def resume(self) -> None:
        """Allow calls again after ``abort``."""
        ...


class RowsCalls:
    """A `RowsTarget` behind one lock, with the whole reference map as the way back.

    A flash is called off by `abort`; a try to send the reference map only by `abort_all`, whose caller makes
    one of its own then. Whoever asks for the reference map while a try is running, and whose own try was
    called off, is answered with what comes of the other one.

    Args:
        target: what is behind it.
        reference: the whole reference map, Nm.
        limit_s: longest try to send it, s; a call that is not known to be over may be carried out as long.
        now_ns: monotonic clock, ns.

    Attributes:
        late_ns: until when a flash, or a try of it, that nobody confirmed may still be carried out, by
            ``now_ns``; None: the reference map was confirmed in a try that began later.
    """

    def __init__(
        self,
        target: RowsTarget,
        reference: NDArray[np.float32],
        limit_s: float,
        now_ns: Callable[[], int],
    ) -> None:
        self._target = target
        self._reference = np.array(reference, dtype=np.float32)
        self._late_ns, self._now_ns = round(limit_s * 1e9), now_ns
        self.late_ns: int | None = None
        self.limit_s = limit_s
        self._turns = threading.Lock()
        self._counter = threading.Condition()
        self._aborts = 0
        self._called_off = False  # the running try
        self._running: Literal["", "flash", "try"] = ""
        self._tries = 0  # that are over and were not called off
        self._problem: str | None = None  # of the newest of them
        self.counts: dict[str, int] = {"sent": 0, "failed": 0}
        """Calls that were confirmed, and that were not."""

    @property
    def problem(self) -> str | None:
        """Why the newest try to send the reference map is not confirmed, or None."""
        return self._problem

    def mark(self) -> int:
        """A number that changes with every abort; take it before looking whether a flash is allowed."""
        with self._counter:
            return self._aborts

    def abort(self) -> None:
        """Call off a flash; a running try goes on."""
        self._abort(("flash",))

    def abort_all(self) -> None:
        """Call off a flash or a try; the caller makes one of its own, by `revert_anew`."""
        self._abort(("flash", "try"))

    def _abort(self, kinds: tuple[str, ...]) -> None:
        with self._counter:
            self._aborts += 1
            if self._running in kinds:
                self._called_off = True
                self._target.abort("the reference map was called for")

    def send(self, first_row: int, rows: NDArray[np.float32], *, mark: int, timeout_s: float) -> None:
        """Send the rows of a flash.

        Raises:
            AbortedError: it was called off since ``mark``; whether before it took effect is not known.
            LinkError: as the target says.
        """
        with self._turns:
            self._call("flash", lambda: self._target.send(first_row, rows, timeout_s=timeout_s), mark)

    def reference(self, mark: int) -> None:
        """Send the whole reference map, before arming.

        Raises:
            AbortedError, LinkError: as `send`.
        """
        with self._turns:
            self._call("try", self._send_reference, mark)

    def revert(self, *, reconnect: bool = False) -> str | None:
        """Send the whole reference map, or wait for what comes of a try that is running.

        Returns:
            None where it is confirmed, else why not.
        """
        return self._revert(join=True)

    def revert_anew(self) -> str | None:
        """Send the whole reference map, also where a try that was running before has failed."""
        return self._revert(join=False)

    def _revert(self, *, join: bool) -> str | None:
        with self._counter:
            tries = self._tries
        if not self._turns.acquire(timeout=self.limit_s + _SLACK_S):
            return f"a call to the service did not end within {self.limit_s + _SLACK_S:g} s"
        try:
            if self._tries != tries and (join or self._problem is None):
                return self._problem
            tries = self._tries
            problem, called_off = self._try()
        finally:
            self._turns.release()
        if not called_off:
            return problem
        with self._counter:  # whoever called it off makes another try
            self._counter.wait_for(lambda: self._tries != tries, self.limit_s + _SLACK_S)
            return problem if self._tries == tries else self._problem

    def _try(self) -> tuple[str | None, bool]:
        problem = None
        try:
            self._call("try", self._send_reference, None)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        with self._counter:
            called_off = self._called_off and problem is not None
            if not called_off:
                self._tries += 1
                self._problem = problem
                self._counter.notify_all()
        return problem, called_off

    def _send_reference(self) -> bool:
        return self._target.send(0, self._reference.copy(), timeout_s=self.limit_s)

    def _call(self, kind: Literal["flash", "try"], call: Callable[[], bool], mark: int | None) -> None:
        with self._counter:
            self._check(mark)
            self._running, self._called_off = kind, False
        confirmed, begun_ns = False, self._now_ns()
        try:
            only = call()
            confirmed = True
            if kind == "flash" and not only:
                self.late_ns = begun_ns + self._late_ns
            if kind == "try" and self.late_ns is not None and begun_ns >= self.late_ns:
                self.late_ns = None
        except Exception as error:
            if kind == "flash" and not (isinstance(error, RemoteCanError) and error.unchanged):
                self.late_ns = begun_ns + self._late_ns
            with self._counter:
                if isinstance(error, LinkError):
                    self._check(mark)  # not the service's fault where somebody called it off
            raise
        finally:
            with self._counter:
                self._running = ""
                self.counts["sent" if confirmed else "failed"] += 1
                self._target.resume()

    def _check(self, mark: int | None) -> None:
        if mark is not None and self._aborts != mark:
            message = "aborted: the reference map was called for"
            raise AbortedError(message)
