"""The learner's weights on their way to the control thread: read, checked and exported before."""

from collections.abc import Callable
from pathlib import Path

from tspace_core.objects.path import AnyPath
from tspace_core.online.driver_agent import Successor
from tspace_core.online.lookout import Lookout


class WeightsWatch(Lookout[Successor]):
    """Has the newest weights at hand, ready to drive.

    Args:
        newest: folder of the newest weights, once.
        prepare: makes them ready; None from it: they are left. Default: nothing drives.
    """

    def __init__(
        self, newest: Callable[[], Path | None], prepare: Callable[[AnyPath], Successor | None] | None
    ) -> None:
        super().__init__()
        self._newest = newest
        self._prepare = prepare

    def find(self) -> Successor | None:
        """The newest weights, ready to drive."""
        path = None if self._prepare is None else self._newest()
        return None if path is None or self._prepare is None else self._prepare(path)
