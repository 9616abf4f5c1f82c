"""Which signals of a message must go so that the others decode.

DBC files from the field hold signals that lie on one another, reach beyond their message, or have a float
type of an impossible length. cantools refuses the message, or at worst the whole file. Here only these
signals go. Of two that overlap the longer stays, of equally long ones the first; a multiplexing signal stays
in any case, because others depend on it.
"""

from collections.abc import Sequence

from tspace_core.can.layout import SignalLayout

FLOAT_BITS = (16, 32, 64)


def without_conflicts(
    signals: Sequence[SignalLayout], length: int
) -> tuple[list[SignalLayout], list[tuple[SignalLayout, str]]]:
    """Split the signals of a message of ``length`` bytes into those that stay and those that go.

    Returns:
        The signals that stay, in the given order, and each one that goes with the reason in words.
    """
    gone: list[tuple[SignalLayout, str]] = []
    candidates: list[SignalLayout] = []
    for signal in signals:
        reason = _impossible(signal, length)
        if reason:
            gone.append((signal, reason))
        else:
            candidates.append(signal)
    multiplexers = {signal.multiplexer for signal in candidates if signal.multiplexer}
    by_name = {signal.name: signal for signal in candidates}
    kept: list[SignalLayout] = []
    for signal in sorted(candidates, key=lambda one: (one.name not in multiplexers, -one.length)):
        missing = _missing_parent(signal, kept) if signal.name not in multiplexers else None
        rival = next((other for other in kept if _collide(signal, other, by_name)), None)
        if missing:
            gone.append((signal, f"its multiplexing signal {missing} is not there"))
        elif rival:
            gone.append((signal, f"it overlaps {rival.name}, which is longer or comes first"))
        else:
            kept.append(signal)
    return [signal for signal in signals if any(signal is one for one in kept)], gone


def occupied_bits(signal: SignalLayout) -> frozenset[int]:
    """Bits of the payload that the signal lies on; bit 0 is the lowest of byte 0."""
    if signal.little_endian:
        return frozenset(range(signal.start, signal.start + signal.length))
    first = signal.first_bit
    return frozenset(8 * (bit // 8) + 7 - bit % 8 for bit in range(first, first + signal.length))


def _impossible(signal: SignalLayout, length: int) -> str | None:
    if signal.length < 1:
        return f"its length is {signal.length} bits"
    if signal.end_bit > 8 * length:
        return f"it needs {signal.end_bit} bits, the message has {8 * length}"
    if signal.is_float and signal.length not in FLOAT_BITS:
        return f"a float has 16, 32 or 64 bits, this one {signal.length}"
    return None


def _missing_parent(signal: SignalLayout, kept: Sequence[SignalLayout]) -> str | None:
    parent = signal.multiplexer
    return parent if parent and all(parent != other.name for other in kept) else None


def _collide(one: SignalLayout, other: SignalLayout, by_name: dict[str, SignalLayout]) -> bool:
    if one.name == other.name:
        return True
    if not occupied_bits(one) & occupied_bits(other):
        return False
    mine, theirs = _conditions(one, by_name), _conditions(other, by_name)
    return all(mine[name] & theirs[name] for name in mine.keys() & theirs.keys())


def _conditions(signal: SignalLayout, by_name: dict[str, SignalLayout]) -> dict[str, frozenset[int]]:
    """Values of each multiplexer above the signal at which it is there."""
    conditions: dict[str, frozenset[int]] = {}
    step: SignalLayout | None = signal
    while step is not None and step.multiplexer is not None and step.multiplexer not in conditions:
        conditions[step.multiplexer] = step.multiplexer_ids
        step = by_name.get(step.multiplexer)
    return conditions
