"""A vehicle interface that follows a script: what the control loop sees, without sockets and clocks."""

import threading
import time
from collections.abc import Callable

import numpy as np

from tests.online.builders import BEGIN_NS, window
from tspace_core.config import FLASHED_ROWS, TorqueMap, Vehicle
from tspace_core.supervision import Pipeline, Supervisor
from tspace_core.vehicle.interface import FlashOutcomeView, RowsProposal
from tspace_core.vehicle.states import Event
from tspace_core.vehicle.stream import (
    EpisodeBegun,
    EpisodeEnded,
    RunEnded,
    StreamItem,
)
from tspace_core.vehicle.windows import Window

PATIENCE_S = 120.0
"""Longest wait for the control loop; an item that came earlier would be a late one."""
Answer = Callable[[RowsProposal], FlashOutcomeView]


def applied(proposal: RowsProposal) -> FlashOutcomeView:
    """The bridge takes every proposal as it is."""
    return FlashOutcomeView("APPLIED", 0, "", proposal.first_row, proposal.rows.copy())


def refused(proposal: RowsProposal) -> FlashOutcomeView:
    return FlashOutcomeView.without_answer(proposal, "REFUSED", 0, "rate: 0.4 s since the last flash")


class AskedStream(Pipeline[StreamItem]):
    """Tells when the control loop asks for the next item."""

    def __init__(self) -> None:
        super().__init__("stream", 256)
        self.asked = threading.Event()

    def get(self, timeout_s: float | None = None) -> StreamItem:
        self.asked.set()
        return super().get(timeout_s)


class FakeCar:
    """Plays a script: an item goes out only when the control loop has taken the one before.

    Args:
        vehicle: whose.
        script: items in order; ``RunEnded`` is added where it is missing.
        answer: what becomes of a proposal.
        resume: asked at ``EpisodeBegun`` items with ``live`` None: what is live then.
        hold: play on only until the end of the script and wait for the stop there.
    """

    def __init__(
        self,
        vehicle: Vehicle,
        script: list[StreamItem],
        *,
        answer: Answer = applied,
        resume: Callable[[], TorqueMap | None] = lambda: None,
        hold: bool = False,
    ) -> None:
        self.vehicle = vehicle
        self.script = script
        self.stream = AskedStream()
        self.proposals: list[RowsProposal] = []
        self.requests: list[Event] = []
        self.requests_before_play = 0
        self.live = vehicle.default_map()
        self.resumed: list[TorqueMap | None] = []
        self.played = threading.Event()
        self._answer = answer
        self._resume = resume
        self._hold = hold
        self._stopping: threading.Event = threading.Event()

    @property
    def control(self) -> "FakeCar":
        return self

    def post(self, event: Event, cause: str) -> bool:
        self.requests.append(event)
        return True

    def consume(self, proposal: RowsProposal) -> FlashOutcomeView:
        self.proposals.append(proposal)
        outcome = self._answer(proposal)
        if outcome.result == "APPLIED":
            table = self.live.table.copy()
            table[outcome.first_row : outcome.first_row + FLASHED_ROWS] = outcome.rows
            self.live = TorqueMap(self.live.pedal_axis, self.live.speed_axis_kmh, table)
        return outcome

    def ignite(self, supervisor: Supervisor, connected: Callable[[], None]) -> None:
        self._stopping = supervisor.stopping
        connected()
        self.requests_before_play = len(self.requests)
        supervisor.start("script", self.play)

    def play(self) -> None:
        cause = "script over"
        for item in self.script:
            if self._stopping.is_set():
                cause = "stopped"
                break
            self._put(item)
        self.played.set()
        if self._hold:
            self._stopping.wait()
            cause = "stopped"
        if not (self.script and isinstance(self.script[-1], RunEnded)):
            self.stream.put(RunEnded(cause, failed=False))
        self.stream.close()

    def stop(self) -> None:
        """Play no further."""
        self._stopping.set()
        self.stream.asked.set()

    def _put(self, item: StreamItem) -> None:
        until = time.monotonic() + PATIENCE_S
        # A loop that has died asks no more; its run stops then.
        while not self.stream.asked.wait(0.1) and not self._stopping.is_set() and time.monotonic() < until:
            pass
        self.stream.asked.clear()
        if isinstance(item, EpisodeBegun) and item.armed and item.live is None:
            start = self._resume()
            self.resumed.append(start)
            self.live = start or self.live
            item = begun(item.number, item.time_ns, live=self.live.table)
        self.stream.put(item)


def begun(
    number: int, time_ns: int = BEGIN_NS, *, armed: bool = True, live: np.ndarray | None = None
) -> EpisodeBegun:
    return EpisodeBegun(number, time_ns, armed, live=live)


def ended(number: int, *, valid: bool = True, reason: str = "countdown over") -> EpisodeEnded:
    return EpisodeEnded(number, BEGIN_NS, valid, reason)


def windows(vehicle: Vehicle, count: int, first: int = 0, *, invalid: tuple[int, ...] = ()) -> list[Window]:
    return [window(vehicle, k, valid=k not in invalid) for k in range(first, first + count)]


def episode(vehicle: Vehicle, number: int, count: int, *, valid: bool = True) -> list[StreamItem]:
    """A whole episode of ``count`` windows, a minute after the one before."""
    first = number * 200
    start = BEGIN_NS + first * round(vehicle.sampling.window_s * 1e9)
    return [
        begun(number, start),
        *windows(vehicle, count, first),
        ended(number, valid=valid, reason="countdown over" if valid else "HMI: end_invalid"),
    ]
