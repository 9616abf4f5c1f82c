"""Live values of a vehicle's signals from its frames, with their age and what was wrong.

The rules of a value are those of the logs' pipeline (``SignalSource`` in the vehicle's file); a test holds
both together. Live there is more to a frame: its message counter says whether it is new, repeated, late or
whether some before it are missing.
"""

import math
import re
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import can

from tspace_core.can.dbc import CanDatabase, load_database
from tspace_core.can.layout import MessageLayout, SignalLayout
from tspace_core.can.sources import WantedMessage, WantedSignal, wanted_messages
from tspace_core.config.vehicle import ENERGY_SIGNALS, STATE_SIGNALS, SignalSource, Vehicle

SECOND_SPEED = "velocity_2"
"""Name in a vehicle's ``signals`` of a second, independent source of its speed, km/h."""

_COUNTER = re.compile(r"(counter|cnt|alive)$", re.IGNORECASE)
_LARGEST = 3.4028234663852886e38
"""Of a float32, which is what the lake keeps."""
_FLOATS = {16: "e", 32: "f", 64: "d"}


@dataclass(frozen=True)
class Snapshot:
    """What the decoder knows at one instant.

    Attributes:
        values: the last valid value of each signal that is not stale, in the vehicle's units.
        at_ns: when each of them was heard, monotonic ns.
        problems: by signal, why its present value cannot be used.
        counter_errors: counter errors in the messages that driving needs, since the snapshot before.
        heard_ns: when the last wanted frame was heard, monotonic ns; None: never.
    """

    values: Mapping[str, float]
    at_ns: Mapping[str, int]
    problems: Mapping[str, str]
    counter_errors: int
    heard_ns: int | None


@dataclass
class _Value:
    value: float = math.nan
    at_ns: int | None = None
    fault: str = ""


@dataclass
class _Message:
    """One wanted message and its counter."""

    layout: MessageLayout
    signals: tuple[WantedSignal, ...]
    counter: SignalLayout | None
    needed: bool
    last: int | None = None
    values: dict[str, _Value] = field(default_factory=dict)


