"""The flashes that a next one is measured against."""

from collections import deque

from tspace_core.guard.envelope import RATE_WINDOW_S
from tspace_core.guard.state import AppliedRows


class RecentFlashes:
    """Flashes of the last 10 s, over which a cell's rate is measured, and the newest one always."""

    def __init__(self) -> None:
        self._flashes: deque[AppliedRows] = deque(maxlen=64)

    def add(self, flash: AppliedRows) -> None:
        """A flash took effect."""
        self._flashes.append(flash)

    def newer(self, now_ns: int) -> tuple[AppliedRows, ...]:
        """Those that still count, the oldest first."""
        while len(self._flashes) > 1 and now_ns - self._flashes[0].at_ns >= RATE_WINDOW_S * 1e9:
            self._flashes.popleft()
        return tuple(self._flashes)

    def clear(self) -> None:
        """The reference map is in effect: nothing is measured against what was before."""
        self._flashes.clear()
