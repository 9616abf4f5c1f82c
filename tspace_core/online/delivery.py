"""From the keeper to the lake: episodes are stored at once, delivered when it takes them, then reported.

A lake elsewhere may be out of reach for a while. That costs the drive nothing: its episodes wait on this
machine (``EpisodeOutbox``), are offered again, and are reported when they are there, in their order.
"""

import logging
import threading
import time
from collections.abc import Callable

from tspace_core.errors import ObjectError, StorageError
from tspace_core.online.results import EpisodeResult
from tspace_core.storage.lake import Lake
from tspace_core.storage.online_outbox import EpisodeOutbox

_log = logging.getLogger(__name__)

TRY_AGAIN_S = 5.0
"""Pause before an episode that was not taken is offered again, s."""
LAST_TRIES_S = 30.0
"""How long a run that ends goes on offering; what is left then waits for the vehicle's next run, s."""


class Delivery:
    """Delivers and reports the episodes of one run; of one thread.

    Args:
        outbox: where the run stores them.
        on_episode: called with every episode that is in the lake.
        note: told what is not as it might be expected.
        tell: told when it is again.
    """

    def __init__(
        self,
        outbox: EpisodeOutbox,
        on_episode: Callable[[EpisodeResult], object],
        note: Callable[[str], object],
        tell: Callable[[str], object],
    ) -> None:
        self._outbox = outbox
        self._on_episode = on_episode
        self._note = note
        self._tell = tell
        self._untold: list[EpisodeResult] = []
        self._noted: set[str] = set()
        self._pause = threading.Event()  # nobody sets it: it is only waited on
        self.behind = False
        """Whether something is to be tried again."""

    def stored(self, result: EpisodeResult) -> None:
        """Take an episode that was stored, to be delivered and reported."""
        self._untold.append(result)
        self.deliver()

    def deliver(self) -> None:
        """Deliver what waits and report what is there; what fails by the lake's fault is noted and kept.

        Raises:
            Exception: what ``on_episode`` raises for any other reason.
        """
        was, self.behind = self.behind, False
        try:
            self._outbox.deliver()
        except StorageError as error:
            self._fell_behind(f"an episode is not in the lake yet, it waits in {self._outbox.folder}", error)
        waiting = set(self._outbox.waiting())
        for result in [item for item in self._untold if item.key not in waiting]:
            try:
                self._on_episode(result)
            except ObjectError as error:
                self._fell_behind(f"episode {result.number} is reported later", error)
                break
            self._untold.remove(result)
        if was and not self.behind:
            self._noted.clear()
            self._tell("the lake is in reach again: every episode is stored and reported")

    def finish(self, within_s: float = LAST_TRIES_S, pause_s: float = TRY_AGAIN_S) -> None:
        """Deliver what is left, again and again for so long; then note what waits for the next run."""
        deadline = time.monotonic() + within_s
        if self.behind:
            self.deliver()
        while self.behind and (left := deadline - time.monotonic()) > 0.0:
            self._pause.wait(min(pause_s, left))
            self.deliver()
        waiting = self._outbox.waiting()
        if waiting:
            self._note(
                f"{len(waiting)} episodes ({', '.join(waiting)}) wait in {self._outbox.folder}: the next run "
                "of the vehicle on this machine takes them to the lake"
            )

    def _fell_behind(self, what: str, error: StorageError) -> None:
        self.behind |= isinstance(error, ObjectError)  # nothing else mends itself
        line = f"{what}: {error}"
        if what not in self._noted:  # the error's own words may differ from try to try
            self._noted.add(what)
            self._note(line)
        _log.warning("%s", line)


def deliver_waiting(lake: Lake, vehicle_id: str, note: Callable[[str], object]) -> list[str]:
    """Take to the lake what a vehicle's runs before could not; return the keys. Trouble is noted, no more."""
    try:
        return EpisodeOutbox(lake, lake.local / "online" / vehicle_id).deliver()
    except StorageError as error:
        note(f"online episodes of earlier runs still wait on this machine: {error}")
        return []
