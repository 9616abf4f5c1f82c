"""The twin's messages as they fall due, one sample at a time, cheap enough for a live bus."""

import math
from dataclasses import dataclass

from cantools.database.can import Message, Signal

from tspace_core.config.vehicle import Vehicle
from tspace_core.twin.can_frames import COUNTER_SUFFIX, Carried, TwinMessages, samples_between
from tspace_core.twin.faults import Faults
from tspace_core.twin.trace import Trace


@dataclass(frozen=True, slots=True)
class LiveFrame:
    """A frame to send.

    Attributes:
        id: arbitration id.
        extended: a 29-bit id.
        data: as long as the DBC says.
    """

    id: int
    extended: bool
    data: bytes


class _Field:
    """Where a signal's raw integer lies in its message, whose bytes are read as one big number."""

    def __init__(self, signal: Signal, size: int) -> None:
        self._mask: int = (1 << signal.length) - 1
        self._scale, self._offset = float(signal.scale), float(signal.offset)
        signed = signal.is_signed
        self._low = -(1 << signal.length - 1) if signed else 0
        self._high = (1 << signal.length - 1) - 1 if signed else self._mask
        self._from, self._to = self._low, self._high
        if signal.minimum is not None:
            self._from = max(self._low, math.ceil((signal.minimum - self._offset) / self._scale))
        if signal.maximum is not None:
            self._to = min(self._high, math.floor((signal.maximum - self._offset) / self._scale))
        self.little = signal.byte_order == "little_endian"
        if self.little:
            self._shift: int = signal.start
        else:
            top = 8 * (size - 1 - signal.start // 8) + signal.start % 8
            self._shift = top - signal.length + 1

    def count(self, number: int) -> int:
        """Bits of a counter."""
        return (number & self._mask) << self._shift

    def bits(self, physical: float, *, plausible: bool) -> int:
        """Bits of a value, held within the DBC's range, or within what the bits can carry.

        A value that is no number has all bits set.
        """
        if math.isnan(physical):
            return self._mask << self._shift
        low, high = (self._from, self._to) if plausible else (self._low, self._high)
        wanted = (physical - self._offset) / self._scale
        raw = low if wanted <= low else high if wanted >= high else round(wanted)
        return (raw & self._mask) << self._shift


class _Stream:
    """One message of the DBC, sent again and again."""

    def __init__(self, frame: Message, carried: list[Carried], rate_hz: float) -> None:
        self.name = frame.name
        self.every = samples_between(frame, rate_hz)
        self.id, self.extended, self.size = frame.frame_id, frame.is_extended_frame, frame.length
        self.signals = [
            (name, source.sign / source.scale, -source.offset / source.scale, _Field(signal, frame.length))
            for name, signal, source in carried
        ]
        self.counters = [
            _Field(each, frame.length) for each in frame.signals if each.name.endswith(COUNTER_SUFFIX)
        ]
        self.sent = 0


class LiveMessages:
    """Writes a running vehicle's samples into the messages that are due.

    Args:
        vehicle: its DBC gives messages and cycle times.
        rate_hz: samples a second.
        faults: simulated faults of signals, counters and messages.

    Raises:
        TwinError: a message of the DBC has no cycle time or is faster than the samples, or a signal does not
            exist there.
    """

    def __init__(self, vehicle: Vehicle, rate_hz: float, faults: Faults | None = None) -> None:
        twin = TwinMessages(vehicle)
        self._faults = Faults() if faults is None else faults
        self._streams = [_Stream(frame, twin.carried.get(frame.name, []), rate_hz) for frame in twin.messages]
        self._signals = [name for stream in self._streams for name, *_ in stream.signals]
        self._sample = 0

    def next(self, trace: Trace, index: int = 0, sample: int = -1) -> list[LiveFrame]:
        """Frames that are due with the next sample, by id.

        Args:
            trace: holds the sample.
            index: which vehicle.
            sample: which sample of the trace.
        """
        number = self._sample
        self._sample += 1
        if self._faults.silent(None):
            return []
        return [
            self._frame(stream, trace, index, sample)
            for stream in self._streams
            if number % stream.every == 0 and not self._faults.silent(stream.name)
        ]

    def _frame(self, stream: _Stream, trace: Trace, index: int, sample: int) -> LiveFrame:
        little = big = 0
        for name, factor, offset, field in stream.signals:
            right = float(trace.signal(name)[index, sample])
            value = self._faults.signal(name, right)
            plausible = value == right
            bits = field.bits(value * factor + offset, plausible=plausible)
            little, big = (little | bits, big) if field.little else (little, big | bits)
        for field in stream.counters:
            bits = field.count(stream.sent)
            little, big = (little | bits, big) if field.little else (little, big | bits)
        if not self._faults.counter_stands(stream.name):
            stream.sent += 1
        number = little | int.from_bytes(big.to_bytes(stream.size, "big"), "little")
        return LiveFrame(stream.id, stream.extended, number.to_bytes(stream.size, "little"))