class Decoder:
    """Takes frames on the bus' thread, gives snapshots on any other.

    Args:
        vehicle: its ``signals`` say what is wanted; ``bus`` numbers of logs mean nothing live.
        now_ns: monotonic clock, ns.
        database: of the vehicle; None: read from its DBC files.

    Attributes:
        ids: arbitration ids that are wanted.
        counts: what happened, by reason: ``frames``, ``too_short``, ``unknown_multiplexer``, ``sentinel``,
            ``not_finite``, ``out_of_range``, ``counter_jump``, ``duplicate``, ``late``, ``other_format``.

    Raises:
        DatabaseError: a message or signal is not in the vehicle's DBC files.
        ConfigError: the vehicle's signals do not come from a CAN bus.
    """

    def __init__(
        self,
        vehicle: Vehicle,
        *,
        now_ns: Callable[[], int] = time.monotonic_ns,
        database: CanDatabase | None = None,
    ) -> None:
        self._now_ns = now_ns
        self._lock = threading.Lock()
        self.needed = tuple(dict.fromkeys((*STATE_SIGNALS, *vehicle.sampling.signals, *ENERGY_SIGNALS)))
        self._values = {name: _Value() for name in vehicle.signals}
        self._max_age_ns = {name: _max_age_ns(vehicle, name) for name in vehicle.signals}
        self._messages: dict[tuple[int, bool], list[_Message]] = {}
        for wanted in wanted_messages(vehicle, database or load_database(vehicle.dbc_files())):
            key = (wanted.layout.id, wanted.layout.extended)
            self._messages.setdefault(key, []).append(self._message(wanted))
        self.ids = frozenset(number for number, _ in self._messages)
        self.counts: dict[str, int] = {}
        self._counter_errors = 0
        self._heard_ns: int | None = None

    def _message(self, wanted: WantedMessage) -> _Message:
        counters = [one for name, one in wanted.layout.signals.items() if _COUNTER.search(name)]
        counter = counters[0] if len(counters) == 1 and not counters[0].multiplexer else None
        needed = any(signal.name in (*self.needed, SECOND_SPEED) for signal in wanted.signals)
        return _Message(wanted.layout, wanted.signals, counter, needed)

    def take(self, frame: can.Message) -> None:
        """A frame was heard. Never raises: what is wrong with it is counted."""
        messages = self._messages.get((frame.arbitration_id, frame.is_extended_id))
        with self._lock:
            if messages is None:
                self._count("other_format")  # 11 bits where the DBC says 29, or the other way round
                return
            now = self._now_ns()
            self._heard_ns = now
            self._count("frames")
            data = bytes(frame.data)
            for message in messages:
                if self._is_new(message, data):
                    for signal in message.signals:
                        self._take_signal(message.layout, signal, data, now)

    def snapshot(self) -> Snapshot:
        """The values that can be used now; counter errors start anew."""
        with self._lock:
            now = self._now_ns()
            values, at_ns, problems = {}, {}, {}
            for name, one in self._values.items():
                limit = self._max_age_ns[name]
                if one.at_ns is None:
                    problems[name] = one.fault or "not heard yet"
                elif now - one.at_ns > limit:
                    age = (now - one.at_ns) / 1e9
                    problems[name] = one.fault or f"{age:.2f} s old, at most {limit / 1e9:g} s are allowed"
                else:
                    values[name], at_ns[name] = one.value, one.at_ns
                    if one.fault:
                        problems[name] = one.fault
            errors, self._counter_errors = self._counter_errors, 0
            return Snapshot(values, at_ns, problems, errors, self._heard_ns)

    def _count(self, reason: str) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1

    def _is_new(self, message: _Message, data: bytes) -> bool:
        """Judge the message counter: a repeated or late frame says nothing new, a jump still does."""
        counter = message.counter
        if counter is None or 8 * len(data) < counter.end_bit:
            return True
        size = 1 << counter.length
        raw = int(_raw(counter, data)) % size
        last, message.last = message.last, raw
        if last is None:
            return True
        step = (raw - last) % size
        if step == 1 or (raw == 0 and last == size - 2):  # some count to one less than they could
            return True
        reason = "duplicate" if step == 0 else "late" if step > size // 2 else "counter_jump"
        self._count(reason)
        if message.needed:
            self._counter_errors += 1
        return reason == "counter_jump"

    def _take_signal(self, layout: MessageLayout, signal: WantedSignal, data: bytes, now: int) -> None:
        one = self._values[signal.name]
        found = self._physical(layout, signal, data)
        if isinstance(found, str):
            if found:
                one.fault = found
            return
        for other in signal.source.invalid_with:
            if self._is_sentinel_of(layout, other, data):
                self._count("sentinel")
                one.fault = f"{other} of the same message means `no value`"
                return
        value = self._judged(signal.name, signal.source, found)
        if isinstance(value, str):
            one.fault = value
        else:
            one.value, one.at_ns, one.fault = value, now, ""

    def _is_sentinel_of(self, layout: MessageLayout, name: str, data: bytes) -> bool:
        for message in self._messages[layout.id, layout.extended]:
            for signal in message.signals:
                if signal.name == name:
                    found = self._physical(layout, signal, data, counted=False)
                    return not isinstance(found, str) and found in signal.source.sentinels
        return False

    def _physical(
        self, layout: MessageLayout, signal: WantedSignal, data: bytes, *, counted: bool = True
    ) -> float | str:
        """The mean of its parts; a text says why there is none, an empty one that it is not in this frame."""
        total = 0.0
        for name in signal.parts:
            part = layout.signals[name]
            reason = _absence(layout, part, data)
            if reason is not None:
                if counted and reason:
                    self._count(reason)
                return f"{reason}: frame {layout.place} of {len(data)} bytes" if reason else ""
            total += part.physical(_raw(part, data))
        return total / len(signal.parts)

    def _judged(self, name: str, source: SignalSource, physical: float) -> float | str:
        """The value by the rules of ``SignalSource``, or why there is none."""
        if physical in source.sentinels:
            self._count("sentinel")
            return f"{physical:g} means `no value`"
        value = (physical * source.scale + source.offset) * source.sign
        if not abs(value) <= _LARGEST:
            self._count("not_finite")
            return f"{value} is no finite number of 32 bits"
        if source.valid is not None and not source.valid[0] <= value <= source.valid[1]:
            self._count("out_of_range")
            low, high = source.valid
            return f"{value:g} is outside the valid {low:g}..{high:g} {source.unit}"
        if source.clip is not None:
            value = min(max(value, source.clip[0]), source.clip[1])
        return value


def _max_age_ns(vehicle: Vehicle, name: str) -> int:
    periods = vehicle.guard.stale_periods * vehicle.sampling.period_ns
    return min(periods, round(vehicle.signals[name].max_age_s * 1e9))


def _absence(layout: MessageLayout, part: SignalLayout, data: bytes) -> str | None:
    """Why the part is not in the frame; "": its multiplexer says that another one is; None: it is there."""
    if part.multiplexer is not None:
        switch = layout.signals[part.multiplexer]
        reason = _absence(layout, switch, data)
        if reason is not None:
            return reason
        chosen = int(_raw(switch, data))
        if chosen not in part.multiplexer_ids:
            return "" if chosen in layout.multiplexer_ids[part.multiplexer] else "unknown_multiplexer"
    return "too_short" if 8 * len(data) < part.end_bit else None


def _raw(signal: SignalLayout, data: bytes) -> float:
    """The raw value; the payload is long enough."""
    if signal.little_endian:
        number = int.from_bytes(data, "little") >> signal.start
    else:
        number = int.from_bytes(data, "big") >> (8 * len(data) - signal.end_bit)
    number &= (1 << signal.length) - 1
    if signal.is_float:
        letter = _FLOATS[signal.length]
        value: float = struct.unpack(f"<{letter}", number.to_bytes(signal.length // 8, "little"))[0]
        return value
    if signal.signed and number >> (signal.length - 1):
        number -= 1 << signal.length
    return number
