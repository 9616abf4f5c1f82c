"""Simulated faults of the remote CAN service: for tests, chosen by name, never there unless asked for.

In words: ``KIND[:CALL][,key=value...]``, for example ``code:set_torque,value=304,count=3`` or
``hang:get_signal,after=2``. CALL is ``get_signal`` or ``set_torque``; without it both are hit. Keys:
``value``, ``after`` (calls let through first), ``count`` (calls hit, 1 unless told, or ``all``), ``at_s`` and
``for_s`` (seconds since the fault was made; with ``for_s`` all calls in that time are hit).

Instead of the call, so that nothing is done:

| kind | what happens |
|---|---|
| code | the failure with code ``value`` |
| ai_mode_off | the failure that says the driver switched the AI mode off |
| status | HTTP status ``value`` |
| html | HTTP 200 with a page of HTML, as a proxy's login page |
| hang | no answer |
| drop | the connection is closed |

After the call, which is carried out:

| kind | what happens to the answer |
|---|---|
| slow | it comes ``value`` seconds later |
| lost_answer | the connection is closed instead |
| cut | the connection is closed in the middle of it |
| truncated | its JSON ends in the middle |
| huge | ``value`` MB, 50 unless told, the length announced |
| huge_stream | the same, the length not announced |
| unknown_form | neither success nor a failure of any known form |
| not_dict | its result is a list; of set_torque: the answer is one |
| no_link | neither result nor link; get_signal only, as the links' faults and all of the window's |
| wrong_vin | it names another vin, in a link too |
| foreign_link | its link leads to another bucket |
| missing_object | its link leads to nothing |
| late_object | its link leads to an object that is uploaded ``value`` s later, 1 unless told |
| huge_object | its link leads to an object of ``value`` MB, 50 unless told |
| nan, nan_literal | a sample is the string or the bare word NaN |
| strings | all numbers are decimal strings, which is valid |
| ragged | units of 47 and 53 samples, which is valid |
| empty_unit, no_signal, few_units | a unit is empty, a signal missing, the last unit missing |
| future, past | its stamps are ``value`` s off, 3600 unless told |
"""

import json
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, cast, get_args

from tspace_core.errors import TwinError

Call = Literal["get_signal", "set_torque"]
Instead = Literal["code", "ai_mode_off", "status", "html", "hang", "drop"]
Spoilt = Literal[
    "slow",
    "lost_answer",
    "cut",
    "truncated",
    "huge",
    "huge_stream",
    "unknown_form",
    "not_dict",
    "no_link",
    "wrong_vin",
    "foreign_link",
    "missing_object",
    "late_object",
    "huge_object",
    "nan",
    "nan_literal",
    "strings",
    "ragged",
    "empty_unit",
    "no_signal",
    "few_units",
    "future",
    "past",
]
CALLS: tuple[str, ...] = get_args(Call)
INSTEAD: tuple[str, ...] = get_args(Instead)
KINDS: tuple[str, ...] = (*INSTEAD, *get_args(Spoilt))
_DEFAULTS = {
    "status": 503.0,
    "code": -1.0,
    "slow": 5.0,
    "huge": 50.0,
    "huge_stream": 50.0,
    "late_object": 1.0,
    "huge_object": 50.0,
}
_SHIFT_S = 3600.0


@dataclass(frozen=True)
class RemoteFault:
    """One simulated fault.

    Attributes:
        kind: see the module's text.
        call: the call that it hits; None: both.
        value: see the module's text; None: the kind's own.
        after: so many calls are let through first.
        count: so many calls are hit; None: all from then on.
        at_s: not before this time since it was made, s.
        for_s: it lasts so long from ``at_s`` on, s.
    """

    kind: Instead | Spoilt
    call: Call | None = None
    value: float | None = None
    after: int = 0
    count: int | None = 1
    at_s: float = 0.0
    for_s: float = math.inf

    @property
    def number(self) -> float:
        """``value``, or what the kind has where none was given."""
        return _DEFAULTS.get(self.kind, _SHIFT_S) if self.value is None else self.value


def parse_remote_fault(text: str) -> RemoteFault:
    """Read a fault from words.

    Raises:
        TwinError: an unknown kind, call or key, or a value that is no number.
    """
    head, *parts = text.split(",")
    kind, _, call = head.strip().partition(":")
    found: dict[str, object] = {"kind": kind, "call": call or None}
    for part in parts:
        key, _, value = part.strip().partition("=")
        found[key] = value
    return remote_fault(found, text)


def remote_fault(given: Mapping[str, object], shown: str | None = None) -> RemoteFault:
    """Make a fault from its fields, numbers also as text.

    Raises:
        TwinError: an unknown kind, call or key, or a value that is no number.
    """
    shown = json.dumps(given) if shown is None else shown
    kind, call = given.get("kind"), given.get("call")
    if kind not in KINDS:
        message = f"fault {shown}: no kind {kind!r}; known: {', '.join(KINDS)}"
        raise TwinError(message)
    if call is not None and call not in CALLS:
        message = f"fault {shown}: no call {call!r}; known: {', '.join(CALLS)}"
        raise TwinError(message)
    known = [field.name for field in fields(RemoteFault)][2:]
    numbers: dict[str, Any] = {}
    for key, value in given.items():
        if key in ("kind", "call"):
            continue
        if key not in known:
            message = f"fault {shown}: no key {key!r}; known: {', '.join(known)}"
            raise TwinError(message)
        numbers[key] = _number(key, value, shown)
    if "for_s" in numbers and "count" not in numbers:
        numbers["count"] = None
    return RemoteFault(cast("Instead | Spoilt", kind), cast("Call | None", call), **numbers)


def _number(key: str, value: object, shown: str) -> float | int | None:
    if key == "count" and value in ("all", None):
        return None
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    whole = key in ("after", "count")
    if math.isnan(number) or (number < 0 and key != "value") or (whole and not number.is_integer()):
        message = f"fault {shown}: {key}={value!r} is no number that it can have"
        raise TwinError(message)
    return int(number) if whole else number


class RemoteFaults:
    """The faults of one service; any thread may ask and add.

    Args:
        faults: from the start on.
        now_s: clock, s.
    """

    def __init__(
        self, faults: Iterable[RemoteFault] = (), now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._lock = threading.Lock()
        self._now_s = now_s
        self._faults: list[list[Any]] = [[fault, now_s(), 0] for fault in faults]

    def add(self, fault: RemoteFault) -> None:
        """Have one more from now on."""
        with self._lock:
            self._faults.append([fault, self._now_s(), 0])

    def clear(self) -> None:
        """Have none any more."""
        with self._lock:
            self._faults.clear()

    def hit(self, call: str) -> list[RemoteFault]:
        """The faults that hit this call; counts it."""
        with self._lock:
            return [entry[0] for entry in self._faults if self._hits(entry, call)]

    def _hits(self, entry: list[Any], call: str) -> bool:
        fault, made_s, seen = entry
        if fault.call not in (None, call):
            return False
        if not fault.at_s <= self._now_s() - made_s < fault.at_s + fault.for_s:
            return False
        entry[2] = seen + 1
        return seen >= fault.after and (fault.count is None or seen < fault.after + fault.count)
