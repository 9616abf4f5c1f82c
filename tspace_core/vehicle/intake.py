"""What is done with each datagram: read, passed on, or refused, counted and answered."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from tspace_core.config import Vehicle
from tspace_core.link.datagrams import (
    EXAMPLE,
    Datagram,
    DatagramError,
    RefusalLimiter,
    Status,
    encode_refusal,
    is_refusal,
    parse,
    shortened,
)
from tspace_core.vehicle.observation import Observation, observation, observed_signals

_log = logging.getLogger(__name__)

_KEYS_LOGGED = 100


@dataclass(frozen=True, eq=False)
class Taken:
    """What a datagram gave.

    Attributes:
        status: a request, if there is one.
        observation: a sample, if there is one.
        refused: why the datagram is a capture failure, if it is one.
        answer: what to send back to its sender, if anything.
    """

    status: Status | None = None
    observation: Observation | None = None
    refused: str | None = None
    answer: bytes | None = None


class Intake:
    """Reads the datagrams of one run.

    Args:
        vehicle: tells which signals a sample must have.
        monotonic_ns: ns of a clock that never steps back.
        wall_ns: ns UTC of the wall clock.
        requests_only: samples come in another way; here they are ignored.

    Attributes:
        samples: samples taken so far.
        refused: datagrams refused so far.
    """

    def __init__(
        self,
        vehicle: Vehicle,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        wall_ns: Callable[[], int] = time.time_ns,
        *,
        requests_only: bool = False,
    ) -> None:
        self._signals = None if requests_only else observed_signals(vehicle)
        self._monotonic_ns, self._wall_ns = monotonic_ns, wall_ns
        # Arrivals are UTC by one look at the wall clock: setting that clock must not bend a window.
        self._offset_ns = wall_ns() - monotonic_ns()
        self._limiter = RefusalLimiter(lambda: monotonic_ns() / 1e9)
        self._keys: set[str] = set()
        self.samples = 0
        self.refused = 0

    def take(self, data: bytes, sender: tuple[str, int]) -> Taken:
        """Read a datagram; never raises.

        Of a refused one a valid request to end is followed all the same: to stop is always safe.
        """
        if is_refusal(data):
            # An answer to a datagram of ours, or of someone who listens like us: answering it would go on
            # for ever.
            _log.info("%s:%d refused a datagram: %s", *sender, data[:300].decode("utf-8", "backslashreplace"))
            return Taken()
        try:
            datagram = parse(data, self._signals)
        except DatagramError as error:
            self.refused += 1
            return Taken(
                status=None if error.status == "begin" else error.status,
                refused=f"datagram from {sender[0]}:{sender[1]} refused: {error}",
                answer=encode_refusal(error) if self._limiter.allows(sender) else None,
            )
        self._log_once(datagram.extra)
        if datagram.sample is None or self._signals is None:
            return Taken(status=datagram.status, answer=self._hint(datagram, data, sender))
        self.samples += 1
        sample = observation(
            datagram.sample,
            self._signals,
            arrived_ns=self._monotonic_ns() + self._offset_ns,
            received_ns=self._wall_ns(),
            time_ns=datagram.time_ns,
            seq=datagram.seq,
        )
        return Taken(status=datagram.status, observation=sample)

    def _hint(self, datagram: Datagram, data: bytes, sender: tuple[str, int]) -> bytes | None:
        """Unknown keys are no failure; but a person who mistyped the only one wants to hear of it."""
        seen = datagram.status is not None or "data" in datagram.extra
        if seen or not self._limiter.allows(sender):
            return None
        reason = "the datagram has neither status nor data"
        return encode_refusal(DatagramError(reason, value=shortened(data), what_to_do=EXAMPLE))

    def _log_once(self, keys: tuple[str, ...]) -> None:
        for key in keys:
            if key not in self._keys and len(self._keys) < _KEYS_LOGGED:
                self._keys.add(key)
                _log.warning("datagrams carry the key %r, which nobody knows; it is ignored", key[:60])
