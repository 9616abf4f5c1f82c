"""Listen to a bus for a while and count what is on it, without sending."""

import threading
import time
from collections import Counter
from dataclasses import dataclass

import can

from tspace_core.config.link import BusConfig
from tspace_core.errors import BusError
from tspace_core.link.bus import BusCounters, SharedBus


@dataclass(frozen=True, slots=True)
class Survey:
    """What was heard.

    Attributes:
        seconds: how long was listened, s.
        frames: data frames by (arbitration id, extended).
        shortest: shortest payload in bytes by (arbitration id, extended).
        counters: the bus' counters at the end.
        lost: why listening ended early, if it did.
    """

    seconds: float
    frames: dict[tuple[int, bool], int]
    shortest: dict[tuple[int, bool], int]
    counters: BusCounters
    lost: BusError | None

    def rate(self, id: int, *, extended: bool) -> float:
        """Frames per second of an id."""
        return self.frames.get((id, extended), 0) / self.seconds


def survey(config: BusConfig, seconds: float) -> Survey:
    """Listen for ``seconds`` s, or until the bus is lost.

    Raises:
        BusError: the bus cannot be opened.
    """
    frames: Counter[tuple[int, bool]] = Counter()
    shortest: dict[tuple[int, bool], int] = {}
    lost = threading.Event()

    def count(frame: can.Message) -> None:
        key = (frame.arbitration_id, frame.is_extended_id)
        frames[key] += 1
        shortest[key] = min(shortest.get(key, len(frame.data)), len(frame.data))

    with SharedBus(config) as bus:
        started = time.monotonic()
        subscription = bus.subscribe(count, on_error=lambda _: lost.set())
        lost.wait(seconds)
        subscription.cancel()
        took = time.monotonic() - started
        counters, cause = bus.counters, bus.error
    return Survey(took, dict(frames), shortest, counters, cause)
