"""The datagrams between bridge, HMI and tspace: one JSON object each (protocols of the field, local).

Known keys are ``status`` and ``data``. tspace's own bridge adds ``bridge`` (``seq``, ``time_ns``), which a
receiver uses where it is there and does not need.
"""

import json
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from tspace_core.config import Vehicle
from tspace_core.config.vehicle import ENERGY_SIGNALS, STATE_SIGNALS
from tspace_core.errors import ConfigError, LinkError

LARGEST_DATAGRAM = 2048
"""Bytes; a longer one is refused unread."""

Status = Literal["begin", "end_valid", "end_invalid", "exit"]
STATUSES: tuple[Status, ...] = get_args(Status)

LOCAL_KEYS: dict[str, str] = {
    "velocity": "velocity",
    "thrust": "pedal",
    "brake": "brake_pressure",
    "current": "A",
    "voltage": "V",
}
"""JSON key of each signal that travels in ``data``."""

EXAMPLE = 'send one JSON object, for example {"status": "begin"}'
"""What to do about a datagram that is nothing known."""

_SIGNAL_OF = {key: name for name, key in LOCAL_KEYS.items()}
_REFUSED = "refused"
_REFUSAL_START = f'{{"{_REFUSED}"'.encode()
_SHOWN = 60
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


class DatagramError(LinkError):
    """A datagram is refused.

    Attributes:
        reason: what is wrong.
        value: what was seen, shortened.
        what_to_do: what the sender should change.
        status: the valid ``status`` that stands in a datagram whose ``data`` is wrong; else None.
    """

    def __init__(self, reason: str, *, value: str, what_to_do: str, status: Status | None = None) -> None:
        super().__init__(f"{reason} (value seen: {value}); {what_to_do}")
        self.reason = reason
        self.value = value
        self.what_to_do = what_to_do
        self.status = status


@dataclass(frozen=True)
class Datagram:
    """What a datagram says.

    Attributes:
        status: the HMI's request, if there is one.
        sample: value by signal name, in the units of ``Vehicle.signals``, if there is one.
        extra: keys that nobody knows, those within ``data`` as ``data.<key>``.
        seq: running number of the sample, from tspace's own bridge.
        time_ns: ns UTC of the sample, from tspace's own bridge.
    """

    status: Status | None
    sample: dict[str, float] | None
    extra: tuple[str, ...] = ()
    seq: int | None = None
    time_ns: int | None = None


def signals_needed(vehicle: Vehicle) -> tuple[str, ...]:
    """Signals that each sample of a vehicle must have: those of its state, current and voltage.

    Raises:
        ConfigError: a state signal has no key in datagrams.
    """
    names = tuple(dict.fromkeys((*vehicle.sampling.signals, *ENERGY_SIGNALS)))
    unknown = [name for name in names if name not in LOCAL_KEYS]
    if unknown:
        message = (
            f"vehicle {vehicle.id}: sampling.signals names {unknown}, which no datagram carries; "
            f"choose from {', '.join(LOCAL_KEYS)}"
        )
        raise ConfigError(message)
    return names


def is_refusal(data: bytes) -> bool:
    """Whether this is an answer of ``encode_refusal``, which is never answered in turn."""
    return data.lstrip().startswith(_REFUSAL_START)


def parse(data: bytes, signals: Sequence[str] | None = (*STATE_SIGNALS, *ENERGY_SIGNALS)) -> Datagram:
    """Read a datagram.

    Args:
        data: its bytes.
        signals: names of the signals that a sample must have, see ``signals_needed``; None: samples are not
            looked at, so that ``data`` is a key like any that nobody knows.

    Raises:
        DatagramError: too long, no JSON object, a wrong type, a missing signal, a number that is not finite.
    """
    content = _json_object(data)
    status = _status(content)
    try:
        sample, unknown = _sample(content, signals)
    except DatagramError as error:
        error.status = status
        raise
    seq, time_ns = _stamp(content)
    known = {"status", "data"} | ({"bridge"} if seq is not None or time_ns is not None else set())
    extra = [key for key in content if key not in known]
    return Datagram(status, sample, (*extra, *unknown), seq, time_ns)


def encode_sample(
    values: Mapping[str, float],
    *,
    seq: int | None = None,
    time_ns: int | None = None,
    status: Status | None = None,
) -> bytes:
    """Write a sample.

    Args:
        values: value by signal name, finite, in the vehicle's units; names without a key are left out.
        seq: running number, one more each sample.
        time_ns: ns UTC of the sample.
        status: a request that goes with it.

    Raises:
        DatagramError: a value is not finite.
    """
    for name, value in values.items():
        if not math.isfinite(value):
            reason = f"signal {name} is not finite"
            raise DatagramError(reason, value=repr(value), what_to_do="leave the sample out until it is")
    content: dict[str, object] = {} if status is None else {"status": status}
    content["data"] = {LOCAL_KEYS[name]: value for name, value in values.items() if name in LOCAL_KEYS}
    stamp = {key: number for key, number in (("seq", seq), ("time_ns", time_ns)) if number is not None}
    if stamp:
        content["bridge"] = stamp
    return json.dumps(content, allow_nan=False).encode()


def encode_status(status: Status) -> bytes:
    """Write a request of the HMI."""
    return json.dumps({"status": status}).encode()


