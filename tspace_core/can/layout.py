"""How the signals of a CAN message lie in its payload."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tspace_core.errors import DatabaseError

EXACT_DOUBLE = 1 << 53
"""Integers up to here have a double of their own."""


@dataclass(frozen=True, slots=True)
class SignalLayout:
    """One signal of a message.

    Attributes:
        name: the database's name.
        start: first bit as the DBC counts it: the lowest bit of a little endian signal, the highest of a
            big endian one (bit 0 is the lowest bit of byte 0).
        length: bits.
        little_endian: Intel byte order; otherwise Motorola.
        signed: two's complement.
        is_float: IEEE 754 of 16, 32 or 64 bits.
        scale: physical = raw * scale + offset; an int where the database writes one.
        offset: in the physical unit.
        unit: physical unit, "" where the database names none.
        multiplexer: signal whose value decides whether this one is there; None: always there.
        multiplexer_ids: the values of ``multiplexer`` at which it is there.
    """

    name: str
    start: int
    length: int
    little_endian: bool = True
    signed: bool = False
    is_float: bool = False
    scale: float = 1
    offset: float = 0
    unit: str = ""
    multiplexer: str | None = None
    multiplexer_ids: frozenset[int] = frozenset()

    @property
    def first_bit(self) -> int:
        """Its first bit in the order of transmission of its byte order."""
        return self.start if self.little_endian else 8 * (self.start // 8) + 7 - self.start % 8

    @property
    def end_bit(self) -> int:
        """Bits that a payload must have for the whole signal to be in it."""
        return self.first_bit + self.length

    @property
    def is_identity(self) -> bool:
        """Whether the physical value is the raw one."""
        return self.scale == 1 and self.offset == 0

    @property
    def needs_integers(self) -> bool:
        """Whether doubles cannot follow cantools, which scales whole numbers as unlimited integers."""
        if self.length > 64:
            return True
        if self.is_float or self.is_identity:
            return False
        whole = isinstance(self.scale, int) or (
            float(self.scale).is_integer() and float(self.offset).is_integer()
        )
        return whole and (1 << self.length) * abs(self.scale) + abs(self.offset) > EXACT_DOUBLE

    def physical(self, raw: float) -> float:
        """The physical value of one raw value, with the same arithmetic as cantools."""
        if self.is_identity:
            return raw
        if not self.is_float and float(self.scale).is_integer() and float(self.offset).is_integer():
            return raw * int(self.scale) + int(self.offset)
        return raw * self.scale + self.offset


@dataclass(frozen=True, slots=True)
class MessageLayout:
    """A message of the database with its signals.

    Attributes:
        id: arbitration id without flag bits.
        extended: 29-bit id.
        name: the database's name.
        length: bytes, as the database says; frames may be shorter or longer.
        signals: by name.
        multiplexer_ids: for each multiplexing signal, the values that the database knows.
        file: DBC file that it comes from.
    """

    id: int
    extended: bool
    name: str
    length: int
    signals: Mapping[str, SignalLayout]
    multiplexer_ids: Mapping[str, frozenset[int]] = field(default_factory=dict)
    file: str = ""

    @property
    def place(self) -> str:
        """The message as a person looks for it, e.g. ``0x1DB x1DB``."""
        return f"0x{self.id:X} {self.name}"

    def signal(self, name: str) -> SignalLayout:
        """The signal of that name.

        Raises:
            DatabaseError: there is none; names the nearest ones.
        """
        if name in self.signals:
            return self.signals[name]
        message = f"{self.file}: message {self.place} has no signal {name!r}; {nearest(name, self.signals)}"
        raise DatabaseError(message)


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a name that is not there."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    return f"known are: {', '.join(sorted(names)[:20]) or 'none'}"
