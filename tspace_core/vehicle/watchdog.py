"""The watchdog: counts failures the moment they happen and says when there were too many."""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Literal

from tspace_core.config.online import WatchdogLimits

_log = logging.getLogger(__name__)

Kind = Literal["capture", "flash"]


class Watchdog:
    """Counts capture and flash failures; too many of either within a time trip it, once and for good.

    Args:
        limits: how many, within which time.
        now: seconds of a clock that never steps back.

    Attributes:
        counts: failures of each kind since the start.
        reasons: how often each reason was given; at most ``REASONS`` of them are kept.
    """

    REASONS = 100

    def __init__(self, limits: WatchdogLimits, now: Callable[[], float] = time.monotonic) -> None:
        self._limits: dict[Kind, int] = {"capture": limits.capture_failures, "flash": limits.flash_failures}
        self._within_s = limits.within_s
        self._now = now
        self._lock = threading.Lock()
        self._times: dict[Kind, deque[float]] = {
            kind: deque(maxlen=most) for kind, most in self._limits.items()
        }
        self._tripped: str | None = None
        self._ended = threading.Event()
        self.counts: dict[Kind, int] = {"capture": 0, "flash": 0}
        self.reasons: Counter[str] = Counter()

    @property
    def tripped(self) -> str | None:
        """Why it tripped; None: it has not."""
        return self._tripped

    def capture_failure(self, reason: str) -> None:
        """Count a datagram refused, a window that is invalid or did not come, silence, a wrong request."""
        self._count("capture", reason)

    def flash_failure(self, reason: str) -> None:
        """Count a flash that was not applied."""
        self._count("flash", reason)

    def wait(self, timeout_s: float | None = None) -> str | None:
        """Wait until it trips or ``close`` is called; return why it tripped, if it did."""
        self._ended.wait(timeout_s)
        return self._tripped

    def close(self) -> None:
        """Wake who waits; failures are counted on."""
        self._ended.set()

    def _count(self, kind: Kind, reason: str) -> None:
        with self._lock:
            now, times, most = self._now(), self._times[kind], self._limits[kind]
            times.append(now)
            self.counts[kind] += 1
            if reason in self.reasons or len(self.reasons) < self.REASONS:
                self.reasons[reason] += 1
            _log.warning("%s failure %d: %s", kind, self.counts[kind], reason)
            if self._tripped is None and len(times) == most and now - times[0] <= self._within_s:
                self._tripped = (
                    f"watchdog: {most} {kind} failures within {self._within_s:g} s, the last: {reason}"
                )
                self._ended.set()