def encode_refusal(error: DatagramError) -> bytes:
    """Write the answer to a refused datagram: one line of JSON that a person reads in `nc -u`."""
    content = {_REFUSED: error.reason, "value": error.value, "what_to_do": error.what_to_do}
    return json.dumps(content).encode() + b"\n"


class RefusalLimiter:
    """Says whether a refusal may be answered now: a flood of garbage is not to become two floods.

    Args:
        now: seconds of a clock that never steps back.
        per_sender_s: least time between two answers to the same sender.
        per_second: most answers a second to all senders together.
    """

    _SENDERS = 256

    def __init__(self, now: Callable[[], float], *, per_sender_s: float = 1.0, per_second: int = 20) -> None:
        self._now = now
        self._per_sender_s = per_sender_s
        self._per_second = per_second
        self._last: OrderedDict[tuple[str, int], float] = OrderedDict()
        self._second_began = -math.inf
        self._answered = 0

    def allows(self, sender: tuple[str, int]) -> bool:
        """Whether this sender is answered now; if so it counts as answered."""
        now = self._now()
        if now - self._last.get(sender, -math.inf) < self._per_sender_s:
            return False
        if now - self._second_began >= 1.0:
            self._second_began, self._answered = now, 0
        if self._answered >= self._per_second:
            return False
        self._answered += 1
        self._last[sender] = now
        self._last.move_to_end(sender)
        if len(self._last) > self._SENDERS:
            self._last.popitem(last=False)
        return True


def _refuse_constant(text: str) -> float:
    reason = "a number is not finite"
    raise DatagramError(reason, value=text, what_to_do="send finite numbers only")


def _json_object(data: bytes) -> dict[str, object]:
    if len(data) > LARGEST_DATAGRAM:
        reason = f"the datagram is longer than {LARGEST_DATAGRAM} bytes"
        raise DatagramError(reason, value=f"{len(data)} bytes", what_to_do="send one sample a datagram")
    try:
        content = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        reason = f"the datagram is not UTF-8 (byte {error.start})"
        raise DatagramError(reason, value=shortened(data), what_to_do=EXAMPLE) from error
    except RecursionError as error:
        reason = "the datagram is nested too deeply"
        raise DatagramError(reason, value=shortened(data), what_to_do=EXAMPLE) from error
    except ValueError as error:
        place = f"{error.msg} at character {error.pos}" if isinstance(error, json.JSONDecodeError) else error
        reason = f"the datagram is no JSON: {place}"
        raise DatagramError(reason, value=shortened(data), what_to_do=EXAMPLE) from error
    if not isinstance(content, dict):
        reason = "the datagram is no JSON object"
        raise DatagramError(reason, value=shortened(data), what_to_do=EXAMPLE)
    return content


def _status(content: dict[str, object]) -> Status | None:
    if "status" not in content:
        return None
    for status in STATUSES:
        if content["status"] == status:
            return status
    reason, known = "status is not known", ", ".join(STATUSES)
    raise DatagramError(reason, value=shortened(content["status"]), what_to_do=f"send one of {known}")


def _sample(
    content: dict[str, object], signals: Sequence[str] | None
) -> tuple[dict[str, float] | None, tuple[str, ...]]:
    if "data" not in content:
        return None, ()
    if signals is None:
        return None, ("data",)
    values = content["data"]
    if not isinstance(values, dict):
        reason = "data is no object"
        raise DatagramError(reason, value=shortened(values), what_to_do=f"send {_form(signals)}")
    missing = [LOCAL_KEYS[name] for name in signals if LOCAL_KEYS[name] not in values]
    if missing:
        reason = f"data lacks {', '.join(missing)}"
        raise DatagramError(reason, value=shortened(values), what_to_do=f"send {_form(signals)}")
    sample = {name: _number(LOCAL_KEYS[name], values[LOCAL_KEYS[name]]) for name in signals}
    return sample, tuple(f"data.{key}" for key in values if key not in _SIGNAL_OF)


def _number(key: str, value: object) -> float:
    what_to_do = "send a number or a decimal string"
    if isinstance(value, str) and _DECIMAL.fullmatch(value.strip()):
        number = float(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    else:
        reason = f"data.{key} is no number"
        raise DatagramError(reason, value=shortened(value), what_to_do=what_to_do)
    if not math.isfinite(number):
        reason = f"data.{key} is not finite"
        raise DatagramError(reason, value=shortened(value), what_to_do=what_to_do)
    return number


def _stamp(content: dict[str, object]) -> tuple[int | None, int | None]:
    """Seq and time_ns of ``bridge``; another bridge may mean anything else by that key."""
    stamp = content.get("bridge")
    if not isinstance(stamp, dict):
        return None, None
    seq, time_ns = stamp.get("seq"), stamp.get("time_ns")
    return (seq if _is_count(seq) else None), (time_ns if _is_count(time_ns) else None)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _form(signals: Sequence[str]) -> str:
    return '{"data": {' + ", ".join(f'"{LOCAL_KEYS[name]}": number' for name in signals) + "}}"


def shortened(value: object) -> str:
    """A value as a message shows it: JSON, at most a line."""
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else json.dumps(value)
    text = text.strip()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"
