"""Simulated faults of the twin's bus and VCU: for tests, chosen by name, never there unless asked for.

In words: ``KIND[:TARGET][,key=value...]``, for example ``lose_answer:SET_CAL_PAGE,after=2`` or
``hold:velocity,at_s=10,for_s=3``.

| kind | target | what happens |
|---|---|---|
| lose_command | XCP command | the VCU does not hear it |
| lose_answer | XCP command | the VCU does it and its answer is lost |
| delay | XCP command | done, answered ``value`` seconds later |
| error | XCP command | not done, answered with error code ``value`` |
| freeze | XCP command | this one and all later commands are not heard while it lasts |
| corrupt | DOWNLOAD, DOWNLOAD_NEXT, DOWNLOAD_MAX | lowest bit of the first byte written is wrong |
| hold | signal | keeps the value that it had when the fault began |
| value | signal | ``value``, held by the signal's bits; ``nan``: all bits set, the pattern for `no value` |
| counter | message | its counter stands still |
| silence | message | it is not sent; without a target nothing is sent, answers included |
"""

import math
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Literal, cast, get_args

from tspace_core.errors import TwinError
from tspace_core.twin.xcp_codes import ERROR, Command

XcpFaultKind = Literal["lose_command", "lose_answer", "delay", "error", "freeze", "corrupt"]
BusFaultKind = Literal["hold", "value", "counter", "silence"]
XCP_KINDS: tuple[str, ...] = get_args(XcpFaultKind)
BUS_KINDS: tuple[str, ...] = get_args(BusFaultKind)

_WRITES = {Command.DOWNLOAD: 2, Command.DOWNLOAD_NEXT: 2, Command.DOWNLOAD_MAX: 1}
"""Where the data begins in the commands that write."""


@dataclass(frozen=True)
class Fault:
    """One simulated fault.

    Attributes:
        kind: see the module's text.
        target: name of the XCP command, signal or message that it hits; None: any.
        after: so many commands are let through first (XCP).
        count: so many commands are hit; None: all from then on (XCP).
        at_s: not before this time since the twin's start, s.
        for_s: it lasts so long from ``at_s`` on, s.
        value: see the module's text.
    """

    kind: XcpFaultKind | BusFaultKind
    target: str | None = None
    after: int = 0
    count: int | None = 1
    at_s: float = 0.0
    for_s: float = math.inf
    value: float = 0.0


def parse_fault(text: str) -> Fault:
    """Read a fault from words.

    Raises:
        TwinError: an unknown kind or key, a value that is no number, or a command that there is not.
    """
    head, *parts = text.split(",")
    kind, _, target = head.strip().partition(":")
    if kind not in (*XCP_KINDS, *BUS_KINDS):
        message = f"fault {text!r}: no kind {kind!r}; known: {', '.join((*XCP_KINDS, *BUS_KINDS))}"
        raise TwinError(message)
    if target and kind in XCP_KINDS and target not in Command.__members__:
        message = f"fault {text!r}: no XCP command {target!r}; known: {', '.join(Command.__members__)}"
        raise TwinError(message)
    numbers: dict[str, float | int | None] = {}
    known = [field.name for field in fields(Fault)][2:]
    for part in parts:
        key, _, value = part.strip().partition("=")
        if key not in known:
            message = f"fault {text!r}: no key {key!r}; known: {', '.join(known)}"
            raise TwinError(message)
        try:
            if key in ("after", "count"):
                numbers[key] = None if (key, value) == ("count", "all") else int(value)
            else:
                numbers[key] = float(value)
        except ValueError as error:
            message = f"fault {text!r}: {key}={value!r} is no number"
            raise TwinError(message) from error
    return Fault(cast("XcpFaultKind | BusFaultKind", kind), target or None, **numbers)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Answers:
    """What the VCU sends for one packet.

    Attributes:
        packets: in their order.
        delay_s: how much later than at once.
    """

    packets: list[bytes]
    delay_s: float = 0.0


class Faults:
    """The faults of one twin; any thread may ask and add.

    Args:
        faults: from the start on.
        elapsed_s: time since the twin's start, s.
    """

    def __init__(self, faults: Iterable[Fault] = (), elapsed_s: Callable[[], float] = lambda: 0.0) -> None:
        self._lock = threading.Lock()
        self._elapsed_s = elapsed_s
        self._faults = list(faults)
        self._seen: dict[int, int] = {}
        self._held: dict[str, float] = {}

    def add(self, fault: Fault) -> None:
        """Have one more from now on."""
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        """Have none any more."""
        with self._lock:
            self._faults.clear()
            self._seen.clear()
            self._held.clear()

    def answer(self, handle: Callable[[bytes], list[bytes]], packet: bytes) -> Answers:
        """Let ``handle`` answer an XCP packet, as far as the faults let it."""
        with self._lock:
            if not self._faults:
                hits: list[Fault] = []
            else:
                name = _command_name(packet)
                hits = [fault for number, fault in enumerate(self._faults) if self._hit(number, fault, name)]
        delay_s = 0.0
        lost = False
        for fault in hits:
            if fault.kind in ("lose_command", "freeze"):
                return Answers([])
            if fault.kind == "error":
                return Answers([bytes([ERROR, int(fault.value) & 0xFF])])
            if fault.kind == "corrupt":
                packet = _corrupted(packet)
            lost |= fault.kind == "lose_answer"
            delay_s += fault.value if fault.kind == "delay" else 0.0
        answers = handle(packet)
        return Answers([] if lost else answers, delay_s)

    def signal(self, name: str, value: float) -> float:
        """The value that a signal is sent with; NaN where all its bits are to be set."""
        with self._lock:
            if not self._faults:
                return value
            for fault in self._faults:
                if fault.kind == "value" and self._lasts(fault, name):
                    return fault.value
            if any(fault.kind == "hold" and self._lasts(fault, name) for fault in self._faults):
                return self._held.setdefault(name, value)
            self._held.pop(name, None)
            return value

    def counter_stands(self, message: str) -> bool:
        """Whether a message's counter does not go on."""
        return self._any("counter", message)

    def silent(self, message: str | None) -> bool:
        """Whether a message is not sent; None: whether nothing is."""
        return self._any("silence", message)

    def _any(self, kind: BusFaultKind, name: str | None) -> bool:
        with self._lock:
            return any(fault.kind == kind and self._lasts(fault, name) for fault in self._faults)

    def _lasts(self, fault: Fault, name: str | None) -> bool:
        """Whether it hits that name now."""
        if fault.target is not None and fault.target != name:
            return False
        return fault.at_s <= self._elapsed_s() < fault.at_s + fault.for_s

    def _hit(self, number: int, fault: Fault, command: str) -> bool:
        """Whether an XCP fault hits this command; counts it."""
        if fault.kind not in XCP_KINDS:
            return False
        begun = self._seen.get(number, 0) > fault.after
        if fault.kind == "freeze" and begun:
            return self._lasts(fault, fault.target)
        if not self._lasts(fault, command):
            return False
        seen = self._seen[number] = self._seen.get(number, 0) + 1
        if fault.kind == "freeze" or fault.count is None:
            return seen > fault.after
        return fault.after < seen <= fault.after + fault.count


def _command_name(packet: bytes) -> str:
    try:
        return Command(packet[0]).name
    except (ValueError, IndexError):
        return ""


def _corrupted(packet: bytes) -> bytes:
    place = _WRITES.get(packet[0]) if packet else None  # type: ignore[call-overload]
    if place is None or len(packet) <= place:
        return packet
    return packet[:place] + bytes([packet[place] ^ 1]) + packet[place + 1 :]
